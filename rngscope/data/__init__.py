"""Reproducible data sets and workers, for ``torch.utils.data`` and for loaders like it.

``per_item`` makes each item's random numbers depend on the item and the epoch alone.
``views`` numbers the requests for the same item. ``seed_worker`` seeds what draws outside of
items.
"""

from rngscope.data.items import per_item
from rngscope.data.samplers import views
from rngscope.data.workers import seed_worker

__all__ = ["per_item", "seed_worker", "views"]
