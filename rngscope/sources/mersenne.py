"""CPython's Mersenne Twister: where its words lie in memory, and which ones follow from a seed.

NumPy's is the same algorithm, and from 2**32 up both are seeded alike: CPython with the integer,
NumPy with the words ``[low, high]`` of it.
"""

from __future__ import annotations

import random
import struct

from rngscope import _details
from rngscope.sources import memory
from rngscope.sources.serialized import WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What ``random.seed`` does in the end, without its look at the type of the seed.
SEED: Any = _details.find(_details.RANDOM_BARE_SEED, default=random.Random.seed)

#: From this seed on the words are those of NumPy's source, too.
FIRST_SHARED_SEED = 2**32

#: CPython keeps an int32 position, then 624 uint32 words, behind the object's header. This
#: is documented nowhere: ``layout_is_known`` proves it before it is trusted.
_HEADER = object.__basicsize__


def view_of(generator: random.Random) -> memoryview:
    """Return the memory of position and words."""
    return memory.view_memory(generator, id(generator) + _HEADER, memory.MERSENNE_BYTES)


def layout_is_known() -> bool:
    """Prove on a scratch generator, reading and writing, that the layout is the known one."""
    return _details.proved(_details.RANDOM_LAYOUT, _layout_is_known())


def _layout_is_known() -> bool:
    if random.Random.__base__.__basicsize__ < _HEADER + memory.MERSENNE_BYTES:  # type: ignore
        return False
    scratch, other = random.Random(1), random.Random(2)
    scratch.random()
    view = view_of(scratch)
    # In memory the position comes first, in getstate() last.
    if as_tuple((bytes(view), None)) != scratch.getstate():
        return False
    view[:] = as_block(other.getstate())
    return scratch.getstate() == other.getstate() and scratch.random() == other.random()


class _Scratch:
    """A generator to seed, so that the global ones need not be."""

    def __init__(self) -> None:
        self.generator = random.Random()
        self.view = view_of(self.generator)
        self.seed = 0
        #: The latest seed, and the block that follows from it.
        self.latest = (-1, b"")


_scratch: _Scratch | None = None


def seeded_block(seed: int) -> bytes:
    """Return position and words of ``random.Random(seed)``; the layout must be known.

    The latest answer is kept: in one scope Python's source asks, and then NumPy's.
    """
    global _scratch
    scratch = _scratch
    if scratch is None:
        scratch = _scratch = _Scratch()
    latest, block = scratch.latest
    if latest == seed:
        return block
    while True:
        scratch.seed = seed
        SEED(scratch.generator, seed)
        block = bytes(scratch.view)
        # A signal handler may have opened a scope of its own in between.
        if scratch.seed == seed:
            break
    scratch.latest = (seed, block)
    return block


def as_block(state: Any) -> bytes:
    """Return position and words of ``getstate()`` as the bytes that CPython holds."""
    *words, position = state[1]
    return struct.pack(f"=i{WORDS}I", position, *words)


def as_tuple(state: Any) -> Any:
    """Return a state of either path as what ``setstate()`` takes."""
    if len(state) != 2:
        return state
    block, gauss = state
    position, *words = struct.unpack(f"=i{WORDS}I", block)
    return (3, (*words, position), gauss)
