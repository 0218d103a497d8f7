"""Keep randomness inside a block.

Inside a scope every global random number generator is seeded; when the scope
ends, however it ends, every one of them is bit for bit what it was before.
"""

from rngscope._checkpoint import checkpoint_context_fn
from rngscope._same_draws import same_draws
from rngscope._scope import rng_scope, seed_all
from rngscope._seeded import seeded
from rngscope._seeds import derive_seed
from rngscope._state import RNGState
from rngscope._stream import RNGStream
from rngscope._threads import to_thread
from rngscope._unchanged import assert_rng_unchanged

__all__ = [
    "RNGState",
    "RNGStream",
    "assert_rng_unchanged",
    "checkpoint_context_fn",
    "derive_seed",
    "rng_scope",
    "same_draws",
    "seed_all",
    "seeded",
    "to_thread",
]
__version__ = "0.1.0"
