"""``python -m rngscope``: is every source on this machine seeded and put back exactly?

The answer comes from the libraries' own public calls, never from what rngscope has saved: a
state that is saved wrong and restored as wrong shows.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import platform
import random
import sys
import timeit
from dataclasses import asdict, dataclass

from rngscope import __version__, _details
from rngscope._scope import rng_scope
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.cell import seed_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SEED = 2**32 - 5
ROUNDS = 6


class NotThere(Exception):
    """A source cannot be checked on this machine; the message says why. That is no failure."""


@dataclass
class Library:
    """What the user of a library calls, and nothing else."""

    version: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    seed: Callable[[int], Any]
    draw: Callable[[], Any]


@dataclass
class Finding:
    """What was found about one source."""

    source: str
    #: Why there is nothing to check, if so.
    not_there: str | None = None
    #: What went wrong in the check itself, if so.
    error: str | None = None
    library: str | None = None
    #: ``fast``: states are copied as memory. ``API``: by calls of the library.
    path: str | None = None
    state_bytes: int | None = None
    outer_state_is_exact: bool | None = None
    draws_are_as_seeded: bool | None = None
    save_us: float | None = None
    seed_us: float | None = None
    restore_us: float | None = None

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing speaks against this source."""
        found = (self.outer_state_is_exact, self.draws_are_as_seeded)
        return self.error is None and (self.not_there is not None or found == (True, True))


def self_check(*, as_json: bool = False, start_devices: bool = False) -> int:
    """Check every source and print what was found; return the exit status.

    Args:
        as_json: print it for a bug report.
        start_devices: start the accelerators that torch can start, to check them too.

    Returns:
        1 if anything is not exact, otherwise 0.
    """
    # Accelerators come last: torch is imported by then.
    sources = sorted(SOURCES, key=lambda source: isinstance(source, AcceleratorSource))
    libraries: dict[str, Library] = {}
    findings = [_look_at(source, libraries, start_devices) for source in sources]
    together = _check_together(list(libraries.values()))
    is_exact = together is None and all(finding.is_exact for finding in findings)
    missing = _look_for_details()
    head = {
        "rngscope": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
    }
    if as_json:
        rows = [asdict(finding) for finding in findings]
        found = {
            "sources": rows,
            "missing_details": {row.path: row.without for row in missing},
            "together": together or "exact",
            "exact": is_exact,
        }
        print(json.dumps({**head, **found}, indent=2))
    else:
        print(f"rngscope {head['rngscope']}, {head['python']}, {head['platform']}")
        for finding in findings:
            print(_line(finding))
        for row in missing:
            print(f"missing: {row.path} ({row.purpose}); without it: {row.without}")
        print(_verdict(findings, together))
    return 0 if is_exact else 1


def _look_for_details() -> list[_details.Detail]:
    """Return the private details of the installed libraries that are not there."""
    for module in ("asyncio", "runpy", "multiprocessing.context", "hypothesis.core"):
        # Whatever else is wrong with one of them is not to be found out here.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    waiting: list[Any] = [source for source in SOURCES if source.name in ("cuda", "xpu", "mtia")]
    _details.look_for_all([source.name for source in waiting if source.backend.is_built()])
    return _details.missing()


def _look_at(source: Any, libraries: dict[str, Library], start_devices: bool) -> Finding:
    finding = Finding(source.name)
    try:
        library = _open_library(source, start_devices)
        finding.library = library.version
        _check(source, library, finding)
        libraries[source.name] = library
    except NotThere as reason:
        finding.not_there = str(reason)
    except Exception as error:
        finding.error = f"{type(error).__name__}: {error}"
    return finding


def _compare(library: Library, sources: list[str] | None = None) -> tuple[bool, bool]:
    """Save, seed, draw and restore through a scope, and compare through the library.

    Returns:
        Whether the outer state came back, and whether the scope drew what the library draws.
    """
    came_back = drew_alike = True
    # Each round starts one draw further on, so that a cached second Gaussian is there in every
    # other one. Several, because a seed that is used again is set as a state.
    for _ in range(ROUNDS):
        library.draw()
        before = library.read()
        with rng_scope(SEED, sources=sources):
            drawn = library.draw()
        after = library.read()
        went_on = library.draw()
        library.write(before)
        came_back &= _plain(before) == _plain(after) and went_on == library.draw()
        library.seed(SEED)
        drew_alike &= drawn == library.draw()
        library.write(before)
    return came_back, drew_alike


def _check(source: Any, library: Library, finding: Finding) -> None:
    exact = _compare(library, [source.name])
    finding.outer_state_is_exact, finding.draws_are_as_seeded = exact
    # A tuple's first item is no part of the state itself: see the libraries below.
    finding.state_bytes = _size(library.read()[1:])
    cells = source.cells()
    states = [(cell, cell.getstate()) for cell in cells]
    parts = [part for _, state in states if isinstance(state, tuple) for part in state]
    finding.path = "fast" if any(isinstance(part, bytes) for part in parts) else "API"
    finding.save_us = _microseconds(lambda: [cell.getstate() for cell in cells])
    finding.seed_us = _microseconds(lambda: seed_cells(cells, SEED))
    finding.restore_us = _microseconds(lambda: [cell.setstate(state) for cell, state in states])


def _check_together(libraries: list[Library]) -> str | None:
    """Do the same for all sources in one scope; return what went wrong."""
    every = Library(
        version="",
        read=lambda: [library.read() for library in libraries],
        write=lambda states: [library.write(state) for library, state in zip(libraries, states)],
        seed=lambda seed: [library.seed(seed) for library in libraries],
        draw=lambda: [library.draw() for library in libraries],
    )
    try:
        came_back, drew_alike = _compare(every)
    except Exception as error:
        return f"a scope over all sources failed: {type(error).__name__}: {error}"
    if not came_back:
        return "a scope over all sources did not put the outer state back"
    return None if drew_alike else "a scope over all sources did not seed as the libraries do"


