"""The hooks of a test: its set-up, call and tear-down, and their reports."""

from __future__ import annotations

import sys

import pytest

from rngscope import _details
from rngscope._seeds import derive_seed
from rngscope.pytest_plugin.names import node_id
from rngscope.pytest_plugin.report import how_to_repeat, remedy
from rngscope.pytest_plugin.run import fixtures_of
from rngscope.pytest_plugin.seeding import (
    Stretch,
    count_run,
    scope_of,
    seed_of_test,
    stream_over_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    from rngscope.pytest_plugin.run import Run

    Result = TypeVar("Result")


class PhaseHooks:
    """The hooks of one run that belong to a test.

    The innermost wrappers: those of other plugins run outside, and their set-up is done when
    ours refuses to go on.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        #: Whether it was said that the seed does not reach Hypothesis.
        self.has_warned = False

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Result, Result]:
        test = Stretch(self.run, node_id(item), item=item)
        # Also at each rerun.
        test.rerun = self.run.asked.rerun + count_run(item)
        self.run.take_in_generators()
        if self.run.generators.wrong:
            pytest.fail(self.run.generators.wrong, pytrace=False)
        if self.run.seed is not None:
            test.add(stream_over_all(seed_of_test(self.run.seed, item, test.rerun)))
        marker = item.get_closest_marker("rng_seed")
        if marker is not None:
            test.add(scope_of(marker), is_whole=marker.kwargs.get("sources") is None)
        for stream in test.streams:
            # Named in warnings: nobody opened it in a line of the program.
            stream.origin = getattr(item, "function", item)
        test.begin("set-up")
        self.run.test = test
        return (yield from self.phase(test))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, Result, Result]:
        test = self.run.test
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
        test = self.run.test
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
        is_held = bool(test.streams) and self.run.has_randomly
        if is_held:
            self.run.config.option.randomly_reset_seed = False
        self.run.keep_start()
        try:
            result = yield
        finally:
            if is_held:
                self.run.config.option.randomly_reset_seed = True
            test.end(is_last=test.phase == "tear-down")
        if self.run.watch is not None and self.run.watch.found and self.run.asked.leaks == "error":
            found = self.run.watch.found
            pytest.fail("\n".join([*(f.text for f in found), *remedy(found)]), pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        test = self.run.test
        if report.failed and test is not None:
            if test.streams or "rng_seed" in fixtures_of(item):
                report.sections.append(("rngscope", how_to_repeat(self.run, item, test)))
        if self.run.watch is not None and (found := self.run.watch.take_found()):
            # An attribute of the report also comes back from a worker of xdist.
            report.rng_leaks = [tuple(f) for f in found]  # type: ignore[attr-defined]
        if call.when == "teardown":
            self.run.test = None
        return report
