"""``RNGStream``: a scope that continues where it stopped."""

import asyncio
import contextlib
import functools
import inspect
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from by_hand import NAMES, draw, expected
from test_state import draw_own, own_generators

from rngscope import RNGStream, _order, _present, derive_seed, rng_scope, seeded
from rngscope._state_dict import _checksum
from rngscope._stream_plan import StreamPlan

each_source = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def stream():
    return RNGStream(42)


def run(code):
    """Run code in a fresh process; a failure there is a failure here."""
    code = "from rngscope import *\n" + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# To continue ------------------------------------------------------------------------------


@each_source
def test_each_use_continues_where_the_last_one_stopped(name, stream, path, unchanged):
    """Three blocks draw what one library draws in a row, and outside nothing moves."""
    drawn = []
    for _ in range(3):
        before = unchanged()
        with stream:
            drawn.append(draw(name))
        assert unchanged() == before
    assert drawn == expected(name, 42, 3)


def test_generators_go_through_a_state_dict_too(unchanged):
    """Each comes back to the bit, and only to one of its kind."""
    made, resumed = own_generators(), own_generators()
    stream = RNGStream(42, generators=made, independent=True)
    with stream:
        for generator in made:
            draw_own(generator)
    plain = json.loads(json.dumps(stream.state_dict()))
    other = RNGStream(42, generators=resumed, independent=True)
    other.load_state_dict(plain)
    with stream, other:
        pass
    with stream:
        wanted = [draw_own(generator) for generator in made]
    with other:
        assert [draw_own(generator) for generator in resumed] == wanted
    if len(made) > 1:
        mixed = RNGStream(42, generators=resumed[::-1], independent=True)
        with pytest.raises(ValueError, match=r"generators\[0\] is a .*, but the state is one of"):
            mixed.load_state_dict(plain)


def test_switches_are_no_part_of_a_state_dict(unchanged):
    """A dict that says otherwise is refused."""
    stream = RNGStream(42, deterministic=True)
    plain = stream.state_dict()
    plain["states"]["determinism"] = {}
    with pytest.raises(ValueError, match="holds 'determinism', which is unknown here"):
        stream.load_state_dict({**plain, "checksum": _checksum(plain)})


@each_source
def test_the_first_use_draws_what_a_scope_draws(name, path, unchanged):
    """The seed of a stream means what it means in rng_scope, with every option."""
    for options in ({}, {"independent": True}, {"sources": [name]}):
        with rng_scope(2**63 + 5, **options):
            by_scope = [draw(name), draw(name)]
        stream = RNGStream(2**63 + 5, **options)
        with stream:
            first = draw(name)
        with stream:
            assert [first, draw(name)] == by_scope


@each_source
def test_half_of_a_gaussian_pair_waits_for_the_next_use(name, stream, unchanged):
    """What a source caches is a part of the stream: the second use begins with it."""
    for index in range(6):
        with stream:
            value = gauss(name)
        with rng_scope(42):
            in_a_row = [gauss(name) for _ in range(index + 1)]
        assert value == in_a_row[-1]


def gauss(name):
    if name == "python":
        return random.gauss(0, 1)
    if name == "numpy":
        import numpy

        return numpy.random.standard_normal()
    import torch

    return torch.randn(1).item()


@each_source
def test_the_program_goes_on_between_two_uses(name, stream):
    """Draws outside neither move the stream nor are moved by it."""
    with rng_scope(7):
        outside, inside = [], []
        for _ in range(3):
            outside.append(draw(name))
            with stream:
                inside.append(draw(name))
    assert outside == expected(name, 7, 3)
    assert inside == expected(name, 42, 3)


def test_streams_with_names_need_no_registry(unchanged):
    """Two objects made from the same name are the same stream, from other names others."""
    dropout, again = (RNGStream(derive_seed(42, "dropout")) for _ in range(2))
    augment = RNGStream(derive_seed(42, "augment"))
    drawn = []
    for stream in (dropout, again, augment):
        with stream:
            drawn.append(draw("python"))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stream_that_is_dropped_leaves_nothing(unchanged):
    """To make a stream touches nothing; a use that is over holds no scope."""
    RNGStream(42)
    stream = RNGStream(42)
    with stream:
        draw("python")
    del stream
    assert _order.lives == []


