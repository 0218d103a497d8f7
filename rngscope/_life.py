"""The life of a scope: save every cell, begin, let the block run, put every cell back.

The same life serves the with statement, the decorator, each step of a body that suspends, and a
stream: to suspend is to leave and keep where the stream stood; to resume is to begin from there.
How it stays exact wherever an interrupt comes: ``DESIGN.rst``, "Interrupts".
"""

from __future__ import annotations

from _thread import get_ident
from functools import partial
from sys import getrecursionlimit, setrecursionlimit

from rngscope import _arrival, _origin, _turns
from rngscope._arrival import pending, settle_all
from rngscope._errors import find_frame, raise_besides
from rngscope._graphs import keep_out_of_graphs
from rngscope._interrupts import MORE_FRAMES, no_signal_at_start
from rngscope._not_covered import warn_at_end
from rngscope._order import (
    defer_exit,
    deferred,
    first_overlapping,
    keep_position,
    keep_what_can_be_read,
    lives,
    lock,
    position_of,
    run_deferred,
    set_current,
    warn_of_order,
)
from rngscope._present import cells_of
from rngscope._roll_back import put_back
from rngscope.sources.cell import seed_cells
from rngscope.sources.start import settle, waiting_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from rngscope._plan import Plan
    from rngscope.sources.cell import Cell


