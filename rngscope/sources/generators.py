"""Generators that belong to the user: each is a source of its own, of one of four kinds."""

from __future__ import annotations

import random
import sys

from rngscope._errors import warn_caller
from rngscope._seeds import short_repr
from rngscope.sources import memory
from rngscope.sources.cell import OneCell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rngscope.sources.cell import Cell

#: The kinds by their full names, as they stand in a state dict; the classes come from the files
#: of their libraries.
_KINDS: dict[str, Any] = dict.fromkeys(
    ("torch.Generator", "numpy.random.Generator", "numpy.random.RandomState", "random.Random")
)

#: Two ways to seed a Mersenne Twister, which libraries share: from one 32-bit word, and from an
#: array of them.
BY_ONE_WORD, BY_TWO_WORDS = "Mersenne Twister of one word", "Mersenne Twister of two words"

#: Tells how many references there are to an object. Exact only in CPython with its global lock;
#: elsewhere None.
count_references = getattr(sys, "getrefcount", None) if memory.may_be_fast() else None


class GeneratorCell(OneCell):
    """An RNG object of the user, at one position of ``generators=``."""

    module = ""
    #: Return the serialized form of a state of this kind.
    write: Callable[[Any], dict[str, Any]]
    #: Return the state that fields describe, after checking every one of them; the text says where
    #: they stand.
    read: Callable[[Any, str], Any]

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    def __init__(self, generator: Any, position: int) -> None:
        self.generator = generator
        self.position = position
        self.name = f"generators[{position}]"
        self.path: tuple[str | int, ...] = ("generators", position)
        #: Whether anybody but this cell was seen to hold the generator.
        self.had_owner = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the generator is another RNG, which need not have been the same one here.
        return type(self), (self.generator, self.position)

    # Two scopes over the same object are scopes over the same RNG.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneratorCell) and other.generator is self.generator

    def __hash__(self) -> int:
        return id(self.generator)

    def cells(self) -> tuple[Cell, ...]:
        # Asked at each entry.
        self.had_owner = self.had_owner or _has_owner(self)
        return (self,)

    def was_replaced(self) -> bool:
        """Tell, once, whether those that held the generator have let it go.

        ``env.reset(seed=...)`` of a Gymnasium environment, for one, makes a new generator.
        """
        if not self.had_owner or _has_owner(self):
            return False
        self.had_owner = False
        return True

    def stream_of(self, seed: int) -> tuple[str, Any]:
        """Return what tells its numbers, for this seed, from those of other kinds; and the RNG."""
        raise NotImplementedError

    def dump(self, state: Any) -> dict[str, Any]:
        return dump_generator(self.kind, state)

    def load(self, fields: Any) -> Any:
        kind, state = load_generator(fields, self.name)
        if kind != self.kind:
            raise ValueError(f"{self.name} is a {self.kind}, but the state is one of a {kind}")
        self.check(state)
        return state


def _has_owner(cell: GeneratorCell) -> bool:
    """Tell whether anybody but this cell holds the generator."""
    # The cell's own reference, and that of the call.
    return count_references is not None and count_references(cell.generator) > 2


def generator_cell(generator: object, position: int) -> GeneratorCell:
    """Return the cell of an RNG object.

    Raises:
        TypeError: it is none of the four kinds, or a ``random.SystemRandom``, which has no state.
    """
    is_system = isinstance(generator, random.SystemRandom)
    for cls, cell in _imported_kinds().items():
        if isinstance(generator, cls) and not is_system:
            return cell(generator, position)  # type: ignore[no-any-return]
    hint = " (it draws from the operating system: no state)" if is_system else ""
    raise TypeError(
        f"generators must hold {', '.join(_KINDS)}, not {type(generator).__name__}: "
        f"{short_repr(generator)}{hint}"
    )


def generator_types() -> tuple[type, ...]:
    """Return the types of the four kinds whose libraries are imported."""
    return tuple(_imported_kinds())


def _imported_kinds() -> dict[type, Any]:
    """Return the types of the four kinds whose libraries are imported, with their cells."""
    found = {}
    for kind, cell in _KINDS.items():
        module, _, name = kind.rpartition(".")
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None:
            found[cls] = cell
    return found


def warn_of_alike(sources: Iterable[Any], seed: int) -> None:
    """Warn of generators that draw the same numbers when all are seeded with ``seed``."""
    alike: dict[str, dict[Any, str]] = {}
    for source in sources:
        if isinstance(source, GeneratorCell):
            stream, rng = source.stream_of(seed)
            # Of several generators over one bit generator, which are one RNG, the first counts.
            alike.setdefault(stream, {}).setdefault(id(rng), source.name)
    for names in alike.values():
        if len(names) > 1:
            *others, last = names.values()
            warn_caller(
                f"{', '.join(others)} and {last} draw the same numbers, because they are seeded "
                f"with one integer; independent=True gives each a seed of its own"
            )


def dump_generator(kind: str, state: Any) -> dict[str, Any]:
    """Return the serialized form of the state of one kind of generator."""
    return {"kind": kind, **_KINDS[kind].write(state)}


def load_generator(fields: Any, where: str) -> tuple[str, Any]:
    """Return kind and state that ``fields`` describe, after checking every one of them."""
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{where}.kind must be one of {', '.join(_KINDS)}, not {short_repr(kind)}")
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return kind, _KINDS[kind].read(rest, where)
