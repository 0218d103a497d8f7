"""Law 11: a copy means the same and is independent from then on; what is open refuses.

A copy is made by ``copy``, ``deepcopy``, ``pickle`` in each of its protocols, ``cloudpickle`` and
``torch.save``, here or in another process.
"""

import asyncio
import contextlib
import copy
import functools
import inspect
import io
import os
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from by_hand import NAMES, cache_gaussians, draw, expected, generator, public_states
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from test_state import draw_own, own_generators

from rngscope import RNGState, RNGStream, assert_rng_unchanged, rng_scope, seeded
from rngscope._plan import choose
from rngscope.data import per_item
from rngscope.distributed import PerRank
from rngscope.sources import SOURCES
from rngscope.sources.generators import GeneratorCell

each_source = pytest.mark.parametrize("name", NAMES)


def through_cloudpickle(thing):
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(thing))


def through_torch(thing):
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_pickle(protocol, thing):
    return pickle.loads(pickle.dumps(thing, protocol))


# Switches whose library is not there, which the runs without it have.
pytestmark = pytest.mark.filterwarnings("ignore:.* was not imported before:RuntimeWarning")

PICKLES = {
    f"pickle {protocol}": functools.partial(through_pickle, protocol)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
}
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **PICKLES,
    "cloudpickle": through_cloudpickle,
    "torch.save": through_torch,
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=[name for name in WAYS if name != "copy"])
def deep_way(request):
    return WAYS[request.param]


def draws(names=NAMES):
    return [draw(name) for name in NAMES if name in names]


def generators_of(scope):
    """Return the cells of the program's own generators."""
    return [source for source in scope._plan.sources if isinstance(source, GeneratorCell)]


def inside(scope):
    """Return what a block draws from every source and from the scope's own generators."""
    sources = scope._plan.sources
    with scope:
        own = [draw_own(cell.generator) for cell in generators_of(scope)]
        return draws([source.name for source in sources]), own


# Sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.kind)
def test_a_source_is_copied_as_the_source_of_its_process(source, way):
    """A scope has opened views of memory: they are not part of what is copied."""
    inside(rng_scope(1))
    assert way(source) is source


def test_the_tuple_of_all_sources_stays_that_very_tuple(way):
    """Scopes over all sources have a faster entry, which knows them by this."""
    assert way(rng_scope(1))._plan.sources is SOURCES
    assert way(RNGStream(1))._plan.sources is SOURCES


def test_an_accelerator_over_some_devices_is_copied_by_name_and_devices(way):
    """The private backend too, whatever its name is where the copy arrives."""
    for name in ("cuda", "xpu", "mps", "mtia", SOURCES[4].name):
        (source,) = choose([name], [2, 0])
        twin = way(source)
        assert type(twin) is type(source) and twin.devices == source.devices == (2, 0)
        assert twin.kind == source.kind


def test_a_source_that_is_unknown_here_is_named():
    """A pickle of a later version may hold one."""
    text = pickle.dumps(SOURCES[0], 0).replace(b"cuda", b"jax")
    with pytest.raises(ValueError, match="'jax', a source that this version"):
        pickle.loads(text)


# Scopes -------------------------------------------------------------------------------------

SCOPES = {
    "a seed": dict(seed=42),
    "a long seed": dict(seed=2**64 - 1),
    "preserving": dict(),
    "independent": dict(seed=42, independent=True),
    "some sources": dict(seed=42, sources=["python"]),
    "some devices": dict(seed=42, devices=[0]),
    "deterministic": dict(seed=42, deterministic=True),
}


@pytest.mark.parametrize("options", SCOPES.values(), ids=SCOPES)
def test_a_copy_of_a_scope_draws_what_the_scope_draws(options, way, unchanged):
    """With the same type, the same seed and the same text, before and after it was entered."""
    scope = rng_scope(**options)
    for _ in range(2):
        twin = way(scope)
        assert type(twin) is rng_scope and twin is not scope
        assert twin.seed == scope.seed and repr(twin) == repr(scope)
        before = public_states()
        drawn = inside(twin)
        for _ in range(2):
            # Where they draw, the scope seeds anew; where they preserve, they are put back.
            assert inside(scope) == drawn and public_states() == before


def test_a_copy_of_a_deterministic_scope_switches_too(way, unchanged):
    """The switches are sources like others, and back again after the block."""
    torch = pytest.importorskip("torch")
    twin = way(rng_scope(42, deterministic=True))
    with twin:
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_scope_and_copy_may_be_open_at_once(way, unchanged):
    """Each is put back on its own: the copy's block draws nothing from the outer one."""
    scope = rng_scope(42)
    twin = way(scope)
    drawn = inside(scope)
    with scope:
        assert inside(twin) == drawn
        assert draws() == drawn[0]
        twin.__enter__()
        with pytest.raises(RuntimeError, match="is open already"):
            twin.__enter__()
        twin.__exit__()


