"""The default generators of one accelerator type: CUDA, XPU, MPS, MTIA, a private one.

An accelerator that has not started has no generators. torch keeps a queue for it: a list of
calls, then a tracker of the latest seeds; when it starts, both run in this order. So the
state of such an accelerator is a point in its queue (``QueuedState``): to save is to put a
mark there, to seed is to append to it, to restore is to take out what came after the mark.
When the accelerator starts meanwhile, the mark is called, and keeps what the generators hold
at this point.
"""

from __future__ import annotations

import sys
import warnings
from _thread import allocate_lock
from operator import attrgetter
from weakref import ref

from rngscope import _details
from rngscope._errors import raise_together, warn_caller
from rngscope._seeds import source_seed
from rngscope._sources.copied import CopiedByName, limited_source_of
from rngscope._sources.drivers import why_it_cannot_start
from rngscope._sources.patient_lock import PatientLock
from rngscope._sources.plain import check_keys, check_range, load_hex
from rngscope._sources.torch_cpu import core_names, set_generator, tensor_bytes, torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    Devices = tuple[int | None, ...] | None
    #: Device index -> the tensor that ``get_state()`` returned.
    States = dict[int, Any]

#: torch's private parts, by name, and how to get those that ``_has_queue`` has found.
_CORE = _details.TORCH_CORE.name
_IN_BAD_FORK = _details.IN_BAD_FORK.name
_STARTING = _details.STARTING.name
_START_LOCK = _details.START_LOCK.name
_GENERATORS = _details.GENERATORS.name
_queue = attrgetter(_details.QUEUE.name)
_tracker = attrgetter(_details.QUEUE_SEEDS.name.partition(".")[0])
_QUEUE_ROWS = (
    _details.QUEUE,
    _details.QUEUE_SEEDS_FOR_ALL,
    _details.QUEUE_SEEDS,
    _details.QUEUE_SEEDS_ORDER,
    _details.GENERATORS,
)
#: Asks for all of them at once.
_whole_queue = attrgetter(*[row.name for row in _QUEUE_ROWS])

#: Names in torch.version that are set if torch was built for an accelerator.
_VERSIONS = {"cuda": ("cuda", "hip"), "xpu": ("xpu",)}

#: Accelerators that were seen started; kept only where torch cannot tell a forked child.
_seen_started: set[str] = set()
#: Accelerators that were found to have one.
_with_queue: set[str] = set()
#: Accelerators whose lack of a queue was warned of.
_warned: set[str] = set()


class CapturedStates(dict[int, "Any"]):
    """States by device index, and how many devices the process had."""

    __slots__ = ("count",)

    def __init__(self, states: States, count: int) -> None:
        super().__init__(states)
        self.count = count


class _LeftOut(dict[int, "Any"]):
    """What is saved of an accelerator that has not started and has no queue we know: nothing."""


