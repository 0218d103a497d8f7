"""``@seeded`` on bodies that suspend: generators, coroutines and async generators."""

import asyncio
import contextlib
import functools
import gc
import inspect
import random
import subprocess
import sys
import textwrap
import threading
import types
import warnings
import weakref
from unittest import mock

import pytest
from by_hand import NAMES, draw, expected, public_states

from rngscope import RNGStream, assert_rng_unchanged, derive_seed, rng_scope, seeded
from rngscope.sources import SOURCES

each_source = pytest.mark.parametrize("name", NAMES)


@types.coroutine
def pause(value=None):
    """Suspend, as a coroutine does that waits; return what is sent."""
    return (yield value)


# The kinds of body ------------------------------------------------------------------------


def generate(act, times):
    for _ in range(times):
        act()
        yield


@types.coroutine
def generate_to_await(act, times):
    for _ in range(times):
        act()
        yield


async def wait(act, times):
    for _ in range(times):
        act()
        await pause()


async def generate_async(act, times):
    for index in range(times):
        act()
        if index % 2:
            await pause()
        else:
            yield


class Callable:
    """An object with an async ``__call__``."""

    async def __call__(self, act, times):
        await wait(act, times)


KINDS = {
    "generator": generate,
    "coroutine": wait,
    "async generator": generate_async,
    "types.coroutine": generate_to_await,
    "partial of a coroutine function": functools.partial(wait),
    "object with an async __call__": Callable(),
    "partial of such an object": functools.partial(Callable()),
    "bound method with an async __call__": Callable().__call__,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def steps(body):
    """Run a body of any kind by hand; yield at each of its suspensions."""
    if not inspect.isasyncgen(body):
        with contextlib.suppress(StopIteration):
            while True:
                body.send(None)
                yield
        return
    with contextlib.suppress(StopAsyncIteration):
        while True:
            part = body.__anext__()
            with contextlib.suppress(StopIteration):
                while True:
                    part.send(None)
                    yield
            yield


# One stream, put aside and taken up -------------------------------------------------------


@each_kind
@each_source
def test_a_body_has_one_stream_whatever_its_caller_draws(kind, name, path, unchanged):
    """The body is seeded once; at each resume it continues its stream."""
    drawn = []
    body = seeded(42)(KINDS[kind])(lambda: drawn.append(draw(name)), 4)
    with rng_scope():
        for _ in steps(body):
            draw(name)
            random.seed(3)
    assert drawn == expected(name, 42, 4)


@each_kind
@each_source
def test_the_caller_has_its_own_rngs_at_each_suspension(kind, name, path, unchanged):
    """At every yield and every suspended await the caller's RNGs are what they were."""
    with rng_scope(7):
        before, seen = public_states(), []
        for _ in steps(seeded(42)(KINDS[kind])(lambda: draw(name), 4)):
            seen.append(public_states())
        assert len(seen) == 4 and all(state == before for state in seen)
        assert draw(name) == expected(name, 7)[0]


@each_kind
def test_bodies_that_take_turns_do_not_see_each_other(kind, unchanged):
    """Every call has a stream of its own, also when the steps of several are mixed."""
    drawn = {seed: [] for seed in (1, 2, 3)}
    bodies = []
    for seed, log in drawn.items():
        act = functools.partial(lambda log: log.append([draw(name) for name in NAMES]), log)
        bodies.append(steps(seeded(seed)(KINDS[kind])(act, 3)))
    while bodies:
        bodies = [body for body in bodies if next(body, "end") is None]
    for seed, log in drawn.items():
        alone = [expected(name, seed, 3) for name in NAMES]
        assert log == [list(draws) for draws in zip(*alone)]


@each_kind
def test_a_body_may_go_on_in_another_thread(kind, unchanged):
    """The stream belongs to the body, not to the thread that runs a step."""
    drawn = []
    body = steps(seeded(42)(KINDS[kind])(lambda: drawn.append(draw("python")), 4))
    done = []
    while not done:
        thread = threading.Thread(target=lambda: done.extend(next(body, ["end"]) or []))
        thread.start()
        thread.join()
    assert drawn == expected("python", 42, 4)


@each_kind
def test_each_call_begins_anew(kind, unchanged):
    """Every call runs in a fresh scope; a stream as decorator goes on instead."""
    drawn = []
    function = seeded(42)(KINDS[kind])
    going_on = RNGStream(42)(KINDS[kind])
    for _ in range(2):
        list(steps(function(lambda: drawn.append(draw("python")), 2)))
    assert drawn == 2 * expected("python", 42, 2)
    del drawn[:]
    for _ in range(2):
        list(steps(going_on(lambda: drawn.append(draw("python")), 2)))
    assert drawn == expected("python", 42, 4)


@each_kind
def test_a_scope_without_a_seed_puts_back_what_a_step_draws(kind, unchanged):
    """``@seeded()`` preserves: the body goes on from its caller's state, then alone."""
    drawn = []
    with rng_scope(7):
        body = steps(seeded()(KINDS[kind])(lambda: drawn.append(draw("python")), 3))
        for _ in body:
            pass
        assert draw("python") == expected("python", 7)[0]
    assert drawn == expected("python", 7, 3)


@each_kind
def test_a_check_of_unchanged_rngs_looks_at_each_step(kind, unchanged):
    """``assert_rng_unchanged`` runs through the same mechanism."""
    for _ in steps(assert_rng_unchanged()(KINDS[kind])(lambda: None, 3)):
        with rng_scope():
            random.seed(5)
    with rng_scope(), pytest.raises(AssertionError, match="'python'"):
        list(steps(assert_rng_unchanged()(KINDS[kind])(lambda: random.random(), 3)))


# What inspect sees ------------------------------------------------------------------------

PREDICATES = [
    inspect.isgeneratorfunction,
    inspect.iscoroutinefunction,
    inspect.isasyncgenfunction,
    inspect.isfunction,
    inspect.isroutine,
]


@pytest.mark.parametrize("function", [generate, generate_to_await, wait, generate_async])
@pytest.mark.parametrize("times", [1, 2])
def test_a_decorated_function_is_of_the_same_kind(function, times):
    """Kind, name, docstring, module and signature survive, once and twice decorated."""
    decorated = function
    for _ in range(times):
        decorated = seeded(42)(decorated)
    for predicate in PREDICATES:
        assert predicate(decorated) == predicate(function)
    assert inspect.signature(decorated) == inspect.signature(function)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(decorated, name) == getattr(function, name)
    assert inspect.unwrap(decorated) is function


@pytest.mark.parametrize("kind", [kind for kind in KINDS if " " in kind])
def test_a_decorated_object_is_a_coroutine_function(kind):
    """An object whose call gives a coroutine becomes a function that gives one."""
    decorated = seeded(42)(KINDS[kind])
    assert inspect.isasyncgenfunction(decorated) == (kind == "async generator")
    assert inspect.iscoroutinefunction(decorated) == (kind != "async generator")
    assert inspect.signature(decorated) == inspect.signature(KINDS[kind])


def test_a_mock_of_a_coroutine_function_is_one(unchanged):
    """``AsyncMock`` is a coroutine function to ``inspect``, so it has a stream."""
    decorated = seeded(42)(mock.AsyncMock(side_effect=lambda: draw("python")))
    assert inspect.iscoroutinefunction(decorated)
    assert asyncio.run(decorated()) == expected("python", 42)[0]


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="needs Python 3.12")
def test_a_function_that_is_marked_as_a_coroutine_function_is_one(unchanged):
    """What it draws before it returns its coroutine is from the stream as well."""

    async def rest(first):
        return [first, draw("python")]

    @seeded(42)
    @inspect.markcoroutinefunction
    def function():
        return rest(draw("python"))

    assert inspect.iscoroutinefunction(function)
    assert asyncio.run(function()) == expected("python", 42, 2)


