"""The items of a data set: by which keys they are asked for, and their seeds."""

from __future__ import annotations

import operator

from rngscope._seeds import derive_seed, short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read_key(index: Any, dataset: Any) -> tuple[Any, Any, int | None]:
    """Return what the data set is asked for, the item that this is, and the view.

    Raises:
        TypeError: it is not the key of an item, or negative in a data set without a length.
    """
    view = None
    if isinstance(index, tuple):
        if len(index) != 2 or not is_integer(index[1]) or operator.index(index[1]) < 0:
            raise TypeError(
                f"a tuple is an item and the number of its view, as in data[3, 1], not "
                f"{short_repr(index)}; in a data set whose own keys are tuples, write "
                f"data[key, 0]"
            )
        index, view = index[0], operator.index(index[1])
    if isinstance(index, str):
        return index, index, view
    if isinstance(index, tuple) and all(isinstance(k, str) or is_integer(k) for k in index):
        return index, tuple(k if isinstance(k, str) else operator.index(k) for k in index), view
    if not is_integer(index):
        raise TypeError(
            f"items of per_item are taken one by one, by an int or a str, not by "
            f"{type(index).__name__}: {short_repr(index)}"
        )
    number = operator.index(index)
    if number < 0:
        # The same item by another name.
        number += len(dataset)
    return index, number, view


def seed_of(seed: int, epoch: int, key: Any, view: int) -> int:
    """Return the seed of a view of an item."""
    # Version 0.1 knew only the first view, and the seeds of that have stayed.
    path = () if view == 0 else ("view", view)
    if isinstance(key, tuple):
        return derive_seed(seed, "tuple", epoch, len(key), *key, *path)
    return derive_seed(seed, "item", epoch, key, *path)


def is_integer(value: Any) -> bool:
    """Tell whether a value is an integer, of whatever library; a bool is none."""
    try:
        operator.index(value)
    except Exception:  # a slice, a float, a meta tensor
        return False
    return not isinstance(value, bool)
