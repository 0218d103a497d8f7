"""``seed_worker``: seed what a worker draws outside of items."""

from __future__ import annotations

from rngscope._plan import choose
from rngscope._ranks import own_rank
from rngscope._scope import seed_all
from rngscope._seeds import derive_seed
from rngscope.data.requests import worker_info
from rngscope.data.scopes import find_uncovered, listed, warn_of_uncovered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope.data.scopes import Generators


def seed_worker(
    worker_id: int, *, rank: int | None = None, generators: Generators | None = None
) -> None:
    """Seed every source of a ``DataLoader`` worker; for ``worker_init_fn``.

    Each source gets a seed of its own, from the loader's base seed, the rank and the worker's
    number. The loader draws its base seed when its workers start: in every epoch or, for
    workers that persist, once. What an item draws then depends on the number of workers, but
    not under ``per_item``. With ``num_workers=0`` there is no worker, and no seeding.

    Args:
        worker_id: what the loader passes.
        rank: by default as in ``rngscope.distributed.rank_seed``. Bind it with
            ``functools.partial`` where workers cannot know it: spawned without ``torchrun``, or
            forked by a server that began without ``RANK``.
        generators: RNG objects that the data set holds, to seed as well; or a function that
            gets the worker's data set and returns them. A worker seeds its own copies.

    Raises:
        RuntimeError: it was not called in a worker.
        TypeError, ValueError: ``rank``, ``RANK`` or ``generators`` is wrong.

    Warns:
        RuntimeWarning: by worker 0: the data set holds an RNG object that is not covered. All
            workers have copies of it, which draw alike.
    """
    info = worker_info()
    if info is None:
        how = "DataLoader(..., worker_init_fn=seed_worker)"
        raise RuntimeError(f"seed_worker must be called in a worker: {how}")
    mine: Any = choose([], None, listed(generators or (), info.dataset))
    # What torch gives the worker is base seed plus number, modulo 2**64.
    base_seed = (info.seed - info.id) % 2**64
    seed = derive_seed(base_seed, "worker", own_rank() if rank is None else rank, worker_id)
    seed_all(seed, independent=True)
    for source in mine:
        source.seed_independently(seed)
    if worker_id == 0:
        found = find_uncovered(info.dataset, [source.generator for source in mine])
        warn_of_uncovered("seed_worker", found, "is the same in every worker")
