"""``to_thread``: a function in a thread, in the stream of the coroutine that awaits it.

A decorated coroutine is suspended while it awaits: its scope is suspended. ``to_thread``
awaits a future of its own, by which the wrappers that drive decorated bodies, on the way from
the innermost to the event loop, know it: each lends its scope to the ``Loan``.

Other decorated coroutines wait for their next step without holding up the event loop
(``wait_in_task``): the loop has a future to wait for instead of the step.
"""

from __future__ import annotations

from time import monotonic

from rngscope import _claims
from rngscope._claims import Claim
from rngscope._loans import (
    Loan,
    call_soon,
    exclusive_of,
    lend,
    lent,
    offers,
    set_done,
    sources_of,
    withdraw,
)
from rngscope._order import is_owned, lock
from rngscope._origin import running_loop, task_name, what
from rngscope._turns import expect_exclusive_scopes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Generator
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ["lend", "offers", "to_thread", "wait_in_task"]


async def to_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function in a thread, in the stream of the decorated coroutine that awaits this.

    As ``asyncio.to_thread``, in the event loop's default executor and with the context
    variables of this moment. The function draws where the body has stopped, and the body goes
    on where the function has. One function runs at a time, as the RNGs belong to the process:
    others, and the steps of other decorated coroutines, wait for their turn, without holding
    up the event loop. What is not decorated does not wait. A task that is cancelled ends when
    the function has ended, or at once if that has not begun: then it never does.

    Raises:
        BaseException: what the function raises.
        RuntimeError: this was not awaited by the body of a decorated coroutine or async
            generator itself, but in a task of its own: there is no stream to run in.
        TimeoutError: a scope of another thread did not end in time; it is named.

    Example:
        >>> import asyncio, random
        >>> from rngscope import seeded
        >>> @seeded(42)
        ... async def answer():
        ...     return [random.random(), await to_thread(random.random)]
        >>> asyncio.run(answer())
        [0.6394267984578837, 0.025010755222666936]
    """
    # Imported here because they cost more than the whole package.
    import asyncio
    from contextvars import copy_context

    loop, context = asyncio.get_running_loop(), copy_context()
    expect_exclusive_scopes()
    loan = Loan(loop, lambda: context.run(function, *args, **kwargs), function)
    offers[id(loan.future)] = loan
    try:
        # It begins when this step of the task is over.
        loop.call_soon(loan.start)
        await loan.future
    finally:
        offers.pop(id(loan.future), None)
    return _result(loan)  # type: ignore[no-any-return]


def _result(loan: Loan) -> Any:
    if loan.error is None:
        return loan.value
    error, loan.error = loan.error, None
    try:
        raise error
    finally:
        # No cycle by way of the traceback.
        del error


class _Step(Claim):
    """The wish of a body that suspends to go on, in a task."""

    def __init__(self, scope: Any, is_closing: bool) -> None:
        super().__init__(scope, sources_of(scope), exclusive_of(scope))
        self.task = running_loop() and task_name()
        #: None where there is no task of asyncio that could wait: the thread stands still.
        self.loop: AbstractEventLoop | None = None
        if self.task is not None and not is_closing:
            self.loop = running_loop()
        #: Done when there may be something to do; nothing comes of it.
        self.rung: Future[None] | None = None
        #: What was raised in the body, by cancelling it for instance, while it waited.
        self.late: BaseException | None = None

    def find_obstacle(self) -> Any:
        loan = lent.get(self.scope)
        return super().find_obstacle() if loan is None else loan

    def grant(self) -> None:
        super().grant()
        if not self.is_blocking:
            # Should the loop not come to it, others are not kept out for ever.
            self.until = monotonic() + _claims.RESERVED

    def take(self) -> bool:
        if not super().take():
            return False
        if not self.is_blocking:
            # From here to the step it is not far.
            self.until = monotonic() + _claims.RESERVED
        return True

    def ring(self) -> None:
        super().ring()
        if self.loop is not None and self.rung is not None:
            if not call_soon(self.loop, set_done, self.rung):
                # The loop is closed: nobody will come for it.
                self.drop()

    def drop(self) -> None:
        # It has come to the step or is raised by itself now: no cycle by way of the traceback.
        self.late = None
        super().drop()

    def wait_here(self, is_new: bool) -> Generator[Any, Any, None]:
        """Let the event loop go on for a while, or until there is something to do.

        What is raised meanwhile is kept for the body, unless it has not begun.
        """
        if self.loop is None or isinstance(self.late, GeneratorExit):
            # Who closes a body does not wait for it.
            self.wait()
            return
        # A thread cannot be stopped; to wait for its function takes as long as that takes.
        is_own = isinstance(self.obstacle, Loan) and self.scope in self.obstacle.scopes
        seconds = _claims.GLANCE if is_own else min(_claims.GLANCE, self.seconds_left())
        assert self.rung is not None
        timer = self.loop.call_later(seconds, set_done, self.rung)
        try:
            yield from self.rung
        except BaseException as error:
            if is_new:
                raise
            self.late = error
        finally:
            timer.cancel()


def wait_in_task(scope: Any, argument: Any, is_new: bool) -> Generator[Any, Any, _Step]:
    """Wait, as part of a task, until the next step of a body may be taken.

    Args:
        scope: the scope of the body.
        argument: what the body is about to be sent, or what is to be raised in it.
        is_new: whether the body has not begun yet.

    Returns:
        What keeps others out until it is dropped, which must be when the scope is resumed.

    Raises:
        BaseException: what was raised in a body that has not begun, as by cancelling it.
        TimeoutError: a scope of another thread did not end in time; it is named.
    """
    step = _Step(scope, is_closing=isinstance(argument, GeneratorExit))
    try:
        while True:
            with lock:
                loan = lent.get(scope)
                if loan is not None and withdraw(loan):
                    loan = None
                if step.take():
                    return step
                if step.loop is not None:
                    # Under the lock, so that it is there before there is a reason to ring.
                    step.rung = step.loop.create_future()
            # In that very thread, or in the middle of another scope's exit, a finalizer ends it.
            is_busy = is_owned(lock)
            if loan is not None and (is_busy or loan.thread == step.thread):
                raise RuntimeError(
                    f"{what(scope)} cannot go on within {loan.describe()}: its stream is in use"
                )
            yield from step.wait_here(is_new)
    except BaseException:
        step.drop()
        raise
