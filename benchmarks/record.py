"""Measure everything on this machine and keep it: ``python -m benchmarks.record``.

Writes one JSON to ``benchmarks/results``, named after the processor and the GPU, from which
``python -m benchmarks.charts`` draws the charts. On a machine with CUDA GPUs it starts them and
measures there as well. It needs torch and NumPy; other tools are measured if they are installed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy
import torch

from benchmarks import blocks, check
from benchmarks.timing import machine, microseconds
from rngscope import rng_scope
from rngscope.sources import SOURCES
from rngscope.sources.cell import seed_cells
from rngscope.sources.start import Waiting

RESULTS = pathlib.Path(__file__).parent / "results"


def of_tools(seconds: float) -> dict[str, float | None]:
    """Return the cost of a seeded block that restores, for each tool."""
    tools = {
        "bare seed calls": blocks.bare_seeding,
        "rngscope": blocks.rngscope_block,
        "rngscope, torch only": blocks.rngscope_torch_only,
        **blocks.RIVALS,
        "fork_rng, torch only": blocks.fork_rng_torch_only,
        **blocks.PEERS,
    }
    there = {name: block for name, block in tools.items() if block is not None}
    costs = dict(zip(there, microseconds(*there.values(), seconds=seconds)))
    return {name: costs.get(name) for name in tools}


def of_sources(seconds: float) -> dict[str, dict[str, float]]:
    """Return what each source adds to a scope, and what the scope itself costs."""
    parts: dict[str, dict[str, float]] = {}
    with rng_scope(42):
        pass
    for source in SOURCES:
        cells = source.cells()
        if not cells or any(isinstance(cell, Waiting) for cell in cells):
            continue
        states = [(cell, cell.getstate()) for cell in cells]
        save, seed, restore = microseconds(
            lambda cells=cells: [cell.getstate() for cell in cells],
            lambda cells=cells: seed_cells(cells, 42),
            lambda states=states: [cell.setstate(state) for cell, state in states],
            seconds=seconds,
        )
        parts[source.name] = {"save": save, "seed": seed, "restore": restore}
    return parts


def of_devices(seconds: float) -> dict[str, Any]:
    """Return the cost of a scope for each number of started devices."""
    if not torch.backends.cuda.is_built() or not torch.cuda.is_available():
        return {}
    unstarted = _leaves_cuda_unstarted()
    torch.cuda.init()
    costs = {}
    for count in range(len(torch.cuda.default_generators) + 1):
        devices = list(range(count))

        def block(devices: list[int] = devices) -> None:
            with rng_scope(42, devices=devices):
                pass

        costs[str(count)] = microseconds(block, seconds=seconds)[0]

    def cuda_alone() -> None:
        with rng_scope(42, sources=["cuda"]):
            pass

    def fork_rng() -> None:
        with torch.random.fork_rng(devices=[0]):
            torch.manual_seed(42)

    allocated = torch.cuda.memory_allocated()
    alone, forked = microseconds(cuda_alone, fork_rng, seconds=seconds)
    torch.cuda._sleep(10**11)
    kernel = torch.cuda.Event()
    kernel.record()
    in_flight = microseconds(blocks.rngscope_block, seconds=seconds)[0]
    is_running = not kernel.query()
    return {
        "scope": costs,
        "sources=['cuda']": alone,
        "fork_rng(devices=[0]) + torch.manual_seed": forked,
        "scope while a kernel runs": in_flight,
        "the kernel still ran after": is_running,
        "bytes allocated on the device": torch.cuda.memory_allocated() - allocated,
        "an entered scope leaves CUDA unstarted": unstarted,
    }


def _leaves_cuda_unstarted() -> bool:
    code = (
        "import torch, rngscope\n"
        "with rngscope.rng_scope(42): torch.rand(3)\n"
        "assert not torch.cuda.is_initialized()"
    )
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement")
    parser.add_argument("--into", type=pathlib.Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    numpy.random.rand()
    seconds = options.seconds
    tools, sources = of_tools(seconds), of_sources(seconds)
    rows = [row._asdict() for row in check.measure(seconds)]
    devices = of_devices(seconds)
    here = machine()
    result = {"machine": here, "tools": tools, "sources": sources, "devices": devices}
    result["by hand"] = list(blocks.RIVALS)
    result["targets"] = rows
    name = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['gpu'] or ''}".lower()).strip("-")
    options.into.mkdir(parents=True, exist_ok=True)
    path = options.into / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