class AcceleratorSource(CopiedByName):
    """All default generators of one accelerator type, or those of some devices.

    A state is a dict from device index to the tensor that ``get_state()`` returns (on CUDA
    uint8, shape ``(16,)``, on the CPU: seed and Philox offset), or a ``QueuedState``.
    """

    library = "torch"
    is_switch = False
    keeps_fresh_seed_after_fork = False

    def __init__(
        self, name: str, devices: Devices = None, without: tuple[int | None, ...] = ()
    ) -> None:
        self.name = name
        self.identity = f"accelerator {name}"
        #: What torch's core has if it is built for it.
        self.init = _details.IS_BUILT.name.format(name)
        #: Device indices, None for all; None among them stands for the current device.
        self.devices = devices
        #: Device indices that are left out.
        self.without = without

    def limited_to(self, devices: Devices, without: tuple[int | None, ...] = ()) -> Self:
        """Return this source over some devices only."""
        return type(self)(self.name, devices, without)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.devices is None and not self.without:
            return super().__reduce__()
        return limited_source_of, (self.identity, self.devices, self.without)

    def covers_as(self, other: AcceleratorSource) -> bool:
        """Tell whether both cover the same devices."""
        return self.devices == other.devices and self.without == other.without

    def shared_with(self, other: AcceleratorSource) -> AcceleratorSource:
        """Return this source over the devices that both cover."""
        if self.devices is None and other.devices is None:
            return self.limited_to(None, tuple({*self.without, *other.without}))
        few, many = (self, other) if self.devices is not None else (other, self)
        return few.limited_to(tuple(i for i in few.devices or () if many._has(i)))

    def shares_with(self, other: AcceleratorSource) -> bool:
        """Tell whether there is a device that both cover."""
        return self.shared_with(other).devices != ()

    def beyond(self, other: AcceleratorSource) -> AcceleratorSource:
        """Return this source over the devices that the other one does not cover."""
        if self.devices is not None:
            return self.limited_to(tuple(i for i in self.devices if not other._has(i)))
        if other.devices is not None:
            return self.limited_to(None, (*self.without, *other.devices))
        return self.limited_to(tuple(i for i in other.without if i not in self.without))

    def _has(self, index: int | None) -> bool:
        return (self.devices is None or index in self.devices) and index not in self.without

    # What torch knows ------------------------------------------------------------------

    def is_built(self) -> bool:
        """Tell whether this build of torch has the accelerator, without asking a driver."""
        torch = torch_module()
        if torch is None:
            return False
        core = getattr(torch, _CORE, None)
        if core is not None and self.init in core.__dict__:
            return True
        # That is the answer no, unless torch says otherwise.
        if not any(getattr(torch.version, name, None) for name in _VERSIONS[self.name]):
            return False
        _details.find(_details.IS_BUILT.on(self.name))
        return True

    def module(self) -> Any:
        """Return ``torch.<name>``; None where no call to it can work."""
        if not self.is_built():
            return None
        module = sys.modules["torch"].__dict__[self.name]
        # In a forked child of a process that had started it, the accelerator is unusable,
        # and every call says so with an error.
        ask = getattr(module, _IN_BAD_FORK, None)
        is_in_bad_fork = ask() if ask is not None else _has_ended(module, self.name)
        return None if is_in_bad_fork else module

    def is_started(self, module: Any) -> bool:
        """Tell whether the generators exist, without asking the driver anything."""
        # While the queued calls run, the generators exist already.
        return module.is_initialized() or hasattr(
            getattr(module, _STARTING, None), "is_initializing"
        )

    def generators(self, module: Any) -> list[Any]:
        """Return one default generator per device of a started accelerator."""
        # Not device_count(): hidden devices and MIG make it lie (pytorch#95784, #131667).
        found = getattr(module, _GENERATORS, None)
        if found is not None:
            return list(found)
        _details.find(_details.GENERATORS.on(self.name))
        return [_FunctionGenerator(module, self.name, i) for i in range(module.device_count())]

    def covered(self, module: Any) -> dict[int, Any]:
        """Return the covered generators of a started accelerator by device index.

        Raises:
            ValueError: a device does not exist.
        """
        generators = self.generators(module)
        if self.devices is None:
            covered = dict(enumerate(generators))
            for index in self.without:
                covered.pop(module.current_device() if index is None else index, None)
            return covered
        indices = [module.current_device() if i is None else i for i in self.devices]
        for index in indices:
            if index >= len(generators):
                raise ValueError(
                    f"unknown device '{self.name}:{index}'; this process has "
                    f"{len(generators)} {self.name} device(s), counted from 0"
                )
        return {i: generators[i] for i in sorted(set(indices))}

    def covered_at_start(self, module: Any) -> dict[int, Any]:
        """Return the covered generators, with a warning for devices that are missing."""
        try:
            return self.covered(module)
        except ValueError as error:
            _warn(str(error))
            count = len(self.generators(module))
            there = tuple(i for i in self.devices or () if i is None or i < count)
            return self.limited_to(there).covered(module)

    # The verbs of a source -------------------------------------------------------------

    def save(self) -> Any:
        module = self.module()
        if module is None:
            return {}
        if self.is_started(module):
            _refuse_capture(module, self.name, "save")
            return {i: g.get_state() for i, g in self.covered(module).items()}
        lock = PatientLock(getattr(module, _START_LOCK, None) or _own_lock(self.name))
        try:
            lock.acquire()
            state: Any = None
            if not module.is_initialized():
                if _has_queue(module, self.name):
                    state = _restored_last(self, module) or QueuedState(self, module)
                else:
                    state = _LeftOut()
        finally:
            lock.release()
        # None: it has been started meanwhile.
        return self.save() if state is None else state

    def capture(self) -> Any:
        module = self.module()
        if module is None or not self.is_started(module):
            return None
        return self.portable(self.save())

    def portable(self, state: Any) -> Any:
        parts = state if isinstance(state, tuple) else (state,)
        module = self.module()
        if module is not None and self.is_started(module):
            parts = tuple(p.states(module) if isinstance(p, QueuedState) else p for p in parts)
        # What is only queued has no state yet.
        found = {i: s for part in parts if isinstance(part, dict) for i, s in part.items()}
        if not found:
            return None
        # Not self.module(): in a forked child, where it is None, the generators still count.
        module = sys.modules["torch"].__dict__[self.name]
        return CapturedStates(found, len(self.generators(module)))

    def duplicate(self, state: Any) -> Any:
        """Return a saved state for a second owner: each takes its own out of torch's queue."""
        if isinstance(state, tuple):
            return tuple(map(self.duplicate, state))
        return state._limited(state.source) if isinstance(state, QueuedState) else state

    def is_as_begun(self, state: Any) -> bool:
        """Tell whether all that waits in a saved state is what a scope or a stream began with."""
        parts = state if isinstance(state, tuple) else (state,)
        return all(part.is_as_begun() for part in parts if isinstance(part, QueuedState))

    def restore(self, state: Any) -> None:
        if isinstance(state, tuple):
            # In parts: other scopes stood above this one with some of the devices.
            for part in state:
                self.restore(part)
            return
        module = self.module()
        if module is None:
            return
        if not self.is_started(module):
            lock = PatientLock(getattr(module, _START_LOCK, None) or _own_lock(self.name))
            try:
                lock.acquire()
                if not module.is_initialized():
                    if not isinstance(state, _LeftOut):
                        state.put_back(module)
                    return
            finally:
                lock.release()
        if isinstance(state, _LeftOut):
            _warn_of_no_queue(
                self.name,
                f"{self.name} was started inside an RNG scope, which has neither seeded it nor "
                f"put it back",
            )
            return
        _refuse_capture(module, self.name, "restore")
        if isinstance(state, QueuedState):
            state.put_back(module)
            state = state.states(module)
        self.set_each(module, state)

    def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
        saved.append(self.save())
        if not isinstance(saved[-1], _LeftOut):
            self.seed(seed, independent)

    def seed(self, seed: int, independent: bool) -> None:
        self._change(_Seed(self, seed, independent))

    def replay(self, state: CapturedStates) -> None:
        self._change(_Replay(self, state))

    def is_present(self) -> bool:
        return self.module() is not None

    def check(self, state: CapturedStates) -> None:
        """Refuse a state of another number of devices, if that can be known yet.

        Raises:
            ValueError: naming both numbers.
        """
        module = self.module()
        if module is not None and self.is_started(module):
            _Replay(self, state).check(module)

    def check_start(self) -> None:
        """Refuse to leave a state for a start that cannot be, if that can be known yet.

        Raises:
            ValueError: saying what is missing.
        """
        module = self.module()
        if module is None or self.is_started(module):
            return
        if not _has_queue(module, self.name):
            raise ValueError(f"{self.name} has not started, and {_no_queue(self.name)}")
        reason = why_it_cannot_start(self.name)
        if reason is not None:
            raise ValueError(
                f"the state holds {self.name!r}, which cannot start in this process: {reason}; "
                f"leave it out with restore(strict=False)"
            )

    def warn_if_out_of_reach(self) -> None:
        """Say that a change for good does not reach it."""
        module = self.module()
        if module is not None and not self.is_started(module):
            if not _has_queue(module, self.name):
                _warn_of_no_queue(self.name, f"{self.name} has not started and is not seeded")

    def only_present(self, state: CapturedStates) -> AcceleratorSource | None:
        """Return this source over those devices of ``state`` that are there."""
        module = self.module()
        if module is None or not self.is_started(module):
            return None
        return self.limited_to(tuple(i for i in state if i < len(self.generators(module))))

    def _change(self, change: _Seed | _Replay) -> None:
        """Change the covered generators now, or as soon as they exist."""
        module = self.module()
        if module is None:
            # That it was present may have been found before a fork.
            return
        if not self.is_started(module):
            lock = PatientLock(getattr(module, _START_LOCK, None) or _own_lock(self.name))
            try:
                lock.acquire()
                if not module.is_initialized():
                    if _has_queue(module, self.name):
                        _append(module, change)
                    return
            finally:
                lock.release()
        _refuse_capture(module, self.name, "change")
        change.apply(module, self.covered(module))

    def set_each(self, module: Any, states: States) -> None:
        generators = self.generators(module)
        errors: list[BaseException] = []
        for index, state in states.items():
            try:
                set_generator(generators[index], state, f"{self.name}:{index}")
            except BaseException as error:
                # One device that fails must not keep the others from being restored.
                errors.append(error)
        raise_together(f"some {self.name} devices could not be restored", errors)

    def pass_on(self, upper: Any, state: Any) -> tuple[Any, Any, Any]:
        """Exchange a saved state with the one that a scope above has saved.

        The two may cover different devices.

        Returns:
            What the scope above has saved now, what it had, and what is left of ``state``
            for those that it does not cover; None for nothing.
        """
        module = self.module()
        if module is None:
            # A forked child: nothing will be put back.
            return upper, state, None
        if isinstance(state, tuple):
            displaced: tuple[Any, ...] = ()
            rests: tuple[Any, ...] = ()
            for part in state:
                upper, was, rest = self.pass_on(upper, part)
                displaced += () if was is None else (was,)
                rests += () if rest is None else (rest,)
            return upper, displaced or None, rests or None
        if isinstance(state, _LeftOut) or isinstance(upper, _LeftOut):
            return state, upper, None
        if not self.is_started(module):
            return upper.exchange(state)  # type: ignore[no-any-return]
        state = state.states(module) if isinstance(state, QueuedState) else state
        upper = upper.states(module) if isinstance(upper, QueuedState) else upper
        shared = state.keys() & upper.keys()
        return (
            {**upper, **{i: state[i] for i in shared}},
            {i: upper[i] for i in shared},
            {i: s for i, s in state.items() if i not in shared} or None,
        )

    def dump(self, state: CapturedStates) -> dict[str, Any]:
        states = {str(index): tensor_bytes(tensor).hex() for index, tensor in state.items()}
        return {"count": state.count, "states": states}

    def load(self, fields: Any) -> CapturedStates:
        check_keys(fields, {"count", "states"}, self.name)
        count = check_range(fields["count"], 1, 2**15, f"{self.name}.count")
        plain = fields["states"]
        indices = {str(index): index for index in range(count)}
        if not isinstance(plain, dict) or not plain or not indices.keys() >= plain.keys():
            raise ValueError(
                f"{self.name}.states must be a dict from device index, below {count} and in "
                f"decimal digits, to state"
            )
        states = {
            indices[index]: load_hex(text, f"{self.name}.states.{index}")
            for index, text in plain.items()
        }
        if self.name == "cuda":
            for index, data in states.items():
                # Seed and Philox offset, 8 bytes each; the offset counts in fours.
                if len(data) != 16 or data[8] % 4:
                    raise ValueError(
                        f"cuda.states.{index} must be 16 bytes: a seed, and an offset that "
                        f"is a multiple of 4"
                    )
        return CapturedStates(states, count)


