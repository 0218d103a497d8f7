"""Imports during a run: each module runs in a stream of its own, and is blamed for its draws.

So what a module draws at its import does not depend on who imports it first, and moves
nothing. Python's own loaders and pytest's are made to call back, on their classes: a finder
in ``sys.meta_path`` would come between pytest and its rewriting of assertions.
"""

from __future__ import annotations

import importlib
import os
import sys
from _thread import get_ident
from fnmatch import fnmatch
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path

import _pytest
import pluggy

from rngscope import _details
from rngscope._errors import find_frame
from rngscope._seeds import derive_seed
from rngscope.pytest_plugin.names import path_name
from rngscope.pytest_plugin.seeding import Stretch, stream_over_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, ModuleType
    from typing import Any

    from rngscope.pytest_plugin.run import Run

#: What hears of imports now; the last one, where a test runs pytest in its own process.
_listening: list[Imports] = []
#: Loader classes that call back -> what their ``exec_module`` was.
_changed: dict[type, Any] = {}

#: The import system leaves out of tracebacks what it calls through this.
_call: Any = _details.find(
    _details.IMPORT_CALL, default=lambda function, *args: function(*args)
)
_OF_IMPORTLIB = ("<frozen importlib", importlib.__file__)
_OF_PYTEST = (os.path.dirname(_pytest.__file__), os.path.dirname(pluggy.__file__))


class Imports:
    """The imports of one run, in the thread that runs the tests.

    Those of other threads are left alone: a stream holds for the whole process, and the
    test would draw from it meanwhile.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.thread = get_ident()
        #: The modules that run now.
        self.modules: list[ModuleType] = []
        #: While streams change and states are looked at, which may import something.
        self.is_deaf = False
        self.test_files = ["conftest.py"]
        # With -p no:python there is no such option.
        if run.config.pluginmanager.has_plugin("python"):
            self.test_files += run.config.getini("python_files")

    def start(self) -> None:
        """Hear of each import from now on."""
        # It imports something itself, once.
        derive_seed(0)
        _listening.append(self)
        for kind in _loader_kinds():
            if kind not in _changed:
                _changed[kind] = vars(kind)["exec_module"]
                kind.exec_module = _ExecModule(_changed[kind])  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Hear of no import any more."""
        _listening.remove(self)
        if not _listening:
            for kind, exec_module in _changed.items():
                # Somebody else may have put something of theirs on top.
                if isinstance(vars(kind)["exec_module"], _ExecModule):
                    kind.exec_module = exec_module  # type: ignore[attr-defined]
            _changed.clear()

    def wants(self, module: ModuleType) -> bool:
        """Tell whether this import is to be heard of."""
        if get_ident() != self.thread or self.is_deaf:
            return False
        # A loader that calls that of its base class would run it twice.
        return not any(module is other for other in self.modules)

    def run_module(self, exec_module: Callable[[Any, ModuleType], None], loader: Any) -> None:
        """Run the last of the modules."""
        __tracebackhide__ = True
        module = self.modules[-1]
        stretch = self.stretch_of(module)
        if stretch is None:
            exec_module(loader, module)
        else:
            stretch.begin("")
            try:
                exec_module(loader, module)
            finally:
                if self.run.watch is not None or stretch.own_scopes():
                    # Only where something is to be told, or may be.
                    stretch.owner = stretch.part = f"import of {self.place_of(module)}"
                stretch.end(is_last=True)
        self.run.take_in_generators(module.__name__)

    def stretch_of(self, module: ModuleType) -> Stretch | None:
        """Return what a module runs in; None for the same as what is around it."""
        run = self.run
        around = run.running[-1] if run.running else None
        if run.seed is None:
            if run.watch is None:
                return None
            return Stretch(run, "", part_of=around and (around.part_of or around))
        stretch = Stretch(run, "")
        seed = derive_seed(run.seed, "import", self.name_of(module))
        stretch.add(stream_over_all(seed, module))
        # In a scope that the test itself has opened, it moves nothing of the test's.
        stretch.is_watched = around is None or around.is_watched and not around.own_scopes()
        return stretch

    def name_of(self, module: ModuleType) -> str:
        """Return the name of a module; of what pytest loads by its path, that path.

        For there the name may depend on the folder that pytest starts in, and all conftest
        files may have the same.
        """
        path = getattr(module, "__file__", None)
        if path and any(fnmatch(os.path.basename(path), one) for one in self.test_files):
            return path_name(Path(path))
        return module.__name__

    def place_of(self, module: ModuleType) -> str:
        """Return the name of a module with the line that imports it, or its path."""
        for frame in _frames_outside():
            path = frame.f_code.co_filename
            if path.startswith(_OF_PYTEST):
                return self.shown(getattr(module, "__file__", None) or module.__name__)
            return f"{module.__name__!r} at {self.shown(path)}:{frame.f_lineno}"
        return repr(module.__name__)

    def shown(self, path: str) -> str:
        """Return a path as node ids have it."""
        root = str(self.run.config.rootpath) + os.sep
        return path.removeprefix(root).replace(os.sep, "/")


class _ExecModule:
    """The ``exec_module`` of a class of loaders, with a call back."""

    def __init__(self, exec_module: Any) -> None:
        self.exec_module = exec_module

    def __get__(self, loader: Any, kind: type) -> Any:
        if loader is None:
            return self.exec_module
        return partial(_call, _run_module, self.exec_module, loader)


def _run_module(
    exec_module: Callable[[Any, ModuleType], None], loader: Any, module: ModuleType
) -> None:
    __tracebackhide__ = True
    imports = _listening[-1] if _listening else None
    if imports is None or not imports.wants(module):
        exec_module(loader, module)
        return
    imports.modules.append(module)
    try:
        imports.run_module(exec_module, loader)
    finally:
        imports.modules.remove(module)


def _loader_kinds() -> Iterator[type]:
    """Yield the classes whose ``exec_module`` runs the source of a module."""
    loaders: list[type] = [SourceFileLoader]
    loaders += [type(finder) for finder in sys.meta_path if not isinstance(finder, type)]
    for loader in loaders:
        for kind in loader.__mro__:
            if "exec_module" in vars(kind):
                yield kind
                break


def _frames_outside() -> Iterator[FrameType]:
    """Yield the frames that asked for this import, without those of the import system."""
    frame: Any = find_frame(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and not path.startswith(_OF_IMPORTLIB):
            yield frame
        frame = frame.f_back
