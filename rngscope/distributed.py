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
from rngscope._sources import SOURCES, AcceleratorSource, choose
from rngscope._state import RNGState, fingerprint_of, replay_together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol, SupportsIndex

    class Stateful(Protocol):
        """What ``torch.distributed.checkpoint`` asks for; an ``RNGStream`` is one."""

        def state_dict(self) -> dict[str, Any]: ...

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


__all__ = ["PerRank", "assert_in_sync", "rank_seed", "sync"]

#: Bytes of a fingerprint; all zero for a source that is not there.
_DIGEST = 8
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
    *, sources: Iterable[str] | None = None, group: Any = None, timeout: float = 60.0
) -> None:
    """Check that the RNGs of all ranks are in the same states. Every rank must call it.

    A source that only some ranks have loaded or started is a difference too. Of an
    accelerator each rank's current device is compared. The RNGs do not move.

    It is one ``all_gather`` of 8 bytes for each kind of source (64 bytes a rank).

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
    mine = b"".join(_digests(_capture(chosen)).values())
    with _explained("assert_in_sync", ranks, timeout):
        theirs = _gather_all(mine, group, timeout)
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

    It is one ``all_gather`` of 72 bytes a rank and, unless all agree already, one
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
    captured = _capture(chosen)
    digests = _digests(captured)
    error: TypeError | None = None
    payload = b""
    if src == _own_global_rank():
        try:
            payload = json.dumps(_state_of(captured).state_dict()).encode()
        except TypeError as refusal:
            # Said after the gathering, so that no other rank waits in vain.
            error = refusal
    with _explained("sync", ranks, None):
        length = len(payload).to_bytes(_DIGEST, "little")
        theirs = _gather_all(length + b"".join(digests.values()), group, None)
    lengths = [int.from_bytes(item[:_DIGEST], "little") for item in theirs]
    length_of_src = lengths[ranks.index(src)]
    theirs = [item[_DIGEST:] for item in theirs]
    absent = _differences([_presence(item) for item in theirs], ranks, _say_presence)
    if absent:
        raise ValueError(
            "the ranks have not the same sources, so they cannot be in sync:\n"
            + "\n".join(absent)
            + "\nimport the same libraries on every rank, and start the accelerators"
        )
    if not length_of_src:
        raise error or TypeError(f"rank {src} uses a bit generator that is not NumPy's own")
    if all(item == theirs[0] for item in theirs):
        return
    with _explained("sync", ranks, None):
        payload = _broadcast(payload, length_of_src, src, group)
    if src == _own_global_rank():
        return
    state = RNGState.from_state_dict(json.loads(payload))
    pairs = []
    for source in chosen:
        if digests[source.name].strip(b"\0"):
            pairs.append((source, _here(source, state._sources[source.name])))
    replay_together(pairs)


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

        Every rank must call it. It is one ``all_gather`` of 8 bytes a rank and one ``gather``
        of some 20 kB a rank.
        """
        stateful = self._stateful
        own = RNGState.capture().state_dict() if stateful is None else stateful.state_dict()
        text = json.dumps(own)
        if not _is_initialized():
            return {"ranks": json.dumps([text])}
        ranks = _ranks_of(self._group)
        with _explained("PerRank.state_dict", ranks, None):
            texts = _gather(text.encode(), self._group)
        return {} if texts is None else {"ranks": json.dumps([item.decode() for item in texts])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand every rank its own state again. Every rank must call it.

        It is one ``broadcast`` of 8 bytes and one of the states of all ranks.

        Raises:
            ValueError: the checkpoint is one of another number of ranks; every rank gets the
                same error, and nothing has been touched. Or a state is damaged.
        """
        text = state_dict.get("ranks", "")
        if not isinstance(text, str):
            raise ValueError(f"ranks must be a str, not {type(text).__name__}")
        rank, count = 0, 1
        if _is_initialized():
            ranks = _ranks_of(self._group)
            rank, count = ranks.index(_own_global_rank()), len(ranks)
            with _explained("PerRank.load_state_dict", ranks, None):
                payload = text.encode()
                header = _broadcast(len(payload).to_bytes(_DIGEST, "little"), _DIGEST, ranks[0], self._group)
                length = int.from_bytes(header, "little")
                text = _broadcast(payload, length, ranks[0], self._group).decode()
        try:
            texts = json.loads(text)
        except ValueError as error:
            raise ValueError(f"ranks must be a JSON list of the states of all ranks: {error}") from None
        if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
            raise ValueError("ranks must be a JSON list of the states of all ranks")
        if len(texts) != count:
            raise ValueError(
                f"the checkpoint holds the RNG states of {len(texts)} rank(s), and this job has "
                f"{count}; leave PerRank out of what is loaded and derive the seeds anew, for "
                f"example with seed_all(rank_seed(seed, 'resumed', step))"
            )
        own = json.loads(texts[rank])
        if self._stateful is None:
            RNGState.from_state_dict(own).restore()
        else:
            self._stateful.load_state_dict(own)


# What is compared and copied ----------------------------------------------------------------


def _on_current_device(sources: Iterable[Any]) -> list[Any]:
    """Return the sources, accelerators limited to the current device."""
    return [s.limited_to((None,)) if isinstance(s, AcceleratorSource) else s for s in sources]


def _capture(sources: Iterable[Any]) -> dict[str, Any]:
    """Return the states of the sources that are there, None for the others, by name."""
    captured = dict.fromkeys([source.name for source in SOURCES])
    captured.update({source.name: source.capture() for source in sources})
    return captured


def _digests(captured: dict[str, Any]) -> dict[str, bytes]:
    """Return a fingerprint for every kind of source, in the order of ``SOURCES``."""
    digests = {}
    for source in SOURCES:
        state = captured[source.name]
        if state is None:
            digests[source.name] = bytes(_DIGEST)
            continue
        if isinstance(source, AcceleratorSource):
            # Of one device, whose number may be another one on another rank.
            state = _numbered(state, 0, 1)
        digests[source.name] = bytes.fromhex(fingerprint_of(source, state))
    return digests


def _state_of(captured: dict[str, Any]) -> RNGState:
    states = {}
    for source in SOURCES:
        state = captured[source.name]
        if state is not None:
            is_accelerator = isinstance(source, AcceleratorSource)
            states[source.name] = _numbered(state, 0, 1) if is_accelerator else state
    return RNGState._made_of(states, ())


def _here(source: Any, state: Any) -> Any:
    """Return a state for this rank's current device."""
    if not isinstance(source, AcceleratorSource):
        return state
    own = source.capture()
    (index,) = own
    return _numbered(state, index, own.count)


def _numbered(state: Any, index: int, count: int) -> Any:
    """Return the state of a single device under another number."""
    (tensor,) = state.values()
    return type(state)({index: tensor}, count)


# What is said ---------------------------------------------------------------------------------


def _differences(
    theirs: list[bytes], ranks: list[int], say: Any = None
) -> list[str]:
    """Return a line for each source in which ranks differ; the same on every rank."""
    lines = []
    for place, source in enumerate(SOURCES):
        by_digest: dict[bytes, list[int]] = {}
        for rank, item in zip(ranks, theirs):
            digest = item[place * _DIGEST : (place + 1) * _DIGEST]
            by_digest.setdefault(digest, []).append(rank)
        if len(by_digest) > 1:
            # The largest party first: those that differ from it stand behind.
            parties = sorted(by_digest.items(), key=lambda party: (-len(party[1]), party[1]))
            texts = [
                f"{(say or _say_digest)(digest)} on {_listed(members)}"
                for digest, members in parties[:_LISTED]
            ]
            if len(parties) > _LISTED:
                texts.append(f"{len(parties) - _LISTED} more")
            lines.append(f"  {source.name}: {'; '.join(texts)}")
    return lines


def _presence(digests: bytes) -> bytes:
    places = range(0, len(digests), _DIGEST)
    return b"".join(
        bytes([any(digests[i : i + _DIGEST])]) * _DIGEST for i in places
    )


def _say_presence(digest: bytes) -> str:
    return "there" if any(digest) else "not there"


def _say_digest(digest: bytes) -> str:
    return digest.hex() if any(digest) else "not there"


def _listed(ranks: list[int]) -> str:
    """Return ranks as text, with runs as ranges."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:_LISTED]]
    if len(runs) > _LISTED:
        texts.append("...")
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(texts)}"


@contextmanager
def _explained(name: str, ranks: list[int], timeout: float | None) -> Iterator[None]:
    """Say in a clear error that a rank is missing.

    Raises:
        RuntimeError: the collective failed.
    """
    try:
        yield
    except RuntimeError as error:
        within = "the group's time-out" if timeout is None else f"{timeout} s"
        raise RuntimeError(
            f"{name}: not every one of the {len(ranks)} ranks ({_listed(ranks)}) came within "
            f"{within}, or one was lost; this is rank {_own_global_rank()}. Each of them must "
            f"call it. This process group cannot be used any more: end the job, or destroy the "
            f"group and make a new one"
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
        raise ValueError(f"rank {_own_global_rank()} is not in this group; only its ranks call")
    return list(torch_distributed.get_process_group_ranks(group))


def _device_of(group: Any) -> str:
    """Return where the tensors of a group's collectives must be."""
    torch_distributed = sys.modules["torch.distributed"]
    pairs = torch_distributed.get_backend_config(group).split(",")
    devices = [pair.partition(":")[0] for pair in pairs]
    return "cpu" if "cpu" in devices else devices[0]


def _as_tensor(data: bytes, device: str) -> Any:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)


