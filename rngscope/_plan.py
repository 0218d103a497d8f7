"""From arguments to a plan: which sources, and what their RNGs begin with."""

from __future__ import annotations

import sys

from rngscope._seeds import short_repr
from rngscope.sources import DETERMINISM, SOURCES
from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.backends import PRIVATE
from rngscope.sources.cell import seed_cells
from rngscope.sources.generators import GeneratorCell, generator_cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol, TypeVar

    from rngscope._life import Life
    from rngscope.sources.cell import Cell, Source

    Item = TypeVar("Item", covariant=True)

    class _Collection(Protocol[Item]):
        """A list, tuple, set, dict, array, ...

        Not a str: it is an iterable of str too, but takes only a str for ``in``.
        """

        def __iter__(self) -> Iterator[Item]: ...

        def __contains__(self, item: object, /) -> bool: ...

    #: What ``sources=``, ``devices=`` and ``generators=`` take: anything to iterate over but text.
    Listed = _Collection[Item] | Iterator[Item]


class Plan:
    """Which sources a scope covers, and what their RNGs begin with."""

    __slots__ = (
        "sources",
        "seed",
        "independent",
        "values",
        "exclusive",
        "is_simple",
        "looks_at_end",
    )

    #: Whether the stream goes on at the next entry; see ``RNGStream``.
    remembers = False
    #: Whether to warn where its scopes are left out of order.
    warns_of_order = True

    def __init__(
        self,
        sources: tuple[Source, ...],
        seed: int | None,
        independent: bool = False,
        values: dict[str, Any] | None = None,
        exclusive: bool | float = False,
    ) -> None:
        self.sources = sources
        #: The integer to begin with; None to begin with ``values``, or with what there is.
        self.seed = seed
        self.independent = independent
        #: Source name -> what to continue from, as ``Source.gather`` or ``load`` returned it.
        self.values = values
        #: Whether its scopes keep those of other threads out; a number of seconds: so too, and for
        #: how long they wait for them.
        self.exclusive = exclusive
        #: Whether to look, at the end of a scope, for what it was asked to cover and could not.
        self.looks_at_end = type(sources) is not tuple
        #: Whether each cell may begin as soon as it is saved, with the seed or not at all.
        self.is_simple = not (independent or values is not None or self.remembers) and bool(
            sources and sources[-1].module and not sources[-1].applies_always
        )

    def latest_position(self) -> dict[Cell, Any] | None:
        """Return where a stream stands, before one more use of it; None before the first."""
        return None

    def opened(self, life: Life) -> None:
        """Note that a scope has begun."""

    def keep(self, life: Life, position: dict[Cell, Any]) -> None:
        """Keep where a stream stands at the end of a use."""

    def ends(self, life: Life) -> None:
        """Note that what a scope has found is about to be put back. Idempotent."""

    def closed(self, life: Life) -> None:
        """Note that a use of a stream has ended."""

    def has_suspended(self, life: Life) -> None:
        """Note that a use of a stream is suspended."""

    def begin(self, cells: Iterable[Cell]) -> None:
        """Give cells the state that the stream begins with."""
        seed = self.seed
        if self.values is not None:
            self._replay(cells)
        elif seed is None:
            for cell in cells:
                if cell.applies_always:
                    cell.seed(0)
        elif self.independent:
            for cell in cells:
                cell.seed_independently(seed)
        else:
            seed_cells(cells, seed)

    def _replay(self, cells: Iterable[Cell]) -> None:
        """Continue from the values; a stream has a seed for what they do not hold."""
        assert self.values is not None
        rest = Plan(self.sources, self.seed, self.independent)
        of_limited = {c: source for source in self.sources for c in source.cells()}
        for cell in cells:
            source = of_limited.get(cell, cell.source)
            value = self.values.get(source.name)
            if value is None:
                rest.begin((cell,))
                continue
            # It may have been loaded before there was a library that could check it.
            source.check(value)
            state = source.state_in(value, cell)
            if state is not None:
                cell.setstate(state)


#: All but the private backend, whose name may still change.
_BY_NAME = {source.name: source for source in SOURCES if source.kind != PRIVATE}

#: Names as they were given -> the sources, for names that cannot change.
_named: dict[tuple[str, ...], NamedSources] = {}


class NamedSources(tuple["Source", ...]):
    """Sources that the program has asked for, and so expects to be covered."""

    #: Whether ``sources=`` names them; else there are generators or switches among all.
    has_names: bool
    #: Whether these names mean these sources for good: a private backend may still be renamed.
    may_be_kept = False


def _as_named(chosen: Iterable[Any], has_names: bool) -> NamedSources:
    named = NamedSources(chosen)
    named.has_names = has_names
    return named


