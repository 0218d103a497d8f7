"""What a source did, as far as two of its states show it."""

from __future__ import annotations

import random
import struct

from rngscope._sources.plain import WORDS
from rngscope._sources.torch_cpu import tensor_bytes
from rngscope._state import RNGState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How far a stream is followed, in blocks of 624 words.
_REACH = 100


def has_moved(name: str, before: Any, now: Any) -> bool:
    old, new = RNGState._made_of({name: before}, ()), RNGState._made_of({name: now}, ())
    return bool(old.differs_from(new))


def describe(moved: dict[str, tuple[Any, Any]]) -> str:
    verbs: dict[str, list[str]] = {}
    for name, (before, now) in moved.items():
        verbs.setdefault(_verb(name, before, now), []).append(repr(name))
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in verbs.items())


def _verb(name: str, before: Any, now: Any) -> str:
    """Tell a draw from a new seed, where the states show it."""
    if name not in ("python", "numpy", "torch"):
        return _philox_verb(before, now)
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
    plain = RNGState._made_of({name: state}, ()).state_dict()["sources"][name]
    if name == "torch":
        # A legacy layout that torch keeps for its files: ATen/CPUGeneratorImpl.cpp.
        data = bytes.fromhex(plain["state"])
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
