"""What a cell can do, and what a source of cells can.

A cell is one RNG: a library's global one, one started device, one object of the user, one switch,
one accelerator that waits for its start. Its verbs are those of ``random.Random``. A source is what
``sources=`` names: the cells that come with one library. Nothing here imports or starts anything.
"""

from __future__ import annotations

from rngscope._seeds import derived_seed
from rngscope.sources.presence import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class SeededStates(dict[int, "Any"]):
    """The states that follow from the seeds in use: to set one is cheaper than to seed.

    A seed is kept when it comes again soon after its first use, so that seeds used once, or once
    in an epoch, cost nothing. Bounded; the oldest goes first.
    """

    __slots__ = ("are_kept", "recent")
    LIMIT = 64

    def __init__(self, are_kept: bool = True) -> None:
        super().__init__()
        #: Whether there may be any: false for what must be seeded each time.
        self.are_kept = are_kept
        #: Seeds without a state here that were used recently.
        self.recent: set[int] = set()

    def keep(self, seed: int, state: Any) -> None:
        if len(self) >= self.LIMIT:
            del self[next(iter(self))]
        self[seed] = state


class Cell:
    """One RNG. Its states are opaque: only the cell itself looks into them."""

    #: What brings it.
    source: Source
    #: Under ``independent`` it gets ``derive_seed(seed, *path)``.
    path: tuple[str | int, ...]
    #: It begins in every scope, even in one that seeds nothing: a switch.
    applies_always = False
    #: A forked child keeps the state that it finds, although the stream of a scope goes on.
    not_restored_in_child = False
    #: Seed -> state, where setting a state is cheaper than seeding.
    seeded_states = SeededStates(are_kept=False)

    def getstate(self) -> Any:
        """Return what ``setstate`` needs to undo whatever comes after."""
        raise NotImplementedError

    def setstate(self, state: Any) -> None:
        """Put back what ``getstate`` returned, or continue from it. Idempotent."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Seed as the library itself would.

        Args:
            seed: integer in ``[0, 2**64)``.
        """
        raise NotImplementedError

    def swap(self, found: dict[Cell, Any], state: Any) -> None:
        """Keep the present state in ``found``, and set another; overridden for speed alone.

        Kept before anything changes, so that an interrupt in between loses nothing.
        """
        found[self] = self.getstate()
        self.setstate(state)

    def seed_independently(self, seed: int) -> None:
        """Seed with a seed of its own, which follows from ``seed`` and ``path``."""
        seed_cells((self,), derived_seed(seed, self.path))

    def read_position(self) -> Any:
        """Return where the RNG stands, for a body to go on from there."""
        return self.getstate()

    def position_from(self, found: Any) -> Any:
        """Return what a scope above has found, for a body below it to go on from there."""
        return found

    def hand_over(self, state: Any, above: list[dict[Cell, Any]]) -> Any:
        """Return what the next scope above keeps when it is handed ``state``.

        Args:
            state: what the leaving scope has found.
            above: what those above it have found, the next one first.
        """
        return state

    def seeded_state(self, seed: int) -> Any:
        """Return the state that ``seed`` leads to; the RNG itself is not touched.

        Asked only of cells with ``seeded_states``. Made on an object of its own, because other
        threads may draw from the global one meanwhile.
        """
        raise NotImplementedError


def seed_cells(cells: Iterable[Cell], seed: int) -> None:
    """Seed cells with one seed, where it was used recently by setting the state it leads to."""
    for cell in cells:
        states = cell.seeded_states
        state = states.get(seed)
        if state is None and states.are_kept:
            recent = states.recent
            if seed in recent:
                state = cell.seeded_state(seed)
                states.keep(seed, state)
            else:
                if len(recent) >= states.LIMIT:
                    recent.clear()
                recent.add(seed)
        if state is None:
            cell.seed(seed)
        else:
            cell.setstate(state)


class Source:
    """What ``sources=`` names: the RNGs that come with one library."""

    name: str
    #: The name that it has in every process, whatever the program calls it.
    kind: str
    #: The module whose import brings them; empty for objects of the user.
    module: str
    #: It begins in every scope, even in one that seeds nothing: a switch.
    applies_always = False

    def __reduce__(self) -> tuple[Any, ...]:
        # What a source keeps is of this process: the addresses of states, the locks of libraries.
        return source_named, (self.kind,)

    def cells(self) -> tuple[Cell, ...]:
        """Return the RNGs that are there now."""
        raise NotImplementedError

    def gather(self, states: dict[Cell, Any]) -> Any:
        """Return the states of its cells as one value, for use elsewhere; None if there is none."""
        raise NotImplementedError

    def state_in(self, value: Any, cell: Cell) -> Any:
        """Return what a gathered or loaded value says of one of its cells; None for nothing."""
        return value

    def check(self, value: Any) -> None:
        """Refuse a value that no cell here can continue from with a ``ValueError``."""

    def dump(self, value: Any) -> dict[str, Any]:
        """Return a gathered value serialized: str, int, float, None, list, dict."""
        raise NotImplementedError

    def load(self, fields: Any) -> Any:
        """Return the value that ``dump`` was given, after checking every field."""
        raise NotImplementedError


def source_named(kind: str) -> Source:
    """Return this process's source, of which every process has one.

    Raises:
        ValueError: there is none, in a copy that another version of rngscope wrote.
    """
    # Not at the top: the list imports the sources.
    from rngscope.sources import DETERMINISM, SOURCES

    for source in (*SOURCES, DETERMINISM):
        if source.kind == kind:
            return source
    raise ValueError(
        f"the copy is over {kind!r}, a source that this version of rngscope does not have"
    )


class OneCell(Source, Cell):
    """A source that is an RNG itself."""

    def is_present(self) -> bool:
        """Tell whether its library is imported, and can run it."""
        return not self.module or imported(self.module) is not None

    def cells(self) -> tuple[Cell, ...]:
        return (self,) if self.is_present() else ()

    def gather(self, states: dict[Cell, Any]) -> Any:
        return self.portable(states[self]) if self in states else None

    def portable(self, state: Any) -> Any:
        """Return a state for use elsewhere, without objects of this process."""
        return state

    @property
    def source(self) -> Source:  # type: ignore[override]
        return self