def choose(
    sources: Listed[str] | None,
    devices: Listed[Any] | None,
    generators: Listed[Any] | None = (),
    deterministic: bool = False,
) -> tuple[Source, ...]:
    """Return the sources that these arguments name, after checking all of them.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown source, or a device that cannot be.
    """
    # Compared only if it is a tuple: an array of generators has an == of its own.
    is_plain = deterministic is False and (
        generators is None or type(generators) is tuple and generators == ()
    )
    chosen: tuple[Source, ...] = SOURCES if sources is None else choose_by_name(sources)
    if devices is not None:
        chosen = _on_devices(chosen, devices)
    if is_plain:
        return chosen
    given = () if generators is None else generators
    if not _is_listed(given):
        raise TypeError(
            f"generators must be a list of RNG objects, not {short_repr(given)}; write "
            f"generators=[generator], also for a single one"
        )
    mine: list[GeneratorCell] = []
    for generator in given:
        # The same object twice is one RNG: the first place counts.
        if not any(generator is other.generator for other in mine):
            mine.append(generator_cell(generator, len(mine)))
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be True or False, not {short_repr(deterministic)}")
    switches = (DETERMINISM,) if deterministic else ()
    return _as_named((*chosen, *mine, *switches), sources is not None)


def choose_by_name(sources: Listed[str]) -> NamedSources:
    if isinstance(sources, str):
        text = short_repr(sources)
        raise TypeError(f"sources must be a list of names, not a str; write sources=[{text}]")
    try:
        names = tuple(sources)
    except TypeError:
        raise TypeError(
            f"sources must be a list of names, not {short_repr(sources)}; write sources=['torch']"
        ) from None
    try:
        return _named[names]
    except (KeyError, TypeError):
        pass
    known: dict[str, Source] = _BY_NAME
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"sources must be a list of names, but one of them is {short_repr(name)}"
            )
        if name not in known:
            # The one name that can change.
            known = {source.name: source for source in SOURCES}
            if name not in known:
                # The best known first.
                choices = ", ".join(map(repr, [*list(known)[-3:], *list(known)[:-3]]))
                raise ValueError(f"unknown source {short_repr(name)}; choose from {choices}")
    chosen = _as_named([source for name, source in known.items() if name in names], True)
    chosen.may_be_kept = known is _BY_NAME
    if chosen.may_be_kept and len(_named) < 64:
        _named[names] = chosen
    return chosen


def _is_listed(value: Any) -> bool:
    """Tell whether this can be iterated over, and is no text."""
    if isinstance(value, (str, bytes)):
        return False
    try:
        # Not hasattr: arrays and tensors without dimensions have an __iter__ that fails.
        iter(value)
    except TypeError:
        return False
    return True


def _as_device(value: Any) -> str | None:
    """Return, in code, the item of a list of devices that this was probably meant to be."""
    torch_device = getattr(sys.modules.get("torch"), "device", ())
    if isinstance(value, (str, torch_device)):
        kind, _, index = str(value).partition(":")
        if kind == "cpu":
            # No accelerator.
            return ""
        if kind.isdecimal() and not index:
            return kind
        if kind.isidentifier() and (index.isdecimal() or not index):
            return f"torch.device({str(value)!r})"
    if type(value) is int and value >= 0:
        return short_repr(value)
    return None


def _on_devices(chosen: tuple[Source, ...], devices: Listed[Any]) -> tuple[Source, ...]:
    torch_device = getattr(sys.modules.get("torch"), "device", None)
    if not _is_listed(devices):
        item = _as_device(devices)
        raise TypeError(
            f"devices must be a list of ints or torch.device, not {short_repr(devices)}; write "
            f"devices=[{'0' if item is None else item}]"
        )
    wanted: list[tuple[str | None, int | None]] = []
    for device in devices:
        if torch_device is not None and isinstance(device, torch_device):
            if device.type not in {s.name for s in chosen if isinstance(s, AcceleratorSource)}:
                raise ValueError(f"device {str(device)!r} is no accelerator that this scope covers")
            wanted.append((device.type, device.index))
            continue
        if isinstance(device, bool) or not hasattr(device, "__index__"):
            item = _as_device(device) or "0 or torch.device('cuda', 0)"
            raise TypeError(
                f"devices must hold non-negative ints or torch.device, not {short_repr(device)}; "
                f"write {item}"
            )
        if (index := device.__index__()) < 0:
            raise ValueError(f"device {short_repr(index)} is negative; devices are counted from 0")
        wanted.append((None, index))
    limited: list[Source] = []
    for source in chosen:
        if isinstance(source, AcceleratorSource):
            indices = tuple(dict.fromkeys(i for kind, i in wanted if kind in (None, source.name)))
            if indices:
                limited.append(source.limited_to(indices))
        else:
            limited.append(source)
    has_names = isinstance(chosen, NamedSources)
    return _as_named(limited, True) if has_names else tuple(limited)
