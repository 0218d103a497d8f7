"""Compare the cost of a scope with its targets: ``python -m benchmarks.check``.

Every row is a ratio of two costs that were measured in turns, on one machine, in one run.
The exit status is 1 when a row is off its target by more than a factor of two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tracemalloc
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy
import torch

from benchmarks import blocks
from benchmarks.timing import machine, microseconds
from rngscope import rng_scope

#: A row that is further off than this is a failure; the machines of a CI are no laboratory.
TOLERANCE = 2.0


class Row(NamedTuple):
    """One target: the measured value must not be above it."""

    what: str
    target: float
    measured: float | None
    unit: str
    detail: str

    @property
    def is_met(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.target

    @property
    def is_far_off(self) -> bool:
        return self.measured is not None and self.measured > TOLERANCE * self.target


def measure(seconds: float) -> list[Row]:
    numpy.random.rand()
    return [
        *against_bare_seeding(seconds),
        *against_peers(seconds),
        memory_of_an_open_scope(),
        *a_million_in_a_row(1_000_000 if seconds >= 0.5 else 100_000),
        nesting(seconds),
        stack_depth(seconds),
        import_time(),
        *devices(seconds),
    ]


def against_bare_seeding(seconds: float) -> list[Row]:
    unit, scope, new, preserving, decorated, bare = microseconds(
        blocks.bare_seeding,
        blocks.rngscope_block,
        blocks.rngscope_new_seed,
        blocks.rngscope_preserving,
        blocks.decorated,
        blocks.bare,
        seconds=seconds,
    )

    def row(what: str, target: float, cost: float) -> Row:
        return Row(what, target, cost / unit, "S", f"{cost:.2f} us; S = {unit:.2f} us")

    return [
        row("with rng_scope(42): pass", 1.0, scope),
        row("with rng_scope(a new seed): pass", 1.5, new),
        row("with rng_scope(): pass", 0.7, preserving),
        row("a call under @seeded(42), minus the bare call", 1.15, decorated - bare),
    ]


def against_peers(seconds: float) -> list[Row]:
    names = [name for name, block in blocks.PEERS.items() if block is not None]
    peers = [blocks.PEERS[name] or blocks.bare for name in names]
    ours, ours_torch, fork_rng, *theirs = microseconds(
        blocks.rngscope_block,
        blocks.rngscope_torch_only,
        blocks.fork_rng_torch_only,
        *peers,
        seconds=seconds,
    )
    rows = []
    for name in blocks.PEERS:
        what = f"a seeded block, of that of {name}"
        if name not in names:
            rows.append(Row(what, 1 / 25, None, "", "not installed"))
            continue
        cost = theirs[names.index(name)]
        rows.append(
            Row(what, 1 / 25, ours / cost, "", f"{ours:.2f} of {cost:.1f} us: {cost / ours:.1f}x")
        )
    what = "sources=['torch'], of fork_rng(devices=[]) + torch.manual_seed"
    detail = f"{ours_torch:.2f} of {fork_rng:.1f} us: {fork_rng / ours_torch:.1f}x"
    return [*rows, Row(what, 1 / 25, ours_torch / fork_rng, "", detail)]


def memory_of_an_open_scope() -> Row:
    count = 100
    with ExitStack() as stack:
        stack.enter_context(rng_scope(42))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            stack.enter_context(rng_scope(42))
        python = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
    tensor = torch.default_generator.get_state().nbytes
    kib = (python + tensor) / 1024
    return Row("memory of an open scope", 16.0, kib, "KiB", f"{tensor} bytes of it torch's state")


def a_million_in_a_row(count: int) -> list[Row]:
    for _ in range(10_000):
        blocks.rngscope_new_seed()
    queued, resident = len(torch.cuda._queued_calls), _resident_bytes()
    for _ in range(count):
        blocks.rngscope_new_seed()
    grown = (_resident_bytes() - resident) / 1024
    more = len(torch.cuda._queued_calls) - queued
    return [
        Row(f"resident memory after {count} scopes", 1024.0, grown, "KiB more", ""),
        Row(f"torch.cuda._queued_calls after {count} scopes", 0.0, more, "more", ""),
    ]


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as fields:
            return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def nesting(seconds: float) -> Row:
    scopes = [rng_scope(42) for _ in range(1000)]

    def nested() -> None:
        with ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(scope)

    def in_a_row() -> None:
        for scope in scopes:
            with ExitStack() as stack:
                stack.enter_context(scope)

    deep, flat = microseconds(nested, in_a_row, seconds=seconds)
    detail = f"{deep / 1000:.2f} against {flat / 1000:.2f} us each"
    return Row("1000 scopes nested, of 1000 in a row", 1.5, deep / flat, "", detail)


def stack_depth(seconds: float) -> Row:
    def at_depth(depth: int) -> float:
        if depth:
            return at_depth(depth - 1)
        return microseconds(blocks.rngscope_block, seconds=seconds)[0]

    # In turns: a busy moment must not fall on one of them only.
    pairs = [(at_depth(500), at_depth(0)) for _ in range(3)]
    deep, flat = min(d for d, _ in pairs), min(f for _, f in pairs)
    detail = f"{deep:.2f} against {flat:.2f} us"
    return Row("a scope at stack depth 500, of one at depth 0", 1.2, deep / flat, "", detail)


def import_time() -> Row:
    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        return time.perf_counter() - start

    # With compiled files beside the sources, as after an installation.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    code = "import rngscope, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    run(code)
    pairs = [(run(code), run("pass")) for _ in range(15)]
    added = (min(a for a, _ in pairs) - min(b for _, b in pairs)) * 1000
    return Row("import rngscope, over a bare interpreter", 10.0, added, "ms", "")


def devices(seconds: float) -> list[Row]:
    names = (
        "one started GPU more, per scope",
        "a seeded block on a GPU, of fork_rng(devices=[0]) + torch.manual_seed",
    )
    if not torch.backends.cuda.is_built() or not torch.cuda.is_available():
        return [
            Row(names[0], 2.5, None, "us", "no CUDA GPU here"),
            Row(names[1], 1 / 5, None, "", "no CUDA GPU here"),
        ]
    torch.cuda.init()

    def fork_rng() -> None:
        with torch.random.fork_rng(devices=[0]):
            torch.manual_seed(42)

    def without_devices() -> None:
        with rng_scope(42, devices=[]):
            pass

    count = len(torch.cuda.default_generators)
    ours, without, theirs = microseconds(
        blocks.rngscope_block, without_devices, fork_rng, seconds=seconds
    )
    return [
        Row(names[0], 2.5, (ours - without) / count, "us", f"{count} device(s)"),
        Row(names[1], 1 / 5, ours / theirs, "", f"{ours:.2f} of {theirs:.1f} us"),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    rows = measure(options.seconds)
    here: dict[str, Any] = machine()
    print(f"{here['cpu']}, GPU {here['gpu']}, {here['python']}, torch {here['torch']}")
    for row in rows:
        measured = "unmeasured" if row.measured is None else f"{row.measured:.3f}"
        verdict = {None: "-", True: "met", False: "missed"}[row.is_met]
        if row.is_far_off:
            verdict = "FAR OFF"
        print(
            f"{verdict:8} {row.what:72} {measured:>10} (target {row.target:.3g} {row.unit}) "
            f"{row.detail}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": here, "rows": [row._asdict() for row in rows]}, file, indent=1)
    return int(any(row.is_far_off for row in rows))


if __name__ == "__main__":
    sys.exit(main())
