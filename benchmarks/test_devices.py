"""Started GPUs: what each one adds, and that nothing waits for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rngscope import rng_scope

pytestmark = pytest.mark.benchmark(group="devices")


@pytest.fixture
def cuda() -> Any:
    if not torch.backends.cuda.is_built() or not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.cuda.init()
    return torch.cuda


def test_cuda_alone(benchmark: Any, cuda: Any) -> None:
    def block() -> None:
        with rng_scope(42, sources=["cuda"]):
            pass

    benchmark(block)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8])
def test_number_of_devices(benchmark: Any, cuda: Any, count: int) -> None:
    if count > len(cuda.default_generators):
        pytest.skip(f"needs {count} CUDA GPUs")
    devices = list(range(count))

    def block() -> None:
        with rng_scope(42, devices=devices):
            pass

    benchmark(block)


def test_while_a_kernel_runs(benchmark: Any, cuda: Any) -> None:
    def block() -> None:
        with rng_scope(42):
            pass

    cuda._sleep(10**11)
    finished = cuda.Event()
    finished.record()
    benchmark.pedantic(block, rounds=100, iterations=10)
    assert not finished.query(), "the scope has waited for the kernel"
