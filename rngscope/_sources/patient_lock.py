"""A lock of a library, waited for with patience but not for ever."""

from __future__ import annotations

from itertools import filterfalse
from operator import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds to wait for a lock of a library.
PATIENCE = 2.0


class PatientLock:
    """One use of a lock that is not reentrant, or two seconds later the same without it.

    Two locks of libraries may be held, while they run code of the program, by this very
    thread or by one that waits for ours: NumPy's while ``numpy.random.shuffle`` runs a
    list's own code, torch's while an accelerator starts. To wait for ever would be a
    deadlock; to go on without it is what the library itself does not do, hence the patience.

    ::

        lock = PatientLock(library.lock)
        try:
            lock.acquire()
            ...
        finally:
            lock.release()  # once

    No interrupt splits this, as it would a context manager: Python looks for signals after each
    call, and where a function of Python begins. A plain lock does not tell who holds it. So one
    call of C acquires it and notes that, and ``release`` is another, which releases it if noted.
    """

    __slots__ = ("_lock", "_notes", "release")

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        #: Empty, or a note that this use holds the lock.
        self._notes: list[bool] = []
        # Calls the first; then, unless that returned nothing but 0, the second.
        steps = map(call, (self._notes.__len__, lock.release))
        self.release = filterfalse(None, steps).__next__

    def acquire(self, blocking: bool = True, timeout: float = PATIENCE) -> None:
        """Wait for the lock, for ``timeout`` seconds at most."""
        self._notes.extend(filter(None, map(self._lock.acquire, (blocking,), (timeout,))))
