"""Which pass over the data a request for an item belongs to, and what was asked for in it.

torch makes one *fetcher* for each pass of a ``DataLoader``, in whichever process makes the
items: in the program without workers, in a worker that is started, in one that lives on. It is
on the stack of whatever it asks for. So the fetcher tells a request of a loader from one made
by hand, and one pass from the next. A loader that is not torch's asks as if by hand.
"""

from __future__ import annotations

import sys

from rngscope._errors import find_frame, warn_caller
from rngscope._seeds import short_repr
from rngscope.data.board import SECOND_PASS, SHARED_ITEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope.data.board import Board

#: The module of torch whose functions ask a data set for items.
FETCHING = "torch.utils.data._utils.fetch"


def fetcher_of_this_request() -> Any:
    """Return the fetcher that this thread asks for; None if the request is made by hand."""
    if FETCHING not in sys.modules:
        return None
    frame: Any = find_frame(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == FETCHING:
            # A list comprehension there has a frame of its own before Python 3.12.
            fetcher = frame.f_locals.get("self")
            if fetcher is not None:
                return fetcher
        frame = frame.f_back
    return None


def worker_info() -> Any:
    """Return what torch tells a worker of a loader; None outside of one."""
    data: Any = sys.modules.get("torch.utils.data")
    return None if data is None else data.get_worker_info()


def own_worker() -> tuple[int, int, int]:
    """Return number, count and base seed of the loader's workers; 0, 1, 0 outside of one.

    All three stay the same for a pass.
    """
    info = worker_info()
    return (0, 1, 0) if info is None else (info.id, info.num_workers, info.seed - info.id)


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


class Requests:
    """What the loaders in this process have asked one ``per_item`` for, pass by pass."""

    __slots__ = ("_board", "_epochs", "_passes", "_begun")

    def __init__(self, board: Board, epochs: bool) -> None:
        # Imported here because importing rngscope.data should cost nothing.
        from weakref import WeakKeyDictionary

        self._board = board
        self._epochs = epochs
        #: By the pass's fetcher; with the worker that this process is for it.
        self._passes: WeakKeyDictionary[Any, tuple[Counts, Any]] = WeakKeyDictionary()
        #: How many passes this process has taken part in.
        self._begun = 0

    def count(self, data: Any, key: Any, seed: int) -> tuple[int, Any]:
        """Return the view that a request gets, and a mark if other workers might get it too.

        Args:
            data: the ``per_item``.
            key: the item.
            seed: that of its first view.
        """
        fetcher = fetcher_of_this_request()
        if fetcher is None:
            return 0, None
        if fetcher not in self._passes:
            self._begin_pass(fetcher, data)
        counts, worker = self._passes[fetcher]
        self._board.ask(worker)
        if worker[1] < 2:
            return counts.ask(key), None
        mark = self._board.mark(seed, self._begun, worker)
        self.look_for_others(key, mark)
        return counts.ask(key), mark

    def _begin_pass(self, fetcher: Any, data: Any) -> None:
        length, worker = length_of(data), own_worker()
        self._passes[fetcher] = Counts(length), worker
        self._begun += 1
        is_second = self._board.begin_pass(length, worker)
        if is_second and self._epochs and self._board.say(SECOND_PASS):
            warn_caller(
                f"a second pass over {short_repr(data)} begins, and set_epoch was not "
                f"called since the first: every item draws the same numbers again; call "
                f"data.set_epoch(epoch) before each pass, or, if that is what you want, as "
                f"for validation, make it with per_item(..., epochs=False)"
            )

    def look_for_others(self, key: Any, mark: Any) -> None:
        """Warn if another worker makes the same item."""
        if self._board.is_shared(mark) and self._board.say(SHARED_ITEM):
            warn_caller(
                f"item {short_repr(key)} was asked for in two workers in one pass, and each "
                f"counts its own requests: both may have made it from the same numbers, and "
                f"which they are depends on the number of workers; let the sampler number the "
                f"requests: DataLoader(data, sampler=rngscope.data.views(sampler)), or name the "
                f"view: data[index, view]"
            )
