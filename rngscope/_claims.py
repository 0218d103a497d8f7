"""Claims: who waits for whom, where threads share the RNGs of one process.

Who has to wait makes a ``Claim``. When a scope ends, all claims that nothing is in the way of
any more are granted, the oldest first. A granted claim counts as an open scope until its own
scope is entered, so that nobody slips in between. Nobody waits behind one that only waits.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from time import monotonic

from rngscope._order import is_owned, lives, lock
from rngscope._origin import describe, describe_actor, what
from rngscope.sources.accelerators import AcceleratorSource, have_common_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rngscope._life import Life
    from rngscope.sources.cell import Source

#: Seconds that a scope waits for one and the same scope of another thread. A scope with
#: ``exclusive=seconds`` waits so long in all.
LIMIT = 300.0
#: Seconds after which who waits looks by itself: an interrupt may have kept it from being rung.
GLANCE = 1.0
#: Seconds within which an event loop must come to what it was told to.
RESERVED = 1.0
FOREVER = float("inf")

#: Who waits, in the order in which they came.
claims: list[Claim] = []

#: Claims that were granted, whose scopes are about to be entered.
granted: list[Claim] = []


class Claim:
    """The wish of a thread to enter scopes, when others are in the way.

    Args:
        scope: the scope that is to be entered, or the outermost of them.
        sources: those of all scopes that are to be entered.
        exclusive: whether they keep other threads out; a number is the seconds to wait in all.
    """

    is_of_process = False

    def __init__(self, scope: Any, sources: tuple[Source, ...], exclusive: bool | float) -> None:
        self.scope = scope
        self.sources = sources
        self.exclusive = bool(exclusive)
        self.limit = None if isinstance(exclusive, bool) else exclusive
        self.thread = get_ident()
        self.task: str | None = None
        #: Scopes and claims of other threads that are no obstacle: this one acts for them.
        self.beneath: tuple[Any, ...] = ()
        #: Until when it is granted, on the clock of ``monotonic``.
        self.until = 0.0
        self.is_over = False
        #: Whether its thread stands still until it is granted.
        self.is_blocking = False
        #: What it waits for, and since when.
        self.obstacle: Any = None
        self.since = monotonic()
        #: Released to wake the thread.
        self.bell = allocate_lock()
        self.bell.acquire()

    def find_obstacle(self) -> Any:
        """Return an open scope or a granted claim that has to end first; None if there is none.

        The lock must be held.
        """
        return obstacle_of(self.thread, self.sources, self.exclusive, self.beneath)

    def is_held_up(self) -> bool:
        """Look whether anything is in the way; the lock must be held."""
        obstacle = self.find_obstacle()
        if obstacle is not self.obstacle:
            self.obstacle = obstacle
            if self.limit is None:
                self.since = monotonic()
        return obstacle is not None

    def take(self) -> bool:
        """Take the turn if nothing is in the way, else stand in line; the lock must be held.

        Returns:
            Whether there is nothing more to wait for.
        """
        if self.is_over or self.until == FOREVER:
            return True
        if not self.is_held_up():
            self.grant()
            self.until = FOREVER
            return True
        if self.until:
            # It came too late.
            self.until = 0.0
            _step_out(self)
        if self not in claims:
            claims.append(self)
        return False

    def grant(self) -> None:
        """Have the turn from now on; the lock must be held."""
        # In this order: an interrupt on the way leaves a claim that is granted once more, and
        # none that enters without being seen.
        if self not in granted:
            granted.append(self)
        self.until = FOREVER
        if self in claims:
            claims.remove(self)

    def wait(self) -> None:
        """Stand still until it is this claim's turn.

        Raises:
            TimeoutError: it took too long; the error names the scope that is in the way.
            RuntimeError: the thread of that scope waits for a scope of this thread.
        """
        if is_owned(lock):
            # A finalizer or a signal handler, in the middle of another scope's entry or exit:
            # nobody else can go on before this thread does.
            self.until = FOREVER
            return
        self.is_blocking = True
        try:
            while True:
                with lock:
                    if self.take():
                        return
                    is_deadlock = _waits_for_itself(self)
                    # Of two threads in a deadlock, one is told, and the other can go on.
                    self.is_blocking = not is_deadlock
                if is_deadlock:
                    raise RuntimeError(
                        f"deadlock: {self.describe()} must wait for {_describe(self.obstacle)} "
                        f"to end, but that thread itself waits for a scope of this one. Enter "
                        f"the exclusive scope first, outside of other scopes"
                    )
                self.bell.acquire(True, min(GLANCE, self.seconds_left()))
        finally:
            self.is_blocking = False

    def seconds_left(self) -> float:
        """Return for how long to wait still.

        Raises:
            TimeoutError: not any longer.
        """
        limit = LIMIT if self.limit is None else self.limit
        left = self.since + limit - monotonic()
        if left > 0:
            return left
        obstacle = self.obstacle
        why = "which keeps other threads out"
        if not _is_exclusive(obstacle):
            why = "because an exclusive scope waits until no other thread has one open"
        raise TimeoutError(
            f"{self.describe()} has waited {limit:g} seconds for {_describe(obstacle)} to end, "
            f"{why}. If that thread waits for this one, neither can go on: end its scope before "
            f"it waits. If it only needs longer, say how long to wait: exclusive={2 * limit:g}"
        )

    def ring(self) -> None:
        """Wake who waits; the lock must be held."""
        if self.bell.locked():
            self.bell.release()

    def drop(self) -> None:
        """Give up the turn, or the place in line. Idempotent."""
        with lock:
            self.is_over = True
            _step_out(self)
            if claims:
                pass_turns()

    def describe(self) -> str:
        """Tell which scope it is for, and whose."""
        return f"{what(self.scope)} by {describe_actor(self.thread, self.task)}"


def _waits_for_itself(claim: Claim) -> bool:
    """Tell whether a thread that a claim waits for stands still for a scope of its own thread."""
    seen: list[Any] = []
    waiting: Any = claim
    while waiting is not None and waiting not in seen:
        seen.append(waiting)
        obstacle = waiting.obstacle
        if isinstance(obstacle, Claim) and obstacle.until != FOREVER:
            # A reservation, which runs out.
            return False
        thread = obstacle.thread
        if thread == claim.thread:
            return True
        standing = (c for c in claims if c.is_blocking and c.thread == thread and c.obstacle)
        waiting = next(standing, None)
    return False


def _step_out(claim: Claim) -> None:
    # Not in a loop right below ``with lock``: where the compiler of CPython 3.12 and 3.13
    # makes one jump out of two, an interrupt at it would leave the lock locked.
    if claim in claims:
        claims.remove(claim)
    if claim in granted:
        granted.remove(claim)


def pass_turns() -> None:
    """Grant the claims that nothing is in the way of any more; the lock must be held."""
    now = monotonic()
    # Some were rung in vain: their event loop stands still. When it comes to them, they stand
    # in line again.
    granted[:] = [claim for claim in granted if claim.until > now]
    for claim in claims[:]:
        obstacle = claim.obstacle
        is_there = obstacle is not None and (
            not obstacle.is_over if isinstance(obstacle, Claim) else obstacle.found is not None
        )
        if not is_there and not claim.is_held_up():
            claim.grant()
            claim.ring()


def drop_claims_of(scope: Life) -> None:
    """Give up what a scope waited for that is not entered after all."""
    for claim in [claim for claim in (*claims, *granted) if claim.scope is scope]:
        claim.drop()


def _forget_other_threads() -> None:
    """In a forked child, forget who waits in threads that do not exist there."""
    thread = get_ident()
    for line in (claims, granted):
        for claim in line[:]:
            if claim.thread != thread:
                claim.is_over = True
                line.remove(claim)


def _describe(obstacle: Any) -> str:
    return obstacle.describe() if isinstance(obstacle, Claim) else describe(obstacle)


def _is_exclusive(holder: Any) -> bool:
    """Tell whether an open scope, or a claim, keeps other threads out."""
    return bool((holder if isinstance(holder, Claim) else holder.plan).exclusive)


def _sources(holder: Any) -> tuple[Source, ...]:
    sources: tuple[Source, ...] = (holder if isinstance(holder, Claim) else holder.plan).sources
    return sources


def others_of(thread: int, beneath: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield the open scopes and the granted claims of other threads."""
    now = monotonic()
    # Claims first: they say more than the scopes that they are for.
    everybody: list[Any] = [*granted, *lives]
    for claim in granted:
        if claim.thread == thread:
            beneath = (*beneath, *claim.beneath)
    for other in everybody:
        if other.thread == thread or not counts(other) or any(other is item for item in beneath):
            continue
        if isinstance(other, Claim) and other.until <= now:
            continue
        yield other


