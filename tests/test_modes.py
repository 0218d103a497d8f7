"""Law 9: modes of torch change nothing of the other laws."""

import contextlib
import json
import random
import subprocess
import sys
import textwrap
import warnings

import pytest
from by_hand import public_states

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from rngscope import (  # noqa: E402
    RNGState,
    RNGStream,
    _order,
    assert_rng_unchanged,
    rng_scope,
    seed_all,
    seeded,
)

GENERATOR = torch.default_generator


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def fake(allow):
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=allow)


@contextlib.contextmanager
def default_device(name):
    before = torch.get_default_device()
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None if before.type == "cpu" else before)


@contextlib.contextmanager
def deterministic():
    mode = torch._C._get_deterministic_algorithms()
    torch._C._set_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(mode, warn_only=False)


MODES = {
    "nothing": contextlib.nullcontext,
    "device meta": lambda: torch.device("meta"),
    "device cpu": lambda: torch.device("cpu"),
    "default device meta": lambda: default_device("meta"),
    "fake tensors": lambda: fake(False),
    "fake tensors and others": lambda: fake(True),
    "dispatch mode": Dispatch,
    "function mode": Function,
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "deterministic algorithms": deterministic,
}
each_mode = pytest.mark.parametrize("mode", MODES)


def public_torch():
    import ctypes

    state = GENERATOR.get_state()
    with torch._C.DisableTorchFunction():
        return GENERATOR.initial_seed(), ctypes.string_at(state.data_ptr(), state.numel())


def states():
    """The exact state of every source, whatever mode is on."""
    bit_generator = np.random.get_bit_generator()
    legacy = np.random.get_state()
    return random.getstate(), bit_generator, legacy[1].tobytes(), legacy[2:], public_torch()


