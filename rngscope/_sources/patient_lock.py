"""A lock of a library, waited for with patience but not for ever."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class PatientLock:
    """Holds a lock that is not reentrant, or goes on without it after two seconds.

    Two locks of libraries may be held, while they run code of the program, by this very
    thread or by one that waits for ours: NumPy's before 2.4 while ``numpy.random.shuffle``
    runs a list's own code, torch's while an accelerator starts. To wait for ever would be a
    deadlock; to go on without it is what the library itself does not do, hence the patience.
    """

    __slots__ = ("lock", "is_held")
    SECONDS = 2.0

    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        self.is_held = self.lock.acquire(timeout=self.SECONDS)

    def __exit__(self, *error: object) -> None:
        if self.is_held:
            self.lock.release()