def test_what_a_call_returns_is_of_the_same_type():
    """Generators, coroutines and async generators are the interpreter's own."""
    assert inspect.isgenerator(seeded(42)(generate)(print, 0))
    assert inspect.isawaitable(seeded(42)(generate_to_await)(print, 0))
    assert inspect.isasyncgen(seeded(42)(generate_async)(print, 0))
    coroutine = seeded(42)(wait)(print, 0)
    assert inspect.iscoroutine(coroutine) and asyncio.iscoroutine(coroutine)
    assert (coroutine.__name__, coroutine.__qualname__) == ("wait", "wait")
    coroutine.close()


class Methods:
    """Every kind of method, each of every kind of body."""

    drawn: list

    def __init__(self):
        self.drawn = []

    @seeded(seed_from=lambda self, seed: seed)
    def generator(self, seed):
        self.drawn.append(draw("python"))
        yield
        self.drawn.append(draw("python"))

    @seeded(seed_from=lambda self, seed: seed)
    async def coroutine(self, seed):
        self.drawn.append(draw("python"))
        await pause()
        self.drawn.append(draw("python"))

    @seeded(seed_from=lambda self, seed: seed)
    async def async_generator(self, seed):
        self.drawn.append(draw("python"))
        yield
        self.drawn.append(draw("python"))

    @seeded(seed_from=lambda cls, drawn, seed: seed)
    @classmethod
    def class_generator(cls, drawn, seed):
        assert cls is Methods
        drawn.append(draw("python"))
        yield
        drawn.append(draw("python"))

    @classmethod
    @seeded(seed_from=lambda cls, drawn, seed: seed)
    async def class_coroutine(cls, drawn, seed):
        assert cls is Methods
        drawn.append(draw("python"))
        await pause()
        drawn.append(draw("python"))

    @seeded(seed_from=lambda drawn, seed: seed)
    @staticmethod
    async def static_async_generator(drawn, seed):
        drawn.append(draw("python"))
        yield
        drawn.append(draw("python"))

    @staticmethod
    @seeded(seed_from=lambda drawn, seed: seed)
    def static_generator(drawn, seed):
        drawn.append(draw("python"))
        yield
        drawn.append(draw("python"))