def _empty(length: int, device: str) -> Any:
    import torch

    return torch.empty(length, dtype=torch.uint8, device=device)


def _as_bytes(tensor: Any) -> bytes:
    return bytes(tensor.cpu().numpy().tobytes())


def _gather_all(data: bytes, group: Any, timeout: float | None) -> list[bytes]:
    """Return the bytes of every rank, as many from each."""
    from datetime import timedelta

    import torch.distributed

    device = _device_of(group)
    everyone = [_empty(len(data), device) for _ in range(torch.distributed.get_world_size(group))]
    mine = _as_tensor(data, device)
    work = torch.distributed.all_gather(everyone, mine, group=group, async_op=True)
    if timeout is None or device != "cpu":
        work.wait()
    else:
        work.wait(timedelta(seconds=timeout))
    return [_as_bytes(tensor) for tensor in everyone]


def _gather(data: bytes, group: Any) -> list[bytes] | None:
    """Return the bytes of every rank on the first one; None on the others."""
    import torch.distributed

    lengths = [
        int.from_bytes(item, "little")
        for item in _gather_all(len(data).to_bytes(_DIGEST, "little"), group, None)
    ]
    device = _device_of(group)
    first = torch.distributed.get_process_group_ranks(group)[0]
    is_first = _own_global_rank() == first
    everyone = [_empty(max(lengths), device) for _ in lengths] if is_first else None
    mine = _as_tensor(data.ljust(max(lengths), b"\0"), device)
    torch.distributed.gather(mine, everyone, dst=first, group=group)
    if everyone is None:
        return None
    return [_as_bytes(tensor)[:length] for tensor, length in zip(everyone, lengths)]


def _broadcast(data: bytes, length: int, src: int, group: Any) -> bytes:
    """Return the bytes of one rank, whose length all know."""
    import torch.distributed

    device = _device_of(group)
    is_src = src == _own_global_rank()
    tensor = _as_tensor(data, device) if is_src else _empty(length, device)
    torch.distributed.broadcast(tensor, src=src, group=group)
    return _as_bytes(tensor)
