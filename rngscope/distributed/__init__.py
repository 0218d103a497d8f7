"""The RNGs of many processes, over ``torch.distributed``.

One seed for each rank, a check that all ranks stand at the same point, a way to bring them
there, and checkpoints that keep the states of every rank. Nothing here imports torch.
"""

from rngscope._ranks import rank_seed
from rngscope.distributed.checkpoint import PerRank
from rngscope.distributed.in_sync import assert_in_sync, sync

__all__ = ["PerRank", "assert_in_sync", "rank_seed", "sync"]
