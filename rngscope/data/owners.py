"""Find the RNG objects that an object holds: a data set, a transform, an environment."""

from __future__ import annotations

import random
import sys
from collections import deque
from itertools import islice
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

from rngscope import _details
from rngscope._seeds import short_repr
from rngscope.sources.generators import generator_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

#: How many items of one list, tuple, dict or set are looked at, and how many objects in all:
#: a data set with a million items in a list must cost nothing noticeable.
MOST_ITEMS = 1000
MOST_OBJECTS = 10_000

_NOTHING_INSIDE = frozenset(
    {str, bytes, bytearray, int, float, complex, bool, type(None), range, slice}
)
_NOT_THROUGH = (
    ModuleType,
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    CodeType,
    MemberDescriptorType,
    GetSetDescriptorType,
)


def find_generators(
    owner: object, name: str, also: tuple[type, ...] = (), leave_out: tuple[type, ...] = ()
) -> list[tuple[str, Any]]:
    """Return the RNG objects that ``owner`` holds, each once, with the path to it.

    Looks at attributes (``vars``, slots, and RNG objects among the attributes of the class),
    and at the items of dict, list, tuple, set and deque, the shallow ones first; not through
    modules, classes, functions, arrays and tensors. Of one container the first 1000 items
    are looked at, and 10,000 objects in all. The global RNGs, which are sources of their own,
    are left out.

    The order of the paths is the same in every process, but for objects in one set that differ
    in nothing but their address.

    Args:
        name: what the paths begin with.
        also: types that count as RNG objects as well.
        leave_out: types that are not looked into.
    """
    kinds = (*generator_types(), *also)
    # Kept alive, so that no id is that of another object.
    seen: dict[int, object] = {id(rng): rng for rng in _global_generators()}
    found: list[tuple[str, Any]] = []
    waiting: deque[tuple[str, object]] = deque([(name, owner)])
    of_types: dict[type, dict[str, object]] = {}
    looked_at = 0
    while waiting and looked_at < MOST_OBJECTS:
        path, value = waiting.popleft()
        # The type is asked, not the object: isinstance would run a __class__ of its own.
        kind = type(value)
        if kind in _NOTHING_INSIDE or id(value) in seen:
            continue
        seen[id(value)] = value
        looked_at += 1
        if issubclass(kind, kinds):
            if not issubclass(kind, random.SystemRandom):
                found.append((path, value))
        elif not issubclass(kind, (*_NOT_THROUGH, *leave_out)) and not hasattr(kind, "__array__"):
            waiting += [(path + step, part) for step, part in _parts(value, kinds, of_types)]
    return found


def _parts(
    value: Any, kinds: tuple[type, ...], of_types: dict[type, dict[str, object]]
) -> Iterator[tuple[str, object]]:
    """Yield what an object holds, each with its step of the path."""
    kind = type(value)
    if issubclass(kind, dict):
        for key, item in islice(dict.items(value), MOST_ITEMS):
            yield f"[{short_repr(key)}]", item
    elif issubclass(kind, (list, tuple, deque)):
        for index, item in enumerate(islice(value, MOST_ITEMS)):
            yield f"[{index}]", item
    elif issubclass(kind, (set, frozenset)):
        for index, item in enumerate(_sorted(islice(value, MOST_ITEMS))):
            yield f"{{{index}}}", item
    attributes = _attributes(value, kinds, of_types)
    for attribute in sorted(attributes):
        yield f".{attribute}", attributes[attribute]


def _sorted(items: Iterable[object]) -> list[object]:
    """Return the items of a set in an order that does not follow hashes.

    These differ from process to process.
    """
    return sorted(
        items,
        key=lambda item: (
            f"{type(item).__module__}.{type(item).__qualname__}",
            repr(item) if type(item) in _NOTHING_INSIDE else "",
        ),
    )


def _attributes(
    value: object, kinds: tuple[type, ...], of_types: dict[type, dict[str, object]]
) -> dict[str, object]:
    kind = type(value)
    if kind not in of_types:
        of_types[kind] = _attributes_of_type(kind, kinds)
    found: dict[str, object] = {}
    for attribute, item in of_types[kind].items():
        if isinstance(item, MemberDescriptorType):
            try:
                item = item.__get__(value)
            except AttributeError:  # a slot that is empty
                continue
        found[attribute] = item
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = None
    # Not every __dict__ is a dict, and not every key in one a str.
    if isinstance(own, dict):
        found.update({str(key): item for key, item in list(own.items())})
    return found


def _attributes_of_type(kind: type, kinds: tuple[type, ...]) -> dict[str, object]:
    """Return the slots, and the RNG objects that all instances share.

    MONAI's ``Randomizable`` has one of these.
    """
    found: dict[str, object] = {}
    for cls in kind.__mro__:
        for attribute, item in list(vars(cls).items()):
            if isinstance(item, (MemberDescriptorType, *kinds)):
                found.setdefault(attribute, item)
    return found


def _global_generators() -> list[object]:
    generators: list[object] = [random.seed.__self__]  # type: ignore[attr-defined]
    generators.append(
        _details.find(_details.NUMPY_INSTANCE, _details.NUMPY_INSTANCE_OF_METHOD)
    )
    torch = sys.modules.get("torch")
    generators.append(getattr(torch, "default_generator", None))
    for accelerator in ("cuda", "xpu", "mtia"):
        module = getattr(torch, accelerator, None)
        generators.extend(getattr(module, "default_generators", ()))
    return [generator for generator in generators if generator is not None]
