"""torch's default generator on the CPU."""

from __future__ import annotations

import struct
import sys

from rngscope import _details
from rngscope._errors import warn_caller
from rngscope._seeds import source_seed
from rngscope._sources.copied import CopiedByName
from rngscope._sources.imported import imported
from rngscope._sources.memory import SeedImages
from rngscope._sources.plain import WORDS, check_keys, load_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

#: The seed, the words left and whether seeded (int32), the next word; the words, 8 bytes each.
_STATE = struct.Struct(f"=QiiQ{WORDS}Q")
STATE_BYTES = 5056


class TorchSource(CopiedByName):
    """``torch.default_generator``.

    A state is the tensor that ``get_state()`` returns, kept as it came (uint8, shape
    ``(5056,)``, on the CPU): operations on it break under ``FakeTensorMode`` and
    ``torch.func``, the generator's own methods do not. A state that came from a dict is
    bytes until it is used.
    """

    name = identity = "torch"
    library = "torch"
    is_switch = False
    keeps_fresh_seed_after_fork = False

    def __init__(self) -> None:
        self._generator: Any = None
        #: Tell whether torch.jit.trace records, and one of torch.fx's tracers.
        self._jit_state: Any = None
        self._fx_records: Any = None
        #: The modules in which these were looked for.
        self._seen: tuple[Any, Any] | None = None
        self._images = SeedImages()

    def is_present(self) -> bool:
        torch = torch_module()
        if torch is None:
            self._generator = None
            return False
        self._generator = torch.default_generator
        seen = torch, sys.modules.get(_details.FX_TRACING_FLAG.module)
        if seen != self._seen:
            # Scopes over named sources ask each time.
            self._jit_state = _details.find(_details.JIT_TRACING) or _jit_state_in_public
            self._fx_records = _find_fx_records()
            self._seen = seen
        return True

    def save(self) -> Any:
        if self._jit_state() is not None or self._fx_records():
            _warn_of_recording()
        return self._generator.get_state()

    def capture(self) -> Any:
        return self._generator.get_state() if self.is_present() else None

    def restore(self, state: Any) -> None:
        if type(state) is bytes:
            state = as_tensor(self._generator, state, self.name)
        self._generator.set_state(state)

    replay = restore

    def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
        if self._jit_state() is not None or self._fx_records():
            _warn_of_recording()
        generator = self._generator
        saved.append(generator.get_state())
        image = None if independent else self._images.get(seed)
        if image is None:
            self.seed(seed, independent)
        else:
            generator.set_state(image)

    def seed(self, seed: int, independent: bool) -> None:
        if independent:
            seed = source_seed(seed, self.name)
        image = self._images.get(seed)
        if image is not None:
            self._generator.set_state(image)
            return
        if self._images.wants(seed):
            # Of a generator of its own: other threads may draw from the global one meanwhile.
            scratch = sys.modules["torch"].Generator()
            self._images[seed] = image = scratch.manual_seed(seed).get_state()
            self._generator.set_state(image)
            return
        # Not torch.manual_seed: it also queues a seed for every accelerator that has not
        # started, each with a formatted stack.
        self._generator.manual_seed(seed)

    def check(self, state: Any) -> None:
        """Refuse bytes that were loaded before torch was there to check them."""
        if type(state) is bytes and self.is_present():
            check_torch_state(state, self.name)

    def portable(self, state: Any) -> Any:
        return state

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
            raise ValueError(f"{where} is no state of a CPU generator: its position cannot be")
        if max(words) >= 2**32 or not (words[0] & 0x80000000 or any(words[1:])):
            raise ValueError(f"{where} is no state of a CPU generator: its words cannot be")
    try:
        set_generator(sys.modules["torch"].Generator(), data, where)
    except RuntimeError as error:
        raise ValueError(f"{where} is no state of a CPU generator: {error}") from None
    # torch has taken it.
    _details.proved(_details.CPU_STATE_LAYOUT, len(data) == STATE_BYTES)


def tensor_bytes(state: Any) -> bytes:
    """Return the bytes of a state tensor, whatever mode torch is in."""
    if isinstance(state, bytes):
        return state
    import ctypes

    # Not state.numpy().tobytes(): under FakeTensorMode that returns garbage.
    with without_torch_function():
        return ctypes.string_at(state.data_ptr(), state.numel())


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
        ctypes.memmove(tensor.data_ptr(), data, len(data))
    return tensor