class MtiaSource(AcceleratorSource):
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


class MpsSource(AcceleratorSource):
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


class PrivateSource(AcceleratorSource):
    """The private backend that the program registered with torch, under its own name."""

    def __init__(
        self, name: str = "", devices: Devices = None, without: tuple[int | None, ...] = ()
    ) -> None:
        # The same for all of them, whatever the name is by then.
        super().__init__("privateuseone", devices, without)

    @property
    def name(self) -> str:
        torch = torch_module()
        if torch is None:
            return "privateuseone"
        find = core_names(torch).get(_details.PRIVATE_NAME.name)
        if find is None:
            _details.find(_details.PRIVATE_NAME)
            return "privateuseone"
        return find()  # type: ignore[no-any-return]

    @name.setter
    def name(self, name: str) -> None:
        """Take no name: torch knows it, and the program may still choose it."""

    def is_built(self) -> bool:
        torch = torch_module()
        module = None if torch is None else torch.__dict__.get(self.name)
        # A backend without these has no RNG that anybody could save.
        needed = (_details.IN_BAD_FORK.name, "manual_seed_all", "get_rng_state", "set_rng_state")
        return module is not None and all(hasattr(module, name) for name in needed)

    def is_started(self, module: Any) -> bool:
        return bool(getattr(module, "is_initialized", lambda: True)())

    def generators(self, module: Any) -> list[Any]:
        if hasattr(module, _GENERATORS):
            return super().generators(module)
        return [_FunctionGenerator(module, self.name, i) for i in range(module.device_count())]

    def is_present(self) -> bool:
        # One that has not started has no queue of torch's kind.
        module = self.module()
        return module is not None and self.is_started(module)


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


