"""Data sets for ``test_data.py``: in a module of their own, so that spawned workers find them."""

import os
import pickle
import random

from by_hand import draw

from rngscope import derive_seed, seeded


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


class Noise:
    """Item ``i`` is its number and one draw of each source."""

    def __init__(self, length=12, names=("python",)):
        self.length = length
        self.names = names

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, [draw(name) for name in self.names]


class Twice:
    """A wrapper that asks for each item twice, by hand or by the number of the view."""

    def __init__(self, data, is_numbered=False):
        self.data = data
        self.is_numbered = is_numbered

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if self.is_numbered:
            return [self.data[index, 0], self.data[index, 1]]
        return [self.data[index], self.data[index]]


class Windows:
    """An item is one of the inner data set and the next one, or the first."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return [self.data[index], self.data[(index + 1) % len(self)]]


class Remembering(Noise):
    """A data set with a state of its own: how many items it has made."""

    def __init__(self, length=12):
        super().__init__(length)
        self.made = 0

    def __getitem__(self, index):
        self.made += 1
        return index, [draw("python"), self.made]

    def state_dict(self):
        return {"made": self.made}

    def load_state_dict(self, state_dict):
        self.made = state_dict["made"]


class Keyed:
    """Keys are tuples."""

    def __len__(self):
        return 2

    def __getitem__(self, key):
        scene, frame = key
        return scene, frame, random.random()


class Holder:
    """A data set whose transform holds RNG objects, and draws from all of them."""

    def __init__(self, length=8, **generators):
        self.length = length
        self.transform = Transform(**generators)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, self.transform()


class Transform:
    """Draws from the RNG objects that it was given."""

    def __init__(self, **generators):
        self.__dict__.update(generators)

    def __call__(self):
        drawn = []
        for generator in vars(self).values():
            if hasattr(generator, "__enter__"):
                with generator:
                    drawn.append(random.random())
            else:
                drawn.append(generator.random())
        return drawn

    def renew(self):
        self.__dict__.update(pickle.loads(pickle.dumps(vars(self))))


def generators_of(data):
    """Return the RNG objects of a ``Holder``."""
    return list(vars(data.transform).values())


def collate_with_noise(batch):
    """Collate, and draw."""
    return batch, random.random()


class SeededCollate:
    """The same, seeded from the epoch and the items of the batch."""

    def __init__(self, data):
        self.data = data

    def seed(self, batch):
        return derive_seed(1, "collate", self.data.epoch, *(index for index, _ in batch))

    @seeded(seed_from=seed)
    def __call__(self, batch):
        return collate_with_noise(batch)


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
