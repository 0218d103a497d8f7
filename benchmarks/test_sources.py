"""Where a scope's time goes: save, seed and restore of each source."""

from __future__ import annotations

from typing import Any

import pytest

from rngscope import rng_scope
from rngscope._sources import SOURCES, memory

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
    if not found.is_present():
        pytest.skip(f"{request.param} is not there")
    with rng_scope():
        yield found


@pytest.fixture(params=("fast", "public"), autouse=True)
def road(request: Any, source: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "public":
        view = {"python": "_view", "numpy": "_views"}.get(source.name)
        if view is None:
            pytest.skip("has one road only")
        monkeypatch.setattr(memory, "fast_roads", False)
        monkeypatch.setattr(source, view, None)
    return request.param


@pytest.mark.benchmark(group="save")
def test_save(benchmark: Any, source: Any) -> None:
    benchmark(source.save)


@pytest.mark.benchmark(group="seed, always the same")
def test_seed(benchmark: Any, source: Any) -> None:
    benchmark(source.seed, 42, False)


@pytest.mark.benchmark(group="seed, a new one each time")
def test_new_seed(benchmark: Any, source: Any) -> None:
    seeds = iter(range(10**9))
    benchmark(lambda: source.seed(next(seeds), False))


@pytest.mark.benchmark(group="restore")
def test_restore(benchmark: Any, source: Any) -> None:
    benchmark(source.restore, source.save())
