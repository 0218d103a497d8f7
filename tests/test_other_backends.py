"""Apple's GPUs and private backends, on stand-ins whose generators are the CPU's.

They have no queue for what waits until their start: MPS is always there, and a private backend
counts only once it has started.
"""

import subprocess
import sys
import textwrap
import types

import pytest

torch = pytest.importorskip("torch")

from rngscope import RNGState, _present, rng_scope, seed_all, seeded  # noqa: E402


@pytest.fixture
def mps(monkeypatch):
    """Return the generator of a stand-in for Apple's GPU."""
    generator = torch.Generator().manual_seed(5)
    with monkeypatch.context() as patch:
        patch.setattr(_present, "_kept", _present._Kept())
        patch.setattr(torch._C, "_has_mps", True)
        patch.setattr(torch.mps, "_get_default_mps_generator", lambda: generator)
        yield generator


def seeded_draw(seed):
    return torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()


def test_mps_is_seeded_and_put_back(mps, unchanged):
    """Laws 1 and 2 on a device whose generator needs no start."""
    before = mps.get_state().tolist()
    with rng_scope(42):
        assert torch.rand(1, generator=mps).item() == seeded_draw(42)
        with rng_scope(43, sources=["mps"], devices=[0]):
            assert torch.rand(1, generator=mps).item() == seeded_draw(43)
        with rng_scope(44, devices=[]):
            assert torch.rand(1, generator=mps).item() != seeded_draw(44)
    assert mps.get_state().tolist() == before
    with pytest.raises(ValueError, match="unknown device 'mps:1'; this process has 1 mps"):
        with rng_scope(42, devices=[1]):
            pass
    assert mps.get_state().tolist() == before


def test_a_body_that_suspends_keeps_its_stream_on_mps(mps, unchanged):
    """And the caller has its own in between."""

    @seeded(42)
    def body():
        for _ in range(3):
            yield torch.rand(1, generator=mps).item()

    reference = torch.Generator().manual_seed(42)
    expected = [torch.rand(1, generator=reference).item() for _ in range(3)]
    drawn = []
    for number in body():
        drawn.append(number)
        torch.rand(1, generator=mps)
    assert drawn == expected
    fresh = torch.Generator().manual_seed(5)
    for _ in range(3):
        torch.rand(1, generator=fresh)
    assert mps.get_state().tolist() == fresh.get_state().tolist()


def test_the_state_of_mps_is_captured_and_restored(mps, unchanged):
    """Also as plain values."""
    state = RNGState.from_state_dict(RNGState.capture().state_dict())
    first = torch.rand(1, generator=mps).item()
    state.restore()
    assert torch.rand(1, generator=mps).item() == first
    with rng_scope(state):
        assert torch.rand(1, generator=mps).item() == first
    with rng_scope():
        seed_all(42)
        assert torch.rand(1, generator=mps).item() == seeded_draw(42)


def test_a_private_backend_that_is_only_an_attribute_of_torch_is_said_not_to_be_seeded(monkeypatch):
    """Without torch._register_device_module there is no torch.<name> in sys.modules."""
    name = torch._C._get_privateuse1_backend_name()
    module = types.ModuleType(name)
    module._is_in_bad_fork = module.is_initialized = lambda: False
    module.manual_seed_all = module.get_rng_state = module.set_rng_state = None
    monkeypatch.setattr(torch, name, module, raising=False)
    monkeypatch.setattr("rngscope.sources.queue._warned", set())
    with rng_scope(), pytest.warns(RuntimeWarning, match=f"{name} has not started and is not"):
        seed_all(42)


PRIVATE = """
import random, types, warnings
import torch

random.seed(1)
generators = [torch.Generator().manual_seed(10 + index) for index in range(2)]
module = types.ModuleType("acme")
module.is_started = False
module._is_in_bad_fork = lambda: False
module.device_count = lambda: 2
module.current_device = lambda: 0

def index_of(device):
    return device if isinstance(device, int) else torch.device(device).index or 0

def manual_seed_all(seed):
    for generator in generators:
        generator.manual_seed(seed)

module.manual_seed_all = manual_seed_all
module.manual_seed = lambda seed: generators[0].manual_seed(seed)
module.get_rng_state = lambda device="acme": generators[index_of(device)].get_state()
module.set_rng_state = lambda state, device="acme": generators[index_of(device)].set_state(state)
SHAPE
# What a C++ extension brings for it.
real = torch.Generator
torch.Generator = lambda device="cpu": real()

from rngscope import RNGState, rng_scope, seed_all

def states():
    found = [generator.get_state().tolist() for generator in generators]
    return [random.getstate(), torch.get_rng_state().tolist(), *found]

def draw(index):
    return torch.rand(1, generator=generators[index]).item()

def seeded_draw(seed):
    return torch.rand(1, generator=real().manual_seed(seed)).item()

def registered():
    torch.utils.rename_privateuse1_backend("acme")
    torch._register_device_module("acme", module)

with rng_scope(42):
    pass
functions = module.manual_seed_all
del module.manual_seed_all
registered()
# They may come later than the module.
with rng_scope(1):
    pass
module.manual_seed_all = functions
before = states()
if IS_LATE:
    # Before it starts it has no generators that anybody could use.
    for _ in range(3):
        with rng_scope(42):
            assert draw(0) != seeded_draw(42)
    assert states() != before
    assert "acme" not in RNGState.capture().state_dict()["sources"]
module.is_started = True
before = states()
for _ in range(3):
    with rng_scope(42):
        assert [draw(0), draw(1)] == [seeded_draw(42)] * 2
        with rng_scope(43, sources=["acme"], devices=[1]):
            assert draw(1) == seeded_draw(43)
            assert draw(0) != seeded_draw(43)
        middle = states()
        try:
            with rng_scope(43, sources=["acme"], devices=[2]):
                raise AssertionError("there is no such device")
        except ValueError as error:
            assert "unknown device 'acme:2'; this process has 2 acme device(s)" in str(error)
        assert states() == middle
    assert states() == before
state = RNGState.from_state_dict(RNGState.capture().state_dict())
first = [draw(0), draw(1)]
state.restore()
assert states() == before
with rng_scope(state):
    assert [draw(0), draw(1)] == first
assert states() == before
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for whole, part in ((rng_scope(1), rng_scope(2, devices=[0])),) * 2:
        whole.__enter__()
        part.__enter__()
        whole.__exit__(None, None, None)
        part.__exit__(None, None, None)
        assert states() == before
with rng_scope(independent=True, seed=42):
    assert draw(0) != draw(1)
with rng_scope():
    seed_all(42)
    assert draw(1) == seeded_draw(42)
assert states() == before
"""
SHAPES = {
    "generators": "module.default_generators = generators",
    "functions": "",
    "functions, with a start": "module.is_initialized = lambda: module.is_started",
    "generators, with a start": "module.default_generators = generators\n"
    "module.is_initialized = lambda: module.is_started",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_private_backend_is_seeded_and_put_back(shape):
    """As soon as it has started, which shows nowhere but in its own answer."""
    program = PRIVATE.replace("SHAPE", SHAPES[shape]).replace("IS_LATE", str("start" in shape))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
