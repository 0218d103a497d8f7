"""Timing of calls that take microseconds."""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable
from typing import Any


def microseconds(*functions: Callable[[], object], seconds: float = 1.0) -> list[float]:
    """Return the cost of one call of each function, in microseconds.

    The functions take turns in short rounds, so that a busy moment of the machine falls on
    all of them; of each, the fastest round counts. ``seconds`` is the time for each one.
    """
    counts = []
    for function in functions:
        function()
        start = time.perf_counter()
        function()
        once = max(time.perf_counter() - start, 1e-7)
        counts.append(max(1, min(2000, int(0.004 / once))))
    best = [float("inf")] * len(functions)
    deadline = time.perf_counter() + seconds * len(functions)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while time.perf_counter() < deadline:
            for index, (function, count) in enumerate(zip(functions, counts)):
                repeat = range(count)
                start = time.perf_counter()
                for _ in repeat:
                    function()
                best[index] = min(best[index], (time.perf_counter() - start) / count)
    finally:
        if was_enabled:
            gc.enable()
    empty = _cost_of_an_empty_call()
    return [max(seconds_each - empty, 0.0) * 1e6 for seconds_each in best]


def _cost_of_an_empty_call() -> float:
    def nothing() -> None:
        pass

    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(2000):
            nothing()
        best = min(best, (time.perf_counter() - start) / 2000)
    return best


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine behind a figure."""
    described: dict[str, Any] = {
        "cpu": _cpu_model(),
        "gpu": None,
        "gpus": 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }
    for name in ("numpy", "torch", "lightning", "pytorch-ignite", "pytorch-seed"):
        try:
            described[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            described[name] = None
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        described["torch"] = str(torch.__version__)
        if torch.cuda.is_initialized():
            described["gpu"] = torch.cuda.get_device_name(0)
            described["gpus"] = torch.cuda.device_count()
    return described


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
