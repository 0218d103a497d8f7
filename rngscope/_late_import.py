"""Notice a library that is imported while scopes are open.

While any scope is open and a library is still missing, a finder stands at the front of
``sys.meta_path``. It finds nothing by itself: it lets the others find, and has the loader
call back when the module has run, which is before the import statement returns.
"""

from __future__ import annotations

import sys

from rngscope import _details
from rngscope._sources import LIBRARIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

#: Libraries that no scope has seen yet.
pending = set(LIBRARIES)
is_watching = False

_when_it_appears: Callable[[str], None] = lambda library: None


def watch(when_it_appears: Callable[[str], None]) -> None:
    """Call back, once, for each pending library that is there now or when it appears."""
    global is_watching, _when_it_appears
    _when_it_appears = when_it_appears
    for library in tuple(pending):
        _look_for(library)
    if pending and not is_watching:
        sys.meta_path.insert(0, _FINDER)
        is_watching = True


def stop_watching() -> None:
    """Take the finder out again."""
    global is_watching
    # None at the end of the interpreter.
    if _FINDER in (sys.meta_path or ()):
        # A new list: another thread may be on its way through this one, and would pass over
        # a finder if those behind it moved up.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _FINDER]
    is_watching = False


def _look_for(library: str) -> None:
    if library in pending and LIBRARIES[library]() is not None:
        pending.discard(library)
        _when_it_appears(library)


class _Finder:
    """A finder that only listens."""

    #: So that two finders of this kind do not ask each other for ever.
    is_asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in pending or self.is_asking:
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


_FINDER = _Finder()
