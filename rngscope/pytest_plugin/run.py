"""What works while a run is seeded or watched: the hooks of its tests and fixtures."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from rngscope._open_scopes import OpenScope
from rngscope._seeds import derive_seed
from rngscope._sources import SOURCES
from rngscope._state import RNGState
from rngscope.pytest_plugin.options import NAME
from rngscope.pytest_plugin.report import REMEDY, how_to_repeat, node_id, write_summary
from rngscope.pytest_plugin.seeding import Stretch, parameter_of, scope_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

#: The state at the start of a test, for the fixture ``rng_state``.
START = pytest.StashKey[RNGState]()


def fixtures_of(item: pytest.Item) -> Iterable[str]:
    return getattr(item, "fixturenames", ())


class Run:
    """One run of pytest in which tests are seeded, watched, or both."""

    def __init__(
        self, config: pytest.Config, seed: int | None, leaks: str, allowed: list[str]
    ) -> None:
        self.config = config
        self.seed = seed
        #: "", "warn" or "error".
        self.leaks = leaks
        self.allowed = allowed
        self.has_randomly = config.pluginmanager.has_plugin("randomly") and bool(
            config.getoption("randomly_reset_seed", True)
        )
        #: The stretches that are running, the innermost last.
        self.running: list[Stretch] = []
        self.test: Stretch | None = None
        #: What was found in this phase of the test.
        self.found: list[str] = []
        #: Where the streams of the test stand at the start of a phase.
        self.at_start: RNGState | None = None

    # The run -----------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist the seed."""
        if self.seed is not None:
            node.workerinput[NAME] = str(self.seed)

    def pytest_report_header(self) -> str:
        wins = " (wins over pytest-randomly)" if self.seed is not None and self.has_randomly else ""
        return f"rngscope: {self.flags()}{wins}"

    def flags(self) -> str:
        """Return the flags that reproduce the run."""
        flags = [] if self.seed is None else [f"--rng-seed={self.seed}"]
        if self.leaks:
            flags.append(f"--rng-leaks={self.leaks}")
        return " ".join(flags)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write_summary(terminalreporter)

    # Collection --------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, Result, Result]:
        """Import each module in a stream of its own: it may draw data for its tests."""
        if self.seed is None:
            return (yield)
        with OpenScope(SOURCES, derive_seed(self.seed, "collect", collector.nodeid)):
            return (yield)

    # A test ------------------------------------------------------------------------------

    # The innermost wrappers: those of other plugins run outside, and their set-up is done
    # when ours refuses to go on.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Result, Result]:
        # Also at each rerun.
        name = node_id(item)
        test = Stretch(self, name, item)
        if self.seed is not None:
            test.streams.append(OpenScope(SOURCES, derive_seed(self.seed, name)))
        marker = item.get_closest_marker("rng_seed")
        if marker is not None:
            test.streams.append(scope_of(marker))
        for stream in test.streams:
            # Named in warnings: nobody opened it in a line of the program.
            stream.function = getattr(item, "function", item)
        test.begin("set-up")
        self.test = test
        return (yield from self.phase(test))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, Result, Result]:
        test = self.test
        # pytest's own plugins fail as well where there was no set-up.
        assert test is not None
        test.begin("call")
        core: Any = sys.modules.get("hypothesis.core")
        if test.seed is None or getattr(core, "global_force_seed", 0) is not None:
            return (yield from self.phase(test))
        # What --hypothesis-seed sets: @seed and derandomize go before it, as they should.
        core.global_force_seed = derive_seed(test.seed, "hypothesis")
        try:
            return (yield from self.phase(test))
        finally:
            core.global_force_seed = None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, Result, Result]:
        test = self.test
        if test is None:
            # Its set-up was refused.
            return (yield)
        try:
            test.begin("tear-down")
        except BaseException:
            # What was set up must be torn down all the same.
            yield
            raise
        return (yield from self.phase(test))

    def phase(self, test: Stretch) -> Generator[None, Result, Result]:
        """Run a phase that has begun, and fail the test for what it moved."""
        self.at_start = RNGState.capture() if self.has_randomly and test.streams else None
        self.keep_start()
        try:
            result = yield
        finally:
            test.end(is_last=test.phase == "tear-down")
        if self.found and self.leaks == "error":
            pytest.fail("\n".join([*self.found, REMEDY]), pytrace=False)
        return result

    def keep_start(self) -> None:
        """Keep the state for the fixture ``rng_state``."""
        test = self.test
        if test and test.item and test.phase == "set-up" and "rng_state" in fixtures_of(test.item):
            test.item.stash[START] = RNGState.capture()

    def was_reseeded(self) -> None:
        """Put right what pytest-randomly did at the start of a phase."""
        if self.test is None or self.running[-1:] != [self.test]:
            return
        if self.at_start is not None:
            self.at_start.restore()
        else:
            self.test.look()
            self.keep_start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and self.test is not None and self.test.streams:
            report.sections.append(("rngscope", how_to_repeat(self, item, self.test)))
        if self.found:
            # An attribute of the report also comes back from a worker of xdist.
            report.rng_leaks, self.found = self.found, []  # type: ignore[attr-defined]
        if call.when == "teardown":
            self.test = None
        return report

    # A fixture ---------------------------------------------------------------------------

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
            if not self.leaks or self.test is None:
                return None
            return Stretch(self, f"{self.test.owner}: fixture {name!r}", part_of=self.test)
        where = request.node.nodeid or "the session"
        stretch = Stretch(self, f"{scope} fixture {name!r} of {where}")
        if self.seed is not None:
            base = getattr(fixturedef, "baseid", "")
            path = ("fixture", request.node.nodeid, base, name, *parameter_of(request))
            seed = derive_seed(self.seed, *path)
            stretch.streams.append(OpenScope(SOURCES, seed, function=fixturedef))
        return stretch