def _microseconds(act: Callable[[], Any]) -> float:
    return round(min(timeit.repeat(act, number=100, repeat=5)) * 1e4, 2)


def _plain(state: Any) -> Any:
    """Return a state as something that ``==`` compares bit by bit."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_plain(value) for value in state]
    return state.tolist() if hasattr(state, "tolist") else state


def _size(state: Any) -> int:
    """Return the bytes of a state: words and positions of four, Gaussians of eight."""
    if isinstance(state, (list, tuple, dict)):
        return sum(map(_size, state.values() if isinstance(state, dict) else state))
    if hasattr(state, "nbytes"):
        return int(state.nbytes)
    return {int: 4, float: 8}.get(type(state), 0)


# The libraries: states are tuples whose first item only helps to compare -------------------


def _open_library(source: Any, start_devices: bool) -> Library:
    if isinstance(source, AcceleratorSource):
        return _open_accelerator(source, start_devices)
    opener = {"python": _open_python, "numpy": _open_numpy, "torch": _open_torch}.get(source.name)
    return _open_by_verbs(source) if opener is None else opener()


def _open_by_verbs(source: Any) -> Library:
    """Check a source by its own verbs: that they fit each other, whatever the library draws."""
    module = _import(source.module)
    return Library(
        version=f"{source.module} {getattr(module, '__version__', '')}".strip(),
        read=lambda: (None, [cell.getstate() for cell in source.cells()]),
        write=lambda state: [c.setstate(s) for c, s in zip(source.cells(), state[1])],
        seed=lambda seed: seed_cells(source.cells(), seed),
        draw=lambda: [cell.getstate() for cell in source.cells()],
    )


def _open_python() -> Library:
    return Library(
        version=f"random of Python {platform.python_version()}",
        read=random.getstate,
        write=random.setstate,
        seed=random.seed,
        draw=lambda: [random.random(), random.getrandbits(64), random.gauss(0.0, 1.0)],
    )


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name == library:
            raise NotThere("not installed") from None
        raise


def _open_numpy() -> Library:
    numpy = _import("numpy")
    rng = importlib.import_module("numpy.random")
    return Library(
        version=f"NumPy {numpy.__version__}",
        # That it is the same object again is part of the promise.
        read=lambda: (id(rng.get_bit_generator()), rng.get_state(legacy=False)),
        write=lambda state: rng.set_state(state[1]),
        seed=rng.seed,
        draw=lambda: [rng.rand(), int(rng.randint(0, 2**31)), rng.standard_normal()],
    )


def _open_torch() -> Library:
    torch = _import("torch")
    return Library(
        version=f"torch {torch.__version__}",
        read=lambda: (torch.initial_seed(), torch.get_rng_state()),
        write=lambda state: torch.set_rng_state(state[1]),
        seed=torch.manual_seed,
        draw=lambda: [torch.rand(3).tolist(), torch.randn(1).item()],
    )


def _open_accelerator(source: AcceleratorSource, start_devices: bool) -> Library:
    torch = sys.modules.get("torch")
    if torch is None:
        raise NotThere("torch is not installed")
    name, module = source.name, source.backend.module()
    if module is None:
        raise NotThere("not in this build of torch")
    # MPS has a generator even before there is a device to draw on.
    if not source.backend.is_started(module) or name == "mps":
        if not start_devices:
            raise NotThere("not started; --start-devices starts it")
        try:
            getattr(module, "init", lambda: None)()
        except RuntimeError as error:
            raise NotThere(f"could not be started: {error}".partition("\n")[0]) from None
    count = len(source.backend.generators(module))
    # There is one MPS device, and the functions of torch.mps take no index.
    devices: list[tuple[int, ...]] = [()] if name == "mps" else [(i,) for i in range(count)]

    def write(state: Any) -> None:
        for device, part in zip(devices, state[1:]):
            module.set_rng_state(part, *device)

    def draw() -> Any:
        on = [f"{name}:{index}" for index in range(count)]
        return [[torch.rand(3, device=d).tolist(), torch.randn(3, device=d).tolist()] for d in on]

    return Library(
        version=f"torch {torch.__version__}, {count} device{'s' * (count != 1)}",
        read=lambda: (None, *[module.get_rng_state(*device) for device in devices]),
        write=write,
        seed=getattr(module, "manual_seed_all", None) or module.manual_seed,
        draw=draw,
    )


# What is printed --------------------------------------------------------------------------


def _line(finding: Finding) -> str:
    if finding.not_there is not None:
        return f"{finding.source}: {finding.not_there}"
    if finding.error is not None:
        return f"{finding.source}: FAILED: {finding.error}"
    state = "exact" if finding.outer_state_is_exact else "NOT EXACT"
    draws = "equal" if finding.draws_are_as_seeded else "NOT EQUAL"
    return (
        f"{finding.source}: {finding.library}; {finding.state_bytes} bytes of state; "
        f"outer state {state}; seeded draws {draws} to the library's own; "
        f"save {finding.save_us} us, seed {finding.seed_us} us, "
        f"restore {finding.restore_us} us ({finding.path} path)"
    )


def _verdict(findings: list[Finding], together: str | None) -> str:
    bad = [finding.source for finding in findings if not finding.is_exact]
    reasons = [", ".join(bad)] if bad else []
    if together is not None:
        reasons.append(together)
    if reasons:
        return f"verdict: NOT EXACT: {'; '.join(reasons)}"
    names = ", ".join(finding.source for finding in findings if finding.not_there is None)
    return f"verdict: exact: {names}"