@pytest.mark.parametrize("name", [name for name in vars(Methods) if "_" != name[0] != "d"])
def test_methods_of_every_kind_have_streams(name, unchanged):
    """Methods, class methods and static methods run as functions do; seed_from gets self."""
    methods = Methods()
    is_free = name.startswith(("class", "static"))
    call = getattr(methods, name)
    for _ in steps(call(*[methods.drawn] * is_free, 42)):
        pass
    assert methods.drawn == expected("python", 42, 2)


# The protocol -----------------------------------------------------------------------------
#
# Every scenario runs twice, undecorated and decorated, and must tell the same story. What it
# draws on the way must be one stream.


class Story:
    """What a scenario saw, and what its bodies drew."""

    def __init__(self, decorate):
        self.decorate = decorate
        self.lines = []
        self.drawn = []

    def say(self, *words):
        self.lines.append(" ".join(map(str, words)))

    def draw(self):
        self.drawn.append(draw("python"))

    def call(self, act, *args):
        """Do something from outside, and tell what came of it."""
        try:
            self.say("->", repr(act(*args)))
        except BaseException as error:
            context = error.__context__
            self.say(type(error).__name__, error, "|", type(context).__name__, context)


def told_by(scenario, decorate):
    story = Story(decorate)
    with rng_scope():
        scenario(story)
    return story


def send_and_return(story):
    @story.decorate
    def body(first):
        story.draw()
        second = yield first
        story.draw()
        third = yield second
        story.draw()
        return third

    made = body(1)
    for act, *args in [(next, made), (made.send, 2), (made.send, 3), (next, made)]:
        story.call(act, *args)
    story.call(body(1).send, "too early")


def throw_in(story):
    @story.decorate
    def body():
        while True:
            try:
                story.draw()
                yield "waiting"
            except ValueError as error:
                story.say("caught", error, repr(error.__context__))

    made = body()
    story.call(next, made)
    story.call(made.throw, ValueError("one"))
    try:
        raise LookupError("outside")
    except LookupError:
        story.call(made.throw, ValueError("two"))
    story.call(made.throw, KeyError("not caught"))
    story.call(next, made)
    story.call(made.throw, ValueError("too late"))
    story.call(body().throw, ValueError("never started"))


def close_it(story):
    @story.decorate
    def body():
        try:
            yield "waiting"
        except GeneratorExit as error:
            story.draw()
            story.say("exit", repr(error))
            raise
        finally:
            story.draw()

    made = body()
    story.call(made.close)
    story.call(next, made)
    made = body()
    story.call(next, made)
    story.call(made.close)
    story.call(made.close)
    story.call(next, made)


def answer_a_close(story):
    @story.decorate
    def body(answer):
        try:
            yield "waiting"
        except GeneratorExit:
            story.draw()
            if answer == "return":
                return "returned"
            if answer == "raise":
                raise KeyError("raised") from None
            yield "ignored"
        story.draw()
        yield "goes on"

    for answer in ("return", "raise", "ignore"):
        for act in ("close", "throw"):
            made = body(answer)
            story.call(next, made)
            story.call(*[made.close] if act == "close" else (made.throw, GeneratorExit()))
            story.call(next, made)
            story.call(next, made)


def raise_stop_iteration(story):
    @story.decorate
    def body():
        story.draw()
        yield
        raise StopIteration("inside")

    made = body()
    story.call(next, made)
    story.call(next, made)
    made = body()
    story.call(next, made)
    story.call(made.throw, StopIteration("from outside"))


def delegate(story):
    @story.decorate
    def inner():
        try:
            received = yield "inner"
            story.say("received", received)
            yield "inner again"
        except ValueError as error:
            story.say("caught", error)
        finally:
            story.say("inner ends")
        return "from inner"

    @story.decorate
    def outer():
        story.draw()
        story.say((yield from inner()))
        story.draw()
        yield from [1, 2]

    made = outer()
    for act, *args in [(next, made), (made.send, 5), (made.throw, ValueError(6)), (list, made)]:
        story.call(act, *args)
    made = outer()
    story.call(next, made)
    story.call(made.close)


