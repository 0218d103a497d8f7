"""Law 2, and law 1 under interrupts and threads: whatever fails, the rest is restored."""

import itertools
import random
import threading
import time
import warnings

import pytest
from by_hand import NAMES, cache_gaussians, draw, expected, load_libraries, public_states

from rngscope import RNGState, rng_scope
from rngscope._order import lives
from rngscope.sources import SOURCES

load_libraries()
BY_NAME = {source.name: source for source in SOURCES}


class Interrupt(BaseException):
    """What a signal handler raises: no Exception."""


each_source = pytest.mark.parametrize("failing", NAMES)
PAIRS = list(itertools.combinations(NAMES, 2))


@pytest.fixture
def breaks(monkeypatch):
    """Return a function that makes one verb of one source raise.

    ``times`` is how often, None for always; with ``after`` the verb does its work first.
    """

    def break_verb(name, verb, error, times=None, after=False):
        source = BY_NAME[name]
        works = getattr(source, verb)
        calls = itertools.count(1)

        def broken(*args):
            if times is not None and next(calls) > times:
                return works(*args)
            if after:
                works(*args)
            raise error

        monkeypatch.setattr(source, verb, broken)

    return break_verb


def moved_between(before, after):
    return [name for name in before if before[name] != after[name]]


# A failed entry ---------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize("verb", ["swap", "getstate", "seed"])
@pytest.mark.parametrize("error", [OSError("broken"), Interrupt("now")], ids=["error", "interrupt"])
@pytest.mark.parametrize("after", [False, True])
def test_a_failed_entry_rolls_everything_back(failing, verb, error, after, breaks, path, unchanged):
    """Law 2: the error comes out as it is, no scope is open, and nothing moved."""
    before = unchanged()
    body = []
    if verb == "swap":
        for _ in range(2):
            with rng_scope(42):
                pass
        if 42 not in BY_NAME[failing].seeded_states:
            # NumPy on the API path keeps no seeded states.
            verb = "seed"
    breaks(failing, verb, error, after=after)
    with pytest.raises(type(error)) as caught:
        with rng_scope(None if verb == "getstate" else 42):
            body.append(True)
    assert caught.value is error
    assert not body and lives == [] and unchanged() == before


@each_source
def test_a_scope_whose_entry_failed_can_be_entered_again(failing, breaks, path, unchanged):
    """Nothing of the failed entry stays on the object."""
    scope = rng_scope(42)
    breaks(failing, "seed", OSError("broken"), times=1)
    with pytest.raises(OSError, match="broken"):
        scope.__enter__()
    with scope:
        for name in NAMES:
            assert draw(name) == expected(name, 42)[0]


@each_source
def test_a_failed_entry_leaves_the_scopes_below_as_they_are(failing, breaks, path, unchanged):
    """The outer scope goes on with its stream, and is left as ever."""
    with rng_scope(42):
        first = {name: draw(name) for name in NAMES}
        breaks(failing, "seed", OSError("broken"), times=1)
        with pytest.raises(OSError), rng_scope(43):
            pass
        for name in NAMES:
            assert [first[name], draw(name)] == expected(name, 42, 2)


@pytest.mark.parametrize("verb", ["getstate", "setstate"])
@each_source
def test_a_failed_replay_rolls_back(failing, verb, breaks, path, unchanged):
    """A state may be refused late: the sources before it are put back."""
    with rng_scope(5):
        state = RNGState.capture()
    before = unchanged()
    breaks(failing, verb, OSError("broken"), times=1)
    with pytest.raises(OSError, match="broken"), rng_scope(state):
        raise AssertionError
    assert unchanged() == before


def test_a_generator_of_the_user_that_cannot_be_seeded_rolls_back(path, unchanged):
    """The global sources are restored, and so are the generators before it."""

    class Broken(random.Random):
        def seed(self, *args):
            if args and args[0] not in (1, 2):
                raise OSError("broken")
            super().seed(*args)

    first, broken = random.Random(1), Broken(2)
    before = first.getstate(), broken.getstate()
    scope = rng_scope(42, generators=[first, broken], independent=True)
    with pytest.raises(OSError, match="broken"), scope:
        raise AssertionError
    assert (first.getstate(), broken.getstate()) == before


