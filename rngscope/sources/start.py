"""What waits for an accelerator that has not started, taken as one RNG.

torch keeps a queue for it: a list of calls, then a tracker of the latest seeds. When the
accelerator starts, both run in this order. So a state is a point in the queue: to save is to put a
mark there, to seed is to have the mark change the generators, to restore is to take out the mark
and the calls about RNGs that came after it. When the accelerator starts, torch calls the mark, and
the mark keeps what the generators hold then. See ``DESIGN.rst``, "An accelerator before its start".
"""

from __future__ import annotations

from rngscope.sources.cell import Cell, seed_cells
from rngscope.sources.queue import (
    all_of_latest_seeds,
    do_now_or_queue,
    drop_latest_seeds,
    has_queue,
    is_about_rngs,
    latest_seeds,
    queue_of,
    set_latest_seeds,
    warn_at_start,
    warn_if_started,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Act = Callable[[Iterable[Any]], object]

#: What is saved of an accelerator that has not started and has no queue we know: nothing.
LEFT_OUT = "left out"

#: Those that have kept a state, until all open scopes have settled.
waiting_cells: set[Waiting] = set()


class Waiting(str, Cell):
    """The queue for the start of one accelerator. Until then all its devices are one RNG.

    A ``str``, so that two of them for one accelerator are one key of a dict without a line of
    Python, in which a signal could come between a mark and the note of it.
    """

    source: Any

    def __new__(cls, source: Any) -> Waiting:
        self = super().__new__(cls, source.kind)
        self.source = source
        return self

    def getstate(self) -> Any:
        if not has_queue(self.source.backend):
            return LEFT_OUT
        point = Point(self.source)
        waiting_cells.add(self)
        try:
            # Started by another thread just now, it has something to keep already.
            do_now_or_queue(self.source.backend, point.put_into, lambda module: point())
        except BaseException:
            # It may be in the queue or not. Where it is not, there is nothing to go back to.
            point.is_taken_out = True
            self.setstate(point)
            raise
        return point

    def read_position(self) -> Any:
        """Return where the queue ends. To look changes nothing: that takes no mark."""
        if not has_queue(self.source.backend):
            return LEFT_OUT

        def look(module: Any) -> Point:
            entries = [*queue_of(module), *filter(None, latest_seeds(module))]
            return _point_behind(entries, self.source)

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
        place = _place_of(found, queue)
        if place is None:
            return found
        return _point_behind([*queue[:place], *filter(None, found.seeds[2])], self.source)

    def setstate(self, state: Any) -> None:
        if state is LEFT_OUT:
            warn_if_started(self.source.backend)
        elif isinstance(state, Point):
            do_now_or_queue(self.source.backend, state.take_out, state.set_devices)
        else:
            self._change(lambda devices: self._set_each(devices, state))

    def _set_each(self, devices: Iterable[Cell], value: Any) -> None:
        self.source.check(value)
        for device in devices:
            state = self.source.state_in(value, device)
            if state is not None:
                device.setstate(state)

    def seed(self, seed: int) -> None:
        self._change(lambda devices: seed_cells(devices, seed))

    def seed_independently(self, seed: int) -> None:
        def act(devices: Iterable[Cell]) -> None:
            for device in devices:
                device.seed_independently(seed)

        self._change(act)

    def _change(self, act: Act) -> None:
        change = Change(self.source, act)
        do_now_or_queue(
            self.source.backend, change.put_into, lambda module: act(self.source.found(module))
        )

    def hand_over(self, state: Any, above: list[dict[Cell, Any]]) -> Any:
        module, lost = self.source.backend.module(), above[0][self]
        if lost is LEFT_OUT or state is LEFT_OUT or module is None:
            return state
        place = _place_of(lost, queue_of(module))
        if place is not None:
            # Nobody comes back to that mark. What it does there, it still does.
            queue_of(module)[place : place + 1] = _as_entries(lost)
        covered = [cell.source.devices for found in above for cell in found if cell == self]
        if None not in covered and state.source.devices != lost.source.devices:
            state.undo_beyond({i for devices in covered for i in devices}, module)
        state.source = lost.source
        return state


class Point:
    """A point in the queue; once the accelerator has started, what its generators held there."""

    __slots__ = ("source", "seeds", "changes", "calls", "states", "is_taken_out")

    def __init__(self, source: Any) -> None:
        self.source = source
        #: The latest seeds at this point, as torch's tracker held them.
        self.seeds: tuple[Any, Any, list[Any]] = (None, None, [])
        #: What the mark does to the generators once it has kept their states.
        self.changes: tuple[Change, ...] = ()
        #: Of a point to go on from, which is not in the queue: the calls that lead there.
        self.calls: list[Any] = []
        #: Device index -> state.
        self.states: dict[int, Any] = {}
        self.is_taken_out = False

    def put_into(self, module: Any) -> None:
        if any(latest_seeds(module)):
            # torch would run them after all others, so also after what a scope does.
            self.seeds = all_of_latest_seeds(module)
        queue_of(module).append((self, []))
        if self.seeds[2]:
            drop_latest_seeds(module)

    def take_out(self, module: Any) -> None:
        """Take the mark out of the queue, and what came after it and is about RNGs.

        Of a body that was suspended there is no mark: it goes on from here.
        """
        queue = queue_of(module)
        place = _place_of(self, queue)
        if place is None:
            if not self.is_taken_out:
                again = Change(self.source, lambda devices: self.set_devices(module), self)
                again.put_into(module)
            return
        # A start that failed later on has run the calls up to here.
        for index, state in self.states.items():
            self.source.backend.generators(module)[index].set_state(state)
        self.is_taken_out = True
        if self.source.devices is not None and self._is_followed_by_others(module, place):
            # Their calls reach other devices as well: they stay, and ours are set right after.
            Change(self.source, lambda devices: self.set_devices(module)).put_into(module)
            return
        if self.seeds[2] or any(latest_seeds(module)):
            set_latest_seeds(module, self.seeds)
        if place == len(queue) - 1:
            queue.pop()
            return
        queue[place:] = [entry for entry in queue[place:] if not _is_about_rngs(entry[0])]

    def undo_beyond(self, indices: set[int], module: Any) -> None:
        """Have the covered devices but these hold, behind all that is queued, what they held."""

        def act(devices: Iterable[Any]) -> None:
            for device in devices:
                if device.index not in indices and device.index in self.states:
                    device.setstate(self.states[device.index])

        queue_of(module).extend(filter(None, latest_seeds(module)))
        drop_latest_seeds(module)
        queue_of(module).append((Change(self.source, act, is_partial=True), []))

    def _is_followed_by_others(self, module: Any, place: int) -> bool:
        """Tell whether the program itself has queued something about RNGs after this point."""
        seeds = latest_seeds(module)
        if seeds is self.seeds[2]:
            # An interrupt came before they were taken from there, or after they were put back.
            seeds = []
        later = _calls_about_rngs([*queue_of(module)[place + 1 :], *filter(None, seeds)])
        return any(not isinstance(call, Change) for call in later)

    def __call__(self) -> None:
        """Keep what the generators hold, and change them."""
        for seed in filter(None, self.seeds[2]):
            seed[0]()
        module = self.source.backend.module()
        for index, generator in enumerate(self.source.backend.generators(module)):
            try:
                # The first time counts: after a start that failed, all is run again.
                if index not in self.states:
                    self.states[index] = generator.get_state()
            except Exception as error:
                # A failure here would break the start of the accelerator.
                name = f"{self.source.name}:{index}"
                warn_at_start(f"could not save the RNG of {name} at start: {error}")
        for change in self.changes:
            change()

    def is_as_begun(self) -> bool:
        """Tell whether a seed or a state of a scope is what they got last."""
        for call in reversed(self.calls):
            if not isinstance(call, Change) or call.is_partial:
                return False
            if call.source.devices is None or call.source.devices == self.source.devices:
                return call.point is None or call.point.is_as_begun()
        return False

    def by_device(self, module: Any) -> dict[Cell, Any]:
        """Return what each covered device held here."""
        if not self.states:
            # Kept: a seed from entropy that is run twice is two seeds.
            self.states = self._run_again(module)
        states = self.states
        found = self.source.found(module, is_strict=False)
        return {device: states[device.index] for device in found if device.index in states}

    def set_devices(self, module: Any) -> None:
        """Give each covered device what it held here."""
        for device, state in self.by_device(module).items():
            device.setstate(state)

    def _run_again(self, module: Any) -> dict[int, Any]:
        """Find the state of a body that was suspended while the accelerator started."""
        generators = self.source.backend.generators(module)
        now = [generator.get_state() for generator in generators]
        try:
            for call in self.calls:
                call()
            return {index: g.get_state() for index, g in enumerate(generators)}
        finally:
            for generator, state in zip(generators, now):
                generator.set_state(state)


class Change:
    """A change of the covered devices that waits for the start."""

    __slots__ = ("source", "act", "point", "is_partial")

    def __init__(
        self, source: Any, act: Act, point: Point | None = None, is_partial: bool = False
    ) -> None:
        #: ``point``: where a body that was suspended goes on from. ``is_partial``: some devices
        #: stay as they are.
        self.source, self.act, self.point, self.is_partial = source, act, point, is_partial

    def put_into(self, module: Any) -> None:
        """Queue the change behind all that is queued, the latest seeds included."""
        queue, seeds = queue_of(module), latest_seeds(module)
        last = queue[-1][0] if queue else None
        if any(seeds):
            queue.extend(filter(None, seeds))
            drop_latest_seeds(module)
        elif isinstance(last, Point):
            kept = [c for c in last.changes if c.source.devices != self.source.devices]
            last.changes = (*kept, self)
            return
        elif isinstance(last, Change) and last.source.devices == self.source.devices:
            # To seed again and again does not make the queue longer.
            queue[-1] = (self, [])
            return
        queue.append((self, []))

    def __call__(self) -> None:
        try:
            self.act(self.source.found(self.source.backend.module(), is_strict=False))
        except Exception as error:
            # The start of an accelerator must not break on it.
            warn_at_start(f"could not set the RNG of {self.source.name} at its start: {error}")


def _place_of(point: Point, queue: list[Any]) -> int | None:
    return next((i for i in reversed(range(len(queue))) if queue[i][0] is point), None)


def _as_entries(point: Point) -> list[Any]:
    """Return what a mark does besides keeping states, as entries of the queue."""
    return [*filter(None, point.seeds[2]), *((change, []) for change in point.changes)]


def _calls_about_rngs(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry[0], Point):
            yield from (inner[0] for inner in _as_entries(entry[0]))
        elif _is_about_rngs(entry[0]):
            yield entry[0]


def _is_about_rngs(call: Any) -> bool:
    return isinstance(call, (Point, Change)) or is_about_rngs(call)


def _point_behind(entries: list[Any], source: Any) -> Point:
    """Return the point behind these entries of the queue, for a body to go on from there."""
    calls = list(_calls_about_rngs(entries))
    last = calls[-1] if calls else None
    if isinstance(last, Change) and last.source.devices == source.devices and not last.is_partial:
        # That alone counts. If it says where to go on, nobody has moved from there.
        if last.point is not None:
            return last.point
        calls = [last]
    point = Point(source)
    point.calls = calls
    return point


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
