"""Where CPython looks for signals, and how the end of a scope begins without such a look.

CPython runs signal handlers, which may raise, at the start of a Python function, at a backward
jump and after a call of a C function. A ``try`` catches that everywhere but at the start of a
function that must run to undo something. The start is an instruction, ``RESUME``, whose operand
says where it stands (see ``dis``); with the operand that it has after an ``await``, CPython does
not look for signals there.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

_AT_START, _AFTER_AWAIT = 0, 3


async def _sample(awaitable: Any) -> None:
    await awaitable


def _starts(code: bytes) -> bool:
    """Prove that functions start with an instruction that a coroutine has after ``await``."""
    sample = _sample.__code__.co_code
    pairs = set(zip(sample[::2], sample[1::2]))
    start = code[0]
    return code[1] == _AT_START and {(start, _AT_START), (start, _AFTER_AWAIT)} <= pairs


def no_signal_at_start(function: Function) -> Function:
    """Have CPython look for no signal before the first instruction of a function.

    On an interpreter whose instructions are not the known ones the function stays as it is.
    """
    changed: Any = function
    code = changed.__code__
    if sys.implementation.name == "cpython" and _starts(code.co_code):
        start = bytes((code.co_code[0], _AFTER_AWAIT))
        changed.__code__ = code.replace(co_code=start + code.co_code[2:])
    return function
