"""Reproducible data sets and workers, for ``torch.utils.data`` and for loaders like it.

``per_item`` makes each item's random numbers depend on the item and the epoch alone.
``views`` numbers the requests for the same item. ``seed_worker`` seeds what draws outside of
items.
"""

from __future__ import annotations

import operator
import os
import sys

from rngscope._errors import warn_caller
from rngscope._open_scopes import OpenScope
from rngscope._owned_lock import make_lock
from rngscope._owners import find_generators
from rngscope._passes import Board, Counts, fetcher_of_this_request, length_of, own_worker
from rngscope._scope import rng_scope, seed_all
from rngscope._seeds import check_seed, derive_seed, short_repr
from rngscope._sources import choose
from rngscope._stream import RNGStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, SupportsIndex

    from rngscope._sources import Listed

    #: What ``generators=`` takes: the objects, or what finds them in a copy of the data set.
    Generators = Iterable[Any] | Callable[[Any], Iterable[Any]]

__all__ = ["per_item", "seed_worker", "views"]

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

#: The warnings that a data set gives once, however many processes make its items.
_SECOND_PASS, _SHARED_ITEM, _UNCOVERED = 1, 2, 4


class per_item:
    """A map-style data set whose item ``i`` of epoch ``e`` is always made from the same numbers.

    Whatever the number of workers, their kind, the order, the rank or the batch size, the
    item is made inside ``rng_scope(item_seed(i), independent=True)``. So an augmentation may
    draw from any global RNG, and the program's own RNGs never move.

    **Asked for again.** An item has *views*: ``data[3, 1]`` is view 1 of item 3, and has numbers
    of its own in each epoch. ``data[3]`` by hand is view 0, every time. What a ``DataLoader``
    of torch asks for is counted: the second request for item 3 in one pass gets view 1, so
    that a sampler with replacement, or a data set that asks twice, gets other numbers. Each
    worker counts its own requests, so with several workers the view depends on which of them
    got the batch; where two of them make the same item, a ``RuntimeWarning`` says so. Exact for
    any number of workers are ``views(sampler)``, a data set that names the view, and
    ``per_item`` as the outermost data set: what an item itself asks for is counted anew for
    each item.

    Threads make their items one at a time. While they do, other threads must not draw from
    the global RNGs: these belong to the process. Processes as workers have no such limit.

    Args:
        dataset: anything with ``__getitem__`` and, for samplers, ``__len__``. Batches are
            fetched item by item, even if it has ``__getitems__``.
        seed: integer in ``[0, 2**64)``.
        sources, devices: as in ``rng_scope``; to name those that the items draw from makes
            each item cheaper.
        generators: RNG objects that the data set holds, which each item seeds as well and puts
            back; or a function that gets the data set and returns them, for objects that
            the data set replaces. Each process asks its own copy, at every item. To name an
            object that no item draws from does no harm.
        epochs: False for data that is meant to be the same in every pass, as for validation:
            ``set_epoch`` then changes nothing, and a second pass is no reason to warn.

    Raises:
        TypeError: a data set without numbered items, an ``IterableDataset`` for one; a seed
            or an option of the wrong type.
        ValueError: as ``rng_scope``.

    Warns:
        RuntimeWarning: once each: the data set holds an RNG object that is not covered, which is
            named by its path (looked at are attributes and the first 1000 items of each
            container, 10,000 objects in all; not arrays, modules, classes and functions); a
            ``DataLoader`` of torch begins a second pass in the same epoch, after one over
            more than half of the data (less is taken for a look at the data; without a length
            it cannot be told); two workers make the same item in one pass. In a worker the
            warning is the worker's.

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

    __slots__ = (
        "dataset",
        "seed",
        "_epochs",
        "_options",
        "_generators",
        "_covered",
        "_template",
        "_board",
        "_passes",
        "_begun",
        "_named",
        "_looked_in",
        "__weakref__",
    )

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
        self._options: dict[str, Any] = {"sources": _kept(sources), "devices": _kept(devices)}
        self._generators: Any = generators if callable(generators) else _kept(generators or ())
        #: Paths of RNG objects that are not covered, and that a warning has named.
        self._named: set[str] = set()
        self._open(Board(0))
        self._name_uncovered(is_new=True)

    def _open(self, board: Board) -> None:
        from weakref import WeakKeyDictionary

        self._board = board
        self._covered: list[Any] | None = None
        self._scope_values(0)
        #: What each pass that this process takes part in has asked for.
        self._passes: WeakKeyDictionary[Any, tuple[Counts, Any]] = WeakKeyDictionary()
        #: How many passes this process has taken part in.
        self._begun = 0
        #: The process that has made an item, and looked for RNG objects that are not covered.
        self._looked_in = 0

    def _scope_values(self, seed: int) -> tuple[Any, ...]:
        """Return what the scope of an item is made of."""
        if self._covered is None or callable(self._generators):
            generators = _as_list(self._generators, self.dataset)
            if self._covered is None or not _are_same(generators, self._covered):
                self._template = rng_scope(
                    0, independent=True, generators=generators, **self._options
                )
                self._covered = list(generators)
        return self._template.values_with(seed)

    @property
    def epoch(self) -> int:
        """The epoch whose items are made now."""
        return self._board.epoch

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Make the items of another epoch from here on, in every worker.

        Call it before ``iter(loader)``, as with ``DistributedSampler``: workers fetch ahead.
        With ``epochs=False`` it only checks the number.

        Args:
            epoch: integer in ``[0, 2**63)``.

        Raises:
            TypeError, ValueError: it is not such an integer.
        """
        if isinstance(epoch, bool) or not hasattr(epoch, "__index__"):
            raise TypeError(f"epoch must be an integer, not {type(epoch).__name__}: {epoch!r}")
        number = operator.index(epoch)
        if not 0 <= number < 2**63:
            raise ValueError(f"epoch {number!r} is out of range; expected 0 <= epoch < 2**63")
        if self._epochs:
            self._board.set_epoch(number)

    def item_seed(self, index: Any) -> int:
        """Return the seed of one item in this epoch, to make the item alone.

        Args:
            index: number or, in a data set with names for its items, name; or a tuple of
                that and the number of the view.

        Raises:
            TypeError: it is none of these, or negative in a data set without a length.
        """
        _, key, view = self._read(index)
        return self._seed_of(key, view or 0)

    def _read(self, index: Any) -> tuple[Any, Any, int | None]:
        """Return what the data set is asked for, the item that this is, and the view."""
        view = None
        if isinstance(index, tuple):
            if len(index) != 2 or not _is_integer(index[1]) or operator.index(index[1]) < 0:
                raise TypeError(
                    f"a tuple is an item and the number of its view, as in data[3, 1], not "
                    f"{short_repr(index)}; in a data set whose own keys are tuples, write "
                    f"data[key, 0]"
                )
            index, view = index[0], operator.index(index[1])
        if isinstance(index, str):
            return index, index, view
        if isinstance(index, tuple) and all(isinstance(k, str) or _is_integer(k) for k in index):
            return index, tuple(k if isinstance(k, str) else operator.index(k) for k in index), view
        if not _is_integer(index):
            raise TypeError(
                f"items of per_item are taken one by one, by an int or a str, not by "
                f"{type(index).__name__}: {index!r:.60}"
            )
        number = operator.index(index)
        if number < 0:
            # The same item by another name.
            number += len(self)
        return index, number, view

    def _seed_of(self, key: Any, view: int) -> int:
        # Version 0.1 knew only the first view, and the seeds of that have stayed.
        path = () if view == 0 else ("view", view)
        if isinstance(key, tuple):
            return derive_seed(self.seed, "tuple", self.epoch, len(key), *key, *path)
        return derive_seed(self.seed, "item", self.epoch, key, *path)

    def __getitem__(self, index: Any) -> Any:
        global _asked_by_this_item
        asked_for, key, view = self._read(index)
        mark = None
        with _one_item_at_a_time:
            asked_by_outer_item = _asked_by_this_item
            if self._looked_in != os.getpid():
                # What it holds may have come after it was wrapped.
                self._looked_in = os.getpid()
                self._name_uncovered(is_new=False)
            if view is None:
                view, mark = self._count(key)
            try:
                _asked_by_this_item = {}
                with OpenScope(*self._scope_values(self._seed_of(key, view))):
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
            self._look_for_others(key, mark)
        return item

    def _count(self, key: Any) -> tuple[int, Any]:
        """Return the view that this request gets, and a mark if other workers might get it too."""
        if _asked_by_this_item is not None:
            return _asked_by_this_item.setdefault(id(self), Counts(0)).ask(key), None
        fetcher = fetcher_of_this_request()
        if fetcher is None:
            return 0, None
        known = self._passes.get(fetcher)
        if known is None:
            length, worker = length_of(self), own_worker()
            known = self._passes[fetcher] = Counts(length), worker
            self._begun += 1
            is_second = self._board.begin_pass(length, worker)
            if is_second and self._epochs and self._board.say(_SECOND_PASS):
                warn_caller(
                    f"a second pass over {short_repr(self)} begins, and set_epoch was not "
                    f"called since the first: every item draws the same numbers again; call "
                    f"data.set_epoch(epoch) before each pass, or, if that is what you want, as "
                    f"for validation, make it with per_item(..., epochs=False)"
                )
        counts, worker = known
        self._board.ask(worker)
        if worker[1] < 2:
            return counts.ask(key), None
        mark = self._board.mark(self._seed_of(key, 0), self._begun, worker)
        self._look_for_others(key, mark)
        return counts.ask(key), mark

    def _look_for_others(self, key: Any, mark: Any) -> None:
        if self._board.is_shared(mark) and self._board.say(_SHARED_ITEM):
            warn_caller(
                f"item {short_repr(key)} was asked for in two workers in one pass, and each "
                f"counts its own requests: both may have made it from the same numbers, and "
                f"which they are depends on the number of workers; let the sampler number the "
                f"requests: DataLoader(data, sampler=rngscope.data.views(sampler)), or name the "
                f"view: data[index, view]"
            )

    def _name_uncovered(self, is_new: bool) -> None:
        """Warn of RNG objects in the data set that are not covered."""
        self._scope_values(0)
        covered = {id(generator) for generator in self._covered or ()}
        found = [
            (path, generator)
            for path, generator in find_generators(
                self.dataset, "dataset", (RNGStream,), (per_item,)
            )
            if id(generator) not in covered and path not in self._named
        ]
        self._named.update(path for path, _ in found)
        if found and (is_new or self._board.say(_UNCOVERED)):
            _warn_of_uncovered("per_item", found, "depends on the order and on the worker")

    def __len__(self) -> int:
        return len(self.dataset)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, and the state of the data set if that has one.

        ``torchdata``'s ``StatefulDataLoader`` saves it. How often items were asked for in this
        pass is not in it: ``views(sampler)`` goes on exactly.
        """
        state: dict[str, Any] = {"epoch": self.epoch}
        if _is_stateful(self.dataset):
            state["dataset"] = self.dataset.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the items of the epoch that the state is of.

        ``StatefulDataLoader`` loads it late, in ``iter(loader)``. So an epoch that was set since
        a loader last asked for an item stays: it is the one that is about to begin.

        Raises:
            ValueError: the state is no such dict, or has a state for a data set that takes
                none.

        Warns:
            RuntimeWarning: the epoch that was set, and stays, is an earlier one.
        """
        if not isinstance(state_dict, dict) or not state_dict.keys() <= {"epoch", "dataset"}:
            raise ValueError(f"a state of per_item is a dict, not {short_repr(state_dict)}")
        epoch = state_dict.get("epoch")
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise ValueError(f"epoch must be an integer in [0, 2**63), not {short_repr(epoch)}")
        if "dataset" in state_dict:
            if not _is_stateful(self.dataset):
                raise ValueError(
                    f"the state holds one of the data set, but {type(self.dataset).__name__} has "
                    f"no load_state_dict"
                )
            self.dataset.load_state_dict(state_dict["dataset"])
        if not self._epochs:
            return
        if not self._board.is_new:
            self._board.set_epoch(epoch)
        elif self.epoch < epoch:
            warn_caller(
                f"the state is of epoch {epoch}, but epoch {self.epoch} was set before it was "
                f"loaded, and stays: to go on in epoch {epoch}, call set_epoch({epoch})"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Memory can be shared with a process that is being started. Any other copy has an
        # epoch of its own.
        is_shared = self._board.is_shared_now()
        if is_shared:
            self._board.tell_world()
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "epochs": self._epochs,
            "options": self._options,
            "generators": self._generators,
            "named": self._named,
            "board": self._board if is_shared else self.epoch,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.dataset, self.seed = state["dataset"], state["seed"]
        self._epochs, self._options = state["epochs"], state["options"]
        self._generators, self._named = state["generators"], set(state["named"])
        board = state["board"]
        self._open(board if isinstance(board, Board) else Board(board))

    def __repr__(self) -> str:
        return f"<per_item seed={self.seed} epoch={self.epoch} of {self.dataset!r}>"


class views:
    """A sampler that numbers the requests for each item: ``(3, 0)``, and later ``(3, 1)``.

    Under ``per_item`` the n-th request for an item in a pass then has numbers of its own. The
    sampler runs in one process, so this is exact with any number of workers, and
    ``StatefulDataLoader`` goes on in the middle of a pass. For samplers that yield an item more
    than once: with replacement, or for repeated augmentation.

    The ``per_item`` must be the loader's own data set: ``Subset`` and ``ConcatDataset`` refuse
    such keys.

    Args:
        sampler: what yields indices or, as a ``batch_sampler``, lists of them. Its
            attributes, ``set_epoch`` for one, are reached through this one.

    Example:
        >>> list(views(["cat", "dog", "cat"]))
        [('cat', 0), ('dog', 0), ('cat', 1)]
    """

    def __init__(self, sampler: Iterable[Any]) -> None:
        if not hasattr(sampler, "__iter__"):
            raise TypeError(f"views needs a sampler, not {short_repr(sampler)}")
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return _Numbered(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Not the state: it would leave the counts behind. That of the iterator has them. And
        # not before there is a sampler, which a copy that is being made asks for.
        if name in ("sampler", "state_dict", "load_state_dict") or name.startswith("__"):
            raise AttributeError(f"'views' object has no attribute {name!r}")
        return getattr(self.sampler, name)

    def __repr__(self) -> str:
        return f"views({self.sampler!r})"


class _Numbered:
    """One pass of ``views``; a ``Stateful`` of ``torchdata``."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._start(None)

    def _start(self, begin: Any) -> None:
        self._indices: Any = iter(self._sampler)
        if begin is not None:
            self._indices.load_state_dict(begin)
        #: Where the sampler began, if it can tell.
        self._begin = self._indices.state_dict() if _is_stateful(self._indices) else None
        self._counts = Counts(length_of(self._sampler))
        self._yielded = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        index = next(self._indices)
        self._yielded += 1
        if isinstance(index, list):
            return [self._number(each) for each in index]
        return self._number(index)

    def _number(self, index: Any) -> tuple[Any, int]:
        return index, self._counts.ask(operator.index(index) if _is_integer(index) else index)

    def state_dict(self) -> dict[str, Any]:
        return {"begin": self._begin, "yielded": self._yielded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # From the beginning, because the requests before the state count.
        self._start(state_dict["begin"])
        for _ in range(state_dict["yielded"]):
            next(self)


def _is_stateful(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _as_list(generators: Any, dataset: Any) -> Any:
    """Return the RNG objects, which a function finds in this process's data set."""
    return _kept(generators(dataset)) if callable(generators) else generators


def _are_same(some: Any, others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _warn_of_uncovered(who: str, found: list[tuple[str, Any]], consequence: str) -> None:
    names = [f"{path} ({type(generator).__name__})" for path, generator in found]
    if len(names) > 8:
        names[8:] = [f"{len(names) - 8} more"]
    streams = " An RNGStream cannot be named there: draw from the global RNGs instead."
    warn_caller(
        f"{who} does not cover RNG objects that the data set holds: {', '.join(names)}. What "
        f"they draw {consequence}. Name them in generators=, a list or a function of the data "
        f"set."
        + streams * any(isinstance(generator, RNGStream) for _, generator in found)
    )


def _kept(items: Any) -> Any:
    """Return a copy of a list; what is no list is left for ``rng_scope`` to refuse."""
    is_text = isinstance(items, (str, bytes))
    return list(items) if hasattr(items, "__iter__") and not is_text else items


def _check_map_style(dataset: Any) -> None:
    data = sys.modules.get("torch.utils.data")
    is_iterable = data is not None and isinstance(dataset, data.IterableDataset)
    if is_iterable or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"per_item needs a data set with numbered items, which {type(dataset).__name__} does "
            f"not have; in its __iter__, make each item inside rng_scope(derive_seed(seed, epoch, "
            f"number)), or seed whole workers with worker_init_fn=rngscope.data.seed_worker"
        )


def seed_worker(
    worker_id: int, *, rank: int | None = None, generators: Generators | None = None
) -> None:
    """Seed every source of a ``DataLoader`` worker; for ``worker_init_fn``.

    Each source gets a seed of its own, which follows from the loader's base seed, the rank
    and the worker's number. The loader draws its base seed when its workers start, from its
    ``generator`` or else from torch's global one: in every epoch, or, for workers that
    persist, once; these keep their streams over all epochs. With another number of workers
    an item falls to another worker: what items draw is the same again only under ``per_item``.
    With ``num_workers=0`` there is no worker and no seeding: items draw from the program's own
    RNGs, and not what one worker would draw.

    Args:
        worker_id: what the loader passes.
        rank: this process's rank, by default as in ``rngscope.distributed.rank_seed``. Bind
            it with ``functools.partial(seed_worker, rank=rank)`` where workers cannot know
            it: spawned by a program that ``torchrun`` has not started, or forked by a server
            that began without ``RANK``.
        generators: RNG objects that the data set holds, to seed as well, bound in the same
            way; or a function that gets the worker's data set and returns them. A worker
            seeds its own copies: torch sends data set and objects in one piece.

    Raises:
        RuntimeError: it was not called in a worker.
        TypeError: ``rank`` is not an integer, or ``generators`` holds something else.
        ValueError: the environment variable ``RANK`` is not a number.

    Warns:
        RuntimeWarning: by worker 0, each time that workers start: the data set holds an RNG
            object that is not covered. Every worker has a copy of it, and all copies draw
            alike. What is under ``per_item`` is the concern of ``per_item``.
    """
    from torch.utils.data import get_worker_info

    from rngscope.distributed import own_rank

    info = get_worker_info()
    if info is None:
        raise RuntimeError(
            "seed_worker must be called in a worker: DataLoader(..., worker_init_fn=seed_worker)"
        )
    mine: Any = choose([], None, _as_list(generators or (), info.dataset))
    # What torch gives the worker is base seed plus number, modulo 2**64.
    base_seed = (info.seed - info.id) % 2**64
    rank = own_rank() if rank is None else rank
    seed = derive_seed(base_seed, "worker", rank, worker_id)
    seed_all(seed, independent=True)
    for source in mine:
        source.seed(seed, True)
    if worker_id == 0:
        covered = {id(source.generator) for source in mine}
        found = find_generators(info.dataset, "dataset", (RNGStream,), (per_item,))
        found = [each for each in found if id(each[1]) not in covered]
        if found:
            _warn_of_uncovered("seed_worker", found, "is the same in every worker")
