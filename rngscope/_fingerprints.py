"""How states are compared: as values, or by a digest that is the same in every process."""

from __future__ import annotations

from rngscope._state_dict import as_json
from rngscope.sources.torch import tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def comparable(state: Any) -> Any:
    """Return a state in a form that ``==`` compares; it may be held in several."""
    if isinstance(state, dict):
        return {key: comparable(part) for key, part in state.items()}
    if isinstance(state, tuple):
        return tuple(map(comparable, state))
    if hasattr(state, "data_ptr"):
        return tensor_bytes(state)
    return state.tobytes() if hasattr(state, "tobytes") else state


def digest_of(state: Any, dump: Callable[[Any], dict[str, Any]]) -> str:
    """Return the digest of a state, of whatever form, that ``dump`` serializes."""
    try:
        serialized: Any = dump(state)
    except TypeError:
        # A bit generator that is not NumPy's own: its state is compared, but not written.
        serialized = state
    return digest(as_json(serialized, _as_plain))


def _as_plain(value: Any) -> Any:
    return value.__qualname__ if isinstance(value, type) else value.tolist()


def digest(text: str) -> str:
    """Return 16 hexadecimal digits."""
    # Here because it loads OpenSSL, which takes milliseconds.
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=8).hexdigest()
