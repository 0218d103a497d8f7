"""What is shown: the seed of a failure, the line that repeats it, and the leaks at the end."""

from __future__ import annotations

import os
import shlex

import pytest

from rngscope.pytest_plugin.leaks import Finding
from rngscope.pytest_plugin.names import node_id
from rngscope.pytest_plugin.seeding import fixture_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rngscope.pytest_plugin.run import Run
    from rngscope.pytest_plugin.seeding import Stretch


def remedy(found: Iterable[Finding]) -> list[str]:
    """Return what to do about leaks, a line for each kind of them."""
    found = list(found)
    lines = []
    if sources := sorted({source for finding in found for source in finding.sources}):
        lines.append(
            "Wrap the draws in rng_scope(), give them a generator of their own, or allow "
            f"{'a source' if len(sources) == 1 else 'sources'}: "
            f"rng_leaks_allow = {' '.join(sources)}"
        )
    if any(not finding.sources for finding in found):
        lines.append("Leave each scope where it was entered: with rng_scope(...):")
    return lines


def write_summary(terminalreporter: pytest.TerminalReporter, found: Iterable[Finding]) -> None:
    """List the leaks that came with the reports, and others."""
    reports = sum(terminalreporter.stats.values(), [])
    in_tests = (Finding(*f) for report in reports for f in getattr(report, "rng_leaks", ()))
    # The same line again is a rerun, or another worker of xdist.
    every = {finding.line: finding for finding in (*found, *in_tests)}
    if every:
        terminalreporter.section("rngscope: global RNGs moved outside a scope", yellow=True)
        for line in [*sorted(every), *remedy(every.values())]:
            terminalreporter.write_line(line)


def fail_collection(
    report: pytest.CollectReport, collector: pytest.Collector, found: list[Finding]
) -> None:
    """Fail a collection for what has moved, unless it has failed for something else."""
    if report.outcome == "passed":
        try:
            pytest.fail("\n".join([*(f.text for f in found), *remedy(found)]), pytrace=False)
        except pytest.fail.Exception:
            error = pytest.ExceptionInfo.from_current()
        report.outcome = "failed"
        report.longrepr = collector.repr_failure(error)


def with_seed(args: Iterable[object], seed: int | None) -> tuple[str, ...]:
    """Return the arguments of pytest with the seed that they have led to."""
    words = [str(arg) for arg in args]
    if seed is None:
        return tuple(words)
    # First, and not after a "--": what the user has written goes before what is written there.
    flags = [f"--rng-seed={seed}"]
    for index, word in enumerate(words):
        if word == "--rng-seed=random":
            words[index] = flags[0]
        elif word == "random" and words[index - 1] == "--rng-seed":
            words[index] = str(seed)
    return (*flags, *words)


def how_to_repeat(run: Run, item: pytest.Item, test: Stretch) -> str:
    """Return the section of a failure: its seed, and the line that repeats it."""
    lines = []
    is_marked = item.get_closest_marker("rng_seed") is not None
    again = f" (rerun {test.rerun})" if test.rerun and not is_marked else ""
    if test.streams:
        seed = "none: an RNGState is replayed" if test.seed is None else str(test.seed)
        lines.append(
            f"seed of this test: {seed}{' (its rng_seed marker)' if is_marked else ''}{again}"
        )
    if "rng_seed" in getattr(item, "fixturenames", ()):
        lines.append(f"its fixture rng_seed: {fixture_value(item, test)}")
    flags = [run.flags()] + [f"--rng-rerun={test.rerun}"] * bool(again)
    if isinstance(item, pytest.DoctestItem) and run.config.getoption("doctestmodules"):
        flags.insert(0, "--doctest-modules")
    path, colons, name = node_id(item).partition("::")
    if (here := run.config.invocation_params.dir) != run.config.rootpath:
        path = os.path.relpath(run.config.rootpath / path, here)
    argument = path + colons + name
    is_plain = not set(argument) & set('"$`\\!')
    quoted = f'"{argument}"' if is_plain else shlex.quote(argument)
    lines.append("repeat it: " + " ".join(filter(None, ("pytest", quoted, *flags))))
    return "\n".join(lines)
