"""Law 8: scopes under ``torch.compile``; and the warning where torch records a program."""

import random
import warnings

import pytest
from by_hand import public_states

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("torch._dynamo")

from rngscope import RNGStream, rng_scope, seeded  # noqa: E402

pytestmark = [
    # What torch says about its own code, with or without a scope.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning"),
]
BACKENDS = ["eager", "aot_eager", "inductor"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def forget_graphs(unchanged):
    """Compile anew in each test, and leave nothing behind."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def numpy_stream():
    """Have compiled code draw ``numpy.random`` from NumPy, not from torch."""
    with torch._dynamo.config.patch(use_numpy_random_stream=True):
        yield


def draw_torch(x):
    return [x + torch.rand(3), x + torch.randn(3)]


def draw_numpy(x):
    return [np.random.rand(2), np.random.rand(2), x + 1]


def draw_python(x):
    return [random.random(), random.random(), x + 1]


def plain(values):
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]


def by_hand(function):
    """Return what it draws after the libraries' own seeding."""
    with rng_scope():
        random.seed(42)
        np.random.seed(42)
        torch.manual_seed(42)
        return plain(function(torch.ones(3)))


def call_twice(function):
    """Call it twice from two states; nothing moves, and nothing warns."""
    results = []
    for seed in (7, 8):
        with rng_scope(seed):
            before = public_states()
            results.append(plain(function(torch.ones(3))))
            assert public_states() == before
    return results


def in_a_scope(function):
    def call(x):
        with rng_scope(42):
            return function(x)

    return call


# function, compile -> the function in one of the forms
FORMS = {
    "compiled function in a scope": lambda f, c: in_a_scope(c(f)),
    "decorated, then compiled": lambda f, c: c(seeded(42)(f)),
    "compiled, then decorated": lambda f, c: seeded(42)(c(f)),
}
each_form = pytest.mark.parametrize("form", FORMS)
# inductor once: it starts a C++ compiler.
each_form_and_backend = pytest.mark.parametrize(
    ("form", "backend"),
    [(form, backend) for form in FORMS for backend in ("eager", "aot_eager")]
    + [("decorated, then compiled", "inductor")],
)


def made(form, function, backend):
    return FORMS[form](function, lambda f: torch.compile(f, backend=backend))


# Scopes and graphs ------------------------------------------------------------------------


@each_backend
def test_a_scope_inside_a_compiled_function_draws_the_eager_numbers(backend):
    """The graph breaks at the scope; first and second call draw each library's own numbers."""

    def function(x):
        y = x * 2
        with rng_scope(42):
            inner = [torch.rand(3), np.random.rand(2), random.random()]
            with rng_scope(43):
                inner += [torch.rand(3), np.random.rand(2), random.random()]
            inner += [torch.rand(3), np.random.rand(2), random.random()]
        return [y + 1, *inner]

    want = plain(function(torch.ones(3)))
    assert call_twice(torch.compile(function, backend=backend)) == [want, want]
    first = by_hand(lambda x: [torch.rand(3), np.random.rand(2), random.random()])
    assert want[1:4] == first


@each_form
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_without_new_kernels_torch_draws_the_eager_numbers(form, backend):
    """On backends that run torch's own kernels every form draws what eager code draws."""
    want = by_hand(draw_torch)
    assert call_twice(made(form, draw_torch, backend)) == [want, want]


def test_inductor_draws_its_own_numbers_the_same_in_every_form():
    """Inductor seeds its kernels from torch's generator: other numbers, as reproducible."""
    results = []
    for form in FORMS:
        results += call_twice(made(form, draw_torch, "inductor"))
    # torch.manual_seed and a compiled function give these numbers too.
    want = by_hand(torch.compile(draw_torch, backend="inductor"))
    assert all(result == want for result in results)
    assert want != by_hand(draw_torch)


@each_form_and_backend
def test_random_draws_python_numbers(form, backend):
    """``random`` in a graph is drawn from the scope, and put back."""
    want = by_hand(draw_python)
    assert call_twice(made(form, draw_python, backend)) == [want, want]


@each_form_and_backend
def test_numpy_random_draws_numpy_numbers_if_torch_is_told_so(form, backend, numpy_stream):
    """With torch's own switch, compiled code draws what NumPy draws."""
    want = by_hand(draw_numpy)
    assert call_twice(made(form, draw_numpy, backend)) == [want, want]


@each_form
def test_without_that_switch_numpy_random_in_a_graph_is_seeded_by_torch(form):
    """In a graph torch stands in for ``numpy.random``: reproducible, and put back."""
    want = by_hand(torch.compile(draw_numpy, backend="aot_eager"))
    assert call_twice(made(form, draw_numpy, "aot_eager")) == [want, want]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_stream_goes_on_through_compiled_calls(backend):
    """A stream as decorator, then compiled: each call continues."""

    def draw(x):
        return [random.random(), x + 1]

    function = torch.compile(RNGStream(42)(draw), backend=backend)
    numbers = [result[0] for result in call_twice(function)]
    own = random.Random(42)
    assert numbers == [own.random(), own.random()]


def test_a_model_is_compiled_although_its_call_is_in_a_scope():
    """The graph breaks at the scope only: what is called inside is still compiled."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    def model(x):
        return torch.nn.functional.dropout(x, 0.5) * 2

    @torch.compile(backend=backend)
    def step(x):
        with rng_scope(42):
            return [model(x)]

    want = by_hand(lambda x: [model(x)])
    assert call_twice(step) == [want, want]
    assert len(seen) == 1


@pytest.mark.parametrize(
    "function",
    [in_a_scope(draw_torch), seeded(42)(draw_torch), RNGStream(42)(draw_torch)],
    ids=["scope", "decorated", "stream"],
)
def test_a_full_graph_is_refused_with_a_reason(function):
    """``fullgraph=True`` fails, and the error says what to do instead."""
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    with pytest.raises(Exception) as caught:
        compiled(torch.ones(3))
    assert type(caught.value).__name__ == "Unsupported"
    assert "an RNG scope cannot be part of a graph" in str(caught.value)
    assert "enter the scope around the call of the compiled function" in str(caught.value)


def test_a_scope_that_covers_a_graph_changes_no_graph():
    """A compiled function is not compiled again because a scope is open."""
    count = []

    def backend(graph, inputs):
        count.append(graph)
        return graph.forward

    function = torch.compile(draw_torch, backend=backend)
    by_hand(function)
    call_twice(in_a_scope(function))
    assert len(count) == 1


# Recorded programs ------------------------------------------------------------------------


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def trace(function):
    torch.jit.trace(function, torch.ones(3), check_trace=False)


def make_fx(function):
    torch.fx.experimental.proxy_tensor.make_fx(function)(torch.ones(3))


def make_fx_before_dispatch(function):
    torch.fx.experimental.proxy_tensor.make_fx(function, pre_dispatch=True)(torch.ones(3))


def make_fx_with_symbols(function):
    torch.fx.experimental.proxy_tensor.make_fx(function, tracing_mode="symbolic")(torch.ones(3))


def export(function):
    torch.export.export(Module(function), (torch.ones(3),), strict=False)


RECORDERS = [
    trace,
    make_fx,
    make_fx_before_dispatch,
    make_fx_with_symbols,
    export,
    torch.fx.symbolic_trace,
]
each_recorder = pytest.mark.parametrize("record", RECORDERS, ids=lambda r: r.__name__)


def record_quietly(record, function):
    """Record, and return the warnings about scopes."""
    import torch.fx.experimental.proxy_tensor  # noqa: F401

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record(function)
    return [each for each in caught if "RNG scope" in str(each.message)]


def in_an_empty_scope(x):
    with rng_scope():
        return x + torch.rand(3)


def in_a_seeded_scope(x):
    with rng_scope(42):
        return x + torch.rand(3)


@each_recorder
@pytest.mark.parametrize("function", [in_a_seeded_scope, in_an_empty_scope])
def test_a_scope_in_a_recorded_program_warns(record, function):
    """What records torch's operations drops the scope: a warning says so, at its line."""
    (warning,) = record_quietly(record, function)
    assert warning.category is RuntimeWarning
    assert "will not be part of that program" in str(warning.message)
    assert warning.filename == __file__
    assert warning.lineno == function.__code__.co_firstlineno + 1


@each_recorder
def test_a_decorated_function_in_a_recorded_program_warns(record):
    """The warning points to the program's call, never into this package."""
    (warning,) = record_quietly(record, lambda x: seeded(42)(draw_torch)(x)[0])
    assert "rngscope" not in warning.filename.replace(__file__, "")


@each_recorder
def test_a_program_recorded_inside_of_a_scope_does_not_warn(record):
    """A scope around the recording, or one that leaves torch out, loses nothing."""
    with rng_scope(42):
        assert record_quietly(record, lambda x: x + 1) == []

    def without_torch(x):
        with rng_scope(42, sources=["python"]):
            return x + random.random()

    assert record_quietly(record, without_torch) == []


@each_recorder
def test_a_warning_that_is_an_error_touches_nothing(record):
    """Under ``-W error`` the entry fails before torch's generator is seeded."""
    import torch.fx.experimental.proxy_tensor  # noqa: F401

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message="an RNG scope")
        with pytest.raises(RuntimeWarning, match="an RNG scope"):
            record(in_a_seeded_scope)