class QueuedState:
    """The state of an accelerator that has not started: a point in the queue for its start.

    Made and put back under torch's own lock for the queue.
    """

    __slots__ = ("source", "mark", "calls", "overlays", "__weakref__")

    def __init__(self, source: AcceleratorSource, module: Any) -> None:
        queue = _queue(module)
        self.source = source
        self.mark = _Mark(source.limited_to(None), _tracker(module))
        # What the body queues comes after the seeds that are queued now.
        _queue_seeds(module)
        #: What is queued before the mark.
        self.calls = list(queue)
        self.mark.states_of_it.append(ref(self))
        #: States that replace this one for some devices.
        self.overlays: tuple[QueuedState, ...] = ()
        queue.append((self.mark, []))

    def put_back(self, module: Any) -> None:
        """Take out of the queue what came after the mark and is about the covered devices.

        Calls that are not about RNGs stay. Calls of the program that are reach devices that
        are not covered as well: where there are such devices, they stay too, and the
        covered ones are put back behind them.
        """
        queue = _queue(module)
        if self.mark.states and not self.source.is_started(module):
            # A start that failed later on has run the mark, and what came after it.
            self.source.set_each(module, self.states(module))
        place = self._place_in(queue)
        if place is None:
            self._queue_again(module)
            return
        before, after = queue[:place], queue[place + 1 :]
        is_whole = self.source.devices is None and not self.source.without
        if not is_whole:
            tracked = _tracker(module).call_order
            if self._reaches_beyond(after + tracked) or self._is_seen_by_others(after):
                _append(module, _Restore(self))
                return
        if is_whole:
            after = [entry for entry in after if not self._is_about_rngs(entry[0])]
        else:
            after = [entry for entry in after if not self._is_of_covered(entry[0])]
            after = [e for e in after if not isinstance(e[0], _Mark) or e[0].is_needed(self)]
        if queue[place][0] is not self.mark or self.mark.is_needed(self):
            after.insert(0, queue[place])
        queue[:] = before + after
        self.mark.give_seeds_back(module, [call for call, _ in after])
        for overlay in self.overlays:
            overlay.put_back(module)

    def _place_in(self, queue: list[Any]) -> int | None:
        """Return the last point of the queue at which this state holds."""
        for place in reversed(range(len(queue))):
            call = queue[place][0]
            if call is self.mark or (isinstance(call, _Restore) and call.state is self):
                return place
        return None

    def _queue_again(self, module: Any) -> None:
        """Put back a state of a body that was put aside: what it had queued is queued anew."""
        queue = _queue(module)
        if self.source.devices is not None or self.source.without:
            _append(module, _Restore(self))
            return
        there = {id(entry) for entry in queue}
        queue.extend(
            entry
            for entry in self.calls
            if id(entry) not in there
            and self._is_about_rngs(entry[0])
            and not isinstance(entry[0], _Mark)
        )

    def is_as_begun(self) -> bool:
        """Tell whether a seed or a state of ours is what was queued last."""
        last = next(filter(self._decides, (call for call, _ in reversed(self.calls))), None)
        if isinstance(last, _Restore):
            return last.state.is_as_begun()
        return isinstance(last, _Change)

    def _decides(self, call: Any) -> bool:
        """Tell whether a call is about RNGs, and not a change of a part of the devices only."""
        if isinstance(call, _Change):
            return self.source.beyond(call.source).devices == ()
        return self._is_about_rngs(call) and not isinstance(call, _Mark)

    def states(self, module: Any) -> States:
        """Return what the generators held at this point, now that they exist."""
        source = self.source
        found = self.mark.states or self._run_again(module)
        covered = source.covered_at_start(module)
        states = {index: found[index] for index in covered if index in found}
        for overlay in self.overlays:
            states.update(overlay.states(module))
        return states

    def _run_again(self, module: Any) -> States:
        """Find the state of a body that was put aside while the accelerator started."""
        everywhere = self.source.limited_to(None)
        now = {i: g.get_state() for i, g in everywhere.covered(module).items()}
        try:
            for call, _ in self.calls:
                if self._is_about_rngs(call) and not isinstance(call, _Mark):
                    call()
            return {i: g.get_state() for i, g in everywhere.covered(module).items()}
        finally:
            everywhere.set_each(module, now)

    def exchange(self, state: QueuedState) -> tuple[Any, Any, Any]:
        """Do ``pass_on`` while the accelerator has not started."""
        shared = self.source.shared_with(state.source)
        if shared.devices == ():
            return self, None, state
        beyond = state.source.beyond(shared)
        rest = None if beyond.devices == () else state._limited(beyond)
        if shared.covers_as(self.source):
            return state._limited(shared), self, rest
        kept = self._limited(self.source)
        kept.overlays = (*self.overlays, state._limited(shared))
        return kept, self._limited(shared), rest

    def _limited(self, source: AcceleratorSource) -> QueuedState:
        """Return this state for some devices only."""
        copy = object.__new__(QueuedState)
        copy.source, copy.mark, copy.calls = source, self.mark, self.calls
        copy.overlays = self.overlays
        self.mark.states_of_it.append(ref(copy))
        return copy

    def _reaches_beyond(self, entries: list[Any]) -> bool:
        """Tell whether a call is about covered devices and others as well."""
        for entry in entries:
            if not entry or isinstance(entry[0], _Mark):
                continue
            if isinstance(entry[0], _Change):
                other = entry[0].source
                if not self.source.shares_with(other) or self._is_of_covered(entry[0]):
                    continue
            if self._is_about_rngs(entry[0]):
                return True
        return False

    def _is_seen_by_others(self, entries: list[Any]) -> bool:
        """Tell whether a change that would be taken out is part of another state."""
        changed: list[AcceleratorSource] = []
        for call, _ in entries:
            if isinstance(call, _Mark):
                others = [state() for state in call.states_of_it]
                for other in others:
                    if other not in (None, self) and any(map(other.source.shares_with, changed)):
                        return True
            elif self._is_of_covered(call):
                changed.append(call.source)
        return False

    def _is_of_covered(self, call: Any) -> bool:
        """Tell whether a call is ours, and of no devices but covered ones."""
        return isinstance(call, _Change) and call.source.beyond(self.source).devices == ()

    def _is_about_rngs(self, call: Any) -> bool:
        if isinstance(call, (_Mark, _Change)):
            return True
        package = f"torch.{self.source.name}"
        function = getattr(call, "__qualname__", "").partition(".")[0]
        module = getattr(call, "__module__", "") or ""
        is_torch = module in (package, f"{package}.random")
        return is_torch and function in _details.RNG_FUNCTIONS