def test_a_copy_of_a_scope_over_a_state_replays_it(way, unchanged):
    """With the generators of the state, at their positions."""
    own = own_generators()
    state = RNGState.capture(generators=own)
    scope = rng_scope(state, generators=own)
    drawn = inside(scope)
    assert inside(way(scope)) == drawn == inside(scope)
    assert inside(way(way(scope))) == drawn


def test_a_copy_of_a_scope_over_an_empty_state_preserves(way, unchanged):
    """A state without a source is not the same as no state, but does as much."""
    before = public_states()
    twin = way(rng_scope(RNGState.capture(sources=[])))
    assert twin._plan.values == {}
    inside(twin)
    assert public_states() == before


def test_a_pickle_holds_states_in_plain_form():
    """No tensor, no array and no type of another library: what is loaded is checked."""
    with rng_scope(3):
        scope = rng_scope(RNGState.capture())
    stream = RNGStream(4)
    inside(stream)
    for thing in (scope, stream, seeded(RNGState.capture())):
        for text in (pickle.dumps(part, 2) for part in (scope, stream)):
            assert b"torch._" not in text and b"numpy._core" not in text and b"_rebuild" not in text
    damaged = pickle.dumps(stream, 2)
    position = damaged.index(b"words") + 100
    digit = b"0" if damaged[position : position + 1] != b"0" else b"1"
    with pytest.raises(ValueError, match="checksum"):
        pickle.loads(damaged[:position] + digit + damaged[position + 1 :])


class NamedScope(rng_scope):
    """A scope of a user, with an attribute and a slot of its own."""

    __slots__ = ("label", "__dict__")

    def __init__(self, seed, label, **options):
        super().__init__(seed, **options)
        self.label = label
        self.labels = [label]


class NamedStream(RNGStream):
    """A stream of a user."""

    def __init__(self, label):
        super().__init__(7)
        self.labels = [label]


class NamedCheck(assert_rng_unchanged):
    """A check of a user."""

    label = None


def test_a_subclass_keeps_type_and_attributes(way):
    """Copied as those of any object: a shallow copy shares them."""
    scope, stream, check = NamedScope(42, "a", independent=True), NamedStream("b"), NamedCheck()
    check.label = "c"
    inside(stream)
    for thing, twin in [(scope, way(scope)), (stream, way(stream))]:
        assert type(twin) is type(thing) and twin.labels == thing.labels
        assert (twin.labels is thing.labels) is (way is copy.copy)
        assert inside(twin) == inside(thing)
    assert way(scope).label == "a"
    assert type(way(check)) is NamedCheck and way(check).label == "c"


def test_an_object_that_holds_itself_through_a_stream_is_copied(way):
    """deepcopy and pickle know a stream before they know its attributes."""
    stream = NamedStream("a")
    stream.labels.append(stream)
    twin = way(stream)
    assert twin.labels[1] is (stream if way is copy.copy else twin)


# Generators of the user -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [rng_scope, RNGStream])
def test_a_shallow_copy_shares_the_generators(make, unchanged):
    """As copy.copy of any object shares what the object holds."""
    own = own_generators()
    scope = make(42, generators=own, independent=True)
    twin = copy.copy(scope)
    shared = [cell.generator for cell in generators_of(twin)]
    assert list(map(id, shared)) == list(map(id, own))
    assert inside(twin) == inside(scope)


@pytest.mark.parametrize("make", [rng_scope, RNGStream])
@pytest.mark.parametrize("used", [False, True])
def test_a_deep_copy_covers_copies_of_the_generators(make, used, deep_way, unchanged):
    """One object stays one: the copy covers those that were copied together with it."""
    own = own_generators()
    scope = make(42, generators=own, independent=True)
    if used:
        inside(scope)
    own_before = RNGState.capture(sources=[], generators=own)
    copied, twin = deep_way((own, scope))
    assert not set(map(id, copied)) & set(map(id, own))
    before = RNGState.capture(sources=[], generators=copied)
    assert before == own_before
    with twin:
        drawn = list(map(draw_own, copied))
        assert RNGState.capture(sources=[], generators=own) == own_before
    assert RNGState.capture(sources=[], generators=copied) == before
    with scope:
        assert list(map(draw_own, own)) == drawn


def test_two_scopes_over_one_generator_are_two_over_one_copy(deep_way):
    """And the generator's place in the list stays what it was."""
    own = random.Random(5)
    first, second = deep_way((rng_scope(1, generators=[own]), RNGStream(2, generators=[own])))
    (one,) = generators_of(first)
    (other,) = generators_of(second)
    assert one.generator is other.generator is not own
    assert one == other and one.position == 0


