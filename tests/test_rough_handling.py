"""What a program does in the middle of an entry, an exit or an import."""

import gc
import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import time
import warnings

import pytest

import rngscope
from rngscope import RNGState, RNGStream, _interrupts, _not_covered, rng_scope, seeded
from rngscope._interrupts import TimedLock
from rngscope.sources import SOURCES
from rngscope.sources.cell import SeededStates

BY_NAME = {source.name: source for source in SOURCES}


def run(code, *folders):
    """Run a program of its own, in which nothing is imported yet."""
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", ["python", "torch"])
def test_a_thread_that_draws_does_not_spoil_the_image_of_a_seed(name):
    """A seed used again draws what the library would, whoever drew when it was kept."""
    if name == "torch":
        torch = pytest.importorskip("torch")
        draw, seed = (lambda: torch.rand(8)), torch.manual_seed
    else:
        draw, seed = random.random, random.seed
    stop = threading.Event()

    def keep_drawing():
        while not stop.is_set():
            draw()

    thread = threading.Thread(target=keep_drawing)
    with rng_scope():
        source = BY_NAME[name]
        source.seeded_states.clear()
        thread.start()
        try:
            for number in range(40):
                for _ in range(2):
                    with rng_scope(number, sources=[name]):
                        pass
        finally:
            stop.set()
            thread.join()
        kept = dict(source.seeded_states)
        assert len(kept) == 40
        for number, image in kept.items():
            seed(number)
            expected = RNGState.capture(sources=[name])
            source.setstate(image)
            assert RNGState.capture(sources=[name]) == expected


def test_images_are_bounded_and_the_oldest_goes_first():
    images = SeededStates()
    for seed in range(3 * images.LIMIT):
        images.keep(seed, b"image")
    assert list(images) == list(range(2 * images.LIMIT, 3 * images.LIMIT))


def undecorated():
    with rng_scope(11):
        while True:
            yield random.random()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("moment", ["getstate", "swap", "setstate"])
def test_a_scope_that_a_finalizer_ends_inside_another_one_is_left_after_it(moment, monkeypatch):
    """Law 5: also when the finalizer runs in the middle of an entry or an exit."""
    before = random.getstate()
    bodies = [undecorated()]
    first = next(bodies[0])
    assert first != random.Random(22).random()
    source = BY_NAME["python"]
    verb = getattr(source, moment)

    def finalize_first(*arguments):
        if bodies:
            bodies.pop().close()
        return verb(*arguments)

    for _ in range(2):
        with rng_scope(22):
            pass
    scope = rng_scope(22) if moment != "getstate" else rng_scope()
    monkeypatch.setattr(source, moment, finalize_first)
    with scope:
        if moment == "swap":
            assert random.random() == random.Random(22).random()
    assert not bodies
    assert random.getstate() == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_scope_in_a_garbage_cycle_leaves_nothing_whenever_it_is_collected():
    """Laws 1 and 5, with the garbage collector as it is set."""

    class Owner:
        pass

    before = random.getstate()
    for _ in range(20):
        owner = Owner()
        owner.owner, owner.body = owner, undecorated()
        next(owner.body)
        del owner
        kept = []
        for _ in range(800):
            with rng_scope(22):
                pass
            kept.append([])
        gc.collect()
        assert random.getstate() == before


