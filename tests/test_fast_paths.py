"""A fast path is taken only where it proves right on this interpreter; elsewhere the API path."""

import platform
import random
import sys

import pytest
from by_hand import NAMES, draw, expected
from conftest import take_path

from rngscope import rng_scope
from rngscope.sources import SOURCES, memory, mersenne, numpy_memory

BY_NAME = {source.name: source for source in SOURCES}
SEEDS = [0, 42, 2**32 - 1, 2**32, 2**32 + 1, 2**63 + 5, 2**64 - 1]
needs_numpy = pytest.mark.skipif("numpy" not in NAMES, reason="needs NumPy")
needs_cpython = pytest.mark.skipif(
    platform.python_implementation() != "CPython"
    or not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="needs CPython with its lock",
)


def scopes_are_exact(unchanged):
    before = unchanged()
    # Three times: the third one sets a state that was kept.
    for seed in SEEDS * 3:
        with rng_scope(seed):
            for name in NAMES:
                assert draw(name) == expected(name, seed)[0], (name, seed)
        assert unchanged() == before, seed


@pytest.fixture
def fresh_paths():
    """Have every source look at the interpreter again, now and after the test."""
    take_path(True)
    yield
    take_path(True)


@needs_cpython
def test_on_a_known_interpreter_the_fast_paths_are_taken(fresh_paths, unchanged):
    """Otherwise nothing below would prove anything."""
    scopes_are_exact(unchanged)
    assert isinstance(BY_NAME["python"]._view, memoryview)
    if "numpy" in NAMES:
        views = BY_NAME["numpy"]._views
        assert views.bit_generator is not None and views.shares_seeding


def other_header(monkeypatch):
    monkeypatch.setattr(mersenne, "_HEADER", mersenne._HEADER + 8)


def smaller_objects(monkeypatch):
    monkeypatch.setattr(mersenne, "_HEADER", 10**6)


def no_lock(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False)


def other_implementation(monkeypatch):
    class Implementation:
        name = "another"

    monkeypatch.setattr(sys, "implementation", Implementation)


@pytest.mark.parametrize(
    "change",
    [
        other_header,
        smaller_objects,
        pytest.param(
            no_lock,
            marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="needs Python 3.13"),
        ),
        other_implementation,
    ],
)
def test_where_pythons_layout_is_unknown_the_api_path_is_exact(
    change, fresh_paths, unchanged, monkeypatch
):
    """Law: an interpreter of another kind costs time, never a state."""
    with monkeypatch.context() as patch:
        change(patch)
        scopes_are_exact(unchanged)
        assert BY_NAME["python"]._view is False
        if "numpy" in NAMES:
            assert not BY_NAME["numpy"]._views.shares_seeding


def test_a_layout_that_reads_right_but_cannot_be_written_is_unknown(monkeypatch):
    """The proof writes, too."""
    monkeypatch.setattr(
        mersenne, "view_of", lambda generator: bytearray(memory.MERSENNE_BYTES)
    )
    assert not mersenne.layout_is_known()
    view_of = memory.view_memory

    def only_read(generator):
        place = id(generator) + mersenne._HEADER
        return bytearray(view_of(generator, place, memory.MERSENNE_BYTES))

    monkeypatch.setattr(mersenne, "view_of", only_read)
    assert not mersenne.layout_is_known()


class Unwritten:
    """Memory that can be read, but writing to it reaches nothing."""

    def __init__(self, real):
        self.real = real

    def __bytes__(self):
        return bytes(self.real)

    def __getitem__(self, part):
        return bytearray(self.real[part])


# What the view of a scratch RandomState is replaced with.
UNKNOWN = {
    "holds no Gaussian": lambda real: memoryview(bytearray(len(real))),
    "does not follow": lambda real: memoryview(bytearray(real)),
    "is not followed": Unwritten,
}


@needs_numpy
@pytest.mark.parametrize("how", UNKNOWN)
def test_a_random_state_of_another_layout_is_unknown(how, monkeypatch):
    """The proof reads, looks again after a change, and writes."""
    import numpy

    scratch, view_memory, views = numpy.random.RandomState(0), memory.view_memory, []

    def view(*place):
        # The Gaussian is in place when the memory is read, not yet when the view is made.
        views.append(Later(view_memory(*place), UNKNOWN[how]))
        return views[-1]

    assert numpy_memory.find_gauss(scratch)
    monkeypatch.setattr(memory, "view_memory", view)
    assert numpy_memory.find_gauss(scratch) is None
    assert views


class Later:
    """A view that becomes what it is replaced with when it is first read."""

    def __init__(self, real, replace):
        self.real, self.replace, self.replaced = real, replace, None

    def __bytes__(self):
        self.replaced = self.replace(self.real)
        return bytes(self.replaced)

    def __getitem__(self, part):
        return self.replaced[part]


@needs_numpy
def test_where_the_gaussian_is_not_found_numpy_takes_the_api_path(
    fresh_paths, unchanged, monkeypatch
):
    """Law: a NumPy of another layout costs time, never a state."""
    with monkeypatch.context() as patch:
        patch.setattr(numpy_memory, "find_gauss", lambda scratch: None)
        scopes_are_exact(unchanged)
        assert BY_NAME["numpy"]._views.bit_generator is None


@needs_numpy
def test_where_numpy_seeds_in_another_way_it_seeds_by_itself(fresh_paths, unchanged, monkeypatch):
    """Law: that both are seeded alike is proved, not believed."""
    seeded_block = mersenne.seeded_block
    with monkeypatch.context() as patch:
        patch.setattr(mersenne, "seeded_block", lambda seed: seeded_block(seed)[::-1])
        patch.setattr(BY_NAME["python"], "_view", False)
        scopes_are_exact(unchanged)
        assert not BY_NAME["numpy"]._views.shares_seeding


@needs_cpython
@pytest.mark.parametrize("nested", [2**40, 2**41])
def test_a_signal_handler_in_the_middle_of_seeding_does_not_change_the_seed(
    nested, fresh_paths, monkeypatch
):
    """A handler that seeds the same scratch generator, with another seed or the same."""
    seed, was_there = mersenne.SEED, []

    def interrupted(generator, number):
        seed(generator, number)
        if not was_there:
            was_there.append(number)
            with rng_scope(nested):
                random.random()

    with rng_scope(1):
        pass
    mersenne.seeded_block(1)
    monkeypatch.setattr(mersenne, "SEED", interrupted)
    with rng_scope(2**41):
        assert was_there == [2**41]
        for name in NAMES:
            assert draw(name) == expected(name, 2**41)[0]
