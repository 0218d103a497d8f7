"""What is there: the cells of the sources whose libraries the program has imported."""

from __future__ import annotations

import sys

from rngscope.sources import SOURCES
from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.backends import PRIVATE
from rngscope.sources.cell import OneCell
from rngscope.sources.torch import core_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rngscope.sources.cell import Cell, Source


#: Module that a source waits for -> what tells whether it has brought its RNG.
LIBRARIES = {source.module: source.is_present for source in SOURCES if isinstance(source, OneCell)}


class _Kept:
    """What was there at the last look, and what makes it old.

    That is another length of torch's namespaces, or one of the libraries that were missing.
    """

    __slots__ = ("names", "length", "more_names", "more_length", "missing", "cells", "of_all")

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.more_names: dict[str, Any] = {}
        #: Nothing has this length.
        self.length = self.more_length = -1
        self.missing: tuple[str, ...] = ()
        #: Sources -> the cells that stay, and the accelerators whose cells may change.
        self.cells: dict[tuple[Source, ...], tuple[tuple[Cell, ...], tuple[Source, ...]]] = {}
        #: The same for all sources, which is asked for most often.
        self.of_all: tuple[tuple[Cell, ...], tuple[Source, ...]] | None = None


_kept = _Kept()


def cells_of(sources: tuple[Source, ...]) -> Sequence[Cell]:
    """Return the cells of these sources that are there now.

    Every entry of a scope asks, so the answer is kept. In a forked child it may hold accelerators
    that cannot be used there.
    """
    kept = _kept
    if len(kept.names) != kept.length or len(kept.more_names) != kept.more_length:
        kept = _look()
    else:
        for library in kept.missing:
            if library in sys.modules:
                kept = _look()
    found = kept.of_all if sources is SOURCES else kept.cells.get(sources)
    cells, accelerators = found or _find(kept, sources)
    if not accelerators:
        return cells
    return [*[cell for source in accelerators for cell in source.cells()], *cells]


def _look() -> _Kept:
    """Look at every library, and keep what was found if it will last."""
    global _kept
    kept = _Kept()
    missing = tuple(library for library in LIBRARIES if library not in sys.modules)
    # What is just being imported becomes present without a sign.
    if all(is_present() for name, is_present in LIBRARIES.items() if name not in missing):
        if "torch" not in missing:
            torch = sys.modules["torch"]
            kept.names, kept.more_names = torch.__dict__, core_names(torch)
        kept.missing = missing
        # Where torch's core is not to be found, what comes into it gives no sign.
        if kept.more_names or "torch" in missing:
            kept.length, kept.more_length = len(kept.names), len(kept.more_names)
    _kept = kept
    return kept


def _find(
    kept: _Kept, sources: tuple[Source, ...]
) -> tuple[tuple[Cell, ...], tuple[AcceleratorSource, ...]]:
    """Return the cells that stay, and the accelerators whose cells may change."""
    built = tuple([s for s in sources if isinstance(s, AcceleratorSource) and s.backend.is_built()])
    rest = [source for source in sources if not isinstance(source, AcceleratorSource)]
    found = tuple([cell for source in rest for cell in source.cells()]), built
    # A private backend that is registered may get its functions later, without a sign.
    unfinished = [s for s in sources if s.kind == PRIVATE and s.name in kept.names]
    # Sources over devices or objects of the user come with one scope only.
    if all(s in built for s in unfinished) and all(source in SOURCES for source in sources):
        kept.cells[sources] = found
        if sources is SOURCES:
            kept.of_all = found
    return found
