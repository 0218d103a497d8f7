"""``per_item``: a data set whose items are made from the same numbers, whoever makes them."""

from __future__ import annotations

import os
import sys

from rngscope._owned_lock import make_lock
from rngscope._seeds import check_seed, short_repr
from rngscope.data.board import UNCOVERED, Board
from rngscope.data.epochs import HasEpochs
from rngscope.data.keys import read_key, seed_of
from rngscope.data.requests import Counts, Requests
from rngscope.data.scopes import ItemScopes, copied, warn_of_uncovered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    from rngscope._plan import Listed
    from rngscope.data.scopes import Generators

#: Held while an item is made: the scoped RNGs belong to the process, so two threads that
#: made items at once would draw from one stream. Reentrant, for data sets inside data sets.
_one_item_at_a_time, _is_owned = make_lock()

#: While an item is made: how often it asked each inner ``per_item`` for which of its items.
_asked_by_this_item: dict[int, Counts] | None = None


def _forget_other_threads() -> None:
    global _one_item_at_a_time, _asked_by_this_item
    if not _is_owned(_one_item_at_a_time):
        _asked_by_this_item = None
    _one_item_at_a_time, _ = make_lock()


# Where there is no fork there is nothing to register.
getattr(os, "register_at_fork", dict)(after_in_child=_forget_other_threads)


