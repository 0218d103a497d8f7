"""torch's generators: the default one on the CPU, and those of the user."""

from __future__ import annotations

import struct
import sys

from rngscope import _details
from rngscope._errors import warn_caller
from rngscope._seeds import short_repr
from rngscope.sources.cell import OneCell, SeededStates
from rngscope.sources.generators import BY_ONE_WORD, GeneratorCell
from rngscope.sources.presence import imported
from rngscope.sources.serialized import WORDS, check_keys, load_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from rngscope.sources.cell import Cell


#: The seed, the words left and whether seeded (int32), the next word; the words, 8 bytes each.
_STATE = struct.Struct(f"=QiiQ{WORDS}Q")
STATE_BYTES = 5056


class TorchGeneratorCell(GeneratorCell):
    """A ``torch.Generator``; a state is device and tensor, or the bytes of one."""

    kind = "torch.Generator"

    def getstate(self) -> Any:
        return str(self.generator.device), self.generator.get_state()

    def setstate(self, state: Any) -> None:
        set_generator(self.generator, state[1], "state")

    def check(self, state: Any) -> None:
        here = self.generator.device.type
        if state[0].partition(":")[0] != here:
            raise ValueError(
                f"{self.name} runs on {here!r}, but the state is one of {short_repr(state[0])}"
            )
        if here == "cpu" and isinstance(state[1], bytes):
            check_torch_state(state[1], self.name)

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def stream_of(self, seed: int) -> tuple[str, Any]:
        device = self.generator.device.type
        # On the CPU it reads the low word only.
        return (BY_ONE_WORD if device == "cpu" else f"{self.kind} on {device}"), self.generator

    @staticmethod
    def write(state: Any) -> dict[str, Any]:
        return {"device": state[0], "state": tensor_bytes(state[1]).hex()}

    @staticmethod
    def read(fields: Any, where: str) -> Any:
        check_keys(fields, {"device", "state"}, where)
        device = fields["device"]
        if not isinstance(device, str):
            raise ValueError(f"{where}.device must be a str, not {short_repr(device)}")
        if device == "cpu":
            return device, load_torch_state({"state": fields["state"]}, where)
        return device, load_hex(fields["state"], f"{where}.state")


class TorchSource(OneCell):
    """``torch.default_generator``.

    A state is the tensor that ``get_state()`` returns, kept as it came (uint8, shape ``(5056,)``,
    on the CPU): operations on it break under ``FakeTensorMode`` and ``torch.func``, the
    generator's own methods do not. A state that came from a dict is bytes until it is used.
    """

    name = kind = "torch"
    module = "torch"
    path = ("torch",)

    def __init__(self) -> None:
        self.generator: Any = None
        #: Tell whether torch.jit.trace records, and one of torch.fx's tracers.
        self._jit_state: Any = None
        self._fx_records: Any = None
        #: The modules in which these were looked for.
        self._seen: tuple[Any, Any] | None = None
        self.seeded_states = SeededStates()

    def is_present(self) -> bool:
        torch = torch_module()
        if torch is None:
            self.generator = None
            return False
        self.generator = torch.default_generator
        seen = torch, sys.modules.get(_details.FX_TRACING_FLAG.module)
        if seen != self._seen:
            # Scopes over named sources ask each time.
            self._jit_state = _details.find(_details.JIT_TRACING) or _jit_state_in_public
            self._fx_records = _find_fx_records()
            self._seen = seen
        return True

    def getstate(self) -> Any:
        if self._jit_state() is not None or self._fx_records():
            _warn_of_recording()
        return self.generator.get_state()

    def setstate(self, state: Any) -> None:
        if type(state) is bytes:
            state = as_tensor(self.generator, state, self.name)
        self.generator.set_state(state)

    def swap(self, found: dict[Cell, Any], state: Any) -> None:
        if self._jit_state() is not None or self._fx_records():
            _warn_of_recording()
        generator = self.generator
        found[self] = generator.get_state()
        generator.set_state(state)

    def seed(self, seed: int) -> None:
        # Not torch.manual_seed: it also queues a seed for every accelerator that has not
        # started, each with a formatted stack.
        self.generator.manual_seed(seed)

    def seeded_state(self, seed: int) -> Any:
        return sys.modules["torch"].Generator().manual_seed(seed).get_state()

    def check(self, state: Any) -> None:
        """Refuse bytes that were loaded before torch was there to check them."""
        if type(state) is bytes and self.is_present():
            check_torch_state(state, self.name)

    def dump(self, state: Any) -> dict[str, Any]:
        return {"state": tensor_bytes(state).hex()}

    def load(self, fields: Any) -> Any:
        return load_torch_state(fields, self.name)


