"""``same_draws``: several blocks that draw the same numbers, and a program that goes on."""

from __future__ import annotations

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses, find_frame, warn_caller
from rngscope._graphs import keep_out_of_graphs
from rngscope._interrupts import no_signal_at_start
from rngscope._life import Life
from rngscope._not_covered import warn_at_end
from rngscope._order import current_state, lives
from rngscope._plan import Plan
from rngscope._scope import life_of, life_with, rng_scope
from rngscope._state import gathered
from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.start import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from rngscope._plan import Listed
    from rngscope._state import RNGState
    from rngscope.sources.cell import Cell, Source


class same_draws(metaclass=NeedsParentheses):
    """Have several blocks draw the same numbers: an image and its mask, two views of a sample.

    The first block draws from the program's own RNGs, which go on from its end. Each later
    block of the same object repeats its numbers, however many it takes of them, and leaves no
    trace. So the program goes on as if the first block were the only one, and the next
    ``same_draws()`` gets new numbers.

    An exception in the first block changes nothing of that: later blocks repeat it from its
    beginning. Sources that are not there during the first block are preserved in the others.

    Args:
        sources, devices, generators: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: as ``rng_scope``.
        RuntimeError: at entry, if a block of this object is open already, or if CUDA is covered
            while a graph is captured.

    Warns:
        RuntimeWarning: an accelerator started inside the first block, so that the others do
            not repeat what it drew there.

    Example:
        >>> import random
        >>> random.seed(42)
        >>> with same_draws() as pair:
        ...     random.random()
        0.6394267984578837
        >>> with pair:
        ...     random.random()
        0.6394267984578837
        >>> random.random()
        0.025010755222666936
    """

    __slots__ = ("_template", "_first", "_open")
    _as_block = "same_draws()"

    def __init__(
        self,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
    ) -> None:
        self._template = rng_scope(sources=sources, devices=devices, generators=generators)
        #: The block that the others repeat, from its entry on.
        self._first: _FirstPlan | _CopiedBlock | None = None
        self._open: Life | None = None

    def __enter__(self) -> Self:
        if self._open is not None and self._open.found is not None:
            raise RuntimeError("a block of this same_draws() is open already; make another one")
        first = self._first
        if first is None or first.found is None:
            self._first = plan = _FirstPlan(life_of(self._template).plan.sources)
            block: Life = _FirstBlock(plan)
        else:
            block = life_with(self._template, first.state(), None)
        self._open = block
        block.enter(find_frame(1))
        return self

    @no_signal_at_start
    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        block = self._open
        if block is None:
            raise RuntimeError("cannot leave a block of same_draws() that was not entered")
        block.leave(kind, error, traceback)

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(__exit__)

    def __getstate__(self) -> tuple[dict[str, Any], rng_scope, RNGState | None]:
        block, first = self._open, self._first
        if block is not None and (block.is_open_or_suspended):
            raise RuntimeError(
                "cannot copy or pickle a same_draws() while a block of it is open or suspended: "
                "leave the block first"
            )
        state = None if first is None or first.found is None else first.state()
        return added_attributes(self, same_draws.__slots__), self._template, state

    def __setstate__(self, state: tuple[dict[str, Any], rng_scope, RNGState | None]) -> None:
        attributes, self._template, repeated = state
        self._open = None
        self._first = None if repeated is None else _CopiedBlock(repeated)
        add_attributes(self, attributes)

    def __repr__(self) -> str:
        names = ", ".join(source.name for source in life_of(self._template).plan.sources)
        return f"<same_draws over {names}>"


class _CopiedBlock:
    """What a copy knows of the first block of its original: the state in which that began."""

    __slots__ = ("found",)

    def __init__(self, state: RNGState) -> None:
        self.found = state

    def state(self) -> RNGState:
        return self.found


class _FirstPlan(Plan):
    """A plan whose scope keeps what it finds and puts nothing back.

    It is a scope at all so that a library which is imported inside is found as it begins. An
    accelerator that starts inside begins with what is queued for it, and its queue is not ours
    to keep: of those, only what has started counts.
    """

    __slots__ = ("asked_for", "found", "accelerators", "has_begun")

    def __init__(self, sources: tuple[Source, ...]) -> None:
        rest = tuple([s for s in sources if not isinstance(s, AcceleratorSource)])
        super().__init__(rest, None)
        self.is_simple = False
        self.asked_for = sources
        #: What each RNG held when the block began; None until it has ended.
        self.found: dict[Cell, Any] | None = None
        self.has_begun = False
        accelerators = [s for s in sources if isinstance(s, AcceleratorSource)]
        #: The same of each accelerator.
        self.accelerators = [(source, _devices_of(source)) for source in accelerators]

    def state(self) -> RNGState:
        """Return the state in which the block began."""
        states = dict(self.found or {})
        for _, devices in self.accelerators:
            states.update(devices)
        return gathered(self.asked_for, states)

    def opened(self, life: Life) -> None:
        self.has_begun = True

    def ends(self, life: Life) -> None:
        found = life.found
        if self.has_begun and found is not None and life in lives:
            if self.found is None:
                self.found = dict(found)
            # What is put back is where it is.
            for cell in found:
                found[cell] = current_state(life, cell)

    def warn_of_started(self) -> None:
        for source, devices in self.accelerators:
            if not devices and _devices_of(source):
                warn_caller(
                    f"{source.name} started inside the first block of same_draws(), so later "
                    f"blocks do not repeat what it drew there; start it before"
                )


def _devices_of(source: AcceleratorSource) -> dict[Cell, Any]:
    """Return the states of the started devices."""
    return {cell: cell.getstate() for cell in source.cells() if not isinstance(cell, Waiting)}


class _FirstBlock(Life):
    """The life of the block that the others repeat."""

    __slots__ = ()

    plan: _FirstPlan

    def leave(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Close, and leave every RNG where it is."""
        Life.leave(self, kind)
        self.plan.warn_of_started()
        if type(self.plan.asked_for) is not tuple:
            covered = tuple(self.plan.found or ())
            warn_at_end(self.plan.asked_for, covered, kind)  # type: ignore[arg-type]

    no_signal_at_start(leave)
    keep_out_of_graphs(leave)