def all_of(thread: int) -> tuple[Any, ...]:
    """Return the open scopes and the granted claims of one thread; the lock must be held."""
    everybody: list[Any] = [*granted, *lives]
    return tuple([item for item in everybody if item.thread == thread])


def obstacle_of(
    thread: int, sources: tuple[Source, ...], exclusive: float, beneath: tuple[Any, ...] = ()
) -> Any:
    """Return what has to end before scopes with these sources are entered; None if nothing."""
    for other in others_of(thread, beneath):
        if (exclusive or _is_exclusive(other)) and share(sources, _sources(other)):
            return other
    return None


def counts(scope: Any) -> bool:
    """Tell whether a scope belongs to the thread that entered it.

    Those that plugins put around whole tests and programs belong to no thread.
    """
    return _is_exclusive(scope) or not scope.is_of_process


def share(sources: tuple[Source, ...], others: tuple[Source, ...]) -> bool:
    """Tell whether two scopes have an RNG in common."""
    if sources is others:
        return bool(sources)
    for source in sources:
        for other in others:
            if isinstance(source, AcceleratorSource):
                if isinstance(other, AcceleratorSource) and have_common_device(source, other):
                    return True
            elif source == other:
                return True
    return False


getattr(os, "register_at_fork", dict)(after_in_child=_forget_other_threads)
