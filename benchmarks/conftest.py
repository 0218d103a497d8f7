"""What every benchmark shares."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from benchmarks.timing import machine


@pytest.fixture(autouse=True)
def numpy_random_is_imported() -> None:
    # On first use only, in NumPy 2.
    numpy.random.rand()


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info.update(machine())
