"""``rng_scope``: check the arguments, then enter and leave."""

from __future__ import annotations

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses
from rngscope._not_covered import warn_of_missing
from rngscope._open_scopes import OpenScope, change_together
from rngscope._seeds import SEED_LIMIT, check_seed, short_repr
from rngscope._sources import SOURCES, choose, load_what_is_lazy, present
from rngscope._sources.generators import warn_of_alike
from rngscope._sources.torch_accelerator import AcceleratorSource
from rngscope._state import RNGState, replayed_states, state_of
from rngscope._turns import check_exclusive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, SupportsIndex, TypeVar

    from rngscope._sources import Listed

    Function = TypeVar("Function", bound=Callable[..., Any])


class _Meaning(tuple["Any", ...]):
    """The values of a scope: what an ``OpenScope`` of the same meaning is made of.

    Decorated functions and scopes are copied as these values.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        sources, seed, independent, replayed, begins, exclusive = self
        # All sources are those of the process that asks. A state has a plain form of its own.
        return _meaning_of, (
            None if sources is SOURCES else sources,
            seed,
            independent,
            None if replayed is None else state_of(replayed, sources),
            begins,
            exclusive,
        )


def _meaning_of(
    sources: Any, seed: Any, independent: bool, state: Any, begins: bool, exclusive: bool | float
) -> _Meaning:
    sources = SOURCES if sources is None else sources
    replayed = None if state is None else replayed_states(state, sources)
    # Also has this process take turns.
    exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
    return _Meaning((sources, seed, independent, replayed, begins, exclusive))


class rng_scope(OpenScope, metaclass=NeedsParentheses):
    """Seed every global RNG for a block, and put each back bit for bit at its end.

    The RNGs belong to the process: draws of other threads inside the block take from the
    scope as well. Nothing is imported and no accelerator is started; what appears inside
    the block is taken into the scope then.

    A copy, here or in another process, is a scope of the same arguments; a deep or pickled one
    has copies of the ``generators``.

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
        exclusive: wait at entry until no other thread has a scope open that shares a source
            with this one, and keep theirs out until it ends. A number is the seconds to wait
            at most; True waits as long as there is progress, but no longer than five minutes
            for any one scope.

    Raises:
        TypeError: an argument of the wrong type; nothing has been touched.
        ValueError: a seed out of range, an unknown source, generators that a state does not
            fit; at entry a device that does not exist, or a state of another number of
            devices. Then everything is as it was.
        RuntimeError: at entry, if the scope is open already, if it covers CUDA while a graph
            is captured, or if an exclusive scope and this one would wait for each other; at
            exit, if a graph is captured then, after all else is back.
        TimeoutError: at entry, if another thread did not end its scope in time; it is named.
        ExceptionGroup: several sources could not be put back; all others were.

    Warns:
        RuntimeWarning: scopes are left out of order, or, once in a process, scopes of two
            threads that share a source are open at the same time; both are named. Two generators
            draw the same numbers, because they are seeded with one integer. At the end: a named
            source (or ``deterministic``) whose library was not imported, once a process; a
            generator whose owner has replaced it meanwhile.

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
    _as_block = "rng_scope(42)"

    def __init__(
        self,
        seed: SupportsIndex | RNGState | None = None,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
        independent: bool = False,
        deterministic: bool = False,
        exclusive: bool | float = False,
    ) -> None:
        if type(independent) is not bool:
            raise TypeError(f"independent must be True or False, not {independent!r}")
        self.independent = independent
        self.sources = choose(sources, devices, generators, deterministic)
        self.exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
        self.replayed = None
        self.begins_anyhow = deterministic or generators is not None and (
            type(generators) is not tuple or generators != ()
        )
        if seed is None or type(seed) is int and 0 <= seed < SEED_LIMIT:
            # What is most often asked, without a call.
            self.seed: int | None = seed
            if self.begins_anyhow and seed is not None and not independent:
                warn_of_alike(self.sources, seed)
        else:
            _, self.seed, _, self.replayed, self.begins_anyhow, _ = self.values_with(seed)
        self.saved = self.start = self.position = None
        self.inner = self.dropped = ()
        self.function = None

    @property
    def values(self) -> tuple[Any, ...]:
        """What an ``OpenScope`` of the same meaning is made of."""
        values = (
            self.sources,
            self.seed,
            self.independent,
            self.replayed,
            self.begins_anyhow,
            self.exclusive,
        )
        return _Meaning(values)

    def values_with(self, seed: SupportsIndex | RNGState | None) -> tuple[Any, ...]:
        """The same with another seed.

        Raises:
            TypeError, ValueError: the seed is not one, or the state does not fit.
        """
        sources, independent, begins = self.sources, self.independent, self.begins_anyhow
        exclusive = self.exclusive
        if seed is None:
            return sources, None, independent, None, begins, exclusive
        if callable(seed):
            raise TypeError(
                f"seed must be an integer, an RNGState or None, not {type(seed).__name__}: "
                f"{short_repr(seed)}; a decorator needs parentheses: write @rng_scope(42)"
            )
        if isinstance(seed, RNGState):
            return sources, None, independent, replayed_states(seed, sources), True, exclusive
        number = check_seed(seed)
        if begins and not independent:
            warn_of_alike(sources, number)
        return sources, number, independent, None, begins, exclusive

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call has a scope of its own, as under ``seeded``."""
        from rngscope._seeded import seeded_like

        return seeded_like(self, function)

    def __getstate__(self) -> tuple[dict[str, Any], tuple[Any, ...]]:
        if self.saved is not None or self.position is not None:
            raise RuntimeError(
                f"cannot copy or pickle {short_repr(self)} while it is open or suspended: leave "
                f"its block first, or make another scope of the same arguments"
            )
        return added_attributes(self, OpenScope.__slots__), self.values

    def __setstate__(self, state: tuple[dict[str, Any], tuple[Any, ...]]) -> None:
        attributes, values = state
        OpenScope.__init__(self, *values)
        add_attributes(self, attributes)

    def __repr__(self) -> str:
        names = ", ".join(source.name for source in self.sources)
        return f"<rng_scope seed={self.seed} over {names}>"


def seed_all(
    seed: SupportsIndex,
    *,
    sources: Listed[str] | None = None,
    devices: Listed[Any] | None = None,
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

    Warns:
        RuntimeWarning: a named source is not there, since its library is not imported.
    """
    number = check_seed(seed)
    if type(independent) is not bool:
        raise TypeError(f"independent must be True or False, not {independent!r}")
    chosen = choose(sources, devices)
    warn_of_missing(chosen, "is not imported, so nothing of it is seeded; import it first")
    load_what_is_lazy(chosen)
    chosen = present(chosen)
    change_together([(source, source.seed, (number, independent)) for source in chosen])
    for source in chosen:
        if isinstance(source, AcceleratorSource):
            source.warn_if_out_of_reach()
