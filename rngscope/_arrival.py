"""What arrives while scopes are open: a library that is imported, an accelerator that starts.

While any scope is open and a library is still missing, a finder stands at the front of
``sys.meta_path``. It finds nothing by itself: it lets the others find, and has the loader call
back when the module has run, which is before the import statement returns.
"""

from __future__ import annotations

import sys
import warnings
from sys import getrecursionlimit, setrecursionlimit

from rngscope import _details
from rngscope._interrupts import MORE_FRAMES
from rngscope._order import lives, lock, run_deferred
from rngscope._plan import Plan
from rngscope._present import LIBRARIES
from rngscope.sources.start import settle, waiting_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from rngscope._life import Life
    from rngscope.sources.cell import Cell, Source

#: Libraries that no scope has seen yet.
pending = set(LIBRARIES)
is_watching = False


def watch() -> None:
    """Take up each pending library, now if it is there, else when it arrives."""
    global is_watching
    for library in tuple(pending):
        _look_for(library)
    if pending and not is_watching:
        is_watching = True
        sys.meta_path.insert(0, FINDER)


def stop_watching() -> None:
    """Take the finder out again."""
    global is_watching
    # An import that is interrupted at its very end leaves no module, although its RNGs were seen.
    there = sys.modules or LIBRARIES
    pending.update([library for library in LIBRARIES if library not in there])
    # None at the end of the interpreter.
    if FINDER in (sys.meta_path or ()):
        # A new list: another thread may be on its way through this one, and would pass over
        # a finder if those behind it moved up.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not FINDER]
    is_watching = False


def _look_for(library: str) -> None:
    if LIBRARIES[library]():
        # Only then is it seen: what interrupts this leaves it pending.
        take_up(library)
        pending.discard(library)


class _Finder:
    """A finder that only listens."""

    #: So that two finders of this kind do not ask each other for ever.
    is_asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in LIBRARIES or self.is_asking:
            return None
        self.is_asking = True
        try:
            return self._ask_the_others(name, path, target)
        finally:
            self.is_asking = False

    def _ask_the_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in tuple(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(name, path, target)
            if spec is not None:
                _listen(spec.loader, name)
                return spec
        return None


def _listen(loader: Any, library: str) -> None:
    """Have the loader tell when it has run the library.

    On the loader object itself, and only until then: a loader of our own would stay visible
    as the module's ``__loader__``.
    """
    run = getattr(loader, "exec_module", None)
    if run is None:
        # A namespace package, which is not the library.
        return

    def run_and_tell(module: ModuleType) -> None:
        run(module)
        if module.__name__ == library:
            loader.__dict__.pop("exec_module", None)
            # The import system says so itself only after this, and we are asked before.
            setattr(module.__spec__, _details.IS_BEING_IMPORTED.attribute, False)
            _look_for(library)

    try:
        loader.exec_module = run_and_tell
    except AttributeError:
        # A loader that takes none: then the next entry of a scope finds the library.
        pass


FINDER = _Finder()


def take_in(life: Life, source: Source) -> None:
    """Cover one more source while a scope is open, as if it had been there at entry."""
    plan = life.plan
    sources = (*plan.sources, source)
    life.plan = Plan(sources, plan.seed, plan.independent, plan.values, plan.exclusive)
    for cell in source.cells():
        _take_up_cell(life, cell)


def take_up(library: str) -> None:
    """Enter, for every open scope from the outermost on, the cells of a new library."""
    limit = getrecursionlimit()
    # Where it could not be set back below, it fails here.
    setrecursionlimit(limit)
    with lock:
        try:
            setrecursionlimit(limit + MORE_FRAMES)
            for life in lives:
                for source in life.plan.sources:
                    _take_up_source(life, source, library)
        finally:
            setrecursionlimit(limit)
    run_deferred()


def _take_up_source(life: Life, source: Source, library: str) -> None:
    if source.module != library or life.found is None:
        return
    try:
        for cell in source.cells():
            _take_up_cell(life, cell)
    except Exception as error:
        # To raise here would break the program's import.
        message = f"{source.name} could not be seeded when it appeared: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _take_up_cell(life: Life, cell: Cell) -> None:
    found = life.found
    if found is None or cell in found:
        return
    state = cell.getstate()
    try:
        found[cell] = state
        life.plan.begin((cell,))
    except BaseException:
        # Otherwise it would count as taken up.
        found.pop(cell, None)
        cell.setstate(state)
        raise


def settle_all() -> None:
    """Put devices in the place of accelerators that have started since, in every open scope."""
    for cell in tuple(waiting_cells):
        module = cell.source.backend.module()
        if module is None or module.is_initialized():
            for life in lives:
                if life.found is not None and cell in life.found:
                    settle(life.found)
            waiting_cells.discard(cell)
