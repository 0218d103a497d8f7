"""Which pass over the data a request for an item belongs to, and what was asked for in it.

torch makes one *fetcher* for each pass of a ``DataLoader``, in whichever process makes the
items: in the program without workers, in a worker that is started, in one that lives on. It is
on the stack of whatever it asks for. So the fetcher tells a request of a loader from one made
by hand, and one pass from the next. A loader that is not torch's asks as if by hand.
"""

from __future__ import annotations

import os
import sys

from rngscope import _details
from rngscope._errors import find_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The module of torch whose functions ask a data set for items.
_FETCHING = "torch.utils.data._utils.fetch"


def fetcher_of_this_request() -> Any:
    """Return the fetcher that this thread asks for; None if the request is made by hand."""
    if _FETCHING not in sys.modules:
        return None
    frame: Any = find_frame(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == _FETCHING:
            # A list comprehension there has a frame of its own before Python 3.12.
            fetcher = frame.f_locals.get("self")
            if fetcher is not None:
                return fetcher
        frame = frame.f_back
    return None


def own_worker() -> tuple[int, int, int]:
    """Return number, count and base seed of the loader's workers; 0, 1, 0 outside of one.

    All three stay the same for a pass.
    """
    data: Any = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return (0, 1, 0) if info is None else (info.id, info.num_workers, info.seed - info.id)


def world_size() -> int:
    """Return the number of ranks, 1 for a process on its own."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isascii() and text.isdigit() else 1


def length_of(data: Any) -> int:
    """Return how many items there are, 0 if that is not known."""
    try:
        return int(len(data))
    except Exception:  # not only TypeError: what a __len__ cannot tell, it tells in many ways
        return 0


class Counts:
    """How often each item was asked for. One byte an item, as long as all is usual."""

    __slots__ = ("_few", "_more")

    def __init__(self, length: int) -> None:
        self._few = bytearray(length)
        self._more: dict[Any, int] = {}

    def ask(self, key: Any) -> int:
        """Count a request, and return how many there were before it."""
        few = self._few
        is_numbered = type(key) is int and 0 <= key < len(few)
        if is_numbered and few[key] < 255:
            few[key] += 1
            return int(few[key]) - 1
        earlier = self._more.get(key, 255 if is_numbered else 0)
        self._more[key] = earlier + 1
        return earlier


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

    def is_shared_now(self) -> bool:
        """Tell whether what is pickled now goes to a process that is being started."""
        import multiprocessing.context

        popen = _details.find(_details.SPAWNING)
        if popen is not None:
            return popen() is not None
        try:
            multiprocessing.reduction.ForkingPickler.dumps(self._cells)
            return True
        except RuntimeError:
            # Shared memory refuses to be pickled for anything else.
            return False

    def tell_world(self) -> None:
        """Leave the number of ranks for a process that is being started and cannot know it."""
        self._cells[self._WORLD] = world_size()

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
