"""Marks in torch's queue for the start of an accelerator, and changes that wait there.

When the accelerator starts, torch calls a mark in its place, and it keeps what the generators hold
then. See ``DESIGN.rst``, "An accelerator before its start".
"""

from __future__ import annotations

from rngscope.sources.queue import (
    all_of_latest_seeds,
    drop_latest_seeds,
    is_about_rngs,
    latest_seeds,
    queue_of,
    set_latest_seeds,
    warn_at_start,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Act = Callable[[Iterable[Any]], object]


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
        place = place_of(self, queue)
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

    def by_device(self, module: Any) -> dict[Any, Any]:
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


def place_of(point: Point, queue: list[Any]) -> int | None:
    return next((i for i in reversed(range(len(queue))) if queue[i][0] is point), None)


def as_entries(point: Point) -> list[Any]:
    """Return what a mark does besides keeping states, as entries of the queue."""
    return [*filter(None, point.seeds[2]), *((change, []) for change in point.changes)]


def _calls_about_rngs(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry[0], Point):
            yield from (inner[0] for inner in as_entries(entry[0]))
        elif _is_about_rngs(entry[0]):
            yield entry[0]


def _is_about_rngs(call: Any) -> bool:
    return isinstance(call, (Point, Change)) or is_about_rngs(call)


def point_behind(entries: list[Any], source: Any) -> Point:
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
