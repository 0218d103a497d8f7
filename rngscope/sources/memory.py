"""States as memory: views of a generator's words.

A copy through a ``memoryview`` takes a tenth of a microsecond and holds the GIL all the while, so
no thread sees half of it. ``ctypes.memmove`` would let the GIL go. Where the memory is not known,
or cannot be had, states go through calls of the library: the API path.
"""

from __future__ import annotations

import sys

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401

#: Bytes of a Mersenne Twister: 624 words and a position, four bytes each.
MERSENNE_BYTES = 2500

#: For tests: whether states may be copied as memory at all.
fast_paths = True


def may_be_fast() -> bool:
    """Tell whether this interpreter lets memory be copied under a lock that all share."""
    ask = getattr(sys, _details.HAS_GIL.name, None)
    # Before, there was nothing to ask.
    is_old = sys.version_info < (3, 13)
    _details.proved(_details.HAS_GIL, is_old or ask is not None)
    has_gil = is_old if ask is None else ask()
    if not (fast_paths and has_gil and sys.implementation.name == "cpython"):
        return False
    try:
        import ctypes  # noqa: F401
    except ImportError:  # a small build, or an isolated sub-interpreter
        return False
    return True


def view_memory(owner: object, address: int, length: int) -> memoryview:
    """Return a writable view of ``length`` bytes, which keeps their owner alive."""
    # Imported here because it doubles the import time of the whole package.
    import ctypes

    block: Any = (ctypes.c_ubyte * length).from_address(address)
    # Otherwise a scope that is left at the end of the interpreter could write to memory that
    # is free already.
    block.owner = owner
    return memoryview(block).cast("B")
