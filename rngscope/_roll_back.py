"""Put RNGs back in spite of errors: at a scope's end, and where a change for good fails."""

from __future__ import annotations

from sys import getrecursionlimit, setrecursionlimit

from rngscope._errors import raise_besides
from rngscope._interrupts import MORE_FRAMES
from rngscope._order import lock, run_deferred
from rngscope.sources.start import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rngscope.sources.cell import Cell


def put_back(
    found: list[tuple[Cell, Any]], set_one: Callable[[Cell, Any], None]
) -> list[BaseException]:
    """Set cells in spite of errors; return these.

    An error may come from a cell or, as an interrupt, from anywhere between two instructions. So
    each cell is set once more, which changes nothing where it was done before, and a second time
    if that fails.
    """
    errors: list[BaseException] = []
    index, first = 0, None
    while index < len(found):
        try:
            for cell, state in found[index:]:
                set_one(cell, state)
                if first is not None and not isinstance(first, Exception):
                    # The second time it worked: that was an interrupt.
                    errors.append(first)
                index, first = index + 1, None
        except BaseException as failure:
            if first is None:
                first = failure
            else:
                errors.append(failure)
                index, first = index + 1, None
    return errors


def change_together(changes: list[tuple[Cell, Callable[[], None]]]) -> None:
    """Change cells for good; if one change fails, none is made.

    What waits for a start cannot be put back without a mark, but it cannot fail either. So that is
    last, and if it is interrupted, it is done again.
    """
    waiting = [change for cell, change in changes if isinstance(cell, Waiting)]
    others = [(cell, change) for cell, change in changes if not isinstance(cell, Waiting)]
    with lock:
        found = [(cell, cell.getstate()) for cell, _ in others]
        is_done = False
        try:
            for _, change in others:
                change()
            is_done = True
            for change in waiting:
                change()
        except BaseException as error:
            limit = getrecursionlimit()
            try:
                setrecursionlimit(limit + MORE_FRAMES)
                errors: list[BaseException] = []
                if is_done:
                    for change in waiting:
                        change()
                else:
                    errors = put_back(found, lambda cell, state: cell.setstate(state))
            finally:
                setrecursionlimit(limit)
            raise_besides(error, errors, "several errors while RNGs were put back")
            raise
    run_deferred()
