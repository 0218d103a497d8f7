"""What is written of states and streams: plain values, sealed with versions and a checksum."""

from __future__ import annotations

import sys
import warnings

from rngscope._seeds import short_repr
from rngscope.sources import DETERMINISM
from rngscope.sources.serialized import check_keys, load_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rngscope.sources.cell import Source

FORMAT = 1


def dump_sources(states: dict[str, Any], sources: Iterable[Source]) -> dict[str, Any]:
    """Return captured states by source name, serialized."""
    return {s.name: s.dump(states[s.name]) for s in sources if s.name in states}


def load_sources(serialized: object, sources: Iterable[Source], where: str) -> dict[str, Any]:
    """Return the states that ``dump_sources`` wrote, after checking every field."""
    if not isinstance(serialized, dict):
        raise ValueError(f"{where} must be a dict, not {type(serialized).__name__}")
    known = {source.name: source for source in sources if source is not DETERMINISM}
    for name in serialized:
        if name not in known:
            raise ValueError(
                f"{where} holds {short_repr(name)}, which is unknown here; known are "
                f"{', '.join(map(repr, known))}"
            )
    return {name: known[name].load(fields) for name, fields in serialized.items()}


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
    # Here because it loads OpenSSL, which takes longer than the whole package.
    from hashlib import blake2b

    text = as_json({k: v for k, v in fields.items() if k != "checksum"})
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


def as_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    # Imported here, as platform above, because it costs as much as the whole package.
    import json

    return json.dumps(value, sort_keys=True, default=default)
