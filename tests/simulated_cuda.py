"""Run torch's own accelerator queue on a machine that has no accelerator.

``torch.manual_seed`` and ``torch.cuda.set_rng_state`` do not need a GPU to be wrong: until CUDA
starts, they only write into Python lists, and ``torch.cuda._lazy_init`` later reads these lists.
That code runs here as it is. What stands in is only what lies below it: the functions of
``torch._C`` that talk to a driver, and the default generators, which are CPU ones.

The stand-ins are strict where the real ones are only dangerous: asking for the number of devices
before the start, which on a real machine poisons a later fork, is an error here.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.mtia
import torch.xpu
from torch._utils import _LazySeedTracker

#: The accelerators whose seeds wait in a queue; in older versions of torch MTIA has none.
ACCELERATORS = tuple(
    name
    for name in ("cuda", "xpu", "mtia")
    if {"manual_seed_all", "_lazy_seed_tracker"} <= vars(getattr(torch, name)).keys()
)

_MISSING = object()

#: How many names ``torch._C`` has had of late.
_sizes: deque[int] = deque(maxlen=64)


class Misuse(AssertionError):
    """Something was asked that starts an accelerator, or poisons a later fork."""


class Queue:
    """What waits for an accelerator: equal when every entry is the same object."""

    def __init__(self, module: ModuleType) -> None:
        tracker = module._lazy_seed_tracker
        self.parts = (
            ("list", [module._queued_calls]),
            ("calls", list(module._queued_calls)),
            ("tracker", [tracker]),
            ("manual_seed_all_cb", [tracker.manual_seed_all_cb]),
            ("manual_seed_cb", [tracker.manual_seed_cb]),
            ("call_order", list(tracker.call_order)),
        )

    def _identities(self) -> list[tuple[str, list[int]]]:
        return [(name, [id(entry) for entry in entries]) for name, entries in self.parts]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self._identities() == other._identities()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return ", ".join(
            f"{name}={[_describe(entry) for entry in entries]}"
            for name, entries in self.parts
            if name not in ("list", "tracker")
        )


def _describe(entry: Any) -> str:
    call = entry[0] if isinstance(entry, tuple) else entry
    return f"{getattr(call, '__qualname__', call)}@{id(entry):x}"


class BreakableGenerator:
    """A generator that fails on demand, over a real one.

    ``failures`` maps the name of a method to the error and to how often it is still raised
    (None: always). ``change`` stands for every method that changes the state, because a scope
    may seed a generator with ``manual_seed`` as well as with ``set_state``.
    """

    def __init__(self, real: torch.Generator, owner: "SimulatedAccelerator") -> None:
        self.real = real
        self.owner = owner
        self.failures: dict[str, tuple[BaseException, int | None]] = {}

    def _meet(self, *verbs: str) -> None:
        if self.owner.capturing:
            self.owner.misuse.append(f"{verbs[0]} while the stream is capturing")
        for verb in verbs:
            if verb in self.failures:
                error, left = self.failures[verb]
                if left is not None:
                    self.failures[verb] = (error, left - 1)
                    if left <= 1:
                        del self.failures[verb]
                raise error

    def get_state(self) -> torch.Tensor:
        self._meet("get_state")
        return self.real.get_state()

    def set_state(self, state: torch.Tensor) -> Any:
        self._meet("set_state", "change")
        self.real.set_state(state)
        return self

    def manual_seed(self, seed: int) -> Any:
        self._meet("manual_seed", "change")
        self.real.manual_seed(seed)
        return self

    def seed(self) -> int:
        self._meet("seed", "change")
        return self.real.seed()

    def initial_seed(self) -> int:
        return self.real.initial_seed()


class SimulatedAccelerator:
    """An accelerator that exists only in Python.

    Attributes:
        name: ``cuda``, ``xpu`` or ``mtia``.
        module: the real module ``torch.<name>``.
        generators: the CPU generators of the devices; empty until the start.
        fresh: the bytes of the entropy state each of them was made with.
        ran: what the two calls that torch itself queues have recorded.
        capturing: True simulates that the current stream records a graph.
        bad_fork: True simulates a forked child of a process that had started; a real
            ``os.fork()`` after the start is noticed without it.
        misuse: what was asked and must not be; leaving ``simulated_cuda`` raises for it.
    """

    def __init__(self, name: str, devices: int, breakable: bool = False) -> None:
        self.name = name
        self.module: Any = getattr(torch, name)
        self.devices = devices
        self.breakable = breakable
        self.generators: list[torch.Generator] = []
        self.fresh: list[bytes] = []
        self.ran: list[str] = []
        self.misuse: list[str] = []
        self.capturing = False
        self.bad_fork = False
        self.current = 0
        self._born_in: int | None = None

    # What a test does ----------------------------------------------------------------------

    def start(self) -> None:
        """Start it as ``torch.cuda.init()`` does."""
        self.module.init()

    @property
    def started(self) -> bool:
        return bool(self.module.is_initialized())

    def states(self) -> list[bytes]:
        """Return the bytes of every device's state; empty until the start."""
        return [state_bytes(generator) for generator in self.generators]

    def queue(self) -> Queue:
        """Return what waits now, to be compared later."""
        return Queue(self.module)

    def fail(
        self, index: int, verb: str, error: BaseException | None = None, times: int | None = None
    ) -> BaseException:
        """Make a method of one device's generator raise; needs ``breakable=True``."""
        generator = self.module.default_generators[index]
        error = error or OSError(f"{self.name}:{index} failed in {verb}")
        generator.failures[verb] = (error, times)
        return error

    def mend(self) -> None:
        """Make every generator work again."""
        for generator in self.module.default_generators:
            generator.failures.clear()

    # What stands in for torch._C -----------------------------------------------------------

    def _init(self) -> None:
        if not self.devices:
            raise RuntimeError(f"No {self.name.upper()} GPUs are available")
        if not self.generators:
            # A start that failed and is tried again finds the generators of the first time.
            self.generators = [torch.Generator() for _ in range(self.devices)]
            for generator in self.generators:
                generator.seed()
            self.fresh = self.states()
            self._born_in = os.getpid()
        self.module.default_generators = tuple(
            BreakableGenerator(generator, self) if self.breakable else generator
            for generator in self.generators
        )

    def _device_count(self) -> int:
        if not self.generators:
            self._refuse("the number of devices")
        return self.devices

    def _get_device(self) -> int:
        if not self.generators:
            self._refuse("the current device")
        return self.current

    def _exchange_device(self, index: int) -> int:
        previous = self._get_device()
        if index >= 0:
            self.current = index
        return previous

    def _refuse(self, what: str) -> None:
        message = f"{self.name} was asked for {what} before it had started"
        self.misuse.append(message)
        raise Misuse(message)

    def _is_in_bad_fork(self) -> bool:
        return self.bad_fork or self._born_in not in (None, os.getpid())

    def _is_capturing(self) -> bool:
        if not self.generators:
            # As on a CUDA build without a driver.
            raise RuntimeError(f"no {self.name} driver answers before the start")
        return self.capturing

    def _stand_ins(self) -> list[tuple[Any, str, Any]]:
        """Return (object, attribute, value) for everything that is replaced."""
        name, module, core = self.name, self.module, torch._C
        stand_ins: list[tuple[Any, str, Any]] = [
            (core, f"_{name}_init", self._init),
            (core, f"_{name}_getDeviceCount", self._device_count),
            (core, f"_{name}_getDevice", self._get_device),
            (core, f"_{name}_setDevice", self._exchange_device),
            (core, f"_{name}_exchangeDevice", self._exchange_device),
            (core, f"_{name}_maybeExchangeDevice", self._exchange_device),
            (core, f"_{name}_isInBadFork", self._is_in_bad_fork),
            (core, f"_{name}_isCurrentStreamCapturing", self._is_capturing),
            (module, "_is_in_bad_fork", self._is_in_bad_fork),
            (module, "_exchange_device", self._exchange_device),
            (module, "_maybe_exchange_device", self._exchange_device),
            (module, "_initialized", False),
            (module, "_tls", threading.local()),
            # A new lock, so that a test that fails under it cannot hang the next one.
            (module, "_initialization_lock", threading.Lock()),
            (module, "_queued_calls", []),
            (module, "_lazy_seed_tracker", _LazySeedTracker()),
            (module, "default_generators", ()),
            (module, "_cached_device_count", None),
        ]
        graphs = getattr(module, "graphs", None)
        if hasattr(graphs, f"_{name}_isCurrentStreamCapturing"):
            stand_ins.append((graphs, f"_{name}_isCurrentStreamCapturing", self._is_capturing))
        if name == "cuda":
            stand_ins += [
                (module, "_cudart", object()),
                # The real one asks a library of the driver, and where that has no answer the
                # driver itself: only the library, asked alone, starts nothing.
                (module, "_device_count_nvml", lambda: self.devices),
                (module, "device_count", self._device_count),
            ]
        elif name == "xpu":
            stand_ins += [(core, "_has_xpu", True), (module, "_device_count_zes", lambda: -1)]
        else:
            stand_ins.append((core, "_mtia_isBuilt", lambda: True))
        return stand_ins

    def _queue_what_torch_queues(self) -> None:
        for check in ("capability", "cubins"):
            self.module._lazy_call(_recorder(self.ran, check))


