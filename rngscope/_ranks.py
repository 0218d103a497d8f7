"""Which rank this process is, and of how many; torch is asked only if it is imported."""

from __future__ import annotations

import os
import sys

from rngscope._seeds import derive_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex


def is_initialized() -> bool:
    """Tell whether ``torch.distributed`` has its default group."""
    distributed: Any = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def own_rank() -> int:
    """Return the rank of this process, 0 for a process on its own."""
    if is_initialized():
        return int(sys.modules["torch.distributed"].get_rank())
    text = os.environ.get("RANK", "0")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the environment variable RANK must be a number, not {text!r}")
    return int(text)


def world_size() -> int:
    """Return the number of ranks, 1 for a process on its own."""
    if is_initialized():
        return int(sys.modules["torch.distributed"].get_world_size())
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isascii() and text.isdigit() else 1


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
