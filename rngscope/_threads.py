"""``to_thread``: a function in a thread, in the stream of the coroutine that awaits it.

A decorated coroutine is suspended while it awaits: its scope is put aside. ``to_thread``
awaits a future of its own, by which the wrappers that drive decorated bodies, on the way from
the innermost to the event loop, know it: each lends its scope. Back in the event loop, a
``Loan`` has the function called in a thread of the loop's executor, which takes the scopes
up, outermost first, and puts them aside again. All the while they are exclusive.

Other decorated coroutines wait for their next step without holding up the event loop
(``wait_in_task``): the loop has a future to wait for instead of the step.
"""

from __future__ import annotations

from _thread import get_ident
from time import monotonic

from rngscope import _turns
from rngscope._errors import raise_together
from rngscope._open_scopes import describe_function, running_loop, task_name
from rngscope._turns import FOREVER, GLANCE, Claim, claims, granted, is_owned, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Generator
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

#: Seconds within which an event loop must come to what it was told to.
RESERVED = 1.0

#: The loan that waits for a future, by the future's ``id``.
offers: dict[int, Loan] = {}

#: Scopes that were lent, to whom.
_lent: dict[Any, Loan] = {}


async def to_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function in a thread, in the stream of the decorated coroutine that awaits this.

    As ``asyncio.to_thread``, in the default executor of the event loop and with the context
    variables of this moment. The function draws where the body has stopped, and the body goes
    on where the function has. As the RNGs belong to the process, one function runs at a time:
    others, and the steps of other decorated coroutines, wait for their turn, without holding
    up the event loop. What is not decorated does not wait.

    A thread cannot be stopped: if the task is cancelled before the function has begun, it
    never begins; after that, the cancellation arrives when it has ended.

    Args:
        function: called with ``args`` and ``kwargs``.

    Returns:
        What the function returns.

    Raises:
        BaseException: what the function raises.
        RuntimeError: this was not awaited by the body of a decorated coroutine or async
            generator: there is no stream to run in. ``gather``, ``create_task``, ``wait_for``
            (before Python 3.12) and the like await it in tasks of their own.
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
    import asyncio
    from contextvars import copy_context

    loop = asyncio.get_running_loop()
    _turns.expect_exclusive_scopes()
    context = copy_context()
    loan = Loan(loop, lambda: context.run(function, *args, **kwargs), function)
    offers[id(loan.future)] = loan
    try:
        # It begins when this step of the task is over.
        loop.call_soon(loan.start)
        await loan.future
    finally:
        offers.pop(id(loan.future), None)
    return loan.result()  # type: ignore[no-any-return]


def lend(item: Any, scope: Any) -> None:
    """Lend the scope of a body that suspends, if ``item``, which it waits for, is a loan's."""
    loan = offers.get(id(item))
    if loan is not None:
        loan.scopes.append(scope)
        _lent[scope] = loan


class Loan(Claim):
    """A function that is to run in a thread, and the scopes it runs in."""

    __slots__ = (
        "loop",
        "call",
        "function",
        "scopes",
        "future",
        "is_sent",
        "is_here",
        "rung_until",
        "value",
        "error",
    )

    def __init__(self, loop: AbstractEventLoop, call: Callable[[], Any], function: Any) -> None:
        super().__init__(None, (), True)
        self.loop = loop
        self.call = call
        self.function = function
        #: The innermost first.
        self.scopes: list[Any] = []
        self.future: Future[None] = loop.create_future()
        #: Whether it was given to the executor, and whether a thread has begun with it.
        self.is_sent = self.is_here = False
        #: Until when its event loop should have come to it; 0.0 while it is not its turn.
        self.rung_until = 0.0
        self.value: Any = None
        self.error: BaseException | None = None

    # In the event loop -------------------------------------------------------------------

    def start(self) -> None:
        """Stand in line, when the bodies are suspended."""
        offers.pop(id(self.future), None)
        if self.future.done():
            return
        if not self.scopes:
            message = (
                "rngscope.to_thread must be awaited in the body of a coroutine or async generator "
                "that is decorated with @seeded(...) or a stream: there is no stream to run "
                f"{describe_function(self.function)} in. gather, create_task, wait_for and shield "
                "run it in a task of its own, outside of the body: await it by itself, with a "
                "time limit as async with asyncio.timeout(...). Without a stream, use "
                "asyncio.to_thread"
            )
            self.error = RuntimeError(message)
            self.future.set_result(None)
            return
        self.scope = self.scopes[-1]
        for scope in self.scopes:
            self.sources += _sources(scope)
            if type(scope.exclusive) is float:
                self.limit = max(self.limit or 0.0, scope.exclusive)
        with lock:
            # What stays open below the bodies, around the event loop for instance.
            self.beneath = _turns.all_of(self.thread)
            claims.append(self)
        self.look()

    def look(self) -> None:
        """Give the function to the executor when those before it are done."""
        with lock:
            if self.is_over or self.is_sent:
                return
            self.is_sent = not self.is_held_up()
        try:
            if not self.is_sent:
                self.loop.call_later(min(GLANCE, self.seconds_left()), self.look)
                return
            job = self.loop.run_in_executor(None, self.run)
        except Exception as error:
            # It took too long; or the executor has been shut down.
            self.error = error
            self.finish()
        else:
            job.add_done_callback(self.finish)

    def finish(self, job: Any = None) -> None:
        """Let the coroutine go on."""
        if job is not None and job.cancelled() and not self.is_over:
            self.error = RuntimeError("the event loop's executor was shut down")
        self.drop()
        if not self.future.done():
            self.future.set_result(None)

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised."""
        if self.error is None:
            return self.value
        error, self.error = self.error, None
        try:
            raise error
        finally:
            # No cycle by way of the traceback.
            del error

    # In line; the lock is held -----------------------------------------------------------

    def find_obstacle(self) -> Any:
        """In line, only functions that came before: one at a time is given to the executor.

        So those that wait do not fill it. In the thread, what is in the way of any scope.
        """
        if self.is_here:
            return super().find_obstacle()
        now = monotonic()
        for other in (*granted, *claims):
            if other is self:
                break
            if not isinstance(other, Loan) or any(other is item for item in self.beneath):
                continue
            # An event loop that stands still is not waited for.
            is_coming = other.is_sent or not other.rung_until or now < other.rung_until
            if is_coming and _turns.share(self.sources, other.sources):
                return other
        return None

    def grant(self) -> None:
        if self.is_here:
            super().grant()

    def ring(self) -> None:
        if self.is_here:
            super().ring()
        elif not self.is_sent:
            self.rung_until = self.rung_until or monotonic() + RESERVED
            if not _call_soon(self.loop, self.look):
                # The loop is closed: nobody will come for it.
                self.drop()

    def drop(self) -> None:
        with lock:
            self._give_back()
            super().drop()

    def _give_back(self) -> None:
        for scope in self.scopes:
            if _lent.get(scope) is self:
                del _lent[scope]

    def withdraw(self) -> bool:
        """Let the function never begin; False if it has its turn already."""
        if self.until == FOREVER and not self.is_over:
            return False
        self.drop()
        # Its thread may be waiting for its turn.
        super().ring()
        return True

    # In the thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Wait for the turn, and call the function in the scopes that were lent."""
        try:
            with lock:
                self.thread = get_ident()
                self.is_here = True
            self.wait()
            if not self.is_over:
                self.value = self.call_in_streams()
        except BaseException as error:
            self.error = error
        finally:
            self.drop()

    def call_in_streams(self) -> Any:
        errors: list[BaseException] = []
        try:
            for scope in reversed(self.scopes):
                scope.take_up()
            return self.call()
        except BaseException as error:
            errors.append(error)
        finally:
            for scope in self.scopes:
                try:
                    if scope.saved is not None:
                        scope.put_aside()
                except BaseException as error:
                    errors.append(error)
            raise_together("several errors in the thread of rngscope.to_thread", errors)

    def describe(self) -> str:
        what = f"the function {describe_function(self.function)}"
        where = _turns.describe_actor(self.thread, None) if self.is_here else "a thread"
        return f"{what} (which rngscope.to_thread runs in {self.scope.what()}) by {where}"


