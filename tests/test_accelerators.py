"""Laws 3, 4, 5, 6 and 7 for accelerators, over torch's own queue and without a GPU."""

import os
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from simulated_cuda import ACCELERATORS, simulated_cuda, state_bytes  # noqa: E402

from rngscope import (  # noqa: E402
    RNGState,
    RNGStream,
    _present,
    assert_rng_unchanged,
    derive_seed,
    rng_scope,
    seed_all,
    seeded,
)

pytestmark = [
    pytest.mark.filterwarnings("error::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

DEVICES = [1, 2, 8]
#: The moments at which the accelerator of two nested scopes can start.
MOMENTS = ["before", "outer", "inner", "between", "after", "never"]
SEEDS = [(42, 43), (None, 43), (42, None), (None, None)]


@pytest.fixture(params=ACCELERATORS)
def name(request):
    return request.param


# What the tests compare with --------------------------------------------------------------


def hand_seeded(seed, draws=0):
    """Return a generator that rngscope has never seen."""
    generator = torch.Generator().manual_seed(seed)
    if draws:
        torch.rand(draws, generator=generator)
    return generator


def from_bytes(state):
    generator = torch.Generator()
    generator.set_state(torch.tensor(list(state), dtype=torch.uint8))
    return generator


def assert_same(generator, expected):
    """Compare two generators on bytes and on draws; both move on."""
    assert state_bytes(generator) == state_bytes(expected)
    assert generator.initial_seed() == expected.initial_seed()
    draw = torch.rand(3, generator=generator)
    assert torch.equal(draw, torch.rand(3, generator=expected))


def assert_all(accelerator, expected):
    """Compare every device with what ``expected(index)`` says: a seed, a generator, bytes."""
    assert len(accelerator.generators) == accelerator.devices
    for index, generator in enumerate(accelerator.generators):
        value = expected(index)
        if isinstance(value, int):
            value = hand_seeded(value)
        elif isinstance(value, bytes):
            value = from_bytes(value)
        assert_same(generator, value)


def draw(accelerator):
    for index, generator in enumerate(accelerator.generators):
        torch.rand(index + 1, generator=generator)


def on_the_cpu():
    """Return the states of all other sources as plain values."""
    words = np.random.get_state(legacy=False)
    return (
        random.getstate(),
        (words["state"]["key"].tobytes(), words["state"]["pos"]),
        (words["has_gauss"], words["gauss"]),
        torch.get_rng_state().numpy().tobytes(),
        torch.initial_seed(),
    )


# What a program may have queued before ----------------------------------------------------


class Program(NamedTuple):
    """Calls that wait for the accelerator, and what each device holds after them.

    ``holds(index)`` is a generator, or None for the entropy of the start.
    """

    name: str
    run: Callable[..., None]
    holds: Callable[[int], object]

    def outcome(self, accelerator, index):
        held = self.holds(index)
        return from_bytes(accelerator.fresh[index]) if held is None else held


def queue_state(module, index=0):
    module.set_rng_state(hand_seeded(11, draws=3).get_state(), index)


def queue_state_then_seed(module):
    queue_state(module)
    module.manual_seed_all(7)


def queue_seed_then_state(module):
    module.manual_seed_all(7)
    queue_state(module)


def queue_two_seeds(module):
    torch.manual_seed(7)
    module.manual_seed(8)


def queue_two_seeds_the_other_way_round(module):
    module.manual_seed(8)
    module.manual_seed_all(7)


PROGRAMS = [
    Program("nothing", lambda module: None, lambda i: None),
    Program("torch.manual_seed", lambda module: torch.manual_seed(7), lambda i: hand_seeded(7)),
    Program("manual_seed_all", lambda m: m.manual_seed_all(7), lambda i: hand_seeded(7)),
    Program("manual_seed", lambda m: m.manual_seed(7), lambda i: None if i else hand_seeded(7)),
    Program("set_rng_state", queue_state, lambda i: None if i else hand_seeded(11, 3)),
    # torch runs queued seeds after queued states, in whatever order they came.
    Program("state then seed", queue_state_then_seed, lambda i: hand_seeded(7)),
    Program("seed then state", queue_seed_then_state, lambda i: hand_seeded(7)),
    Program("all then one", queue_two_seeds, lambda i: hand_seeded(7 if i else 8)),
    Program("one then all", queue_two_seeds_the_other_way_round, lambda i: hand_seeded(7)),
]
by_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
by_few_programs = pytest.mark.parametrize(
    "program", [PROGRAMS[i] for i in (0, 1, 4, 7)], ids=lambda program: program.name
)
by_moment = pytest.mark.parametrize("moment", MOMENTS)


class Model:
    """Plain copies of what the generators of nested scopes must hold.

    Until the accelerator has started there is nothing to copy, only what waits: for each
    scope its seed, and what its body has queued.
    """

    def __init__(self, accelerator, program):
        self.accelerator = accelerator
        self.program = program
        self.levels = []
        self.queued = []
        self.copies = None

    def _copies_of_a_scope(self, level):
        below = self.copies[-1]
        seed, queued = self.levels[level], self.queued[level]
        if seed is not None:
            copies = [hand_seeded(seed) for _ in below]
        else:
            copies = [from_bytes(state_bytes(generator)) for generator in below]
        for change in queued:
            copies = [change(index, copy) for index, copy in enumerate(copies)]
        self.copies.append(copies)

    def look(self):
        """Compare with the generators, once there are any; both move on."""
        if not self.accelerator.started:
            assert self.accelerator.generators == []
            return
        if self.copies is None:
            indices = range(self.accelerator.devices)
            self.copies = [[self.program.outcome(self.accelerator, i) for i in indices]]
            for level in range(len(self.levels)):
                self._copies_of_a_scope(level)
        for generator, copy in zip(self.accelerator.generators, self.copies[-1], strict=True):
            assert_same(generator, copy)

    def enter(self, seed):
        self.levels.append(seed)
        self.queued.append([])
        if self.copies is not None:
            self._copies_of_a_scope(-1)

    def leave(self):
        self.levels.pop()
        self.queued.pop()
        if self.copies is not None:
            self.copies.pop()


def walk(accelerator, program, moment, seeds, body=lambda level, model: None):
    """Enter two nested scopes, start at ``moment``, and look at every step."""

    def at(now):
        if now == moment:
            accelerator.start()

    model = Model(accelerator, program)
    program.run(accelerator.module)
    at("before")
    model.look()
    waiting = accelerator.queue()
    with rng_scope(seeds[0]):
        model.enter(seeds[0])
        body("outer", model)
        at("outer")
        model.look()
        inside = accelerator.queue()
        with rng_scope(seeds[1]):
            model.enter(seeds[1])
            body("inner", model)
            at("inner")
            model.look()
            model.look()
        model.leave()
        if moment != "inner":
            assert accelerator.queue() == inside
        at("between")
        model.look()
    model.leave()
    if moment in ("before", "after", "never"):
        assert accelerator.queue() == waiting
    at("after")
    model.look()
    assert accelerator.started == (moment != "never")
    assert accelerator.ran == (["capability", "cubins"] if accelerator.started else [])


# Laws 3 and 4: an accelerator that has not started ----------------------------------------


@by_moment
@by_program
@pytest.mark.parametrize("seeds", SEEDS)
def test_whenever_it_starts_each_scope_has_its_stream_and_the_program_its_own(
    name, program, moment, seeds
):
    """Law 4: it behaves as if it had started just before the outermost scope."""
    with simulated_cuda(2, name=name) as accelerator:
        walk(accelerator, program, moment, seeds)


@by_moment
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("program", [PROGRAMS[0], PROGRAMS[7]], ids=lambda program: program.name)
def test_every_device_is_seeded_and_restored(name, devices, program, moment):
    """Laws 1 and 4 hold for each of 1, 2 and 8 devices."""
    with simulated_cuda(devices, name=name) as accelerator:
        walk(accelerator, program, moment, (42, 43))


@pytest.mark.parametrize("moment", MOMENTS[:-1])
@by_program
def test_an_accelerator_without_devices_fails_to_start_and_nothing_else(name, program, moment):
    """Law 4: a start that fails in the driver leaves scopes and queue as they were."""
    with simulated_cuda(0, name=name) as accelerator:
        program.run(accelerator.module)
        waiting, before = accelerator.queue(), on_the_cpu()

        def at(now):
            if now == moment:
                with pytest.raises(RuntimeError, match="No .* GPUs are available"):
                    accelerator.start()

        at("before")
        with rng_scope(42):
            at("outer")
            with rng_scope(43):
                at("inner")
            at("between")
        at("after")
        assert accelerator.queue() == waiting
        assert on_the_cpu() == before


@by_program
@pytest.mark.parametrize("seed", [None, 42])
def test_a_scope_starts_nothing_and_leaves_the_queue_as_it_was(name, program, seed):
    """Law 3: the same entries in the same order, in the body nothing is asked of the driver."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        waiting = accelerator.queue()
        for _ in range(3):
            with rng_scope(seed):
                assert not accelerator.started and accelerator.generators == []
            assert accelerator.queue() == waiting
        with pytest.raises(ZeroDivisionError):
            with rng_scope(seed):
                raise ZeroDivisionError
        assert accelerator.queue() == waiting


def test_ten_thousand_scopes_do_not_lengthen_the_queue(name):
    """Law 4: nothing piles up in a program that never starts its accelerator."""
    with simulated_cuda(1, name=name) as accelerator:
        torch.manual_seed(7)
        waiting = accelerator.queue()
        scope = rng_scope(42)
        with rng_scope(1):
            inside = accelerator.queue()
            for _ in range(10_000):
                with scope:
                    pass
            assert accelerator.queue() == inside
        assert accelerator.queue() == waiting


def test_ten_thousand_calls_of_seed_all_do_not_lengthen_the_queue(name):
    """seed_all leaves one seed queued, as torch.manual_seed does, not one per call."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        seed_all(1)
        seed_all(2)
        length = len(accelerator.module._queued_calls)
        for seed in range(10_000):
            seed_all(seed)
        assert len(accelerator.module._queued_calls) == length
        accelerator.start()
        assert_all(accelerator, lambda index: 9_999)


@pytest.mark.parametrize("arguments", [
    {"seed": True},
    {"seed": -1},
    {"seed": 2**64},
    {"seed": 1.0},
    {"seed": 1, "devices": [-1]},
    {"seed": 1, "devices": [True]},
    {"seed": 1, "devices": "0"},
    {"seed": 1, "devices": [torch.device("cpu")]},
    {"seed": 1, "sources": ["cud"]},
    {"seed": 1, "generators": [3]},
], ids=str)
@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
def test_a_rejected_argument_touches_no_device_and_no_queue(name, start, arguments):
    """Law 2: arguments are checked before anything is touched."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        if start:
            accelerator.start()
        waiting, states, before = accelerator.queue(), accelerator.states(), on_the_cpu()
        with pytest.raises((TypeError, ValueError)):
            with rng_scope(**arguments):
                pass
        with pytest.raises((TypeError, ValueError)):
            allowed = {key: arguments[key] for key in arguments if key != "generators"}
            seed_all(**(allowed if allowed == arguments else {"seed": None}))
        assert accelerator.queue() == waiting
        assert accelerator.states() == states
        assert on_the_cpu() == before


# What the body queues ---------------------------------------------------------------------


def body_torch_seed(model):
    torch.manual_seed(99)
    model.queued[-1].append(lambda index, copy: hand_seeded(99))


def body_seed_all(model):
    model.accelerator.module.manual_seed_all(98)
    model.queued[-1].append(lambda index, copy: hand_seeded(98))


def body_seed_current(model):
    model.accelerator.module.manual_seed(97)
    model.queued[-1].append(lambda index, copy: copy if index else hand_seeded(97))


def body_state(model):
    model.accelerator.module.set_rng_state(hand_seeded(12, draws=2).get_state(), 1)
    model.queued[-1].append(lambda index, copy: hand_seeded(12, 2) if index == 1 else copy)


def body_library_seed(model):
    seed_all(96)
    model.queued[-1].append(lambda index, copy: hand_seeded(96))


BODIES = {
    "torch.manual_seed": body_torch_seed,
    "manual_seed_all": body_seed_all,
    "manual_seed": body_seed_current,
    "set_rng_state": body_state,
    "seed_all": body_library_seed,
}


@by_moment
@pytest.mark.parametrize("where", ["outer", "inner", "both"])
@pytest.mark.parametrize("queued", BODIES)
@pytest.mark.parametrize("seeds", [(42, 43), (None, None)])
@pytest.mark.parametrize("program", PROGRAMS[1:2], ids=lambda program: program.name)
def test_what_the_body_queues_for_the_rngs_counts_in_the_body_and_is_gone_after_it(
    name, program, moment, seeds, where, queued
):
    """Law 4: a seed queued in the body overrides the scope's, and ends with the body."""

    def body(level, model):
        # On an accelerator that had started, these calls take effect at once.
        if where in (level, "both") and not model.accelerator.started:
            BODIES[queued](model)

    with simulated_cuda(2, name=name) as accelerator:
        walk(accelerator, program, moment, seeds, body)


@pytest.mark.parametrize("start", ["inside", "after"])
@pytest.mark.parametrize("function", ["seed", "seed_all"])
@by_program
def test_entropy_queued_in_the_body_is_gone_after_it(name, program, function, start):
    """Law 4: torch.cuda.seed() is about RNGs too."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        waiting = accelerator.queue()
        with rng_scope(42):
            getattr(accelerator.module, function)()
            if start == "inside":
                accelerator.start()
                assert accelerator.states()[0] != state_bytes(hand_seeded(42))
        if start == "after":
            assert accelerator.queue() == waiting
            accelerator.start()
        assert_all(accelerator, lambda index: program.outcome(accelerator, index))


@pytest.mark.parametrize("accelerator_name", ["cuda", "xpu"])
def test_an_offset_queued_in_the_body_is_gone_after_it(accelerator_name):
    """Law 4: torch.cuda._set_rng_state_offset is about RNGs too."""
    with simulated_cuda(1, name=accelerator_name) as accelerator:
        waiting = accelerator.queue()
        with rng_scope(42):
            accelerator.module._set_rng_state_offset(8)
        assert accelerator.queue() == waiting


@by_moment
@pytest.mark.parametrize("seeds", SEEDS[::3])
@by_few_programs
def test_an_unrelated_call_queued_in_the_body_survives_and_runs_once(
    name, program, seeds, moment
):
    """Law 4: what the body queues for the accelerator itself is none of our business."""
    record = []

    def body(level, model):
        accelerator.module._lazy_call(lambda: record.append(level))
        if level == "inner" and not accelerator.started:
            torch.manual_seed(5)  # this one goes, the call around it stays
            model.queued[-1].append(lambda index, copy: hand_seeded(5))

    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        start = {now: accelerator.start for now in [moment]}
        start.get("before", int)()
        model = Model(accelerator, program)
        model.look()
        with rng_scope(seeds[0]):
            model.enter(seeds[0])
            body("outer", model)
            start.get("outer", int)()
            with rng_scope(seeds[1]):
                model.enter(seeds[1])
                body("inner", model)
                start.get("inner", int)()
                model.look()
            model.leave()
            start.get("between", int)()
            model.look()
        model.leave()
        start.get("after", int)()
        model.look()
        if moment == "never":
            assert record == []
            accelerator.start()
        assert record == ["outer", "inner"]
        assert accelerator.ran == ["capability", "cubins"]


def test_unrelated_calls_keep_their_order_behind_those_of_the_program(name):
    """Law 4: first what was queued before, then what the bodies queued, as they came."""
    record = []

    def queue(what):
        accelerator.module._lazy_call(lambda: record.append(what))

    with simulated_cuda(1, name=name) as accelerator:
        queue("first")
        with rng_scope(1):
            queue("second")
            with rng_scope(2):
                queue("third")
            queue("fourth")
        queue("fifth")
        entries = accelerator.module._queued_calls
        assert len(entries) == 2 + 5
        accelerator.start()
        assert record == ["first", "second", "third", "fourth", "fifth"]


def test_a_user_function_with_the_name_of_a_seeding_one_survives(name):
    """Law 4: what is about RNGs is told by torch's own functions, not by a name alone."""
    record = []

    def manual_seed():
        record.append("mine")

    with simulated_cuda(1, name=name) as accelerator:
        with rng_scope(1):
            accelerator.module._lazy_call(manual_seed)
        accelerator.start()
        assert record == ["mine"]


@by_few_programs
def test_what_the_program_queues_after_a_scope_counts_as_ever(name, program):
    """Law 4: after a scope, torch's queue works as if there had been none."""
    with simulated_cuda(2, name=name) as accelerator:
        with rng_scope(42):
            torch.manual_seed(99)
        program.run(accelerator.module)
        accelerator.start()
        assert_all(accelerator, lambda index: program.outcome(accelerator, index))


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_start_that_failed_in_the_body_and_is_tried_again_keeps_the_laws(name, seeds):
    """Law 4: a queued call that fails breaks the first attempt, not the scopes around it."""
    failures = [OSError("the driver is busy")]

    def fail_once():
        if failures:
            raise failures.pop()

    with simulated_cuda(2, name=name) as accelerator:
        with rng_scope(seeds[0]):
            with rng_scope(seeds[1]):
                accelerator.module._lazy_call(fail_once)
                with pytest.raises(Exception, match="the driver is busy"):
                    accelerator.start()
                assert not accelerator.started
                accelerator.start()
                if seeds[1] is not None:
                    assert_all(accelerator, lambda index: seeds[1])
            if seeds[0] is not None:
                assert_all(accelerator, lambda index: seeds[0])
        assert_all(accelerator, lambda index: accelerator.fresh[index])


@pytest.mark.parametrize("retry", ["in the outer", "after"])
def test_a_start_that_failed_in_the_body_can_be_tried_again_later(name, retry):
    """Law 4: after a failed attempt the queue is put back as ever."""
    failures = [OSError("the driver is busy")]

    def fail_once():
        if failures:
            raise failures.pop()

    with simulated_cuda(2, name=name) as accelerator:
        with rng_scope(42):
            with rng_scope(43):
                accelerator.module._lazy_call(fail_once)
                with pytest.raises(Exception, match="the driver is busy"):
                    accelerator.start()
            if retry == "in the outer":
                accelerator.start()
                assert_all(accelerator, lambda index: 42)
        if retry == "after":
            accelerator.start()
        assert_all(accelerator, lambda index: accelerator.fresh[index])


# A started accelerator --------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("start", ["before", "inside"])
@by_few_programs
def test_after_any_exit_every_device_is_what_it_was(name, program, devices, error, start):
    """Law 1: normal or not, the program's streams go on as if nothing had been drawn."""
    with simulated_cuda(devices, name=name) as accelerator:
        program.run(accelerator.module)
        if start == "before":
            accelerator.start()
        before = on_the_cpu()
        try:
            with rng_scope(42):
                if start == "inside":
                    accelerator.start()
                assert_all(accelerator, lambda index: 42)
                draw(accelerator)
                if error:
                    raise error
        except BaseException as caught:
            assert type(caught) is error and caught.__context__ is None
        assert_all(accelerator, lambda index: program.outcome(accelerator, index))
        assert on_the_cpu() == before


def test_a_stream_in_the_middle_goes_on_exactly(name):
    """Law 1: a half used stream, with a cached Gaussian, is put back as it was."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        for generator in accelerator.generators:
            torch.randn(3, generator=generator)
        states = accelerator.states()
        with rng_scope(42):
            for generator in accelerator.generators:
                torch.randn(5, generator=generator)
                generator.manual_seed(1)
        assert accelerator.states() == states


def test_the_generators_stay_the_same_objects(name):
    """A scope changes states, never the generators that others hold on to."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        generators = accelerator.module.default_generators
        with rng_scope(42):
            assert accelerator.module.default_generators is generators
        assert accelerator.module.default_generators is generators


@pytest.mark.parametrize("start", ["before", "inside", "after"])
@pytest.mark.parametrize("devices", DEVICES)
def test_independent_gives_each_device_a_seed_of_its_own(name, devices, start):
    """Each device gets derive_seed(seed, name, index)."""
    with simulated_cuda(devices, name=name) as accelerator:
        if start == "before":
            accelerator.start()
        waiting = accelerator.queue()
        with rng_scope(42, independent=True):
            if start == "inside":
                accelerator.start()
            if start != "after":
                assert_all(accelerator, lambda index: derive_seed(42, name, index))
        if start == "after":
            assert accelerator.queue() == waiting
            accelerator.start()
        assert_all(accelerator, lambda index: accelerator.fresh[index])


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
def test_the_whole_range_of_seeds_reaches_a_device(name, start, seed):
    """rng_scope(s) draws what manual_seed_all(s) would draw, initial_seed() included."""
    with simulated_cuda(1, name=name) as accelerator:
        if start:
            accelerator.start()
        with rng_scope(seed):
            accelerator.start()
            assert accelerator.generators[0].initial_seed() == seed
            assert_all(accelerator, lambda index: seed)


@pytest.mark.parametrize("start", ["before", "inside", "never"])
@pytest.mark.parametrize("left_out", [{"sources": ["python", "torch"]}, {"devices": []}], ids=str)
def test_a_scope_that_leaves_the_accelerator_out_does_not_touch_it(name, left_out, start):
    """Without the source, or with no device, seeds and draws on it are the program's."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        if start == "before":
            accelerator.start()
        waiting, states = accelerator.queue(), accelerator.states()
        with rng_scope(42, **left_out):
            assert accelerator.queue() == waiting
            assert accelerator.states() == states
            if start == "inside":
                accelerator.start()
            if accelerator.started:
                assert_all(accelerator, lambda index: 7)
            else:
                accelerator.module.manual_seed_all(8)
        if not accelerator.started:
            accelerator.start()
            assert_all(accelerator, lambda index: 8)
        else:
            assert_all(accelerator, lambda index: hand_seeded(7, draws=3))


def test_only_the_accelerator_can_be_a_source(name):
    """sources=[name] seeds the devices and nothing on the CPU."""
    with simulated_cuda(2, name=name) as accelerator:
        before = on_the_cpu()
        with rng_scope(42, sources=[name]):
            accelerator.start()
            assert on_the_cpu() == before
            assert_all(accelerator, lambda index: 42)
        assert_all(accelerator, lambda index: accelerator.fresh[index])


def test_a_decorated_function_seeds_the_accelerator_that_starts_in_it(name):
    """@seeded is the scope of each call."""
    with simulated_cuda(1, name=name) as accelerator:

        @seeded(42)
        def start_and_draw():
            accelerator.start()
            return torch.rand(3, generator=accelerator.generators[0])

        expected = torch.rand(3, generator=hand_seeded(42))
        assert torch.equal(start_and_draw(), expected)
        assert torch.equal(start_and_draw(), expected)
        assert_all(accelerator, lambda index: accelerator.fresh[index])


def test_a_start_in_another_thread_is_a_start_in_the_scope(name):
    """Law 4: the scope belongs to the process, and so does the accelerator."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        with rng_scope(42):
            thread = threading.Thread(target=accelerator.start)
            thread.start()
            thread.join()
            assert accelerator.started
            assert_all(accelerator, lambda index: 42)
        assert_all(accelerator, lambda index: 7)


def test_a_scope_inside_a_queued_call_works_while_the_accelerator_starts(name):
    """Law 4: while torch runs its queue, under its lock, the generators exist already."""
    seen = []

    def use_a_scope():
        with rng_scope(42):
            seen.extend(accelerator.states())
            draw(accelerator)

    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        accelerator.module._lazy_call(use_a_scope)
        thread = threading.Thread(target=accelerator.start, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the scope waits for the lock that its own thread holds"
        assert seen == [state_bytes(hand_seeded(42))] * 2
        assert_all(accelerator, lambda index: 7)


def test_a_scope_entered_while_another_thread_starts_the_accelerator_waits_for_it(name):
    """Law 4: the start is over before the scope saves, or it has not begun."""
    inside, go_on = threading.Event(), threading.Event()

    def slow_call():
        inside.set()
        assert go_on.wait(20)

    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        accelerator.module._lazy_call(slow_call)
        thread = threading.Thread(target=accelerator.start, daemon=True)
        thread.start()
        assert inside.wait(20)
        threading.Timer(0.1, go_on.set).start()
        with rng_scope(42):
            thread.join(20)
            assert accelerator.started
            assert_all(accelerator, lambda index: 42)
        assert_all(accelerator, lambda index: 7)


@needs_fork
def test_scopes_of_two_threads_around_a_start_do_not_wait_for_each_other():
    """Law 5: a queued call with a scope and a scope that waits for the start: no deadlock."""
    inside, entering = threading.Event(), threading.Event()

    def use_a_scope():
        inside.set()
        entering.wait(20)
        # Give the other thread the time to reach the lock of torch's queue.
        threading.Event().wait(0.2)
        with rng_scope(43):
            pass

    def enter():
        inside.wait(20)
        entering.set()
        with rng_scope(42, sources=["cuda"]):
            pass

    def child():
        threads = [threading.Thread(target=f, daemon=True) for f in (accelerator.start, enter)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads), "deadlock"
        assert accelerator.states() == accelerator.fresh

    with simulated_cuda(2) as accelerator:
        accelerator.module._lazy_call(use_a_scope)
        # In a child, where a deadlock hangs nothing else.
        in_child(child)


def test_a_program_call_that_seeds_at_the_start_runs_before_the_scope(name):
    """Law 4: what the program queued runs as if the start had been before the scope."""
    with simulated_cuda(2, name=name) as accelerator:
        def own_seeding():
            for generator in accelerator.module.default_generators:
                generator.manual_seed(31)

        accelerator.module._lazy_call(own_seeding)
        with rng_scope(42):
            accelerator.start()
            assert_all(accelerator, lambda index: 42)
        assert_all(accelerator, lambda index: 31)


def test_two_accelerators_are_seeded_and_restored_each():
    """Law 4: CUDA and XPU have queues of their own; an index means that of each type."""
    with simulated_cuda(2) as cuda, simulated_cuda(3, name="xpu") as xpu:
        torch.manual_seed(7)
        waiting = cuda.queue(), xpu.queue()
        with rng_scope(42, independent=True, devices=[1]):
            xpu.start()
            assert_same(xpu.generators[1], hand_seeded(derive_seed(42, "xpu", 1)))
            assert xpu.states()[0] == xpu.states()[2] == state_bytes(hand_seeded(7))
        assert cuda.queue() == waiting[0]
        with rng_scope(43):
            cuda.start()
            assert_all(cuda, lambda index: 43)
            assert_all(xpu, lambda index: 43)
        assert_all(cuda, lambda index: 7)
        assert_all(xpu, lambda index: 7)


# Some devices only ------------------------------------------------------------------------


def wanted_devices(name, spelling):
    return {"int": [0], "numpy": [np.int64(0)], "torch.device": [torch.device(name, 0)]}[spelling]


@pytest.mark.parametrize("spelling", ["int", "numpy", "torch.device"])
@pytest.mark.parametrize("seed", [42, None])
@pytest.mark.parametrize("moment", ["before", "inside", "after"])
@by_few_programs
def test_a_device_that_is_not_covered_is_not_touched(name, program, moment, seed, spelling):
    """With devices=[0], device 1 keeps the program's stream and what the body draws of it."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        if moment == "before":
            accelerator.start()
        waiting = accelerator.queue()
        with rng_scope(seed, devices=wanted_devices(name, spelling)):
            if moment == "inside":
                accelerator.start()
            if accelerator.started:
                outcome = program.outcome(accelerator, 0)
                assert_same(accelerator.generators[0], outcome if seed is None else hand_seeded(42))
                one = program.outcome(accelerator, 1)
                assert_same(accelerator.generators[1], one)
        if moment == "after":
            assert accelerator.queue() == waiting
            accelerator.start()
            one = program.outcome(accelerator, 1)
        assert_same(accelerator.generators[0], program.outcome(accelerator, 0))
        assert_same(accelerator.generators[1], one)


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("seed", [42, None])
@pytest.mark.parametrize("moment", ["before", "inside", "after"])
@by_few_programs
def test_a_seed_of_the_body_for_all_devices_stays_on_those_not_covered(
    name, program, moment, seed, again
):
    """With devices=[0], a seed for all in the body is undone on device 0 and stays on 1."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        if moment == "before":
            accelerator.start()
        for body_seed in [98, 99] if again else [99]:
            with rng_scope(seed, devices=[0]):
                torch.manual_seed(body_seed)
                if moment == "inside" and body_seed == 99:
                    accelerator.start()
                if accelerator.started:
                    assert_same(accelerator.generators[0], hand_seeded(body_seed))
        if moment == "after":
            accelerator.start()
        assert_same(accelerator.generators[0], program.outcome(accelerator, 0))
        assert_same(accelerator.generators[1], hand_seeded(99))


@pytest.mark.parametrize("moment", ["before", "inside", "after"])
@by_program
def test_a_state_queued_in_the_body_for_a_device_not_covered_stays(name, program, moment):
    """With devices=[0], set_rng_state for device 1 is the program's own business."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        if moment == "before":
            accelerator.start()
        with rng_scope(42, devices=[0]):
            queue_state(accelerator.module, 1)
            if moment == "inside":
                accelerator.start()
        if moment == "after":
            accelerator.start()
        assert_same(accelerator.generators[0], program.outcome(accelerator, 0))
        held = program.holds(1)
        if moment == "before" or held is None:
            assert_same(accelerator.generators[1], hand_seeded(11, draws=3))
        else:
            # torch would have run the program's seed after this state, a program with a
            # scope may run it before: both are the order of the program's own calls.
            states = {state_bytes(held), state_bytes(hand_seeded(11, draws=3))}
            assert state_bytes(accelerator.generators[1]) in states


@pytest.mark.parametrize("moment", ["before", "outer", "inner", "between", "after"])
@by_program
def test_nested_scopes_over_different_devices_do_not_meet(name, program, moment):
    """An outer scope over device 0 and an inner one over device 1 each restore their own."""
    with simulated_cuda(3, name=name) as accelerator:
        def at(now):
            if now == moment:
                accelerator.start()

        def look(*seeds):
            if accelerator.started:
                for index, seed in enumerate(seeds):
                    expected = program.outcome(accelerator, index)
                    if seed is not None:
                        expected = hand_seeded(seed)
                    assert state_bytes(accelerator.generators[index]) == state_bytes(expected)

        program.run(accelerator.module)
        at("before")
        look(None, None, None)
        waiting = accelerator.queue()
        with rng_scope(42, devices=[0]):
            at("outer")
            look(42, None, None)
            with rng_scope(43, devices=[1]):
                at("inner")
                look(42, 43, None)
                if accelerator.started:
                    torch.rand(2, generator=accelerator.generators[1])
            at("between")
            look(42, None, None)
            if accelerator.started:
                torch.rand(2, generator=accelerator.generators[0])
        if moment in ("before", "after"):
            assert accelerator.queue() == waiting
        at("after")
        look(None, None, None)


@pytest.mark.parametrize("wanted", [[5], [0, 5], [2], ["device"]], ids=str)
def test_a_device_that_does_not_exist_is_refused_at_entry_once_started(name, wanted):
    """A started accelerator refuses an unknown device before anything is touched."""
    if wanted == ["device"]:
        wanted = [torch.device(name, 5)]
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        before = on_the_cpu()
        scope = rng_scope(42, devices=wanted)
        with pytest.raises(ValueError, match=f"(?s)(?=.*{name})(?=.*[52])"):
            scope.__enter__()
        with pytest.raises(ValueError):
            seed_all(42, devices=wanted)
        with pytest.raises(ValueError):
            RNGState.capture(devices=wanted)
        assert accelerator.states() == accelerator.fresh
        assert on_the_cpu() == before
        # The scope was never open, so others neither warn nor hand it anything.
        with rng_scope(43):
            draw(accelerator)
        assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("seed", [42, None])
@pytest.mark.parametrize("wanted", [[5], [0, 5]], ids=str)
def test_a_device_that_turns_out_missing_is_a_warning_at_the_start(name, wanted, seed):
    """The seed waits for the devices named; the start says which one is missing, and succeeds."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        before = on_the_cpu()
        with rng_scope(seed, devices=wanted):
            if seed is None:
                # Nothing waits for the missing device, so a warning is welcome, not due.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    accelerator.start()
            else:
                with pytest.warns(RuntimeWarning, match=rf"{name}:?.*5"):
                    accelerator.start()
            assert accelerator.started
            covered = seed is not None and 0 in wanted
            assert_same(accelerator.generators[0], hand_seeded(42 if covered else 7))
            assert_same(accelerator.generators[1], hand_seeded(7))
        assert_same(accelerator.generators[0], hand_seeded(7, draws=0 if 0 in wanted else 3))
        assert_same(accelerator.generators[1], hand_seeded(7, draws=3))
        assert on_the_cpu() == before


def test_a_missing_device_under_warnings_as_errors_does_not_break_the_start(name):
    """The start of an accelerator is never broken by what a scope has to say."""
    with simulated_cuda(2, name=name) as accelerator:
        with rng_scope(42, devices=[0, 5]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                accelerator.start()
            assert accelerator.started
            assert_same(accelerator.generators[0], hand_seeded(42))
        assert accelerator.states() == accelerator.fresh


def test_a_missing_device_of_a_scope_that_has_ended_is_no_warning(name):
    """Nothing of a scope is left in the queue, its warnings included."""
    with simulated_cuda(2, name=name) as accelerator:
        with rng_scope(42, devices=[5]):
            pass
        accelerator.start()
        assert accelerator.states() == accelerator.fresh


# RNGState ---------------------------------------------------------------------------------


def test_a_state_of_a_started_accelerator_holds_every_device(name):
    """capture, then restore, puts back every device."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        draw(accelerator)
        states = accelerator.states()
        state = RNGState.capture()
        assert name in state.fingerprints()
        draw(accelerator)
        moved = RNGState.capture()
        assert moved != state and state.differs_from(moved) == moved.differs_from(state)
        assert list(state.differs_from(moved)) == [name]
        state.restore()
        assert accelerator.states() == states
        assert RNGState.capture() == state


def test_a_state_of_an_unstarted_accelerator_does_not_hold_it(name):
    """What had not started is not in the state; capture asks nothing and queues nothing."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        waiting = accelerator.queue()
        state = RNGState.capture()
        assert name not in state.fingerprints()
        assert accelerator.queue() == waiting
        state.restore()
        assert accelerator.queue() == waiting
        accelerator.start()
        state.restore()
        assert_all(accelerator, lambda index: 7)
        assert list(state.differs_from(RNGState.capture())) == [name]


def test_a_state_of_one_device_restores_that_device_only(name):
    """capture(devices=[1]) and restore leave device 0 alone."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        state = RNGState.capture(devices=[1])
        draw(accelerator)
        zero = accelerator.states()[0]
        state.restore()
        assert accelerator.states() == [zero, accelerator.fresh[1]]


def test_a_state_of_one_device_that_waits_for_the_start_reaches_that_device_only(name):
    """A state of device 1 restored before the start leaves device 0 alone."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        accelerator.generators[1].manual_seed(21)
        state = RNGState.capture(devices=[1])
    with simulated_cuda(2, name=name) as accelerator:
        state.restore()
        accelerator.start()
        assert accelerator.states() == [accelerator.fresh[0], state_bytes(hand_seeded(21))]


def captured(name, devices, seed=21):
    """Return a state from a machine with so many devices, all moved a little."""
    with simulated_cuda(devices, name=name) as accelerator:
        accelerator.start()
        for index, generator in enumerate(accelerator.generators):
            generator.manual_seed(seed + index)
        draw(accelerator)
        return RNGState.capture(sources=[name])


def captured_outcome(index, seed=21):
    return hand_seeded(seed + index, draws=index + 1)


@pytest.mark.parametrize("then,now", [(2, 1), (1, 2), (8, 2), (2, 8)])
def test_a_state_from_a_machine_with_other_devices_is_an_error_with_both_counts(name, then, now):
    """A started accelerator with another number of devices: nothing is touched."""
    state = captured(name, then)
    with simulated_cuda(now, name=name) as accelerator:
        accelerator.start()
        before = on_the_cpu()
        for attempt in (state.restore, rng_scope(state).__enter__):
            with pytest.raises((ValueError, RuntimeError)) as caught:
                attempt()
            assert str(then) in str(caught.value) and str(now) in str(caught.value)
            assert name in str(caught.value)
            assert accelerator.states() == accelerator.fresh
            assert on_the_cpu() == before
        with rng_scope(5):
            draw(accelerator)
        assert accelerator.states() == accelerator.fresh


def test_a_wrong_number_of_devices_leaves_the_other_sources_of_the_state_alone(name):
    """Law 2: a state that does not fit is refused before its other sources are restored."""
    with simulated_cuda(1, name=name) as accelerator:
        accelerator.start()
        state = RNGState.capture()
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        random.random(), np.random.random(), torch.rand(1)
        before = on_the_cpu()
        with pytest.raises((ValueError, RuntimeError)):
            state.restore()
        with pytest.raises((ValueError, RuntimeError)):
            rng_scope(state).__enter__()
        assert on_the_cpu() == before
        assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("then,now", [(2, 1), (1, 2), (8, 2), (2, 8)])
def test_not_strict_restores_what_is_there_and_says_what_it_left_out(name, then, now):
    """restore(strict=False): the common devices are restored, the rest is a warning."""
    state = captured(name, then)
    with simulated_cuda(now, name=name) as accelerator:
        accelerator.start()
        with pytest.warns(RuntimeWarning, match=name):
            state.restore(strict=False)
        common = min(then, now)
        assert_all(
            accelerator,
            lambda i: captured_outcome(i) if i < common else accelerator.fresh[i],
        )


def test_not_strict_is_silent_when_everything_fits(name):
    """strict=False warns only of what it left out."""
    state = captured(name, 2)
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        state.restore(strict=False)
        assert_all(accelerator, captured_outcome)


@pytest.mark.parametrize("strict", [True, False])
@by_program
def test_a_state_restored_before_the_start_arrives_at_the_start(name, program, strict):
    """It comes after what the program had queued before, a seed included."""
    state = captured(name, 2)
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        state.restore(strict=strict)
        assert not accelerator.started
        accelerator.start()
        assert_all(accelerator, captured_outcome)


def test_a_seed_after_a_state_that_waits_wins(name):
    """The last call counts, as it would on an accelerator that has started."""
    state = captured(name, 2)
    with simulated_cuda(2, name=name) as accelerator:
        state.restore()
        torch.manual_seed(9)
        accelerator.start()
        assert_all(accelerator, lambda index: 9)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("then,now", [(2, 1), (1, 2), (8, 2)])
def test_a_state_that_does_not_fit_at_the_start_is_a_warning(name, then, now, strict):
    """A mismatch found at the start never breaks it."""
    state = captured(name, then)
    with simulated_cuda(now, name=name) as accelerator:
        state.restore(strict=strict)
        with pytest.warns(RuntimeWarning, match=name):
            accelerator.start()
        assert accelerator.started


@by_moment
@by_program
def test_a_replay_begins_whenever_the_accelerator_starts(name, program, moment):
    """rng_scope(state) continues from the state's devices and puts the program's back."""
    state = captured(name, 2)
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        start = {now: accelerator.start for now in [moment]}
        start.get("before", int)()
        waiting = accelerator.queue()
        with rng_scope(state):
            start.get("outer", int)()
            if accelerator.started:
                assert_all(accelerator, captured_outcome)
            with rng_scope(43):
                start.get("inner", int)()
                if accelerator.started:
                    assert_all(accelerator, lambda index: 43)
            start.get("between", int)()
            if moment in ("inner", "between"):
                assert_all(accelerator, captured_outcome)
        if moment in ("before", "after", "never"):
            assert accelerator.queue() == waiting
        start.get("after", int)()
        if moment != "never":
            assert_all(accelerator, lambda index: program.outcome(accelerator, index))


def test_a_replay_that_does_not_fit_at_the_start_is_a_warning(name):
    """A mismatch of a replay found at the start warns; the exit is exact all the same."""
    state = captured(name, 8)
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        with rng_scope(state):
            with pytest.warns(RuntimeWarning, match=name):
                accelerator.start()
            assert accelerator.started
            draw(accelerator)
        assert_all(accelerator, lambda index: 7)


@pytest.mark.parametrize("start", ["inside", "after"])
@by_program
def test_a_state_restored_in_a_body_before_the_start_is_gone_after_it(name, program, start):
    """Law 4: what the body queues for the RNGs ends with the body, ours included."""
    state = captured(name, 2)
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        waiting = accelerator.queue()
        with rng_scope(42):
            state.restore()
            if start == "inside":
                accelerator.start()
                assert_all(accelerator, captured_outcome)
        if start == "after":
            assert accelerator.queue() == waiting
            accelerator.start()
        assert_all(accelerator, lambda index: program.outcome(accelerator, index))


def test_a_replay_without_the_accelerator_preserves_it(name):
    """A source that the state does not hold is preserved, not seeded."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        state = RNGState.capture()
        with rng_scope(state):
            accelerator.start()
            assert_all(accelerator, lambda index: 7)
        assert_all(accelerator, lambda index: 7)


def test_a_replay_of_one_device_preserves_the_other(name):
    """A state of device 1 replays there; device 0 is covered and preserved."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        accelerator.generators[1].manual_seed(21)
        state = RNGState.capture(sources=[name], devices=[1])
        accelerator.generators[1].manual_seed(22)
        with rng_scope(state, devices=[1]):
            assert_same(accelerator.generators[1], hand_seeded(21))
        assert_same(accelerator.generators[0], from_bytes(accelerator.fresh[0]))
        assert_same(accelerator.generators[1], hand_seeded(22))


# seed_all and assert_rng_unchanged --------------------------------------------------------


@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
@by_program
def test_seed_all_seeds_now_or_at_the_start(name, program, start):
    """The seed stays queued as torch.manual_seed leaves it, and overrides what was before."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        if start:
            accelerator.start()
        seed_all(5)
        accelerator.start()
        assert_all(accelerator, lambda index: 5)


@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
def test_seed_all_can_be_independent(name, start):
    """Each device gets derive_seed(seed, name, index)."""
    with simulated_cuda(2, name=name) as accelerator:
        if start:
            accelerator.start()
        seed_all(5, independent=True)
        accelerator.start()
        assert_all(accelerator, lambda index: derive_seed(5, name, index))


@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
@by_program
def test_seed_all_for_one_device_leaves_the_other(name, program, start):
    """With devices=[0], device 1 holds what the program's queue gives."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        if start:
            accelerator.start()
        seed_all(5, devices=[0])
        accelerator.start()
        assert_same(accelerator.generators[0], hand_seeded(5))
        assert_same(accelerator.generators[1], program.outcome(accelerator, 1))


@pytest.mark.parametrize("later", ["torch", "module", "seed_all"])
def test_a_seed_after_seed_all_wins(name, later):
    """The last seed counts."""
    with simulated_cuda(2, name=name) as accelerator:
        seed_all(5)
        if later == "torch":
            torch.manual_seed(6)
        elif later == "module":
            accelerator.module.manual_seed_all(6)
        else:
            seed_all(6)
        accelerator.start()
        assert_all(accelerator, lambda index: 6)


def test_a_scope_after_seed_all_gives_its_seed_back(name):
    """Law 4: a seed that seed_all left queued is the program's own."""
    with simulated_cuda(2, name=name) as accelerator:
        seed_all(5)
        waiting = accelerator.queue()
        with rng_scope(42):
            pass
        assert accelerator.queue() == waiting
        with rng_scope(43):
            accelerator.start()
            assert_all(accelerator, lambda index: 43)
        assert_all(accelerator, lambda index: 5)


def test_seed_all_for_a_missing_device_warns_at_the_start(name):
    """A device that turns out missing is a warning, and the start succeeds."""
    with simulated_cuda(1, name=name) as accelerator:
        seed_all(5, devices=[0, 3])
        with pytest.warns(RuntimeWarning, match=rf"{name}:?.*3"):
            accelerator.start()
        assert_all(accelerator, lambda index: 5)


def test_draws_on_a_device_are_noticed(name):
    """assert_rng_unchanged names the accelerator whose generator moved."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        with assert_rng_unchanged():
            with rng_scope(42):
                draw(accelerator)
        with pytest.raises(AssertionError, match=name):
            with assert_rng_unchanged():
                torch.rand(1, generator=accelerator.generators[1])
        with assert_rng_unchanged(devices=[0]):
            torch.rand(1, generator=accelerator.generators[1])


def test_a_start_in_the_block_is_no_change(name):
    """assert_rng_unchanged starts nothing, queues nothing and forgives a start."""
    with simulated_cuda(2, name=name) as accelerator:
        waiting = accelerator.queue()
        with assert_rng_unchanged():
            assert accelerator.queue() == waiting
        assert accelerator.queue() == waiting
        with assert_rng_unchanged():
            accelerator.start()
            draw(accelerator)


# Law 5: scopes that are left in another order ---------------------------------------------


def leave(scope):
    scope.__exit__(None, None, None)


@pytest.mark.parametrize("devices", [(None, None), ([0], None), (None, [0])], ids=str)
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("moment", ["before", "first", "second", "between", "after", "never"])
@by_few_programs
def test_scopes_left_out_of_order_give_the_program_its_own_back(
    name, program, moment, seeds, devices
):
    """Law 5: the one that leaves early hands its state on; once all are closed it is back."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        start = {now: accelerator.start for now in [moment]}
        start.get("before", int)()
        waiting, before = accelerator.queue(), on_the_cpu()
        drawn = set()

        def draw_covered():
            # On a device that a scope does not cover, draws are the program's own and stay.
            for index in [0] if [0] in devices else [0, 1]:
                if accelerator.started:
                    drawn.add(index)
                    torch.rand(1, generator=accelerator.generators[index])

        first = rng_scope(seeds[0], devices=devices[0])
        second = rng_scope(seeds[1], devices=devices[1])
        first.__enter__()
        start.get("first", int)()
        draw_covered()
        second.__enter__()
        start.get("second", int)()
        if moment == "second" and seeds[1] is not None:
            assert state_bytes(accelerator.generators[0]) == state_bytes(hand_seeded(seeds[1]))
        draw_covered()
        with pytest.warns(RuntimeWarning, match="test_accelerators.py"):
            leave(first)
        start.get("between", int)()
        if moment == "between" and seeds[1] is not None:
            assert state_bytes(accelerator.generators[0]) == state_bytes(hand_seeded(seeds[1]))
        draw_covered()
        leave(second)
        if moment in ("before", "after", "never") and devices == (None, None):
            assert accelerator.queue() == waiting
        start.get("after", int)()
        if moment != "never":
            assert_all(accelerator, lambda index: program.outcome(accelerator, index))
        assert on_the_cpu() == before


# Not (None, [0]): there the seed of the first scope stays queued for device 0, behind it what
# sets the devices right. That changes nothing but the length of the queue.
@pytest.mark.parametrize("devices", [([0], None), ([0], [1]), ([0], [0])], ids=str)
@pytest.mark.parametrize("seeds", SEEDS[::3])
@by_few_programs
def test_scopes_over_different_devices_left_out_of_order_leave_nothing_in_the_queue(
    name, program, seeds, devices
):
    """Laws 4 and 5: once all are closed our entries are gone, whatever devices they covered."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        waiting = accelerator.queue()
        first = rng_scope(seeds[0], devices=devices[0])
        second = rng_scope(seeds[1], devices=devices[1])
        first.__enter__()
        second.__enter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            leave(first)
        leave(second)
        assert accelerator.queue() == waiting


@pytest.mark.parametrize("seeds", SEEDS[::3])
@pytest.mark.parametrize("first", ["zero", "one"])
@pytest.mark.parametrize("moment", ["in both", "between", "after"])
def test_scopes_over_different_devices_end_a_seed_of_the_body_in_any_order(
    name, moment, first, seeds
):
    """Law 5: a seed for all in the body of one is gone from its device, whoever leaves first.

    Given up: that the other device keeps it if the lower scope leaves first, before the start.
    That exit warns. See DESIGN.rst, "An accelerator before its start".
    """
    is_given_up = first == "zero" and moment != "in both"
    with simulated_cuda(2, name=name) as accelerator:
        start = {now: accelerator.start for now in [moment]}
        zero = rng_scope(seeds[0], devices=[0], sources=[name])
        one = rng_scope(seeds[1], devices=[1], sources=[name])
        zero.__enter__()
        torch.manual_seed(99)  # the program's own on device 1
        one.__enter__()
        start.get("in both", int)()
        order = [zero, one] if first == "zero" else [one, zero]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            leave(order[0])
        start.get("between", int)()
        leave(order[1])
        start.get("after", int)()
        if is_given_up:
            assert "was left while another one was still open" in str(caught[0].message)
            assert accelerator.states()[0] == accelerator.fresh[0]
        else:
            assert_all(accelerator, lambda index: 99 if index else accelerator.fresh[0])


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)], ids=str)
@pytest.mark.parametrize("moment", range(7))
def test_three_scopes_left_in_any_order_give_the_program_its_own_back(name, moment, order):
    """Law 5: in each order, with a start at each moment between."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        accelerator.module._lazy_call(int)
        waiting = accelerator.queue()
        scopes = [rng_scope(seed) for seed in (42, None, 44)]
        steps = [scope.__enter__ for scope in scopes]
        steps += [lambda scope=scopes[index]: leave(scope) for index in order]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for number, step in enumerate(steps):
                if number == moment:
                    accelerator.start()
                draw(accelerator)
                step()
        if moment == 6:
            assert accelerator.queue() == waiting
            accelerator.start()
        if moment == 0:
            assert_all(accelerator, lambda index: hand_seeded(7, draws=index + 1))
        else:
            assert_all(accelerator, lambda index: 7)


@pytest.mark.parametrize("start", ["between", "after"])
def test_a_seed_that_the_early_body_queued_does_not_outlive_the_last_scope(name, start):
    """Law 5: what the bodies queued is gone once all scopes are closed."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        waiting = accelerator.queue()
        first, second = rng_scope(42), rng_scope(43)
        first.__enter__()
        torch.manual_seed(98)
        second.__enter__()
        torch.manual_seed(99)
        with pytest.warns(RuntimeWarning):
            leave(first)
        if start == "between":
            accelerator.start()
            assert_all(accelerator, lambda index: 99)
        leave(second)
        if start == "after":
            assert accelerator.queue() == waiting
            accelerator.start()
        assert_all(accelerator, lambda index: 7)


# Law 2: devices that fail -----------------------------------------------------------------


class Boom(BaseException):
    """No Exception, like KeyboardInterrupt."""


def leaves(error):
    """Return the single errors of an error or of a group, nested ones included."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]


def assert_usable(accelerator):
    """A later scope works, warns of nothing, and restores."""
    accelerator.mend()
    states, before = accelerator.states(), on_the_cpu()
    with rng_scope(77):
        assert accelerator.states() == [state_bytes(hand_seeded(77))] * accelerator.devices
        draw(accelerator)
    assert accelerator.states() == states
    assert on_the_cpu() == before


@pytest.mark.parametrize("kind", [OSError, Boom])
@pytest.mark.parametrize("index", [0, 1, 7])
@pytest.mark.parametrize("seed", [42, None])
def test_a_device_that_cannot_be_saved_fails_the_entry(name, index, seed, kind):
    """Law 2: the error comes out as itself and everything is what it was."""
    with simulated_cuda(8, name=name, breakable=True) as accelerator:
        accelerator.start()
        error = accelerator.fail(index, "get_state", kind("no state"))
        before = on_the_cpu()
        with pytest.raises(kind) as caught:
            rng_scope(seed).__enter__()
        assert caught.value is error
        assert accelerator.states() == accelerator.fresh
        assert on_the_cpu() == before
        assert_usable(accelerator)


@pytest.mark.parametrize("kind", [OSError, Boom])
@pytest.mark.parametrize("index", [0, 1, 7])
def test_a_device_that_cannot_be_seeded_fails_the_entry(name, index, kind):
    """Law 2: what was seeded before it is put back."""
    with simulated_cuda(8, name=name, breakable=True) as accelerator:
        accelerator.start()
        error = accelerator.fail(index, "change", kind("no seed"), times=1)
        before = on_the_cpu()
        with pytest.raises(kind) as caught:
            rng_scope(42).__enter__()
        assert caught.value is error
        assert accelerator.states() == accelerator.fresh
        assert on_the_cpu() == before
        assert_usable(accelerator)


@pytest.mark.parametrize("index", [0, 1, 7])
def test_a_device_that_can_neither_be_seeded_nor_restored_fails_the_entry_alone(name, index):
    """Law 2: all others are put back, and the device's own error is shown."""
    with simulated_cuda(8, name=name, breakable=True) as accelerator:
        accelerator.start()
        error = accelerator.fail(index, "change")
        before = on_the_cpu()
        with pytest.raises((OSError, ExceptionGroup)) as caught:
            rng_scope(42).__enter__()
        shown = [*leaves(caught.value), caught.value.__context__]
        assert error in shown
        assert accelerator.states() == accelerator.fresh
        assert on_the_cpu() == before
        assert_usable(accelerator)


@pytest.mark.parametrize("body_fails", [False, True], ids=["body passes", "body fails"])
@pytest.mark.parametrize("kind", [OSError, Boom])
@pytest.mark.parametrize("index", [0, 1, 7])
@pytest.mark.parametrize("start", ["before", "inside"])
def test_a_device_that_cannot_be_restored_keeps_no_other_from_it(
    name, start, index, kind, body_fails
):
    """Law 2: the others are restored, then the error is raised; the body's is its context."""
    error, body_error = kind("no way back"), ZeroDivisionError("body")
    with simulated_cuda(8, name=name, breakable=True) as accelerator:
        if start == "before":
            accelerator.start()
        before = on_the_cpu()
        with pytest.raises(kind) as caught:
            with rng_scope(42):
                accelerator.start()
                draw(accelerator)
                random.random(), np.random.random(), torch.rand(1)
                accelerator.fail(index, "set_state", error)
                if body_fails:
                    raise body_error
        assert caught.value is error
        assert caught.value.__context__ is (body_error if body_fails else None)
        for number, state in enumerate(accelerator.states()):
            assert (state == accelerator.fresh[number]) == (number != index)
        assert on_the_cpu() == before
        assert_usable(accelerator)


@pytest.mark.parametrize("kind", [OSError, Boom])
@pytest.mark.parametrize("body_fails", [False, True], ids=["body passes", "body fails"])
def test_two_devices_that_cannot_be_restored_are_reported_together(name, kind, body_fails):
    """Law 2: several errors are one group, a BaseExceptionGroup when one is no Exception."""
    body_error = ZeroDivisionError("body")
    with simulated_cuda(8, name=name, breakable=True) as accelerator:
        accelerator.start()
        before = on_the_cpu()
        first, second = OSError("first"), kind("second")
        with pytest.raises(BaseExceptionGroup) as caught:
            with rng_scope(42):
                draw(accelerator)
                accelerator.fail(2, "set_state", first)
                accelerator.fail(5, "set_state", second)
                if body_fails:
                    raise body_error
        assert leaves(caught.value) == [first, second]
        assert isinstance(caught.value, ExceptionGroup) == issubclass(kind, Exception)
        assert caught.value.__context__ is (body_error if body_fails else None)
        for number, state in enumerate(accelerator.states()):
            assert (state == accelerator.fresh[number]) == (number not in (2, 5))
        assert on_the_cpu() == before
        assert_usable(accelerator)


def test_two_accelerators_that_cannot_be_restored_are_reported_together():
    """Law 2: errors of two sources are one group."""
    with simulated_cuda(2, breakable=True) as cuda:
        with simulated_cuda(2, name="xpu", breakable=True) as xpu:
            cuda.start()
            xpu.start()
            before = on_the_cpu()
            with pytest.raises(ExceptionGroup) as caught:
                with rng_scope(42):
                    draw(cuda)
                    draw(xpu)
                    errors = [cuda.fail(1, "set_state"), xpu.fail(0, "set_state")]
            assert leaves(caught.value) == errors
            assert cuda.states()[0] == cuda.fresh[0] and xpu.states()[1] == xpu.fresh[1]
            assert on_the_cpu() == before


def test_a_device_that_fails_once_while_restoring_fails_no_later_scope(name):
    """Law 2: after a failed exit no scope is left open."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()
        with rng_scope(41):
            outer = accelerator.states()
            with pytest.raises(OSError):
                with rng_scope(42):
                    accelerator.fail(0, "set_state")
            accelerator.mend()
            assert accelerator.states()[1] == outer[1]
        assert accelerator.states() == accelerator.fresh
        assert_usable(accelerator)


class BrokenRandom(random.Random):
    """An RNG of the user that fails at entry: when it is saved, or when it is seeded."""

    fails_in = ""

    def getstate(self):
        if self.fails_in == "getstate":
            raise OSError("broken")
        return super().getstate()

    def seed(self, *args):
        if self.fails_in == "seed":
            raise OSError("broken")
        return super().seed(*args)


@pytest.mark.parametrize("fails_in", ["getstate", "seed"])
@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
@pytest.mark.parametrize("devices", [None, [0]], ids=str)
def test_an_entry_that_fails_elsewhere_leaves_devices_and_queue_as_they_were(
    name, start, fails_in, devices
):
    """Law 2: what was queued on entry is taken out again."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        if start:
            accelerator.start()
        waiting, states, before = accelerator.queue(), accelerator.states(), on_the_cpu()
        broken = BrokenRandom(1)
        broken.fails_in = fails_in
        with pytest.raises(OSError, match="broken"):
            rng_scope(42, generators=[broken], devices=devices).__enter__()
        assert accelerator.queue() == waiting
        assert accelerator.states() == states
        assert on_the_cpu() == before
        accelerator.start()
        assert_all(accelerator, lambda index: 7)


def test_a_device_that_fails_when_it_starts_does_not_break_the_start(name):
    """Law 4: a generator that cannot be seeded at the start leaves the others seeded."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        module = accelerator.module
        # Runs first at the start, when the generators exist and nothing of ours has run.
        module._queued_calls.insert(0, (lambda: accelerator.fail(1, "change"), []))
        with rng_scope(42):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                accelerator.start()
            assert accelerator.started
            assert_same(accelerator.generators[0], hand_seeded(42))
            accelerator.mend()
        assert accelerator.states() == accelerator.fresh


def test_a_device_that_cannot_be_saved_when_it_starts_does_not_break_the_start(name):
    """Law 4: it is said, and the other one comes back."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        module = accelerator.module
        with rng_scope(42):
            # Runs first at the start, when the generators exist and nothing of ours has run.
            module._queued_calls.insert(0, (lambda: accelerator.fail(1, "get_state"), []))
            with pytest.warns(RuntimeWarning, match=f"could not save the RNG of {name}:1"):
                accelerator.start()
            assert_same(accelerator.generators[0], hand_seeded(42))
            accelerator.mend()
        assert accelerator.states()[0] == accelerator.fresh[0]


class StartingLock:
    """The lock of the queue, when another thread starts the accelerator just before us."""

    def __init__(self, accelerator, skip):
        self.accelerator, self.real, self.skip = accelerator, threading.Lock(), skip

    def acquire(self, *args):
        if self.skip:
            self.skip -= 1
        elif not self.accelerator.started:
            # The start itself uses the lock.
            self.skip = 1
            self.accelerator.start()
        return self.real.acquire(*args)

    def release(self):
        self.real.release()

    def locked(self):
        return self.real.locked()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *error):
        self.release()


@pytest.mark.parametrize("skip", range(4))
@pytest.mark.parametrize("seed", [42, None])
def test_an_accelerator_that_another_thread_starts_at_any_moment_is_put_back(name, seed, skip):
    """Law 4: between the question whether it has started and the look at its queue, too."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        before = on_the_cpu()
        accelerator.module._initialization_lock = StartingLock(accelerator, skip)
        with rng_scope(seed):
            if accelerator.started and seed is not None:
                assert_all(accelerator, lambda index: 42)
        accelerator.start()
        assert_all(accelerator, lambda index: 7)
        assert on_the_cpu() == before


@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
def test_seeds_of_different_devices_are_both_kept(name, start):
    """What is queued for one device does not replace what is queued for another."""
    with simulated_cuda(2, name=name) as accelerator:
        if start:
            accelerator.start()
        for seed, index in ((1, 0), (3, 1), (2, 0)):
            seed_all(seed, devices=[index])
        accelerator.start()
        assert_all(accelerator, lambda index: 2 + index)


@pytest.mark.parametrize("devices", [None, [0], [1]], ids=str)
def test_a_body_that_suspends_often_does_not_make_the_queue_longer(name, devices):
    """However often it is put aside and taken up before the start."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        waiting, lengths = accelerator.queue(), set()

        @rng_scope(42, devices=devices)
        def body():
            for _ in range(20):
                with rng_scope(43, devices=devices):
                    yield

        for _ in body():
            lengths.add(len(accelerator.module._queued_calls))
            with rng_scope(44, devices=devices):
                pass
        assert len(lengths) == 1
        assert len(accelerator.module._queued_calls) <= len(waiting.parts[0][1]) + 1
        accelerator.start()
        assert_all(accelerator, lambda index: 7)


@pytest.mark.parametrize("seeds", [True, False], ids=["seeds", "draws"])
@pytest.mark.parametrize("start", [None, 0, 1, 2])
def test_a_body_over_one_device_keeps_its_stream_whenever_it_starts(name, start, seeds):
    """Before the start its position waits in the queue, and the caller has its own."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)

        @rng_scope(42, devices=[0])
        def body():
            for _ in range(4):
                if seeds:
                    accelerator.module.manual_seed(5)
                yield
                if accelerator.started:
                    assert_same(accelerator.generators[0], hand_seeded(5 if seeds else 42))
                    accelerator.generators[0].manual_seed(5 if seeds else 42)

        for step, _ in enumerate(body()):
            if step == start:
                accelerator.start()
                assert_all(accelerator, lambda index: 7)
                for generator in accelerator.generators:
                    generator.manual_seed(7)
        accelerator.start()
        assert_all(accelerator, lambda index: 7)


@pytest.mark.parametrize("start", ["never", "in the body", "in a scope"])
@pytest.mark.parametrize("above", [None, [0], [1]], ids=str)
def test_a_body_over_one_device_goes_on_outside_the_scope_that_it_began_in(name, above, start):
    """The end of that scope took out of the queue what the body had put there."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)

        @rng_scope(42, devices=[0])
        def body():
            yield
            if start == "in the body":
                accelerator.start()
                assert_same(accelerator.generators[0], hand_seeded(42))
            yield

        made = body()
        with rng_scope(1):
            next(made)
            with rng_scope(2, devices=above):
                pass
        next(made)
        with rng_scope(3, devices=above):
            if start == "in a scope":
                accelerator.start()
                assert_same(accelerator.generators[(above or [1])[0]], hand_seeded(3))
        list(made)
        accelerator.start()
        assert_all(accelerator, lambda index: 7)


def test_a_failed_seed_all_leaves_what_was_queued(name):
    """Nothing has been touched then, the queue of an unstarted accelerator included."""
    from rngscope.sources import SOURCES

    (python,) = [source for source in SOURCES if source.name == "python"]
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        waiting, before = accelerator.queue(), on_the_cpu()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(python, "seed", lambda seed: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                # A seed of its own each time: one that comes again is not made anew.
                seed_all(2**31 + ord(name[0]))
        assert accelerator.queue() == waiting and on_the_cpu() == before


def test_a_device_that_cannot_tell_whether_it_is_capturing_is_not(name, monkeypatch):
    """The question may fail where no graph can be captured."""

    def fail():
        raise RuntimeError("no graphs here")

    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        with monkeypatch.context() as patch:
            patch.setattr(accelerator.module, "is_current_stream_capturing", fail, raising=False)
            with rng_scope(42):
                assert_all(accelerator, lambda index: 42)
        assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("start", [True, False], ids=["started", "unstarted"])
def test_a_stream_below_scopes_of_other_devices_is_written_as_it_stands(name, start):
    """What they found is no part of it."""
    with simulated_cuda(2, name=name) as accelerator:
        if start:
            accelerator.start()
        stream = RNGStream(42, sources=[name, "python"], devices=[0])
        with stream:
            draw(accelerator)
            wanted = stream.state_dict()
            with rng_scope(1, devices=[1]):
                assert stream.state_dict() == wanted
            with rng_scope(1, sources=[name]):
                assert stream.state_dict() == wanted
        assert (name in wanted["states"]) == start
        accelerator.start()
        assert accelerator.states()[0] == accelerator.fresh[0]


@pytest.mark.parametrize("devices", [None, [0]])
def test_a_stream_of_many_uses_before_the_start_keeps_one_call(name, devices):
    """Whoever trains on a CPU with a build for GPUs may use it a million times."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        waiting = accelerator.queue()
        stream = RNGStream(42, devices=devices, sources=[name])
        points = []
        for _ in range(5):
            with stream:
                pass
            (point,) = stream._plan.position.values()
            points.append(point)
            assert len(point.calls) == 1
            assert accelerator.queue() == waiting
        assert all(point is points[0] for point in points)
        with stream:
            accelerator.module.manual_seed_all(8)
        accelerator.start()
        with stream:
            assert accelerator.states()[0] == state_bytes(hand_seeded(8))


@pytest.mark.parametrize("seeds", [(), (9,)])
def test_to_read_where_a_stream_stands_leaves_the_queue_alone(name, seeds):
    """Law 4: to look changes nothing; no mark stays, and torch's tracker keeps its seeds."""
    with simulated_cuda(2, name=name) as accelerator:
        stream = RNGStream(42, sources=[name])
        with stream:
            for seed in seeds:
                accelerator.module.manual_seed_all(seed)
            before = accelerator.queue()
            with warnings.catch_warnings():
                # What the program has queued cannot be written, which it says.
                warnings.simplefilter("ignore", RuntimeWarning)
                stream.state_dict()
            assert accelerator.queue() == before


def test_an_inner_use_of_a_stream_left_below_scopes_of_single_devices_goes_on(name):
    """Law 5: where it stands is found in parts, and goes in parts to the outer use."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.start()
        stream = RNGStream(42)
        with stream:
            draw(accelerator)
            inner = stream.__enter__()
            draw(accelerator)
            above = [rng_scope(1, devices=[0]), rng_scope(2, devices=[1])]
            for scope in above:
                scope.__enter__()
            with warnings.catch_warnings():
                # It is left out of order on purpose.
                warnings.simplefilter("ignore", RuntimeWarning)
                inner.__exit__(None, None, None)
            for scope in above[::-1]:
                scope.__exit__(None, None, None)
            for index, generator in enumerate(accelerator.generators):
                expected = hand_seeded(42)
                for _ in range(2):
                    torch.rand(index + 1, generator=expected)
                assert_same(generator, expected)
        assert accelerator.states() == accelerator.fresh


# Law 6: forks -----------------------------------------------------------------------------


def in_child(function):
    """Run ``function`` in a forked child; its failure is a failure here."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with open(writing, "w") as pipe:
                try:
                    function()
                    status = 0
                except BaseException:
                    pipe.write(traceback.format_exc())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as pipe:
        trace = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, trace


def torch_draws():
    return torch.rand(3).tolist()


@pytest.mark.parametrize("seed", [42, None])
def test_a_child_of_a_started_process_skips_the_accelerator(name, seed):
    """Law 4: in a bad fork neither the queue nor a generator is touched, and all else works."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()
        for index in range(2):
            for verb in ("get_state", "change"):
                accelerator.fail(index, verb)
        accelerator.bad_fork = True
        waiting, before = accelerator.queue(), on_the_cpu()
        with rng_scope(seed):
            if seed is not None:
                expected = torch.rand(3, generator=hand_seeded(seed)).tolist()
                assert torch_draws() == expected
            assert accelerator.queue() == waiting
        assert accelerator.queue() == waiting and on_the_cpu() == before
        with rng_scope(seed, devices=[0]), rng_scope(seed, devices=[5]):
            pass
        state = RNGState.capture()
        assert name not in state.fingerprints()
        state.restore()
        with assert_rng_unchanged():
            pass
        seed_all(5)
        assert accelerator.queue() == waiting
        assert accelerator.states() == accelerator.fresh


def test_what_is_open_when_a_fork_turns_bad_ends_without_the_accelerator(name):
    """Scopes in any order, and bodies that suspend: all else comes back."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()
        before = on_the_cpu()

        @seeded(42)
        def body():
            for _ in range(3):
                yield torch_draws()

        @seeded(43)
        def turns_bad():
            accelerator.bad_fork = True
            for index in range(2):
                for verb in ("get_state", "change"):
                    accelerator.fail(index, verb)
            yield torch_draws()

        lower, upper, steps = rng_scope(1, devices=[0]), rng_scope(2), body()
        drawn = [next(steps)]
        lower.__enter__()
        upper.__enter__()
        assert list(turns_bad()) == [torch.rand(3, generator=hand_seeded(43)).tolist()]
        with warnings.catch_warnings():
            # They are left out of order on purpose.
            warnings.simplefilter("ignore", RuntimeWarning)
            lower.__exit__(None, None, None)
        drawn += list(steps)
        upper.__exit__(None, None, None)
        assert on_the_cpu() == before
        reference = hand_seeded(42)
        assert drawn == [torch.rand(3, generator=reference).tolist() for _ in range(3)]


@needs_fork
def test_what_was_used_before_a_fork_is_skipped_in_the_child(name):
    """Law 4: that the accelerator is there was found before; streams keep where they stand."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()
        stream = RNGStream(5)
        with rng_scope(1), stream:
            pass
        state, plain = RNGState.capture(), stream.state_dict()
        # Whatever these have imported: now the answer is kept.
        with rng_scope(1):
            pass
        kept = _present.cells_of(_present.SOURCES)
        assert name in [cell.source.name for cell in kept]

        def child():
            before = on_the_cpu()
            with rng_scope(42):
                assert torch_draws() == torch.rand(3, generator=hand_seeded(42)).tolist()
            with rng_scope(state):
                pass
            assert on_the_cpu() == before
            state.restore(strict=False)
            seed_all(3)
            assert stream.state_dict() == plain
            assert accelerator.states() == accelerator.fresh

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            in_child(child)
        assert_usable(accelerator)


@needs_fork
def test_a_scope_in_a_forked_child_skips_the_accelerator(name):
    """Law 4: the same in a real child."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()

        def child():
            assert accelerator.module._is_in_bad_fork()
            for index in range(2):
                for verb in ("get_state", "change"):
                    accelerator.fail(index, verb)
            before = on_the_cpu()
            with rng_scope(42):
                assert torch_draws() == torch.rand(3, generator=hand_seeded(42)).tolist()
            assert on_the_cpu() == before
            assert accelerator.states() == accelerator.fresh

        in_child(child)
        assert_usable(accelerator)


@needs_fork
@pytest.mark.parametrize("start", ["before", "inside"])
def test_a_scope_inherited_and_left_in_a_child_skips_the_accelerator(name, start):
    """Law 6: the child restores what it can use, the parent restores everything."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        if start == "before":
            accelerator.start()
        before = on_the_cpu()
        scope = rng_scope(42)
        with scope:
            accelerator.start()

            def child():
                for index in range(2):
                    for verb in ("get_state", "change"):
                        accelerator.fail(index, verb)
                torch.rand(1), np.random.random()
                leave(scope)
                assert on_the_cpu()[1:] == before[1:]
                assert accelerator.states() == [state_bytes(hand_seeded(42))] * 2

            in_child(child)
            assert_all(accelerator, lambda index: 42)
        assert accelerator.states() == accelerator.fresh
        assert on_the_cpu() == before


@needs_fork
@pytest.mark.parametrize("moment", ["in the scope", "after"])
@by_few_programs
def test_a_child_of_an_unstarted_process_can_start_the_accelerator(name, program, moment):
    """Laws 4 and 6: an inherited scope holds in the child, whose accelerator starts there."""
    with simulated_cuda(2, name=name) as accelerator:
        program.run(accelerator.module)
        waiting = accelerator.queue()
        scope = rng_scope(42)
        with scope:

            def child():
                if moment == "in the scope":
                    accelerator.start()
                    assert_all(accelerator, lambda index: 42)
                leave(scope)
                if moment == "after":
                    assert accelerator.queue() == waiting
                    accelerator.start()
                assert_all(accelerator, lambda index: program.outcome(accelerator, index))

            in_child(child)
        assert accelerator.queue() == waiting
        accelerator.start()
        assert_all(accelerator, lambda index: program.outcome(accelerator, index))


@needs_fork
def test_a_fork_while_another_thread_starts_the_accelerator_does_not_hang_the_child(name):
    """Law 6: no lock of ours is inherited locked, and torch's is not waited for in the child."""
    inside, go_on = threading.Event(), threading.Event()

    def slow_call():
        inside.set()
        assert go_on.wait(20)

    with simulated_cuda(1, name=name) as accelerator:
        accelerator.module._lazy_call(slow_call)
        thread = threading.Thread(target=accelerator.start)
        thread.start()
        try:
            assert inside.wait(20)
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                with rng_scope(42):
                    os.write(writing, b"entered ")
                os.write(writing, b"left")
                os._exit(0)
            os.close(writing)
            waiter = threading.Thread(target=os.waitpid, args=(child, 0), daemon=True)
            waiter.start()
            waiter.join(20)
            hung = waiter.is_alive()
            if hung:
                os.kill(child, 9)
                waiter.join()
            with open(reading) as pipe:
                assert pipe.read() == "entered left"
            assert not hung
        finally:
            go_on.set()
            thread.join()


# Law 7: CUDA graphs -----------------------------------------------------------------------


@pytest.mark.parametrize("enter", [
    lambda: rng_scope(42).__enter__(),
    lambda: rng_scope().__enter__(),
    lambda: rng_scope(42, devices=[1]).__enter__(),
    lambda: rng_scope(42, sources=["cuda"]).__enter__(),
    lambda: seeded(42)(lambda: None)(),
], ids=["seeded", "preserve", "devices", "sources", "decorated"])
def test_entering_during_a_capture_is_refused_before_anything_is_touched(enter):
    """Law 7: RuntimeError, every state byte-identical, and no scope left open."""
    with simulated_cuda(2, breakable=True) as cuda:
        cuda.start()
        before = on_the_cpu()
        cuda.capturing = True
        with pytest.raises(RuntimeError, match="captur"):
            enter()
        assert on_the_cpu() == before
        assert cuda.states() == cuda.fresh
        cuda.capturing = False
        assert_usable(cuda)


@pytest.mark.parametrize("left_out", [{"sources": ["python", "numpy", "torch"]}, {"devices": []}],
                         ids=str)
def test_a_scope_that_leaves_cuda_out_can_be_entered_during_a_capture(left_out):
    """Law 7 is about scopes that cover CUDA only."""
    with simulated_cuda(2, breakable=True) as cuda:
        cuda.start()
        before = on_the_cpu()
        cuda.capturing = True
        with rng_scope(42, **left_out):
            assert torch_draws() == torch.rand(3, generator=hand_seeded(42)).tolist()
        assert on_the_cpu() == before
        assert cuda.states() == cuda.fresh


@pytest.mark.parametrize("start", ["before", "inside"])
@pytest.mark.parametrize("body_fails", [False, True], ids=["body passes", "body fails"])
def test_leaving_during_a_capture_restores_the_others_and_then_raises(start, body_fails):
    """Law 7: python, NumPy and torch on the CPU come back, the error says why CUDA does not."""
    body_error = ZeroDivisionError("body")
    with simulated_cuda(2, breakable=True) as cuda:
        if start == "before":
            cuda.start()
        before = on_the_cpu()
        with pytest.raises(RuntimeError, match="captur") as caught:
            with rng_scope(42):
                cuda.start()
                random.random(), np.random.random(), torch.rand(1)
                cuda.capturing = True
                if body_fails:
                    raise body_error
        assert caught.value.__context__ is (body_error if body_fails else None)
        assert on_the_cpu() == before
        assert cuda.states() == [state_bytes(hand_seeded(42))] * 2
        cuda.capturing = False
        assert_usable(cuda)


def test_a_scope_around_a_capture_works():
    """Law 7: entered before and left after, it is a scope like any other."""
    with simulated_cuda(2, breakable=True) as cuda:
        cuda.start()
        with rng_scope(42):
            cuda.capturing = True
            with pytest.raises(RuntimeError, match="captur"):
                rng_scope(43).__enter__()
            cuda.capturing = False
            assert_all(cuda, lambda index: 42)
        assert cuda.states() == cuda.fresh


def test_seed_all_and_states_are_refused_during_a_capture():
    """Law 7: what a capture would record wrongly is refused, before anything is touched."""
    with simulated_cuda(1, breakable=True) as cuda:
        cuda.start()
        state = RNGState.capture()
        random.random(), np.random.random(), torch.rand(1)
        before = on_the_cpu()
        cuda.capturing = True
        for refused in (lambda: seed_all(5), RNGState.capture, state.restore):
            with pytest.raises(RuntimeError, match="captur"):
                refused()
            assert on_the_cpu() == before
        cuda.capturing = False
        assert cuda.states() == cuda.fresh


def test_before_the_start_nobody_is_asked_about_a_capture():
    """Law 3: on a CUDA build without a driver, the question alone raises."""
    with simulated_cuda(1) as cuda:
        with pytest.raises(RuntimeError, match="no cuda driver"):
            torch.cuda.is_current_stream_capturing()
        with rng_scope(42):
            pass
        seed_all(5)
        RNGState.capture().restore()
        assert not cuda.started


def test_the_tests_see_a_scope_that_asks_for_the_number_of_devices():
    """A test that cannot fail is worth less than none: the harness is strict."""
    assert "simulated_cuda" in sys.modules
    with pytest.raises(AssertionError, match="number of devices"):
        with simulated_cuda(2):
            with pytest.raises(AssertionError):
                torch.cuda.device_count()
