"""The pytest plugin: seeded tests, the seed in every failure, and who moves the RNGs.

Not asked for, it registers nothing that runs during tests: what works is ``Run``, which is
registered for ``--rng-seed``, ``--rng-leaks``, or a test that asks by marker or fixture.
"""

from __future__ import annotations

import pytest

from rngscope._scope import seed_all
from rngscope._state import RNGState
from rngscope.pytest_plugin import hooks
from rngscope.pytest_plugin.fixtures import FixtureHooks
from rngscope.pytest_plugin.options import MARKER, NAME, Asked, add_options, asked_of
from rngscope.pytest_plugin.phases import PhaseHooks
from rngscope.pytest_plugin.run import START, Run, fixtures_of
from rngscope.pytest_plugin.seeding import fixture_value
from rngscope.pytest_plugin.session import SessionHooks
from rngscope.sources import SOURCES
from rngscope.sources.torch import torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What works now; the last one, where a test runs pytest in its own process.
_runs: list[Run] = []
_RUN = pytest.StashKey[Run]()
#: The fixtures that make a run work although no flag does.
_FIXTURES = {"rng_state", "rng_seed"}


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Hear of imports from here on: those of the conftest files come next."""
    _find_run(early_config, early_config.known_args_namespace)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    run = _find_run(config, config.option)
    if run is not None:
        _register(run)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to work if a test asks for it by itself."""
    config = session.config
    run: Run | None = config.pluginmanager.get_plugin(NAME)
    if run is None and _is_wanted_by_a_test(session):
        run = _start(config, asked_of(config, config.option))
        _register(run)
    if run is not None:
        run.ask_for_generators()


@pytest.fixture
def rng_state(request: pytest.FixtureRequest) -> RNGState:
    """The state of the global RNGs at the start of the test, before its fixtures."""
    # A test that asks with getfixturevalue() gets the state of that moment.
    return request.node.stash.get(START, None) or RNGState.capture()


@pytest.fixture
def rng_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test, as an int in [0, 2**32): for numpy.random.default_rng(rng_seed).

    That is the seed of its marker, or else comes from --rng-seed, which counts as 0 here
    where it is not given.
    """
    return fixture_value(request.node, _runs[-1].test if _runs else None)


def seed_from_pytest_randomly(seed: int) -> None:
    """Seed torch, if it is imported, along with what pytest-randomly has seeded.

    pytest-randomly calls this with each of its seeds: at the start of the session, and of
    set-up, call and tear-down of each test, but for tests that rngscope has seeded.

    Args:
        seed: any integer.
    """
    if torch_module() is not None:
        seed_all(seed % 2**64, sources=[s.name for s in SOURCES if s.module == "torch"])
    if _runs:
        _runs[-1].was_reseeded()


def _is_wanted_by_a_test(session: pytest.Session) -> bool:
    # Not get_closest_marker() of each item, which would ask its class and module as often.
    parents = {item.parent for item in session.items}
    return (
        any(parent is not None and parent.get_closest_marker("rng_seed") for parent in parents)
        or any(mark.name == "rng_seed" for item in session.items for mark in item.own_markers)
        or any(not _FIXTURES.isdisjoint(fixtures_of(item)) for item in session.items)
    )


def _find_run(config: pytest.Config, flags: Any) -> Run | None:
    """Return what works as these flags ask; None if they ask for nothing."""
    asked = asked_of(config, flags)
    run = config.stash.get(_RUN, None)
    if run is not None and run.asked == asked:
        return run
    if run is not None:
        # A conftest file has changed what was asked for.
        _stop(run)
    return _start(config, asked) if asked.seed is not None or asked.leaks else None


def _start(config: pytest.Config, asked: Asked) -> Run:
    config.stash[_RUN] = run = Run(config, asked)
    _runs.append(run)
    run.imports.start()
    config.add_cleanup(lambda: _stop(run))
    return run


def _register(run: Run) -> None:
    plugins = run.config.pluginmanager
    # None if -p no: keeps it out.
    if plugins.register(run, NAME):
        for hooks_of in (SessionHooks, PhaseHooks, FixtureHooks):
            plugins.register(hooks_of(run))


def _stop(run: Run) -> None:
    if run in _runs:
        _runs.remove(run)
        run.imports.stop()
