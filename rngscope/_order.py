"""The open scopes, and leaving them in any order.

For each cell the open scopes that cover it form a stack. Each keeps in ``found`` the state that it
found, which is where the stream below it stands; the state of the cell itself is where the stream
on top stands. To enter is to put a stream on top. To leave is to take one out, wherever it is: what
it found goes to the next scope above that covers the cell, or, if there is none, back to the cell.
So scopes may be left in any order, and once all are closed the first state found is back.
"""

from __future__ import annotations

import os
import sys
import types

# Not threading, which costs more to import than the whole package.
from _thread import get_ident

from rngscope._errors import warn_caller
from rngscope._origin import describe
from rngscope._owned_lock import make_lock
from rngscope.sources.start import waiting_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rngscope._life import Life
    from rngscope.sources.cell import Cell

#: Held while a scope is entered or left, never while its body runs. Signal handlers and
#: finalizers may open scopes at any point, hence reentrant.
lock, is_owned = make_lock()

#: The open scopes, in the order in which they were entered.
lives: list[Life] = []

#: Scopes that were to be left in the middle of another one's entry or exit.
deferred: list[Life] = []

#: In a forked child: the cells that a scope does not put back, although its stream goes on.
not_restored: dict[Life, tuple[Cell, ...]] = {}


def above(life: Life) -> Iterator[dict[Cell, Any]]:
    """Yield what the scopes above have found."""
    for upper in lives[lives.index(life) + 1 :]:
        if upper.found is not None:
            yield upper.found


def current_state(life: Life, cell: Cell) -> Any:
    """Return where the stream of a scope stands in one cell, for it to go on from there."""
    for found in above(life):
        if cell in found:
            return cell.position_from(found[cell])
    return cell.read_position()


def set_current(life: Life, cell: Cell, state: Any) -> None:
    """Set where the stream of a scope stands in one cell. Idempotent."""
    if not _hand_over(life, cell, state):
        cell.setstate(state)


def _hand_over(life: Life, cell: Cell, state: Any) -> bool:
    """Give the next scope above that covers the cell what it would have found."""
    uppers = [found for found in above(life) if cell in found]
    if uppers and uppers[0][cell] is not state:
        uppers[0][cell] = cell.hand_over(state, uppers)
    return bool(uppers)


def first_overlapping(life: Life) -> Life | None:
    """Return the next open scope above that covers a cell of this one."""
    mine = (life.found or {}).keys()
    for upper in lives[lives.index(life) + 1 :]:
        if upper.found is not None and not mine.isdisjoint(upper.found):
            return upper
    return None


def warn_of_order(life: Life, overlapping: Life) -> None:
    """Say that a scope was left while another one was still open above it."""
    if sys.is_finalizing() or not life.plan.warns_of_order:
        # Bodies that are still suspended end in any order, and nobody draws any more.
        return
    warn_caller(
        f"{describe(life)} was left while another one was still open above it: "
        f"{describe(overlapping)}; their draws came from one stream. Leave scopes in the reverse "
        f"order of their entry. In a coroutine or generator, decorate the function with "
        f"@seeded(...) instead of opening a scope in it: the decorator suspends the scope with "
        f"the body"
    )


def position_of(life: Life) -> dict[Cell, Any]:
    """Return where the stream of an open scope stands."""
    found = life.found or {}
    if lives[-1] is life and not waiting_cells:
        # What current_state does, for what is most often asked.
        return {cell: cell.getstate() for cell in found}
    return {cell: current_state(life, cell) for cell in found}


def keep_position(life: Life, position: dict[Cell, Any]) -> None:
    """Keep where a stream stands: ``life.position`` tells that reading had finished."""
    for cell in not_restored.pop(life, ()):
        position[cell] = cell.getstate()
    life.plan.keep(life, position)
    life.position = position


def keep_what_can_be_read(life: Life) -> list[BaseException]:
    """Keep where a stream stands, if a first try failed; return what fails again."""
    errors: list[BaseException] = []
    if life.position is None and life.found is not None:
        position = {}
        for cell in life.found:
            try:
                position[cell] = current_state(life, cell)
            except Exception as error:
                errors.append(error)
        keep_position(life, position)
    return errors


def defer_exit(life: Life) -> bool:
    """Put off an exit while this thread is in the middle of another scope's entry or exit.

    So it is when a finalizer or a signal handler ends a scope just then.
    """
    if not is_owned(lock):
        return False
    deferred.append(life)
    return True


def run_deferred() -> None:
    """Leave the scopes whose turn has come.

    Who ended them, a finalizer or a signal handler, is gone: their errors are unraisable.
    """
    while deferred and not is_owned(lock):
        life = deferred.pop(0)
        try:
            life.leave()
        except Exception as error:
            sys.unraisablehook(
                types.SimpleNamespace(
                    exc_type=type(error),
                    exc_value=error,
                    exc_traceback=error.__traceback__,
                    err_msg="Exception ignored where a scope was left",
                    object=life,
                )
            )


def _forget_other_threads() -> None:
    """In a forked child: forget the scopes of threads that do not exist here.

    What they found goes to the scopes above, as if they had been left; but nothing is restored,
    since a generator's lock may have been held at the fork.
    """
    me = get_ident()
    for life in lives[:]:
        found = life.found or {}
        if life.thread == me:
            not_restored[life] = tuple(cell for cell in found if cell.not_restored_in_child)
            life.found = {c: state for c, state in found.items() if not c.not_restored_in_child}
            continue
        for cell, state in found.items():
            _hand_over(life, cell, state)
        lives.remove(life)
        life.found = None
    lock.release()


# With the lock held over the fork, the child sees no scope half entered. Windows has no fork.
getattr(os, "register_at_fork", dict)(
    before=lock.acquire, after_in_parent=lock.release, after_in_child=_forget_other_threads
)
