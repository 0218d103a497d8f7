"""``RNGState``: the states of all sources as one value."""

from __future__ import annotations

import warnings
from functools import partial

from rngscope._copies import Immutable
from rngscope._fingerprints import comparable, digest, digest_of
from rngscope._not_covered import warn_of_missing
from rngscope._order import lock, run_deferred
from rngscope._plan import choose
from rngscope._present import cells_of
from rngscope._roll_back import change_together
from rngscope._seeds import short_repr
from rngscope._state_dict import as_json, dump_sources, load_sources, seal, unseal
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import AcceleratorSource, over_present_devices
from rngscope.sources.generators import GeneratorCell, dump_generator, load_generator
from rngscope.sources.numpy import load_numpy_random
from rngscope.sources.queue import refuse_impossible_start
from rngscope.sources.start import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any, Self

    from rngscope._plan import Listed
    from rngscope.sources.cell import Cell, Source


class RNGState(Immutable):
    """The states of some sources at one moment: immutable, hashable, comparable.

    Two states are equal if they hold the same sources in the same states. A source that
    was not loaded, or an accelerator that had not started, when the state was captured is
    not in it; to restore leaves that source alone.

    Example:
        >>> import random
        >>> state = RNGState.capture(sources=["python"])
        >>> first = random.random()
        >>> state.restore()
        >>> random.random() == first
        True
    """

    __slots__ = ("_sources", "_generators", "_fingerprints")

    _sources: dict[str, Any]
    _generators: tuple[tuple[str, Any], ...]
    _fingerprints: dict[str, str] | None
    _made_by = "RNGState.capture() or RNGState.from_state_dict()"

    @classmethod
    def capture(
        cls,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
    ) -> Self:
        """Return the states of all sources that are loaded and started now.

        Where NumPy is imported, so is ``numpy.random``, which NumPy 2 puts off.

        Args:
            sources, devices, generators: as in ``rng_scope``.

        Raises:
            TypeError, ValueError: an argument is wrong.
            RuntimeError: a CUDA graph is being captured.

        Warns:
            RuntimeWarning: a named source is not there, since its library is not imported.
        """
        chosen = choose(sources, devices, generators)
        warn_of_missing(
            chosen, "is not imported, so nothing of it is in the state; import it first"
        )
        state: Self = capture_from(chosen, cls)  # type: ignore
        return state

    def restore(self, *, generators: Listed[Any] | None = (), strict: bool = True) -> None:
        """Put every source back to this state. If one cannot be, none is.

        An accelerator that has not started gets its part when it starts; a mismatch that
        shows only then is a warning. Of CUDA it can be known before that there is no driver,
        or that no GPU is visible.

        Args:
            generators: the objects whose states were captured, in the same order.
            strict: False to restore what can be, with a warning for what is left out.

        Raises:
            TypeError: ``generators`` is no list of RNG objects, or ``strict`` no bool.
            ValueError: a library of the state is not imported, a started accelerator has
                another number of devices, one that has not started cannot start,
                ``generators`` is not what was captured.
            RuntimeError: a CUDA graph is being captured.
        """
        if type(strict) is not bool:
            raise TypeError(f"strict must be True or False, not {short_repr(strict)}")
        load_what_is_lazy(SOURCES)
        by_name = {source.name: source for source in SOURCES}
        mine: tuple[Source, ...] = choose([], None, generators)
        values = values_for(self, mine)
        chosen = [(source, values[source.name]) for source in mine]
        for name, value in self._sources.items():
            source = by_name.get(name)
            try:
                _check_here(source, name, value)
            except ValueError as error:
                if strict:
                    raise
                warnings.warn(f"not restored: {error}", RuntimeWarning, stacklevel=2)
                # Of an accelerator, the devices that are there.
                is_one = isinstance(source, AcceleratorSource)
                source = over_present_devices(source, value) if is_one else None  # type: ignore
            if source is not None:
                chosen.append((source, value))
        replay_together(chosen)

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of 16 hexadecimal digits for each source by name."""
        return dict(_digests(self))

    def fingerprint(self) -> str:
        """Return one digest of 16 hexadecimal digits for all sources together."""
        return digest(as_json(_digests(self)))

    def differs_from(self, other: RNGState) -> list[str]:
        """Return the names of the sources that differ, or that only one side has.

        Raises:
            TypeError: ``other`` is no RNGState.
        """
        if not isinstance(other, RNGState):
            raise TypeError(
                f"an RNGState is compared with another one, not with {short_repr(other)}"
            )
        mine, theirs = _comparable(self), _comparable(other)
        differ = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if differ:
            # The same state may be held in two forms.
            one, two = _digests(self), _digests(other)
            differ = [name for name in differ if one.get(name) != two.get(name)]
        return differ

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RNGState):
            return NotImplemented
        return not self.differs_from(other)

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={digest}" for name, digest in _digests(self).items())
        return f"<RNGState {inner}>"

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values: dict, list, str, int, float and None only.

        It survives ``json``, and ``torch.save`` with ``torch.load(weights_only=True)``,
        exactly.

        Raises:
            TypeError: a NumPy bit generator that is not NumPy's own.
        """
        return seal(
            "RNGState",
            {
                "sources": dump_sources(self._sources, SOURCES),
                "generators": [dump_generator(kind, state) for kind, state in self._generators],
            },
        )

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Any]) -> Self:
        """Return the state that ``state_dict()`` wrote, after checking every field.

        A state of other library versions loads with a ``RuntimeWarning``.

        Args:
            state_dict: what ``state_dict()`` returned, in whatever form it was kept since:
                dict, list, str, int, float and None.

        Raises:
            ValueError: naming the field that is wrong.
        """
        fields = unseal(state_dict, "RNGState", {"sources", "generators"})
        sources = load_sources(fields["sources"], SOURCES, "sources")
        if not isinstance(fields["generators"], list):
            raise ValueError(
                f"generators must be a list, not {type(fields['generators']).__name__}"
            )
        generators = [
            load_generator(plain, f"generators[{position}]")
            for position, plain in enumerate(fields["generators"])
        ]
        state: Self = state_of(sources, generators, cls)  # type: ignore
        return state


