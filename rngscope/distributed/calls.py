"""Calls that all ranks of a group make together, and that send bytes."""

from __future__ import annotations

import sys
from contextlib import contextmanager

from rngscope._ranks import is_initialized
from rngscope.distributed.differences import DIGEST, cut, listed
from rngscope.sources import SOURCES
from rngscope.sources.torch import tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Call:
    """A call that every rank of a group must make.

    Args:
        name: that of the public function.
        group: the process group; None for all ranks.

    Raises:
        RuntimeError, ValueError: as ``ranks_of``.
    """

    def __init__(self, name: str, group: Any) -> None:
        self.name = name
        self.group = group
        self.ranks = ranks_of(group)
        self.rank = int(_library().get_rank())
        self.device = _device_of(group)

    @contextmanager
    def explained(self, timeout: float | None = None) -> Iterator[None]:
        """Say in a clear error that a rank is missing.

        Raises:
            RuntimeError: the collective failed.
        """
        try:
            yield
        except RuntimeError as error:
            within = "the group's time-out" if timeout is None else f"{timeout:g} s"
            raise RuntimeError(
                f"{self.name} on rank {self.rank}: not all of {listed(self.ranks)} called it "
                f"within {within}, or one was lost; each of them must call it. This process "
                f"group cannot be used any more: end the job, or destroy the group and make a "
                f"new one"
            ) from error

    def gather_all(self, data: bytes, timeout: float | None = None) -> list[bytes]:
        """Return the bytes of every rank, as many from each."""
        # Imported here because importing rngscope.distributed should cost little.
        from datetime import timedelta

        # The name goes along, and all calls send as much: where ranks meet in different ones,
        # they can say so.
        tag = self.name.encode()[:DIGEST].ljust(DIGEST)
        mine = _as_tensor((tag + data).ljust((2 + len(SOURCES)) * DIGEST), self.device)
        rows = rows_of(len(self.ranks), len(mine), self.device)
        with self.explained(timeout):
            work = _library().all_gather(list(rows), mine, group=self.group, async_op=True)
            if timeout is None or self.device != "cpu":
                work.wait()
            else:
                work.wait(timedelta(seconds=timeout))
            received = bytes_of(rows)
        elsewhere = [rank for rank, item in zip(self.ranks, received) if not item.startswith(tag)]
        if elsewhere:
            raise RuntimeError(
                f"{self.name} on rank {self.rank}: at the same time {listed(elsewhere)} called "
                f"something else; all ranks must make the same calls in the same order"
            )
        return [item[DIGEST : DIGEST + len(data)] for item in received]

    def gather(self, data: bytes) -> list[bytes] | None:
        """Return the bytes of every rank on the first one; None on the others."""
        lengths = [as_number(item) for item in self.gather_all(as_bytes(len(data)))]
        mine = _as_tensor(data.ljust(max(lengths), b"\0"), self.device)
        first = self.ranks[0]
        with self.explained():
            if self.rank != first:
                _library().gather(mine, dst=first, group=self.group)
                return None
            rows = rows_of(len(self.ranks), len(mine), self.device)
            _library().gather(mine, list(rows), dst=first, group=self.group)
            return [row[:length] for row, length in zip(bytes_of(rows), lengths)]

    def hand_out(self, texts: list[str]) -> tuple[int, str]:
        """Give each rank one of the texts that the first rank has.

        Returns:
            The number of texts, and this rank's if there is one for each rank.
        """
        rows = [text.encode() for text in texts]
        width = max(map(len, rows), default=0)
        first = self.ranks[0]
        header = self.broadcast(as_bytes(len(rows)) + as_bytes(width), 2 * DIGEST, first)
        count, width = map(as_number, cut(header))
        if count != len(self.ranks):
            return count, ""
        everyone = None
        if self.rank == first:
            # With spaces, which mean nothing in JSON.
            data = b"".join(row.ljust(width) for row in rows)
            everyone = list(_as_tensor(data, self.device).view(count, width))
        mine = rows_of(1, width, self.device)[0]
        with self.explained():
            _library().scatter(mine, everyone, src=first, group=self.group)
            return count, tensor_bytes(mine.cpu()).decode()

    def broadcast(self, data: bytes, length: int, src: int) -> bytes:
        """Return the bytes of one rank, whose length all know."""
        with self.explained():
            is_src = src == self.rank
            device = self.device
            tensor = _as_tensor(data, device) if is_src else rows_of(1, length, device)[0]
            _library().broadcast(tensor, src=src, group=self.group)
            return tensor_bytes(tensor.cpu())


def _library() -> Any:
    return sys.modules["torch.distributed"]


def ranks_of(group: Any) -> list[int]:
    """Return the ranks of a group, by their numbers in the whole job.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: this rank is not in the group.
    """
    if not is_initialized():
        raise RuntimeError(
            "torch.distributed has no process group yet; call "
            "torch.distributed.init_process_group() on every rank first"
        )
    torch_distributed = _library()
    if torch_distributed.get_rank(group) < 0:
        rank = torch_distributed.get_rank()
        raise ValueError(f"rank {rank} is not in this group; only its ranks may call")
    if group is None:
        # All of them. Not get_process_group_ranks(None), a KeyError up to torch 2.4.
        return list(range(torch_distributed.get_world_size()))
    return list(torch_distributed.get_process_group_ranks(group))


def _device_of(group: Any) -> str:
    """Return where the tensors of a group's collectives must be."""
    torch_distributed = _library()
    pairs = torch_distributed.get_backend_config(group).split(",")
    devices = [pair.partition(":")[0] for pair in pairs]
    return "cpu" if "cpu" in devices else devices[0]


def _as_tensor(data: bytes, device: str) -> Any:
    # Imported here because importing rngscope.distributed should cost little.
    import ctypes

    # Not torch.frombuffer, which a default device redirects.
    (tensor,) = rows_of(1, len(data), "cpu")
    ctypes.memmove(tensor.data_ptr(), data, len(data))
    return tensor.to(device)


def rows_of(count: int, width: int, device: str) -> Any:
    torch: Any = sys.modules["torch"]
    return torch.zeros((count, width), dtype=torch.uint8, device=device)


def bytes_of(rows: Any) -> list[bytes]:
    # In one piece: from an accelerator, each copy waits for it.
    data, width = tensor_bytes(rows.cpu()), rows.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def as_bytes(number: int) -> bytes:
    """Return a number as it is sent."""
    return number.to_bytes(DIGEST, "little")


def as_number(data: bytes) -> int:
    """Return a number that was sent."""
    return int.from_bytes(data, "little")
