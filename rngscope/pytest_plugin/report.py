"""What is shown: the flags, the seed of a failure, and the leaks at the end."""

from __future__ import annotations

import os
import shlex

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rngscope.pytest_plugin.run import Run
    from rngscope.pytest_plugin.seeding import Stretch

REMEDY = (
    "Wrap the draws in rng_scope(), give them a generator of their own, or allow a source: "
    "rng_leaks_allow = torch"
)


def write_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the leaks that came with the reports."""
    reports = sum(terminalreporter.stats.values(), [])
    found = [line for report in reports for line in getattr(report, "rng_leaks", ())]
    if found:
        terminalreporter.section("rngscope: global RNGs moved outside a scope", yellow=True)
        # The same line again is a rerun.
        for line in sorted(set(found)):
            terminalreporter.write_line(line)
        terminalreporter.write_line(REMEDY)


def how_to_repeat(run: Run, item: pytest.Item, test: Stretch) -> str:
    """Return the section of a failure: its seed, and the line that repeats it."""
    is_marked = item.get_closest_marker("rng_seed") is not None
    seed = "none: an RNGState is replayed" if test.seed is None else str(test.seed)
    flags = run.flags()
    if isinstance(item, pytest.DoctestItem) and run.config.getoption("doctestmodules"):
        flags = f"--doctest-modules {flags}"
    path, colons, name = node_id(item).partition("::")
    if (here := run.config.invocation_params.dir) != run.config.rootpath:
        path = os.path.relpath(run.config.rootpath / path, here)
    argument = path + colons + name
    is_plain = not set(argument) & set('"$`\\!')
    quoted = f'"{argument}"' if is_plain else shlex.quote(argument)
    return (
        f"seed of this test: {seed}{' (its rng_seed marker)' if is_marked else ''}\n"
        f"repeat it: {f'pytest {quoted} {flags}'.strip()}"
    )


def node_id(item: pytest.Item) -> str:
    """Return the node id as it is without xdist, which appends the name of a group."""
    head, at, _ = item.nodeid.rpartition("@")
    return head if at and item.get_closest_marker("xdist_group") else item.nodeid
