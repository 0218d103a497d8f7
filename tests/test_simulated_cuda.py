"""The harness itself: what it stands in for, and that it can fail."""

import os

import pytest

torch = pytest.importorskip("torch")

from simulated_cuda import ACCELERATORS, Misuse, simulated_cuda, state_bytes  # noqa: E402


@pytest.fixture(params=ACCELERATORS)
def name(request):
    return request.param


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def naive_scope(module, seed):
    """What fork_rng and its like do: save and restore what they can see, which is nothing."""
    saved = [generator.get_state() for generator in module.default_generators]
    torch.manual_seed(seed)
    for generator, state in zip(module.default_generators, saved):
        generator.set_state(state)


def test_the_harness_shows_the_leak_that_torch_has(name):
    """After seed 7, a scope with 42 that restores what it sees, and a start, devices hold 42."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(7)
        naive_scope(accelerator.module, 42)
        accelerator.start()
        assert accelerator.states() == [state_bytes(seeded(42))] * 2


def test_without_a_scope_the_queued_seed_arrives_at_the_start(name):
    """The queue runs as in torch: the latest seed of all devices wins."""
    with simulated_cuda(2, name=name) as accelerator:
        torch.manual_seed(6)
        accelerator.module.manual_seed_all(7)
        accelerator.start()
        assert accelerator.started
        assert accelerator.states() == [state_bytes(seeded(7))] * 2
        draw = torch.rand(3, generator=accelerator.generators[1])
        assert torch.equal(draw, torch.rand(3, generator=seeded(7)))


def test_queued_calls_run_before_queued_seeds(name):
    """torch's order is calls first, seeds last, whatever came first."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.module.manual_seed_all(7)
        accelerator.module.set_rng_state(seeded(11).get_state(), 0)
        accelerator.start()
        assert accelerator.states() == [state_bytes(seeded(7))] * 2


def test_a_queued_state_arrives_on_its_device_only(name):
    """What is queued for device 0 leaves device 1 with its entropy."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.module.set_rng_state(seeded(11).get_state(), 0)
        accelerator.start()
        assert accelerator.states() == [state_bytes(seeded(11)), accelerator.fresh[1]]


def test_a_queued_seed_of_the_current_device_arrives_there_only(name):
    """manual_seed is for the current device, manual_seed_all for all of them."""
    with simulated_cuda(2, name=name) as accelerator:
        accelerator.module.manual_seed(7)
        accelerator.start()
        assert accelerator.states() == [state_bytes(seeded(7)), accelerator.fresh[1]]


def test_generators_begin_with_entropy_of_their_own(name):
    """No two devices, and no two runs, begin alike."""
    with simulated_cuda(8, name=name) as accelerator:
        assert accelerator.generators == [] and accelerator.module.default_generators == ()
        accelerator.start()
        assert accelerator.states() == accelerator.fresh
        first = accelerator.fresh
    with simulated_cuda(8, name=name) as accelerator:
        accelerator.start()
        assert len({*first, *accelerator.fresh}) == 16


def test_the_queue_of_torch_itself_runs_once(name):
    """The two calls that stand for torch's own run in order, at the start only."""
    with simulated_cuda(1, name=name) as accelerator:
        assert accelerator.ran == []
        accelerator.start()
        accelerator.start()
        assert accelerator.ran == ["capability", "cubins"]


def test_an_accelerator_without_devices_does_not_start(name):
    """torch raises from below, before it runs the queue."""
    with simulated_cuda(0, name=name) as accelerator:
        before = accelerator.queue()
        with pytest.raises(RuntimeError, match="No .* GPUs are available"):
            accelerator.start()
        assert not accelerator.started and accelerator.ran == []
        assert accelerator.queue() == before


def test_a_start_that_fails_and_is_tried_again_keeps_its_generators(name):
    """As in torch, where the generators belong to the process and not to the attempt."""
    with simulated_cuda(1, name=name) as accelerator:
        failures = [OSError("not yet")]

        def fail_once():
            if failures:
                raise failures.pop()

        accelerator.module._lazy_call(fail_once)
        with pytest.raises(Exception, match="not yet"):
            accelerator.start()
        assert not accelerator.started
        fresh = accelerator.fresh
        accelerator.start()
        assert accelerator.started and accelerator.states() == accelerator.fresh == fresh


@pytest.mark.parametrize("question", ["device_count", "is_available"])
def test_asking_before_the_start_is_an_error_even_when_it_is_swallowed(name, question):
    """A question that poisons a later fork fails at once, and again at the end."""
    with pytest.raises(Misuse, match="before it had started"):
        with simulated_cuda(2, name=name) as accelerator:
            with pytest.raises(Misuse):
                getattr(accelerator.module, question)()


