"""``StreamPlan``: where a stream stands."""

from __future__ import annotations

from _thread import get_ident

from rngscope._arrival import settle_all
from rngscope._order import lock, position_of, set_current
from rngscope._plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType
    from typing import Any

    from rngscope._life import Life
    from rngscope.sources.cell import Cell, Source

    #: Where a stream stands: its position, the values that it begins with, its open uses.
    Place = tuple[dict[Cell, Any], dict[str, Any] | None, Sequence[Life]]

#: What wants to know where a stream stands whenever one is entered: checkpointed functions that
#: run, see ``_checkpoint``.
recordings: list[Any] = []


class StreamPlan(Plan):
    """A plan whose beginning remembers: each use of it goes on where the latest one stood."""

    __slots__ = ("position", "open", "suspended")

    remembers = True

    def __init__(
        self,
        sources: tuple[Source, ...],
        seed: int,
        independent: bool,
        exclusive: bool | float = False,
    ) -> None:
        super().__init__(sources, seed, independent, None, exclusive)
        #: Where the stream stopped.
        self.position: dict[Cell, Any] = {}
        #: The uses that are open, in the order of their entry.
        self.open: list[Life] = []
        #: Those that are suspended with the bodies they belong to.
        self.suspended: set[Life] = set()

    def begin_anew(self, seed: int, values: dict[str, Any] | None) -> None:
        """Forget where the stream stopped; begin with values where there are some."""
        self.seed, self.position, self.values = seed, {}, values

    def refuse_open(self, verb: str) -> None:
        if self.latest() is not None:
            raise RuntimeError(f"cannot {verb} a stream while it is open: leave its blocks first")

    def latest(self, below: Life | None = None) -> Life | None:
        """Return the latest use that is open, or the latest but one."""
        for use in reversed(self.open):
            # A forked child has forgotten the uses of other threads: they are not open.
            if use is not below and use.found is not None:
                return use
        return None

    def latest_position(self) -> dict[Cell, Any] | None:
        outer = self.latest() if self.open else None
        if outer is not None:
            self.position.update(stands(outer))
        for recording in recordings:
            recording.note(self, (dict(self.position), self.values, ()), outer is not None)
        return self.position

    def opened(self, life: Life) -> None:
        self.suspended.discard(life)
        self.open.append(life)

    def keep(self, life: Life, position: dict[Cell, Any]) -> None:
        # Otherwise the stream stands where a later use of it stands.
        if self.open == [life]:
            self.position.update(position)
        elif self.latest() is life:
            self.position.update(position)
            outer = self.latest(life)
            for cell, state in position.items():
                if outer is not None and outer.found is not None and cell in outer.found:
                    set_current(outer, cell, state)

    def closed(self, life: Life) -> None:
        if life in self.open:
            self.open.remove(life)

    def has_suspended(self, life: Life) -> None:
        # Until it is entered again, which is also how a body ends that is closed or dropped.
        self.suspended.add(life)

    def use_of(self, code: CodeType) -> Life | None:
        """Return the use that ends when this code leaves a block."""
        if len(self.open) == 1 and self.open[0].found is not None:
            return self.open[0]
        uses = [use for use in reversed(self.open) if use.found is not None]
        me = get_ident()
        mine = [use for use in uses if use.thread == me]
        # A block is left by the code that entered it, an ExitStack's by another.
        for use in [use for use in mine if use.origin is code] or mine or uses:
            return use
        return None


def move_to(plan: StreamPlan, place: Place) -> Place:
    """Have a stream stand elsewhere, and return where it stood."""
    with lock:
        before = plan.position, plan.values, plan.open
        plan.position, plan.values, plan.open = dict(place[0]), place[1], list(place[2])
    return before


def stands(use: Life) -> dict[Cell, Any]:
    """Return where the stream of an open use stands."""
    settle_all()
    return position_of(use)