def test_as_binds_the_stream_with_its_seed(stream, unchanged):
    """stream.seed is the integer given."""
    with stream as bound:
        assert bound is stream and bound.seed == 42
    assert repr(stream) == "<RNGStream seed=42>"


@each_source
def test_only_the_sources_that_are_named_take_part(name, unchanged):
    """The others go on as they would without the stream, in every use."""
    other = next((other for other in NAMES if other != name), None)
    stream = RNGStream(42, sources=[name])
    with rng_scope(7):
        drawn, beside = [], []
        for _ in range(3):
            with stream:
                drawn.append(draw(name))
                beside.append(other and draw(other))
    assert drawn == expected(name, 42, 3)
    assert other is None or beside == expected(other, 7, 3)


def test_generators_of_the_user_have_streams_too(unchanged):
    """generators= means what it means in rng_scope; at each exit each is what it was."""
    own = random.Random(5)
    stream = RNGStream(42, sources=[], generators=[own])
    drawn = []
    for _ in range(3):
        before = own.getstate()
        with stream:
            drawn.append(draw("python", own))
        assert own.getstate() == before
    assert drawn == expected("python", 42, 3)


def test_a_swapped_bit_generator_goes_on_in_the_next_use(unchanged):
    """A use that installs another bit generator hands it to the next; outside is the old one."""
    np = pytest.importorskip("numpy")
    outer = np.random.get_bit_generator()
    stream = RNGStream(42)
    with stream:
        np.random.set_bit_generator(np.random.PCG64(3))
        drawn = [np.random.rand()]
    assert np.random.get_bit_generator() is outer
    with stream:
        drawn.append(np.random.rand())
    assert np.random.get_bit_generator() is outer
    assert drawn == np.random.RandomState(np.random.PCG64(3)).rand(2).tolist()
    saved = stream.state_dict()
    again = RNGStream(1)
    again.load_state_dict(saved)
    for each in (stream, again):
        with each:
            drawn.append(np.random.rand())
    assert drawn[2] == drawn[3]


def test_deterministic_switches_go_on_and_back(unchanged):
    """deterministic=True holds in every use, and never outside."""
    torch = pytest.importorskip("torch")
    stream = RNGStream(42, deterministic=True)
    for _ in range(3):
        with stream:
            assert torch.are_deterministic_algorithms_enabled()
            torch.rand(1)
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    json.dumps(stream.state_dict())


# To be entered while open ------------------------------------------------------------------


@each_source
def test_a_use_inside_a_use_continues_and_the_outer_one_goes_on_after_it(
    name, stream, path, unchanged
):
    """Directly nested, to any depth: one sequence, no number twice and none left out."""
    drawn = []

    def descend(depth):
        with stream:
            drawn.append(draw(name))
            if depth:
                descend(depth - 1)
            drawn.append(draw(name))

    descend(4)
    with stream:
        drawn.append(draw(name))
    assert drawn == expected(name, 42, 11)


@each_source
def test_a_use_through_a_scope_continues_and_the_scope_goes_on_too(name, stream, path, unchanged):
    """The stream, a scope in it, the stream in the scope: each has its own sequence."""
    inner, scoped = [], []
    with stream:
        inner.append(draw(name))
        with rng_scope(7):
            scoped.append(draw(name))
            with stream:
                inner.append(draw(name))
                with rng_scope():
                    draw(name)
                    with stream:
                        pass
                inner.append(draw(name))
            scoped.append(draw(name))
        inner.append(draw(name))
    with stream:
        inner.append(draw(name))
    assert inner == expected(name, 42, 5)
    assert scoped == expected(name, 7, 2)


@each_source
def test_two_streams_nested_in_any_way_keep_their_sequences(name, unchanged):
    """a, b in a, a in b in a, and so on: by every path each stream only goes on."""
    choose = random.Random(3)
    streams = {seed: RNGStream(seed) for seed in (5, 6)}
    drawn = {5: [], 6: [], 7: []}

    def descend(depth):
        for _ in range(choose.randrange(1, 4)):
            seed = choose.choice([5, 6, 7])
            with streams[seed] if seed in streams else rng_scope(7) as scope:
                drawn[seed].append((scope, draw(name)))
                if depth:
                    descend(depth - 1)
                drawn[seed].append((scope, draw(name)))

    for _ in range(4):
        descend(3)
    for seed in streams:
        assert [values for _, values in drawn[seed]] == expected(name, seed, len(drawn[seed]))
    for scope in {id(scope): scope for scope, _ in drawn[7]}.values():
        values = [values for owner, values in drawn[7] if owner is scope]
        assert values == expected(name, 7, len(values))