class _Mark:
    """A point in the queue: called when the accelerator starts, keeps the states."""

    __slots__ = ("source", "states", "seeds", "states_of_it")

    def __init__(self, source: AcceleratorSource, tracker: Any) -> None:
        self.source = source
        self.states: States = {}
        #: The latest seeds at this point, as torch's tracker holds them.
        self.seeds = (tracker.manual_seed_all_cb, tracker.manual_seed_cb, tracker.call_order)
        #: The states of this point; several if they are for some devices each.
        self.states_of_it: list[ref[QueuedState]] = []

    def is_needed(self, state: QueuedState) -> bool:
        """Tell whether, besides by ``state``, somebody will come back to this point."""
        return any(other() not in (None, state) for other in self.states_of_it)

    def __call__(self) -> None:
        for index, generator in enumerate(self.source.generators(self.source.module())):
            try:
                # The first time counts: after a start that failed, all is run again.
                if index not in self.states:
                    self.states[index] = generator.get_state()
            except Exception as error:
                # A failure here would break the start of the accelerator.
                _warn(f"could not save the RNG of {self.source.name}:{index} at start: {error}")

    def give_seeds_back(self, module: Any, later: list[Any]) -> None:
        """Make the seeds that were queued before this mark the latest ones again.

        While marks of other scopes follow, that is left to the first of them. Behind a
        change of ours they must not come: there they stay calls like any other.
        """
        queue, tracker = _queue(module), _tracker(module)
        heirs = [call for call in later if isinstance(call, _Mark)]
        if not any(isinstance(call, (_Mark, _Change)) for call in later):
            moved = {id(entry) for entry in self.seeds[2]}
            queue[:] = [entry for entry in queue if id(entry) not in moved]
            tracker.manual_seed_all_cb, tracker.manual_seed_cb, tracker.call_order = self.seeds
        elif heirs and not any(heirs[0].seeds[2]):
            heirs[0].seeds = self.seeds


