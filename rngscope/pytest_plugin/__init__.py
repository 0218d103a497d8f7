"""The pytest plugin: seeded tests, the seed in every failure, and who moves the RNGs.

Not asked for, it registers nothing that runs during tests: what works is ``Run``, which is
registered for ``--rng-seed``, ``--rng-leaks``, or a test that asks by marker or fixture.
"""

from __future__ import annotations

from functools import partial

import pytest

from rngscope._scope import seed_all
from rngscope._sources import SOURCES
from rngscope._sources.torch_cpu import torch_module
from rngscope._state import RNGState
from rngscope.pytest_plugin.options import NAME, add_options, allowed_of, leaks_of, seed_of
from rngscope.pytest_plugin.run import START, Run, fixtures_of

_MARKER = (
    "rng_seed(seed, *, sources=None, devices=None, generators=(), independent=False, "
    "deterministic=False): run the test with this seed; arguments as rngscope.rng_scope."
)

#: What works now; the last one, where a test runs pytest in its own process.
_runs: list[Run] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    seed, leaks, allowed = seed_of(config), leaks_of(config), allowed_of(config)
    if seed is not None or leaks:
        _start(config, Run(config, seed, leaks, allowed))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to work if a test asks for it by itself."""
    if session.config.pluginmanager.has_plugin(NAME):
        return
    # Not get_closest_marker() of each item, which would ask its class and module as often.
    parents = {item.parent for item in session.items}
    if (
        any(parent is not None and parent.get_closest_marker("rng_seed") for parent in parents)
        or any(mark.name == "rng_seed" for item in session.items for mark in item.own_markers)
        or any("rng_state" in fixtures_of(item) for item in session.items)
    ):
        _start(session.config, Run(session.config, None, "", []))


@pytest.fixture
def rng_state(request: pytest.FixtureRequest) -> RNGState:
    """The state of the global RNGs at the start of the test, before its fixtures."""
    # A test that asks with getfixturevalue() gets the state of that moment.
    return request.node.stash.get(START, None) or RNGState.capture()


def seed_from_pytest_randomly(seed: int) -> None:
    """Seed torch, if it is imported, along with what pytest-randomly has seeded.

    pytest-randomly calls this with each of its seeds: at the start of the session, and of
    set-up, call and tear-down of each test. In a test that rngscope has seeded, everything
    goes back to that seed instead.

    Args:
        seed: any integer.
    """
    if torch_module() is not None:
        seed_all(seed % 2**64, sources=[s.name for s in SOURCES if s.library == "torch"])
    if _runs:
        _runs[-1].was_reseeded()


def _start(config: pytest.Config, run: Run) -> None:
    config.pluginmanager.register(run, NAME)
    _runs.append(run)
    config.add_cleanup(partial(_runs.remove, run))