@each_source
def test_a_stream_with_fewer_sources_between_two_uses_changes_nothing(name, stream, unchanged):
    """A scope over other sources between the uses does not stand in the way."""
    drawn = []
    with stream:
        drawn.append(draw(name))
        for other in NAMES:
            with rng_scope(7, sources=[other]):
                with stream:
                    drawn.append(draw(name))
        drawn.append(draw(name))
    assert drawn == expected(name, 42, 2 + len(NAMES))


@each_source
def test_the_state_of_an_open_stream_is_where_it_stands(name, stream, unchanged):
    """state_dict() in a block, and in a scope in the block, is the state at that point."""
    copies = []
    with stream:
        draw(name)
        copies.append(stream.state_dict())
        with rng_scope(7):
            copies.append(stream.state_dict())
            with stream:
                copies.append(stream.state_dict())
            draw(name)
        following = draw(name)
    for copy in copies:
        again = RNGStream(1)
        again.load_state_dict(copy)
        with again:
            assert draw(name) == following


# How a use ends ---------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_keeps_what_was_drawn(name, error, stream, path, unchanged):
    """The next use goes on after the numbers of the one that failed."""
    with pytest.raises(error), stream:
        first = draw(name)
        raise error
    with stream:
        assert [first, draw(name)] == expected(name, 42, 2)


@each_source
def test_uses_may_end_in_any_order(name, stream, unchanged):
    """Law 5: a scope entered in a use outlives it, with a warning, and keeps its own numbers."""
    with rng_scope(7):
        with contextlib.ExitStack() as later:
            with pytest.warns(RuntimeWarning, match="left while another one was still open"):
                with stream:
                    first = draw(name)
                    later.enter_context(rng_scope(8))
                    scoped = draw(name)
            assert [scoped, draw(name)] == expected(name, 8, 2)
        assert draw(name) == expected(name, 7)[0]
    with stream:
        assert [first, draw(name)] == expected(name, 42, 2)


