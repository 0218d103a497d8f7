"""The private details of other libraries that the package leans on, one table per library.

Private is what a library's documentation does not promise: names with an underscore, memory
layouts, names that only its source shows. No other module spells one. Each row says what
happens without it: a missing detail costs speed or a feature that is named, never an exception
at the entry of a scope.

A row is looked for with ``find`` at its first use, when its library is there, and what comes
back is kept. ``missing`` lists what was looked for in this process and not found.
"""

from __future__ import annotations

from rngscope._lookup import Detail, find, missing, proved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Detail", "find", "missing", "proved"]


def look_for_all(accelerators: Iterable[str] = ()) -> None:
    """Look for what every version should have, if its library is imported.

    Args:
        accelerators: those of torch that this build has: ``cuda``, ``xpu``, ``mtia``.
    """
    for rows in alternatives():
        if len(rows) == 1 and (rows[0].versions or not rows[0].module):
            continue
        for accelerator in accelerators if "{}" in rows[0].path else ("",):
            find(*[row.on(accelerator) for row in rows])


def alternatives() -> list[list[Detail]]:
    """Return all rows; those that stand in for each other together, in order of preference."""
    groups: dict[tuple[str, str], list[Detail]] = {}
    for row in globals().values():
        if isinstance(row, Detail):
            groups.setdefault((row.library, row.purpose), []).append(row)
    return list(groups.values())


# CPython --------------------------------------------------------------------------------------

RANDOM_INSTANCE = Detail(
    "Python", "random", "_inst",
    "the generator whose methods random.random and its sisters are",
    "the functions of the module random do it: slower",
)
RANDOM_INSTANCE_OF_METHOD = RANDOM_INSTANCE.elsewhere("random", "seed.__self__")
RANDOM_GAUSS = Detail(
    "Python", "", "gauss_next",
    "found on a random.Random: the second half of a Gaussian pair",
    "getstate and setstate do it: slower",
)
RANDOM_LAYOUT = Detail(
    "Python", "", "the memory of random.Random",
    "to copy states as memory; proved on a scratch object",
    "getstate and setstate do it: slower",
)
RANDOM_BARE_SEED = Detail(
    "Python", "_random", "Random.seed",
    "to seed without a look at the type of the seed",
    "random.Random.seed does it: slower",
)
LOCK_IS_OWNED = Detail(
    "Python", "_thread", "RLock._is_owned",
    "whether this thread is in the middle of an entry or an exit, when a finalizer ends a scope",
    "a lock of our own counts: slower",
)
FRAME = Detail(
    "Python", "sys", "_getframe",
    "the line that opened a scope, and the line that a warning is about",
    "warnings name no line, and one code object cannot be told from another",
)
HAS_GIL = Detail(
    "Python", "sys", "_is_gil_enabled",
    "whether copying memory is safe from other threads",
    "no state is copied as memory: slower",
    "Python 3.13 on",
)
IS_BEING_IMPORTED = Detail(
    "Python", "random", "__spec__._initializing",
    "whether the import of a library is still running, in any module's __spec__",
    "a library counts as imported once its generators are there; do not open a scope while "
    "another thread imports torch",
)
RUNNING_LOOP = Detail(
    "Python", "asyncio.events", "_get_running_loop",
    "the task that opened a scope",
    "asyncio.get_running_loop does it: slower",
)
RUN_MODULE = Detail(
    "Python", "runpy", "_get_module_details",
    "python -m rngscope run -m",
    "python -m rngscope run -m is an error",
)
RUN_DIRECTORY = Detail(
    "Python", "runpy", "_get_main_module_details",
    "python -m rngscope run with a directory or a zip file",
    "python -m rngscope run with a directory or a zip file is an error",
)
SPAWNING = Detail(
    "Python", "multiprocessing.context", "get_spawning_popen",
    "whether a per_item is pickled for a worker, which shares its epoch, or for a copy",
    "the attempt to share the epoch tells",
)

IMPORT_CALL = Detail(
    "Python", "importlib._bootstrap", "_call_with_frames_removed",
    "to leave the pytest plugin out of the tracebacks of imports",
    "they show a frame of it",
)

# NumPy ----------------------------------------------------------------------------------------