# Streams --------------------------------------------------------------------------------------

STREAMS = {
    "plain": {},
    "independent": {"independent": True},
    "deterministic": {"deterministic": True},
    "some sources": {"sources": ["python"]},
}


@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("uses", [0, 1, 3])
def test_a_copy_of_a_stream_draws_what_the_stream_draws(options, uses, way, path, unchanged):
    """From where it stands; whoever draws first leaves the other where it was."""
    stream = RNGStream(42, **options)
    for _ in range(uses):
        inside(stream)
    first, second = way(stream), way(stream)
    assert type(first) is RNGStream and first.seed == 42
    drawn = [inside(first) for _ in range(3)]
    assert [inside(stream) for _ in range(3)] == drawn
    assert [inside(second) for _ in range(3)] == drawn


@each_source
def test_a_cached_gaussian_goes_along(name, way, unchanged):
    """draw() leaves the second half of a pair behind: the copy begins with it."""
    stream = RNGStream(42)
    with stream:
        draw(name)
    with way(stream):
        assert [draw(name)] == expected(name, 42, 2)[1:]


def test_a_copy_begins_anew_with_the_seed_when_it_is_reset(way):
    """reset() of the one does nothing to the other."""
    stream = RNGStream(42)
    first = inside(stream)
    twin = way(stream)
    twin.reset()
    assert inside(twin) == first != inside(stream)


def test_a_state_that_was_loaded_goes_along(way):
    """Also before the stream has gone on from it; loading into one leaves the other alone."""
    other = RNGStream(5)
    inside(other)
    stream = RNGStream(42)
    stream.load_state_dict(other.state_dict())
    twin = way(stream)
    stream.load_state_dict(RNGStream(6).state_dict())
    assert (twin.seed, stream.seed) == (5, 6)
    assert twin.state_dict() == other.state_dict()
    assert inside(twin) == inside(other) != inside(stream)


def test_a_copy_writes_the_same_state_dict(way):
    """Where it stands is all of it."""
    stream = RNGStream(42, independent=True)
    for _ in range(2):
        assert way(stream).state_dict() == stream.state_dict()
        inside(stream)


def test_the_switches_stay_where_the_body_left_them_in_this_process(unchanged):
    """They have no form in a pickle, as in a state_dict: there the stream switches them on."""
    torch = pytest.importorskip("torch")
    stream = RNGStream(42, deterministic=True)
    with stream:
        torch._C._set_cudnn_benchmark(True)
    for way, kept in ((copy.copy, True), (copy.deepcopy, True), (PICKLES["pickle 5"], False)):
        with way(stream):
            assert torch._C._get_cudnn_benchmark() is kept
    assert torch._C._get_cudnn_benchmark() is False


def test_a_bit_generator_that_the_body_installed_is_not_shared(way, unchanged):
    """The copy goes on with one of the same type and state, and of its own."""
    np = pytest.importorskip("numpy")
    stream = RNGStream(42)
    with stream:
        np.random.set_bit_generator(np.random.PCG64(3))
        mine = np.random.get_bit_generator()
    twin = way(stream)
    with twin:
        its = np.random.get_bit_generator()
        assert type(its) is np.random.PCG64 and its is not mine
        drawn = draw("numpy")
        mine.random_raw(5)
    with stream:
        assert np.random.get_bit_generator() is mine and draw("numpy") == drawn


class Foreign:
    """Stands in for a bit generator of another package, made when NumPy is there."""


@pytest.fixture
def foreign():
    """Return the type of a bit generator that is not NumPy's own."""
    np = pytest.importorskip("numpy")
    global Foreign

    class Foreign(np.random.PCG64):
        """A bit generator of another package."""

    Foreign.__qualname__ = "Foreign"
    return Foreign


@pytest.mark.parametrize("name", ["copy", "deepcopy"])
def test_a_foreign_bit_generator_goes_through_copies_in_this_process(name, foreign, unchanged):
    """Its state is known here, although it has no plain form."""
    import numpy as np

    stream = RNGStream(42)
    with stream:
        np.random.set_bit_generator(foreign(3))
        scope = rng_scope(state := RNGState.capture())
        mine = np.random.get_bit_generator()
    twin, again = WAYS[name](stream), WAYS[name](scope)
    with twin:
        its = np.random.get_bit_generator()
        assert type(its) is foreign and its is not mine
        drawn = draw("numpy")
    with stream:
        assert draw("numpy") == drawn
    with again:
        assert draw("numpy") == drawn
    assert WAYS[name](state) is state