@each_source
def test_an_entry_that_fails_and_cannot_be_undone_says_both(failing, breaks, path, public_states):
    """Two errors are a group; the sources that can be are restored."""
    cache_gaussians()
    before = public_states()
    entry, rollback = OSError("entry"), OSError("rollback")
    last = NAMES[-1]
    breaks(last, "seed", entry, after=True)
    breaks(failing, "setstate", rollback)
    with pytest.raises(ExceptionGroup) as caught, rng_scope(42):
        raise AssertionError
    assert caught.value.exceptions == (entry, rollback)
    assert moved_between(before, public_states()) == [failing] and lives == []


# A failed restore -------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize("error", [OSError("broken"), Interrupt("now")], ids=["error", "interrupt"])
@pytest.mark.parametrize("seed", [None, 42])
def test_one_source_that_cannot_be_restored_leaves_the_others_restored(
    failing, error, seed, breaks, path, public_states
):
    """One error is raised as itself; the scope is closed all the same."""
    cache_gaussians()
    before = public_states()
    with pytest.raises(type(error)) as caught:
        with rng_scope(seed):
            for name in NAMES:
                draw(name)
            breaks(failing, "setstate", error)
    assert caught.value is error
    assert moved_between(before, public_states()) == [failing] and lives == []


@pytest.mark.skipif(not PAIRS, reason="needs two sources")
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("interrupts", [0, 1, 2])
def test_two_sources_that_cannot_be_restored_are_a_group(
    pair, interrupts, breaks, path, public_states
):
    """An ExceptionGroup, a BaseExceptionGroup when one is no Exception; the rest is restored."""
    cache_gaussians()
    before = public_states()
    errors = [Interrupt(name) if place < interrupts else OSError(name) for place, name in
              enumerate(pair)]
    with pytest.raises(BaseExceptionGroup) as caught:
        with rng_scope(42):
            for name, error in zip(pair, errors):
                breaks(name, "setstate", error)
    assert type(caught.value) is (BaseExceptionGroup if interrupts else ExceptionGroup)
    assert sorted(map(str, caught.value.exceptions)) == sorted(pair)
    assert set(caught.value.exceptions) == set(errors)
    assert moved_between(before, public_states()) == [name for name in before if name in pair]
    assert lives == []


@each_source
@pytest.mark.parametrize("error", [OSError("broken"), Interrupt("now")], ids=["error", "interrupt"])
def test_a_source_hit_once_at_exit_is_restored_after_all(failing, error, breaks, path, unchanged):
    """An interrupt in the middle of a restore: it comes out, and everything is back."""
    for after in (False, True):
        with pytest.raises(type(error)) as caught:
            with rng_scope(42):
                draw(failing)
                breaks(failing, "setstate", error, times=1, after=after)
        assert caught.value is error and lives == []


@each_source
def test_two_interrupts_at_exit_both_come_out(failing, monkeypatch, path, unchanged):
    """And the source is restored after all."""
    source = BY_NAME[failing]
    restore, interrupts = source.setstate, [Interrupt("first"), Interrupt("second")]
    left = iter(interrupts)

    def interrupted(state):
        for interrupt in left:
            raise interrupt
        restore(state)

    with pytest.raises(BaseExceptionGroup) as caught:
        with rng_scope(42):
            draw(failing)
            monkeypatch.setattr(source, "setstate", interrupted)
    assert list(caught.value.exceptions) == interrupts and lives == []


@pytest.mark.skipif(not PAIRS, reason="needs two sources")
def test_a_scope_left_out_of_order_tries_again_what_failed(breaks, path, unchanged):
    """What it found goes where it goes without the error."""
    lower, upper = rng_scope(1), rng_scope(2, sources=["python"])
    lower.__enter__()
    draw(NAMES[1])
    upper.__enter__()
    breaks(NAMES[1], "setstate", OSError("broken"), times=1)
    with pytest.raises(OSError, match="broken"):
        lower.__exit__(None, None, None)
    assert lives == [upper._life]
    upper.__exit__(None, None, None)


@each_source
def test_the_exception_of_the_body_stays_the_context(failing, breaks, path, public_states):
    """It is still there when a source cannot be restored."""
    raised, error = KeyError("body"), OSError("broken")
    with pytest.raises(OSError) as caught:
        with rng_scope(42):
            breaks(failing, "setstate", error)
            raise raised
    assert caught.value is error and error.__context__ is raised
    cache_gaussians()


