"""torch's queue for the start of an accelerator: a list of calls, then the latest seeds.

The seeds are kept by a tracker: when the accelerator starts, they run after all the calls.
"""

from __future__ import annotations

import warnings
from _thread import allocate_lock
from operator import attrgetter

from rngscope import _details
from rngscope._errors import warn_caller
from rngscope._interrupts import TimedLock
from rngscope.sources.drivers import why_it_cannot_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rngscope.sources.backends import Backend

_SEEDS = (_details.QUEUE_SEEDS_FOR_ALL, _details.QUEUE_SEEDS, _details.QUEUE_SEEDS_ORDER)
_ROWS = (_details.QUEUE, *_SEEDS, _details.GENERATORS)

#: Asks a module for all that is needed.
_whole_queue = attrgetter(*[row.name for row in _ROWS])
# What follows may be asked of a module for which has_queue() has found it.
#: Return the list of calls: pairs of a call and a stack.
queue_of = attrgetter(_details.QUEUE.name)
#: Return the list of the latest seeds in their order, as such pairs or None.
latest_seeds = attrgetter(_details.QUEUE_SEEDS_ORDER.name)
#: Return all that torch keeps of them: that for all devices, that for the current one, the list.
all_of_latest_seeds = attrgetter(*[row.name for row in _SEEDS])
_tracker_of = attrgetter(_details.QUEUE_SEEDS.name.partition(".")[0])

#: Accelerators that were found to have one.
_with_queue: set[str] = set()
#: Accelerators whose lack of a queue was warned of.
_warned: set[str] = set()


def has_queue(backend: Backend) -> bool:
    """Tell whether all is there that seeds and states need to wait for the start."""
    if backend.name in _with_queue:
        return True
    try:
        _whole_queue(backend.module())
        _with_queue.add(backend.name)
        return True
    except AttributeError:
        for row in _ROWS:
            _details.find(row.on(backend.name))
        return False


def do_now_or_queue(
    backend: Backend, queue: Callable[[Any], Any], do: Callable[[Any], Any]
) -> Any:
    """Call ``do`` with the module of an accelerator that has started, else ``queue``.

    Returns:
        What it returns; None where there is no queue, and in a forked child, which may have
        inherited that the accelerator is there.
    """
    module = backend.module()
    if module is None:
        return None
    if not backend.is_started(module):
        with TimedLock(_start_lock(module, backend.name)):
            if not module.is_initialized():
                return queue(module) if has_queue(backend) else None
    return do(module)


def _start_lock(module: Any, name: str) -> Any:
    """Return torch's lock for the start of an accelerator, or one in its place."""
    lock = getattr(module, _details.START_LOCK.name, None)
    if lock is None:
        _details.find(_details.START_LOCK.on(name))
        lock = allocate_lock()
    return lock


def set_latest_seeds(module: Any, seeds: tuple[Any, Any, list[Any]]) -> None:
    """Put back what ``all_of_latest_seeds`` returned."""
    tracker = _tracker_of(module)
    tracker.manual_seed_all_cb, tracker.manual_seed_cb, tracker.call_order = seeds


def drop_latest_seeds(module: Any) -> None:
    """Take the latest seeds out. The list itself stays as it is: a point may keep it."""
    set_latest_seeds(module, (None, None, []))


def is_about_rngs(call: Any) -> bool:
    """Tell whether a call that torch has queued seeds, or sets a state."""
    function = getattr(call, "__qualname__", "").partition(".")[0]
    package = (getattr(call, "__module__", "") or "").removesuffix(".random")
    return (
        function in _details.RNG_FUNCTIONS
        and package.startswith("torch.")
        and package.count(".") == 1
    )


def warn_at_start(message: str) -> None:
    """Warn, but do not raise under ``-W error``: the start of an accelerator must not break."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        pass


# Where there is none ---------------------------------------------------------------------------


def _warn(name: str, what: str) -> None:
    """Say once what an accelerator without a queue was spared."""
    if name not in _warned:
        _warned.add(name)
        warn_caller(f"{name} {what}: {_no_queue(name)}")


def _no_queue(name: str) -> str:
    """Say what is missing, and what to do."""
    gone = {row.path for row in _details.missing()}
    paths = [row.on(name).path for row in _ROWS]
    # None is known to be gone where torch.<name> was set without torch._register_device_module.
    path = next((path for path in paths if path in gone), paths[0])
    return (
        f"this torch has no {path}, without which no seed or state can wait for the start; "
        f"start {name} first: torch.{name}.init()"
    )


def warn_if_started(backend: Backend) -> None:
    """Say that an accelerator which was left out of a scope has started inside it."""
    module = backend.module()
    if module is not None and backend.is_started(module):
        _warn(
            backend.name,
            "was started inside an RNG scope, which has neither seeded it nor put it back",
        )


def warn_if_out_of_reach(backend: Backend) -> None:
    """Say that a change for good does not reach an accelerator."""
    if _has_not_started(backend) and not has_queue(backend):
        _warn(backend.name, "has not started and is not seeded")


def refuse_impossible_start(backend: Backend) -> None:
    """Refuse to leave a state for a start that cannot be, if that can be known yet.

    Raises:
        ValueError: saying what is missing.
    """
    if not _has_not_started(backend):
        return
    name = backend.name
    if not has_queue(backend):
        raise ValueError(f"{name} has not started, and {_no_queue(name)}")
    reason = why_it_cannot_start(name)
    if reason is not None:
        raise ValueError(
            f"the state holds {name!r}, which cannot start in this process: {reason}; leave it "
            f"out with restore(strict=False)"
        )


def _has_not_started(backend: Backend) -> bool:
    module = backend.module()
    return module is not None and not backend.is_started(module)
