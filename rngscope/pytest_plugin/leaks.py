"""Who moved a global RNG: compare its states at each border, and blame who ran in between."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

from rngscope._present import cells_of
from rngscope._state import gathered, load_what_is_lazy, state_of, values_of
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import DeviceStates
from rngscope.sources.serialized import WORDS
from rngscope.sources.start import Waiting
from rngscope.sources.torch import STATE_BYTES, tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from rngscope._life import Life
    from rngscope.sources.cell import Cell

    class Owner(Protocol):
        """What may be blamed: a test, a fixture, the import of a module."""

        def own_scopes(self) -> list[Life]:
            """Return the scopes that it has opened and that are open now."""

        def tell(self, what: str, sources: Iterable[str] = ()) -> Finding:
            """Return the words for something that it did."""


class Finding(NamedTuple):
    """One thing that was found; plain enough to come back from a worker of xdist."""

    #: Who, when, what: for the list at the end.
    line: str
    #: What, when, who: for a failure, which pytest's summary cuts off at the right.
    text: str
    sources: tuple[str, ...]


class Watch:
    """Looks at the global RNGs whenever somebody else begins to run."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = allowed
        #: What was found and not yet reported.
        self.found: list[Finding] = []
        self._owner: Owner | None = None
        self._before: dict[str, Any] = {}

    def switch(self, owner: Owner | None) -> None:
        """Blame who ran for what has moved, and watch ``owner`` from here on."""
        if self._owner is not None:
            self._compare(self._owner)
        self._owner = owner
        self.look_again()

    def look_again(self) -> None:
        """Take what has moved by now as what was there before."""
        if self._owner is not None:
            # Otherwise the first draw would go unseen.
            load_what_is_lazy(SOURCES)
            self._before = _states_below(self._owner.own_scopes())

    def report(self, finding: Finding) -> None:
        """Keep a finding; the same again says nothing new."""
        if finding not in self.found:
            self.found.append(finding)

    def take_found(self) -> list[Finding]:
        """Return what was found since this was asked last."""
        found, self.found = self.found, []
        return found

    def _compare(self, owner: Owner) -> None:
        before, now = self._before, _states_below(owner.own_scopes())
        moved = {
            name: (before[name], now[name])
            for name in before
            if name in now
            and name not in self.allowed
            and has_moved(name, before[name], now[name])
        }
        if moved:
            self.report(owner.tell(describe(moved), moved))


def _states_below(own: list[Life]) -> dict[str, Any]:
    """Return where the RNGs stand under some scopes: source name -> state."""
    states: dict[Cell, Any] = {}
    for cell in cells_of(SOURCES):
        if not isinstance(cell, Waiting):
            found = next((life.found for life in own if life.found and cell in life.found), None)
            states[cell] = cell.getstate() if found is None else found[cell]
    return dict(values_of(gathered(SOURCES, states)))


#: How far a stream is followed, in blocks of 624 words.
_REACH = 100


def has_moved(name: str, before: Any, now: Any) -> bool:
    old, new = state_of({name: before}), state_of({name: now})
    return bool(old.differs_from(new))


def describe(moved: dict[str, tuple[Any, Any]]) -> str:
    verbs: dict[str, list[str]] = {}
    for name, (before, now) in moved.items():
        verbs.setdefault(_verb(name, before, now), []).append(repr(name))
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in verbs.items())


def _verb(name: str, before: Any, now: Any) -> str:
    """Tell a draw from a new seed, where the states show it."""
    if isinstance(before, DeviceStates):
        return _philox_verb(before, now)
    if name not in ("python", "numpy", "torch"):
        return "moved"
    try:
        old, new = mersenne_of(name, before), mersenne_of(name, now)
    except TypeError:
        # A bit generator that is not NumPy's own.
        return "moved"
    if old is None or new is None:
        return "re-seeded" if old is not new else "moved"
    return _mersenne_verb(old, new)


def mersenne_of(name: str, state: Any) -> tuple[Any, ...] | None:
    """Return seed (if it is known), words and position of a Mersenne Twister."""
    plain = state_of({name: state}).state_dict()["sources"][name]
    if name == "torch":
        # A legacy layout that torch keeps for its files: ATen/CPUGeneratorImpl.cpp.
        data = bytes.fromhex(plain["state"])
        if len(data) != STATE_BYTES:
            return None
        seed, left, _, position = struct.unpack_from("=Qiiq", data)
        words = struct.unpack_from(f"={WORDS}Q", data, 24)
        return seed, words, WORDS if left == 1 and position == 0 else position
    if name == "numpy":
        plain = plain["bit_generator"]
    if plain.get("kind", "MT19937") != "MT19937":
        return None
    return None, struct.unpack(f"<{WORDS}I", bytes.fromhex(plain["words"])), plain["position"]


def _mersenne_verb(old: tuple[Any, ...], new: tuple[Any, ...]) -> str:
    if old[0] != new[0]:
        return "re-seeded"
    (_, words, was), (_, wanted, position) = old, new
    if words == wanted:
        return "drew from" if position >= was else "re-seeded"
    walker = random.Random()
    walker.setstate((3, (*words, WORDS), None))
    for _ in range(_REACH):
        walker.getrandbits(32 * WORDS)
        if walker.getstate()[1][:WORDS] == wanted:
            return "drew from"
    # A new seed leaves the position behind the last word.
    return "re-seeded" if position == WORDS else "moved"


def _philox_verb(before: Any, now: Any) -> str:
    verbs = set()
    for index in before.keys() & now.keys():
        old, new = tensor_bytes(before[index]), tensor_bytes(now[index])
        if len(old) != 16 or len(new) != 16:
            return "moved"
        # A seed and an offset, which a new seed sets to zero.
        seed, offset = struct.unpack("=QQ", old)
        new_seed, new_offset = struct.unpack("=QQ", new)
        verbs.add("drew from" if seed == new_seed and offset <= new_offset else "re-seeded")
    return max(verbs, default="moved")
