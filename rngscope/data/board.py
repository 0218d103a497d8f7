"""The memory that all processes share that make the items of one data set."""

from __future__ import annotations

from rngscope import _details
from rngscope._ranks import world_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The warnings that a data set gives once, however many processes make its items.
SECOND_PASS, SHARED_ITEM, UNCOVERED = 1, 2, 4


class Board:
    """What all processes that make the items of one data set know in common.

    It lies in memory that worker processes share, so that ``set_epoch`` reaches those that live
    on, and so that what one of them has warned of the others do not repeat. Nothing is
    locked: two that write at once may miss a warning, or give it twice.
    """

    __slots__ = ("_cells",)

    _EPOCH, _SETTINGS, _IS_NEW, _MADE, _MADE_IN, _WORLD, _SAID, _FIRST = range(8)
    #: Remembers which worker asked for an item. What collides is forgotten, never confused.
    _SLOTS = 4096

    def __init__(self, epoch: int) -> None:
        # Imported here because importing rngscope.data should cost nothing.
        from multiprocessing.sharedctypes import RawArray

        self._cells: Any = RawArray("Q", self._FIRST + self._SLOTS)
        self._cells[self._EPOCH] = epoch

    @property
    def epoch(self) -> int:
        return int(self._cells[self._EPOCH])

    def set_epoch(self, epoch: int) -> None:
        self._cells[self._EPOCH] = epoch
        self._cells[self._SETTINGS] += 1
        self._cells[self._IS_NEW] = 1

    @property
    def is_new(self) -> bool:
        """Whether no loader has asked for an item since the epoch was set."""
        return bool(self._cells[self._IS_NEW])

    def say(self, what: int) -> bool:
        """Tell whether a warning, one bit of ``what``, is given now: only the first time."""
        is_first = not self._cells[self._SAID] & what
        self._cells[self._SAID] |= what
        return is_first

    def for_copy(self) -> Board | int:
        """Return what a copy of the data set gets: this board, or an epoch of its own.

        Memory can be shared only with a process that is being started.
        """
        if not _can_be_sent(self._cells):
            return self.epoch
        # For a process that cannot know the number of ranks.
        self._cells[self._WORLD] = world_size()
        return self

    def begin_pass(self, length: int, worker: tuple[int, int, int]) -> bool:
        """Tell whether this epoch has had a pass already.

        A pass counts if it asked for more than half of this rank's share of the data: to look at
        a batch is no pass. Only the first worker counts: it gets the most.
        """
        number, workers, _ = worker
        if number:
            return False
        cells = self._cells
        is_same_epoch = cells[self._MADE_IN] == cells[self._SETTINGS]
        made = cells[self._MADE] * workers * max(world_size(), cells[self._WORLD])
        cells[self._MADE_IN], cells[self._MADE] = cells[self._SETTINGS], 0
        return bool(is_same_epoch and 0 < length < 2 * made)

    def ask(self, worker: tuple[int, int, int]) -> None:
        """Note that a loader asked for an item."""
        cells = self._cells
        cells[self._IS_NEW] = 0
        if not worker[0]:
            cells[self._MADE] += 1

    def mark(
        self, item_seed: int, number_of_pass: int, worker: tuple[int, int, int]
    ) -> tuple[int, int]:
        """Return what ``is_shared`` takes: an item in a pass, and who makes it."""
        number, _, base_seed = worker
        tag = item_seed ^ hash((base_seed, number_of_pass))
        return self._FIRST + item_seed % self._SLOTS, tag & 0xFFFFFFFFFFFF0000 | number + 1

    def is_shared(self, mark: tuple[int, int]) -> bool:
        """Tell whether another worker makes the same item in the same pass; note that we do."""
        slot, mine = mark
        there = self._cells[slot]
        self._cells[slot] = mine
        return bool(there != mine and there >> 16 == mine >> 16)


def _can_be_sent(cells: Any) -> bool:
    """Tell whether what is pickled now goes to a process that is being started."""
    # Imported here because importing rngscope.data should cost nothing.
    import multiprocessing.context

    popen = _details.find(_details.SPAWNING)
    if popen is not None:
        return popen() is not None
    try:
        multiprocessing.reduction.ForkingPickler.dumps(cells)
        return True
    except RuntimeError:
        # Shared memory refuses to be pickled for anything else.
        return False
