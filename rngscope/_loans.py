"""Loans: functions that are to run in a thread, in the scopes of suspended bodies.

In the event loop, a ``Loan`` has its function called in a thread of the loop's executor, which
resumes the scopes, outermost first, and suspends them again. All the while they are exclusive.
"""

from __future__ import annotations

from _thread import get_ident
from time import monotonic

from rngscope import _claims
from rngscope._claims import FOREVER, Claim, all_of, claims, granted, share
from rngscope._errors import raise_together
from rngscope._order import lock
from rngscope._origin import describe_actor, describe_function, what

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable
    from typing import Any

#: The loan that waits for a future, by the future's ``id``.
offers: dict[int, Loan] = {}

#: Scopes that were lent, to whom.
lent: dict[Any, Loan] = {}


def lend(item: Any, scope: Any) -> None:
    """Lend the scope of a body that suspends, if ``item``, which it waits for, is a loan's."""
    loan = offers.get(id(item))
    if loan is not None:
        loan.scopes.append(scope)
        lent[scope] = loan


class Loan(Claim):
    """A function that is to run in a thread, and the scopes it runs in."""

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
            self.error = _no_stream(self.function)
            self.future.set_result(None)
            return
        self.scope = self.scopes[-1]
        for scope in self.scopes:
            self.sources += sources_of(scope)
            if type(scope.plan.exclusive) is float:
                self.limit = max(self.limit or 0.0, scope.plan.exclusive)
        with lock:
            # What stays open below the bodies, around the event loop for instance.
            self.beneath = all_of(self.thread)
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
                self.loop.call_later(min(_claims.GLANCE, self.seconds_left()), self.look)
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
            if is_coming and share(self.sources, other.sources):
                return other
        return None

    def grant(self) -> None:
        if self.is_here:
            super().grant()

    def ring(self) -> None:
        if self.is_here:
            super().ring()
        elif not self.is_sent:
            self.rung_until = self.rung_until or monotonic() + _claims.RESERVED
            if not call_soon(self.loop, self.look):
                # The loop is closed: nobody will come for it.
                self.drop()

    def drop(self) -> None:
        with lock:
            _give_back(self)
            super().drop()

    # In the thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Wait for the turn, and call the function in the scopes that were lent."""
        try:
            with lock:
                self.thread = get_ident()
                self.is_here = True
            self.wait()
            if not self.is_over:
                self.value = _call_in_streams(self)
        except BaseException as error:
            self.error = error
        finally:
            self.drop()

    def describe(self) -> str:
        function = f"the function {describe_function(self.function)}"
        where = describe_actor(self.thread, None) if self.is_here else "a thread"
        return f"{function} (which rngscope.to_thread runs in {what(self.scope)}) by {where}"


def _no_stream(function: Any) -> RuntimeError:
    return RuntimeError(
        "rngscope.to_thread must be awaited in the body of a coroutine or async generator that "
        "is decorated with @seeded(...) or a stream: there is no stream to run "
        f"{describe_function(function)} in. gather, create_task, wait_for and shield run it in a "
        "task of its own, outside of the body: await it by itself, with a time limit as async "
        "with asyncio.timeout(...). Without a stream, use asyncio.to_thread"
    )


def _call_in_streams(loan: Loan) -> Any:
    """Call the function, with the scopes resumed around it."""
    errors: list[BaseException] = []
    try:
        for scope in reversed(loan.scopes):
            scope.resume()
        return loan.call()
    except BaseException as error:
        errors.append(error)
    finally:
        for scope in loan.scopes:
            try:
                if scope.found is not None:
                    scope.suspend()
            except BaseException as error:
                errors.append(error)
        raise_together("several errors in the thread of rngscope.to_thread", errors)


def _give_back(loan: Loan) -> None:
    for scope in loan.scopes:
        if lent.get(scope) is loan:
            del lent[scope]


def withdraw(loan: Loan) -> bool:
    """Let a function never begin; False if it has its turn already."""
    if loan.until == FOREVER and not loan.is_over:
        return False
    loan.drop()
    # Its thread may be waiting for its turn.
    Claim.ring(loan)
    return True


def sources_of(scope: Any) -> tuple[Any, ...]:
    """Return the sources of a scope and of those that are resumed with it."""
    sources: tuple[Any, ...] = scope.plan.sources
    for inner in scope.inner:
        sources += sources_of(inner)
    return sources


def exclusive_of(scope: Any) -> bool | float:
    """Return whether a scope is exclusive, or one that is resumed with it."""
    exclusive: bool | float = scope.plan.exclusive
    for inner in scope.inner:
        exclusive = exclusive or exclusive_of(inner)
    return exclusive


def call_soon(loop: AbstractEventLoop, *call: Any) -> bool:
    """Call in an event loop, perhaps another thread's; False if that is closed."""
    try:
        loop.call_soon_threadsafe(*call)
    except RuntimeError:
        return False
    return True


def set_done(future: Future[None]) -> None:
    """Wake who waits for a future."""
    if not future.done():
        future.set_result(None)