@pytest.mark.parametrize("name", PICKLES)
def test_a_foreign_bit_generator_is_refused_by_pickle(name, foreign, unchanged):
    """As by state_dict(), with its name and the choices; a scope or stream is as it was."""
    import numpy as np

    stream = RNGStream(42)
    with stream:
        np.random.set_bit_generator(foreign(3))
        state = RNGState.capture()
    for thing in (state, rng_scope(state), stream):
        with pytest.raises(TypeError, match="'Foreign' is not NumPy's own.*choose from 'MT19937'"):
            PICKLES[name](thing)
    with stream, rng_scope(state):
        drawn = draw("numpy")
    with stream:
        assert draw("numpy") == drawn


def test_nothing_of_torch_runs_when_a_stream_is_copied(unchanged):
    """State tensors are not touched: a mode or a default device cannot redirect that."""
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    stream = RNGStream(42)
    drawn = inside(copy.copy(stream))
    for uses in range(2):
        for block in (FakeTensorMode, lambda: torch.device("meta"), torch.inference_mode):
            with block():
                twins = [copy.copy(stream), copy.deepcopy(stream), PICKLES["pickle 4"](stream)]
            assert [inside(twin) for twin in twins] == [drawn] * 3
        drawn = inside(stream) and inside(copy.copy(stream))


# States ---------------------------------------------------------------------------------------


class NamedState(RNGState):
    """A state of a user's type."""

    __slots__ = ()


@pytest.mark.parametrize("cls", [RNGState, NamedState])
def test_a_state_is_its_own_copy_and_keeps_its_type_in_a_pickle(cls, way):
    """It cannot be changed, so one is as good as two."""
    cache_gaussians()
    state = cls.capture(generators=own_generators())
    twin = way(state)
    assert type(twin) is cls and twin == state and hash(twin) == hash(state)
    assert (twin is state) is (way in (copy.copy, copy.deepcopy))
    assert inside(rng_scope(twin, generators=own_generators())) == inside(
        rng_scope(state, generators=own_generators())
    )


# Checks ---------------------------------------------------------------------------------------


def test_a_copy_of_a_check_checks_on_its_own(way):
    """Over the same sources; one that is open refuses, and its copies are not open."""
    check = assert_rng_unchanged(sources=["python"])
    for _ in range(2):
        twin = way(check)
        assert type(twin) is assert_rng_unchanged
        for each in (twin, check, twin):
            with pytest.raises(AssertionError, match="'python'"):
                with each:
                    random.random()
        with check:
            with pytest.raises(RuntimeError, match="assert_rng_unchanged while it is open"):
                way(check)
            with twin:
                draws([name for name in NAMES if name != "python"])
    assert way(assert_rng_unchanged())._sources == SOURCES


# What is open refuses ---------------------------------------------------------------------------


def suspended(scope):
    """Return a body that is suspended inside of the scope."""

    @seeded(1)
    def body():
        with scope:
            yield random.random()

    running = body()
    next(running)
    return running


@pytest.mark.parametrize("make", [rng_scope, RNGStream])
def test_what_is_open_refuses_to_be_copied(make, way, unchanged):
    """The error says what to do; nothing has changed, and after the block it is copied."""
    scope = make(42)
    with scope:
        first = draws()
        with rng_scope(), pytest.raises(RuntimeError, match="cannot copy or pickle.*leave its"):
            way(scope)
        rest = draws()
    scope = make(42)
    with scope:
        assert [draws(), draws()] == [first, rest]
    way(scope)


@pytest.mark.parametrize("make", [rng_scope, RNGStream])
@pytest.mark.parametrize("end", ["ends", "closed", "dropped"])
def test_what_is_suspended_refuses_to_be_copied(make, end, way, unchanged):
    """Until the body ends, is closed, or is dropped; also in the body itself."""
    scope = make(42)
    body = suspended(scope)
    with pytest.raises(RuntimeError, match="cannot copy or pickle.*suspended"):
        way(scope)
    if end == "ends":
        assert list(body) == []
    elif end == "closed":
        body.close()
    else:
        del body
    assert type(way(scope)) is make


def test_a_stream_whose_decorated_body_is_suspended_refuses_too(way, unchanged):
    """Each of two bodies counts; a step that fails, and a cancelled task, end theirs."""
    stream = RNGStream(42)

    @stream
    def body():
        yield draws()
        yield draws()
        raise OSError

    @stream
    async def coroutine():
        await asyncio.sleep(60)

    async def cancel():
        task = asyncio.create_task(coroutine())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="suspended"):
            way(stream)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    first, second = body(), body()
    way(stream)
    next(first)
    next(second)
    second.close()
    next(first)
    with pytest.raises(RuntimeError, match="suspended: let the body end first, or close it"):
        way(stream)
    with pytest.raises(OSError):
        next(first)
    asyncio.run(cancel())
    assert inside(way(stream)) == inside(stream)


