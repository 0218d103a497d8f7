"""Accelerators: CUDA, XPU, MPS, MTIA, a private one. Each of their devices is a cell.

One that has not started has no generators. Until then what waits for its start is its only cell:
see ``start.py``.
"""

from __future__ import annotations

import sys
from operator import attrgetter

from rngscope.sources.cell import Cell, Source, source_named
from rngscope.sources.queue import warn_at_start
from rngscope.sources.serialized import check_keys, check_range, load_hex
from rngscope.sources.start import Waiting
from rngscope.sources.torch import set_generator, tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope.sources.backends import Backend

    #: None for all; None among them stands for the current device.
    Indices = tuple[int | None, ...] | None


#: Kind and index -> the cell of that device, so that every scope has the same one.
_devices: dict[tuple[str, int], Device] = {}


class Device(Cell):
    """The default generator of one device.

    A state is the tensor that ``get_state()`` returns; on CUDA uint8, shape ``(16,)``, on the CPU:
    seed and Philox offset.
    """

    def __init__(self, source: AcceleratorSource, index: int, generator: Any) -> None:
        self.source: AcceleratorSource = source
        self.index = index
        self.generator = generator

    @property
    def path(self) -> tuple[str | int, ...]:  # type: ignore[override]
        return self.source.name, self.index

    def getstate(self) -> Any:
        module = self.source.backend.module()
        if module is None:
            # A forked child: nothing will be put back.
            return None
        _refuse_capture(module, self.source.name)
        return self.generator.get_state()

    def setstate(self, state: Any) -> None:
        module = self.source.backend.module()
        if module is not None:
            _refuse_capture(module, self.source.name)
            set_generator(self.generator, state, f"{self.source.name}:{self.index}")

    def seed(self, seed: int) -> None:
        _refuse_capture(self.source.backend.module(), self.source.name)
        self.generator.manual_seed(seed)


def _refuse_capture(module: Any, name: str) -> None:
    """Refuse to touch a generator that a CUDA graph is recording.

    Raises:
        RuntimeError: the current stream of this thread is capturing.
    """
    is_capturing = getattr(module, "is_current_stream_capturing", None)
    try:
        if is_capturing is None or not is_capturing():
            return
    except RuntimeError:
        # On a build without a driver the question itself fails.
        return
    raise RuntimeError(
        f"cannot save or set the {name} RNG states while a CUDA graph is captured; put the scope "
        f"around the capture, or leave {name} out with sources="
    )


class DeviceStates(dict[int, "Any"]):
    """States by device index, and how many devices the process had."""

    __slots__ = ("count",)

    def __init__(self, states: dict[int, Any], count: int) -> None:
        super().__init__(states)
        self.count = count


