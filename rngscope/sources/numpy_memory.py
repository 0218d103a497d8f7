"""The memory of NumPy's global ``RandomState``, and the proof that its layout is the known one."""

from __future__ import annotations

from _thread import RLock

from rngscope import _details
from rngscope._interrupts import PATIENCE, TimedLock
from rngscope.sources import memory, mersenne
from rngscope.sources.bit_generators import GAUSS, numpy_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_REENTRANT = type(RLock())


class Views:
    """The memory of the global ``RandomState``: the words of its MT19937, and the Gaussian.

    Where the layout is not known there is no ``bit_generator``: the API path.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.global_state = _details.find(
            _details.NUMPY_INSTANCE, _details.NUMPY_INSTANCE_OF_METHOD
        )
        #: Returns the bit generator that is installed now.
        self.current = module.get_bit_generator
        self.mersenne = module.MT19937
        #: The MT19937 that ``words`` and ``lock`` belong to.
        self.bit_generator: Any = None
        #: Its lock where that is reentrant; otherwise None.
        self.lock: Any = None
        #: Where a ``RandomState`` keeps its Gaussian; None on the API path.
        self.offset: int | None = None
        #: Whether CPython's generator proves to be seeded alike.
        self.shares_seeding = False
        if self.global_state is None or not memory.may_be_fast():
            return
        self.scratch_bit_generator = self.mersenne(0)
        self.scratch = module.RandomState(self.scratch_bit_generator)
        self.scratch_words = _view_words(self.scratch_bit_generator)
        # What RandomState.seed calls after a look at the type of its bit generator.
        bare = _details.NUMPY_BARE_SEEDING
        self.seed_scratch = (
            getattr(self.scratch_bit_generator, bare.attribute)
            if _details.find(bare)
            else self.scratch.seed
        )
        self.scratch_seed = 0
        self.shares_seeding = mersenne.layout_is_known() and self._is_seeded_alike()
        self.offset = find_gauss(self.scratch)

    def _is_seeded_alike(self) -> bool:
        seed = 2**63 + 5
        block = mersenne.seeded_block(seed)
        return block[4:] + block[:4] == self.seeded_words(seed)

    def seeded_words(self, seed: int) -> bytes:
        """Return words and position of a freshly seeded MT19937."""
        # On a scratch object: numpy.random.seed() forgets the seed_seq of the global one.
        while True:
            self.scratch_seed = seed
            self.seed_scratch(numpy_seed(seed))
            words = bytes(self.scratch_words)
            # A signal handler may have opened a scope of its own in between.
            if self.scratch_seed == seed:
                return words

    def reopen(self) -> bool:
        """Look at the bit generator that is installed now; tell whether that is possible."""
        bit_generator = self.current()
        # First, and then last: an interrupt must not leave views of two bit generators.
        self.bit_generator = self.lock = None
        if self.offset is None or type(bit_generator) is not self.mersenne:
            return False
        self.words = _view_words(bit_generator)
        state = self.global_state
        self.gauss = memory.view_memory(state, id(state) + self.offset, GAUSS.size)
        lock = bit_generator.lock
        self.lock = lock if isinstance(lock, _REENTRANT) else None
        self.bit_generator = bit_generator
        return True

    def read(self) -> Any:
        """Return the state on the API path, or where NumPy's lock is not reentrant."""
        if self.bit_generator is None:
            return self.current(), self.module.get_state(legacy=False)
        with TimedLock(self.bit_generator.lock):
            return self.bit_generator, bytes(self.words), bytes(self.gauss)

    def write(self, words: bytes, gauss: bytes) -> None:
        # NumPy draws arrays without the GIL, under this lock.
        lock = self.lock
        if lock is None:
            with TimedLock(self.bit_generator.lock):
                self.words[:], self.gauss[:] = words, gauss
            return
        try:
            lock.acquire(True, PATIENCE)
            self.words[:], self.gauss[:] = words, gauss
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass


def _view_words(bit_generator: Any) -> memoryview:
    # A documented address: the words of an MT19937, then an int32 position.
    address = bit_generator.ctypes.state_address
    return memory.view_memory(bit_generator, address, memory.MERSENNE_BYTES)


def find_gauss(scratch: Any) -> int | None:
    """Return where a ``RandomState`` keeps its cached Gaussian, or None.

    The place is documented nowhere: it is found and proved on a scratch object, reading
    and writing.
    """
    offset = _prove_gauss(scratch)
    _details.proved(_details.NUMPY_LAYOUT, offset is not None)
    return offset


def _prove_gauss(scratch: Any) -> int | None:
    mark = 1.2345678901234567
    whole = memory.view_memory(scratch, id(scratch), type(scratch).__basicsize__)
    before = scratch.get_state()
    scratch.set_state((*before[:3], 1, mark))
    offset = bytes(whole).find(GAUSS.pack(1, 0, mark))
    # The four bytes of padding may hold anything; where they do, the API path it is.
    if offset < 0:
        return None
    view = whole[offset : offset + GAUSS.size]
    scratch.set_state(before)
    if GAUSS.unpack(view)[0] != 0:
        return None
    view[:] = GAUSS.pack(1, 0, -mark)
    is_known = scratch.get_state()[3:] == (1, -mark) and scratch.standard_normal() == -mark
    return offset if is_known and GAUSS.unpack(view)[0] == 0 else None
