"""The same laws on a real GPU; whatever starts CUDA for the first time runs in a subprocess."""

import functools
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

import rngscope  # noqa: E402
from rngscope import RNGState, assert_rng_unchanged, derive_seed, rng_scope, seed_all  # noqa: E402

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("error::RuntimeWarning")]


def run(code):
    """Run code in a fresh process; a failure there is a failure here."""
    path = [str(Path(rngscope.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path)))
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


PREAMBLE = """
import os, random, warnings
import numpy as np
import torch
from rngscope import *
warnings.simplefilter("error", RuntimeWarning)

def hand_seeded(seed, index=0, draws=0):
    generator = torch.Generator(device=f"cuda:{index}").manual_seed(seed)
    if draws:
        torch.rand(draws, device=f"cuda:{index}", generator=generator)
    return generator

def with_state(seed, offset):
    # A CUDA state is 16 bytes: the seed and the Philox offset.
    data = seed.to_bytes(8, "little") + offset.to_bytes(8, "little")
    return torch.tensor(list(data), dtype=torch.uint8)

def draw(index=0, generator=None):
    return torch.rand(3, device=f"cuda:{index}", generator=generator).tolist()

def state(index=0):
    torch.cuda.init()
    return torch.cuda.default_generators[index].get_state().tolist()

def device_files():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return {name for name in found if name.startswith("/dev/nvidia")}

def in_child(function):
    child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def check(code):
    result = run(code)
    assert result.returncode == 0, result.stderr


@functools.cache
def has_gpu():
    """Tell whether there is a GPU, without starting CUDA in this process."""
    if not torch.backends.cuda.is_built():
        return False
    result = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.stdout.strip() == "True"


@pytest.fixture(autouse=True)
def gpu():
    """Skip where there is no GPU; asked at run time, so that collecting tests costs nothing."""
    if not has_gpu():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture
def two_gpus(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")


def hand_seeded(seed, draws=0, index=0):
    """Return a generator that rngscope has never seen."""
    generator = torch.Generator(device=f"cuda:{index}").manual_seed(seed)
    if draws:
        torch.rand(draws, device=f"cuda:{index}", generator=generator)
    return generator


def draws(generator=None, index=0):
    return torch.rand(3, device=f"cuda:{index}", generator=generator).tolist()


def cuda_states():
    torch.cuda.init()
    return [bytes(generator.get_state().tolist()) for generator in torch.cuda.default_generators]


def on_the_cpu():
    words = np.random.get_state(legacy=False)
    return (
        random.getstate(),
        (words["state"]["key"].tobytes(), words["state"]["pos"]),
        (words["has_gauss"], words["gauss"]),
        torch.get_rng_state().numpy().tobytes(),
        torch.initial_seed(),
    )


# Laws 3 and 4: CUDA that has not started --------------------------------------------------


@pytest.mark.parametrize("arguments", ["42", "", "42, devices=[0]", "42, independent=True"])
def test_a_scope_before_the_start_leaves_cuda_unstarted(arguments):
    """Law 3: no driver file is opened, and a forked child can still start CUDA."""
    check(f"""
        assert not torch.cuda.is_initialized()
        files = device_files()
        queue = list(torch.cuda._queued_calls)
        with rng_scope({arguments}):
            assert not torch.cuda.is_initialized()
            torch.rand(3)
        assert device_files() == files
        assert not torch.cuda.is_initialized()
        assert all(a is b for a, b in zip(torch.cuda._queued_calls, queue, strict=True))
        assert torch.cuda._lazy_seed_tracker.get_calls() == []

        def child():
            assert not torch.cuda._is_in_bad_fork()
            assert draw() != draw()

        in_child(child)
    """)


PROGRAMS = {
    "nothing": ("", None),
    "torch.manual_seed": ("torch.manual_seed(7)", "hand_seeded(7)"),
    "manual_seed_all": ("torch.cuda.manual_seed_all(7)", "hand_seeded(7)"),
    "manual_seed": ("torch.cuda.manual_seed(7)", "hand_seeded(7)"),
    "set_rng_state": (
        "torch.cuda.set_rng_state(with_state(11, 8), 0)",
        "hand_seeded(0); outcome.set_state(with_state(11, 8))",
    ),
}
by_program = pytest.mark.parametrize("program", PROGRAMS)


@pytest.mark.parametrize("moment", ["before", "outer", "inner", "between", "after"])
@by_program
def test_whenever_cuda_starts_each_scope_has_its_stream_and_the_program_its_own(program, moment):
    """Law 4: it behaves as if it had started just before the outermost scope."""
    queue, outcome = PROGRAMS[program]
    check(f"""
        def at(now):
            if now == {moment!r}:
                torch.cuda.init()

        def look(seed, drawn):
            if torch.cuda.is_initialized():
                generator = hand_seeded(seed)
                if drawn:
                    draw(generator=generator)
                assert draw() == draw(generator=generator)
                assert torch.cuda.initial_seed() == seed

        {queue}
        at("before")
        with rng_scope(42):
            at("outer")
            started_in_outer = torch.cuda.is_initialized()
            look(42, False)
            with rng_scope(43):
                at("inner")
                look(43, False)
                look(43, True)
            at("between")
            look(42, started_in_outer)
        at("after")
        outcome = {outcome}
        if outcome is not None:
            assert state() == outcome.get_state().tolist()
            assert draw() == draw(generator=outcome)
        else:
            # Entropy, not yet drawn from: a seed that is none of ours, and offset 0.
            assert torch.cuda.initial_seed() not in (42, 43)
            assert state()[8:] == 8 * [0]
        assert len(torch.cuda._queued_calls) < 12
    """)


def test_a_fresh_start_inside_a_scope_is_different_entropy_in_each_process():
    """Law 4: after the scope the generators hold the entropy they started with."""
    code = """
        with rng_scope(42):
            draw()
        print(torch.cuda.initial_seed())
    """
    first, second = run(code), run(code)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout != second.stdout


@pytest.mark.parametrize("start", ["inside", "after"])
@by_program
def test_what_the_body_queues_for_the_rngs_is_gone_and_the_rest_stays(program, start):
    """Law 4: a seed queued in the body ends with it, an unrelated call runs once."""
    queue, outcome = PROGRAMS[program]
    check(f"""
        {queue}
        record = []
        with rng_scope(42):
            torch.manual_seed(99)
            torch.cuda._lazy_call(lambda: record.append(1))
            if {start!r} == "inside":
                assert draw() == draw(generator=hand_seeded(99))
        outcome = {outcome}
        torch.cuda.init()
        assert record == [1]
        if outcome is None:
            assert torch.cuda.initial_seed() not in (42, 99) and state()[8:] == 8 * [0]
        else:
            assert draw() == draw(generator=outcome)
    """)


def test_a_missing_device_is_a_warning_at_the_start():
    """The seed waits for the devices named; the start says which is missing and succeeds."""
    check("""
        with rng_scope(42, devices=[0, 63]):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.init()
            assert any("63" in str(warning.message) for warning in caught)
            assert draw() == draw(generator=hand_seeded(42))
        assert torch.cuda.initial_seed() != 42
    """)


def test_seed_all_before_the_start_stays_queued():
    """seed_all leaves the seed for CUDA as torch.manual_seed does."""
    check("""
        seed_all(5)
        assert not torch.cuda.is_initialized()
        assert draw() == draw(generator=hand_seeded(5))
    """)


def test_a_state_that_waits_for_the_start_arrives_after_a_queued_seed():
    """restore before the start: the devices get their part when CUDA starts."""
    result = run("""
        import json
        torch.cuda.manual_seed_all(21)
        draw()
        print(json.dumps(RNGState.capture(sources=["cuda"]).state_dict()))
    """)
    assert result.returncode == 0, result.stderr
    check(f"""
        import json
        torch.manual_seed(7)
        state_before = RNGState.from_state_dict(json.loads({result.stdout.strip()!r}))
        assert not torch.cuda.is_initialized()
        with rng_scope(state_before):
            pass
        state_before.restore()
        assert not torch.cuda.is_initialized()
        expected = hand_seeded(21)
        draw(generator=expected)
        assert draw() == draw(generator=expected)
    """)


# Law 1: a started CUDA --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 2**32, 2**64 - 1])
def test_seeded_draws_are_those_of_manual_seed_all(seed):
    """rng_scope(s) draws on every device what torch.cuda.manual_seed_all(s) would."""
    states = cuda_states()
    with rng_scope(seed):
        drawn = [draws(index=index) for index in range(len(states))]
        normal = torch.randn(5, device="cuda").tolist()
        assert torch.cuda.initial_seed() == seed
    assert cuda_states() == states
    saved = torch.cuda.get_rng_state_all()
    torch.cuda.manual_seed_all(seed)
    assert [draws(index=index) for index in range(len(states))] == drawn
    assert torch.randn(5, device="cuda").tolist() == normal
    torch.cuda.set_rng_state_all(saved)


def test_independent_gives_each_device_a_seed_of_its_own():
    """Each device gets derive_seed(seed, 'cuda', index)."""
    states = cuda_states()
    with rng_scope(42, independent=True):
        for index in range(len(states)):
            expected = hand_seeded(derive_seed(42, "cuda", index), index=index)
            assert draws(index=index) == draws(expected, index)
    assert cuda_states() == states


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_after_any_exit_every_device_is_what_it_was(error):
    """Law 1: seed and Philox offset, and the draws that follow."""
    torch.cuda.manual_seed_all(5)
    draws()
    states, before = cuda_states(), on_the_cpu()
    try:
        with rng_scope(42):
            assert draws() == draws(hand_seeded(42))
            torch.nn.functional.dropout(torch.ones(1000, device="cuda"))
            if error:
                raise error
    except BaseException as caught:
        assert type(caught) is error
    assert cuda_states() == states
    assert on_the_cpu() == before
    expected = hand_seeded(5)
    draws(expected)
    assert draws() == draws(expected)


def test_nested_scopes_continue_their_own_streams():
    """Law 1: after the inner scope the outer stream goes on."""
    states = cuda_states()
    with rng_scope(42):
        expected = hand_seeded(42)
        assert draws() == draws(expected)
        with rng_scope(43):
            assert draws() == draws(hand_seeded(43))
        with rng_scope():
            assert draws() == draws(hand_seeded(42, draws=3))
        assert draws() == draws(expected)
    assert cuda_states() == states


def test_the_current_device_and_stream_stay():
    """A scope selects no device and no stream."""
    last = torch.cuda.device_count() - 1
    stream = torch.cuda.Stream(last)
    with torch.cuda.device(last), torch.cuda.stream(stream):
        with rng_scope(42):
            assert torch.cuda.current_device() == last
            assert torch.cuda.current_stream() == stream
            assert draws(index=last) == draws(hand_seeded(42, index=last), last)
        assert torch.cuda.current_device() == last
        assert torch.cuda.current_stream() == stream


def test_a_default_device_and_modes_change_nothing():
    """Law 9: a default device, meta, inference mode."""
    states = cuda_states()
    for mode in (torch.device("cuda"), torch.device("meta"), torch.inference_mode()):
        with mode:
            with rng_scope(42):
                inside = cuda_states_as_they_are()
            assert cuda_states_as_they_are() == states
        assert inside == [bytes([42] + 15 * [0])] * len(states)


def cuda_states_as_they_are():
    """Read the states without an operation that a mode could redirect."""
    import ctypes

    states = [generator.get_state() for generator in torch.cuda.default_generators]
    return [ctypes.string_at(state.data_ptr(), 16) for state in states]


# Some devices only ------------------------------------------------------------------------


def test_no_device_means_that_cuda_is_not_touched():
    """devices=[]: seeds and draws on the GPU are the program's."""
    torch.cuda.manual_seed_all(5)
    with rng_scope(42, devices=[]):
        assert draws() == draws(hand_seeded(5))
    assert draws() == draws(hand_seeded(5, draws=3))