class AcceleratorSource(Source):
    """The devices of one accelerator type, all or some."""

    module = "torch"
    #: Asked each time: the program may still choose that of its private backend.
    name = property(attrgetter("backend.name"))

    def __init__(self, backend: Backend, devices: Indices = None) -> None:
        self.backend = backend
        self.kind = backend.kind
        self.devices = devices
        self.waiting = Waiting(self)

    def limited_to(self, devices: Indices) -> AcceleratorSource:
        """Return this source over some devices only."""
        return AcceleratorSource(self.backend, devices)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.devices is None:
            return super().__reduce__()
        return _limited_source, (self.kind, self.devices)

    def cells(self) -> tuple[Cell, ...]:
        module = self.backend.module()
        if module is None:
            return ()
        if self.backend.is_started(module):
            return self.found(module)
        return (self.waiting,) if self.backend.has_start else ()

    def found(self, module: Any, is_strict: bool = True) -> tuple[Device, ...]:
        """Return the covered devices of a started accelerator.

        Raises:
            ValueError: a device does not exist; a warning where that must not be an error.
        """
        generators = self.backend.generators(module)
        count = len(generators)
        indices = set(range(count))
        if self.devices is not None:
            indices = {module.current_device() if i is None else i for i in self.devices}
        for index in sorted(i for i in indices if i >= count):
            message = (
                f"unknown device '{self.name}:{index}'; this process has {count} {self.name} "
                f"device(s), counted from 0"
            )
            if is_strict:
                raise ValueError(message)
            warn_at_start(message)
        return tuple([_device_of(self, i, generators[i]) for i in sorted(indices) if i < count])

    def gather(self, states: dict[Cell, Any]) -> DeviceStates | None:
        found = {
            cell.index: state
            for cell, state in states.items()
            if isinstance(cell, Device) and cell.source.kind == self.kind and state is not None
        }
        if not found:
            return None
        # Not backend.module(): in a forked child, where it is None, the generators still count.
        module = sys.modules["torch"].__dict__[self.name]
        return DeviceStates(found, len(self.backend.generators(module)))

    def state_in(self, value: DeviceStates, cell: Cell) -> Any:
        return value.get(cell.index) if isinstance(cell, Device) else value

    def check(self, value: DeviceStates) -> None:
        """Refuse a value of another number of devices, if that can be known yet.

        Raises:
            ValueError: naming both numbers, unless only some devices are wanted.
        """
        here = _number_of_devices(self.backend) if self.devices is None else None
        if here is not None and value.count != here:
            raise ValueError(
                f"the state is of {value.count} {self.name} device(s) and this process has {here}; "
                f"RNGState.restore(strict=False) restores those that are there, devices= chooses "
                f"some"
            )

    def dump(self, value: DeviceStates) -> dict[str, Any]:
        states = {str(index): tensor_bytes(tensor).hex() for index, tensor in value.items()}
        return {"count": value.count, "states": states}

    def load(self, fields: Any) -> DeviceStates:
        check_keys(fields, {"count", "states"}, self.name)
        count = check_range(fields["count"], 1, 2**15, f"{self.name}.count")
        serialized = fields["states"]
        indices = {str(index): index for index in range(count)}
        is_known = isinstance(serialized, dict) and indices.keys() >= serialized.keys()
        if not (is_known and serialized):
            raise ValueError(
                f"{self.name}.states must be a dict from device index, below {count} and in "
                f"decimal digits, to state"
            )
        states = {}
        for index, text in serialized.items():
            data = load_hex(text, f"{self.name}.states.{index}")
            # Seed and Philox offset, 8 bytes each; the offset counts in fours.
            if self.name == "cuda" and (len(data) != 16 or data[8] % 4):
                raise ValueError(
                    f"cuda.states.{index} must be 16 bytes: a seed, and an offset that is a "
                    f"multiple of 4"
                )
            states[indices[index]] = data
        return DeviceStates(states, count)


def _limited_source(kind: str, devices: Indices) -> AcceleratorSource:
    """Return this process's source of one accelerator, over some devices only."""
    source: Any = source_named(kind)
    return source.limited_to(devices)  # type: ignore[no-any-return]


def _device_of(source: AcceleratorSource, index: int, generator: Any) -> Device:
    """Return the cell of one device."""
    device = _devices.get((source.kind, index))
    if device is None or device.generator != generator:
        everywhere = source if source.devices is None else source.limited_to(None)
        device = _devices[source.kind, index] = Device(everywhere, index, generator)
    return device


def _number_of_devices(backend: Backend) -> int | None:
    """Return how many devices there are; None before the start, which alone tells it."""
    module = backend.module()
    if module is None or not backend.is_started(module):
        return None
    return len(backend.generators(module))


def have_common_device(one: AcceleratorSource, other: AcceleratorSource) -> bool:
    """Tell whether there is a device that both cover."""
    if one.kind != other.kind:
        return False
    return one.devices is None or other.devices is None or bool({*one.devices} & {*other.devices})


def over_present_devices(
    source: AcceleratorSource, value: DeviceStates
) -> AcceleratorSource | None:
    """Return a source over those devices of ``value`` that are there."""
    here = _number_of_devices(source.backend)
    return None if here is None else source.limited_to(tuple(i for i in value if i < here))