class Life:
    """One stretch between entry and exit, over the cells of a plan."""

    #: Whether it stands around a whole test or program, and so belongs to no thread.
    is_of_process = False

    __slots__ = ("plan", "origin", "instruction", "found", "position", "inner", "thread", "task")

    def __init__(self, plan: Plan, function: Any = None) -> None:
        self.plan = plan
        #: The function whose calls run in it; for a block, the code that has opened it.
        self.origin = function
        #: What was found at entry; None while not open.
        self.found: dict[Cell, Any] | None = None
        #: Where the stream stood when it was suspended.
        self.position: dict[Cell, Any] | None = None
        #: The scopes that were suspended with it.
        self.inner: tuple[Life, ...] = ()

    @property
    def is_open_or_suspended(self) -> bool:
        return self.found is not None or self.position is not None

    # Entering --------------------------------------------------------------------------

    def enter(self, caller: FrameType | None = None) -> None:
        """Save every cell and begin the stream, or go on where it was suspended.

        If that fails half way, everything is put back.
        """
        turn: Any = None
        try:
            with lock:
                if caller is not None or self.origin is None:
                    caller = caller or find_frame(1)
                    self.origin, self.instruction = caller.f_code, caller.f_lasti
                me = self.thread = get_ident()
                self.task = _origin.running_loop() and _origin.task_name()
                if lives and lives[-1].thread != me or _turns.looks_closely:
                    turn = _turns.needed_before(self, None)
                if turn is None:
                    self.begin()
            if turn is not None:
                _turns.enter_in_turn(self, turn)
            if deferred:
                run_deferred()
        except BaseException as error:
            if self not in lives:
                # Nothing has been done. So deep in a recursion there may be no frame left to
                # raise the limit.
                self.found = None
                if _turns.looks_closely:
                    _turns.drop_claims_of(self)
                if deferred:
                    run_deferred()
                raise
            limit = getrecursionlimit()
            try:
                setrecursionlimit(limit + MORE_FRAMES)
                self._repair(error, self.plan.remembers)
            finally:
                setrecursionlimit(limit)
            raise

    __enter__ = enter
    keep_out_of_graphs(enter)

    def begin(self) -> None:
        """Put the scope on top, save every cell and set where its stream begins.

        It is a function of its own so that an entry takes more stack than an exit: near the
        recursion limit the entry fails, before anything is done.
        """
        plan = self.plan
        # What arrives just now is among its cells below: it must not be taken up besides.
        self.found = None
        lives.append(self)
        if pending:
            _arrival.watch()
        cells = cells_of(plan.sources)
        found: dict[Cell, Any] = {}
        self.found = found
        seed = plan.seed
        if not plan.is_simple or self.position is not None:
            _begin_or_go_on(self, cells, found)
        elif seed is None:
            for cell in cells:
                found[cell] = cell.getstate()
        else:
            for cell in cells:
                state = cell.seeded_states.get(seed)
                if state is not None:
                    cell.swap(found, state)
                else:
                    found[cell] = cell.getstate()
                    seed_cells((cell,), seed)

    def resume(self) -> None:
        """Enter again where the stream was suspended, with the scopes that were above it."""
        inner, self.inner = self.inner, ()
        position = self.position
        try:
            self.enter()
        except BaseException:
            # It is suspended as before.
            self.position, self.inner = position, inner
            raise
        if inner:
            try:
                _resume_each(inner)
            except BaseException:
                # Those that are open above are suspended with it.
                self.suspend()
                raise

    # Leaving ---------------------------------------------------------------------------

    @no_signal_at_start
    def leave(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Put every cell back, or hand what was found to the scopes above.

        Raises:
            BaseException: whatever kept a cell from being restored, after all others were;
                several in a group.
        """
        overlapping = covered = None
        try:
            if lives and lives[-1] is not self and defer_exit(self):
                return
            with lock:
                found, plan = self.found, self.plan
                if plan.looks_at_end:
                    covered = tuple(found or ())
                if plan.is_simple and found is not None and lives and lives[-1] is self:
                    # What _end does, for what is most often asked.
                    if waiting_cells:
                        settle_all()
                    for cell, state in found.items():
                        cell.setstate(state)
                    self._close()
                else:
                    overlapping = self._end(plan.remembers)
                    self.position = None
        except BaseException as failure:
            limit = getrecursionlimit()
            try:
                setrecursionlimit(limit + MORE_FRAMES)
                self._repair(failure, self.plan.remembers)
            finally:
                setrecursionlimit(limit)
                self.position = None
            raise
        if overlapping is not None or covered is not None or deferred:
            _tell(self, overlapping, covered, kind)

    __exit__ = leave
    keep_out_of_graphs(leave)

    @no_signal_at_start
    def suspend(self) -> None:
        """Leave, and remember in ``position`` where the stream stood.

        The scopes that this thread has opened above it are suspended with it: they belong to the
        same body.
        """
        try:
            with lock:
                if lives[-1] is not self:
                    _suspend_above(self)
                self._end(True)
                if self.plan.remembers:
                    self.plan.has_suspended(self)
        except BaseException as error:
            limit = getrecursionlimit()
            try:
                setrecursionlimit(limit + MORE_FRAMES)
                self._repair(error, True)
            finally:
                setrecursionlimit(limit)
            raise
        if deferred:
            run_deferred()

    def _end(self, remembers: bool) -> Life | None:
        """Leave; return the first scope that overlaps with this one, if one does."""
        found, overlapping = self.found, None
        if found is None:
            return None
        if waiting_cells:
            settle_all()
        if remembers and self.position is None:
            keep_position(self, position_of(self))
        self.plan.ends(self)
        if lives[-1] is self:
            for cell, state in found.items():
                cell.setstate(state)
        else:
            overlapping = first_overlapping(self)
            for cell, state in found.items():
                set_current(self, cell, state)
        self._close()
        return overlapping

    def _close(self) -> None:
        # Clear ``found`` first: if a signal lands between these lines, the repair must not
        # restore a second time over draws of the outer scope.
        self.found = None
        if lives and lives[-1] is self:
            lives.pop()
        elif self in lives:
            lives.remove(self)
        if self.plan.remembers:
            self.plan.closed(self)
        if _arrival.is_watching and not lives:
            _arrival.stop_watching()
        if _turns.claims:
            _turns.pass_turns()

    def _repair(self, error: BaseException, remembers: bool) -> None:
        """Restore every cell in spite of an error, and close.

        Raises:
            BaseException: several errors in a group; a single one is the caller's to raise.
        """
        errors: list[BaseException] = []
        with lock:
            try:
                settle_all()
                if remembers:
                    errors = keep_what_can_be_read(self)
            finally:
                self.plan.ends(self)
                found = self.found if self in lives else None
                errors += put_back(list((found or {}).items()), partial(set_current, self))
                self._close()
                if _turns.looks_closely:
                    _turns.drop_claims_of(self)
                if not lives:
                    _arrival.stop_watching()
        run_deferred()
        raise_besides(error, errors, "several errors while a scope was left")


class LifeOfProcess(Life):
    """The life of a scope around a whole test or program, and all of its threads."""

    is_of_process = True

    __slots__ = ()


def _tell(
    life: Life, overlapping: Life | None, covered: tuple[Cell, ...] | None, kind: object
) -> None:
    """See to what comes after an exit: others that were deferred, and warnings."""
    if overlapping is not None:
        warn_of_order(life, overlapping)
    if deferred:
        run_deferred()
    if covered is not None:
        plan = life.plan
        plan.looks_at_end = warn_at_end(plan.sources, covered, kind)  # type: ignore[arg-type]


def _begin_or_go_on(life: Life, cells: Sequence[Cell], found: dict[Cell, Any]) -> None:
    """Save every cell and begin the stream in any way, or go on with it."""
    plan = life.plan
    position, life.position = life.position, None
    if plan.remembers:
        position = plan.latest_position()
    # All before the first begins: generators of the user may share an RNG with each other, or be
    # a global one.
    for cell in cells:
        found[cell] = cell.getstate()
    if position is None:
        plan.begin(cells)
    else:
        settle(position)
        for cell in cells:
            state = position.get(cell)
            if state is None:
                plan.begin((cell,))
            else:
                cell.setstate(state)
    plan.opened(life)


def _resume_each(lives_of_body: tuple[Life, ...]) -> None:
    for life in lives_of_body:
        # One that was left meanwhile has no position any more.
        if life.position is not None:
            life.resume()


def _suspend_above(life: Life) -> None:
    uppers = lives[lives.index(life) + 1 :]
    life.inner = tuple([upper for upper in uppers if upper.thread == life.thread])
    for upper in reversed(life.inner):
        upper.suspend()
