"""Streams on a real GPU: around CUDA graphs and checkpointed layers."""

import random

import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

from rngscope import RNGStream, rng_scope  # noqa: E402

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("error::RuntimeWarning")]


@pytest.fixture(autouse=True)
def gpu():
    """Skip where there is no GPU; asked at run time, so that collecting starts nothing."""
    if not (torch.backends.cuda.is_built() and torch.cuda.is_available()):
        pytest.skip("needs a CUDA GPU")
    torch.cuda.init()


@pytest.fixture
def outside():
    """Check after the test that the program's generators are byte for byte what they were."""
    torch.cuda.manual_seed(7)
    torch.rand(3, device="cuda")
    before = states()
    yield states
    assert states() == before


def states():
    """Return the states of the program, as bytes, read through public calls."""
    on_gpu = torch.cuda.default_generators[torch.cuda.current_device()]
    return (
        random.getstate(),
        bytes(torch.default_generator.get_state().tolist()),
        bytes(on_gpu.get_state().tolist()),
        on_gpu.initial_seed(),
    )


def by_hand(seed, times, shape=(5,)):
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return [torch.rand(shape, device="cuda", generator=generator).tolist() for _ in range(times)]


def capture():
    """Return a captured graph that draws, and the tensor that it draws into."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), rng_scope():
        torch.rand(5, device="cuda")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = torch.rand(5, device="cuda")
    return graph, drawn


def replays(graph, drawn, times):
    values = []
    for _ in range(times):
        graph.replay()
        values.append(drawn.tolist())
    return values


def replays_after_seeding(graph, drawn, seed, times):
    """Return what a program without streams gets from the replays."""
    index = torch.cuda.current_device()
    before = torch.cuda.get_rng_state(index)
    torch.cuda.manual_seed(seed)
    values = replays(graph, drawn, times)
    torch.cuda.set_rng_state(before, index)
    return values


def test_each_use_continues_on_the_gpu(outside):
    """Three uses draw what one generator draws in a row."""
    stream, drawn = RNGStream(42), []
    for _ in range(3):
        with stream:
            drawn.append(torch.rand(5, device="cuda").tolist())
    assert drawn == by_hand(42, 3)


def test_a_nested_use_continues_on_the_gpu(outside):
    """Directly and through a scope; the scope has its own numbers."""
    stream, drawn = RNGStream(42), []
    with stream:
        drawn.append(torch.rand(5, device="cuda").tolist())
        with rng_scope(7):
            assert torch.rand(5, device="cuda").tolist() == by_hand(7, 1)[0]
            with stream:
                drawn.append(torch.rand(5, device="cuda").tolist())
        drawn.append(torch.rand(5, device="cuda").tolist())
    assert drawn == by_hand(42, 3)


def test_replays_in_uses_of_a_stream_go_on(outside):
    """A graph that was captured outside: its replays draw from the stream, use after use."""
    with rng_scope():
        graph, drawn = capture()
        wanted = replays_after_seeding(graph, drawn, 42, 4)
    assert len({str(values) for values in wanted}) == 4
    stream, values = RNGStream(42), []
    for times in (1, 2, 1):
        with stream:
            values += replays(graph, drawn, times)
    assert values == wanted


def test_a_stream_around_capture_and_replays(outside):
    """Captured and replayed in one use, then in another: the same numbers as without a stream."""
    stream, plain = RNGStream(42), []
    with rng_scope(42):
        graph, drawn = capture()
        plain += replays(graph, drawn, 3)
        plain.append(torch.rand(5, device="cuda").tolist())
    with stream:
        graph, drawn = capture()
        values = replays(graph, drawn, 2)
    with stream:
        values += replays(graph, drawn, 1)
        values.append(torch.rand(5, device="cuda").tolist())
    assert values == plain


def test_eager_draws_and_replays_share_the_stream(outside):
    """A replay moves the stream, so what is drawn after it is new."""
    graph, drawn = None, None
    stream = RNGStream(42)
    with rng_scope():
        graph, drawn = capture()
        torch.cuda.manual_seed(42)
        wanted = [torch.rand(5, device="cuda").tolist(), *replays(graph, drawn, 1)]
        wanted.append(torch.rand(5, device="cuda").tolist())
    with stream:
        values = [torch.rand(5, device="cuda").tolist()]
    with stream:
        values += replays(graph, drawn, 1)
    with stream:
        values.append(torch.rand(5, device="cuda").tolist())
    assert values == wanted
    assert len({str(value) for value in values}) == 3


def test_entering_a_stream_during_a_capture_is_refused(outside):
    """Law 7: RuntimeError before anything is touched; the stream is usable afterwards."""
    stream = RNGStream(42)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
            stream.__enter__()
        torch.zeros(1, device="cuda")
    with stream:
        assert torch.rand(5, device="cuda").tolist() == by_hand(42, 1)[0]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_layer_inside_a_stream(use_reentrant, outside):
    """Backward recomputes the layer outside the stream: the same mask, and no RNG moves."""
    stream = RNGStream(42)
    layer = torch.nn.Dropout(0.5)

    def run(call):
        inputs = torch.ones(1000, device="cuda", requires_grad=True)
        return inputs, call(inputs)

    with rng_scope(42):
        wanted = [run(layer)[1].tolist() for _ in range(3)]
    outputs = []
    for _ in range(3):
        with stream:
            inputs, output = run(lambda x: checkpoint(layer, x, use_reentrant=use_reentrant))
        position, before = stream.state_dict(), outside()
        output.sum().backward()
        # The gradient of dropout is its mask, scaled as the output is.
        assert torch.equal(inputs.grad, output.detach())
        assert stream.state_dict() == position and outside() == before
        outputs.append(output.tolist())
    assert outputs == wanted


def test_backward_inside_the_stream_leaves_it_where_it_was(outside):
    """To recompute takes nothing from the stream: the next draw is the next number."""
    stream = RNGStream(42)
    layer = torch.nn.Dropout(0.5)
    with rng_scope(42):
        layer(torch.ones(1000, device="cuda"))
        following = torch.rand(5, device="cuda").tolist()
    with stream:
        inputs = torch.ones(1000, device="cuda", requires_grad=True)
        output = checkpoint(layer, inputs, use_reentrant=False)
        output.sum().backward()
        assert torch.equal(inputs.grad, output.detach())
        assert torch.rand(5, device="cuda").tolist() == following


def test_a_stream_comes_back_from_its_state(outside):
    """state_dict() on the GPU: seed and Philox offset, exactly."""
    stream, again = RNGStream(42), RNGStream(1)
    with stream:
        torch.rand(5, device="cuda")
    again.load_state_dict(stream.state_dict())
    for each in (stream, again):
        with each:
            assert torch.rand(5, device="cuda").tolist() == by_hand(42, 2)[1]
