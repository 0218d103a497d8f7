"""Whose turn it is, where threads share the RNGs of one process.

Scopes of several threads may be open side by side; they draw from one stream then, and the
first time there is a warning. An exclusive scope is alone: it waits for the scopes of other
threads to end, and theirs wait for it. What keeps them out is that it stands among the open
``scopes``: there is no lock to give back, and whatever takes the scope out of the list, an
interrupt included, ends its turn.

Who has to wait makes a ``Claim``. When a scope ends, all claims that nothing is in the way of
any more are granted, the oldest first. A granted claim counts as an open scope until its own
scope is entered, so that nobody slips in between. Nobody waits behind one that only waits.
"""

from __future__ import annotations

# Not threading, which costs more to import than the whole package.
from _thread import allocate_lock, get_ident
from time import monotonic, sleep

from rngscope._errors import warn_caller
from rngscope._owned_lock import make_lock
from rngscope._seeds import short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rngscope._open_scopes import OpenScope
    from rngscope._sources import Source

#: Seconds that a scope waits for one and the same scope of another thread. A scope with
#: ``exclusive=seconds`` waits so long in all.
LIMIT = 300.0
#: Seconds after which who waits looks by itself: an interrupt may have kept it from being rung.
GLANCE = 1.0
#: Seconds that a scope gives a task, which has just handed work to a thread, to suspend.
GRACE = 0.1
FOREVER = float("inf")

#: Held while a scope is entered or left, never while its body runs. Signal handlers and
#: finalizers may open scopes at any point, hence reentrant.
lock, is_owned = make_lock()

#: The open scopes, in the order in which they were entered.
scopes: list[OpenScope] = []

#: Who waits, in the order in which they came.
claims: list[Claim] = []

#: Claims that were granted, whose scopes are about to be entered.
granted: list[Claim] = []

#: Whether an entry has more to ask than which thread entered the scope below: from the first
#: exclusive scope on, and while scopes of several threads are open that share nothing so far.
looks_closely = False

_has_exclusive_scopes = False
_has_warned = False


def expect_exclusive_scopes() -> None:
    """Have every scope ask from now on whether it may be entered."""
    global looks_closely, _has_exclusive_scopes
    _has_exclusive_scopes = looks_closely = True


def check_exclusive(exclusive: Any) -> bool | float:
    """Return ``exclusive``, which is not False, after checking it.

    Raises:
        TypeError, ValueError: it is neither a bool nor a positive number of seconds.
    """
    if exclusive is not True:
        if not isinstance(exclusive, (int, float)):
            raise TypeError(
                f"exclusive must be True, False or the seconds to wait at most, not "
                f"{short_repr(exclusive)}"
            )
        if not exclusive > 0:
            raise ValueError(
                f"exclusive must be True, False or a positive number of seconds, not {exclusive!r}"
            )
        exclusive = float(exclusive)
    expect_exclusive_scopes()
    return exclusive  # type: ignore[no-any-return]