@pytest.mark.parametrize("spelling", [0, torch.device("cuda", 0)], ids=str)
def test_one_device_can_be_named(spelling):
    """devices=[0] seeds and restores device 0."""
    states = cuda_states()
    with rng_scope(42, devices=[spelling]):
        assert draws() == draws(hand_seeded(42))
    assert cuda_states() == states


@pytest.mark.parametrize("wanted", [[63], [0, 63], [torch.device("cuda", 63)]], ids=str)
def test_a_device_that_does_not_exist_is_refused_at_entry(wanted):
    """A started CUDA refuses an unknown device before anything is touched."""
    states, before = cuda_states(), on_the_cpu()
    with pytest.raises(ValueError, match="63"):
        rng_scope(42, devices=wanted).__enter__()
    assert cuda_states() == states
    assert on_the_cpu() == before


def test_a_device_that_is_not_covered_is_not_touched(two_gpus):
    """devices=[0] of two: device 1 keeps the program's stream, also when the body seeds all."""
    torch.cuda.manual_seed_all(5)
    with rng_scope(42, devices=[0]):
        assert draws() == draws(hand_seeded(42))
        assert draws(index=1) == draws(hand_seeded(5, index=1), 1)
        torch.manual_seed(99)
    assert draws() == draws(hand_seeded(5))
    assert draws(index=1) == draws(hand_seeded(99, index=1), 1)


