"""Streams, data sets and ranks, each beside what it stands on.

    python -m benchmarks.stream_and_data

prints all tables; each function returns the numbers of one.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import numpy.random
import torch
import torch.distributed
import torch.multiprocessing

from benchmarks.timing import microseconds
from rngscope import RNGState, RNGStream, rng_scope
from rngscope.data import per_item
from rngscope.distributed import PerRank, assert_in_sync, sync
from rngscope.distributed.calls import bytes_of, rows_of
from rngscope.distributed.differences import differences
from rngscope.sources import SOURCES

#: What one rank sends in assert_in_sync.
BYTES = 80


def stream_against_scope(seconds: float = 1.0) -> dict[str, float]:
    """Return microseconds of an empty block over python, numpy and torch."""
    stream = RNGStream(42)

    def scope() -> None:
        with rng_scope(42):
            pass

    def preserving() -> None:
        with rng_scope():
            pass

    def use() -> None:
        with stream:
            pass

    def nested_use() -> None:
        with stream:
            with stream:
                pass

    def through_a_scope() -> None:
        with stream:
            with rng_scope(7):
                with stream:
                    pass

    functions = [scope, preserving, use, nested_use, through_a_scope]
    return _costs(functions, seconds)


def item_against_bare(seconds: float = 1.0) -> dict[str, float]:
    """Return microseconds of one item of a data set whose items cost nothing."""

    class Numbers:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> int:
            return index

    bare, wrapped = Numbers(), per_item(Numbers(), 42)
    of_python = per_item(Numbers(), 42, sources=["python"])
    count = iter(range(10**9))

    def bare_item() -> None:
        bare[next(count) % 1000]

    def scope_of_a_new_seed() -> None:
        with rng_scope(next(count), independent=True):
            pass

    def item() -> None:
        wrapped[next(count) % 1000]

    def item_python_only() -> None:
        of_python[next(count) % 1000]

    functions = [bare_item, scope_of_a_new_seed, item, item_python_only]
    return _costs(functions, seconds)


def ranks_against_all_gather(ranks: int, calls: int = 200) -> dict[str, float]:
    """Return microseconds of one call on the first of some ranks, the median of many (gloo)."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ranks, calls, folder), ranks)
        lines = Path(folder, "costs").read_text().splitlines()
    return {name: float(cost) for name, cost in (line.rsplit(" ", 1) for line in lines)}


def _costs(functions: list[Callable[[], None]], seconds: float) -> dict[str, float]:
    costs = microseconds(*functions, seconds=seconds)
    return {function.__name__: cost for function, cost in zip(functions, costs)}


def _rank(rank: int, ranks: int, calls: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    data = torch.zeros(BYTES, dtype=torch.uint8)
    everyone = [torch.zeros_like(data) for _ in range(ranks)]
    checkpoint = PerRank()

    def all_gather() -> None:
        torch.distributed.all_gather(everyone, data)

    def sync_that_copies() -> None:
        random.seed(rank)
        sync()

    def fingerprints() -> None:
        RNGState.capture().fingerprints()

    def per_rank_checkpoint() -> None:
        checkpoint.load_state_dict(checkpoint.state_dict())

    functions = [all_gather, assert_in_sync, fingerprints, sync_that_copies, per_rank_checkpoint]
    costs = {}
    for function in functions:
        times = []
        for _ in range(calls):
            torch.distributed.barrier()
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) * 1e6)
        costs[function.__name__] = statistics.median(times[calls // 10 :])
    if rank == 0:
        lines = [f"{name} {cost}" for name, cost in costs.items()]
        Path(folder, "costs").write_text("\n".join(lines))
    torch.distributed.destroy_process_group()


def sizes() -> dict[str, int]:
    """Return bytes of what is sent and written for one rank."""
    import json

    stream = RNGStream(42)
    with stream:
        pass
    return {
        "assert_in_sync, sent by a rank": BYTES,
        "global RNGs, as JSON": len(json.dumps(RNGState.capture().state_dict())),
        "a stream, as JSON": len(json.dumps(stream.state_dict())),
    }


def thousands_of_ranks(ranks: int = 4096) -> dict[str, float]:
    """Return milliseconds that one rank spends on what all the others sent, one differing."""
    kinds = len(SOURCES)
    digests = [bytes([7]) * 8 * kinds for _ in range(ranks)]
    digests[17] = bytes([9]) * 8 * kinds
    rows = rows_of(ranks, BYTES, "cpu")
    start = time.perf_counter()
    bytes_of(rows)
    differences(digests, list(range(ranks)))
    return {f"compare {ranks} ranks": (time.perf_counter() - start) * 1e3}


def _print(title: str, numbers: dict[str, Any], unit: str) -> None:
    print(f"\n{title} ({unit})")
    for name, number in numbers.items():
        print(f"  {name.replace('_', ' '):32} {number:10.1f}")


def main() -> None:
    _print("An empty block", stream_against_scope(), "us")
    _print("One item", item_against_bare(), "us")
    _print("Sizes", sizes(), "bytes")
    _print("By itself", thousands_of_ranks(), "ms")
    for ranks in (1, 2, 4, 8):
        title = f"One call, {ranks} rank(s) on {os.cpu_count()} cores"
        _print(title, ranks_against_all_gather(ranks), "us")


if __name__ == "__main__":
    main()
