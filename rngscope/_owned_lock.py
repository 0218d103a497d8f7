"""A reentrant lock that tells whether this thread holds it."""

from __future__ import annotations

# Not threading, which costs more to import than the whole package.
from _thread import RLock, get_ident

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class CountingLock:
    """Counts by itself, where ``RLock`` does not tell."""

    __slots__ = ("lock", "owner", "depth")

    def __init__(self) -> None:
        self.lock = RLock()
        self.owner: int | None = None
        self.depth = 0

    def acquire(self) -> None:
        self.lock.acquire()
        self.owner = get_ident()
        self.depth += 1

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None
        self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def is_owned(self) -> bool:
        """Tell whether this thread holds the lock."""
        return self.owner == get_ident()


def make_lock() -> tuple[Any, Callable[[Any], bool]]:
    """Return a lock, and the function that tells of it whether this thread holds it."""
    is_owned = _details.find(_details.LOCK_IS_OWNED)
    if is_owned is None:
        return CountingLock(), CountingLock.is_owned
    return RLock(), is_owned
