"""``rng_scope``: check the arguments, then enter and leave."""

from __future__ import annotations

from rngscope._open_scopes import OpenScope, change_together
from rngscope._seeds import SEED_LIMIT, check_seed, short_repr
from rngscope._sources import choose, load_what_is_lazy, present
from rngscope._sources.torch_accelerator import AcceleratorSource
from rngscope._state import RNGState, replayed_states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, SupportsIndex, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])


class rng_scope(OpenScope):
    """Seed every global RNG for a block, and put each back bit for bit at its end.

    The RNGs belong to the process: draws of other threads inside the block take from the
    scope as well. Nothing is imported and no accelerator is started; what appears inside
    the block is taken into the scope then.

    Args:
        seed: an integer in ``[0, 2**64)`` to seed with; an ``RNGState`` to continue from;
            None to seed nothing, only to put everything back.
        sources: names among ``'python'``, ``'numpy'``, ``'torch'``, ``'cuda'``, ``'xpu'``,
            ``'mps'``, ``'mtia'`` and that of a private backend of torch; default all.
        devices: non-negative indices, which count for every accelerator, or
            ``torch.device`` objects; ``[]`` for no accelerator; default all.
        generators: RNG objects of yours to scope as well: ``random.Random``,
            ``numpy.random.Generator``, ``numpy.random.RandomState``, ``torch.Generator``.
        independent: give each source a seed of its own, ``derive_seed(seed, name)``. With
            one seed for all, NumPy and torch on the CPU draw the same numbers.
        deterministic: also switch torch to deterministic kernels, and back.

    Raises:
        TypeError: an argument of the wrong type; nothing has been touched.
        ValueError: a seed out of range, an unknown source, generators that a state does not
            fit; at entry a device that does not exist, or a state of another number of
            devices. Then everything is as it was.
        RuntimeError: at entry, if the scope is open already, or if it covers CUDA while a
            graph is captured; at exit, if one is captured then, after all else is back.
        ExceptionGroup: several sources could not be put back; all others were.

    Warns:
        RuntimeWarning: scopes are left out of order; both are named.

    Example:
        >>> import random
        >>> before = random.getstate()
        >>> with rng_scope(42):
        ...     random.random()
        0.6394267984578837
        >>> random.getstate() == before
        True
    """

    __slots__ = ()

    def __init__(
        self,
        seed: SupportsIndex | RNGState | None = None,
        *,
        sources: Iterable[str] | None = None,
        devices: Iterable[Any] | None = None,
        generators: Iterable[Any] = (),
        independent: bool = False,
        deterministic: bool = False,
    ) -> None:
        if type(independent) is not bool:
            raise TypeError(f"independent must be True or False, not {independent!r}")
        self.independent = independent
        self.sources = choose(sources, devices, generators, deterministic)
        self.replayed = None
        self.begins_anyhow = (
            deterministic or type(generators) is not tuple or generators != ()
        )
        if seed is None or type(seed) is int and 0 <= seed < SEED_LIMIT:
            # What is most often asked, without a call.
            self.seed: int | None = seed
        else:
            _, self.seed, _, self.replayed, self.begins_anyhow = self.values_with(seed)
        self.saved = self.start = self.position = None
        self.inner = self.dropped = ()
        self.function = None

    @property
    def values(self) -> tuple[Any, ...]:
        """What an ``OpenScope`` of the same meaning is made of."""
        return self.sources, self.seed, self.independent, self.replayed, self.begins_anyhow

    def values_with(self, seed: SupportsIndex | RNGState | None) -> tuple[Any, ...]:
        """The same with another seed.

        Raises:
            TypeError, ValueError: the seed is not one, or the state does not fit.
        """
        sources, independent, begins = self.sources, self.independent, self.begins_anyhow
        if seed is None:
            return sources, None, independent, None, begins
        if callable(seed):
            raise TypeError(
                f"seed must be an integer, an RNGState or None, not {type(seed).__name__}: "
                f"{short_repr(seed)}; a decorator needs parentheses: write @rng_scope(42)"
            )
        if isinstance(seed, RNGState):
            return sources, None, independent, replayed_states(seed, sources), True
        return sources, check_seed(seed), independent, None, begins

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call has a scope of its own, as under ``seeded``."""
        from rngscope._seeded import seeded_like

        return seeded_like(self, function)

    def __repr__(self) -> str:
        names = ", ".join(source.name for source in self.sources)
        return f"<rng_scope seed={self.seed} over {names}>"


def seed_all(
    seed: SupportsIndex,
    *,
    sources: Iterable[str] | None = None,
    devices: Iterable[Any] | None = None,
    independent: bool = False,
) -> None:
    """Seed every global RNG, without a scope.

    For an accelerator that has not started the seed stays queued, as ``torch.manual_seed``
    leaves it. Libraries that are imported later are not reached: a scope does that. Where NumPy
    is imported, so is ``numpy.random``, which NumPy 2 puts off.

    Args:
        seed: integer in ``[0, 2**64)``.
        sources, devices, independent: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been touched.
        RuntimeError: a CUDA graph is being captured; nothing has been touched.
    """
    number = check_seed(seed)
    if type(independent) is not bool:
        raise TypeError(f"independent must be True or False, not {independent!r}")
    chosen = choose(sources, devices)
    load_what_is_lazy(chosen)
    chosen = present(chosen)
    change_together([(source, source.seed, (number, independent)) for source in chosen])
    for source in chosen:
        if isinstance(source, AcceleratorSource):
            source.warn_if_out_of_reach()