class _Step(Claim):
    """The wish of a body that suspends to go on, in a task."""

    __slots__ = ("loop", "rung", "late")

    def __init__(self, scope: Any, is_closing: bool) -> None:
        super().__init__(scope, _sources(scope), _exclusive(scope))
        self.task = task_name()
        #: None where there is no task of asyncio that could wait: the thread stands still.
        self.loop: AbstractEventLoop | None = None
        if self.task is not None and not is_closing:
            self.loop = running_loop()
        #: Done when there may be something to do; nothing comes of it.
        self.rung: Future[None] | None = None
        #: What was raised in the body, by cancelling it for instance, while it waited.
        self.late: BaseException | None = None

    def find_obstacle(self) -> Any:
        loan = _lent.get(self.scope)
        return super().find_obstacle() if loan is None else loan

    def grant(self) -> None:
        super().grant()
        if not self.is_blocking:
            # Should the loop not come to it, others are not kept out for ever.
            self.until = monotonic() + RESERVED

    def take(self) -> bool:
        if not super().take():
            return False
        if not self.is_blocking:
            # From here to the step it is not far.
            self.until = monotonic() + RESERVED
        return True

    def ring(self) -> None:
        super().ring()
        if self.loop is not None and self.rung is not None:
            if not _call_soon(self.loop, _set, self.rung):
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
        seconds = GLANCE if is_own else min(GLANCE, self.seconds_left())
        assert self.rung is not None
        timer = self.loop.call_later(seconds, _set, self.rung)
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
        What keeps others out until it is dropped, which must be when the scope is taken up.

    Raises:
        BaseException: what was raised in a body that has not begun, as by cancelling it.
        TimeoutError: a scope of another thread did not end in time; it is named.
    """
    step = _Step(scope, is_closing=isinstance(argument, GeneratorExit))
    try:
        while True:
            with lock:
                loan = _lent.get(scope)
                if loan is not None and loan.withdraw():
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
                    f"{scope.what()} cannot go on within {loan.describe()}: its stream is in use"
                )
            yield from step.wait_here(is_new)
    except BaseException:
        step.drop()
        raise


def _sources(scope: Any) -> tuple[Any, ...]:
    """Return the sources of a scope and of those that are taken up with it."""
    sources: tuple[Any, ...] = scope.sources
    for inner in scope.inner:
        sources += _sources(inner)
    return sources


def _exclusive(scope: Any) -> bool | float:
    """Return whether a scope is exclusive, or one that is taken up with it."""
    exclusive: bool | float = scope.exclusive
    for inner in scope.inner:
        exclusive = exclusive or _exclusive(inner)
    return exclusive


def _call_soon(loop: AbstractEventLoop, *call: Any) -> bool:
    """Call in an event loop, perhaps another thread's; False if that is closed."""
    try:
        loop.call_soon_threadsafe(*call)
    except RuntimeError:
        return False
    return True


def _set(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)
