"""A lock of a library, waited for with patience but not for ever."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds to wait for a lock of a library.
PATIENCE = 2.0


class PatientLock:
    """Holds a lock that is not reentrant, or goes on without it after two seconds.

    Two locks of libraries may be held, while they run code of the program, by this very
    thread or by one that waits for ours: NumPy's while ``numpy.random.shuffle`` runs a
    list's own code, torch's while an accelerator starts. To wait for ever would be a
    deadlock; to go on without it is what the library itself does not do, hence the patience.
    """

    __slots__ = ("lock", "is_held")

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.is_held = False

    def acquire(self, blocking: bool = True, timeout: float = PATIENCE) -> bool:
        self.is_held = self.lock.acquire(blocking, timeout)
        return self.is_held

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()