def _recorder(record: list[str], what: str) -> Callable[[], None]:
    def run() -> None:
        record.append(what)

    return run


def state_bytes(generator: torch.Generator) -> bytes:
    """Return the state of a generator as bytes."""
    return generator.get_state().numpy().tobytes()


@contextmanager
def simulated_cuda(
    devices: int, *, name: str = "cuda", breakable: bool = False
) -> Iterator[SimulatedAccelerator]:
    """Stand in for an accelerator that has not started, and put everything back.

    Args:
        devices: how many devices it has; with 0 its start fails, as it really does.
        name: the accelerator, one of ``ACCELERATORS``.
        breakable: whether its generators can be made to fail.

    Raises:
        Misuse: on leaving, when something was asked that would have started it, even if
            the error was swallowed.
    """
    accelerator = SimulatedAccelerator(name, devices, breakable)
    # CUDA before torch 2.6 sets this variable at its start.
    variable = os.environ.get("CUDA_MODULE_LOADING")
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for target, attribute, value in accelerator._stand_ins():
            replaced.append((target, attribute, vars(target).get(attribute, _MISSING)))
            setattr(target, attribute, value)
        # In real life torch never loses an accelerator, so that a size of its namespace that
        # was seen before is proof enough that nothing has changed. Here each is a new one.
        while len(vars(torch._C)) in _sizes:
            attribute = f"_simulated_{name}_{len(replaced)}"
            replaced.append((torch._C, attribute, _MISSING))
            setattr(torch._C, attribute, None)
        _sizes.append(len(vars(torch._C)))
        accelerator._queue_what_torch_queues()
        yield accelerator
        locked = accelerator.module._initialization_lock.locked()
    finally:
        for target, attribute, value in reversed(replaced):
            if value is _MISSING:
                delattr(target, attribute)
            else:
                setattr(target, attribute, value)
        if variable is None:
            os.environ.pop("CUDA_MODULE_LOADING", None)
        else:
            os.environ["CUDA_MODULE_LOADING"] = variable
    if accelerator.misuse:
        raise Misuse("; ".join(accelerator.misuse))
    if locked:
        raise Misuse(f"the lock of torch.{name} was left locked")