def test_the_warning_says_where_stream_and_scope_were_entered(stream, unchanged):
    """Both lines are those of the program, not of this package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.ExitStack() as later:
            with stream:
                later.enter_context(rng_scope(8))
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message).startswith(f"the scope opened at {__file__}:")
    assert "(with stream:)" in str(warning.message)


@each_source
def test_the_outer_use_may_end_before_the_inner_one(name, stream, unchanged):
    """Then the inner one alone says where the stream stands, and the program's state is kept."""
    with rng_scope(7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with contextlib.ExitStack() as later:
                with stream:
                    drawn = [draw(name)]
                    later.enter_context(stream)
                    drawn.append(draw(name))
                drawn.append(draw(name))
        assert draw(name) == expected(name, 7)[0]
    with stream:
        drawn.append(draw(name))
    assert drawn == expected(name, 42, 4)


def test_a_block_ends_its_own_use(unchanged):
    """A block that is left late ends its own use, not one that another function has open."""
    stream = RNGStream(42)

    def suspended():
        with stream:
            yield

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        body = suspended()
        next(body)
        with rng_scope(7):
            with stream:
                body.close()
                drawn = [draw("python")]
            assert draw("python") == expected("python", 7)[0]
        with stream:
            drawn.append(draw("python"))
    assert drawn == expected("python", 42, 2)


def test_to_leave_a_stream_that_is_not_open_is_an_error(stream, unchanged):
    """As with any scope; the stream stays usable."""
    with pytest.raises(RuntimeError, match="not open"):
        stream.__exit__(None, None, None)
    with stream:
        assert draw("python") == expected("python", 42)[0]


class Refusal(Exception):
    """What a source says that cannot be saved or restored."""


@pytest.mark.parametrize("verb", ["getstate", "setstate"])
@pytest.mark.parametrize("moment", ["entry", "exit"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_source_that_fails_leaves_no_other_one_behind(
    verb, moment, nested, monkeypatch, unchanged
):
    """Law 2: the others are put back, and at an exit the stream keeps what they drew."""
    stream = RNGStream(42, generators=[random.Random(1)])
    with stream:
        drawn = [draw("python")]
    source = stream._plan.sources[-1]

    def refuse(*_):
        raise Refusal

    with stream if nested else contextlib.nullcontext():
        before = unchanged()
        with pytest.raises(Refusal), monkeypatch.context() as patch:
            if moment == "entry":
                patch.setattr(source, verb, refuse)
            with stream:
                drawn.append(draw("python"))
                patch.setattr(source, verb, refuse)
        if moment == "entry" or not nested:
            assert unchanged() == before
    with stream:
        drawn.append(draw("python"))
    assert drawn == expected("python", 42, 2 if moment == "entry" else 3)


def test_at_the_end_of_the_program_a_block_that_is_still_open_is_no_error(
    stream, monkeypatch, unchanged
):
    """A suspended body ends then, when half of the interpreter is gone: nothing is said."""
    said = run("""
        import sys
        sys.stderr = sys.stdout
        stream = RNGStream(42)

        def body():
            with stream:
                yield

        kept = body()
        next(kept)
    """)
    assert said == ""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "is_finalizing", lambda: True)
        patch.setattr(type(stream._plan), "use_of", None)
        with stream:
            pass
    stream.__exit__(None, None, None)


def test_a_use_that_ends_in_the_middle_of_another_entry_waits_for_it(stream, unchanged):
    """As when a finalizer ends it just then: it is left as soon as the other is done."""
    with pytest.warns(RuntimeWarning, match="left while another one was still open"):
        stream.__enter__()
        drawn = [draw("python")]
        with rng_scope(8):
            # The lock is held while a scope is entered or left.
            with _order.lock:
                stream.__exit__(None, None, None)
            assert len(_order.lives) == 2
            with rng_scope(9):
                assert len(_order.lives) == 2
            assert draw("python") == expected("python", 8)[0]
    with stream:
        drawn.append(draw("python"))
    assert drawn == expected("python", 42, 2)


def test_a_body_that_cannot_be_taken_up_ends_its_use(stream, monkeypatch, unchanged):
    """A source fails when a suspended body goes on: the error comes out, and all is put back."""

    @stream
    def body():
        yield draw("python")

    def refuse():
        raise Refusal

    suspended = body()
    first = next(suspended)
    with pytest.raises(Refusal), monkeypatch.context() as patch:
        patch.setattr(_present.cells_of(stream._plan.sources)[-1], "getstate", refuse)
        next(suspended)
    with stream:
        assert [first, draw("python")] == expected("python", 42, 2)


def test_an_exit_that_is_interrupted_before_it_began_is_made_up_for(
    stream, monkeypatch, unchanged
):
    """Law 1: the use ends although it was not yet known which, and the interrupt comes through."""
    real, calls = StreamPlan.use_of, []

    def interrupted_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch, stream:
        patch.setattr(StreamPlan, "use_of", interrupted_once)
        first = draw("python")
    assert _order.lives == [] and len(calls) == 2
    with stream:
        assert [first, draw("python")] == expected("python", 42, 2)


# Decorated ---------------------------------------------------------------------------------


def test_a_decorated_function_goes_on_at_each_call(stream, unchanged):
    """Calls, recursion included, are uses; signature, name and docstring survive."""

    @stream
    def numbers(depth: int = 0) -> list:
        """Draw."""
        inner = numbers(depth - 1) if depth else []
        return [*inner, draw("python")]

    assert numbers(2) + numbers() == expected("python", 42, 4)
    assert (numbers.__name__, numbers.__doc__) == ("numbers", "Draw.")
    assert list(inspect.signature(numbers).parameters) == ["depth"]


def test_a_decorated_generator_goes_on_with_the_stream(stream, unchanged):
    """While the body is suspended others may use the stream; the body goes on after them."""
    drawn = []

    @stream
    def body():
        for _ in range(3):
            drawn.append(draw("python"))
            yield

    with rng_scope(7):
        outside = []
        for _ in body():
            outside.append(draw("python"))
            with stream:
                drawn.append(draw("python"))
    assert drawn == expected("python", 42, 6)
    assert outside == expected("python", 7, 3)


def test_a_use_that_is_open_in_a_suspended_body_is_suspend_with_it(stream, unchanged):
    """A block of the same stream, and scopes around it, in a body that yields inside."""
    drawn, scoped = [], []

    @stream
    def body():
        with rng_scope(7):
            scoped.append(draw("python"))
            with stream:
                for _ in range(3):
                    drawn.append(draw("python"))
                    yield
            scoped.append(draw("python"))
        drawn.append(draw("python"))

    before = unchanged()
    for _ in body():
        assert unchanged() == before and _order.lives == []
        with stream:
            drawn.append(draw("python"))
    assert drawn == expected("python", 42, 7)
    assert scoped == expected("python", 7, 2)


def test_a_block_in_a_body_with_a_stream_of_its_own_is_suspend(stream, unchanged):
    """Under @seeded a block of a stream may stay open over a yield."""

    @seeded(7)
    def body():
        with stream:
            yield draw("python")
            yield draw("python")

    drawn = []
    for value in body():
        drawn.append(value)
        with stream:
            drawn.append(draw("python"))
    assert drawn == expected("python", 42, 4)


def test_every_kind_of_function_can_be_decorated(stream, unchanged):
    """The kinds that seeded knows: each goes on with the one stream, and stays what it is."""
    drawn = []

    def note(*_):
        drawn.append(draw("python"))

    class Owner:
        @stream
        def method(self):
            note()

        @staticmethod
        @stream
        def static():
            note()

        @stream
        @classmethod
        def of_class(cls):
            note()

    @stream
    async def coroutine():
        note()
        await asyncio.sleep(0)
        note()

    @stream
    async def async_generator():
        note()
        yield
        note()
        yield

    @stream
    def generator():
        note()
        yield
        note()

    async def use_both():
        await coroutine()
        async for _ in async_generator():
            with stream:
                note()

    Owner().method(), Owner.static(), Owner.of_class()
    stream(functools.partial(note, 1))()
    asyncio.run(use_both())
    list(generator())
    assert drawn == expected("python", 42, 4 + 2 + 4 + 2)
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isasyncgenfunction(async_generator)
    assert inspect.isgeneratorfunction(generator)


def test_send_throw_and_close_reach_a_decorated_body(stream, unchanged):
    """What the body draws while it handles them belongs to the stream."""
    drawn = []

    @stream
    def body():
        try:
            drawn.append((yield))
            drawn.append(draw("python"))
            yield
        except ValueError:
            drawn.append(draw("python"))
            yield
        finally:
            drawn.append(draw("python"))

    generator = body()
    next(generator)
    generator.send("sent")
    generator.throw(ValueError)
    generator.close()
    with stream:
        drawn.append(draw("python"))
    assert drawn == ["sent", *expected("python", 42, 4)]


def test_tasks_that_take_turns_share_the_stream(stream, unchanged):
    """Two coroutines of one stream: every number once, in the order of the turns."""
    drawn = []

    @stream
    async def work():
        for _ in range(3):
            drawn.append(draw("python"))
            await asyncio.sleep(0)

    async def both():
        await asyncio.gather(work(), work())

    asyncio.run(both())
    assert drawn == expected("python", 42, 6)


def test_a_body_that_is_never_finished_keeps_what_it_drew(stream, unchanged):
    """A generator that is dropped while suspended: the stream goes on after its numbers."""

    @stream
    def body():
        yield draw("python")

    first = next(body())
    with stream:
        assert [first, draw("python")] == expected("python", 42, 2)


# Reset and state ---------------------------------------------------------------------------


@each_source
def test_reset_begins_again(name, stream, path, unchanged):
    """After reset() the stream draws what it drew at first."""
    for _ in range(2):
        with stream:
            assert [draw(name), draw(name)] == expected(name, 42, 2)
        stream.reset()


@each_source
def test_a_loaded_state_continues_in_another_stream(name, stream, path, unchanged):
    """state_dict() into another stream: seed and position, through JSON, to the bit."""
    with stream:
        draw(name)
        gauss(name)
    saved = json.loads(json.dumps(stream.state_dict()))
    again = RNGStream(1)
    again.load_state_dict(saved)
    assert again.seed == 42
    assert again.state_dict() == saved
    for each in (stream, again):
        drawn = []
        for _ in range(2):
            with each:
                drawn.append(draw(name))
        if each is stream:
            following = drawn
    assert drawn == following
    again.reset()
    with again:
        assert draw(name) == expected(name, 42)[0]


def test_the_state_of_a_new_stream_is_its_seed(unchanged):
    """Before the first use there is no state yet; loaded, it begins with the seed."""
    saved = RNGStream(2**64 - 1).state_dict()
    assert saved["states"] == {} and saved["seed"] == str(2**64 - 1)
    stream = RNGStream(1)
    with stream:
        draw("python")
    stream.load_state_dict(saved)
    with stream:
        assert draw("python") == expected("python", 2**64 - 1)[0]


def test_an_open_stream_is_neither_reset_nor_loaded(stream, unchanged):
    """It would have two positions: RuntimeError, and the stream goes on."""
    saved = RNGStream(1).state_dict()
    with stream:
        first = draw("python")
        for change in (stream.reset, lambda: stream.load_state_dict(saved)):
            with rng_scope(7), pytest.raises(RuntimeError, match="while it is open"):
                change()
        assert [first, draw("python")] == expected("python", 42, 2)


def test_a_state_of_other_options_is_refused(stream, unchanged):
    """Another independent=, or a source that this stream does not cover: ValueError."""
    with stream:
        draw("python")
    saved = stream.state_dict()
    for other in (RNGStream(1, independent=True), RNGStream(1, sources=[])):
        before = other.state_dict()
        with pytest.raises(ValueError, match="independent|'python', which is unknown here"):
            other.load_state_dict(saved)
        assert other.state_dict() == before


@pytest.mark.parametrize("seed", ["", "-1", "4 2", "٤٢", 42, None, "0x2a", str(2**64), "9" * 30])
def test_a_state_with_a_bad_seed_is_refused(seed, stream, unchanged):
    """Checked even where the checksum fits: nothing is used unchecked."""
    from rngscope._state import seal

    with stream:
        first = draw("python")
    saved = seal("RNGStream", {"seed": seed, "independent": False, "states": {}})
    with pytest.raises(ValueError, match="seed"):
        stream.load_state_dict(saved)
    saved = seal("RNGStream", {"seed": "1", "independent": 0, "states": {}})
    with pytest.raises(ValueError, match="independent"):
        stream.load_state_dict(saved)
    with stream:
        assert [first, draw("python")] == expected("python", 42, 2)


# What appears later ------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["between two uses", "in a use", "in a nested use"])
@pytest.mark.parametrize("library", [name for name in NAMES if name != "python"])
def test_a_library_that_is_imported_later_is_still_seeded(moment, library):
    """The seed is put aside with the state: a source begins with it when it appears.

    If a state was loaded, the source continues from that state instead.
    """
    module = {"numpy": "numpy.random", "torch": "torch"}[library]
    source = RNGStream(42)
    with source:
        draw("python"), draw(library)
    run(f"""
        import json, sys
        from by_hand import draw, expected, public_states

        new, loaded = RNGStream(42), RNGStream(1)
        loaded.load_state_dict(json.loads({json.dumps(source.state_dict())!r}))
        assert {module!r} not in sys.modules and "torch" not in sys.modules
        drawn, ours = {{new: [], loaded: []}}, {{new: [], loaded: []}}

        def note(stream):
            drawn[stream].append(draw({library!r}))

        for stream in (new, loaded):
            with stream:
                ours[stream].append(draw("python"))
        if {moment!r} == "in a use":
            with new:
                with loaded:
                    import {module}
                    note(loaded)
                note(new)
        elif {moment!r} == "in a nested use":
            with new, loaded, rng_scope(7):
                with new, loaded:
                    import {module}
                    note(loaded)
                assert draw({library!r}) == expected({library!r}, 7)[0]
                with new:
                    note(new)
        import {module}
        before = public_states()
        for stream in (new, loaded, new, loaded):
            with stream:
                note(stream)
                ours[stream].append(draw("python"))
        assert public_states() == before
        for stream, skip in ((new, 0), (loaded, 1)):
            times = len(drawn[stream])
            assert drawn[stream] == expected({library!r}, 42, skip + times)[skip:]
            assert ours[stream] == expected("python", 42, skip + 3)[skip:]
    """)


def test_a_stream_imports_nothing():
    """Law 3: uses, states and loading touch only what is there."""
    run("""
        import sys
        before = set(sys.modules)
        stream = RNGStream(42)
        with stream:
            with stream:
                pass
        stream.load_state_dict(stream.state_dict())
        with stream:
            pass
        assert not {"torch", "numpy"} & set(sys.modules)
    """)


# Threads and forks ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_threads_that_take_turns_share_the_stream(stream, unchanged):
    """A use in another thread inside a use continues it, and the first goes on after."""
    drawn = []

    def work():
        with stream:
            drawn.append(draw("python"))

    with stream:
        drawn.append(draw("python"))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        drawn.append(draw("python"))
    assert drawn == expected("python", 42, 3)


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_threads_that_overlap_end_their_own_uses(stream, unchanged):
    """Each thread leaves the use that it entered: a warning, and the program is as it was."""
    drawn = []
    entered, may_go = threading.Event(), threading.Event()

    def work():
        with stream:
            drawn.append(draw("python"))
            entered.set()
            may_go.wait(10)
            drawn.append(draw("python"))

    thread = threading.Thread(target=work)
    with pytest.warns(RuntimeWarning, match="thread 'MainThread' was left"):
        with stream:
            drawn.append(draw("python"))
            thread.start()
            entered.wait(10)
    may_go.set()
    thread.join()
    with stream:
        drawn.append(draw("python"))
    assert drawn == expected("python", 42, 4)


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_many_threads_at_once_lose_and_repeat_nothing(unchanged):
    """Uses one after another from eight threads: each number once."""
    stream, turn, drawn = RNGStream(42), threading.Lock(), []

    def work():
        for _ in range(50):
            with turn, stream:
                drawn.append(random.random())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = random.Random(42)
    assert drawn == [own.random() for _ in range(400)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_with_its_own_copy(stream, unchanged):
    """Law 6: uses of threads that the child does not have are not open there."""
    inside, may_go = threading.Event(), threading.Event()

    def work():
        with stream:
            inside.set()
            may_go.wait(10)

    with stream:
        first = draw("python")
    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    child = os.fork()
    if not child:
        status = 1
        try:
            stream.load_state_dict(stream.state_dict())
            with stream:
                second = draw("python")
            assert [first, second] == expected("python", 42, 2)
            assert _order.lives == []
            status = 0
        finally:
            os._exit(status)
    may_go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_use_that_a_forked_child_inherits_keeps_its_fresh_seed(stream, unchanged):
    """Law 6: a nested use in the child puts random back to what CPython gave the child."""
    with stream:
        draw("python")
        child = os.fork()
        if not child:
            status = 1
            try:
                fresh = random.getstate()
                with stream:
                    draw("python")
                assert random.getstate() == fresh
                stream.__exit__(None, None, None)
                assert random.getstate() == fresh and _order.lives == []
                status = 0
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Accelerators --------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    """Return a stand-in for CUDA that has two devices and has not started."""
    pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as accelerator:
        yield accelerator


def on(name, index=0):
    import torch

    generator = getattr(torch, name).default_generators[index]
    return torch.rand(3, generator=generator).tolist()


def by_hand(seed, times):
    import torch

    own = torch.Generator().manual_seed(seed)
    return [torch.rand(3, generator=own).tolist() for _ in range(times)]


@pytest.mark.parametrize("moment", ["before", "first use", "between", "second use", "after"])
def test_an_accelerator_may_start_at_any_moment(moment, cuda, stream, unchanged):
    """Whenever it starts: its devices begin with the seed of the stream, then go on."""
    import torch

    torch.cuda.manual_seed_all(5)
    drawn = []
    for now in ("before", "first use", "between", "second use", "after"):
        is_use = now.endswith("use")
        with stream if is_use else contextlib.nullcontext():
            if now == moment:
                cuda.start()
            if is_use and cuda.started:
                drawn.append(on("cuda", 1))
    with stream:
        drawn.append(on("cuda", 1))
    assert drawn == by_hand(42, len(drawn))
    # Outside it holds what the program had queued before its start.
    assert cuda.states() == [torch.Generator().manual_seed(5).get_state().numpy().tobytes()] * 2


def test_uses_of_one_accelerator_nest(cuda, stream, unchanged):
    """Directly, through a scope, and through a scope over one device only."""
    cuda.start()
    drawn = []
    with stream:
        drawn.append(on("cuda", 1))
        with stream:
            drawn.append(on("cuda", 1))
        for devices in (None, [0], [1]):
            with rng_scope(7, devices=devices):
                if devices != [0]:
                    assert on("cuda", 1) == by_hand(7, 1)[0]
                with stream:
                    drawn.append(on("cuda", 1))
        drawn.append(on("cuda", 1))
    assert drawn == by_hand(42, 6)
    assert cuda.states() == cuda.fresh


def test_an_accelerator_that_starts_under_a_loaded_stream_continues(unchanged):
    """The loaded part waits until the accelerator starts, in a use or between two."""
    pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2, name="xpu") as other:
        other.start()
        source = RNGStream(42)
        with source:
            first = on("xpu", 1)
        saved = source.state_dict()
    for starts_in_use in (False, True):
        with simulated_cuda(2, name="xpu") as now:
            stream = RNGStream(1)
            stream.load_state_dict(saved)
            assert stream.state_dict() == saved
            with stream:
                if starts_in_use:
                    now.start()
            if not starts_in_use:
                assert stream.state_dict()["states"]["xpu"] == saved["states"]["xpu"]
                now.start()
            with stream:
                assert [first, on("xpu", 1)] == by_hand(42, 2)


@pytest.mark.parametrize("devices", [None, [0, 1]])
def test_another_number_of_devices_names_both_numbers_and_the_way_out(devices, unchanged):
    """A state of one device into a stream over two: ValueError, and the stream is unchanged."""
    pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    source = RNGStream(42, devices=devices and [0])
    with simulated_cuda(1, name="xpu") as one:
        one.start()
        with source:
            on("xpu")
        saved = source.state_dict()
    with simulated_cuda(2, name="xpu") as two:
        two.start()
        stream = RNGStream(1, devices=devices)
        with stream:
            on("xpu")
        before = stream.state_dict()
        with pytest.raises(ValueError, match=r"\b1 xpu device.*\b2\b.*devices="):
            stream.load_state_dict(saved)
        assert stream.state_dict() == before
        # The way out that the message names.
        with RNGStream(1, devices=[0]) as fewer:
            pass
        fewer.load_state_dict(saved)
        with fewer:
            assert on("xpu") == by_hand(42, 2)[1]


def test_leaving_during_a_capture_keeps_what_the_others_drew(cuda, unchanged):
    """Law 7: the other sources are put back, the error names the capture."""
    cuda.start()
    stream = RNGStream(42)
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        with stream:
            first = draw("python")
            cuda.capturing = True
    cuda.capturing = False
    with stream:
        assert [first, draw("python")] == expected("python", 42, 2)


# torch's own machinery -----------------------------------------------------------------------


def test_a_stream_in_compiled_code_gives_the_right_numbers():
    """Law 8: the graph breaks at the block, without a warning, and the numbers are right."""
    pytest.importorskip("torch")
    run("""
        import torch
        stream = RNGStream(42)

        def drawn():
            with stream:
                return torch.rand(3) + 0

        compiled = torch.compile(drawn, backend="eager")
        before = RNGState.capture()
        values = [compiled().tolist(), compiled().tolist()]
        assert RNGState.capture().differs_from(before) == []
        own = torch.Generator().manual_seed(42)
        assert values == [torch.rand(3, generator=own).tolist() for _ in range(2)]
    """)


def test_modes_of_torch_change_nothing():
    """Law 9: a default device and fake tensors are no business of a stream."""
    pytest.importorskip("torch")
    run("""
        import torch
        from by_hand import draw, expected
        from torch._subclasses.fake_tensor import FakeTensorMode

        stream, drawn = RNGStream(42), []
        with torch.device("meta"), FakeTensorMode(), torch.inference_mode():
            for _ in range(2):
                with stream:
                    drawn.append(draw("python"))
                    saved = stream.state_dict()
        assert drawn == expected("python", 42, 2)
        again = RNGStream(1)
        again.load_state_dict(saved)
        for _ in range(2):
            with again:
                drawn.append(draw("torch"))
        assert drawn[2:] == expected("torch", 42, 2)
    """)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_layer_inside_a_stream_has_the_same_mask_twice(use_reentrant, unchanged):
    """Backward recomputes it outside the stream; neither the stream nor the program moves."""
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint

    stream, layer, outputs = RNGStream(42), torch.nn.Dropout(0.5), []
    for _ in range(3):
        with stream:
            inputs = torch.ones(100, requires_grad=True)
            output = checkpoint(layer, inputs, use_reentrant=use_reentrant)
        position, before = stream.state_dict(), unchanged()
        output.sum().backward()
        assert torch.equal(inputs.grad, output.detach())
        assert stream.state_dict() == position and unchanged() == before
        outputs.append(output.tolist())
    with rng_scope(42):
        assert outputs == [layer(torch.ones(100)).tolist() for _ in range(3)]
