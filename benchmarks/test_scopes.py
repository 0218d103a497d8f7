"""The whole scope, beside the bare seed calls and beside other tools."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy
import pytest
import torch

from benchmarks import blocks
from rngscope import RNGState, rng_scope, seeded

OURS: dict[str, Callable[[], None]] = {
    "bare seed calls (the unit)": blocks.bare_seeding,
    "seeded": blocks.rngscope_block,
    "a new seed each time": blocks.rngscope_new_seed,
    "preserving": blocks.rngscope_preserving,
    "decorated": blocks.decorated,
    "torch only": blocks.rngscope_torch_only,
}
TOOLS: dict[str, Callable[[], None] | None] = {
    "rngscope": blocks.rngscope_block,
    "rngscope, torch only": blocks.rngscope_torch_only,
    **blocks.RIVALS,
    "fork_rng, torch only": blocks.fork_rng_torch_only,
    **blocks.PEERS,
}


@pytest.mark.benchmark(group="scope")
@pytest.mark.parametrize("what", OURS)
def test_scope(benchmark: Any, what: str) -> None:
    benchmark(OURS[what])


@pytest.mark.benchmark(group="scope")
def test_replayed(benchmark: Any) -> None:
    state = RNGState.capture()

    def replayed() -> None:
        with rng_scope(state):
            pass

    benchmark(replayed)


@pytest.mark.benchmark(group="scope")
def test_stream(benchmark: Any) -> None:
    benchmark(blocks.rngscope_stream)


@pytest.mark.benchmark(group="a seeded block, per tool")
@pytest.mark.parametrize("tool", TOOLS)
def test_tool(benchmark: Any, tool: str) -> None:
    block = TOOLS[tool]
    if block is None:
        pytest.skip(f"{tool} is not installed: pip install 'rngscope[bench]'")
    with rng_scope():
        benchmark(block)


@pytest.mark.parametrize("tool", [name for name in TOOLS if name not in blocks.PEERS])
def test_what_is_compared_restores(tool: str) -> None:
    # With the second half of a Gaussian pair in each.
    random.gauss(0, 1), numpy.random.standard_normal(), torch.randn(1)
    before = _states()
    block = TOOLS[tool]
    assert block is not None
    block()
    assert _states() == before


def _states() -> list[Any]:
    name, words, *rest = numpy.random.get_state()
    torch_state = torch.default_generator.get_state().tolist()
    return [random.getstate(), name, words.tolist(), rest, torch_state]


@pytest.mark.benchmark(group="nested scopes")
@pytest.mark.parametrize("depth", [1, 10, 100, 1000])
def test_nesting(benchmark: Any, depth: int) -> None:
    scopes = [rng_scope(42) for _ in range(depth)]

    def nested() -> None:
        with ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(scope)

    benchmark(nested)


@seeded(42)
def endless() -> Iterator[None]:
    while True:
        yield


@seeded(42)
async def suspends(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.mark.benchmark(group="one suspension")
def test_step_of_a_generator(benchmark: Any) -> None:
    steps = endless()
    benchmark(next, steps)
    steps.close()


@pytest.mark.benchmark(group="a hundred suspensions")
def test_coroutine(benchmark: Any) -> None:
    def run() -> None:
        coroutine = suspends(100)
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            pass

    benchmark(run)
