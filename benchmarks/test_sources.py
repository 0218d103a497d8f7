"""Where a scope's time goes: save, seed and restore of each source."""

from __future__ import annotations

from typing import Any

import pytest

from rngscope import rng_scope
from rngscope.sources import SOURCES, memory
from rngscope.sources.cell import SeededStates, seed_cells

BY_NAME = {source.name: source for source in SOURCES}
NAMES = ("python", "numpy", "torch", "cuda")


@pytest.fixture(params=NAMES)
def source(request: Any) -> Any:
    found = BY_NAME[request.param]
    if request.param == "cuda":
        torch = pytest.importorskip("torch")
        if not torch.backends.cuda.is_built() or not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")
        torch.cuda.init()
    if not found.cells():
        pytest.skip(f"{request.param} is not there")
    with rng_scope():
        yield found


@pytest.fixture(params=("fast", "API"), autouse=True)
def path(request: Any, source: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "API":
        view = {"python": "_view", "numpy": "_views"}.get(source.name)
        if view is None:
            pytest.skip("has one path only")
        monkeypatch.setattr(memory, "fast_paths", False)
        monkeypatch.setattr(source, view, None)
        # The states that seeds lead to are in the form of the other path.
        monkeypatch.setattr(source, "seeded_states", SeededStates())
    return request.param


@pytest.fixture
def cells(path: str, source: Any) -> Any:
    return source.cells()


@pytest.mark.benchmark(group="save")
def test_save(benchmark: Any, cells: Any) -> None:
    benchmark(lambda: [cell.getstate() for cell in cells])


@pytest.mark.benchmark(group="seed, always the same")
def test_seed(benchmark: Any, cells: Any) -> None:
    benchmark(seed_cells, cells, 42)


@pytest.mark.benchmark(group="seed, a new one each time")
def test_new_seed(benchmark: Any, cells: Any) -> None:
    seeds = iter(range(10**9))
    benchmark(lambda: seed_cells(cells, next(seeds)))


@pytest.mark.benchmark(group="restore")
def test_restore(benchmark: Any, cells: Any) -> None:
    states = [(cell, cell.getstate()) for cell in cells]
    benchmark(lambda: [cell.setstate(state) for cell, state in states])
