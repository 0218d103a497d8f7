"""Where CPython may raise between two instructions, and how nothing is lost by it.

CPython runs signal handlers at the start of a Python function, at a backward jump and after a
call of a C function: there any exception can come out of the blue. A ``try`` catches it
everywhere but in one place, the start of a function that must run to undo something. The start
is an instruction, ``RESUME``, whose operand says where it stands; with the operand that it has
after an ``await``, CPython does not look for signals there. See ``DESIGN.rst``, "Interrupts".
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

#: Seconds to wait for a lock of a library.
PATIENCE = 2.0

#: How many more frames than the program has left a repair may use. A scope near the recursion
#: limit must be left even where leaving takes more frames than entering did. The limit is a
#: number of CPython's own, far below what the machine can take.
MORE_FRAMES = 200

_AT_START, _AFTER_AWAIT = 0, 3


async def _sample(awaitable: Any) -> None:
    await awaitable


def _find_resume() -> int | None:
    """Return the instruction that starts a function, if a coroutine has it after ``await``."""
    if sys.implementation.name != "cpython":
        return None
    start, operand = _find_resume.__code__.co_code[:2]
    code = _sample.__code__.co_code
    pairs = set(zip(code[::2], code[1::2]))
    is_known = operand == _AT_START and {(start, _AT_START), (start, _AFTER_AWAIT)} <= pairs
    return start if is_known else None


#: None where the instructions are not the known ones: there a window of one instruction stays.
RESUME = _find_resume()


def no_signal_at_start(function: Function) -> Function:
    """Have CPython look for no signal before the first instruction of a function.

    For what undoes something, whose body is one ``try``. On an interpreter whose instructions are
    not the known ones the function stays as it is.
    """
    code: Any = function.__code__
    units = code.co_code
    # Before it there may be instructions that prepare variables of inner functions.
    places = [i for i in range(0, len(units), 2) if units[i] == RESUME]
    if places and units[places[0] + 1] == _AT_START:
        place = places[0] + 1
        changed = units[:place] + bytes((_AFTER_AWAIT,)) + units[place + 1 :]
        function.__code__ = code.replace(co_code=changed)
    return function


class TimedLock:
    """Hold a library's lock that is not reentrant, or go on without it after two seconds.

    Two locks of libraries may be held, while they run code of the program, by this very thread
    or by one that waits for ours: NumPy's while ``numpy.random.shuffle`` runs a list's own code,
    torch's while an accelerator starts. To wait for ever would be a deadlock.
    """

    __slots__ = ("lock", "held")

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.held: list[bool] = []

    def __enter__(self) -> None:
        # One instruction, in which no signal is looked for: the lock is taken, and noted.
        self.held += map(self.lock.acquire, (True,), (PATIENCE,))

    @no_signal_at_start
    def __exit__(self, *error: object) -> None:
        if True in self.held:
            self.lock.release()
