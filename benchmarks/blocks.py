"""The seeded block that restores, as each tool writes it; None for a tool that is not there."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import torch

from rngscope import RNGStream, rng_scope, seeded

SEED = 42


def bare_seeding() -> None:
    """Seed, and restore nothing: the unit of all comparisons."""
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.default_generator.manual_seed(SEED)


def rngscope_block() -> None:
    with rng_scope(SEED):
        pass


def rngscope_torch_only() -> None:
    with rng_scope(SEED, sources=["torch"]):
        pass


def rngscope_preserving() -> None:
    with rng_scope():
        pass


@seeded(SEED)
def decorated() -> None:
    pass


def bare() -> None:
    pass


_seed = 0


def rngscope_new_seed() -> None:
    global _seed
    _seed += 1
    with rng_scope(_seed):
        pass


_stream = RNGStream(SEED)


def rngscope_stream() -> None:
    with _stream:
        pass


async def suspends_for_ever() -> None:
    while True:
        await asyncio.sleep(0)


seeded_suspends_for_ever = seeded(SEED)(suspends_for_ever)


def by_hand() -> None:
    """Use the libraries' own calls alone.

    ``numpy.random.get_state(legacy=False)`` and the ``state`` of the bit generator cost the same.
    To exchange the bit generator would cost less, but loses a cached Gaussian.
    """
    python_state = random.getstate()
    numpy_state = numpy.random.get_state()
    torch_state = torch.default_generator.get_state()
    try:
        random.seed(SEED)
        numpy.random.seed(SEED)
        torch.default_generator.manual_seed(SEED)
    finally:
        torch.default_generator.set_state(torch_state)
        numpy.random.set_state(numpy_state)
        random.setstate(python_state)


def fork_rng_and_generator() -> None:
    """Use what torch has for it, without the queue of accelerators that have not started."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)


def fork_rng_torch_only() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)


def fork_rng_and_by_hand() -> None:
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(SEED)
            numpy.random.seed(SEED)
            torch.manual_seed(SEED)
    finally:
        numpy.random.set_state(numpy_state)
        random.setstate(python_state)


def lightning_block() -> Callable[[], None] | None:
    module = _import("lightning.pytorch.utilities.seed")
    if module is None:
        return None
    seed_everything = _import("lightning.fabric.utilities.seed").seed_everything

    def block() -> None:
        with module.isolate_rng():
            seed_everything(SEED, verbose=False)

    return block


def ignite_block() -> Callable[[], None] | None:
    deterministic = _import("ignite.engine.deterministic")
    utils = _import("ignite.utils")
    if deterministic is None or utils is None:
        return None

    @deterministic.keep_random_state
    def block() -> None:
        utils.manual_seed(SEED)

    return block  # type: ignore[no-any-return]


def pytorch_seed_block() -> Callable[[], None] | None:
    module = _import("pytorch_seed")
    if module is None:
        return None

    def block() -> None:
        with module.SavedRNG(SEED):
            pass

    return block


def _import(name: str) -> Any:
    logging.getLogger("lightning").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


#: Name of a tool -> its block, for all four RNG families that the tool covers.
PEERS: dict[str, Callable[[], None] | None] = {
    "Lightning isolate_rng": lightning_block(),
    "ignite keep_random_state": ignite_block(),
    "pytorch-seed SavedRNG": pytorch_seed_block(),
    "fork_rng and by hand": fork_rng_and_by_hand,
}

#: Blocks written by hand, without ``torch.manual_seed``: it queues seeds for accelerators that have
#: not started, which is most of what a peer costs.
RIVALS: dict[str, Callable[[], None]] = {
    "by hand": by_hand,
    "fork_rng and default_generator, torch only": fork_rng_and_generator,
}