def _jit_state_in_public() -> Any:
    """Return None unless torch.jit.trace records."""
    return sys.modules["torch"].jit.is_tracing() or None


def _find_fx_records() -> Callable[[], Any]:
    """Return what tells whether one of torch.fx's tracers records in this thread."""
    from functools import partial

    flag = _details.FX_TRACING_FLAG
    found = _details.find(_details.FX_TRACING_OF_THREAD, _details.FX_TRACING, flag)
    if found is None:
        return bool
    if callable(found):
        return found  # type: ignore[no-any-return]
    if isinstance(found, bool):
        return partial(vars(sys.modules[flag.module]).get, flag.name)
    # Not getattr, which takes ten times as long for an attribute that is not there.
    return lambda: found.__dict__.get("flag")


def _warn_of_recording() -> None:
    # torch.export and make_fx record with torch.fx.
    warn_caller(
        "an RNG scope is entered while torch.jit.trace, torch.export, make_fx or "
        "fx.symbolic_trace records a program; the scope will not be part of that program: enter "
        "one around its calls instead"
    )


def torch_module() -> ModuleType | None:
    """Return torch once it is imported."""
    return imported("torch", "default_generator")


def core_names(torch: Any) -> dict[str, Any]:
    """Return the names of torch's compiled core; none where it is not where it was."""
    core: Any = getattr(torch, _details.TORCH_CORE.name, None)
    if core is None:
        _details.find(_details.TORCH_CORE)
        return {}
    names: dict[str, Any] = vars(core)
    return names


def load_torch_state(fields: Any, where: str) -> bytes:
    """Return the bytes of a CPU generator's state, checked by torch itself if it is there."""
    check_keys(fields, {"state"}, where)
    data = load_hex(fields["state"], f"{where}.state")
    if torch_module() is not None:
        check_torch_state(data, f"{where}.state")
    return data


def check_torch_state(data: bytes, where: str) -> None:
    """Refuse bytes that are not the state of a CPU generator.

    torch looks at some fields only. What is here of the layout, the fields at its beginning
    and the words of the Mersenne Twister, is that of ``CPUGeneratorImplStateLegacy``, which
    torch keeps for old states; a torch with another layout checks alone.
    """
    if len(data) == STATE_BYTES:
        _, left, is_seeded, following, *words = _STATE.unpack_from(data)
        is_position = left + following == WORDS + 1 or (left, following) == (1, 0)
        if not (is_seeded == 1 and 1 <= left <= WORDS and is_position):
            raise ValueError(f"{where} is not the state of a CPU generator: its position cannot be")
        if max(words) >= 2**32 or not (words[0] & 0x80000000 or any(words[1:])):
            raise ValueError(f"{where} is not the state of a CPU generator: its words cannot be")
    try:
        set_generator(sys.modules["torch"].Generator(), data, where)
    except RuntimeError as error:
        raise ValueError(f"{where} is not the state of a CPU generator: {error}") from None
    # torch has taken it.
    _details.proved(_details.CPU_STATE_LAYOUT, len(data) == STATE_BYTES)


def tensor_bytes(state: Any) -> bytes:
    """Return the bytes of a state tensor, whatever mode torch is in."""
    if isinstance(state, bytes):
        return state
    import ctypes

    # Not state.numpy().tobytes(): under FakeTensorMode that returns garbage.
    with without_torch_function():
        memory = (ctypes.c_char * state.numel()).from_address(state.data_ptr())
        return bytes(memory.raw)


def without_torch_function() -> Any:
    """Return a context in which no torch function mode sees what is done with tensors."""
    from contextlib import nullcontext

    return _details.find(_details.NO_TORCH_FUNCTION, default=nullcontext)()


def set_generator(generator: Any, state: Any, where: str) -> None:
    """Set a generator from a tensor, or from the bytes of one."""
    if isinstance(state, bytes):
        state = as_tensor(generator, state, where)
    generator.set_state(state)


def as_tensor(generator: Any, data: bytes, where: str) -> Any:
    """Return the bytes of a state as a tensor.

    Raises:
        ValueError: another number of bytes than this torch uses.
    """
    import ctypes

    # The tensor is had from the generator itself, so that no torch operation runs that a
    # mode or a default device could redirect.
    tensor = generator.get_state()
    with without_torch_function():
        if tensor.numel() != len(data):
            raise ValueError(
                f"{where} must be {tensor.numel()} bytes for this torch, not {len(data)}"
            )
        (ctypes.c_char * len(data)).from_address(tensor.data_ptr()).raw = data
    return tensor
