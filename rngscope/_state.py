"""``RNGState``: the states of all sources as one value."""

from __future__ import annotations

import sys
import warnings

from rngscope._open_scopes import change_together, leave_deferred, lock
from rngscope._seeds import short_repr
from rngscope._sources import SOURCES, choose, load_what_is_lazy
from rngscope._sources.generators import GeneratorSource, dump_generator, load_generator
from rngscope._sources.plain import check_keys, load_hex
from rngscope._sources.torch_accelerator import AcceleratorSource
from rngscope._sources.torch_cpu import tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import TracebackType
    from typing import Any, NoReturn, Self, TypeVar

    from rngscope._sources import Source

    Function = TypeVar("Function", bound=Callable[..., Any])

FORMAT = 1


class RNGState:
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

    def __init__(self) -> None:
        raise TypeError("an RNGState is made by RNGState.capture() or RNGState.from_state_dict()")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an RNGState cannot be changed, so {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an RNGState cannot be changed, so {name!r} cannot be deleted")

    @classmethod
    def _made_of(cls, sources: dict[str, Any], generators: Iterable[tuple[str, Any]]) -> Self:
        state = object.__new__(cls)
        object.__setattr__(state, "_sources", sources)
        object.__setattr__(state, "_generators", tuple(generators))
        object.__setattr__(state, "_fingerprints", None)
        return state

    @classmethod
    def capture(
        cls,
        *,
        sources: Iterable[str] | None = None,
        devices: Iterable[Any] | None = None,
        generators: Iterable[Any] = (),
    ) -> Self:
        """Return the states of all sources that are loaded and started now.

        Where NumPy is imported, so is ``numpy.random``, which NumPy 2 puts off.

        Args:
            sources, devices, generators: as in ``rng_scope``.

        Raises:
            TypeError, ValueError: an argument is wrong.
            RuntimeError: a CUDA graph is being captured.
        """
        return cls._captured(choose(sources, devices, generators))

    @classmethod
    def _captured(cls, chosen: Collection[Source]) -> Self:
        load_what_is_lazy(chosen)
        with lock:
            captured = [(source, source.capture()) for source in chosen]
        leave_deferred()
        return cls._made_of(
            {s.name: c for s, c in captured if c is not None and not _is_generator(s)},
            [(s.kind, c) for s, c in captured if _is_generator(s)],  # type: ignore[attr-defined]
        )

    def restore(self, *, generators: Iterable[Any] = (), strict: bool = True) -> None:
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
        by_name: dict[str, Any] = {source.name: source for source in SOURCES}
        mine: list[Any] = list(choose([], None, generators))
        states = replayed_states(self, mine)
        chosen: list[tuple[Source, Any]] = [(source, states[source.name]) for source in mine]
        for name, state in self._sources.items():
            try:
                if name not in by_name or not by_name[name].is_present():
                    raise ValueError(
                        f"the state holds {name!r}, which is not there in this process; import "
                        f"its library first, or leave it out with restore(strict=False)"
                    )
                by_name[name].check(state)
                if isinstance(by_name[name], AcceleratorSource):
                    by_name[name].check_start()
                chosen.append((by_name[name], state))
            except ValueError as error:
                if strict:
                    raise
                warnings.warn(f"not restored: {error}", RuntimeWarning, stacklevel=2)
                if isinstance(by_name.get(name), AcceleratorSource):
                    some = by_name[name].only_present(state)
                    if some is not None:
                        chosen.append((some, state))
        replay_together(chosen)

    def _all_fingerprints(self) -> dict[str, str]:
        if self._fingerprints is None:
            dumps = {source.name: source.dump for source in SOURCES}
            texts = {name: _text(dumps[name], state) for name, state in self._sources.items()}
            for position, (kind, state) in enumerate(self._generators):
                texts[f"generators[{position}]"] = _text(lambda s: dump_generator(kind, s), state)
            digests = {name: _digest(text) for name, text in texts.items()}
            object.__setattr__(self, "_fingerprints", digests)
        assert self._fingerprints is not None
        return self._fingerprints

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of 16 hexadecimal digits for each source by name."""
        return dict(self._all_fingerprints())

    def fingerprint(self) -> str:
        """Return one digest of 16 hexadecimal digits for all sources together."""
        return _digest(_json(self._all_fingerprints()))

    def differs_from(self, other: RNGState) -> list[str]:
        """Return the names of the sources that differ, or that only one side has.

        Raises:
            TypeError: ``other`` is no RNGState.
        """
        if not isinstance(other, RNGState):
            raise TypeError(
                f"an RNGState is compared with another one, not with {short_repr(other)}"
            )
        mine, theirs = self._values(), other._values()
        differ = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if differ:
            # The same state may be held in two forms.
            one, two = self._all_fingerprints(), other._all_fingerprints()
            differ = [name for name in differ if one.get(name) != two.get(name)]
        return differ

    def _values(self) -> dict[str, Any]:
        """Return the states in a form that ``==`` compares, cheaper than fingerprints."""
        values = {name: _value(state) for name, state in self._sources.items()}
        for position, generator in enumerate(self._generators):
            values[f"generators[{position}]"] = _value(generator)
        return values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RNGState):
            return NotImplemented
        return not self.differs_from(other)

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={digest}" for name, digest in self._all_fingerprints().items())
        return f"<RNGState {inner}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return RNGState.from_state_dict, (self.state_dict(),)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain form: dict, list, str, int, float and None only.

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
        return cls._made_of(sources, generators)


def replay_together(chosen: list[tuple[Source, Any]]) -> None:
    """Continue from a captured state in every source; if one of them fails, in none."""
    change_together([(source, source.replay, (state,)) for source, state in chosen])


def replayed_states(state: RNGState, sources: Iterable[Source]) -> dict[str, Any]:
    """Return the states by source name, after checking that the generators fit.

    Raises:
        ValueError: another number of generators than the state holds, or other types.
    """
    mine: list[Any] = [source for source in sources if _is_generator(source)]
    if len(mine) != len(state._generators):
        raise ValueError(
            f"the state holds {len(state._generators)} generator(s), but generators= names "
            f"{len(mine)}; pass the objects that were captured, in the same order"
        )
    states = dict(state._sources)
    for source, (kind, generator_state) in zip(mine, state._generators):
        if source.kind != kind:
            raise ValueError(f"{source.name} is a {source.kind}, but the state is one of a {kind}")
        source.check(generator_state)
        states[source.name] = generator_state
    return states


def _value(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _value(part) for key, part in state.items()}
    if isinstance(state, tuple):
        return tuple(map(_value, state))
    if hasattr(state, "data_ptr"):
        return tensor_bytes(state)
    return state.tobytes() if hasattr(state, "tobytes") else state


def _is_generator(source: Any) -> bool:
    return isinstance(source, GeneratorSource)


def _text(dump: Callable[[Any], dict[str, Any]], state: Any) -> str:
    """Return a text that is the same for equal states only."""
    try:
        plain: Any = dump(state)
    except TypeError:
        # A bit generator that is not NumPy's own: its state is compared, but not written.
        plain = state
    return _json(plain, _as_plain)


def _json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    # Imported here, as platform below, because it costs as much as the whole package.
    import json

    return json.dumps(value, sort_keys=True, default=default)


def _as_plain(value: Any) -> Any:
    return value.__qualname__ if isinstance(value, type) else value.tolist()


def _digest(text: str) -> str:
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=8).hexdigest()


# Plain form: what both states and streams write -------------------------------------------


def dump_sources(states: dict[str, Any], sources: Iterable[Source]) -> dict[str, Any]:
    """Return captured states by source name in plain form."""
    return {s.name: s.dump(states[s.name]) for s in sources if s.name in states}


def load_sources(plain: object, sources: Iterable[Source], where: str) -> dict[str, Any]:
    """Return the states that ``dump_sources`` wrote, after checking every field."""
    if not isinstance(plain, dict):
        raise ValueError(f"{where} must be a dict, not {type(plain).__name__}")
    known = {source.name: source for source in sources if not source.is_switch}
    for name in plain:
        if name not in known:
            raise ValueError(
                f"{where} holds {short_repr(name)}, which is unknown here; known are "
                f"{', '.join(map(repr, known))}"
            )
    return {name: known[name].load(fields) for name, fields in plain.items()}


def seal(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return ``fields`` with format, kind, library versions and checksum."""
    sealed = {"rngscope": kind, "format": FORMAT, "versions": _versions(), **fields}
    return {**sealed, "checksum": _checksum(sealed)}


def unseal(state_dict: object, kind: str, keys: set[str]) -> dict[str, Any]:
    """Check that a dict is what ``seal`` returned for this kind, and return it.

    Raises:
        ValueError: naming the field that is wrong.
    """
    if not isinstance(state_dict, dict) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(f"a state_dict of {kind} must be a dict, not {short_repr(state_dict)}")
    found = state_dict.get("rngscope")
    if found != kind:
        raise ValueError(f"this must be the state_dict of an {kind}, not of {short_repr(found)}")
    if type(state_dict.get("format")) is not int or state_dict["format"] != FORMAT:
        raise ValueError(
            f"format must be {FORMAT}, not {short_repr(state_dict.get('format'))}: it was "
            f"written by another version of rngscope"
        )
    check_keys(state_dict, {"rngscope", "format", "versions", "checksum", *keys}, "state_dict")
    versions = state_dict["versions"]
    if not isinstance(versions, dict) or not all(
        isinstance(text, str) for item in versions.items() for text in item
    ):
        raise ValueError("versions must be a dict from library to version")
    checksum = load_hex(state_dict["checksum"], "checksum", 16).hex()
    try:
        is_what_was_written = checksum == _checksum(state_dict)
    except (TypeError, ValueError, RecursionError):
        # Something that no state_dict holds: its field says so better.
        return state_dict
    if not is_what_was_written:
        raise ValueError(
            "checksum does not match: the state_dict has been changed or damaged since it was "
            "written"
        )
    _warn_of_versions(versions, kind)
    return state_dict


def _checksum(fields: dict[str, Any]) -> str:
    from hashlib import blake2b

    text = _json({k: v for k, v in fields.items() if k != "checksum"})
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that are loaded."""
    import platform

    versions = {"python": platform.python_version()}
    for name in ("numpy", "torch"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            versions[name] = str(version)
    return versions


def _warn_of_versions(versions: dict[str, str], kind: str) -> None:
    """Warn if a library of the state is loaded here in another version."""
    for library, now in _versions().items():
        # What follows the plus sign is the kind of build: '2.13.0+cpu'.
        there = versions.get(library, now)
        if there.partition("+")[0] != now.partition("+")[0]:
            warnings.warn(
                f"this {kind} was written under {library} {there} and is loaded under {now}; "
                f"if its layout fits, it is taken, but streams may change between versions",
                RuntimeWarning,
                stacklevel=4,
            )


class assert_rng_unchanged:
    """Check that a block leaves every global RNG as it was; also a decorator.

    Sources that are there only at one end (torch imported, CUDA started meanwhile) are no
    change.

    Nothing is checked when the block raises.

    Args:
        sources, devices: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: an argument is wrong.
        AssertionError: at exit, naming the sources that moved.
        RuntimeError: a CUDA graph is being captured.

    Example:
        >>> import random
        >>> with assert_rng_unchanged():
        ...     with rng_scope(42):
        ...         number = random.random()
    """

    __slots__ = ("_sources", "_before")

    def __init__(
        self,
        *wrong: NoReturn,
        sources: Iterable[str] | None = None,
        devices: Iterable[Any] | None = None,
    ) -> None:
        if wrong:
            raise TypeError(
                "assert_rng_unchanged needs parentheses as a decorator: write "
                "@assert_rng_unchanged(); sources and devices are given by name"
            )
        self._sources = choose(sources, devices)
        self._before: list[RNGState] = []

    def __enter__(self) -> Self:
        self._before.append(self._capture())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        before = self._before.pop()
        if error is None:
            self._compare(before)

    def _capture(self) -> RNGState:
        return RNGState._captured(self._sources)

    def _compare(self, before: RNGState) -> None:
        after = self._capture()
        both = before._sources.keys() & after._sources.keys()
        moved = [name for name in before.differs_from(after) if name in both]
        if moved:
            raise AssertionError(
                f"the block moved the global RNG of {', '.join(map(repr, moved))}; wrap it in "
                f"rng_scope(), or give its draws a generator of their own"
            )

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call is checked."""
        from rngscope._seeded import decorate

        return decorate(function, lambda *call: _Check(self))  # type: ignore[no-any-return]


class _Check:
    """The check of one call; of a body that suspends, of each of its steps."""

    __slots__ = ("_check", "_before")

    def __init__(self, check: assert_rng_unchanged) -> None:
        self._check = check

    def take_up(self) -> None:
        self._before = self._check._capture()

    __enter__ = take_up

    def put_aside(self) -> None:
        self._check._compare(self._before)

    def leave(self, kind: type[BaseException] | None = None, *_: object) -> None:
        # A body that ends says so with one of these.
        if kind is None or kind in (StopIteration, StopAsyncIteration):
            self._check._compare(self._before)

    __exit__ = leave
