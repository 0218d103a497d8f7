"""``checkpoint_context_fn``: a function that is recomputed draws what it drew before."""

import functools
import random
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from by_hand import public_states  # noqa: E402
from torch.utils.checkpoint import (  # noqa: E402
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from rngscope import RNGState, RNGStream, checkpoint_context_fn, rng_scope, seeded  # noqa: E402

#: Of its weights the gradients are compared.
WEIGHT = torch.linspace(-1, 1, 36).reshape(6, 6).requires_grad_()
save_matrix_products = functools.partial(
    create_selective_checkpoint_contexts, [torch.ops.aten.mm.default]
)


def block(x):
    """Draw from every source, with what the backward pass needs made of each draw."""
    x = torch.nn.functional.dropout(torch.tanh(x @ WEIGHT), 0.5)
    x = torch.sin(x * torch.from_numpy((np.random.rand(6, 6) > 0.3) * 1.5).float())
    x = torch.cos(x + random.gauss(0, 1)) * float(np.random.standard_normal())
    return torch.sin(x * torch.randn(6, 6) * random.random())


def results(call, backward=None):
    """Return output and gradients, to the bit, and where the RNGs stand after the forward pass.

    The backward pass must move no RNG.
    """
    WEIGHT.grad = None
    x = torch.full((6, 6), 0.5, requires_grad=True)
    with rng_scope(3):
        y = call(x)
        state = RNGState.capture()
    before = public_states()
    (backward or (lambda loss: loss.backward()))(y.sum())
    assert public_states() == before
    return [t.detach().numpy().tobytes() for t in (y, x.grad, WEIGHT.grad)], state


def checkpointed(function=block, context_fn=checkpoint_context_fn, **options):
    options = {"use_reentrant": False, "context_fn": context_fn, **options}
    return lambda x: checkpoint(function, x, **options)


def twice(function):
    return lambda x: function(function(x))


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("early_stop", [True, False])
def test_gradients_are_those_without_checkpointing(preserve, early_stop, unchanged):
    """Two blocks, bit for bit, however torch is told to go about it."""
    with set_checkpoint_early_stop(early_stop):
        made = results(twice(checkpointed(preserve_rng_state=preserve)))
    assert made == results(twice(block))


def test_torch_by_itself_gets_them_wrong():
    """What this is about: torch replays its own generators only."""
    wanted = results(block)
    WEIGHT.grad = None
    x = torch.full((6, 6), 0.5, requires_grad=True)
    with rng_scope(3):
        y = checkpoint(block, x, use_reentrant=False)
    y.sum().backward()
    assert y.detach().numpy().tobytes() == wanted[0][0]
    assert x.grad.numpy().tobytes() != wanted[0][1]


def test_under_selective_checkpointing_too(unchanged):
    """context_fn= takes the one that saves some results; it saves them."""
    count = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            count.append(function)
            return function(*args, **(kwargs or {}))

    def products_with(context_fn):
        del count[:]

        def backward(loss):
            with Counting():
                loss.backward()

        assert results(checkpointed(context_fn=context_fn), backward) == results(block)
        return count.count(torch.ops.aten.mm.default)

    selective = functools.partial(checkpoint_context_fn, context_fn=save_matrix_products)
    assert products_with(checkpoint_context_fn) == 3
    assert products_with(selective) == 2


def test_nested_checkpoints(unchanged):
    """A checkpointed function that calls one, three deep."""
    inner = checkpointed()
    middle = checkpointed(lambda x: block(inner(x)))
    outer = checkpointed(lambda x: middle(block(x)) * random.random())
    plain = results(lambda x: block(block(block(x))) * random.random())
    assert results(outer) == plain


def test_every_recomputation_is_the_same(unchanged):
    """retain_graph: the graph is gone through three times."""

    def backward(loss):
        for _ in range(2):
            loss.backward(retain_graph=True)
        loss.backward()

    assert results(checkpointed(), backward) == results(block, backward)


def test_the_backward_pass_may_run_in_another_scope(unchanged):
    """What the program draws around it, and in it, stays what it was."""

    def backward(loss):
        with rng_scope(99):
            first = random.random()
            loss.backward()
            second = random.random()
        with rng_scope(99):
            assert [first, second] == [random.random(), random.random()]

    assert results(checkpointed(), backward) == results(block, backward)


def test_a_function_with_a_scope_in_it(unchanged):
    """A scope, and a decorated function, within the checkpointed one."""

    @seeded(5)
    def noise():
        return random.random()

    def function(x):
        with rng_scope(4):
            x = torch.sin(x * random.random())
        return torch.sin(block(x) * noise())

    assert results(checkpointed(function)) == results(function)


@pytest.mark.parametrize("is_open_around_backward", [False, True])
def test_a_stream_within_it_goes_on_from_where_it_stood(is_open_around_backward, unchanged):
    """The recomputation draws the same numbers, and the stream stands where it did."""

    def draws(stream, call):
        @stream
        def scaled(x):
            return torch.sin(x * torch.rand(6, 6) * random.random())

        def function(x):
            with stream:
                x = torch.sin(x * random.random())
            return scaled(block(x))

        def backward(loss):
            if is_open_around_backward:
                with stream:
                    random.random()
                    loss.backward()
                    after.append(random.random())
            else:
                loss.backward()

        after = []
        made = results(twice(call(function)), backward)
        return made, after, stream.state_dict()

    wanted = draws(RNGStream(7), lambda function: function)
    assert draws(RNGStream(7), checkpointed) == wanted
    loaded = RNGStream(1)
    loaded.load_state_dict(RNGStream(7).state_dict())
    assert draws(loaded, checkpointed) == wanted


def test_a_stream_around_it_is_replayed_as_what_it_is(unchanged):
    """Its draws are those of the RNGs: a stream around the call, as version 0.1 advised."""

    def run(call):
        stream = RNGStream(7)

        def forward(x):
            with stream:
                return call(call(x))

        return results(forward), stream.state_dict()

    assert run(checkpointed()) == run(block)


def test_a_stream_both_around_and_within_it_is_said(unchanged):
    """Then the RNGs would have to go on where the stream stopped: a RuntimeWarning, once."""
    stream = RNGStream(7)

    def function(x):
        for _ in range(2):
            with stream:
                x = torch.sin(x * random.random())
        return x

    x = torch.ones(2, requires_grad=True)
    message = "RNGStream seed=7.*only in the function"
    with stream, pytest.warns(RuntimeWarning, match=message) as said:
        y = checkpointed(function)(x)
    assert len(said) == 1
    y.sum().backward()


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_a_stream_of_another_thread_is_let_alone(unchanged):
    """What runs beside the function is not part of it."""
    import threading

    stream = RNGStream(7)

    def use():
        with stream:
            random.random()

    def function(x):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        return torch.sin(x * 2)

    x = torch.ones(2, requires_grad=True)
    y = checkpointed(function)(x)
    y.sum().backward()
    # Once in the forward pass and once in the recomputation.
    with stream:
        third = random.random()
    with rng_scope(7):
        assert [random.random() for _ in range(3)][2] == third


def test_generators_of_ones_own(unchanged):
    """generators= are replayed, and stand afterwards where they stood."""
    own = {"a": None, "b": None}

    def function(x):
        x = torch.sin(x * float(own["a"].random()))
        return torch.sin(x * torch.rand(6, 6, generator=own["b"]) @ WEIGHT)

    def run(is_checkpointed):
        own["a"], own["b"] = np.random.default_rng(1), torch.Generator().manual_seed(1)
        context_fn = functools.partial(checkpoint_context_fn, generators=iter(own.values()))
        call = checkpointed(function, context_fn) if is_checkpointed else function
        return results(call), own["a"].random(), torch.rand(1, generator=own["b"]).item()

    assert run(True) == run(False)


def test_only_the_sources_that_are_named_are_replayed(unchanged):
    """The others go on."""
    drawn = []

    def function(x):
        drawn.append((random.random(), float(np.random.rand())))
        return torch.sin(x * 2)

    context_fn = functools.partial(checkpoint_context_fn, sources=iter(["python"]), devices=[])
    x = torch.ones(2, requires_grad=True)
    with rng_scope(3):
        checkpointed(function, context_fn)(x).sum().backward()
    [(python, numpy), (python_again, numpy_again)] = drawn
    assert python == python_again and numpy != numpy_again


def test_another_bit_generator_than_in_the_forward_pass(unchanged):
    """It is replayed on one of its kind, and the program's is back afterwards."""

    def backward(loss):
        before = np.random.get_bit_generator()
        np.random.set_bit_generator(np.random.PCG64(1))
        own = np.random.get_bit_generator()
        try:
            state = own.state
            loss.backward()
            assert np.random.get_bit_generator() is own and own.state == state
        finally:
            np.random.set_bit_generator(before)

    x = torch.full((6, 6), 0.5, requires_grad=True)
    wanted, _ = results(block)
    WEIGHT.grad = None
    with rng_scope(3):
        y = checkpointed()(x)
    with rng_scope():
        backward(y.sum())
    assert x.grad.numpy().tobytes() == wanted[1]


def test_an_exception_leaves_nothing_behind(unchanged):
    """In the forward pass, and in the recomputation."""
    fails = []
    stream = RNGStream(7)

    def function(x):
        with stream:
            y = torch.sin(x * random.random())
            if fails:
                raise OSError("no")
        return torch.sin(y)

    x = torch.ones(2, requires_grad=True)
    y = checkpointed(function)(x)
    fails.append(True)
    before, place = public_states(), stream.state_dict()
    with pytest.raises(OSError):
        y.sum().backward()
    assert public_states() == before and stream.state_dict() == place
    with rng_scope(), pytest.raises(OSError):
        checkpointed(function)(x)
    from rngscope import _stream_plan

    assert _stream_plan.recordings == []


def test_without_gradients_nothing_is_captured(unchanged):
    """torch does not enter the contexts then."""
    with rng_scope(3), torch.no_grad():
        y = checkpointed()(torch.full((6, 6), 0.5))
    assert y.numpy().tobytes() == results(block)[0][0]


@pytest.mark.parametrize(
    "options, error",
    [
        ({"sources": ["jax"]}, ValueError),
        ({"devices": [-1]}, ValueError),
        ({"generators": [5]}, TypeError),
        ({"context_fn": 5}, TypeError),
    ],
)
def test_wrong_options_are_errors_of_the_forward_pass(options, error, unchanged):
    """Not of the backward pass, far away."""
    with pytest.raises(error):
        checkpointed(context_fn=functools.partial(checkpoint_context_fn, **options))(
            torch.ones(6, 6, requires_grad=True)
        )


def test_an_accelerator_that_starts_within_it_is_said(monkeypatch, unchanged):
    """RuntimeWarning: what it draws there cannot be replayed."""
    from rngscope import _checkpoint

    class Late:
        name = "cuda"
        found = [[], ["a device"]]

        def cells(self):
            return self.found.pop(0)

    forward, _ = checkpoint_context_fn(sources=[])
    forward._begin.__self__.chosen = (Late(),)
    with pytest.warns(RuntimeWarning, match="'cuda' started within a checkpointed function"):
        with forward:
            pass
    assert _checkpoint.recordings == []


COMPILED = """
import functools, random, sys, warnings
import numpy as np, torch
import torch._inductor.config
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from rngscope import RNGState, checkpoint_context_fn, rng_scope

torch._inductor.config.fallback_random = True
warnings.simplefilter("ignore")

def with_torch(x):
    return torch.nn.functional.dropout(x.sin(), 0.5).cos()

def with_all(x):
    scale = random.random() * float(np.random.rand())
    return (torch.nn.functional.dropout(x.sin(), 0.5) * scale).cos()

def results(call):
    x = torch.ones(8, requires_grad=True)
    with rng_scope(1):
        y = call(x)
    before = RNGState.capture()
    y.sum().backward()
    assert RNGState.capture() == before
    return y.detach(), x.grad

sin = functools.partial(create_selective_checkpoint_contexts, [torch.ops.aten.sin.default])
context_fns = [checkpoint_context_fn, functools.partial(checkpoint_context_fn, context_fn=sin)]
for function in (with_torch, with_all):
    wanted = results(function)
    for context_fn in context_fns:
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x: checkpoint(function, x, use_reentrant=False, context_fn=context_fn),
            backend=sys.argv[1],
        )
        assert all(map(torch.allclose, results(compiled), wanted)), (function, context_fn)
    assert all(map(torch.allclose, results(
        lambda x: checkpoint(torch.compile(function, backend=sys.argv[1]), x,
                             use_reentrant=False, context_fn=checkpoint_context_fn)
    ), wanted)), function
"""


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_under_torch_compile(backend):
    """Around the checkpoint and within it: the gradients of eager code, and nothing moves."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, backend], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_traced_it_leaves_the_graph_to_torch(unchanged):
    """make_fx with a gradient in it takes dispatch modes only, and those it gets."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def gradient(x):
        x = x.detach().requires_grad_()
        y = checkpointed(lambda x: torch.sin(x).cos(), context_fn)(x)
        return torch.autograd.grad(y.sum(), x)[0]

    both = functools.partial(checkpoint_context_fn, context_fn=save_matrix_products)
    for context_fn in (checkpoint_context_fn, both):
        x = torch.ones(3)
        assert torch.allclose(make_fx(gradient)(x)(x), gradient(x))
