"""Where a scope was opened, and by whom: for messages."""

from __future__ import annotations

import sys
from types import CodeType

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope._life import Life


def running_loop() -> Any:
    """Return asyncio's loop in this thread; None while asyncio is not even imported."""
    global running_loop
    if "asyncio.events" not in sys.modules:
        return None
    find = _details.find(_details.RUNNING_LOOP)
    if find is None:
        return _running_loop_in_public()
    running_loop = find
    return find()


def _running_loop_in_public() -> Any:
    try:
        return sys.modules["asyncio"].get_running_loop()
    except (AttributeError, RuntimeError):
        # asyncio is just being imported, or no loop runs.
        return None


def task_name() -> str | None:
    """Return the name of the task that runs in this thread; it must have a running loop."""
    task = sys.modules["asyncio"].current_task()
    return None if task is None else task.get_name()


def describe(life: Life) -> str:
    """Tell where the scope was opened, and by whom."""
    return f"{what(life)} by {describe_actor(life.thread, life.task)}"


def what(life: Life) -> str:
    """Tell where the scope was opened, or of which function it is."""
    code = life.origin
    if not isinstance(code, CodeType):
        return f"the scope of {describe_function(code)}"
    import linecache

    positions = enumerate(code.co_positions())
    found = [position[0] for index, position in positions if 2 * index == life.instruction]
    line = found[0] if found else code.co_firstlineno
    text = linecache.getline(code.co_filename, line or 0).strip()
    return f"the scope opened at {code.co_filename}:{line} ({text})"


def describe_function(function: Any) -> str:
    """Tell a function's name and where it is defined."""
    import functools

    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(function, "__code__", None)
    return name if code is None else f"{name} at {code.co_filename}:{code.co_firstlineno}"


def describe_actor(thread: int, task: str | None) -> str:
    """Name a task, or else a thread."""
    if task:
        return f"task {task!r}"
    import threading

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return f"thread {names.get(thread, f'{thread} (ended)')!r}"
