"""What the copies of the package's objects have in common, pickled ones included.

Each class says what its objects mean; what belongs to this process, or to a block that was
open, is not copied. Attributes that a subclass adds go along as those of any object do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, NoReturn, Self


def added_attributes(instance: object, own: Collection[str]) -> dict[str, Any]:
    """Return what a subclass has added to the slots of the package's class, ``own``."""
    found: Any = object.__getstate__(instance)
    attributes, slots = found
    return {**(attributes or {}), **{n: v for n, v in slots.items() if n not in own}}


def add_attributes(instance: object, attributes: dict[str, Any]) -> None:
    """Give a copy what ``added_attributes`` returned."""
    for name, value in attributes.items():
        setattr(instance, name, value)


class Immutable:
    """A value that nobody changes, so one is as good as a copy; pickled as its ``state_dict()``."""

    __slots__ = ()
    #: The calls that make one.
    _made_by: str
    state_dict: Callable[..., dict[str, Any]]
    from_state_dict: Callable[..., Any]

    def __init__(self) -> None:
        raise TypeError(f"an {type(self).__name__} is made by {self._made_by}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"an {type(self).__name__} cannot be changed, so {name!r} cannot be set"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"an {type(self).__name__} cannot be changed, so {name!r} cannot be deleted"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state_dict, (self.state_dict(),)