def test_after_the_start_the_questions_are_answered(name):
    """A started accelerator says how many devices it has and which one is current."""
    with simulated_cuda(3, name=name) as accelerator:
        accelerator.start()
        assert accelerator.module.device_count() == 3
        assert accelerator.module.is_available()
        assert accelerator.module.current_device() == 0
        with accelerator.module.device(2):
            assert accelerator.module.current_device() == 2
        assert accelerator.module.current_device() == 0


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_everything_is_put_back(name, start, error):
    """Afterwards every attribute is the object it was, and none is there that was not."""
    torch.manual_seed(3)  # something to lose in the real queue
    module = getattr(torch, name)
    targets = [torch._C, module, *filter(None, [getattr(module, "graphs", None)])]
    before = [dict(vars(target)) for target in targets]
    queue = list(module._queued_calls)
    order = list(module._lazy_seed_tracker.call_order)
    try:
        with simulated_cuda(2, name=name) as accelerator:
            torch.manual_seed(4)
            if start:
                accelerator.start()
                module.device_count()
            if error:
                raise error
    except ZeroDivisionError:
        pass
    for target, attributes in zip(targets, before):
        now = vars(target)
        assert now.keys() == attributes.keys()
        assert [key for key in now if now[key] is not attributes[key]] == []
    assert module._queued_calls == queue
    assert module._lazy_seed_tracker.call_order == order


def test_two_accelerators_can_be_simulated_at_once():
    """Each has its own queue; torch.manual_seed reaches both."""
    with simulated_cuda(2) as cuda, simulated_cuda(1, name="xpu") as xpu:
        torch.manual_seed(7)
        cuda.start()
        assert cuda.started and not xpu.started
        xpu.start()
        assert cuda.states() + xpu.states() == [state_bytes(seeded(7))] * 3


def test_the_queue_compares_by_identity_and_order(name):
    """Equal entries that are other objects, or in another order, are another queue."""
    with simulated_cuda(1, name=name) as accelerator:
        module = accelerator.module
        before = accelerator.queue()
        assert accelerator.queue() == before
        first, second = module._queued_calls
        module._queued_calls[:] = [second, first]
        assert accelerator.queue() != before
        module._queued_calls[:] = [(first[0], first[1]), second]
        assert accelerator.queue() != before
        module._queued_calls[:] = [first, second]
        assert accelerator.queue() == before
        module.manual_seed_all(7)
        assert accelerator.queue() != before
        seeded_once = accelerator.queue()
        module.manual_seed_all(7)
        assert accelerator.queue() != seeded_once
        assert "manual_seed_all" in repr(seeded_once)


def test_a_generator_fails_on_demand(name):
    """Each method can fail, for ever or a number of times; the real state stays."""
    with simulated_cuda(2, name=name, breakable=True) as accelerator:
        accelerator.start()
        generator = accelerator.module.default_generators[1]
        error = accelerator.fail(1, "get_state")
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                generator.get_state()
            assert caught.value is error
        accelerator.mend()
        state = generator.get_state()
        accelerator.fail(1, "change", times=1)
        with pytest.raises(OSError):
            generator.manual_seed(5)
        assert accelerator.states() == accelerator.fresh
        generator.manual_seed(5)
        assert accelerator.states()[1] == state_bytes(seeded(5))
        assert generator.initial_seed() == 5
        accelerator.fail(1, "set_state", KeyboardInterrupt(), times=1)
        with pytest.raises(KeyboardInterrupt):
            generator.set_state(state)
        generator.set_state(state)
        assert accelerator.states() == accelerator.fresh


def test_capture_is_simulated_after_the_start_and_unknown_before():
    """Before the start there is no driver to ask; during a capture no state may be touched."""
    with simulated_cuda(1) as cuda:
        with pytest.raises(RuntimeError, match="no cuda driver"):
            torch.cuda.is_current_stream_capturing()
        cuda.start()
        assert torch.cuda.is_current_stream_capturing() is False
        cuda.capturing = True
        assert torch.cuda.is_current_stream_capturing() is True
        assert torch._C._cuda_isCurrentStreamCapturing() is True
    with pytest.raises(Misuse, match="get_state while the stream is capturing"):
        with simulated_cuda(1, breakable=True) as cuda:
            cuda.start()
            cuda.capturing = True
            torch.cuda.default_generators[0].get_state()


def test_a_bad_fork_is_simulated(name):
    """A child of a started process sees an accelerator that is neither started nor startable."""
    with simulated_cuda(1, name=name) as accelerator:
        accelerator.start()
        assert not accelerator.module._is_in_bad_fork()
        accelerator.bad_fork = True
        assert not accelerator.started
        with pytest.raises(RuntimeError, match="forked subprocess"):
            accelerator.start()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", [True, False])
def test_a_real_fork_is_bad_exactly_after_a_start(name, start):
    """A child of a process that had not started can start by itself."""
    with simulated_cuda(1, name=name) as accelerator:
        if start:
            accelerator.start()
        child = os.fork()
        if not child:
            os._exit(accelerator.module._is_in_bad_fork())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == start
        assert not accelerator.module._is_in_bad_fork()
