"""``@seeded`` on what is called: functions, methods, partials and objects."""

import functools
import inspect
import random
import sys
import threading
import warnings
from unittest import mock

import pytest
from by_hand import NAMES, draw, expected, public_states

from rngscope import RNGState, assert_rng_unchanged, derive_seed, rng_scope, seeded

each_source = pytest.mark.parametrize("name", NAMES)


def first(name="python", seed=42):
    return expected(name, seed)[0]


def draw_positional_keyword(a, /, b: int, *c: int, d: str = "d", **e: float) -> list[float]:
    """Draw, whatever the arguments."""
    return [a, b, c, d, e, draw("python")]


# Calls ------------------------------------------------------------------------------------


@each_source
def test_every_call_runs_in_a_fresh_scope(name, path, unchanged):
    """Each call draws from the beginning, and leaves no trace."""
    function = seeded(42)(draw)
    assert [function(name), function(name)] == [first(name), first(name)]


@each_source
def test_recursion_gives_each_call_its_own_scope(name, path, unchanged):
    """The outer call goes on with its stream after the inner one."""

    @seeded(42)
    def function(depth):
        drawn = [draw(name)]
        if depth:
            drawn += function(depth - 1)
        return [*drawn, draw(name)]

    one, two = expected(name, 42, 2)
    assert function(3) == [one] * 4 + [two] * 4


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_threads_have_scopes_of_their_own(unchanged):
    """Two calls in two threads, one within the other, draw the same."""

    @seeded(42)
    def function(*then):
        drawn = [draw("python")]
        for act in then:
            thread = threading.Thread(target=lambda: drawn.append(act()))
            thread.start()
            thread.join()
        return [*drawn, draw("python")]

    one, two = expected("python", 42, 2)
    assert function(function) == [one, [one, two], two]


def test_arguments_results_and_errors_pass_through(unchanged):
    """A call is as undecorated, but for what it draws."""
    function = seeded(42)(draw_positional_keyword)
    assert function(1, 2, 3, d="e", f=4) == [1, 2, (3,), "e", {"f": 4}, first()]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        function(1)

    @seeded(42)
    def fail():
        raise LookupError(draw("python"))

    with pytest.raises(LookupError) as caught:
        fail()
    assert caught.value.args == (first(),)


def test_the_function_survives_in_name_signature_and_docstring():
    """Whatever reads a function's face sees what it would see without the decorator."""
    function = seeded(42)(draw_positional_keyword)
    assert inspect.signature(function) == inspect.signature(draw_positional_keyword)
    assert inspect.getfullargspec(function).args == []
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(function, name) == getattr(draw_positional_keyword, name)
    assert inspect.unwrap(function) is draw_positional_keyword
    assert inspect.isfunction(function) and not inspect.iscoroutinefunction(function)
    draw_positional_keyword.note = "kept"
    assert seeded(42)(draw_positional_keyword).note == "kept"
    del draw_positional_keyword.note


class Thing:
    value = 5

    @seeded(seed_from=lambda self, *rest: self.value)
    def method(self):
        return draw("python")

    @seeded(seed_from=lambda cls: cls.value)
    @classmethod
    def outside(cls):
        return cls, draw("python")

    @classmethod
    @seeded(seed_from=lambda cls: cls.value)
    def inside(cls):
        return cls, draw("python")

    @seeded(5)
    @staticmethod
    def static_outside():
        return draw("python")

    @staticmethod
    @seeded(5)
    def static_inside():
        return draw("python")

    @property
    @seeded(5)
    def property(self):
        return draw("python")

    @seeded(seed_from=lambda self, seed: seed)
    def __call__(self, seed):
        return draw("python")

    partial = functools.partialmethod(seeded(seed_from=lambda self, seed: seed)(__call__), 5)

    @functools.singledispatchmethod
    @seeded(5)
    def dispatched(self, argument):
        return draw("python")


class Sub(Thing):
    value = 6


