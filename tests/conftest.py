"""Fixtures that several files share; they need neither torch nor NumPy."""

import os
import sys

import pytest
from by_hand import cache_gaussians, load_libraries
from by_hand import public_states as read_states
from pytest_suite import CONFTEST, Suite

from rngscope import _arrival, _order, _turns
from rngscope.sources import SOURCES, memory
from rngscope.sources.cell import SeededStates


@pytest.fixture
def suite(pytester, monkeypatch):
    """Return an object that writes a suite, runs it and returns what it wrote down."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    # On a CI system pytest's summary shows whole messages, and so says things twice.
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\n")
    return Suite(pytester)


@pytest.fixture(params=["fast", "API"])
def path(request):
    """Run the test with states as memory, and with calls of the libraries only."""
    load_libraries()
    take_path(request.param == "fast")
    yield request.param
    take_path(True)


def take_path(fast):
    memory.fast_paths = fast
    for source in SOURCES:
        if source.name == "python":
            source._view = None
        elif source.name == "numpy":
            source._views = None
            source._seeded_states = SeededStates()
            source.seeded_states = SeededStates(are_kept=False)
        if source.name in ("python", "torch"):
            source.seeded_states = SeededStates()


@pytest.fixture(autouse=True)
def every_test_is_warned():
    """Have each test hear of its own overlapping threads, of which a process is told once."""
    _turns._has_warned = False


@pytest.fixture(autouse=True)
def every_test_leaves_the_workspace_of_cublas():
    """The one variable of the environment that a scope may set: what it was is back."""
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    after = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    assert after == before, f"the test left CUBLAS_WORKSPACE_CONFIG={after}"


@pytest.fixture
def public_states():
    """Return a function: source name -> exact state, read through public calls only."""
    load_libraries()
    return read_states


@pytest.fixture
def unchanged():
    """Check after the test that every source is what it was, and that it left no scope open.

    Before it none is open, but under --rng-seed that of the test. Every source begins with a
    cached Gaussian, so that losing one shows. Returns the function of ``public_states``.
    """
    load_libraries()
    cache_gaussians()
    before, open_before = read_states(), list(_order.lives)
    yield read_states
    after = read_states()
    moved = [name for name in before if after[name] != before[name]]
    assert not moved, f"the test moved {moved}"
    assert _order.lives == open_before
    assert _turns.claims == _turns.granted == []
    assert _arrival.FINDER not in sys.meta_path and not _arrival.is_watching