def run_itself(story):
    @story.decorate
    def body():
        story.draw()
        story.call(next, made)
        yield "done"

    made = body()
    story.call(list, made)


def be_a_context_manager(story):
    @contextlib.contextmanager
    @story.decorate
    def block(swallow):
        story.draw()
        try:
            yield "entered"
        except swallow as error:
            story.say("caught", repr(error))
            story.draw()
        finally:
            story.say("left")

    def use(swallow, error):
        with block(swallow) as value:
            story.say(value)
            if error is not None:
                raise error
        return "after"

    for swallow, error in [
        (ValueError, None),
        (ValueError, ValueError("one")),
        (ValueError, KeyError("two")),
        (ValueError, StopIteration("three")),
        (ValueError, GeneratorExit("four")),
        (GeneratorExit, GeneratorExit("five")),
    ]:
        story.call(use, swallow, error)


def run_a_coroutine(story):
    @story.decorate
    async def body(argument):
        story.draw()
        try:
            received = await pause(argument)
        except ValueError as error:
            received = f"caught {error}"
        finally:
            story.draw()
        story.say(received)
        return "returned"

    for act, *args in [("send", "sent"), ("throw", ValueError("one")), ("throw", KeyError("two"))]:
        made = body(1)
        story.call(made.send, None)
        story.call(getattr(made, act), *args)
        story.call(made.send, None)
    made = body(1)
    story.call(made.send, None)
    story.call(made.close)
    story.call(made.send, None)
    made = body(1)
    made.close()
    story.call(made.send, None)


def run_an_async_generator(story):
    @story.decorate
    async def body():
        try:
            story.draw()
            received = yield "one"
            story.say(received)
            story.say("pause", await pause("two"))
            story.draw()
            yield "three"
        except ValueError as error:
            story.say("caught", error)
            story.draw()
            yield "four"
        finally:
            story.say("pause", await pause("cleaning up"))
            story.draw()

    def finish(step):
        story.call(step.send, None)
        story.call(step.send, "resumed")

    def begin(times):
        made = body()
        for _ in range(times):
            finish(made.__anext__())
        return made

    story.call(body().asend("too early").send, None)
    made = begin(2)
    finish(made.__anext__())
    finish(made.__anext__())
    for times in (0, 1, 2):
        for error in (ValueError("inside"), KeyError("not caught"), GeneratorExit()):
            made = begin(times)
            finish(made.athrow(error))
            finish(made.aclose())
            finish(made.__anext__())
    made = begin(1)
    finish(made.asend("sent"))
    finish(made.aclose())


def answer_an_async_close(story):
    @story.decorate
    async def body(answer):
        try:
            yield "waiting"
        except GeneratorExit:
            story.draw()
            if answer == "return":
                return
            if answer == "raise":
                raise KeyError("raised") from None
            yield "ignored"
        yield "goes on"

    for answer in ("return", "raise", "ignore"):
        for act in ("aclose", "athrow"):
            made = body(answer)
            story.call(made.__anext__().send, None)
            story.call(getattr(made, act)(*[GeneratorExit()] * (act == "athrow")).send, None)
            story.call(made.__anext__().send, None)
            story.call(made.__anext__().send, None)


