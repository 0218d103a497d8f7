"""The hooks around all tests: workers of xdist, collection, what is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rngscope._seeds import derive_seed
from rngscope.pytest_plugin.leaks import Finding
from rngscope.pytest_plugin.names import node_name
from rngscope.pytest_plugin.options import NAME
from rngscope.pytest_plugin.report import fail_collection, with_seed, write_summary
from rngscope.pytest_plugin.seeding import Stretch, stream_over_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from rngscope.pytest_plugin.run import Run


class SessionHooks:
    """The hooks of one run that belong to no test."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config) -> None:
        """Tell the workers of xdist the seed, before they import conftest files."""
        # What a worker is told in other ways comes after that.
        params = config.invocation_params
        config.invocation_params = replace(params, args=with_seed(params.args, self.run.seed))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear from a worker of xdist what it has found in imports."""
        found = getattr(node, "workeroutput", {}).get(NAME, ())
        self.run.found += (Finding(*finding) for finding in found)

    def pytest_sessionfinish(self) -> None:
        if self.run.watch is not None:
            self.run.found += self.run.watch.take_found()
        if hasattr(self.run.config, "workeroutput"):
            self.run.config.workeroutput[NAME] = [tuple(finding) for finding in self.run.found]

    def pytest_report_header(self) -> str:
        run = self.run
        wins = run.seed is not None and run.has_randomly
        return f"rngscope: {run.flags()}{' (wins over pytest-randomly)' * wins}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write_summary(terminalreporter, self.run.found)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Collect in a stream of its own: hooks and parameters may draw."""
        name = node_name(collector)
        stretch = Stretch(self.run, part := f"collection of {name or 'the session'}", part)
        if self.run.seed is not None:
            seed = derive_seed(self.run.seed, "collect", name)
            stretch.add(stream_over_all(seed, collector))
        stretch.begin("")
        try:
            report = yield
        finally:
            stretch.end(is_last=True)
        # What conftest files did fails the next file with tests: without its folder it has none.
        if self.run.watch is not None and isinstance(collector, pytest.File):
            if found := self.run.watch.take_found():
                self.run.found += found
                if self.run.asked.leaks == "error":
                    fail_collection(report, collector, found)
        return report