def test_methods_of_every_kind_are_scopes(unchanged):
    """seed_from gets ``self`` or the class; static methods get neither."""
    thing, sub = Thing(), Sub()
    assert thing.method() == Thing.method(thing) == first(seed=5)
    assert sub.method() == first(seed=6)
    assert Thing.outside() == Thing.inside() == thing.outside() == (Thing, first(seed=5))
    assert Sub.outside() == Sub.inside() == sub.inside() == (Sub, first(seed=6))
    assert thing.static_outside() == Thing.static_inside() == first(seed=5)
    assert thing.property == thing.partial() == thing.dispatched(1) == first(seed=5)
    assert thing(5) == first(seed=5)
    assert isinstance(inspect.getattr_static(Thing, "outside"), classmethod)
    assert isinstance(inspect.getattr_static(Thing, "static_outside"), staticmethod)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(draw, "python"),
        functools.partial(functools.partial(draw), name="python"),
        lambda: draw("python"),
        functools.lru_cache(maxsize=0)(lambda: draw("python")),
        functools.partial(Thing(), 5),
        Thing().method,
        mock.Mock(side_effect=lambda: draw("python")),
    ],
    ids=["partial", "partial twice", "lambda", "cache", "object", "bound method", "mock"],
)
def test_whatever_can_be_called_can_be_decorated(function, unchanged):
    """Partials, bound methods, caches and objects with ``__call__`` are scopes too."""
    decorated = seeded(42)(function)
    assert decorated() in (first(), first(seed=5))
    assert decorated() == seeded(42)(decorated)()


def test_a_builtin_can_be_decorated(unchanged):
    """A function without a signature is a scope too."""
    assert seeded(42)(random.random)() == random.Random(42).random()


def test_a_function_that_returns_a_generator_or_coroutine_is_a_scope_itself(unchanged):
    """The call is the scope, as the author wrote it: what is returned runs outside."""
    log = []

    def generate():
        log.append(draw("python"))
        yield

    async def wait():
        log.append(draw("python"))

    def returns(make):
        log.append(draw("python"))
        return make()

    function = seeded(42)(returns)
    assert not inspect.isgeneratorfunction(function)
    with rng_scope(7):
        list(function(generate))
        coroutine = function(wait)
        with pytest.raises(StopIteration):
            coroutine.send(None)
    assert log == [first(), expected("python", 7, 2)[0], first(), expected("python", 7, 2)[1]]


# The seed ---------------------------------------------------------------------------------


@each_source
def test_seed_from_gets_the_arguments_and_gives_the_seed(name, unchanged):
    """Positional and keyword arguments as the caller gave them; any kind of seed comes back."""
    calls = []

    def seed_from(*args, **kwargs):
        calls.append((args, kwargs))
        return derive_seed(42, len(calls))

    function = seeded(seed_from=seed_from)(lambda *args, **kwargs: draw(name))
    assert function(1, b=2) == first(name, derive_seed(42, 1))
    assert function() == first(name, derive_seed(42, 2))
    assert calls == [((1,), {"b": 2}), ((), {})]


def test_seed_from_may_give_a_state_or_none(unchanged):
    """A state is replayed; None preserves."""
    with rng_scope(5):
        draw("python")
        state = RNGState.capture()
    function = seeded(seed_from=lambda seed: seed)(lambda seed: draw("python"))
    assert function(state) == expected("python", 5, 2)[1]
    with rng_scope(7):
        assert function(None) == function(None) == first(seed=7)


def test_seed_from_draws_from_its_caller(unchanged):
    """It runs before the scope: what it draws is the caller's."""
    function = seeded(seed_from=lambda: random.getrandbits(64))(lambda: draw("python"))
    own = random.Random(7)
    with rng_scope(7):
        assert function() == first(seed=own.getrandbits(64))
        assert random.random() == own.random()


@pytest.mark.parametrize("bad", [1.5, "42", True, -1, 2**64])
def test_a_bad_seed_touches_nothing(bad, unchanged):
    """A wrong seed is an error where it is given, before the function runs."""
    with pytest.raises((TypeError, ValueError), match="seed"):
        seeded(bad)
    with pytest.raises((TypeError, ValueError), match="seed"):
        seeded(seed_from=lambda: bad)(pytest.fail)()


