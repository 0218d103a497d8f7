"""The RNGs of many processes, over ``torch.distributed``.

One seed for each rank, a check that all ranks stand at the same point, a way to bring them
there, and checkpoints that keep the states of every rank. Nothing here imports torch before
it is called.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager

from rngscope._seeds import derive_seed
from rngscope._sources import SOURCES, choose
from rngscope._sources.torch_accelerator import AcceleratorSource, CapturedStates
from rngscope._sources.torch_cpu import tensor_bytes
from rngscope._state import RNGState, replay_together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any, Protocol, SupportsIndex

    from rngscope._sources import Listed

    class Stateful(Protocol):
        """What ``torch.distributed.checkpoint`` asks for; an ``RNGStream`` is one."""

        def state_dict(self) -> dict[str, Any]: ...

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


__all__ = ["PerRank", "assert_in_sync", "rank_seed", "sync"]

#: Bytes of a fingerprint; all zero for a source that is not there.
_DIGEST = 8
#: Stands for any fingerprint where only presence counts.
_PRESENT = b"\1" * _DIGEST
#: How many fingerprints an error lists for a source, and ranges of ranks for a fingerprint.
_LISTED = 8


def rank_seed(seed: SupportsIndex, *path: str | SupportsIndex) -> int:
    """Derive a seed that is this rank's own.

    It depends on the rank alone, not on the number of ranks: in a world that grows, the
    ranks that were there keep their seeds. The rank is that of ``torch.distributed`` if its
    default group is initialised, else the environment variable ``RANK``, which ``torchrun``
    sets, else 0.

    Args:
        seed: integer in ``[0, 2**64)``, the same on every rank.
        path: any mix of str and int, as in ``derive_seed``.

    Returns:
        ``derive_seed(seed, "rank", rank, *path)``.

    Raises:
        TypeError, ValueError: as ``derive_seed``; ``RANK`` is no number.

    Example:
        >>> rank_seed(42, "dropout") == derive_seed(42, "rank", 0, "dropout")
        True
    """
    return derive_seed(seed, "rank", own_rank(), *path)


def own_rank() -> int:
    """Return the rank of this process, 0 for a process on its own."""
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is not None and torch_distributed.is_available():
        if torch_distributed.is_initialized():
            return int(torch_distributed.get_rank())
    text = os.environ.get("RANK", "0")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the environment variable RANK must be a number, not {text!r}")
    return int(text)


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
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    chosen = _on_current_device(choose(sources, None))
    ranks = _ranks_of(group)
    mine = _digests_of(_capture(chosen))
    theirs = _gather_all("assert_in_sync", mine, ranks, group, timeout)
    differences = _differences(theirs, ranks)
    if differences:
        raise AssertionError(
            "the RNGs of the ranks are not in sync:\n"
            + "\n".join(differences)
            + "\nrngscope.distributed.sync() gives every rank the states of one"
        )


def sync(*, src: int = 0, group: Any = None) -> None:
    """Give every rank the RNG states of one. Every rank must call it.

    Of an accelerator each rank's current device gets the state of ``src``'s current device.
    On all ranks the same sources must be loaded and started; if they are not, every rank
    gets the same error, before anything is touched.

    It is one ``all_gather`` of 80 bytes a rank and, unless all agree already, one
    ``broadcast`` of some 20 kB.

    Args:
        src: the rank whose states count, in the whole job, as in
            ``torch.distributed.broadcast``.
        group: the process group; default all ranks.

    Raises:
        ValueError: ``src`` is not in the group, or the ranks have not the same sources.
        TypeError: on every rank, the NumPy bit generator of ``src`` is not NumPy's own.
        RuntimeError: there is no process group, or a rank was lost or did not come within
            the group's own time-out. After that the group cannot be used any more: end the
            job, or destroy the group and make a new one.
    """
    ranks = _ranks_of(group)
    if src not in ranks:
        raise ValueError(f"src must be a rank of the group, {_listed(ranks)}, not {src!r}")
    chosen = _on_current_device(SOURCES)
    own = _capture(chosen)
    is_src = src == _own_global_rank()
    error: TypeError | None = None
    payload = b""
    if is_src:
        try:
            payload = json.dumps(own.state_dict()).encode()
        except TypeError as refusal:
            # Said after the gathering, so that no other rank waits in vain.
            error = refusal
    length = len(payload).to_bytes(_DIGEST, "little")
    theirs = _gather_all("sync", length + _digests_of(own), ranks, group)
    digests = [item[_DIGEST:] for item in theirs]
    absent = _differences([_presence(item) for item in digests], ranks)
    if absent:
        raise ValueError(
            "the ranks do not have the same sources:\n"
            + "\n".join(absent)
            + "\nimport the same libraries on every rank, and start the same accelerators"
        )
    size = _number(theirs[ranks.index(src)][:_DIGEST])
    if not size:
        raise error or TypeError(f"rank {src} uses a bit generator that is not NumPy's own")
    if len(set(digests)) == 1:
        return
    with _explained("sync", ranks):
        payload = _broadcast(payload, size, src, group)
    if not is_src:
        state = RNGState.from_state_dict(json.loads(payload))
        there = [source for source in chosen if source.name in state._sources]
        replay_together([(s, _here(s, state._sources[s.name])) for s in there])


class PerRank:
    """Keep the RNG states of every rank in a checkpoint of ``torch.distributed.checkpoint``.

    Such a checkpoint drops all but one of the values that have the same key on several
    ranks, so a stream put into it directly would come back as one rank's stream on all of
    them. This object gathers the states of all ranks on the first one, which writes them,
    and hands each rank its own again. Every rank must have it in its dict, under the same
    key.

    Args:
        stateful: an ``RNGStream``, or any other object with ``state_dict`` and
            ``load_state_dict`` whose dict ``json`` can hold; None for the global RNGs.
        group: the process group of the checkpoint; default all ranks. Without one there is
            a single rank.

    Raises:
        TypeError: ``stateful`` lacks one of the two methods.

    Example:
        >>> from rngscope import RNGStream
        >>> dropout = RNGStream(rank_seed(42, "dropout"))
        >>> state = {"rng": PerRank(), "dropout": PerRank(dropout)}

        ``torch.distributed.checkpoint.save(state, checkpoint_id=path)`` writes it, ``load``
        with the same arguments restores the global RNGs and the stream.
    """

    def __init__(self, stateful: Stateful | None = None, *, group: Any = None) -> None:
        for verb in () if stateful is None else ("state_dict", "load_state_dict"):
            if not callable(getattr(stateful, verb, None)):
                raise TypeError(
                    f"PerRank needs an object with state_dict and load_state_dict, such as an "
                    f"RNGStream, not {type(stateful).__name__}"
                )
        self._stateful = stateful
        self._group = group

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks on the first rank, nothing on the others.

        Every rank must call it. It is one ``all_gather`` of 80 bytes a rank and one
        ``gather`` of some 20 kB a rank.

        Raises:
            TypeError: a NumPy bit generator that is not NumPy's own.
            RuntimeError: as ``sync``.
        """
        stateful = self._stateful
        own = RNGState.capture().state_dict() if stateful is None else stateful.state_dict()
        text = json.dumps(own)
        if not _is_initialized():
            return {"ranks": json.dumps([text])}
        ranks = _ranks_of(self._group)
        texts = _gather("PerRank.state_dict", text.encode(), ranks, self._group)
        # As one text: lists and dicts would be cut into entries of their own.
        return {} if texts is None else {"ranks": json.dumps([item.decode() for item in texts])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand every rank its own state again. Every rank must call it.

        It is one ``broadcast`` of 16 bytes and one ``scatter`` of some 20 kB a rank.

        Raises:
            ValueError: the checkpoint is one of another number of ranks: every rank gets the
                same error, and nothing has been touched. A state is damaged.
            RuntimeError: as ``sync``.
        """
        texts = _parse(state_dict.get("ranks"))
        if not _is_initialized():
            count, here, own = len(texts), 1, texts[0] if texts else ""
        else:
            ranks = _ranks_of(self._group)
            here = len(ranks)
            count, own = _hand_out("PerRank.load_state_dict", texts, ranks, self._group)
        if not count:
            raise ValueError("ranks must be a JSON list of the states of all ranks")
        if count != here:
            raise ValueError(
                f"the checkpoint holds the RNG states of {count} rank(s), and this job has "
                f"{here}; leave PerRank out of what is loaded and derive the seeds anew, for "
                f"example with seed_all(rank_seed(seed, 'resumed', step))"
            )
        if self._stateful is None:
            RNGState.from_state_dict(json.loads(own)).restore()
        else:
            self._stateful.load_state_dict(json.loads(own))


def _parse(text: object) -> list[str]:
    """Return the states of all ranks; none if this is not what they were written as."""
    try:
        texts = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        texts = None
    return texts if isinstance(texts, list) and all(type(t) is str for t in texts) else []


# What is compared and copied ----------------------------------------------------------------


def _on_current_device(sources: Iterable[Any]) -> list[Any]:
    """Return the sources, accelerators limited to the current device."""
    return [s.limited_to((None,)) if isinstance(s, AcceleratorSource) else s for s in sources]


def _capture(sources: Collection[Any]) -> RNGState:
    """Return the state of the sources that are there.

    An accelerator's single device is number 0 of one: on another rank it has another number.
    """
    state = RNGState._captured(sources)
    for name, states in state._sources.items():
        if isinstance(states, CapturedStates):
            state._sources[name] = CapturedStates(dict(enumerate(states.values())), 1)
    return state


def _here(source: Any, state: Any) -> Any:
    """Return a state for this rank's current device."""
    if not isinstance(state, CapturedStates):
        return state
    own = source.capture()
    return CapturedStates(dict(zip(own, state.values())), own.count)


def _digests_of(state: RNGState) -> bytes:
    """Return a fingerprint for every kind of source, in the order of ``SOURCES``."""
    fingerprints = state.fingerprints()
    absent = "00" * _DIGEST
    return bytes.fromhex("".join(fingerprints.get(source.name, absent) for source in SOURCES))


def _presence(digests: bytes) -> bytes:
    """Return digests that say only whether a source is there."""
    return b"".join(_PRESENT if any(digest) else digest for digest in _cut(digests))


def _cut(data: bytes) -> list[bytes]:
    return [data[start : start + _DIGEST] for start in range(0, len(data), _DIGEST)]


# What is said ---------------------------------------------------------------------------------


def _differences(digests: list[bytes], ranks: list[int]) -> list[str]:
    """Return a line for each source in which ranks differ; the same on every rank."""
    lines: list[str] = []
    if len(set(digests)) == 1:
        return lines
    for source, column in zip(SOURCES, zip(*map(_cut, digests))):
        by_digest: dict[bytes, list[int]] = {}
        for rank, digest in zip(ranks, column):
            by_digest.setdefault(digest, []).append(rank)
        if len(by_digest) > 1:
            # The largest party first: those that differ from it stand behind.
            parties = sorted(by_digest.items(), key=lambda party: (-len(party[1]), party[1]))
            texts = [f"{_say(digest)} on {_listed(them)}" for digest, them in parties[:_LISTED]]
            if len(parties) > _LISTED:
                texts.append(f"{len(parties) - _LISTED} more on other ranks")
            lines.append(f"  {source.name}: {'; '.join(texts)}")
    return lines


def _say(digest: bytes) -> str:
    if digest == _PRESENT:
        return "there"
    return digest.hex() if any(digest) else "not there"


def _listed(ranks: list[int]) -> str:
    """Return ranks as text, with runs as ranges."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_LISTED]]
    if len(runs) > _LISTED:
        texts.append("...")
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(texts)}"


@contextmanager
def _explained(name: str, ranks: list[int], timeout: float | None = None) -> Iterator[None]:
    """Say in a clear error that a rank is missing.

    Raises:
        RuntimeError: the collective failed.
    """
    try:
        yield
    except RuntimeError as error:
        within = "the group's time-out" if timeout is None else f"{timeout:g} s"
        raise RuntimeError(
            f"{name} on rank {_own_global_rank()}: not all of {_listed(ranks)} called it within "
            f"{within}, or one was lost; each of them must call it. This process group cannot "
            f"be used any more: end the job, or destroy the group and make a new one"
        ) from error


# Collectives ------------------------------------------------------------------------------------


def _is_initialized() -> bool:
    torch_distributed = sys.modules.get("torch.distributed")
    return bool(
        torch_distributed is not None
        and torch_distributed.is_available()
        and torch_distributed.is_initialized()
    )


def _own_global_rank() -> int:
    return int(sys.modules["torch.distributed"].get_rank())


def _ranks_of(group: Any) -> list[int]:
    """Return the ranks of a group, by their numbers in the whole job.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: this rank is not in the group.
    """
    if not _is_initialized():
        raise RuntimeError(
            "torch.distributed has no process group yet; call "
            "torch.distributed.init_process_group() on every rank first"
        )
    torch_distributed = sys.modules["torch.distributed"]
    if torch_distributed.get_rank(group) < 0:
        raise ValueError(f"rank {_own_global_rank()} is not in this group; only its ranks may call")
    if group is None:
        # All of them. Not get_process_group_ranks(None), a KeyError up to torch 2.4.
        return list(range(torch_distributed.get_world_size()))
    return list(torch_distributed.get_process_group_ranks(group))


def _device_of(group: Any) -> str:
    """Return where the tensors of a group's collectives must be."""
    torch_distributed = sys.modules["torch.distributed"]
    pairs = torch_distributed.get_backend_config(group).split(",")
    devices = [pair.partition(":")[0] for pair in pairs]
    return "cpu" if "cpu" in devices else devices[0]


def _as_tensor(data: bytes, device: str) -> Any:
    import ctypes

    # Not torch.frombuffer, which a default device redirects.
    (tensor,) = _rows(1, len(data), "cpu")
    ctypes.memmove(tensor.data_ptr(), data, len(data))
    return tensor.to(device)


def _rows(count: int, width: int, device: str) -> Any:
    import torch

    return torch.zeros((count, width), dtype=torch.uint8, device=device)


def _bytes_of(rows: Any) -> list[bytes]:
    # In one piece: from an accelerator, each copy waits for it.
    data, width = tensor_bytes(rows.cpu()), rows.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _gather_all(
    name: str, data: bytes, ranks: list[int], group: Any, timeout: float | None = None
) -> list[bytes]:
    """Return the bytes of every rank, as many from each."""
    from datetime import timedelta

    import torch.distributed

    # The name goes along, and all calls send as much: where ranks meet in different ones, they
    # can say so.
    tag = name.encode()[:_DIGEST].ljust(_DIGEST)
    device = _device_of(group)
    mine = _as_tensor((tag + data).ljust((2 + len(SOURCES)) * _DIGEST), device)
    rows = _rows(len(ranks), len(mine), device)
    with _explained(name, ranks, timeout):
        work = torch.distributed.all_gather(list(rows), mine, group=group, async_op=True)
        if timeout is None or device != "cpu":
            work.wait()
        else:
            work.wait(timedelta(seconds=timeout))
        received = _bytes_of(rows)
    elsewhere = [rank for rank, item in zip(ranks, received) if not item.startswith(tag)]
    if elsewhere:
        raise RuntimeError(
            f"{name} on rank {_own_global_rank()}: at the same time {_listed(elsewhere)} called "
            f"something else; all ranks must make the same calls in the same order"
        )
    return [item[_DIGEST : _DIGEST + len(data)] for item in received]


def _gather(name: str, data: bytes, ranks: list[int], group: Any) -> list[bytes] | None:
    """Return the bytes of every rank on the first one; None on the others."""
    import torch.distributed

    length = len(data).to_bytes(_DIGEST, "little")
    lengths = [_number(item) for item in _gather_all(name, length, ranks, group)]
    device = _device_of(group)
    mine = _as_tensor(data.ljust(max(lengths), b"\0"), device)
    with _explained(name, ranks):
        if _own_global_rank() != ranks[0]:
            torch.distributed.gather(mine, dst=ranks[0], group=group)
            return None
        rows = _rows(len(ranks), len(mine), device)
        torch.distributed.gather(mine, list(rows), dst=ranks[0], group=group)
        return [row[:length] for row, length in zip(_bytes_of(rows), lengths)]


def _hand_out(name: str, texts: list[str], ranks: list[int], group: Any) -> tuple[int, str]:
    """Give each rank one of the texts that the first rank has.

    Returns:
        The number of texts, and this rank's if there is one for each rank.
    """
    import torch.distributed

    rows = [text.encode() for text in texts]
    width = max(map(len, rows), default=0)
    header = b"".join(number.to_bytes(_DIGEST, "little") for number in (len(rows), width))
    with _explained(name, ranks):
        header = _broadcast(header, 2 * _DIGEST, ranks[0], group)
    count, width = map(_number, _cut(header))
    if count != len(ranks):
        return count, ""
    device = _device_of(group)
    everyone = None
    if _own_global_rank() == ranks[0]:
        # With spaces, which mean nothing in JSON.
        data = b"".join(row.ljust(width) for row in rows)
        everyone = list(_as_tensor(data, device).view(count, width))
    mine = _rows(1, width, device)[0]
    with _explained(name, ranks):
        torch.distributed.scatter(mine, everyone, src=ranks[0], group=group)
        return count, tensor_bytes(mine.cpu()).decode()


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _broadcast(data: bytes, length: int, src: int, group: Any) -> bytes:
    """Return the bytes of one rank, whose length all know."""
    import torch.distributed

    device = _device_of(group)
    is_src = src == _own_global_rank()
    tensor = _as_tensor(data, device) if is_src else _rows(1, length, device)[0]
    torch.distributed.broadcast(tensor, src=src, group=group)
    return tensor_bytes(tensor.cpu())