def test_an_unstarted_device_that_is_not_covered_is_not_touched(two_gpus):
    """The same when CUDA starts inside, or after the scope."""
    for start in ("torch.cuda.init()", "pass"):
        check(f"""
            torch.manual_seed(5)
            with rng_scope(42, devices=[0]):
                torch.manual_seed(99)
                {start}
            assert draw(0) == draw(0, hand_seeded(5, 0))
            assert draw(1) == draw(1, hand_seeded(99, 1))
        """)


# RNGState ---------------------------------------------------------------------------------


def test_a_state_survives_json_and_replays():
    """state_dict holds the 16 bytes of every device; a replay continues from them."""
    torch.cuda.manual_seed_all(21)
    draws()
    state = RNGState.capture()
    loaded = RNGState.from_state_dict(json.loads(json.dumps(state.state_dict())))
    assert loaded == state and "cuda" in loaded.fingerprints()
    expected = draws()
    assert list(state.differs_from(RNGState.capture())) == ["cuda"]
    outer = cuda_states()
    for replayed in (state, loaded):
        with rng_scope(replayed):
            assert draws() == expected
    assert cuda_states() == outer
    loaded.restore()
    assert draws() == expected


def test_draws_on_the_gpu_are_noticed():
    """assert_rng_unchanged names cuda when its generator moved."""
    torch.cuda.init()
    with assert_rng_unchanged():
        with rng_scope(42):
            draws()
    with pytest.raises(AssertionError, match="cuda"):
        with assert_rng_unchanged():
            draws()