def advance():
    """Move every source; return where each stood before."""
    seen = states()
    random.gauss(0, 1)
    np.random.standard_normal(3)
    GENERATOR.manual_seed(GENERATOR.initial_seed() // 3 + 1)
    return seen[:1] + seen[2:]


def program():
    """Exercise the laws once; return everything that was seen."""
    seen = []
    outer, is_open = states(), list(_order.lives)
    with rng_scope(42):
        seen.append(advance())
        with rng_scope(43, independent=True):
            seen.append(advance())
        seen.append(advance())
    assert states() == outer
    # Nothing by halves, and exceptions.
    with contextlib.suppress(ZeroDivisionError), rng_scope(44):
        seen.append(advance())
        1 / 0
    assert states() == outer
    for bad in (-1, 1.5):
        with pytest.raises((TypeError, ValueError)):
            rng_scope(bad)
    # Any order.
    one, two = rng_scope(1), rng_scope(2)
    one.__enter__()
    two.__enter__()
    seen.append(advance())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.__exit__(None, None, None)
    seen.append(advance())
    two.__exit__(None, None, None)
    assert states() == outer and _order.lives == is_open

    # Bodies that suspend.
    @seeded(5)
    def body():
        for _ in range(3):
            with rng_scope(6):
                seen.append(advance())
                yield
            seen.append(advance())

    for _ in body():
        assert states() == outer
    # States, streams and checks.
    stream = RNGStream(7)
    for _ in range(2):
        with stream:
            seen.append(advance())
    saved = json.loads(json.dumps(stream.state_dict()))
    other = RNGStream(0)
    other.load_state_dict(saved)
    with stream:
        again = advance()
    with other:
        assert advance() == again
    seen.append(again)
    with rng_scope(8):
        state = RNGState.capture()
        seen.append(state.fingerprint())
        advance()
        assert state.differs_from(RNGState.capture()) == ["python", "numpy", "torch"]
        loaded = RNGState.from_state_dict(json.loads(json.dumps(state.state_dict())))
        assert loaded == state and hash(loaded) == hash(state)
        loaded.restore()
        assert RNGState.capture() == state
        advance()
        with rng_scope(state):
            seen.append(advance())
        seed_all(9)
        seen.append(advance())
        mine = torch.Generator().manual_seed(3)
        with rng_scope(4, generators=[mine]):
            assert mine.initial_seed() == 4
        assert mine.initial_seed() == 3
        with rng_scope(10, deterministic=True):
            assert torch._C._get_deterministic_algorithms()
            seen.append(advance())
    with assert_rng_unchanged(), rng_scope(1):
        advance()
    with pytest.raises(AssertionError, match="'python', 'numpy', 'torch'"), rng_scope():
        with assert_rng_unchanged():
            advance()
    assert states() == outer
    return seen


@pytest.fixture(scope="module")
def usual():
    """What the program sees without any mode."""
    with rng_scope():
        return program()


@each_mode
def test_a_program_of_all_laws_sees_the_same_under_every_mode(mode, path, usual, unchanged):
    """State by state, byte by byte, it is the same program."""
    with MODES[mode]():
        assert program() == usual


@each_mode
def test_a_mode_that_begins_or_ends_inside_changes_nothing(mode, unchanged):
    """Entered before it and left inside of it, or the other way round."""
    with rng_scope(42):
        want = advance()
    with MODES[mode]():
        scope = rng_scope(42)
        scope.__enter__()
    assert advance() == want
    scope.__exit__(None, None, None)
    scope.__enter__()
    with MODES[mode]():
        assert advance() == want
        scope.__exit__(None, None, None)


@pytest.mark.parametrize("mode", ["device cpu", "dispatch mode", "function mode", "no grad"])
def test_under_modes_that_compute_torch_draws_the_known_numbers(mode, unchanged):
    """Where torch draws at all, it draws what the seed gives."""
    want = torch.rand(3, generator=torch.Generator().manual_seed(42)).tolist()
    with MODES[mode](), rng_scope(42):
        assert torch.rand(3).tolist() == want


# Function transforms ----------------------------------------------------------------------


@pytest.mark.parametrize("randomness", ["error", "different", "same"])
def test_under_vmap_nothing_changes(randomness, usual, unchanged):
    """The program runs in the mapped function; its draws follow vmap's own rule."""
    seen = []

    def function(x):
        seen.append(program())
        if randomness != "error":
            with rng_scope(42):
                return x + torch.rand(3)
        return x

    result = torch.func.vmap(function, randomness=randomness)(torch.zeros(2, 3))
    assert seen == [usual]
    if randomness == "same":
        want = torch.rand(3, generator=torch.Generator().manual_seed(42))
        assert torch.equal(result, want.expand(2, 3))
    if randomness == "different":
        with rng_scope(42):
            want = torch.func.vmap(lambda x: x + torch.rand(3), randomness="different")
            assert torch.equal(result, want(torch.zeros(2, 3)))
        assert not torch.equal(result[0], result[1])


@pytest.mark.parametrize("levels", [1, 2])
def test_under_grad_nothing_changes(levels, usual, unchanged):
    """Gradients are taken through a scope as through any other code."""
    seen = []

    def function(x):
        seen.append(program())
        with rng_scope(42):
            return (x**3 * torch.rand(())).sum()

    transformed = function
    for _ in range(levels):
        transformed = torch.func.grad(transformed)
    factor = torch.rand((), generator=torch.Generator().manual_seed(42))
    x = torch.tensor(2.0)
    assert torch.allclose(transformed(x), (3 * x**2 if levels == 1 else 6 * x) * factor)
    assert seen == [usual]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
# From torch 2.14 on it is one of these.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_under_other_transforms_nothing_changes(usual, unchanged):
    """jvp, vjp, jacrev and functionalize run the same program."""
    seen = []

    def function(x):
        seen.append(program())
        return x * 2

    x = torch.ones(3)
    torch.func.jvp(function, (x,), (x,))
    torch.func.vjp(function, x)
    torch.func.jacrev(function)(x)
    torch.func.functionalize(function)(x)
    assert seen == [usual] * 4


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_checkpointed_functions_draw_the_same_when_they_are_run_again(
    use_reentrant, inside, unchanged
):
    """``torch.utils.checkpoint`` saves RNG states itself; scopes inside and around agree."""
    from torch.utils.checkpoint import checkpoint

    masks = []

    def function(x):
        scope = rng_scope(42) if inside else contextlib.nullcontext()
        with scope:
            masks.append(torch.rand(4))
        with rng_scope(43):
            masks.append(torch.rand(4))
        return x * masks[-2] * masks[-1]

    x = torch.ones(4, requires_grad=True)
    with rng_scope(42):
        before = public_states()
        output = checkpoint(function, x, use_reentrant=use_reentrant)
        after = public_states()
        output.sum().backward()
        assert public_states() == after
        assert (after == before) == inside
    first, second, third, fourth = masks
    assert torch.equal(first, third) and torch.equal(second, fourth)
    assert torch.equal(x.grad, first * second)


# A private backend ------------------------------------------------------------------------

PRIVATE = """
import random, types, warnings
import torch

# A backend that has a module, but none of the functions for RNGs.
torch.utils.rename_privateuse1_backend("nameless")
torch._register_device_module("nameless", types.ModuleType("nameless"))

from rngscope import RNGState, rng_scope, seed_all, seeded
before = random.getstate(), torch.get_rng_state().tolist()
with rng_scope(42):
    first = random.random(), torch.rand(3).tolist()
    with rng_scope(43, sources=["nameless", "torch"]):
        torch.rand(3)
    state = RNGState.capture()
    seed_all(42)
    assert (random.random(), torch.rand(3).tolist()) == first
    state.restore()
assert (random.getstate(), torch.get_rng_state().tolist()) == before
assert first[1] == torch.rand(3, generator=torch.Generator().manual_seed(42)).tolist()
"""


def test_a_private_backend_without_rng_functions_is_passed_over():
    """Under ``-W error`` too: torch.manual_seed would raise there before the CPU is seeded."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PRIVATE)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