@pytest.mark.skipif(not PAIRS, reason="needs two sources")
def test_the_exception_of_the_body_stays_the_context_of_a_group(breaks, path, public_states):
    """Also when several sources fail."""
    raised = KeyError("body")
    with pytest.raises(ExceptionGroup) as caught:
        with rng_scope(42):
            for name in NAMES:
                breaks(name, "setstate", OSError(name))
            raise raised
    contexts, error = [], caught.value
    while error is not None:
        contexts.append(error)
        error = error.__context__
    assert raised in contexts
    cache_gaussians()


@each_source
def test_a_failed_restore_in_an_inner_scope_does_not_harm_the_outer(failing, breaks, unchanged):
    """The outer scope restores what the inner one could not."""
    with rng_scope(42):
        with pytest.raises(OSError):
            with rng_scope(43):
                # However often it is tried again.
                breaks(failing, "setstate", OSError("broken"), times=3)
        for name in NAMES:
            wanted = expected(name, 43 if name == failing else 42)[0]
            assert draw(name) == wanted
    assert lives == []


def test_a_generator_of_the_user_that_cannot_be_restored_harms_no_other(path, unchanged):
    """The error of its own setstate comes out."""

    class Broken(random.Random):
        def setstate(self, state):
            raise OSError("broken")

    first, broken, last = random.Random(1), Broken(2), random.Random(3)
    before = first.getstate(), last.getstate()
    with pytest.raises(OSError, match="broken"):
        with rng_scope(42, generators=[first, broken, last], independent=True):
            pass
    assert (first.getstate(), last.getstate()) == before


# Threads ----------------------------------------------------------------------------------


def test_threads_that_draw_while_scopes_open_and_close_do_not_crash(path):
    """Their draws take from the scoped streams; states stay whole, and the outer one returns.

    Big arrays: NumPy and torch draw those without the GIL.
    """
    cache_gaussians()
    stop, failures, counts = threading.Event(), [], {}

    def run(name, work):
        try:
            while not stop.is_set():
                work()
                counts[name] = counts.get(name, 0) + 1
        except BaseException as error:
            failures.append(error)

    def draw_python():
        random.gauss(0, 1)
        random.shuffle(list(range(100)))

    works = {"python": draw_python}
    if "numpy" in NAMES:
        import numpy as np

        def draw_numpy():
            np.random.standard_normal(200_000)
            np.random.standard_normal()

        works["numpy"] = draw_numpy
    if "torch" in NAMES:
        import torch

        def draw_torch():
            torch.randn(200_000)
            torch.randn(1)

        works["torch"] = draw_torch

    def open_scopes():
        with rng_scope(42):
            with rng_scope():
                pass
        with rng_scope(RNGState.capture()):
            pass

    threads = [
        threading.Thread(target=run, args=(name, work), daemon=True)
        for name, work in works.items()
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2
    opened = 0
    while time.monotonic() < end and not failures:
        open_scopes()
        opened += 1
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert opened > 20 and all(counts.get(name, 0) > 5 for name in works), (opened, counts)
    assert lives == []
    # Alone again, everything is exact.
    cache_gaussians()
    before = public_states()
    with rng_scope(42):
        for name in NAMES:
            assert draw(name) == expected(name, 42)[0]
    assert public_states() == before


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
def test_a_scope_waits_for_an_array_that_is_drawn_without_the_gil(unchanged):
    """NumPy's lock is held meanwhile: neither the array nor the state is torn."""
    import numpy as np

    size, drawn = 5_000_000, []
    lock = np.random.get_bit_generator().lock
    wanted = np.random.RandomState(98)
    wanted.standard_normal()
    wanted = wanted.standard_normal(size)

    def draw_big():
        drawn.append(np.random.standard_normal(size))

    with rng_scope():
        thread = threading.Thread(target=draw_big)
        thread.start()
        while thread.is_alive() and lock.acquire(blocking=False):
            lock.release()
            time.sleep(0)
        with rng_scope(42):
            assert draw("numpy") == expected("numpy", 42)[0]
        thread.join()
    assert (drawn[0] == wanted).all()


def test_scopes_of_many_threads_at_once_end_with_the_outer_state(path, unchanged):
    """Law 5 in short: in whatever order they are left, the last one puts the first state back."""
    barrier = threading.Barrier(4)
    failures = []

    def work():
        try:
            for seed in range(30):
                barrier.wait(60)
                with rng_scope(seed):
                    for name in NAMES:
                        draw(name)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the scope opened at", RuntimeWarning)
        warnings.filterwarnings("ignore", "two threads have scopes open", RuntimeWarning)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert not failures, failures