def test_seed_all_seeds_every_device_now():
    """On a started CUDA seed_all takes effect at once."""
    torch.cuda.init()
    before = RNGState.capture()
    seed_all(5)
    assert draws() == draws(hand_seeded(5))
    before.restore()


# Law 7: CUDA graphs -----------------------------------------------------------------------


@pytest.fixture
def warm():
    """Run what is captured once before, as torch asks for."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.rand(4, device="cuda").add_(1)
    torch.cuda.synchronize()


@pytest.mark.parametrize("seed", [42, None])
def test_entering_during_a_capture_is_refused_before_anything_is_touched(warm, seed):
    """Law 7: RuntimeError, the other sources byte-identical, and the capture goes on."""
    states, before = cuda_states(), on_the_cpu()
    graph = torch.cuda.CUDAGraph()
    count = torch.zeros(4, device="cuda")
    with torch.cuda.graph(graph):
        count.add_(1)
        with pytest.raises(RuntimeError, match="captur"):
            rng_scope(seed).__enter__()
        inside = on_the_cpu()
        with rng_scope(seed, devices=[]):
            torch.rand(1)
        count.add_(1)
    assert inside == before == on_the_cpu()
    assert cuda_states() == states
    graph.replay()
    assert count.tolist() == [2.0] * 4
    with rng_scope(42):
        assert draws() == draws(hand_seeded(42))
    assert cuda_states() == states


def test_leaving_during_a_capture_restores_the_others_and_then_raises(warm):
    """Law 7: what the capture does not forbid is restored; the graph is whole."""
    saved = torch.cuda.get_rng_state_all()
    before = on_the_cpu()
    graph = torch.cuda.CUDAGraph()
    count = torch.zeros(4, device="cuda")
    scope = rng_scope(42)
    scope.__enter__()
    random.random(), np.random.random(), torch.rand(1)
    with torch.cuda.graph(graph):
        count.add_(1)
        with pytest.raises(RuntimeError, match="captur"):
            scope.__exit__(None, None, None)
        inside = on_the_cpu()
    assert inside == before
    graph.replay()
    assert count.tolist() == [1.0] * 4
    torch.cuda.set_rng_state_all(saved)
    states = cuda_states()
    with rng_scope(43):
        draws()
    assert cuda_states() == states


def test_a_scope_around_a_capture_restores(warm):
    """Law 7: entered before the capture and left after it, with draws in the graph."""
    torch.cuda.manual_seed_all(5)
    draws()
    states = cuda_states()
    graph = torch.cuda.CUDAGraph()
    with rng_scope(42):
        with torch.cuda.graph(graph):
            captured = torch.rand(4, device="cuda")
        graph.replay()
        first = captured.tolist()
    assert cuda_states() == states
    # The graph reads the generator's state at each replay, so a scope seeds it again.
    with rng_scope(42):
        graph.replay()
        second = captured.tolist()
        graph.replay()
        third = captured.tolist()
    assert cuda_states() == states
    assert first == second != third


def test_a_scope_around_a_replay_seeds_the_graph(warm):
    """Law 7: replayed in a scope, a graph draws what the same calls draw outside a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.rand(4, device="cuda")
    states = cuda_states()
    with rng_scope(42):
        graph.replay()
        replayed = captured.tolist()
    assert cuda_states() == states
    with rng_scope(42):
        assert torch.rand(4, device="cuda").tolist() == replayed
    assert cuda_states() == states


