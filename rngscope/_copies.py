"""What the copies of the package's objects have in common, pickled ones included.

Each class says what its objects mean; what belongs to this process, or to a block that was
open, is not copied. Attributes that a subclass adds go along as those of any object do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any


def added_attributes(instance: object, own: Collection[str]) -> dict[str, Any]:
    """Return what a subclass has added to the slots of the package's class, ``own``."""
    found: Any = object.__getstate__(instance)
    attributes, slots = found
    return {**(attributes or {}), **{n: v for n, v in slots.items() if n not in own}}


def add_attributes(instance: object, attributes: dict[str, Any]) -> None:
    """Give a copy what ``added_attributes`` returned."""
    for name, value in attributes.items():
        setattr(instance, name, value)