NUMPY_INSTANCE = Detail(
    "NumPy", "numpy.random", "mtrand._rand",
    "the RandomState behind numpy.random.rand and its sisters, to copy its memory",
    "get_state and set_state do it: slower",
)
NUMPY_INSTANCE_OF_METHOD = NUMPY_INSTANCE.elsewhere("numpy.random", "get_state.__self__")
NUMPY_LAYOUT = Detail(
    "NumPy", "", "the memory of numpy.random.RandomState",
    "to copy the cached second Gaussian as memory; found and proved on a scratch object",
    "get_state and set_state do it: slower",
)
NUMPY_BARE_SEEDING = Detail(
    "NumPy", "numpy.random", "MT19937._legacy_seeding",
    "to seed a scratch object without a look at the type of its bit generator",
    "RandomState.seed does it: slower",
)
NUMPY_BIT_GENERATOR = Detail(
    "NumPy", "numpy.random", "RandomState._bit_generator",
    "the bit generator of a RandomState in generators=",
    "its state tells the name; one that is not NumPy's own cannot be seeded, which is an error",
)

# torch ----------------------------------------------------------------------------------------

TORCH_CORE = Detail(
    "torch", "torch", "_C",
    "its names, which tell what this build has and whether a private backend has come",
    "torch.version tells the one, and the other is looked at in each entry: slower",
)
JIT_TRACING = Detail(
    "torch", "torch._C", "_get_tracing_state",
    "to warn of a scope that is entered while torch.jit.trace records",
    "torch.jit.is_tracing does it: slower",
)
FX_TRACING_OF_THREAD = Detail(
    "torch", "torch.fx._symbolic_trace", "_is_fx_tracing_tls",
    "to warn of a scope that is entered while torch.fx records: torch.export, make_fx",
    "there is no such warning",
    "2.14 on; its attribute flag, in threads that have recorded",
)
FX_TRACING = FX_TRACING_OF_THREAD.elsewhere(
    "torch.fx._symbolic_trace", "_get_is_fx_tracing",
    "2.14 on; a function, ten times slower than what it reads",
)
FX_TRACING_FLAG = FX_TRACING_OF_THREAD.elsewhere(
    "torch.fx._symbolic_trace", "_is_fx_tracing_flag", "up to 2.13"
)
NO_TORCH_FUNCTION = Detail(
    "torch", "torch._C", "DisableTorchFunction",
    "to read the bytes of a state tensor under any torch function mode",
    "the mode sees that a state is read",
)
CPU_STATE_LAYOUT = Detail(
    "torch", "", "the bytes of a CPU generator's state",
    "to refuse what cannot be one, and in pytest to tell a draw from a new seed",
    "torch checks alone, and a report of leaks says 'moved'",
)
KEEP_OUT_OF_GRAPHS = Detail(
    "torch", "", "_torchdynamo_disable",
    "set on a function: torch.compile breaks the graph at the borders of a scope",
    "torch.compile records the entry of a scope, and draws numpy.random from torch",
)
KEEP_OUT_OF_GRAPHS_REASON = Detail(
    "torch", "", "_torchdynamo_disable_msg",
    "set on a function: the error of fullgraph=True says why",
    "the error of fullgraph=True does not say why",
)

# torch, deterministic=True --------------------------------------------------------------------

DETERMINISTIC = Detail(
    "torch", "torch._C", "_get_deterministic_algorithms",
    "deterministic=True: read the mode",
    "torch.are_deterministic_algorithms_enabled does it",
)
DETERMINISTIC_WARN_ONLY = Detail(
    "torch", "torch._C", "_get_deterministic_algorithms_warn_only",
    "deterministic=True: read whether the mode only warns",
    "torch.is_deterministic_algorithms_warn_only_enabled does it",
)
SET_DETERMINISTIC = Detail(
    "torch", "torch._C", "_set_deterministic_algorithms",
    "deterministic=True: set the mode, without an import",
    "torch.use_deterministic_algorithms does it, and imports 800 modules",
)
CUDNN_DETERMINISTIC = Detail(
    "torch", "torch._C", "_get_cudnn_deterministic",
    "deterministic=True: read a flag of cuDNN",
    "torch.backends.cudnn does it",
)
SET_CUDNN_DETERMINISTIC = Detail(
    "torch", "torch._C", "_set_cudnn_deterministic",
    "deterministic=True: set a flag of cuDNN, frozen or not",
    "torch.backends.cudnn does it, which refuses after disable_global_flags()",
)
CUDNN_BENCHMARK = Detail(
    "torch", "torch._C", "_get_cudnn_benchmark",
    "deterministic=True: read the other flag of cuDNN",
    "torch.backends.cudnn does it",
)
SET_CUDNN_BENCHMARK = Detail(
    "torch", "torch._C", "_set_cudnn_benchmark",
    "deterministic=True: set the other flag of cuDNN, frozen or not",
    "torch.backends.cudnn does it, which refuses after disable_global_flags()",
)
INDUCTOR_DETERMINISTIC = Detail(
    "torch", "torch._inductor.config", "deterministic",
    "deterministic=True: the switch of torch.compile's own code",
    "it stays as it is",
    "not the oldest ones",
)