# Decorated functions ------------------------------------------------------------------------------


@seeded(42)
def importable():
    return draws()


@RNGStream(42)
def importable_walk():
    return draws()


def test_an_importable_decorated_function_is_pickled_by_name(way):
    """As any function is: what arrives is the function of that process."""
    for function in (importable, importable_walk):
        assert way(function) is function


def decorated():
    """Return a decorated function of every kind, which no import finds, and what calls it.

    Those of classes are in ``copied_program.py``: cloudpickle knows a class again.
    """

    @seeded(1)
    def plain():
        return draws()

    @seeded(2)
    def steps():
        yield draws()
        yield draws()

    @seeded(3)
    async def coroutine():
        await asyncio.sleep(0)
        return draws()

    @seeded(4)
    async def async_steps():
        yield draws()
        await asyncio.sleep(0)
        yield draws()

    class Holder:
        number = 5

        @seeded(seed_from=lambda self: self.number)
        def method(self):
            return self.number, draws()

    async def collect(items):
        return [item async for item in items]

    own = [generator(name, 11) for name in NAMES]

    @seeded(12, generators=own, independent=True)
    def over_generators():
        return draws(), [draw(name, g) for name, g in zip(NAMES, own)]

    state = RNGState.capture()
    call = lambda function: function()  # noqa: E731
    return {
        "function": (plain, call),
        "generator": (steps, lambda function: list(function())),
        "coroutine": (coroutine, lambda function: asyncio.run(function())),
        "async generator": (async_steps, lambda function: asyncio.run(collect(function()))),
        "method": (Holder().method, call),
        "partial": (seeded(13)(functools.partial(draws, NAMES)), call),
        "lambda": (seeded(14)(lambda: draws()), call),
        "replayed": (seeded(state)(draws), call),
        "scope": (rng_scope(15, independent=True)(draws), call),
        "generators": (over_generators, call),
        "seed from a call": (seeded(seed_from=lambda: 16)(draws), call),
        "decorator": (seeded(17, sources=NAMES), lambda decorator: decorator(draws)()),
        "decorator of calls": (seeded(seed_from=lambda: 18), lambda d: d(draws)()),
        "check": (assert_rng_unchanged()(plain), call),
    }


