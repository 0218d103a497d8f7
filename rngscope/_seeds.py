"""Check seeds and derive new ones from them; knows no RNG library."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

#: Seeds are in ``[0, SEED_LIMIT)``: what ``torch.Generator.manual_seed`` takes.
SEED_LIMIT = 2**64


def check_seed(seed: Any) -> int:
    """Return ``seed`` as an int, or say what is wrong with it.

    Raises:
        TypeError: ``seed`` is not an integer (a bool, a float, a str, an array
            with dimensions, ...).
        ValueError: ``seed`` is not in ``[0, 2**64)``.
    """
    if type(seed) is int and 0 <= seed < SEED_LIMIT:
        return seed
    number = as_integer(seed, "seed", "an integer in [0, 2**64)")
    if not 0 <= number < SEED_LIMIT:
        raise ValueError(f"seed {short_repr(number)} is out of range; expected 0 <= seed < 2**64")
    return number


def as_integer(value: Any, what: str, expected: str) -> int:
    """Return what stands for an integer as an int; refuse all else with a ``TypeError``."""
    if type(value) is int:
        return value
    # Tensors answer __index__ when they hold one element, whatever their shape and
    # dtype; NumPy's bool and torch's bool tensors are no more a seed than True is.
    is_bool = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    is_array = bool(getattr(value, "shape", ()))
    if not is_bool and not is_array and hasattr(value, "__index__"):
        try:
            number = value.__index__()
            if isinstance(number, int):
                return int(number)
        except Exception:  # a float tensor, a meta tensor: the message below says it
            pass
    name = type(value).__name__
    if is_array:
        name += f" of shape {tuple(value.shape)}"
    hint = _hint_for_text(value) if what == "seed" and isinstance(value, str) else ""
    raise TypeError(f"{what} must be {expected}, not {name}: {short_repr(value)}{hint}")


def _hint_for_text(text: str) -> str:
    if text.strip().isdecimal():
        # From a command line, or from the environment.
        return f"; write int({short_repr(text)})"
    return f"; for a seed from a name, write derive_seed(0, {short_repr(text)})"


def short_repr(value: object) -> str:
    """Return the repr of a value as it fits into one line of a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of 5000 digits, a list of 5000 levels
        return f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= 60 else text[:57] + "..."


def derive_seed(
    seed: SupportsIndex, *path: str | SupportsIndex, bits: SupportsIndex = 64
) -> int:
    """Derive a seed from a seed and a path of names and numbers.

    The result is the same in every process, on every platform and in every version. All 64
    bits are well mixed, the low 32 included: torch's CPU generator reads only those.

    Args:
        seed: integer in ``[0, 2**64)``.
        path: any mix of str and int; ``1`` and ``"1"`` differ.
        bits: length of the result, in ``[1, 64]``: 32 for ``numpy.random.RandomState``,
            scikit-learn and Lightning, 63 for int64. These are the low bits of the whole
            result: give each use a path of its own.

    Returns:
        An integer in ``[0, 2**bits)``.

    Raises:
        TypeError: a part of the path is neither str nor int, or the seed or ``bits`` is not an
            integer.
        ValueError: the seed or ``bits`` is out of range.

    Example:
        >>> derive_seed(42, "dropout", 3) == derive_seed(42, "dropout", 3)
        True
        >>> derive_seed(42, 1) == derive_seed(42, "1")
        False
        >>> derive_seed(42, "dropout", 3, bits=32)
        2853393392
    """
    # Imported here because it costs a third of the import of the whole package.
    from hashlib import blake2b

    parts = [b"i%d;" % check_seed(seed), *map(_encoded, path)]
    length = as_integer(bits, "bits", "an integer in [1, 64]")
    if not 1 <= length <= 64:
        raise ValueError(f"bits {short_repr(length)} is out of range; expected 1 <= bits <= 64")
    digest = blake2b(b"".join(parts), digest_size=8, person=b"rngscope").digest()
    return int.from_bytes(digest, "little") & ((1 << length) - 1)


def _encoded(part: Any) -> bytes:
    """Return a part of a path with its kind and its length: no two paths share an encoding."""
    if isinstance(part, str):
        text = part.encode("utf-8", "surrogatepass")
        return b"s%d:%s;" % (len(text), text)
    return b"i%d;" % as_integer(part, "path", "made of str and int")


_derived: dict[tuple[int, tuple[str | int, ...]], int] = {}


def derived_seed(seed: int, path: tuple[str | int, ...]) -> int:
    """Return ``derive_seed(seed, *path)``: what a cell gets under ``independent=True``.

    Scopes ask for the same few again and again, so the latest are kept.
    """
    key = (seed, path)
    derived = _derived.get(key)
    if derived is None:
        if len(_derived) >= 1024:
            _derived.clear()
        derived = _derived[key] = derive_seed(seed, *path)
    return derived
