"""The hooks of a fixture: one of a wider scope than a test has a stream of its own."""

from __future__ import annotations

from functools import partial

import pytest

from rngscope.pytest_plugin.seeding import Stretch, seed_of_fixture, stream_over_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, TypeVar

    from rngscope.pytest_plugin.run import Run

    Result = TypeVar("Result")


class FixtureHooks:
    """The hooks of one run that belong to a fixture."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Result, Result]:
        stretch = self.stretch_of(fixturedef, request)
        if stretch is None:
            return (yield)
        # pytest runs finalizers from the last to the first: those of the fixture in between.
        fixturedef.addfinalizer(partial(stretch.end, is_last=True))
        stretch.begin("set-up")
        try:
            return (yield)
        finally:
            stretch.end()
            fixturedef.addfinalizer(partial(stretch.begin, "tear-down"))

    def stretch_of(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Stretch | None:
        """Return what a fixture runs in; None for the same as what is around it."""
        # Not the scope of fixturedef: parametrize() may have given it another one.
        name, scope = fixturedef.argname, request.scope
        if scope == "function":
            if self.run.watch is None or self.run.test is None:
                return None
            part = f"fixture {name!r}"
            return Stretch(self.run, f"{self.run.test.owner}: {part}", part, part_of=self.run.test)
        where = request.node.nodeid or "the session"
        part = f"{scope} fixture {name!r} of {where}"
        stretch = Stretch(self.run, part, part, is_wide=True)
        if self.run.seed is not None:
            seed = seed_of_fixture(self.run.seed, fixturedef, request)
            stretch.add(stream_over_all(seed, fixturedef))
        return stretch