def test_an_error_of_seed_from_touches_nothing(unchanged):
    """The function does not run, and the error comes as it is."""

    def fail():
        raise LookupError("no seed")

    with pytest.raises(LookupError, match="no seed"):
        seeded(seed_from=fail)(pytest.fail)()


def test_options_are_those_of_a_scope(unchanged):
    """sources, generators and independent mean what they mean in ``rng_scope``."""
    mine = random.Random(3)
    function = seeded(42, sources=["python"], generators=[mine], independent=True)(
        lambda: [random.random(), mine.random()]
    )
    with rng_scope(42, sources=["python"], generators=[mine], independent=True):
        want = [random.random(), mine.random()]
    assert function() == function() == want
    before = mine.getstate()
    function()
    assert mine.getstate() == before


# What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing",
    [
        lambda: None,
        Thing,
        staticmethod(draw),
        classmethod(draw),
        functools.partial(draw),
        Thing(),
        print,
    ],
)
def test_without_parentheses_is_refused_with_the_remedy(thing):
    """``@seeded`` alone would make a test disappear: the error says @seeded(42)."""
    with pytest.raises(TypeError, match=r"@seeded needs parentheses: write @seeded\(42\)"):
        seeded(thing)


def test_a_scope_without_parentheses_is_refused_too():
    """``@rng_scope`` alone is a wrong seed."""
    with pytest.raises(TypeError, match="seed must be an integer"):
        rng_scope(draw)


@pytest.mark.parametrize("thing", [5, "name", None, [draw], property(draw)])
def test_what_cannot_be_called_is_refused(thing):
    """The error names the type, and what can be decorated."""
    with pytest.raises(TypeError, match="only functions, methods and test classes") as caught:
        seeded(42)(thing)
    assert type(thing).__name__ in str(caught.value)


def test_seed_and_seed_from_together_are_refused():
    """One of them decides, and seed_from must be callable."""
    with pytest.raises(TypeError, match="give either seed or seed_from"):
        seeded(42, seed_from=draw)
    with pytest.raises(TypeError, match="must be callable"):
        seeded(seed_from=42)


def test_decorating_touches_nothing(unchanged):
    """A scope acts when the function is called, never before."""
    before = public_states()
    seeded(42)(draw)
    rng_scope(42)(draw)
    assert public_states() == before


def test_a_scope_left_out_of_order_names_the_decorated_function(unchanged):
    """The warning says which function it was, and points to the program's line."""
    scope = rng_scope(5)

    @seeded(42)
    def leaves_one_open():
        scope.__enter__()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leaves_one_open()
    scope.__exit__(None, None, None)
    (warning,) = caught
    assert warning.filename == __file__
    line = leaves_one_open.__wrapped__.__code__.co_firstlineno
    assert f"leaves_one_open at {__file__}:{line}" in str(warning.message)


def test_decorators_without_parentheses_say_so(unchanged):
    """As seeded does."""
    for wrong in (rng_scope, assert_rng_unchanged):
        with pytest.raises(TypeError, match="needs parentheses"):

            @wrong
            def function():
                pass


def test_a_scope_left_out_of_order_names_the_function_in_a_partial(unchanged):
    """A partial has no name of its own."""
    scope = rng_scope(5)

    def leaves_one_open(number):
        scope.__enter__()

    with pytest.warns(RuntimeWarning, match="leaves_one_open at .*test_decorator.py"):
        seeded(42)(functools.partial(functools.partial(leaves_one_open), 3))()
    scope.__exit__(None, None, None)


def test_a_scope_left_out_of_order_at_the_end_of_the_interpreter_is_silent(monkeypatch, unchanged):
    """Bodies end in any order then, and nobody draws any more."""
    lower, upper = rng_scope(1), rng_scope(2)
    lower.__enter__()
    upper.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "is_finalizing", lambda: True)
        lower.__exit__(None, None, None)
    upper.__exit__(None, None, None)
