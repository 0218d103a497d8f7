"""Whose turn it is, where threads share the RNGs of one process.

Scopes of several threads may be open side by side; they draw from one stream then, and the
first time there is a warning. An exclusive scope is alone: it waits for the scopes of other
threads to end, and theirs wait for it. What keeps them out is that it stands among the open
``lives``: there is no lock to give back, and whatever takes the scope out of the list, an
interrupt included, ends its turn.
"""

from __future__ import annotations

import os
from _thread import get_ident
from time import monotonic, sleep

from rngscope._claims import (
    FOREVER,
    Claim,
    claims,
    counts,
    drop_claims_of,
    granted,
    obstacle_of,
    others_of,
    pass_turns,
    share,
)
from rngscope._errors import warn_caller
from rngscope._order import is_owned, lives, lock
from rngscope._origin import describe
from rngscope._seeds import short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope._life import Life

__all__ = ["claims", "drop_claims_of", "enter_in_turn", "granted", "needed_before", "pass_turns"]

#: Seconds that a scope gives a task, which has just handed work to a thread, to suspend.
GRACE = 0.1

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


class _Overlap:
    """What a scope sees to before it is entered beside a scope of another thread."""

    def __init__(self, scope: Life, other: Life, before: Claim | _Overlap | None) -> None:
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
            if self.other not in lives:
                return
        _has_warned = True
        try:
            warn_caller(
                f"two threads have scopes open at the same time: {describe(self.scope)}, and "
                f"{describe(self.other)}. The RNGs belong to the process, so both threads draw "
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


def needed_before(scope: Life, seen_to: Claim | _Overlap | None) -> Claim | _Overlap | None:
    """Return what must be waited for before a scope may be entered; None if nothing must.

    The lock must be held until the scope is entered, and not while waiting.

    Args:
        scope: what is to be entered.
        seen_to: what was waited for already.
    """
    global looks_closely
    if seen_to is not None and seen_to.until == FOREVER or not counts(scope):
        return None
    thread = get_ident()
    plan = scope.plan
    if _has_exclusive_scopes and obstacle_of(thread, plan.sources, plan.exclusive) is not None:
        claim = Claim(scope, plan.sources, plan.exclusive)
        claim.task = scope.task
        claim.take()
        return claim
    if _has_warned:
        looks_closely = _has_exclusive_scopes
        return None
    others = [other for other in others_of(thread) if not isinstance(other, Claim)]
    for other in others:
        if share(plan.sources, other.plan.sources):
            return _Overlap(scope, other, seen_to)
    looks_closely = _has_exclusive_scopes or bool(others)
    return None


def enter_in_turn(scope: Life, turn: Claim | _Overlap) -> None:
    """Wait for what stands in the way, as often as something does; then enter."""
    # It counts as open already: nobody else may enter it.
    scope.found = {}
    latest, still = turn, True
    while still:
        latest.wait()
        latest, still = _enter_unless_held_up(scope, latest)
    latest.drop()


def _enter_unless_held_up(scope: Life, turn: Claim | _Overlap) -> tuple[Claim | _Overlap, bool]:
    # Apart from the loop: see DESIGN.rst, "Interrupts".
    with lock:
        needed = needed_before(scope, turn)
        if needed is None:
            scope.begin()
            return turn, False
        return needed, True


def _forget_warning() -> None:
    """In a forked child, warn again."""
    global _has_warned
    _has_warned = False


getattr(os, "register_at_fork", dict)(after_in_child=_forget_warning)
