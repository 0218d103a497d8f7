"""``python -m rngscope run``: any program, as ``python`` would run it, inside a scope."""

from __future__ import annotations

import atexit
import builtins
import contextlib

# Loaded here already: at its end the program may have no file descriptor left to load them with.
import hashlib  # noqa: F401
import io
import json  # noqa: F401
import os
import pkgutil
import runpy  # noqa: F401 - what it holds is found by name
import sys
import types
from importlib.machinery import SourceFileLoader, SourcelessFileLoader

from rngscope import _details
from rngscope._hash_seed import hash_seed
from rngscope._life import LifeOfProcess
from rngscope._scope import rng_scope
from rngscope._state import RNGState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class CannotRun(Exception):
    """There is no such program; ``status`` is the exit status that ``python`` gives."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class _Program(rng_scope):
    """The scope around a program and all of its threads."""

    __slots__ = ()
    _life_type = LifeOfProcess


def run(
    program: str,
    arguments: list[str],
    *,
    is_module: bool,
    seed: int | None = None,
    independent: bool = False,
    deterministic: bool = False,
) -> None:
    """Run a program as ``__main__``; whatever it raises is for the interpreter to handle.

    The scope lasts until the program's threads have ended and its exit functions have run.
    Then one line on standard error tells the seed, the hash seed and all fingerprints.

    Raises:
        CannotRun: there is no such program.
    """
    load = _loader_of(program, is_module)
    if seed is None:
        # Of 32 bits: numpy.random.seed takes the same number.
        seed = int.from_bytes(os.urandom(4), "little")
        _tell(f"seed {seed}, picked by the operating system; run --seed {seed} repeats this run")
    # Registered before the program registers anything, so called last.
    hashes = hash_seed()
    how = f"{' independent' * independent} hash-seed {'random' if hashes is None else hashes}"
    atexit.register(_report, seed, how, os.getpid(), deterministic)
    scope = _Program(seed, independent=independent, deterministic=deterministic)
    scope.__enter__()
    sys.argv[:] = ["-m" if is_module else program, *arguments]
    try:
        _execute(*load(program))
    except CannotRun:
        scope.__exit__()
        atexit.unregister(_report)
        raise
    except BaseException:
        sys.excepthook = _without_our_frames(sys.excepthook)
        raise


def _loader_of(program: str, is_module: bool) -> Callable[[str], tuple[Any, dict[str, Any]]]:
    if is_module:
        return _load_module
    if pkgutil.get_importer(program) is not None:
        return _load_directory
    _check_readable(program)
    return _load_script


def _execute(code: Any, names: dict[str, Any]) -> None:
    """Run code as ``__main__``."""
    main = types.ModuleType("__main__")
    # Before Python 3.14 the interpreter gives every __main__ its annotations.
    has_annotations = "__annotations__" in vars(sys.modules["__main__"])
    names |= {"__annotations__": {}} if has_annotations else {}
    vars(main).update(names, __builtins__=builtins)
    # It stays there: what is pickled by name is looked up in it, even by late threads. The
    # second name is that of spawned processes. It is there only if something, a profiler for
    # instance, imported multiprocessing before the program does.
    for name in {"__main__", "__mp_main__"} & sys.modules.keys():
        sys.modules[name] = main
    exec(code, vars(main))


def _check_readable(path: str) -> None:
    try:
        with io.open_code(path):
            pass
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        raise CannotRun(f"can't open file {os.path.abspath(path)!r}: {reason}", 2) from None


def _load_script(path: str) -> tuple[Any, dict[str, Any]]:
    file = os.path.abspath(path)
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    loader: Any
    if file.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", file)
        code = loader.get_code("__main__")
    else:
        # Not loader.get_code(): it writes a .pyc file, which python does not do for a script.
        loader = SourceFileLoader("__main__", file)
        with io.open_code(file) as source:
            code = compile(source.read(), file, "exec", dont_inherit=True)
    names = {"__file__": file, "__loader__": loader, "__package__": None, "__spec__": None}
    return code, {**names, "__cached__": None}


def _load_directory(path: str) -> tuple[Any, dict[str, Any]]:
    """Load the ``__main__.py`` of a directory or a zip file."""
    where = os.path.abspath(path)
    if sys.flags.safe_path:
        sys.path.insert(0, where)
    else:
        sys.path[0] = where
    return _loaded(*_find_in_runpy(_details.RUN_DIRECTORY)(CannotRun))


def _load_module(name: str) -> tuple[Any, dict[str, Any]]:
    # Not importlib.util.find_spec: this gives python's own messages, and tells a module that
    # is missing from one that fails to import another.
    code, names = _loaded(*_find_in_runpy(_details.RUN_MODULE)(name, CannotRun))
    sys.argv[0] = names["__file__"]
    return code, names


def _find_in_runpy(row: _details.Detail) -> Any:
    """Return what the interpreter itself uses.

    Raises:
        CannotRun: it is not there.
    """
    found = _details.find(row)
    if found is None:
        raise CannotRun(f"{row.purpose} needs {row.path}, which this Python does not have")
    return found


def _loaded(_: str, spec: Any, code: Any) -> tuple[Any, dict[str, Any]]:
    return code, {
        "__file__": spec.origin,
        "__loader__": spec.loader,
        "__package__": spec.parent,
        "__spec__": spec,
        "__cached__": spec.cached,
    }


def _without_our_frames(show: Callable[..., Any]) -> Callable[..., Any]:
    """Return an ``excepthook`` that shows a traceback from the program's first frame on."""

    def show_program(kind: Any, error: BaseException, traceback: Any) -> None:
        theirs = frame = traceback
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == __file__:
                theirs = frame.tb_next
            frame = frame.tb_next
        show(kind, error.with_traceback(theirs), theirs)

    return show_program


def _report(seed: int, how: str, pid: int, deterministic: bool) -> None:
    if os.getpid() != pid:
        # A forked child that has not replaced its program comes here too.
        return
    with contextlib.suppress(Exception):
        # So that the line is the last one also where both streams go to one place.
        sys.stdout.flush()
    if deterministic and sys.modules.get("torch") is None:
        _tell("--deterministic changed nothing: the program did not import torch")
    try:
        state = RNGState.capture()
        parts = [f"{name}={digest}" for name, digest in state.fingerprints().items()]
    except Exception as error:
        # The program may have left no file descriptor to load numpy.random with, for example.
        _tell(f"seed {seed}{how}; the states at the end cannot be read: {error}")
    else:
        _tell(f"seed {seed}{how} {' '.join(parts)} all={state.fingerprint()}")


def _tell(line: str) -> None:
    # Not sys.stderr: the program may have put something else there.
    if sys.__stderr__ is not None:
        print(f"rngscope: {line}", file=sys.__stderr__, flush=True)
