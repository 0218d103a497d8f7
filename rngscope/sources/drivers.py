"""What can be known of an accelerator's driver and devices without starting it.

Nothing here calls the driver itself: ``torch.cuda.device_count()`` may, and a process in which
the driver was called cannot use CUDA in a forked child any more.
"""

from __future__ import annotations

import os
import sys
import warnings

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The library of NVIDIA's driver, which the CUDA runtime loads at its start.
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def why_it_cannot_start(accelerator: str) -> str | None:
    """Say why an accelerator cannot start in this process; None if nothing speaks against it.

    Known is that there is no driver, or that no device is visible. How many devices there will
    be is not: with MIG the count is another one.
    """
    if accelerator != "cuda":
        # Of the others nothing can be known without starting them.
        return None
    torch: Any = sys.modules["torch"]
    if torch.version.hip:
        count, device, variable = _details.ROCM_DEVICES, "AMD GPU", "HIP_VISIBLE_DEVICES"
    else:
        count, device, variable = _details.CUDA_DEVICES, "NVIDIA GPU", "CUDA_VISIBLE_DEVICES"
    number = _number(_details.find(count))
    if number == 0:
        value = os.environ.get(variable)
        return f"no {device} is visible" + ("" if value is None else f" ({variable}={value!r})")
    if number is None and not torch.version.hip and not _has_driver():
        return f"there is no NVIDIA driver on this machine: no {_DRIVER}"
    return None


def _number(count: Callable[[], int] | None) -> int | None:
    """Return the number of devices; None if it is not known."""
    if count is None:
        return None
    with warnings.catch_warnings():
        # torch warns where the library that knows it fails.
        warnings.simplefilter("ignore")
        try:
            number = count()
        except RuntimeError:
            # The variables contradict each other.
            return None
    return None if number < 0 else number


def _has_driver() -> bool:
    # Loaded, as the runtime does at its start, but not called.
    from ctypes import CDLL

    try:
        CDLL(_DRIVER)
        return True
    except OSError:
        return False