def _check_here(source: Source | None, name: str, value: Any) -> None:
    if source is None or not source.cells():
        raise ValueError(
            f"the state holds {name!r}, which is not there in this process; import its library "
            f"first, or leave it out with restore(strict=False)"
        )
    source.check(value)
    if isinstance(source, AcceleratorSource):
        refuse_impossible_start(source.backend)


def _digests(state: RNGState) -> dict[str, str]:
    """Return a digest for each source by name, made once."""
    if state._fingerprints is None:
        dumps = {source.name: source.dump for source in SOURCES}
        digests = {n: digest_of(value, dumps[n]) for n, value in state._sources.items()}
        for position, (kind, value) in enumerate(state._generators):
            digests[f"generators[{position}]"] = digest_of(value, partial(dump_generator, kind))
        object.__setattr__(state, "_fingerprints", digests)
    assert state._fingerprints is not None
    return state._fingerprints


def _comparable(state: RNGState) -> dict[str, Any]:
    """Return the values in a form that ``==`` compares, cheaper than digests."""
    values = {name: comparable(value) for name, value in state._sources.items()}
    for position, generator in enumerate(state._generators):
        values[f"generators[{position}]"] = comparable(generator)
    return values


def state_of(
    values: dict[str, Any],
    generators: Iterable[tuple[str, Any]] = (),
    cls: type[RNGState] = RNGState,
) -> RNGState:
    """Return the state that holds these values by source name, and kinds and states."""
    state = object.__new__(cls)
    object.__setattr__(state, "_sources", values)
    object.__setattr__(state, "_generators", tuple(generators))
    object.__setattr__(state, "_fingerprints", None)
    return state


def state_from(values: dict[str, Any], sources: Iterable[Source]) -> RNGState:
    """Return the state of which ``values_for`` made these values for the same sources."""
    mine = [source for source in sources if isinstance(source, GeneratorCell)]
    names = {source.name for source in mine}
    return state_of(
        {name: value for name, value in values.items() if name not in names},
        [(source.kind, values[source.name]) for source in mine],
    )


def values_of(state: RNGState) -> Mapping[str, Any]:
    """Return what a state holds by source name."""
    return state._sources


def capture_from(sources: Collection[Source], cls: type[RNGState] = RNGState) -> RNGState:
    """Return the states of the cells that are there now."""
    load_what_is_lazy(sources)
    cells = [c for c in cells_of(tuple(sources)) if not isinstance(c, Waiting)]
    with lock:
        states = {cell: cell.getstate() for cell in cells}
    run_deferred()
    return gathered(sources, states, cls)


def gathered(
    sources: Iterable[Source], states: dict[Cell, Any], cls: type[RNGState] = RNGState
) -> RNGState:
    """Return the states of cells by source."""
    mine = [source for source in sources if isinstance(source, GeneratorCell)]
    found = {s.name: s.gather(states) for s in sources if not isinstance(s, GeneratorCell)}
    return state_of(
        {name: value for name, value in found.items() if value is not None},
        [(source.kind, states[source]) for source in mine],
        cls,
    )


def load_what_is_lazy(sources: Iterable[Source]) -> None:
    """Have imported libraries bring their generators, where they put that off.

    Entering a scope imports nothing: there, what appears later is taken up then.
    """
    if any(source.name == "numpy" for source in sources):
        load_numpy_random()


def replay_together(chosen: Iterable[tuple[Source, Any]]) -> None:
    """Continue from a value in every source; if one of them fails, in none."""
    changes: list[tuple[Cell, Callable[[], None]]] = []
    for source, value in chosen:
        for cell in source.cells():
            state = source.state_in(value, cell)
            if state is not None:
                changes.append((cell, partial(cell.setstate, state)))
    change_together(changes)


def values_for(state: RNGState, sources: Iterable[Source]) -> dict[str, Any]:
    """Return the values by source name, after checking that the generators fit.

    Raises:
        ValueError: another number of generators than the state holds, or other types.
    """
    mine = [source for source in sources if isinstance(source, GeneratorCell)]
    if len(mine) != len(state._generators):
        raise ValueError(
            f"the state holds {len(state._generators)} generator(s), but generators= names "
            f"{len(mine)}; pass the objects that were captured, in the same order"
        )
    values = dict(state._sources)
    for source, (kind, generator_state) in zip(mine, state._generators):
        if source.kind != kind:
            raise ValueError(f"{source.name} is a {source.kind}, but the state is one of a {kind}")
        source.check(generator_state)
        values[source.name] = generator_state
    return values
