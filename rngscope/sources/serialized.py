"""States as they are serialized: what may stand in a state dict, checked field by field.

The checks are ours because the libraries have few: NumPy takes ``pos=10**6`` and then reads
memory that is not the generator's, and an all-zero key makes ``standard_normal`` hang.
"""

from __future__ import annotations

import math

from rngscope._seeds import short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Words of a Mersenne Twister; its position runs from 0 to this number.
WORDS = 624


def check_keys(fields: object, keys: set[str], where: str) -> None:
    """Refuse anything but a dict with exactly these keys."""
    if not isinstance(fields, dict):
        raise ValueError(f"{where} must be a dict, not {type(fields).__name__}")
    if set(fields) != keys:
        raise ValueError(
            f"{where} must have the fields {sorted(keys)}, not {short_repr(list(fields))}"
        )


def check_range(value: object, low: int, high: int, where: str) -> int:
    """Refuse anything but an int in ``[low, high]``."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{where} must be an integer in [{low}, {high}], not {short_repr(value)}")
    return value


def check_gauss(value: object, where: str) -> float | None:
    """Refuse anything but None or a finite float."""
    if value is not None and not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError(f"{where} must be None or a finite float, not {short_repr(value)}")
    return value


def load_hex(text: object, where: str, length: int | None = None) -> bytes:
    """Refuse anything but the hexadecimal form of ``length`` bytes, or of any number."""
    if isinstance(text, str) and text and (length is None or len(text) == 2 * length):
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        # fromhex passes over spaces, so the length is looked at again.
        if 2 * len(data) == len(text):
            return data
    count = "" if length is None else f"{length} "
    raise ValueError(f"{where} must be {count}bytes in hexadecimal")


def load_words(text: object, where: str) -> bytes:
    """Return the 2496 bytes of a Mersenne Twister's words.

    Its only fixed point is refused: all bits zero, where the low 31 of the first word do
    not count. Such a generator draws zeros for ever, and NumPy's ``standard_normal`` never
    returns.
    """
    data = load_hex(text, where, 4 * WORDS)
    if not (data[3] & 0x80 or any(data[4:])):
        raise ValueError(f"{where} must not be all zero: such a generator never leaves zero")
    return data


def load_mersenne(fields: Any, where: str) -> tuple[bytes, int]:
    """Return words and position of a Mersenne Twister from the fields of that name."""
    words = load_words(fields["words"], f"{where}.words")
    return words, check_range(fields["position"], 0, WORDS, f"{where}.position")
