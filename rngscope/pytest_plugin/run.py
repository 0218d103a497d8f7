"""What works while a run is seeded or watched: the hooks of its tests and fixtures."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property, partial

import pytest

from rngscope import _details
from rngscope._open_scopes import lock
from rngscope._seeds import derive_seed
from rngscope._sources import SOURCES
from rngscope._state import RNGState
from rngscope.pytest_plugin.generators import Generators
from rngscope.pytest_plugin.imports import Imports
from rngscope.pytest_plugin.leaks import Finding, Watch
from rngscope.pytest_plugin.names import node_id, node_name
from rngscope.pytest_plugin.options import NAME, Asked
from rngscope.pytest_plugin.report import (
    fail_collection,
    how_to_repeat,
    remedy,
    with_seed,
    write_summary,
)
from rngscope.pytest_plugin.seeding import (
    Stream,
    Stretch,
    count_run,
    scope_of,
    seed_of_fixture,
    seed_of_test,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

#: The state at the start of a test, for the fixture ``rng_state``.
START = pytest.StashKey[RNGState]()


def fixtures_of(item: pytest.Item) -> Iterable[str]:
    """Return the names of the fixtures that a test uses."""
    return getattr(item, "fixturenames", ())


class Run:
    """One run of pytest in which tests are seeded, watched, or both."""

    def __init__(self, config: pytest.Config, asked: Asked) -> None:
        self.config = config
        self.asked = asked
        self.seed = asked.seed
        self.watch = Watch(asked.allowed) if asked.leaks else None
        self.generators = Generators(asked.generators)
        self.imports = Imports(self)
        #: Whether it was said that the seed does not reach Hypothesis.
        self.has_warned = False
        #: The stretches that are running, the innermost last.
        self.running: list[Stretch] = []
        self.test: Stretch | None = None
        #: What was found outside of tests: in imports, and in collection.
        self.found: list[Finding] = []

    # The run -----------------------------------------------------------------------------

    @cached_property
    def has_randomly(self) -> bool:
        """Tell whether pytest-randomly seeds every test."""
        has_plugin = self.config.pluginmanager.has_plugin("randomly")
        return has_plugin and getattr(self.config.option, "randomly_reset_seed", True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config) -> None:
        """Tell the workers of xdist the seed, before they import conftest files."""
        # What a worker is told in other ways comes after that.
        params = config.invocation_params
        config.invocation_params = replace(params, args=with_seed(params.args, self.seed))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear from a worker of xdist what it has found in imports."""
        found = getattr(node, "workeroutput", {}).get(NAME, ())
        self.found += (Finding(*finding) for finding in found)

    def pytest_sessionfinish(self) -> None:
        if self.watch is not None:
            self.found += self.watch.take_found()
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput[NAME] = [tuple(finding) for finding in self.found]

    def pytest_report_header(self) -> str:
        wins = " (wins over pytest-randomly)" if self.seed is not None and self.has_randomly else ""
        return f"rngscope: {self.flags()}{wins}"

    def flags(self) -> str:
        """Return the flags that reproduce the run."""
        flags = [] if self.seed is None else [f"--rng-seed={self.seed}"]
        if self.asked.leaks:
            flags.append(f"--rng-leaks={self.asked.leaks}")
        return " ".join(flags)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write_summary(terminalreporter, self.found)

    def watch_who_runs(self) -> None:
        """Look at the RNGs for the innermost of what runs now."""
        assert self.watch is not None
        stretch = self.running[-1] if self.running else None
        self.watch.switch(stretch if stretch and stretch.is_watched else None)

    def take_in_generators(self, complete: str = "") -> None:
        """Have all that runs now cover the RNG objects whose modules are there by now."""
        if complete and complete not in self.generators.waiting:
            return
        for source in self.generators.look(complete):
            with lock:
                for stretch in self.running:
                    for stream in stretch.whole:
                        if stream.saved is not None:
                            stream.take_in(source)

    # Collection --------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Collect in a stream of its own: hooks and parameters may draw."""
        name = node_name(collector)
        stretch = Stretch(self, part := f"collection of {name or 'the session'}", part)
        if self.seed is not None:
            seed = derive_seed(self.seed, "collect", name)
            stretch.add(Stream(SOURCES, seed, function=collector))
        stretch.begin("")
        try:
            report = yield
        finally:
            stretch.end(is_last=True)
        # What conftest files did fails the next file with tests: without its folder it has none.
        if self.watch is not None and isinstance(collector, pytest.File):
            if found := self.watch.take_found():
                self.found += found
                if self.asked.leaks == "error":
                    fail_collection(report, collector, found)
        return report

    def ask_for_generators(self) -> None:
        """Take in what plugins and conftest files want to have seeded.

        Raises:
            pytest.UsageError: it cannot be, or a name in the ini file is wrong.
        """
        try:
            for objects in self.config.hook.pytest_rng_generators(config=self.config):
                self.generators.add(objects)
        except TypeError as error:
            raise pytest.UsageError(f"pytest_rng_generators: {error}") from None
        self.take_in_generators()
        if self.generators.wrong:
            raise pytest.UsageError(self.generators.wrong)

    # A test ------------------------------------------------------------------------------

    # The innermost wrappers: those of other plugins run outside, and their set-up is done
    # when ours refuses to go on.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Result, Result]:
        test = Stretch(self, node_id(item), item=item)
        # Also at each rerun.
        test.rerun = self.asked.rerun + count_run(item)
        self.take_in_generators()
        if self.generators.wrong:
            pytest.fail(self.generators.wrong, pytrace=False)
        if self.seed is not None:
            test.add(Stream(SOURCES, seed_of_test(self.seed, item, test.rerun)))
        marker = item.get_closest_marker("rng_seed")
        if marker is not None:
            test.add(scope_of(marker), is_whole=marker.kwargs.get("sources") is None)
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
        # What --hypothesis-seed sets: @seed and derandomize go before it, as they should.
        row = _details.HYPOTHESIS_SEED
        forced = _details.find(row, default=row)
        if test.seed is None or forced is not None:
            if forced is row:
                self.warn_of_examples(test)
            return (yield from self.phase(test))
        core = sys.modules[row.module]
        setattr(core, row.name, derive_seed(test.seed, "hypothesis"))
        try:
            return (yield from self.phase(test))
        finally:
            setattr(core, row.name, None)

    def warn_of_examples(self, test: Stretch) -> None:
        """Say once that the seed of a test does not reach its examples."""
        function = getattr(test.item, "obj", None)
        is_under_given = getattr(function, "is_hypothesis_test", False)
        if test.item and test.seed is not None and is_under_given and not self.has_warned:
            self.has_warned = True
            message = (
                f"the examples of tests under @given do not follow from --rng-seed: this "
                f"Hypothesis has no {_details.HYPOTHESIS_SEED.path}; add --hypothesis-seed"
            )
            test.item.warn(pytest.PytestWarning(message))

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
        # pytest-randomly would seed anew, in hooks that run inside of this.
        is_held = bool(test.streams) and self.has_randomly
        if is_held:
            self.config.option.randomly_reset_seed = False
        self.keep_start()
        try:
            result = yield
        finally:
            if is_held:
                self.config.option.randomly_reset_seed = True
            test.end(is_last=test.phase == "tear-down")
        if self.watch is not None and self.watch.found and self.asked.leaks == "error":
            found = self.watch.found
            pytest.fail("\n".join([*(f.text for f in found), *remedy(found)]), pytrace=False)
        return result

    def keep_start(self) -> None:
        """Keep the state for the fixture ``rng_state``."""
        test = self.test
        if test and test.item and test.phase == "set-up" and "rng_state" in fixtures_of(test.item):
            test.item.stash[START] = RNGState.capture()

    def was_reseeded(self) -> None:
        """Take what pytest-randomly did at the start of a phase as no doing of the test."""
        if self.test is not None and self.running[-1:] == [self.test] and not self.test.streams:
            if self.watch is not None:
                self.watch.look_again()
            self.keep_start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        test = self.test
        if report.failed and test is not None:
            if test.streams or "rng_seed" in fixtures_of(item):
                report.sections.append(("rngscope", how_to_repeat(self, item, test)))
        if self.watch is not None and (found := self.watch.take_found()):
            # An attribute of the report also comes back from a worker of xdist.
            report.rng_leaks = [tuple(f) for f in found]  # type: ignore[attr-defined]
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
            if self.watch is None or self.test is None:
                return None
            part = f"fixture {name!r}"
            return Stretch(self, f"{self.test.owner}: {part}", part, part_of=self.test)
        where = request.node.nodeid or "the session"
        part = f"{scope} fixture {name!r} of {where}"
        stretch = Stretch(self, part, part, is_wide=True)
        if self.seed is not None:
            seed = seed_of_fixture(self.seed, fixturedef, request)
            stretch.add(Stream(SOURCES, seed, function=fixturedef))
        return stretch
