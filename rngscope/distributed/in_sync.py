"""Whether all ranks are at the same point, and how to bring them there."""

from __future__ import annotations

import json

from rngscope._plan import choose
from rngscope._seeds import short_repr
from rngscope._state import RNGState, capture_from, replay_together, state_of, values_of
from rngscope.distributed.calls import Call, as_bytes, as_number
from rngscope.distributed.differences import DIGEST, differences, digests_of, listed, presence
from rngscope.sources import SOURCES
from rngscope.sources.accelerators import AcceleratorSource, DeviceStates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    from rngscope._plan import Listed


def assert_in_sync(
    *, sources: Listed[str] | None = None, group: Any = None, timeout: float = 60.0
) -> None:
    """Check that the RNGs of all ranks are in the same states. Every rank must call it.

    A source that only some ranks have loaded or started is a difference too. Of an
    accelerator each rank's current device is compared. The RNGs do not move.

    It is one ``all_gather`` of 80 bytes a rank.

    Args:
        sources: as in ``rng_scope``; the same on every rank.
        group: the process group; default all ranks.
        timeout: seconds to wait for the other ranks, where the group runs on the CPU (gloo).
            Groups on accelerators (NCCL) wait as long as their own time-out says.

    Raises:
        AssertionError: the states differ. Every rank gets the same message, which lists the
            ranks by fingerprint for each source that differs.
        RuntimeError: there is no process group, or a rank did not come in time or was lost.
            After that the group cannot be used any more: end the job, or destroy the group
            and make a new one.
        ValueError: an argument is wrong; this rank is not in the group.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {short_repr(timeout)}")
    chosen = _on_current_device(choose(sources, None))
    call = Call("assert_in_sync", group)
    theirs = call.gather_all(digests_of(_capture(chosen)), timeout)
    lines = differences(theirs, call.ranks)
    if lines:
        raise AssertionError(
            "the RNGs of the ranks are not in sync:\n"
            + "\n".join(lines)
            + "\nrngscope.distributed.sync() gives every rank the states of one"
        )


def sync(*, src: int = 0, group: Any = None) -> None:
    """Give every rank the RNG states of one. Every rank must call it.

    Of an accelerator each rank's current device gets the state of ``src``'s current device.
    On all ranks the same sources must be loaded and started; if not, every rank
    gets the same error, before anything is touched.

    It is one ``all_gather`` of 80 bytes a rank and, unless all agree already, one
    ``broadcast`` of some 20 kB.

    Args:
        src: the rank whose states count, in the whole job, as in
            ``torch.distributed.broadcast``.
        group: the process group; default all ranks.

    Raises:
        ValueError: ``src`` is not in the group, or the ranks do not have the same sources.
        TypeError: on every rank, the NumPy bit generator of ``src`` is not NumPy's own.
        RuntimeError: there is no process group, or a rank was lost or did not come within
            the group's own time-out. After that the group cannot be used any more: end the
            job, or destroy the group and make a new one.
    """
    call = Call("sync", group)
    if src not in call.ranks:
        ranks = listed(call.ranks)
        raise ValueError(f"src must be a rank of the group, {ranks}, not {short_repr(src)}")
    chosen = _on_current_device(SOURCES)
    own = _capture(chosen)
    # Its refusal is raised after the gathering, so that no other rank waits in vain.
    payload, refusal = _serialized(own) if call.rank == src else (b"", None)
    theirs = call.gather_all(as_bytes(len(payload)) + digests_of(own))
    digests = [item[DIGEST:] for item in theirs]
    _check_presence(digests, call.ranks)
    size = as_number(theirs[call.ranks.index(src)][:DIGEST])
    if not size:
        raise refusal or TypeError(f"rank {src} uses a bit generator that is not NumPy's own")
    if len(set(digests)) > 1:
        payload = call.broadcast(payload, size, src)
        if call.rank != src:
            _replay(payload, chosen)


def _serialized(state: RNGState) -> tuple[bytes, TypeError | None]:
    try:
        return json.dumps(state.state_dict()).encode(), None
    except TypeError as refusal:
        return b"", refusal


def _check_presence(digests: list[bytes], ranks: list[int]) -> None:
    """Raise the same ``ValueError`` on every rank if they do not have the same sources."""
    absent = differences([presence(item) for item in digests], ranks)
    if absent:
        raise ValueError(
            "the ranks do not have the same sources:\n"
            + "\n".join(absent)
            + "\nimport the same libraries on every rank, and start the same accelerators"
        )


def _replay(payload: bytes, sources: list[Any]) -> None:
    values = values_of(RNGState.from_state_dict(json.loads(payload)))
    there = [source for source in sources if source.name in values]
    replay_together([(s, _here(s, values[s.name])) for s in there])


def _on_current_device(sources: Iterable[Any]) -> list[Any]:
    """Return the sources, accelerators limited to the current device."""
    return [s.limited_to((None,)) if isinstance(s, AcceleratorSource) else s for s in sources]


def _capture(sources: Collection[Any]) -> RNGState:
    """Return the state of the sources that are there.

    An accelerator's single device is number 0 of one: on another rank it has another number.
    """
    values = dict(values_of(capture_from(sources)))
    for name, states in values.items():
        if isinstance(states, DeviceStates):
            values[name] = DeviceStates(dict(enumerate(states.values())), 1)
    return state_of(values)


def _here(source: Any, state: Any) -> Any:
    """Return a state for this rank's current device."""
    if not isinstance(state, DeviceStates):
        return state
    own = source.gather({cell: cell.getstate() for cell in source.cells()})
    return DeviceStates(dict(zip(own, state.values())), own.count)