SCENARIOS = [
    send_and_return,
    throw_in,
    close_it,
    answer_a_close,
    raise_stop_iteration,
    delegate,
    run_itself,
    be_a_context_manager,
    run_a_coroutine,
    run_an_async_generator,
    answer_an_async_close,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_decorated_bodies_tell_the_same_story(scenario, unchanged):
    """send, throw, close, yield from, return values and errors are as undecorated."""
    plain = told_by(scenario, lambda function: function)
    assert told_by(scenario, seeded(42)).lines == plain.lines
    assert told_by(scenario, rng_scope(42)).lines == plain.lines
    assert told_by(scenario, RNGStream(42)).lines == plain.lines


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_whatever_is_done_to_a_body_its_stream_is_active_inside(scenario, unchanged):
    """Handlers of GeneratorExit, of thrown errors and ``finally`` draw from the stream."""
    # All bodies of a scenario go on with one stream, so that its draws are in order.
    drawn = told_by(scenario, RNGStream(42)).drawn
    assert drawn == expected("python", 42, len(drawn)) != []


def test_what_passes_through_a_body_is_not_kept(unchanged):
    """Values, arguments and errors end when both sides have dropped them."""

    class Thing(Exception):
        pass

    @seeded(42)
    def body(first):
        del first
        yield Thing()
        with contextlib.suppress(Thing):
            yield
        yield

    gc.disable()
    try:
        kept = weakref.WeakSet()

        def thing():
            kept.add(made := Thing())
            return made

        generator = body(thing())
        kept.add(next(generator))
        assert not kept
        generator.send(thing())
        assert not kept
        generator.throw(thing())
        assert not kept
        with contextlib.suppress(Thing):
            generator.throw(thing())
        assert not kept
    finally:
        gc.enable()


# asyncio ----------------------------------------------------------------------------------


@seeded(seed_from=lambda seed, *rest: seed)
async def request(seed, log, times=4):
    """Draw, wait, draw: one of several at once."""
    for _ in range(times):
        log.append([draw(name) for name in NAMES])
        await asyncio.sleep(0)
    return seed


def alone(seed, times):
    return [list(draws) for draws in zip(*[expected(name, seed, times) for name in NAMES])]


def run(main):
    """Run it with the outer state preserved: asyncio itself does not draw."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return asyncio.run(main)


def test_gathered_coroutines_and_bystanders_do_not_see_each_other(unchanged):
    """Many decorated coroutines at once, among others that draw from the outer RNGs."""

    async def bystander(log):
        for _ in range(4):
            log.append(draw("python"))
            await asyncio.sleep(0)

    async def main():
        logs, outer = {seed: [] for seed in range(20)}, []
        results = await asyncio.gather(
            bystander(outer), *(request(seed, log) for seed, log in logs.items())
        )
        return logs, outer, results

    with rng_scope(7):
        logs, outer, results = run(main())
    assert all(log == alone(seed, 4) for seed, log in logs.items())
    assert outer == expected("python", 7, 4)
    assert results == [None, *range(20)]


def test_a_task_group_runs_decorated_coroutines(unchanged):
    """One that fails cancels the others, and nothing is left open."""

    @seeded(5)
    async def fail():
        await asyncio.sleep(0)
        raise ValueError(draw("python"))

    @seeded(6)
    async def wait_for_ever(log):
        try:
            await asyncio.Event().wait()
        finally:
            log.append(draw("python"))

    async def main(log):
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_ever(log))
            group.create_task(fail())

    log = []
    with pytest.raises(ExceptionGroup) as caught:
        run(main(log))
    assert caught.value.exceptions[0].args == tuple(expected("python", 5))
    assert log == expected("python", 6)


def test_a_timeout_ends_a_decorated_coroutine(unchanged):
    """``asyncio.timeout``, inside and outside of the body, behaves as undecorated."""

    @seeded(5)
    async def body(log, delay):
        log.append(draw("python"))
        try:
            async with asyncio.timeout(delay):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append(draw("python"))
            await asyncio.sleep(0)
        finally:
            log.append(draw("python"))
        return "returned"

    async def main(log, inside, outside):
        before = public_states()
        try:
            async with asyncio.timeout(outside):
                return await body(log, inside)
        except TimeoutError:
            return "timed out"
        finally:
            assert public_states() == before

    log = []
    assert run(main(log, 0.001, None)) == "returned"
    assert log == expected("python", 5, 3)
    log = []
    assert run(main(log, None, 0.001)) == "timed out"
    assert log == expected("python", 5, 2)


def test_a_cancelled_coroutine_cleans_up_with_its_stream(unchanged):
    """CancelledError is seen inside with the stream active, and may be waited out."""

    @seeded(5)
    async def body(log):
        log.append(draw("python"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append(draw("python"))
            await asyncio.sleep(0)
            log.append(draw("python"))
            raise

    async def main(log):
        before = public_states()
        task = asyncio.create_task(body(log))
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert task.cancelled() and public_states() == before

    log = []
    run(main(log))
    assert log == expected("python", 5, 3)


def test_a_task_that_is_cancelled_before_it_starts_touches_nothing(unchanged):
    """A body that never began has no scope."""

    async def main():
        task = asyncio.create_task(seeded(5)(wait)(pytest.fail, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_async_for_and_async_with_work_decorated(unchanged):
    """An async generator as a loop and as a context manager draws one stream."""
    log = []

    @seeded(5)
    async def numbers():
        for _ in range(3):
            await asyncio.sleep(0)
            yield draw("python")

    @contextlib.asynccontextmanager
    @seeded(6)
    async def block():
        log.append(draw("python"))
        await asyncio.sleep(0)
        try:
            yield
        except KeyError:
            log.append(draw("python"))
            await asyncio.sleep(0)
        log.append(draw("python"))

    async def main():
        before = public_states()
        assert [number async for number in numbers()] == expected("python", 5, 3)
        async with block():
            assert public_states() == before
            raise KeyError
        assert public_states() == before

    run(main())
    assert log == expected("python", 6, 3)


def test_a_decorated_function_in_a_worker_thread_of_asyncio(unchanged):
    """``asyncio.to_thread`` beside coroutines: each ends with its own draws."""

    @seeded(5)
    async def body():
        first = draw("python")
        second = await asyncio.to_thread(seeded(6)(draw), "python")
        return [first, second, draw("python")]

    first, second = expected("python", 5, 2)
    assert run(body()) == [first, *expected("python", 6), second]


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs Python 3.12")
def test_eager_tasks_have_their_own_streams(unchanged):
    """A task that begins inside another one's step is a body of its own."""

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        logs = {seed: [] for seed in (1, 2)}

        @seeded(3)
        async def body():
            tasks = [asyncio.create_task(request(seed, log)) for seed, log in logs.items()]
            first = draw("python")
            await asyncio.gather(*tasks)
            return [first, draw("python")]

        return logs, await body()

    logs, drawn = run(main())
    assert all(log == alone(seed, 4) for seed, log in logs.items())
    assert drawn == expected("python", 3, 2)


# Scopes inside bodies ---------------------------------------------------------------------


@each_kind
def test_scopes_inside_a_body_are_suspend_with_it(kind, unchanged):
    """They do not count as open while the body is suspended, and go on when it does."""
    drawn = []
    scope, stream = rng_scope(5), RNGStream(6)
    turn = iter(["enter scope", "", "enter stream", "", "leave stream", "leave scope", ""])

    def act():
        match next(turn):
            case "enter scope":
                scope.__enter__()
            case "enter stream":
                stream.__enter__()
            case "leave stream":
                stream.__exit__(None, None, None)
            case "leave scope":
                scope.__exit__(None, None, None)
        drawn.append(draw("python"))

    body = seeded(42)(KINDS[kind])(act, 7)
    before = public_states()
    for _ in steps(body):
        assert public_states() == before
        if len(drawn) == 2:
            with pytest.raises(RuntimeError, match="open already"):
                scope.__enter__()
    one, two, three = (expected("python", seed, 4) for seed in (5, 6, 42))
    assert drawn == [*one[:2], *two[:2], one[2], *three[:2]]


def test_blocks_inside_gathered_bodies_draw_right_and_do_not_warn(unchanged):
    """``with rng_scope()`` around an await is right in a decorated coroutine."""

    @seeded(seed_from=lambda seed, log: seed)
    async def body(seed, log):
        log.append(draw("python"))
        with rng_scope(seed + 100):
            log.append(draw("python"))
            await asyncio.sleep(0.001 * (5 - seed))
            with rng_scope(seed + 200):
                log.append(draw("python"))
                await asyncio.sleep(0.001 * seed)
                log.append(draw("python"))
            log.append(draw("python"))
        log.append(draw("python"))

    async def main():
        logs = {seed: [] for seed in range(5)}
        await asyncio.gather(*(body(seed, log) for seed, log in logs.items()))
        return logs

    for seed, log in run(main()).items():
        outer, one, two = (expected("python", seed + more, 2) for more in (0, 100, 200))
        assert log == [outer[0], one[0], *two, one[1], outer[1]]


def test_a_stream_inside_bodies_goes_on_from_its_latest_position(unchanged):
    """A stream that several suspended bodies are inside of continues where it is."""
    stream = RNGStream(5)
    drawn = []

    @seeded(42)
    def body():
        with stream:
            drawn.append(draw("python"))
            yield
            drawn.append(draw("python"))

    first, second = body(), body()
    next(first)
    next(second)
    assert list(first) == list(second) == []
    assert drawn == expected("python", 5, 4)


def test_a_body_in_a_body_in_a_scope(unchanged):
    """Decorated bodies run by decorated bodies each have their own stream."""

    @seeded(1)
    def inner():
        for _ in range(3):
            yield draw("python")

    @seeded(2)
    def outer():
        for number in inner():
            yield [number, draw("python")]

    with rng_scope(3):
        pairs = list(outer())
        assert draw("python") == expected("python", 3)[0]
    assert pairs == [list(p) for p in zip(expected("python", 1, 3), expected("python", 2, 3))]


def test_a_scope_that_is_left_while_its_body_is_suspended_is_not_taken_up(unchanged):
    """One that somebody else closes meanwhile is closed."""
    scope = rng_scope(5)

    @seeded(42)
    def body():
        scope.__enter__()
        yield draw("python")
        yield draw("python")

    made = body()
    assert next(made) == expected("python", 5)[0]
    scope.__exit__(None, None, None)
    assert next(made) == expected("python", 42)[0]
    with scope:
        assert draw("python") == expected("python", 5)[0]
    made.close()


# Beginnings and ends ----------------------------------------------------------------------


@each_kind
def test_an_error_of_seed_from_touches_nothing(kind, unchanged):
    """The body does not begin, and no scope was open."""

    def fail(act, times):
        raise LookupError("no seed")

    with pytest.raises(LookupError, match="no seed"):
        list(steps(seeded(seed_from=fail)(KINDS[kind])(pytest.fail, 1)))
    with pytest.raises(TypeError, match="seed must be an integer"):
        list(steps(seeded(seed_from=lambda act, times: 1.5)(KINDS[kind])(pytest.fail, 1)))


def test_wrong_arguments_are_an_error_and_touch_nothing(unchanged):
    """As for every wrapper around a generator function, at the first step."""
    with pytest.raises(TypeError, match="positional argument"):
        next(seeded(42)(generate)(1, 2, 3))


def test_a_body_that_never_starts_touches_nothing(unchanged):
    """No seed_from, no scope, no body; a coroutine warns by its own name."""
    made = [seeded(seed_from=pytest.fail)(kind)(pytest.fail, 1) for kind in (generate,)]
    made.append(seeded(42)(generate_async)(pytest.fail, 1))
    del made
    with pytest.warns(RuntimeWarning, match="coroutine 'wait' was never awaited"):
        seeded(seed_from=pytest.fail)(wait)(pytest.fail, 1)
        gc.collect()


@pytest.mark.parametrize("kind", ["generator", "coroutine", "types.coroutine"])
@pytest.mark.parametrize("way", ["dropped", "in a cycle", "in another thread"])
def test_a_body_that_never_finishes_is_closed_with_its_stream(kind, way, unchanged):
    """Garbage collection runs its ``finally`` inside, wherever it happens."""
    drawn = []

    @seeded(42)
    def body():
        try:
            drawn.append(draw("python"))
            yield
        finally:
            drawn.append(draw("python"))

    @seeded(42)
    async def waiting():
        try:
            drawn.append(draw("python"))
            await pause()
        finally:
            drawn.append(draw("python"))

    if kind == "types.coroutine":
        body = types.coroutine(body)
    holder = [waiting() if kind == "coroutine" else body()]
    holder[0].send(None)
    before = public_states()
    if way == "dropped":
        holder.clear()
    elif way == "in a cycle":
        holder.append(holder)
        del holder
        gc.collect()
    else:
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
    assert public_states() == before
    assert drawn == expected("python", 42, 2)


def test_a_loop_closes_async_generators_with_their_streams(unchanged):
    """``shutdown_asyncgens``, and the loop's hook for dropped ones, run the body's end."""
    drawn = {"dropped": [], "at the end": []}

    @seeded(42)
    async def body(log):
        try:
            log.append(draw("python"))
            yield
        finally:
            await asyncio.sleep(0)
            log.append(draw("python"))

    kept = []

    async def main():
        async for _ in body(drawn["dropped"]):
            break
        gc.collect()
        for _ in range(4):
            await asyncio.sleep(0)
        kept.append(body(drawn["at the end"]))
        await anext(kept[0])

    run(main())
    assert drawn == dict.fromkeys(drawn, expected("python", 42, 2))


@pytest.mark.parametrize("decorate", [lambda body: body, seeded(42)], ids=["plain", "seeded"])
def test_a_loop_hears_of_each_async_generator_once(decorate, unchanged):
    """If it heard of the body too, it would close that first, outside of its stream."""
    heard = []

    async def inner():
        yield

    @decorate
    async def body():
        async for _ in inner():
            yield

    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=lambda made: heard.append(made.__name__))
    try:
        for _ in steps(body()):
            pass
        assert sys.get_asyncgen_hooks().firstiter is not None
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert heard == ["body", "inner"]