class _Change:
    """A change of generators, made now or called when the accelerator starts."""

    __slots__ = ("source",)

    def __init__(self, source: AcceleratorSource) -> None:
        self.source = source

    if TYPE_CHECKING:

        def apply(self, module: Any, generators: dict[int, Any]) -> None:
            """Change these generators of a started accelerator, by device index."""

    def __call__(self) -> None:
        module = self.source.module()
        try:
            self.apply(module, self.source.covered_at_start(module))
        except Exception as error:
            # The start of an accelerator must not break on it.
            _warn(f"could not set the RNG of {self.source.name} at its start: {error}")


class _Seed(_Change):
    __slots__ = ("seed", "independent")

    def __init__(self, source: AcceleratorSource, seed: int, independent: bool) -> None:
        super().__init__(source)
        self.seed, self.independent = seed, independent

    def apply(self, module: Any, generators: dict[int, Any]) -> None:
        seed, name = self.seed, self.source.name
        for index, generator in generators.items():
            generator.manual_seed(source_seed(seed, name, index) if self.independent else seed)


class _Replay(_Change):
    """Continue from a captured state, which must be one of as many devices."""

    __slots__ = ("state",)

    def __init__(self, source: AcceleratorSource, state: CapturedStates) -> None:
        super().__init__(source)
        self.state = state

    def apply(self, module: Any, generators: dict[int, Any]) -> None:
        self.check(module)
        self.source.set_each(module, {i: s for i, s in self.state.items() if i in generators})

    def check(self, module: Any) -> None:
        """Refuse a state of another number of devices, unless only some are wanted."""
        here = len(self.source.generators(module))
        if self.source.devices is None and self.state.count != here:
            raise ValueError(
                f"the state is of {self.state.count} {self.source.name} device(s) and this "
                f"process has {here}; RNGState.restore(strict=False) restores those that are "
                f"there, devices= chooses some"
            )