class per_item(HasEpochs):
    """A map-style data set whose item ``i`` of epoch ``e`` is always made from the same numbers.

    The item is made inside ``rng_scope(item_seed(i), independent=True)``. So nothing depends on
    the workers, the order, the rank or the batch size; an augmentation may draw from any global
    RNG, and the program's own RNGs never move.

    **Asked for again.** ``data[3, 1]`` is *view* 1 of item 3, and has numbers of its own.
    ``data[3]`` by hand is view 0, every time. What a ``DataLoader`` of torch asks for is
    counted: the second request for item 3 in one pass gets view 1. Each worker counts its own
    requests; where two of them make the same item, a ``RuntimeWarning`` says so. Exact for any
    number of workers are ``views(sampler)``, a data set that names the view, and ``per_item``
    as the outermost data set: what an item itself asks for is counted anew for each item.

    Threads make their items one at a time; meanwhile no other thread may draw from the global
    RNGs, which belong to the process.

    Args:
        dataset: anything with ``__getitem__`` and, for samplers, ``__len__``; it is asked item
            by item, even if it has ``__getitems__``.
        seed: integer in ``[0, 2**64)``.
        sources, devices: as in ``rng_scope``; to name those that the items draw from makes
            each item cheaper.
        generators: RNG objects that the data set holds, which each item seeds as well and puts
            back; or a function that gets the data set and returns them, for objects that the
            data set replaces. Each process asks its own copy, at every item.
        epochs: False for data that is the same in every pass, as for validation: ``set_epoch``
            then changes nothing, and a second pass is no reason to warn.

    Raises:
        TypeError: a data set without numbered items, an ``IterableDataset`` for one; a seed
            or an option of the wrong type.
        ValueError: as ``rng_scope``.

    Warns:
        RuntimeWarning: once each, in a worker by the worker: the data set holds an RNG object
            that is not covered, which is named by its path (``find_generators`` says where it
            looks); a ``DataLoader`` of torch begins a second pass in the same epoch, after one
            over more than half of the data; two workers make the same item in one pass.

    Example:
        >>> import random
        >>> class Noise:
        ...     def __getitem__(self, index):
        ...         return index + random.random()
        >>> noise = per_item(Noise(), seed=42)
        >>> noise[3] == noise[3] == noise[3, 0]
        True
        >>> first = noise[3]
        >>> noise[3, 1] == first
        False
        >>> noise.set_epoch(1)
        >>> noise[3] == first
        False
    """

    # Where it is found, and what pickles name.
    __module__ = "rngscope.data"
    __slots__ = ("seed", "_scopes", "_requests", "_looked_in", "__weakref__")

    def __init__(
        self,
        dataset: Any,
        seed: SupportsIndex,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Generators | None = None,
        epochs: bool = True,
    ) -> None:
        _check_map_style(dataset)
        if type(epochs) is not bool:
            raise TypeError(f"epochs must be True or False, not {short_repr(epochs)}")
        self.dataset = dataset
        self.seed = check_seed(seed)
        self._epochs = epochs
        options = {"sources": copied(sources), "devices": copied(devices)}
        found_by = generators if callable(generators) else copied(generators or ())
        self._open(ItemScopes(dataset, options, found_by), Board(0))
        self._warn_of_uncovered(is_new=True)

    def _open(self, scopes: ItemScopes, board: Board) -> None:
        self._scopes = scopes
        self._board = board
        self._requests = Requests(board, self._epochs)
        #: The process that has made an item, and looked for RNG objects that are not covered.
        self._looked_in = 0

    def item_seed(self, index: Any) -> int:
        """Return the seed of one item in this epoch, to make the item alone.

        Args:
            index: number or, in a data set with names for its items, name; or a tuple of
                that and the number of the view.

        Raises:
            TypeError: it is none of these, or negative in a data set without a length.
        """
        _, key, view = read_key(index, self.dataset)
        return seed_of(self.seed, self.epoch, key, view or 0)

    def __getitem__(self, index: Any) -> Any:
        global _asked_by_this_item
        asked_for, key, view = read_key(index, self.dataset)
        mark = None
        with _one_item_at_a_time:
            asked_by_outer_item = _asked_by_this_item
            if self._looked_in != os.getpid():
                # What it holds may have come after it was wrapped.
                self._looked_in = os.getpid()
                self._warn_of_uncovered(is_new=False)
            if view is None:
                view, mark = self._count(key)
            try:
                _asked_by_this_item = {}
                with self._scopes.life(seed_of(self.seed, self.epoch, key, view)):
                    item = self.dataset[asked_for]
            except Exception as error:
                if isinstance(index, tuple) and not isinstance(asked_for, tuple):
                    error.add_note(
                        f"per_item reads {short_repr(index)} as item {short_repr(asked_for)}, "
                        f"view {view}; in a data set whose own keys are tuples, write "
                        f"data[key, view]"
                    )
                raise
            finally:
                _asked_by_this_item = asked_by_outer_item
        if mark is not None:
            # Once more: the other worker may have begun after this one.
            self._requests.look_for_others(key, mark)
        return item

    def _count(self, key: Any) -> tuple[int, Any]:
        """Return the view that this request gets, and a mark if other workers might get it too."""
        if _asked_by_this_item is not None:
            return _asked_by_this_item.setdefault(id(self), Counts(0)).ask(key), None
        return self._requests.count(self, key, seed_of(self.seed, self.epoch, key, 0))

    def _warn_of_uncovered(self, is_new: bool) -> None:
        found = self._scopes.take_uncovered()
        if found and (is_new or self._board.say(UNCOVERED)):
            warn_of_uncovered("per_item", found, "depends on the order and on the worker")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "epochs": self._epochs,
            "options": self._scopes.options,
            "generators": self._scopes.generators,
            "named": self._scopes.named,
            "board": self._board.for_copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.dataset, self.seed, self._epochs = state["dataset"], state["seed"], state["epochs"]
        scopes = ItemScopes(self.dataset, state["options"], state["generators"], state["named"])
        board = state["board"]
        self._open(scopes, board if isinstance(board, Board) else Board(board))

    def __repr__(self) -> str:
        return f"<per_item seed={self.seed} epoch={self.epoch} of {self.dataset!r}>"


def _check_map_style(dataset: Any) -> None:
    data = sys.modules.get("torch.utils.data")
    is_iterable = data is not None and isinstance(dataset, data.IterableDataset)
    if is_iterable or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"per_item needs a data set with numbered items, which {type(dataset).__name__} does "
            f"not have; in its __iter__, make each item inside rng_scope(derive_seed(seed, epoch, "
            f"number)), or seed whole workers with worker_init_fn=rngscope.data.seed_worker"
        )