def test_an_async_generator_without_a_loop_is_closed_with_its_stream(unchanged):
    """Without hooks, the interpreter closes it where it stands."""
    drawn = []

    @seeded(42)
    async def body():
        try:
            drawn.append(draw("python"))
            yield
        finally:
            drawn.append(draw("python"))

    made = body()
    with contextlib.suppress(StopIteration):
        made.__anext__().send(None)
    del made
    gc.collect()
    assert drawn == expected("python", 42, 2)


def test_a_coroutine_that_is_dropped_in_an_async_generator(unchanged):
    """A consumer that is closed inside of a wait leaves nothing open."""

    @seeded(42)
    async def body():
        await pause("waiting")
        yield draw("python")

    async def consume():
        async for _ in body():
            pytest.fail()

    made = consume()
    assert made.send(None) == "waiting"
    before = public_states()
    made.close()
    del made
    gc.collect()
    assert public_states() == before


AT_SHUTDOWN = """
import asyncio, random, types
LIBRARIES
from rngscope import RNGStream, rng_scope, seeded

decorate = DECORATE
stream = RNGStream(5)

@types.coroutine
def pause():
    yield

@decorate
def body():
    try:
        with rng_scope(1), stream:
            random.random()
            yield
    except GeneratorExit:
        random.random()
        raise

@decorate
async def waiting():
    with rng_scope(1), stream:
        await pause()

@decorate
async def numbers():
    with rng_scope(1), stream:
        random.random()
        yield

kept = [body(), waiting()]
for made in kept:
    made.send(None)
kept.append(numbers())
try:
    kept[-1].__anext__().send(None)
except StopIteration:
    pass
kept.append(body())
next(kept[-1])
kept.append(kept)
"""