class _Restore(_Change):
    """Put some devices back, behind calls of the body that reach others too."""

    __slots__ = ("state",)

    def __init__(self, state: QueuedState) -> None:
        super().__init__(state.source)
        self.state = state

    def apply(self, module: Any, generators: dict[int, Any]) -> None:
        self.source.set_each(module, self.state.states(module))


def _has_ended(module: Any, name: str) -> bool:
    """Tell whether an accelerator that had started has not any more: only a fork does that."""
    _details.find(_details.IN_BAD_FORK.on(name))
    if module.is_initialized():
        _seen_started.add(name)
        return False
    return name in _seen_started


def _own_lock(name: str) -> Any:
    """Return a lock in place of torch's lock for the start."""
    _details.find(_details.START_LOCK.on(name))
    return allocate_lock()


def _has_queue(module: Any, name: str) -> bool:
    """Tell whether all is there that seeds and states need to wait for the start."""
    if name in _with_queue:
        return True
    try:
        _whole_queue(module)
        _with_queue.add(name)
        return True
    except AttributeError:
        for row in _QUEUE_ROWS:
            _details.find(row.on(name))
        return False


def _no_queue(name: str) -> str:
    gone = {row.path for row in _details.missing()}
    path = next(row.path for row in (row.on(name) for row in _QUEUE_ROWS) if row.path in gone)
    return (
        f"this torch has no {path}, without which no seed or state can wait for the start; "
        f"start {name} first: torch.{name}.init()"
    )


