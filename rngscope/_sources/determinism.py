"""torch's switches for deterministic kernels, saved and restored like a source."""

from __future__ import annotations

import os
import sys

from rngscope._sources.torch_cpu import torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class DeterminismSource:
    """Deterministic algorithms, the two cuDNN flags, and cuBLAS's workspace variable.

    To seed them is to switch them on, whatever the seed.
    """

    name = identity = "determinism"
    library = "torch"
    is_switch = True
    keeps_fresh_seed_after_fork = False

    def is_present(self) -> bool:
        return torch_module() is not None

    def portable(self, state: Any) -> None:
        """Return nothing: these are switches, they have no stream."""

    def save(self) -> Any:
        torch_c = sys.modules["torch"]._C
        inductor = sys.modules.get("torch._inductor.config")
        return (
            torch_c,
            torch_c._get_deterministic_algorithms(),
            torch_c._get_deterministic_algorithms_warn_only(),
            torch_c._get_cudnn_deterministic(),
            torch_c._get_cudnn_benchmark(),
            getattr(inductor, "deterministic", None),
            os.environ.get(_WORKSPACE),
        )

    def restore(self, state: Any) -> None:
        torch_c, mode, warn_only, deterministic, benchmark, inductor_mode, workspace = state
        # Not torch.use_deterministic_algorithms: it imports 800 modules.
        torch_c._set_deterministic_algorithms(mode, warn_only=warn_only)
        torch_c._set_cudnn_deterministic(deterministic)
        torch_c._set_cudnn_benchmark(benchmark)
        inductor = sys.modules.get("torch._inductor.config")
        if hasattr(inductor, "deterministic"):
            # Inductor that was imported in the block starts with its own default, False.
            inductor.deterministic = bool(inductor_mode)  # type: ignore[union-attr]
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = workspace

    def seed(self, seed: int, independent: bool) -> None:
        torch_c = sys.modules["torch"]._C
        workspace = os.environ.get(_WORKSPACE, ":4096:8")
        self.restore((torch_c, True, False, True, False, True, workspace))
