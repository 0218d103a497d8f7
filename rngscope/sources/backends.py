"""What torch tells about each of its accelerators; nothing here starts one."""

from __future__ import annotations

import sys

from rngscope import _details
from rngscope.sources.torch import core_names, torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: torch's private parts, by name.
_CORE = _details.TORCH_CORE.name
_IN_BAD_FORK = _details.IN_BAD_FORK.name
_STARTING = _details.STARTING.name
_GENERATORS = _details.GENERATORS.name

#: The private backend whatever the program calls it.
PRIVATE = "privateuseone"


class Backend:
    """One accelerator as torch shows it: CUDA and XPU; the others say where they differ."""

    #: Whether torch keeps a queue for its start.
    has_start = True
    #: torch as it was found to be built for it, and what its core has.
    torch: Any = None
    core_names: dict[str, Any] = {}
    init = ""

    def __init__(self, kind: str, versions: tuple[str, ...] = ()) -> None:
        self.name = self.kind = kind
        #: What torch's core has if it is built for it, and what torch.version then tells.
        self.init = _details.IS_BUILT.name.format(kind)
        self.versions = versions
        #: Whether it was seen started; kept only where torch cannot tell a forked child.
        self.was_started = False

    def is_built(self) -> bool:
        """Tell whether this build of torch has the accelerator, without asking a driver."""
        torch = torch_module()
        if torch is None:
            return False
        core = getattr(torch, _CORE, None)
        if core is not None and self.init in core.__dict__:
            self.torch, self.core_names = torch, core.__dict__
            return True
        # That is the answer no, unless torch says otherwise.
        if not any(getattr(torch.version, name, None) for name in self.versions):
            return False
        _details.find(_details.IS_BUILT.on(self.name))
        return True

    def module(self) -> Any:
        """Return ``torch.<name>``; None where no call to it can work."""
        torch = sys.modules.get("torch")
        # While it waits for its start, every scope asks several times.
        is_known = torch is not None and torch is self.torch and self.init in self.core_names
        if not is_known and not self.is_built():
            return None
        module = sys.modules["torch"].__dict__[self.name]
        # In a forked child of a process that had started it, the accelerator is unusable,
        # and every call says so with an error.
        ask = getattr(module, _IN_BAD_FORK, None)
        is_in_bad_fork = ask() if ask is not None else self._has_ended(module)
        return None if is_in_bad_fork else module

    def _has_ended(self, module: Any) -> bool:
        """Tell whether it had started and has not any more: only a fork does that."""
        _details.find(_details.IN_BAD_FORK.on(self.name))
        is_started = bool(module.is_initialized())
        self.was_started = self.was_started or is_started
        return self.was_started and not is_started

    def is_started(self, module: Any) -> bool:
        """Tell whether the generators exist, without asking the driver anything."""
        if module.is_initialized():
            return True
        # While the queued calls run, the generators exist already. Not hasattr, which has to
        # raise and catch an error to say no.
        return "is_initializing" in getattr(getattr(module, _STARTING, None), "__dict__", ())

    def generators(self, module: Any) -> list[Any]:
        """Return one default generator per device of a started accelerator."""
        # Not device_count(): hidden devices and MIG make it lie (pytorch#95784, #131667).
        found = getattr(module, _GENERATORS, None)
        if found is not None:
            return list(found)
        if self.has_start:
            # Of a private backend nobody expects them.
            _details.find(_details.GENERATORS.on(self.name))
        return [_FunctionGenerator(module, self.name, i) for i in range(module.device_count())]


class MpsBackend(Backend):
    """Apple's GPUs: one device, whose generator is always there."""

    def is_built(self) -> bool:
        torch = torch_module()
        return torch is not None and bool(torch.backends.mps.is_built())

    def is_started(self, module: Any) -> bool:
        return True

    def generators(self, module: Any) -> list[Any]:
        find = getattr(module, _details.MPS_GENERATOR.name, None)
        if find is not None:
            return [find()]
        _details.find(_details.MPS_GENERATOR)
        return [_FunctionGenerator(module, self.name)]


class MtiaBackend(Backend):
    """Meta's accelerator: every build of torch has its functions."""

    def is_built(self) -> bool:
        torch = torch_module()
        if torch is None:
            return False
        ask = core_names(torch).get(_details.MTIA_IS_BUILT.name)
        if ask is not None:
            return bool(ask())
        _details.find(_details.MTIA_IS_BUILT)
        device = torch.accelerator.current_accelerator()
        return device is not None and device.type == self.name


class PrivateBackend(Backend):
    """The private backend that the program registered with torch, under its own name."""

    has_start = False

    def __init__(self) -> None:
        self.kind = PRIVATE

    @property
    def name(self) -> str:  # type: ignore[override]
        torch = torch_module()
        if torch is None:
            return PRIVATE
        find = core_names(torch).get(_details.PRIVATE_NAME.name)
        if find is None:
            _details.find(_details.PRIVATE_NAME)
            return PRIVATE
        return find()  # type: ignore[no-any-return]

    def is_built(self) -> bool:
        torch = torch_module()
        module = None if torch is None else torch.__dict__.get(self.name)
        # A backend without these has no RNG that anybody could save.
        needed = (_IN_BAD_FORK, "manual_seed_all", "get_rng_state", "set_rng_state")
        return module is not None and all(hasattr(module, name) for name in needed)

    def is_started(self, module: Any) -> bool:
        return bool(getattr(module, "is_initialized", lambda: True)())


class _FunctionGenerator:
    """A generator of a backend that shows only functions."""

    def __init__(self, module: Any, name: str, *index: int) -> None:
        #: Where there is one device the functions take no index.
        self.module, self.name, self.index = module, name, index

    def get_state(self) -> Any:
        return self.module.get_rng_state(*self.index)

    def set_state(self, state: Any) -> None:
        self.module.set_rng_state(state, *self.index)

    def manual_seed(self, seed: int) -> None:
        # There is no function that seeds one device; a scratch generator makes the state.
        torch = sys.modules["torch"]
        scratch = torch.Generator(device=torch.device(self.name, *self.index))
        self.set_state(scratch.manual_seed(seed).get_state())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FunctionGenerator) and (
            (other.module, other.index) == (self.module, self.index)
        )


#: All of them.
BACKENDS = (
    Backend("cuda", ("cuda", "hip")),
    Backend("xpu", ("xpu",)),
    MpsBackend("mps"),
    MtiaBackend("mtia"),
    PrivateBackend(),
)
