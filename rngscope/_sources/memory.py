"""States as memory: views of a generator's words, and images of seeded states.

A copy through a ``memoryview`` takes a tenth of a microsecond and holds the GIL all the
while, so no thread sees half of it. ``ctypes.memmove`` would let the GIL go.
"""

from __future__ import annotations

import sys

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401

#: Bytes of a Mersenne Twister: 624 words and a position, four bytes each.
MERSENNE_BYTES = 2500

#: For tests: whether sources may take their fast road at all.
fast_roads = True


def may_be_fast() -> bool:
    """Tell whether this interpreter lets memory be copied under a lock that all share."""
    ask = getattr(sys, _details.HAS_GIL.name, None)
    # Before, there was nothing to ask.
    is_old = sys.version_info < (3, 13)
    _details.proved(_details.HAS_GIL, is_old or ask is not None)
    has_gil = is_old if ask is None else ask()
    return fast_roads and has_gil and sys.implementation.name == "cpython"


def view_memory(owner: object, address: int, length: int) -> memoryview:
    """Return a writable view of ``length`` bytes, which keeps their owner alive."""
    # Imported here because it doubles the import time of the whole package.
    import ctypes

    block: Any = (ctypes.c_ubyte * length).from_address(address)
    # Otherwise a scope that is left at the end of the interpreter could write to memory that
    # is free already.
    block.owner = owner
    return memoryview(block).cast("B")


class SeedImages(dict[int, "Any"]):
    """The states that follow from the seeds in use: to copy one is cheaper than to seed.

    A seed is kept when it comes again soon after its first use, so that seeds used once, or
    once in an epoch, cost nothing. Bounded; the oldest goes first.
    """

    __slots__ = ("_lately",)
    LIMIT = 64

    def __init__(self) -> None:
        super().__init__()
        #: Seeds without an image that were used lately.
        self._lately: set[int] = set()

    def wants(self, seed: int) -> bool:
        """Tell whether this seed, which has no image, has been used lately."""
        lately = self._lately
        if seed in lately:
            if len(self) >= self.LIMIT:
                del self[next(iter(self))]
            return True
        if len(lately) >= self.LIMIT:
            lately.clear()
        lately.add(seed)
        return False
