"""The states of NumPy's bit generators: as NumPy's setters want them, and serialized."""

from __future__ import annotations

import struct
import sys

from rngscope._seeds import short_repr
from rngscope.sources.serialized import (
    WORDS,
    check_gauss,
    check_keys,
    check_range,
    load_hex,
    load_mersenne,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_UINT128 = 2**128 - 1

#: ``has_gauss`` (int32, padded to 8 bytes) and ``gauss`` (double), as ``RandomState`` holds
#: its cached second Gaussian.
GAUSS = struct.Struct("=iid")
NO_GAUSS = GAUSS.pack(0, 0, 0.0)

#: Field of a bit generator's state -> largest value, or (number of words, bytes a word).
#: MT19937 stands apart: see ``load_mersenne``.
_LAYOUTS: dict[str, dict[str, Any]] = {
    "MT19937": {},
    "PCG64": {"state": _UINT128, "inc": _UINT128, "has_uint32": 1, "uinteger": _UINT32},
    "PCG64DXSM": {"state": _UINT128, "inc": _UINT128, "has_uint32": 1, "uinteger": _UINT32},
    "Philox": {
        "counter": (4, 8),
        "key": (2, 8),
        "buffer": (4, 8),
        "buffer_pos": 4,
        "has_uint32": 1,
        "uinteger": _UINT32,
    },
    "SFC64": {"state": (4, 8), "has_uint32": 1, "uinteger": _UINT32},
}
#: Fields that stand beside the inner ``state`` of a bit generator, not in it.
_OUTSIDE = ("has_uint32", "uinteger", "buffer", "buffer_pos")


def name_of(bit_generator: Any) -> Any:
    """Return the name of one of NumPy's own bit generators, of any other its type."""
    kind = type(bit_generator)
    is_own = kind.__name__ in _LAYOUTS and kind.__module__.startswith("numpy.")
    return kind.__name__ if is_own else kind


def numpy_seed(seed: int) -> int | list[int]:
    """Return what NumPy takes for ``seed``: from 2**32 up the words ``[low, high]``."""
    return seed if seed <= _UINT32 else [seed & _UINT32, seed >> 32]


def as_fields(state: Any) -> dict[str, Any]:
    """Return a state as what ``RandomState.set_state`` takes, whichever path read it."""
    fields: dict[str, Any] = with_arrays(fields_of(state))
    return fields


def fields_of(state: Any) -> Any:
    """Return the fields of a state, whichever path read it; needs no NumPy."""
    if len(state) == 2:
        return state[1]
    *key, position = struct.unpack(f"={WORDS}Ii", state[1])
    has_gauss, _, gauss = GAUSS.unpack(state[2])
    return {
        "bit_generator": "MT19937",
        "state": {"key": key, "pos": position},
        "has_gauss": has_gauss,
        "gauss": gauss,
    }


def dump_random_state(value: Any) -> dict[str, Any]:
    """Return the serialized form of a ``RandomState``: its bit generator and cached Gaussian."""
    fields = fields_of(value)
    return {
        "bit_generator": dump_bit_generator(value[0], fields),
        "gauss": float(fields["gauss"]) if fields["has_gauss"] else None,
    }


def load_random_state(fields: Any, where: str) -> Any:
    """Return the state that ``fields`` describe, after checking every one of them."""
    check_keys(fields, {"bit_generator", "gauss"}, where)
    gauss = check_gauss(fields["gauss"], f"{where}.gauss")
    inner = load_bit_generator(fields["bit_generator"], f"{where}.bit_generator")
    if inner["bit_generator"] == "MT19937":
        key, position = inner["state"]["key"], inner["state"]["pos"]
        words = struct.pack(f"={WORDS}Ii", *key, position)
        return "MT19937", words, GAUSS.pack(gauss is not None, 0, gauss or 0.0)
    inner["has_gauss"], inner["gauss"] = int(gauss is not None), gauss or 0.0
    return inner["bit_generator"], inner


def dump_bit_generator(name: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return the serialized form of a bit generator's state.

    Raises:
        TypeError: the bit generator is not one of NumPy's own.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the bit generator {name.__qualname__!r} is not NumPy's own, so its state has no "
            f"serialized form; choose from {', '.join(map(repr, _LAYOUTS))}"
        )
    inner = state["state"]
    if name == "MT19937":
        data = struct.pack(f"<{WORDS}I", *map(int, inner["key"]))
        return {"kind": name, "words": data.hex(), "position": int(inner["pos"])}
    inner = {**inner, **{k: v for k, v in state.items() if k in _OUTSIDE}}
    plain: dict[str, Any] = {"kind": name}
    for field, layout in _LAYOUTS[name].items():
        if isinstance(layout, tuple):
            words = [int(word).to_bytes(layout[1], "little") for word in inner[field]]
            plain[field] = b"".join(words).hex()
        else:
            # As text: many JSON readers know no integer of 128 bits.
            plain[field] = str(int(inner[field])) if layout > _UINT64 else int(inner[field])
    return plain


def load_bit_generator(fields: Any, where: str) -> dict[str, Any]:
    """Return the state that ``fields`` describe, after checking every one of them.

    Words come as lists: ``with_arrays`` makes them what NumPy's setters want.
    """
    name = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(name, str) or name not in _LAYOUTS:
        choices = ", ".join(map(repr, _LAYOUTS))
        raise ValueError(f"{where}.kind must be one of {choices}, not {short_repr(name)}")
    fields = {key: value for key, value in fields.items() if key != "kind"}
    if name == "MT19937":
        check_keys(fields, {"words", "position"}, where)
        words, position = load_mersenne(fields, where)
        key = list(struct.unpack(f"<{WORDS}I", words))
        return {"bit_generator": name, "state": {"key": key, "pos": position}}
    check_keys(fields, set(_LAYOUTS[name]), where)
    values: dict[str, Any] = {}
    for field, layout in _LAYOUTS[name].items():
        place, value = f"{where}.{field}", fields[field]
        if isinstance(layout, tuple):
            count, size = layout
            data = load_hex(value, place, count * size)
            chunks = [data[i : i + size] for i in range(0, len(data), size)]
            values[field] = [int.from_bytes(chunk, "little") for chunk in chunks]
        elif layout > _UINT64:
            is_decimal = isinstance(value, str) and value.isascii() and value.isdigit()
            number = int(value) if is_decimal and len(value) < 40 else value
            values[field] = check_range(number, 0, layout, place)
        else:
            values[field] = check_range(value, 0, layout, place)
    if not values.get("inc", 1) & 1:
        raise ValueError(f"{where}.inc must be odd, not {values['inc']!r}")
    outside = {k: v for k, v in values.items() if k in _OUTSIDE}
    inside = {k: v for k, v in values.items() if k not in _OUTSIDE}
    return {
        "bit_generator": name,
        "state": inside,
        **outside,
    }


def with_arrays(state: Any) -> Any:
    """Return ``state`` with its word lists as the arrays that NumPy's setters want."""
    dtype = "uint32" if state["bit_generator"] == "MT19937" else "uint64"

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: arrays(v) for k, v in value.items()}
        # Asked for only where it is needed: an import that is interrupted leaves no module.
        return sys.modules["numpy"].array(value, dtype) if isinstance(value, list) else value

    return arrays(state)
