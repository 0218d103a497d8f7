"""The Hypothesis plugin: torch under ``@given``, and strategies for seeds and states.

Hypothesis puts ``random`` and ``numpy.random`` into a known state for every example, and
back. With this plugin, which Hypothesis loads by itself, it does so with torch too.
"""

from __future__ import annotations

import threading

from rngscope._life import Life, LifeOfProcess
from rngscope._plan import Plan
from rngscope._present import cells_of
from rngscope._scope import rng_scope
from rngscope._state import RNGState
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import Device
from rngscope.sources.numpy import numpy_random
from rngscope.sources.torch import torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


def register() -> None:
    """Have Hypothesis manage torch's global generators from now on."""
    # Here, and not above: it is Hypothesis's own import that calls this.
    from hypothesis import register_random

    register_random(_TORCH)


class _Example(Plan):
    """The plan of one example, over all sources of torch."""

    is_of_process = True

    __slots__ = ()

    #: Examples that run in several threads end in any order.
    warns_of_order = False


class _TorchGenerators:
    """torch's default generators as Hypothesis wants them: ``random.Random``'s verbs.

    A scope does the work. So no seed goes through ``torch.manual_seed``, and torch or an
    accelerator that appears inside an example is seeded then.
    """

    def __init__(self) -> None:
        self._sources = tuple(source for source in SOURCES if source.module == "torch")
        self._local = threading.local()

    def getstate(self) -> Life:
        """Return what ``setstate`` undoes; ``seed`` is called next."""
        self._local.next = life = LifeOfProcess(_Example(self._sources, None))
        return life

    def seed(self, seed: int) -> None:
        """Seed for one example.

        Args:
            seed: integer in ``[0, 2**32)``; Hypothesis's is 0.
        """
        life: Life = self._local.next
        life.plan = _Example(self._sources, seed)
        life.enter()

    def setstate(self, state: Life) -> None:
        """Put everything back that was found when the example began."""
        state.leave()


#: Kept here because Hypothesis holds only a weak reference.
_TORCH = _TorchGenerators()


def seeds() -> SearchStrategy[int]:
    """Generate what ``rng_scope`` takes as a seed, its boundaries often.

    Example:
        >>> from hypothesis import given
        >>> @given(seeds())
        ... def test_any_seed_will_do(seed):
        ...     with rng_scope(seed) as scope:
        ...         assert scope.seed == seed
        >>> test_any_seed_will_do()
    """
    from hypothesis import strategies

    boundaries = (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
    return strategies.integers(0, 2**64 - 1) | strategies.sampled_from(boundaries)


def rng_states() -> SearchStrategy[RNGState]:
    """Generate states of all sources that are there, after some number of draws.

    Some hold a cached second Gaussian, and some stand at the end of a block of 624 words.

    Example:
        >>> from hypothesis import given
        >>> @given(rng_states())
        ... def test_a_state_is_restored_exactly(state):
        ...     with rng_scope(state):
        ...         assert RNGState.capture() == state
        >>> test_a_state_is_restored_exactly()
    """
    from hypothesis import strategies

    draws = strategies.integers(0, 1300) | strategies.sampled_from((623, 624, 625))

    @strategies.composite
    def states(draw: DrawFn) -> RNGState:
        seed, counts = draw(seeds()), [draw(draws) for _ in range(3)]
        has_gauss = draw(strategies.booleans())
        with rng_scope(seed):
            _draw(counts, has_gauss)
            return RNGState.capture()

    return states()


def _draw(counts: list[int], has_gauss: bool) -> None:
    """Draw so many times 32 random bits from each library, then one Gaussian of two."""
    import random

    from_python, from_numpy, from_torch = counts
    random.randbytes(4 * from_python)
    if has_gauss:
        random.gauss(0.0, 1.0)
    numpy, torch = numpy_random(), torch_module()
    if numpy is not None:
        numpy.bytes(4 * from_numpy)
        if has_gauss:
            numpy.standard_normal()
    if torch is None:
        return
    devices = ["cpu"]
    for cell in cells_of(SOURCES):
        if isinstance(cell, Device):  # gpu: to draw needs the device
            devices.append(f"{cell.source.name}:{cell.index}")
    for device in devices:
        torch.empty(from_torch, device=device).uniform_()
        if has_gauss:
            torch.empty(1, device=device).normal_()