def test_a_scope_in_the_middle_of_seeding_does_not_change_the_seed(monkeypatch):
    """A signal handler may open a scope of its own at any point."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("numpy.random")
    with rng_scope(1, sources=["numpy"]):
        views = BY_NAME["numpy"]._views
    nested = []

    class Handler:
        def __call__(self, seed):
            made = seed_scratch(seed)
            if not nested:
                nested.append(seed)
                with rng_scope(987654, sources=["numpy"]):
                    pass
            return made

    seed_scratch = views.seed_scratch
    monkeypatch.setattr(views, "seed_scratch", Handler())
    with rng_scope(123456, sources=["numpy"]):
        assert nested and numpy.random.random() == numpy.random.RandomState(123456).random()


def test_a_shuffle_that_opens_scopes_does_not_stop_other_threads():
    """NumPy holds its lock while it shuffles, and runs the list's own code."""
    numpy = pytest.importorskip("numpy")
    started = threading.Event()

    class Slow(list):
        def __getitem__(self, index):
            started.set()
            time.sleep(0.01)
            with rng_scope(3):
                pass
            return super().__getitem__(index)

    def enter_and_leave():
        started.wait()
        for _ in range(3):
            with rng_scope(4):
                pass

    with rng_scope():
        threads = [
            threading.Thread(target=function, daemon=True)
            for function in (lambda: numpy.random.shuffle(Slow(range(3))), enter_and_leave)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


def test_scopes_while_another_thread_imports_torch_leave_it_alone():
    """Law 3: until an import has completed, the library is not there."""
    pytest.importorskip("torch")
    code = """
import random, threading, time, warnings
from rngscope import rng_scope

def load():
    import torch

thread = threading.Thread(target=load)
thread.start()
while thread.is_alive():
    with rng_scope(1):
        time.sleep(0.001)
import torch
with rng_scope(42):
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(42)).item()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_the_name_of_a_library_is_imported_as_without_a_scope(tmp_path):
    """The finder makes nothing of what is not the library."""
    (tmp_path / "torch").mkdir()
    code = (
        "import sys; sys.path = [sys.argv[1] if len(sys.argv) > 1 else ''] + sys.path\n"
        "from rngscope import rng_scope\n"
        "with rng_scope(1):\n"
        "    import torch\n"
        "print(getattr(torch, '__file__', None))\n"
    )
    # Without the folder of installed packages there is only this one, also where rngscope is
    # installed there.
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "rngscope").symlink_to(os.path.dirname(rngscope.__file__))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(packages)])),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr


def test_two_copies_of_the_package_do_not_ask_each_other_for_ever():
    pytest.importorskip("numpy")
    code = """
import sys
from rngscope import rng_scope as first
for name in [name for name in sys.modules if name.startswith("rngscope")]:
    del sys.modules[name]
from rngscope import rng_scope as second
assert first is not second
with first(1), second(2):
    import numpy.random
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_code_without_a_module_name_is_warned_like_any_other():
    code = (
        "a = rng_scope(1); b = rng_scope(2)\n"
        "a.__enter__(); b.__enter__(); a.__exit__(None, None, None)\n"
        "b.__exit__(None, None, None)"
    )
    with rng_scope(), pytest.warns(RuntimeWarning, match="was left while"):
        exec(code, {"rng_scope": rng_scope})


def test_a_scope_can_be_shown_before_it_is_entered():
    assert "rng_scope seed=42" in f"{rng_scope(42)}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["body", "stream"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stream_does_not_begin_again_in_a_forked_child(kind):
    """Law 6: random keeps the fresh seed, it does not repeat the numbers of the scope."""
    stream = RNGStream(42)

    @seeded(42)
    def body():
        yield random.random()
        yield os.fork()
        yield random.random()

    def in_stream():
        with stream:
            drawn = random.random()
        yield drawn
        with stream:
            child = os.fork()
        yield child
        with stream:
            drawn = random.random()
        yield drawn

    steps = body() if kind == "body" else in_stream()
    first, child = next(steps), next(steps)
    if not child:
        os._exit(int(next(steps) == first))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert next(steps) != first


def changed(state, offset, value, kind="=Q"):
    data = bytearray(state)
    struct.pack_into(kind, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    "offset, value, kind",
    [(8, 624, "=i"), (8, 0, "=i"), (12, 0, "=i"), (16, 623, "=Q"), (24, 2**32, "=Q")],
)
def test_a_torch_state_that_cannot_be_is_refused(offset, value, kind):
    """torch itself takes these, and then draws from memory that is not the generator's."""
    torch = pytest.importorskip("torch")
    from rngscope.sources.torch import check_torch_state, tensor_bytes

    generator = torch.Generator().manual_seed(1)
    for drawn in itertools.chain([0, 0, 1], range(5, 1300, 97)):
        torch.rand(drawn, generator=generator)
        check_torch_state(tensor_bytes(generator.get_state()), "state")
    torch.rand(3, generator=generator)
    state = tensor_bytes(generator.get_state())
    with pytest.raises(ValueError, match="state is not the state of a CPU generator"):
        check_torch_state(changed(state, offset, value, kind), "state")
    with pytest.raises(ValueError, match="state is not the state of a CPU generator"):
        check_torch_state(state[:24] + bytes(624 * 8) + state[24 + 624 * 8 :], "state")


def test_what_torch_itself_refuses_is_a_value_error(monkeypatch):
    """A torch with another layout checks alone."""
    pytest.importorskip("torch")
    from rngscope.sources import torch as torch_source

    state = torch_source.tensor_bytes(torch_source.torch_module().Generator().get_state())
    with monkeypatch.context() as patch:
        patch.setattr(torch_source, "STATE_BYTES", 0)
        message = "state is not the state of a CPU generator: .*Invalid"
        with pytest.raises(ValueError, match=message):
            torch_source.check_torch_state(changed(state, 8, 0, "=i"), "state")


def test_a_lock_of_numpy_that_is_not_to_be_had_is_not_waited_for_for_ever(monkeypatch, unchanged):
    """Every verb goes on without it, and lets go only what it holds."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("numpy.random")
    from rngscope.sources import numpy as numpy_source
    from rngscope.sources import numpy_memory

    held, done = threading.Event(), threading.Event()
    lock = numpy.random.get_bit_generator().lock

    def hold():
        with lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    for module in (numpy_source, numpy_memory):
        monkeypatch.setattr(module, "PATIENCE", 0.01)
    try:
        for seed in (None, 42):
            with rng_scope(seed, sources=["numpy"]):
                pass
    finally:
        done.set()
        thread.join()
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_timed_lock_that_is_not_had_is_not_released(monkeypatch):
    """For NumPys whose lock is not reentrant."""
    real = threading.Lock()
    with real, monkeypatch.context() as patch:
        patch.setattr(_interrupts, "PATIENCE", 0.01)
        with TimedLock(real):
            pass
        assert real.locked()
    with TimedLock(real):
        assert real.locked()
    assert not real.locked()


def test_switches_go_back_although_torch_is_hidden_meanwhile(monkeypatch):
    """As tests hide a module that code under test must do without; and nothing says otherwise."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(_not_covered, "_told", set())
    with monkeypatch.context() as patch:
        with rng_scope(1, sources=["python"], deterministic=True):
            assert torch.are_deterministic_algorithms_enabled()
            patch.setitem(sys.modules, "torch", None)
    assert not torch.are_deterministic_algorithms_enabled()