# Law 6: forks -----------------------------------------------------------------------------


def test_a_forked_child_of_a_cuda_process_skips_cuda():
    """Law 4: in the child everything else is seeded and restored, without an error."""
    check("""
        draw()

        def child():
            assert torch.cuda._is_in_bad_fork()
            before = torch.get_rng_state()
            with rng_scope(42):
                generator = torch.Generator().manual_seed(42)
                assert torch.equal(torch.rand(3), torch.rand(3, generator=generator))
            assert torch.equal(torch.get_rng_state(), before)
            assert "cuda" not in RNGState.capture().fingerprints()
            seed_all(3)

        states = state()
        in_child(child)
        assert state() == states
    """)


def test_a_scope_inherited_by_a_child_is_left_there_without_cuda():
    """Law 6: the child restores what it can use, the parent restores everything."""
    check("""
        torch.cuda.manual_seed_all(7)
        before, outer = torch.get_rng_state(), state()
        scope = rng_scope(42)
        with scope:
            draw()

            def child():
                scope.__exit__(None, None, None)
                assert torch.equal(torch.get_rng_state(), before)

            in_child(child)
        assert state() == outer
    """)


# What a scope costs -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [42, None])
def test_a_scope_neither_waits_for_the_gpu_nor_allocates_on_it(seed):
    """A kernel in flight is still running after ten scopes, and no memory was asked for."""
    with rng_scope(seed):
        pass
    torch.cuda._sleep(1000)  # loads the kernel
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    allocated = torch.cuda.memory_allocated()
    requests = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        done.record()
        for _ in range(10):
            with rng_scope(seed):
                pass
        running = not done.query()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        torch.cuda.synchronize()
    assert running
    assert done.query()
    assert torch.cuda.memory_allocated() == allocated
    assert torch.cuda.memory_stats().get("allocation.all.allocated", 0) == requests


# deterministic=True -----------------------------------------------------------------------


def test_deterministic_kernels_are_on_in_the_scope_only():
    """A kernel without a deterministic version is refused inside, and allowed again outside."""
    check("""
        values = torch.rand(10, device="cuda")
        matrix = torch.rand(8, 8, device="cuda")

        def allowed():
            values.kthvalue(3)
            assert not torch.are_deterministic_algorithms_enabled()
            assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ

        allowed()
        flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
        with rng_scope(42, deterministic=True):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
            matrix @ matrix  # refused without CUBLAS_WORKSPACE_CONFIG
            try:
                values.kthvalue(3)
            except RuntimeError as error:
                assert "deterministic" in str(error)
            else:
                raise AssertionError("kthvalue has no deterministic kernel")
        allowed()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags
    """)


def test_a_deterministic_scope_gives_the_same_training_step_twice():
    """The same scope gives the same weights, bit for bit."""
    check("""
        def train():
            with rng_scope(42, deterministic=True):
                model = torch.nn.Sequential(
                    torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Dropout(),
                    torch.nn.Linear(4 * 36, 3)).cuda()
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                for _ in range(5):
                    loss = model(torch.randn(16, 1, 8, 8, device="cuda")).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                return [parameter.tolist() for parameter in model.parameters()]

        draw()
        before = state()
        first = train()
        assert state() == before
        draw()
        assert train() == first
    """)