def run_program(program, *options):
    return subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_that_is_closed_while_the_interpreter_ends_gets_no_stream(
    is_async, monkeypatch, unchanged
):
    """The libraries may be gone: nothing is taken up any more, and the body ends all the same."""
    ending, drawn = [], []
    monkeypatch.setattr(sys, "is_finalizing", lambda: bool(ending))

    def draw_at_end():
        drawn.append(draw("python"))

    if is_async:

        @seeded(42)
        async def body():
            try:
                yield
            finally:
                draw_at_end()

        made = body()
        with pytest.raises(StopIteration):
            made.__anext__().send(None)
        close = functools.partial(made.aclose().send, None)
    else:

        @seeded(42)
        def body():
            try:
                yield
            finally:
                draw_at_end()

        made = body()
        next(made)
        close = made.close
    with rng_scope(7):
        ending.append(True)
        with contextlib.suppress(StopIteration):
            close()
        del made, close
        gc.collect()
        ending.clear()
        assert drawn == expected("python", 7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decorate", ["seeded(42)", "RNGStream(42)", "lambda body: body"])
def test_bodies_that_outlive_the_program_end_in_silence(name, decorate):
    """At interpreter shutdown nothing is written to stderr, and nothing crashes."""
    library = {"python": "", "numpy": "import numpy.random", "torch": "import torch"}[name]
    program = AT_SHUTDOWN.replace("LIBRARIES", library).replace("DECORATE", decorate)
    done = run_program(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif("numpy" not in NAMES, reason="needs NumPy")
@pytest.mark.parametrize("where", ["inside", "while suspended", "before a block"])
def test_a_library_that_appears_late_is_seeded_in_the_suspended_body(where):
    """Imported inside or while the body is suspended, it begins with the body's seed."""
    done = run_program(
        f"""
        import random, sys
        from rngscope import rng_scope, seeded
        where = {where!r}

        @seeded(42)
        def body():
            random.random()
            with rng_scope(43):
                random.random()
                yield
                if where == "inside":
                    import numpy.random
                if where != "before a block":
                    yield numpy_random().random_sample()
            yield numpy_random().random_sample()
            yield numpy_random().random_sample()

        def numpy_random():
            return sys.modules["numpy.random"]

        made = body()
        next(made)
        assert "numpy.random" not in sys.modules
        if where != "inside":
            import numpy.random
            numpy.random.seed(7)
            before = str(numpy.random.get_state())
        drawn = list(made)
        from numpy.random import RandomState
        if where != "inside":
            assert str(numpy_random().get_state()) == before
        one, two = RandomState(43), RandomState(42)
        inner = [one.random_sample()] if where != "before a block" else []
        assert drawn == inner + [two.random_sample(), two.random_sample()], drawn
        assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Interrupts -------------------------------------------------------------------------------


def interrupt_at(monkeypatch, count):
    """Raise KeyboardInterrupt at the n-th call of any verb of any source, after its work."""
    calls = []

    def watch(act):
        def verb(self, *args):
            result = act(self, *args)
            calls.append(act)
            if len(calls) == count:
                raise KeyboardInterrupt(count)
            return result

        return verb

    for source in SOURCES:
        if source.name in NAMES:
            for name in ("getstate", "setstate", "swap", "seed"):
                monkeypatch.setattr(type(source), name, watch(getattr(type(source), name)))
    return calls


@each_kind
def test_an_interrupt_in_any_verb_of_a_step_leaves_nothing_open(kind, monkeypatch, unchanged):
    """Law 1: whichever verb is interrupted, the outer state is back."""
    before, count, is_through = public_states(), 0, False
    while not is_through:
        count += 1
        with monkeypatch.context() as patch:
            calls = interrupt_at(patch, count)
            function = seeded(derive_seed(42, count))(KINDS[kind])
            with contextlib.suppress(KeyboardInterrupt), rng_scope(sources=["python"]):
                for _ in steps(function(lambda: draw("python"), 3)):
                    pass
            is_through = len(calls) < count
        assert public_states() == before
    # Each of four steps takes the stream up, with two verbs, and puts it aside, with two.
    assert count > 4 * 4