KINDS = [
    *["function", "generator", "coroutine", "async generator", "method", "partial", "lambda"],
    *["replayed", "scope", "generators", "seed from a call", "decorator", "decorator of calls"],
    "check",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_decorated_function_goes_through_cloudpickle_by_value(kind, unchanged):
    """Whatever it decorates, the copy draws alike, and is of the same kind."""
    function, call = decorated()[kind]
    assert [*decorated()] == KINDS
    twin = through_cloudpickle(function)
    assert twin is not function and type(twin) is type(function)
    for kind in ("isgeneratorfunction", "iscoroutinefunction", "isasyncgenfunction", "ismethod"):
        assert getattr(inspect, kind)(twin) == getattr(inspect, kind)(function)
    before = public_states()
    drawn = call(twin)
    assert public_states() == before
    assert call(function) == drawn == call(twin)


def test_the_scope_that_decorates_may_be_open():
    """The function took its meaning only, when it was decorated."""
    scope = rng_scope(42)
    with scope:
        function = scope(lambda: draws())
        twin = through_cloudpickle(function)
    assert twin() == inside(rng_scope(42))[0]


def test_a_function_of_a_stream_takes_a_stream_along(unchanged):
    """One that stands at the same place and is independent; while it is open, it refuses."""
    stream = RNGStream(42)
    function = stream(lambda: draws())
    function()
    twin = through_cloudpickle(function)
    drawn = [twin(), twin()]
    assert [function(), function()] == drawn
    with stream, pytest.raises(RuntimeError, match="cannot copy or pickle a stream while"):
        through_cloudpickle(function)


def test_deepcopy_of_a_decorated_function_is_itself():
    """As of every function: a module with one is copied all the same."""
    for function, _ in decorated().values():
        if inspect.isfunction(function):
            assert copy.deepcopy(function) is function is copy.copy(function)


# What holds them: data sets, ranks, modules, estimators ------------------------------------------


class Drawing:
    """Its items draw from the global RNGs, and from a stream of their own."""

    def __init__(self):
        self.stream = RNGStream(5)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, draws(), inside(self.stream)

    def state_dict(self):
        return self.stream.state_dict()

    def load_state_dict(self, state_dict):
        self.stream.load_state_dict(state_dict)


def test_a_data_set_with_a_stream_is_copied_under_per_item(deep_way, unchanged):
    """Items are the same, and the copy's stream is its own."""
    with pytest.warns(RuntimeWarning, match=r"does not cover .* dataset\.stream \(RNGStream\)"):
        data = per_item(Drawing(), 42)
    for _ in range(2):
        twin = deep_way(data)
        assert [twin[i] for i in range(3)] == [data[i] for i in range(3)]


def test_per_rank_is_copied_with_its_stream(way, unchanged):
    """A shallow copy shares it."""
    ranks = PerRank(stream := RNGStream(42))
    inside(stream)
    twin = way(ranks)
    assert twin.state_dict() == ranks.state_dict()
    assert (twin._stateful is stream) is (way is copy.copy)


def test_a_module_with_a_stream_is_copied_and_saved(deep_way, unchanged):
    """As a whole; the copy draws on its own."""
    torch = pytest.importorskip("torch")
    with rng_scope(1):
        model = Noisy.make(torch)
    for _ in range(2):
        twin = deep_way(model)
        value = torch.ones(4)
        expected = twin(value)
        assert torch.equal(model(value), expected)
    with model.stream, pytest.raises(RuntimeError, match="stream while it is open"):
        deep_way(model)


class Noisy:
    """A module with a stream, a scope, a check and a decorated method; made when torch is there."""

    @staticmethod
    def make(torch):
        global Noisy

        class Noisy(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(4, 4)
                self.stream = RNGStream(42, sources=["torch"])
                self.check = assert_rng_unchanged()
                self.generator = torch.Generator().manual_seed(3)
                self.own = rng_scope(7, generators=[self.generator])

            @staticmethod
            def make(torch):
                return Noisy()

            def forward(self, value):
                with self.check, self.stream, self.own:
                    noise = torch.rand(4, generator=self.generator)
                with self.stream:
                    return self.linear(value) + torch.rand(4) + noise + self.jitter()

            @seeded(seed_from=lambda self: 9)
            def jitter(self):
                return torch.rand(4)

        Noisy.__qualname__ = "Noisy"
        return Noisy()


def test_an_averaged_model_has_a_stream_of_its_own(unchanged):
    """torch's EMA deep-copies the module: its copy draws what the original draws."""
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel

    with rng_scope(1):
        model = Noisy.make(torch)
    value = torch.ones(4)
    model(value)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    drawn = [averaged(value) for _ in range(2)]
    assert all(torch.equal(model(value), item) for item in drawn)
    assert not torch.equal(*drawn)


def test_sklearn_clones_an_estimator_with_scope_stream_and_state(unchanged):
    """clone() deep-copies parameters, and looks whether the estimator took them."""
    base = pytest.importorskip("sklearn.base")

    class Estimator(base.BaseEstimator):
        def __init__(self, scope=None, stream=None, state=None, draw=None):
            self.scope, self.stream, self.state, self.draw = scope, stream, state, draw

    estimator = Estimator(rng_scope(1), RNGStream(2), RNGState.capture(), importable)
    for _ in range(2):
        clone = base.clone(estimator)
        assert clone.state == estimator.state and clone.draw is importable
        assert inside(clone.scope) == inside(estimator.scope)
        assert inside(clone.stream) == inside(estimator.stream)
    with estimator.stream, pytest.raises(RuntimeError, match="stream while it is open"):
        base.clone(estimator)


# Other processes ------------------------------------------------------------------------------


def run(*command, **options):
    """Run a process; a failure there is a failure here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PROGRAM = str(Path(__file__).with_name("copied_program.py"))


@pytest.mark.parametrize(
    "method, libraries",
    [
        ("spawn", []),
        ("forkserver", []),
        ("loky", ["joblib"]),
        ("cloudpickle", ["cloudpickle"]),
        ("loader spawn", ["torch"]),
        ("loader forkserver", ["torch"]),
    ],
)
def test_everything_public_is_the_same_in_another_process(method, libraries):
    """Sent before and after the first scope of the process; functions are those of __main__."""
    for library in libraries:
        pytest.importorskip(library)
    lines = run(PROGRAM, *method.split()).splitlines()
    assert [line.split()[0] for line in lines] == ["before", "after"]


def test_a_pickle_imports_no_library_where_it_arrives():
    """It needs neither NumPy nor torch: their states wait until they are imported."""
    stream, state = RNGStream(42), RNGState.capture()
    inside(stream)
    things = stream, rng_scope(5, devices=[0], deterministic=True), rng_scope(state), state
    drawn = repr([inside(copy.copy(stream)), inside(things[1])])
    code = """
        import pickle, sys, warnings
        # That deterministic=True finds no torch is said, and right.
        warnings.filterwarnings("ignore", "deterministic=True changed nothing", RuntimeWarning)
        stream, scope, replay, state = pickle.loads(bytes.fromhex(sys.argv[1]))
        with stream, scope, replay:
            pass
        assert not {"numpy", "torch"} & sys.modules.keys()
        from test_copies import inside
        stream, scope, _, _ = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(repr([inside(stream), inside(scope)]))
    """
    assert run("-c", textwrap.dedent(code), pickle.dumps(things).hex()).strip() == drawn


# Accelerators -----------------------------------------------------------------------------------


#: Not CUDA through a pickle: the stand-in's states are not of CUDA's size, which is checked.
ROADS = [("cuda", "copy"), ("cuda", "deepcopy"), ("xpu", "copy"), ("xpu", "pickle 5")]


@pytest.fixture(params=ROADS, ids=" ".join)
def road_and_accelerator(request):
    pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    name, way = request.param
    with simulated_cuda(2, name=name) as simulated:
        yield way, simulated


@pytest.fixture
def accelerator(road_and_accelerator):
    """An accelerator of two devices that has not started."""
    return road_and_accelerator[1]


@pytest.fixture
def accelerated_way(road_and_accelerator):
    return WAYS[road_and_accelerator[0]]


def on_devices(accelerator, scope):
    """Return what each device draws in a block."""
    import torch

    with scope:
        return [torch.rand(2, generator=own).tolist() for own in accelerator.generators]


@pytest.mark.parametrize("devices", [None, [1]])
def test_a_started_accelerator_goes_along(devices, accelerated_way, accelerator):
    """All devices, or those that the stream covers; the device states are values."""
    accelerator.start()
    stream = RNGStream(42, devices=devices)
    fresh = accelerator.states()
    for _ in range(2):
        twin = accelerated_way(stream)
        assert on_devices(accelerator, twin)[1] == on_devices(accelerator, stream)[1]
        if devices is None:
            assert accelerator.states() == fresh


def test_a_stream_that_waits_for_an_accelerator_waits_twice(accelerated_way, accelerator):
    """Used before the start; whichever of the two begins after it, both draw alike."""
    stream = RNGStream(42)
    inside(stream)
    queue = accelerator.queue()
    twin = accelerated_way(stream)
    assert accelerator.queue() == queue
    for scope in (twin, stream, twin):
        inside(scope)
        assert accelerator.queue() == queue
    accelerator.start()
    drawn = on_devices(accelerator, twin)
    assert on_devices(accelerator, stream) == drawn
    assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("devices", [None, [0, 1]])
@pytest.mark.parametrize("road_and_accelerator", ROADS[1:3], indirect=True)
def test_what_a_body_has_queued_for_an_accelerator_goes_along_in_this_process(
    way, devices, accelerator
):
    """A seed of the program, queued in the stream, is where the stream stands."""
    stream = RNGStream(42, devices=devices)
    with stream:
        accelerator.module.manual_seed_all(7)
    queue = accelerator.queue()
    twin = way(stream)
    assert accelerator.queue() == queue
    with twin:
        accelerator.start()
        drawn = on_devices(accelerator, contextlib.nullcontext())
    assert drawn == [expected_on_device(7)] * 2
    assert on_devices(accelerator, stream) == drawn
    assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_a_stream_that_was_left_out_of_order_stands_in_parts(
    queued, started, accelerated_way, accelerator
):
    """One part for the device that a scope above covered: each goes along."""
    stream, above = RNGStream(42), rng_scope(43, devices=[0])
    is_lost = queued and not started and accelerated_way is PICKLES["pickle 5"]
    with pytest.warns(RuntimeWarning, match="was left while another one was still open"):
        with contextlib.ExitStack() as stack:
            stream.__enter__()
            if queued:
                accelerator.module.manual_seed_all(7)
            stack.enter_context(above)
            stream.__exit__()
    if started:
        accelerator.start()
    with pytest.warns(RuntimeWarning) if is_lost else contextlib.nullcontext():
        twin = accelerated_way(stream)
    if not started:
        inside(twin)
        accelerator.start()
    drawn = on_devices(accelerator, twin)
    assert (on_devices(accelerator, stream) == drawn) is not is_lost
    assert accelerator.states() == accelerator.fresh


@pytest.mark.parametrize("devices", [None, [0, 1]])
@pytest.mark.parametrize("road_and_accelerator", ROADS[2:], indirect=True)
def test_what_a_body_has_queued_and_no_pickle_can_hold_is_a_warning(devices, accelerator):
    """Once for state_dict() and for a pickle; none for the seed of a stream, or what it loaded."""
    stream, other = RNGStream(42, devices=devices), RNGStream(43, devices=devices)
    for _ in range(3):
        # Nothing to warn of, however often it is used.
        inside(stream)
        PICKLES["pickle 5"](stream)
        other.load_state_dict(stream.state_dict())
    with stream:
        accelerator.module.manual_seed_all(7)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="has queued for 'xpu'.*start 'xpu' before"):
            state_dict = stream.state_dict()
        with pytest.warns(RuntimeWarning, match="has queued for 'xpu'"):
            twin = PICKLES["pickle 5"](stream)
        assert twin.state_dict() == state_dict
        inside(stream)


@pytest.mark.parametrize("road_and_accelerator", ROADS[2:], indirect=True)
def test_the_warning_is_about_what_is_queued_for_each_device(accelerator):
    """Not about calls that have nothing to do with RNGs; also when the state is queued again."""
    module = accelerator.module
    other = RNGStream(42)
    with other, rng_scope(1, devices=[0]):
        # Outside of the inner scope it has reached one device.
        module.manual_seed_all(7)
    with pytest.warns(RuntimeWarning, match="has queued"):
        other.state_dict()
    clean, queued = RNGStream(42, devices=[0]), RNGStream(42, devices=[0])
    with rng_scope():
        # Whose end takes all of it out of the queue.
        inside(clean)
        with queued:
            module.manual_seed_all(7)
    for stream in (clean, queued):
        with stream:
            module._lazy_call(lambda: None)
    clean.state_dict()
    with pytest.warns(RuntimeWarning, match="has queued"):
        queued.state_dict()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("road_and_accelerator", ROADS[1:3], indirect=True)
def test_entropy_that_was_queued_is_the_same_for_stream_and_copy(way, accelerator):
    """Each holds on to its own point of the queue, although the other has been used."""
    stream = RNGStream(42, devices=[0, 1])
    with stream:
        accelerator.module.seed_all()
    twin = way(stream)
    inside(stream)
    accelerator.start()
    drawn = on_devices(accelerator, twin)
    assert on_devices(accelerator, stream) == drawn


def expected_on_device(seed):
    import torch

    return torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()


def test_what_was_queued_goes_along_once_it_has_started(accelerated_way, accelerator):
    """Then it has a state, which state_dict() and a pickle hold too."""
    stream = RNGStream(42)
    with stream:
        accelerator.module.manual_seed_all(7)
    accelerator.start()
    assert accelerator.name in stream.state_dict()["states"]
    twin = accelerated_way(stream)
    drawn = on_devices(accelerator, twin)
    assert drawn == [expected_on_device(7)] * 2 == on_devices(accelerator, stream)
    assert accelerator.states() == accelerator.fresh


# A model that knows only the libraries ----------------------------------------------------------


class Twin:
    """What a stream draws, by generators of one's own that are seeded and copied by hand."""

    def __init__(self, seed):
        self.seed = seed
        self.own = {name: generator(name, seed) for name in NAMES}

    def draws(self, names):
        return [draw(name, self.own[name]) for name in NAMES if name in names]

    def copied(self):
        twin = Twin(self.seed)
        for name, own in self.own.items():
            if name == "torch":
                twin.own[name].set_state(own.get_state())
            else:
                twin.own[name] = copy.deepcopy(own)
        return twin


steps = st.one_of(
    st.tuples(st.just("draw"), st.integers(0, 3), st.lists(st.sampled_from(NAMES), max_size=3)),
    st.tuples(st.just("copy"), st.integers(0, 3), st.sampled_from([*WAYS][:-2])),
    st.tuples(st.just("reset"), st.integers(0, 3), st.none()),
    st.tuples(st.just("nest"), st.integers(0, 3), st.integers(0, 3)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64 - 1), st.lists(steps, max_size=12))
def test_copies_of_copies_are_all_independent(seed, program):
    """After any uses, copied in any way, each stream draws what its own model draws."""
    before = public_states()
    pairs = [(RNGStream(seed), Twin(seed))]
    for verb, index, argument in program:
        stream, model = pairs[index % len(pairs)]
        if verb == "copy":
            event(f"copied by {argument}")
            pairs.append((WAYS[argument](stream), model.copied()))
        elif verb == "reset":
            stream.reset()
            model.own = Twin(model.seed).own
        elif verb == "nest":
            # One stream open inside of another, which may be its copy or itself.
            inner, its_model = pairs[argument % len(pairs)]
            with stream:
                assert draws() == model.draws(NAMES)
                with inner:
                    assert draws() == its_model.draws(NAMES)
                assert draws() == model.draws(NAMES)
        else:
            with stream:
                assert draws(argument) == model.draws(argument)
        assert public_states() == before
    for stream, model in pairs:
        with stream:
            assert draws() == model.draws(NAMES)
    assert public_states() == before
