"""Data sets for ``test_data.py``: in a module of their own, so that spawned workers find them."""

import os
import random

from by_hand import draw


class Drawing:
    """Item ``i`` is its number and what the sources drew while it was made."""

    def __init__(self, length=12, names=("python",)):
        self.length = length
        self.names = names

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return index, [draw(name) for name in self.names], os.getpid()

    def __getitems__(self, indices):
        raise AssertionError("items must be taken one by one")


class Named:
    """Items have names."""

    def __getitem__(self, name):
        return name, random.random()


class Failing:
    """Every item draws, then fails."""

    def __getitem__(self, index):
        random.random()
        raise OSError(index)


def first_draws():
    """Return what the next draw of each source is in this worker."""
    import numpy
    import torch

    return [random.random(), numpy.random.rand(), torch.rand(1).item()]


class Probing:
    """An item is what the worker's own RNGs draw."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        info = get_worker_info()
        return -1 if info is None else info.id, first_draws()


def probing_stream():
    """Return an iterable data set: each worker yields its number and two rounds of draws."""
    return _ProbingStream()


def keep(batch):
    """Collate nothing."""
    return batch


try:
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError:
    pass
else:

    class _ProbingStream(IterableDataset):
        def __iter__(self):
            info = get_worker_info()
            for _ in range(2):
                yield -1 if info is None else info.id, first_draws()
