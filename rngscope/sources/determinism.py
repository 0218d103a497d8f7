"""torch's switches for deterministic kernels, saved and restored like an RNG."""

from __future__ import annotations

import os
import sys

from rngscope import _details
from rngscope.sources.cell import OneCell
from rngscope.sources.torch import torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INDUCTOR = _details.INDUCTOR_DETERMINISTIC
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class DeterminismSource(OneCell):
    """Deterministic algorithms, the two cuDNN flags, and cuBLAS's workspace variable.

    To seed them is to switch them on, whatever the seed.
    """

    name = kind = "determinism"
    module = "torch"
    path = ("determinism",)
    applies_always = True

    def is_present(self) -> bool:
        return torch_module() is not None

    def gather(self, states: object) -> None:
        """Return nothing: these are switches, they have no stream."""

    def getstate(self) -> Any:
        return (
            *_find_switches().read(),
            getattr(sys.modules.get(_INDUCTOR.module), _INDUCTOR.name, None),
            os.environ.get(_WORKSPACE),
        )

    def setstate(self, state: Any) -> None:
        *values, inductor_mode, workspace = state
        _find_switches().write(*values)
        inductor = sys.modules.get(_INDUCTOR.module)
        if hasattr(inductor, _INDUCTOR.name):
            # Inductor that was imported in the block starts with its own default, False.
            setattr(inductor, _INDUCTOR.name, bool(inductor_mode))
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = workspace

    def seed(self, seed: int) -> None:
        workspace = os.environ.get(_WORKSPACE, ":4096:8")
        self.setstate((True, False, True, False, True, workspace))


class _Switches:
    """torch's functions that read and set the switches."""

    def __init__(self) -> None:
        torch, find = sys.modules["torch"], _details.find
        cudnn = torch.backends.cudnn
        self.read_each = (
            find(_details.DETERMINISTIC) or torch.are_deterministic_algorithms_enabled,
            find(_details.DETERMINISTIC_WARN_ONLY)
            or torch.is_deterministic_algorithms_warn_only_enabled,
            find(_details.CUDNN_DETERMINISTIC) or (lambda: cudnn.deterministic),
            find(_details.CUDNN_BENCHMARK) or (lambda: cudnn.benchmark),
        )
        # Not torch.use_deterministic_algorithms, if possible: it imports 800 modules.
        self.set_mode = find(_details.SET_DETERMINISTIC) or torch.use_deterministic_algorithms
        self.set_deterministic = find(_details.SET_CUDNN_DETERMINISTIC) or (
            lambda value: setattr(cudnn, "deterministic", value)
        )
        self.set_benchmark = find(_details.SET_CUDNN_BENCHMARK) or (
            lambda value: setattr(cudnn, "benchmark", value)
        )

    def read(self) -> list[Any]:
        return [read() for read in self.read_each]

    def write(self, mode: bool, warn_only: bool, deterministic: bool, benchmark: bool) -> None:
        self.set_mode(mode, warn_only=warn_only)
        self.set_deterministic(deterministic)
        self.set_benchmark(benchmark)


_switches: _Switches | None = None


def _find_switches() -> _Switches:
    global _switches
    if _switches is None:
        _switches = _Switches()
    return _switches