def _warn_of_no_queue(name: str, what: str) -> None:
    if name not in _warned:
        _warned.add(name)
        warn_caller(f"{what}: {_no_queue(name)}")


def _restored_last(source: AcceleratorSource, module: Any) -> QueuedState | None:
    """Return the state that was put back last, if it is what would be saved now.

    So a body that suspends again and again does not make the queue longer.
    """
    last = _queue(module)[-1][0] if _queue(module) else None
    if isinstance(last, _Restore) and not _tracker(module).call_order:
        if last.source.covers_as(source):
            return last.state
    return None


def _queue_seeds(module: Any) -> None:
    """Make the latest seeds calls like any other: torch would run them after all others."""
    tracker = _tracker(module)
    if tracker.call_order:
        _queue(module).extend(entry for entry in tracker.call_order if entry)
        tracker.manual_seed_all_cb = tracker.manual_seed_cb = None
        # A new list: a saved state keeps the old one.
        tracker.call_order = []


def _append(module: Any, change: _Change) -> None:
    """Queue a change behind all that is queued, the latest seeds included."""
    queue = _queue(module)
    _queue_seeds(module)
    last = queue[-1][0] if queue else None
    if isinstance(change, _Seed) and isinstance(last, _Seed):
        if last.source.covers_as(change.source):
            # To seed again and again does not make the queue longer.
            queue.pop()
    queue.append((change, []))


def _refuse_capture(module: Any, name: str, verb: str) -> None:
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
        f"cannot {verb} the {name} RNG states while a CUDA graph is captured; put the scope "
        f"around the capture, or leave {name} out with sources="
    )


def _warn(message: str) -> None:
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        # Under -W error; the start of an accelerator must not break on it.
        pass