# torch, accelerators --------------------------------------------------------------------------

IS_BUILT = Detail(
    "torch", "torch._C", "_{}_init",
    "whether this build of torch has an accelerator",
    "torch.version tells",
)
MTIA_IS_BUILT = Detail(
    "torch", "torch._C", "_mtia_isBuilt",
    "whether this build of torch has MTIA",
    "torch.accelerator.current_accelerator tells",
)
PRIVATE_NAME = Detail(
    "torch", "torch._C", "_get_privateuse1_backend_name",
    "the name of a private backend",
    "a private backend that was renamed is not covered",
)
IN_BAD_FORK = Detail(
    "torch", "torch.{}", "_is_in_bad_fork",
    "whether this is a forked child of a process that had started the accelerator",
    "that a scope has seen it started, and that it is not any more, tells",
)
STARTING = Detail(
    "torch", "torch.{}", "_tls",
    "whether the accelerator is just being started by this thread: its attribute is_initializing",
    "it counts as started only after its queue has run",
)
START_LOCK = Detail(
    "torch", "torch.{}", "_initialization_lock",
    "to change the queue while no other thread starts the accelerator",
    "the queue is changed all the same: do not start it in another thread meanwhile",
)
QUEUE = Detail(
    "torch", "torch.{}", "_queued_calls",
    "where seeds and states wait for the start: a list of pairs, a call and a stack",
    "an accelerator that has not started is left out of scopes, with a warning if it starts in "
    "one; seed_all and RNGState.restore() do not reach it and say so",
)
QUEUE_SEEDS_FOR_ALL = Detail(
    "torch", "torch.{}", "_lazy_seed_tracker.manual_seed_all_cb",
    "the latest seed for all devices",
    QUEUE.without,
)
QUEUE_SEEDS = Detail(
    "torch", "torch.{}", "_lazy_seed_tracker.manual_seed_cb",
    "the latest seed for the current device",
    QUEUE.without,
)
QUEUE_SEEDS_ORDER = Detail(
    "torch", "torch.{}", "_lazy_seed_tracker.call_order",
    "the order of both latest seeds",
    QUEUE.without,
)
#: What torch puts into the queue has the name of the function that put it there.
RNG_FUNCTIONS = frozenset(
    ("set_rng_state", "_set_rng_state_offset", "manual_seed", "manual_seed_all", "seed", "seed_all")
)
GENERATORS = Detail(
    "torch", "torch.{}", "default_generators",
    "the default generators of an accelerator, one per device",
    "torch.<accelerator>.get_rng_state and set_rng_state do it after the start; before it, as "
    "without _queued_calls",
)
CHECKPOINT_IS_COMPILING = Detail(
    "torch", "torch.utils.checkpoint", "_is_compiling",
    "whether torch records a checkpointed function in a graph",
    "contexts of our own are given, which torch refuses while it records",
)
MPS_GENERATOR = Detail(
    "torch", "torch.mps", "_get_default_mps_generator",
    "the default generator of Apple's GPU",
    "torch.mps.get_rng_state and set_rng_state do it: slower",
)
CUDA_DEVICES = Detail(
    "torch", "torch.cuda", "_device_count_nvml",
    "how many NVIDIA GPUs there are, without starting CUDA",
    "only whether the driver's library is there is known",
)
ROCM_DEVICES = Detail(
    "torch", "torch.cuda", "_device_count_amdsmi",
    "how many AMD GPUs there are, without starting ROCm",
    "that there is none shows only at the start",
)

# Hypothesis -----------------------------------------------------------------------------------

HYPOTHESIS_SEED = Detail(
    "Hypothesis", "hypothesis.core", "global_force_seed",
    "to give a test under @given examples that follow from --rng-seed",
    "Hypothesis picks them by itself; the first such test warns",
)
