"""What waits for an accelerator that has not started, taken as one RNG.

torch keeps a queue for it: a list of calls, then a tracker of the latest seeds. When the
accelerator starts, both run in this order. So a state is a point in the queue: to save is to put a
mark there, to seed is to have the mark change the generators, to restore is to take out the mark
and the calls about RNGs that came after it. When the accelerator starts, torch calls the mark, and
the mark keeps what the generators hold then. See ``DESIGN.rst``, "An accelerator before its start".
"""

from __future__ import annotations

from rngscope.sources.cell import Cell, SeededStates, seed_cells
from rngscope.sources.marks import Change, Point, as_entries, place_of, point_behind
from rngscope.sources.queue import (
    do_now_or_queue,
    has_queue,
    latest_seeds,
    queue_of,
    warn_if_started,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rngscope.sources.marks import Act

#: What is saved of an accelerator that has not started and has no queue we know: nothing.
LEFT_OUT = "left out"

#: Those that have kept a state, until all open scopes have settled.
waiting_cells: set[Waiting] = set()


class _Seeds(SeededStates):
    """Of what waits, the state that a seed leads to is that seed."""

    __slots__ = ()

    def get(self, seed: int, default: Any = None) -> Any:
        return seed


class Waiting(str, Cell):
    """The queue for the start of one accelerator. Until then all its devices are one RNG.

    A ``str``, so that two of them for one accelerator are one key of a dict without a line of
    Python, in which a signal could come between a mark and the note of it.
    """

    source: Any
    seeded_states = _Seeds()

    def __new__(cls, source: Any) -> Waiting:
        self = super().__new__(cls, source.kind)
        self.source = source
        return self

    def getstate(self) -> Any:
        return _mark(self, Point(self.source))

    def swap(self, found: dict[Cell, Any], state: Any) -> None:
        """Save and seed in one step: of what waits, the state that follows from a seed is it."""
        point = Point(self.source)
        point.changes = (Change(self.source, lambda devices: seed_cells(devices, state)),)
        found[self] = _mark(self, point)

    def read_position(self) -> Any:
        """Return where the queue ends. To look changes nothing: that takes no mark."""
        if not has_queue(self.source.backend):
            return LEFT_OUT

        def look(module: Any) -> Point:
            entries = [*queue_of(module), *filter(None, latest_seeds(module))]
            return point_behind(entries, self.source)

        def keep(module: Any) -> Point:
            point = Point(self.source)
            point()
            return point

        return do_now_or_queue(self.source.backend, look, keep) or LEFT_OUT

    def position_from(self, found: Any) -> Any:
        module = self.source.backend.module()
        if not isinstance(found, Point) or module is None:
            return found
        queue = queue_of(module)
        place = place_of(found, queue)
        if place is None:
            return found
        return point_behind([*queue[:place], *filter(None, found.seeds[2])], self.source)

    def setstate(self, state: Any) -> None:
        if state is LEFT_OUT:
            warn_if_started(self.source.backend)
        elif isinstance(state, Point):
            do_now_or_queue(self.source.backend, state.take_out, state.set_devices)
        elif isinstance(state, int):
            self.seed(state)
        else:
            _change(self, lambda devices: self._set_each(devices, state))

    def _set_each(self, devices: Iterable[Cell], value: Any) -> None:
        self.source.check(value)
        for device in devices:
            state = self.source.state_in(value, device)
            if state is not None:
                device.setstate(state)

    def seed(self, seed: int) -> None:
        _change(self, lambda devices: seed_cells(devices, seed))

    def seed_independently(self, seed: int) -> None:
        def act(devices: Iterable[Cell]) -> None:
            for device in devices:
                device.seed_independently(seed)

        _change(self, act)

    def hand_over(self, state: Any, above: list[dict[Cell, Any]]) -> Any:
        module, lost = self.source.backend.module(), above[0][self]
        if lost is LEFT_OUT or state is LEFT_OUT or module is None:
            return state
        place = place_of(lost, queue_of(module))
        if place is not None:
            # Nobody comes back to that mark. What it does there, it still does.
            queue_of(module)[place : place + 1] = as_entries(lost)
        covered = [cell.source.devices for found in above for cell in found if cell == self]
        if None not in covered and state.source.devices != lost.source.devices:
            state.undo_beyond({i for devices in covered for i in devices}, module)
        state.source = lost.source
        return state


def _mark(cell: Waiting, point: Point) -> Any:
    """Put a mark into the queue, and return it; note that there is one."""
    backend = cell.source.backend
    if not has_queue(backend):
        return LEFT_OUT
    waiting_cells.add(cell)
    try:
        # Started by another thread just now, it has something to keep already.
        do_now_or_queue(backend, point.put_into, lambda module: point())
    except BaseException:
        # It may be in the queue or not. Where it is not, there is nothing to go back to.
        point.is_taken_out = True
        cell.setstate(point)
        raise
    return point


def _change(cell: Waiting, act: Act) -> None:
    source = cell.source
    change = Change(source, act)
    do_now_or_queue(source.backend, change.put_into, lambda module: act(source.found(module)))


def settle(states: dict[Cell, Any]) -> None:
    """Put the devices in the place of an accelerator that has started."""
    for cell in [cell for cell in states if isinstance(cell, Waiting)]:
        module = cell.source.backend.module()
        if module is not None and module.is_initialized():
            # Idempotent, and nothing is lost between two of these lines.
            state = states[cell]
            parts = {} if state is LEFT_OUT else state.by_device(module)
            states.update({**parts, **states})
            del states[cell]
            if state is LEFT_OUT:
                cell.setstate(state)
