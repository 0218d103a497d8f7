"""``rng_scope``: from arguments to a plan, then enter and leave."""

from __future__ import annotations

from functools import partial

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses, find_frame
from rngscope._graphs import keep_out_of_graphs
from rngscope._interrupts import no_signal_at_start
from rngscope._life import Life
from rngscope._not_covered import warn_of_missing
from rngscope._plan import Plan, choose, choose_by_name
from rngscope._present import cells_of
from rngscope._roll_back import change_together
from rngscope._seeds import SEED_LIMIT, check_seed, short_repr
from rngscope._state import RNGState, load_what_is_lazy, state_from, values_for
from rngscope._turns import check_exclusive
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.generators import warn_of_alike
from rngscope.sources.queue import warn_if_out_of_reach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, SupportsIndex, TypeVar

    from rngscope._plan import Listed
    from rngscope.sources.cell import Source

    Function = TypeVar("Function", bound=Callable[..., Any])


_NONE: tuple[Any, ...] = ()

#: Seed, or seed and names -> the plan, which does not change.
_plans: dict[Any, Plan] = {}


def _keep(key: Any, seed: int | None, sources: tuple[Source, ...]) -> Plan:
    if len(_plans) >= 1024:
        _plans.clear()
    plan = _plans[key] = Plan(sources, seed)
    return plan


def _plan_by_name(seed: int | None, names: list[str]) -> Plan:
    key = (seed, *names)
    try:
        return _plans[key]
    except (KeyError, TypeError):
        pass
    named = choose_by_name(names)
    return _keep(key, seed, named) if named.may_be_kept else Plan(named, seed)


class rng_scope(metaclass=NeedsParentheses):
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

    __slots__ = ("_plan", "_life")
    _as_block = "rng_scope(42)"
    #: What a block lives in.
    _life_type = Life

    def __init__(
        self,
        seed: SupportsIndex | RNGState | None = None,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = _NONE,
        independent: bool = False,
        deterministic: bool = False,
        exclusive: bool | float = False,
    ) -> None:
        self._life: Life | None = None
        if seed is None or type(seed) is int and 0 <= seed < SEED_LIMIT:
            is_plain = independent is deterministic is exclusive is False
            if is_plain and devices is None and generators is _NONE:
                # What is most often asked.
                if sources is None:
                    self._plan = _plans.get(seed) or _keep(seed, seed, SOURCES)
                    return
                if isinstance(sources, list):
                    self._plan = _plan_by_name(seed, sources)
                    return
        if type(independent) is not bool:
            raise TypeError(f"independent must be True or False, not {short_repr(independent)}")
        chosen = choose(sources, devices, generators, deterministic)
        exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
        self._plan = make_plan(chosen, seed, independent, exclusive)

    @property
    def seed(self) -> int | None:
        """The integer given; None when preserving or replaying."""
        return self._plan.seed

    def __enter__(self) -> Self:
        """Save every RNG and begin the stream. If that fails half way, everything is put back."""
        life = self._life
        if life is not None and life.is_open_or_suspended:
            raise RuntimeError("this scope is open already; make another one: with rng_scope(...)")
        self._life = life = self._life_type(self._plan)
        life.enter(find_frame(1))
        return self

    @no_signal_at_start
    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Put every RNG back."""
        life = self._life
        if life is not None:
            life.leave(kind)

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(__exit__)

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call has a scope of its own, as under ``seeded``."""
        # Here because it imports inspect, which takes milliseconds.
        from rngscope._decorate import decorate

        # The function takes its meaning alone, whatever becomes of this scope.
        template = rng_scope()
        template._plan = self._plan
        made: Function = decorate(function, lambda function, *_: life_of(template, function))
        return made

    def __getstate__(self) -> tuple[dict[str, Any], tuple[Any, ...]]:
        life, plan = self._life, self._plan
        if life is not None and life.is_open_or_suspended:
            raise RuntimeError(
                f"cannot copy or pickle {short_repr(self)} while it is open or suspended: leave "
                f"its block first, or make another scope of the same arguments"
            )
        # All sources are those of the process that asks. A state has a serialized form of its own.
        sources = None if plan.sources is SOURCES else plan.sources
        state = None if plan.values is None else state_from(plan.values, plan.sources)
        seed = plan.seed if state is None else state
        values = sources, seed, plan.independent, plan.exclusive
        return added_attributes(self, rng_scope.__slots__), values

    def __setstate__(self, state: tuple[dict[str, Any], tuple[Any, ...]]) -> None:
        attributes, (sources, seed, independent, exclusive) = state
        self._life = None
        # Also has this process take turns.
        exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
        sources = SOURCES if sources is None else sources
        self._plan = make_plan(sources, seed, independent, exclusive)
        add_attributes(self, attributes)

    def __repr__(self) -> str:
        names = ", ".join(source.name for source in self._plan.sources)
        return f"<rng_scope seed={self.seed} over {names}>"


def life_of(scope: rng_scope, function: Any = None) -> Life:
    """Return a life of the same meaning as a scope, for the calls of a function."""
    return Life(scope._plan, function)


def life_with(scope: rng_scope, seed: SupportsIndex | RNGState | None, function: Any) -> Life:
    """Return the same with another seed.

    Raises:
        TypeError, ValueError: the seed is not one, or the state does not fit.
    """
    plan = scope._plan
    return Life(make_plan(plan.sources, seed, plan.independent, plan.exclusive), function)


def make_plan(
    sources: tuple[Source, ...],
    seed: SupportsIndex | RNGState | None,
    independent: bool,
    exclusive: bool | float = False,
) -> Plan:
    """Return the plan of a scope over these sources.

    Raises:
        TypeError, ValueError: the seed is not one, or the state does not fit.
    """
    if seed is None:
        return Plan(sources, None, independent, None, exclusive)
    if isinstance(seed, RNGState):
        return Plan(sources, None, independent, values_for(seed, sources), exclusive)
    if callable(seed):
        raise TypeError(
            f"seed must be an integer, an RNGState or None, not {type(seed).__name__}: "
            f"{short_repr(seed)}; a decorator needs parentheses: write @rng_scope(42)"
        )
    number = check_seed(seed)
    if not independent and type(sources) is not tuple:
        warn_of_alike(sources, number)
    return Plan(sources, number, independent, None, exclusive)


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
    plan = Plan(choose(sources, devices), check_seed(seed), independent)
    if type(independent) is not bool:
        raise TypeError(f"independent must be True or False, not {short_repr(independent)}")
    warn_of_missing(plan.sources, "is not imported, so nothing of it is seeded; import it first")
    load_what_is_lazy(plan.sources)
    change_together([(cell, partial(plan.begin, (cell,))) for cell in cells_of(plan.sources)])
    for source in plan.sources:
        if isinstance(source, AcceleratorSource):
            warn_if_out_of_reach(source.backend)