class Claim:
    """The wish of a thread to enter scopes, when others are in the way.

    Args:
        scope: the scope that is to be entered, or the outermost of them.
        sources: those of all scopes that are to be entered.
        exclusive: whether they keep other threads out; a number is the seconds to wait in all.
    """

    is_of_process = False
    __slots__ = (
        "scope",
        "sources",
        "exclusive",
        "limit",
        "thread",
        "task",
        "beneath",
        "until",
        "is_over",
        "is_blocking",
        "obstacle",
        "since",
        "bell",
    )

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
        return _obstacle(self.thread, self.sources, self.exclusive, self.beneath)

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
            self._step_out()
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
                    is_deadlock = self._waits_for_itself()
                    # Of two threads in a deadlock, one is told, and the other can go on.
                    self.is_blocking = not is_deadlock
                if is_deadlock:
                    raise RuntimeError(
                        f"deadlock: {self.describe()} must wait for {self.obstacle.describe()} "
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
        if not obstacle.exclusive:
            why = "because an exclusive scope waits until no other thread has one open"
        raise TimeoutError(
            f"{self.describe()} has waited {limit:g} seconds for {obstacle.describe()} to end, "
            f"{why}. If that thread waits for this one, neither can go on: end its scope before "
            f"it waits. If it only needs longer, say how long to wait: exclusive={2 * limit:g}"
        )

    def _waits_for_itself(self) -> bool:
        """Tell whether a thread that this one waits for stands still for a scope of this one."""
        seen: list[Any] = []
        waiting: Any = self
        while waiting is not None and waiting not in seen:
            seen.append(waiting)
            obstacle = waiting.obstacle
            if isinstance(obstacle, Claim) and obstacle.until != FOREVER:
                # A reservation, which runs out.
                return False
            thread = obstacle.thread
            if thread == self.thread:
                return True
            standing = (c for c in claims if c.is_blocking and c.thread == thread and c.obstacle)
            waiting = next(standing, None)
        return False

    def ring(self) -> None:
        """Wake who waits; the lock must be held."""
        if self.bell.locked():
            self.bell.release()

    def drop(self) -> None:
        """Give up the turn, or the place in line. Idempotent."""
        with lock:
            self.is_over = True
            self._step_out()
            if claims:
                pass_turns()

    def _step_out(self) -> None:
        # Not in a loop right below ``with lock``: where the compiler of CPython 3.12 and 3.13
        # makes one jump out of two, an interrupt at it would leave the lock locked.
        if self in claims:
            claims.remove(self)
        if self in granted:
            granted.remove(self)

    def describe(self) -> str:
        """Tell which scope it is for, and whose."""
        return f"{self.scope.what()} by {describe_actor(self.thread, self.task)}"


class _Overlap:
    """What a scope sees to before it is entered beside a scope of another thread."""

    __slots__ = ("scope", "other", "patient_until", "until")

    def __init__(self, scope: OpenScope, other: OpenScope, before: Claim | _Overlap | None) -> None:
        self.scope = scope
        self.other = other
        self.patient_until = monotonic() + GRACE
        if isinstance(before, _Overlap):
            self.patient_until = before.patient_until
        self.until = 0.0

    def wait(self) -> None:
        """Warn, once in a process; as an error, the warning leaves everything as it was."""
        global _has_warned
        if is_owned(lock):
            # In the middle of another scope's entry or exit, no foreign code may run.
            self.until = FOREVER
            return
        while self.other.task is not None and monotonic() < self.patient_until:
            # asyncio.to_thread and executors start before the task that awaits them suspends.
            sleep(0.0005)
            if self.other not in scopes:
                return
        _has_warned = True
        try:
            warn_caller(
                f"two threads have scopes open at the same time: {self.scope.describe()}, and "
                f"{self.other.describe()}. The RNGs belong to the process, so both threads draw "
                f"from one stream, and what each gets depends on timing. Give the scopes turns "
                f"with exclusive=True, hand work of a coroutine to a thread with "
                f"rngscope.to_thread, let only one thread draw, or use processes. This is said "
                f"once in a process"
            )
        except BaseException:
            # Raised as an error, it has kept the scope from being entered. The next must not
            # go unsaid.
            _has_warned = False
            raise

    def drop(self) -> None:
        """Nothing to give up."""


def needed_before(scope: OpenScope, seen_to: Claim | _Overlap | None) -> Claim | _Overlap | None:
    """Return what must be waited for before a scope may be entered; None if nothing must.

    The lock must be held until the scope is entered, and not while waiting.

    Args:
        scope: what is to be entered.
        seen_to: what was waited for already.
    """
    global looks_closely
    if seen_to is not None and seen_to.until == FOREVER or not _counts(scope):
        return None
    thread = get_ident()
    if _has_exclusive_scopes and _obstacle(thread, scope.sources, scope.exclusive) is not None:
        claim = Claim(scope, scope.sources, scope.exclusive)
        claim.task = scope.task
        claim.take()
        return claim
    if _has_warned:
        looks_closely = _has_exclusive_scopes
        return None
    others = [other for other in _others(thread) if not isinstance(other, Claim)]
    for other in others:
        if share(scope.sources, other.sources):
            return _Overlap(scope, other, seen_to)
    looks_closely = _has_exclusive_scopes or bool(others)
    return None


def pass_turns() -> None:
    """Grant the claims that nothing is in the way of any more; the lock must be held."""
    now = monotonic()
    # Some were rung in vain: their event loop stands still. When it comes to them, they stand
    # in line again.
    granted[:] = [claim for claim in granted if claim.until > now]
    for claim in claims[:]:
        obstacle = claim.obstacle
        is_there = obstacle is not None and (
            not obstacle.is_over if isinstance(obstacle, Claim) else obstacle.saved is not None
        )
        if not is_there and not claim.is_held_up():
            claim.grant()
            claim.ring()


def drop_claims_of(scope: OpenScope) -> None:
    """Give up what a scope waited for that is not entered after all."""
    for claim in [claim for claim in (*claims, *granted) if claim.scope is scope]:
        claim.drop()


def forget_other_threads(thread: int) -> None:
    """In a forked child, forget who waits in threads that do not exist there."""
    global _has_warned
    _has_warned = False
    for line in (claims, granted):
        for claim in line[:]:
            if claim.thread != thread:
                claim.is_over = True
                line.remove(claim)


def describe_actor(thread: int, task: str | None) -> str:
    """Name a task, or else a thread."""
    if task:
        return f"task {task!r}"
    import threading

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return f"thread {names.get(thread, f'{thread} (ended)')!r}"


def _others(thread: int, beneath: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield the open scopes and the granted claims of other threads."""
    now = monotonic()
    # Claims first: they say more than the scopes that they are for.
    everybody: list[Any] = [*granted, *scopes]
    for claim in granted:
        if claim.thread == thread:
            beneath = (*beneath, *claim.beneath)
    for other in everybody:
        if other.thread == thread or not _counts(other) or any(other is item for item in beneath):
            continue
        if isinstance(other, Claim) and other.until <= now:
            continue
        yield other


def all_of(thread: int) -> tuple[Any, ...]:
    """Return the open scopes and the granted claims of one thread; the lock must be held."""
    everybody: list[Any] = [*granted, *scopes]
    return tuple([item for item in everybody if item.thread == thread])


def _obstacle(
    thread: int, sources: tuple[Source, ...], exclusive: float, beneath: tuple[Any, ...] = ()
) -> Any:
    for other in _others(thread, beneath):
        if (exclusive or other.exclusive) and share(sources, other.sources):
            return other
    return None


def _counts(scope: Any) -> bool:
    """Tell whether a scope belongs to the thread that entered it.

    Those that plugins put around whole tests and programs belong to no thread.
    """
    return bool(scope.exclusive or not scope.is_of_process)


def share(sources: tuple[Source, ...], others: tuple[Source, ...]) -> bool:
    """Tell whether two scopes have an RNG in common."""
    if sources is others:
        return bool(sources)
    for source in sources:
        for other in others:
            if source.identity == other.identity:
                # Accelerators may be limited to some devices.
                shares_with = getattr(source, "shares_with", None)
                if shares_with is None or shares_with(other):
                    return True
    return False
