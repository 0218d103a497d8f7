"""Reproducible data sets and workers, for ``torch.utils.data`` and for loaders like it.

``per_item`` makes each item's random numbers depend on the item and the epoch alone.
``seed_worker`` seeds what draws outside of items.
"""

from __future__ import annotations

import operator
import os
import sys
from _thread import RLock

from rngscope import _details
from rngscope._open_scopes import OpenScope
from rngscope._scope import rng_scope, seed_all
from rngscope._seeds import check_seed, derive_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, SupportsIndex

__all__ = ["per_item", "seed_worker"]

#: Held while an item is made: the scoped RNGs belong to the process, so two threads that
#: made items at once would draw from one stream. Reentrant, for data sets inside data sets.
_one_item_at_a_time = RLock()


def _forget_other_threads() -> None:
    global _one_item_at_a_time
    _one_item_at_a_time = RLock()


# Where there is no fork there is nothing to register.
getattr(os, "register_at_fork", dict)(after_in_child=_forget_other_threads)


class per_item:
    """A map-style data set whose item ``i`` of epoch ``e`` is always made from the same numbers.

    Whatever the number of workers, their kind, the order, the rank or the batch size, the
    item is made inside ``rng_scope(item_seed(i), independent=True)``. So an augmentation may
    draw from any global RNG, and the program's own RNGs never move.

    Threads make their items one at a time. While they do, other threads must not draw from
    the global RNGs: these belong to the process. Processes as workers have no such limit.

    Args:
        dataset: anything with ``__getitem__`` and, for samplers, ``__len__``. Batches are
            fetched item by item, even if it has ``__getitems__``.
        seed: integer in ``[0, 2**64)``.
        sources, devices: as in ``rng_scope``; to name those that the items draw from makes
            each item cheaper.

    Raises:
        TypeError: a data set without numbered items, an ``IterableDataset`` for one; a seed
            or an option of the wrong type.
        ValueError: as ``rng_scope``.

    Example:
        >>> import random
        >>> class Noise:
        ...     def __getitem__(self, index):
        ...         return index + random.random()
        >>> noise = per_item(Noise(), seed=42)
        >>> noise[3] == noise[3]
        True
        >>> first = noise[3]
        >>> noise.set_epoch(1)
        >>> noise[3] == first
        False
    """

    __slots__ = ("dataset", "seed", "_epoch", "_options", "_template", "__weakref__")

    def __init__(
        self,
        dataset: Any,
        seed: SupportsIndex,
        *,
        sources: Iterable[str] | None = None,
        devices: Iterable[Any] | None = None,
    ) -> None:
        _check_map_style(dataset)
        self.dataset = dataset
        self.seed = check_seed(seed)
        self._options: dict[str, Any] = {"sources": _kept(sources), "devices": _kept(devices)}
        self._open(0)

    def _open(self, epoch: Any) -> None:
        self._template = rng_scope(0, independent=True, **self._options)
        # In memory that worker processes share, so that set_epoch reaches those that live on.
        self._epoch = _shared(epoch) if isinstance(epoch, int) else epoch

    @property
    def epoch(self) -> int:
        """The epoch whose items are made now."""
        return int(self._epoch.value)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Make the items of another epoch from here on, in every worker.

        Call it before ``iter(loader)``, as with ``DistributedSampler``: workers fetch ahead.

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
        self._epoch.value = number

    def item_seed(self, index: SupportsIndex | str) -> int:
        """Return the seed of one item in this epoch, to make the item alone.

        Args:
            index: number or, in a data set with names for its items, name.

        Raises:
            TypeError: it is neither, or negative in a data set without a length.
        """
        if isinstance(index, str):
            return derive_seed(self.seed, "item", self.epoch, index)
        if isinstance(index, (bool, slice)) or not hasattr(index, "__index__"):
            raise TypeError(
                f"items of per_item are taken one by one, by an int or a str, not by "
                f"{type(index).__name__}: {index!r:.60}"
            )
        number = operator.index(index)
        if number < 0:
            # The same item by another name.
            number += len(self)
        return derive_seed(self.seed, "item", self.epoch, number)

    def __getitem__(self, index: Any) -> Any:
        seed = self.item_seed(index)
        with _one_item_at_a_time, OpenScope(*self._template.values_with(seed)):
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        # Memory can be shared with a process that is being started. Any other copy has an
        # epoch of its own.
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "options": self._options,
            "epoch": self._epoch if _is_sharing(self._epoch) else self.epoch,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.dataset, self.seed = state["dataset"], state["seed"]
        self._options = state["options"]
        self._open(state["epoch"])

    def __repr__(self) -> str:
        return f"<per_item seed={self.seed} epoch={self.epoch} of {self.dataset!r}>"


def _is_sharing(memory: Any) -> bool:
    """Tell whether what is pickled now goes to a process that is being started."""
    import multiprocessing.context

    popen = _details.find(_details.SPAWNING)
    if popen is not None:
        return popen() is not None
    try:
        multiprocessing.reduction.ForkingPickler.dumps(memory)
        return True
    except RuntimeError:
        # Shared memory refuses to be pickled for anything else.
        return False


def _shared(number: int) -> Any:
    # Imported here because importing rngscope.data should cost nothing.
    from multiprocessing.sharedctypes import RawValue

    return RawValue("q", number)


def _kept(items: Any) -> Any:
    """Return a copy of a list; what is no list is left for ``rng_scope`` to refuse."""
    is_text = isinstance(items, (str, bytes))
    return list(items) if hasattr(items, "__iter__") and not is_text else items


def _check_map_style(dataset: Any) -> None:
    data = sys.modules.get("torch.utils.data")
    is_iterable = data is not None and isinstance(dataset, data.IterableDataset)
    if is_iterable or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"per_item needs a data set with numbered items, which {type(dataset).__name__} has "
            f"not; in its __iter__, make each item inside rng_scope(derive_seed(seed, epoch, "
            f"number)), or seed whole workers with worker_init_fn=rngscope.data.seed_worker"
        )


def seed_worker(worker_id: int, *, rank: int | None = None) -> None:
    """Seed every source of a ``DataLoader`` worker; for ``worker_init_fn``.

    Each source gets a seed of its own, which follows from the loader's base seed, the rank
    and the worker's number. The loader draws its base seed anew in every epoch, from its
    ``generator`` or else from torch's global one. Workers that persist keep their streams
    over all epochs. With another number of workers an item falls to another worker: what
    items draw is the same again only under ``per_item``.

    Args:
        worker_id: what the loader passes.
        rank: this process's rank, by default as in ``rngscope.distributed.rank_seed``. Bind
            it with ``functools.partial(seed_worker, rank=rank)`` where workers cannot know
            it: spawned by a program that ``torchrun`` has not started, or forked by a server
            that began without ``RANK``.

    Raises:
        RuntimeError: it was not called in a worker.
        TypeError: ``rank`` is no integer.
        ValueError: the environment variable ``RANK`` is no number.
    """
    from torch.utils.data import get_worker_info

    from rngscope.distributed import own_rank

    info = get_worker_info()
    if info is None:
        raise RuntimeError(
            "seed_worker must be called in a worker: DataLoader(..., worker_init_fn=seed_worker)"
        )
    # What torch gives the worker is base seed plus number, modulo 2**64.
    base_seed = (info.seed - info.id) % 2**64
    rank = own_rank() if rank is None else rank
    seed_all(derive_seed(base_seed, "worker", rank, worker_id), independent=True)
