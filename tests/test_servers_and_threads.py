"""Servers and threads: ``to_thread``, exclusive scopes, and the warning of overlapping threads."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import inspect
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings

import pytest
from by_hand import NAMES, draw, expected, public_states
from test_threads_and_fork import in_child, needs_fork, run_threads

from rngscope import (
    RNGStream,
    _claims,
    _loans,
    _order,
    _turns,
    rng_scope,
    seeded,
    to_thread,
)
from rngscope._life import LifeOfProcess
from rngscope._plan import Plan
from rngscope._scope import life_of
from rngscope.sources import SOURCES

#: Seconds after which a test that should not wait at all is given up.
LONG = 60
pytestmark = [
    # Named sources whose library is not there, which the runs without it have.
    pytest.mark.filterwarnings("ignore:.* was not imported before:RuntimeWarning"),
    # From Python 3.12 on, a fork with threads around warns.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
overlaps = pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")


def run(main):
    """Run a coroutine in an event loop of its own, for a minute at most."""

    async def limited():
        async with asyncio.timeout(LONG):
            return await main

    result = asyncio.run(limited())
    assert _loans.lent == _loans.offers == {}
    return result


def alone(seed, count):
    """Return the first numbers that Python draws after this seed."""
    return expected("python", seed, count)


def pull():
    return draw("python")


@contextlib.contextmanager
def open_in_a_thread(scope, **names):
    """Have another thread hold a scope open for the length of the block."""
    entered, leave, errors = threading.Event(), threading.Event(), []

    def work():
        try:
            with scope:
                entered.set()
                assert leave.wait(LONG)
        except BaseException as error:
            errors.append(error)
            entered.set()

    thread = threading.Thread(target=work, **names)
    thread.start()
    assert entered.wait(LONG)
    try:
        yield thread
    finally:
        leave.set()
        thread.join(LONG)
    assert not thread.is_alive() and not errors


def wait_until(condition):
    """Wait for what has no event to wait for."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# to_thread: the numbers -------------------------------------------------------------------


def test_every_request_of_300_draws_what_it_draws_alone(unchanged):
    """Served at the same time, with work in threads: 300 of 300 are right."""

    def work(name):
        first = draw(name)
        # Let the others run here, if anything lets them.
        time.sleep(0.0002)
        return [first, draw(name)]

    @seeded(seed_from=lambda seed: seed)
    async def answer(seed):
        numbers = [draw(NAMES[-1])]
        await asyncio.sleep(0)
        numbers += await to_thread(work, NAMES[-1])
        numbers.append(draw(NAMES[-1]))
        await asyncio.sleep(0.001)
        numbers += await to_thread(work, NAMES[-1])
        return [*numbers, draw(NAMES[-1])]

    async def serve():
        before = public_states()
        answers = await asyncio.gather(*map(answer, range(300)))
        assert public_states() == before
        return answers

    answers = run(serve())
    assert sum(answers[seed] == expected(NAMES[-1], seed, 7) for seed in range(300)) == 300


@pytest.mark.parametrize("name", NAMES)
def test_the_function_draws_where_the_body_has_stopped(name, path, unchanged):
    """And the body goes on where the function has stopped; half a Gaussian pair included."""

    @seeded(42)
    async def body():
        return [draw(name), await to_thread(draw, name), draw(name)]

    assert run(body()) == expected(name, 42, 3)


def test_it_has_the_signature_and_the_ways_of_asyncio_to_thread(unchanged):
    """Arguments, result, context variables, and what kind of function it is."""
    variable = contextvars.ContextVar("variable")

    def work(*args, **kwargs):
        found = variable.get()
        variable.set("in the thread")
        return found, args, kwargs, threading.current_thread() is threading.main_thread()

    @seeded(1)
    async def body():
        variable.set("in the task")
        result = await to_thread(work, 1, 2, function=3, self=4)
        return result, variable.get()

    result, after = run(body())
    assert result == ("in the task", (1, 2), {"function": 3, "self": 4}, False)
    assert after == "in the task"
    assert inspect.iscoroutinefunction(to_thread)
    kinds = [parameter.kind for parameter in inspect.signature(to_thread).parameters.values()]
    assert kinds == [p.kind for p in inspect.signature(asyncio.to_thread).parameters.values()]


class Stop(BaseException):
    """No Exception."""


@pytest.mark.parametrize("kind", [KeyError, Stop, asyncio.CancelledError])
def test_what_the_function_raises_comes_out_of_the_await(kind, unchanged):
    """What it drew before stays drawn."""

    def work():
        pull()
        raise kind("it")

    @seeded(42)
    async def body():
        with pytest.raises(kind, match="it") as caught:
            await to_thread(work)
        assert caught.traceback[-1].name == "work"
        return pull()

    assert run(body()) == alone(42, 2)[1]


def test_a_function_that_raises_stop_iteration_is_an_error(unchanged):
    """As of a coroutine that raises it: asyncio.to_thread never came back in Python 3.11."""

    @seeded(42)
    async def body():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await to_thread(next, iter(()))
        return pull()

    assert run(body()) == alone(42, 1)[0]


@types.coroutine
def wait_as_a_generator():
    first = pull()
    second = yield from to_thread(pull)
    return [first, second, pull()]


async def wait_as_a_coroutine():
    return [pull(), await to_thread(pull), pull()]


async def wait_as_an_async_generator():
    for _ in range(2):
        yield pull()
        yield await to_thread(pull)


DECORATORS = {
    "seeded": lambda: seeded(42),
    "a scope": lambda: rng_scope(42),
    "a stream": lambda: RNGStream(42),
    "exclusive": lambda: seeded(42, exclusive=True),
}


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("function", [wait_as_a_generator, wait_as_a_coroutine])
def test_every_kind_of_coroutine_lends_its_stream(function, decorator, unchanged):
    """A generator that is awaited is one, too."""
    decorated = DECORATORS[decorator]()(function)

    async def main():
        return await decorated()

    assert run(main()) == alone(42, 3)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_an_async_generator_lends_its_stream(decorator, unchanged):
    """To a thread at one step, back to its consumer at the next."""
    decorated = DECORATORS[decorator]()(wait_as_an_async_generator)

    async def main():
        before = public_states()
        numbers = []
        async for number in decorated():
            assert public_states() == before
            numbers.append(number)
        return numbers

    assert run(main()) == alone(42, 4)


def test_a_stream_goes_on_after_the_thread(unchanged):
    """What a function of a thread has drawn from a stream is gone from it."""
    stream = RNGStream(42)

    @stream
    async def body():
        return await to_thread(pull)

    assert [run(body()), run(body())] == alone(42, 2)
    with stream:
        assert pull() == alone(42, 3)[2]


@pytest.mark.skipif(len(NAMES) < 2, reason="needs two sources")
def test_the_thread_is_in_all_of_the_bodies_that_await_each_other(unchanged):
    """The inner one covers less: the rest is drawn from the outer one."""

    def work():
        return draw("python"), draw(NAMES[-1])

    async def undecorated():
        return await to_thread(work)

    @seeded(2, sources=["python"])
    async def inner():
        return work(), await undecorated(), work()

    @seeded(1)
    async def outer():
        return work(), await inner(), work()

    first, middle, last = run(outer())
    numbers = [first[1], *(pair[1] for pair in middle), last[1]]
    assert numbers == expected(NAMES[-1], 1, 5)
    assert [pair[0] for pair in middle] == expected("python", 2, 3)
    assert [first[0], last[0]] == expected("python", 1, 2)


def test_scopes_that_the_body_has_open_are_taken_up_in_the_thread(unchanged):
    """And put aside with the body; a stream that is open is one of them."""
    stream = RNGStream(3)

    @seeded(1)
    async def body():
        first = pull()
        with rng_scope(2):
            second = [pull(), await to_thread(pull), pull()]
            with stream:
                third = [pull(), await to_thread(draw_twice_from, stream), pull()]
            second.append(await to_thread(pull))
        return first, second, third, pull()

    def draw_twice_from(stream):
        first = pull()
        with stream:
            return first, pull()

    first, second, third, last = run(body())
    assert [first, last] == alone(1, 2)
    assert second == alone(2, 4)
    assert [third[0], *third[1], third[2]] == alone(3, 4)


def test_scopes_and_bodies_of_its_own_work_in_the_thread(unchanged):
    """Decorated functions, generators, and an event loop with threads of its own."""

    @seeded(2)
    def decorated():
        return pull()

    @seeded(3)
    def generate():
        while True:
            yield pull()

    @seeded(4)
    async def nested():
        return [pull(), await to_thread(pull), pull()]

    def work():
        made = generate()
        parts = [pull(), decorated(), next(made), pull(), next(made), asyncio.run(nested())]
        return [*parts, pull()]

    @seeded(1)
    async def body():
        return [*await to_thread(work), pull()]

    found = run(body())
    assert [found[0], found[3], found[6], found[7]] == alone(1, 4)
    assert found[1] == alone(2, 1)[0]
    assert [found[2], found[4]] == alone(3, 2)
    assert found[5] == alone(4, 3)


def test_a_scope_that_the_function_leaves_open_belongs_to_the_body(unchanged):
    """It is put aside and taken up with it."""

    @seeded(1)
    async def body():
        first = pull()
        scope = await to_thread(rng_scope(2).__enter__)
        inner = [pull()]
        await asyncio.sleep(0)
        inner.append(pull())
        scope.__exit__()
        return [first, pull()], inner

    outer, inner = run(body())
    assert (outer, inner) == (alone(1, 2), alone(2, 2))


@pytest.mark.parametrize("around", ["a scope", "a decorated function", "a body"])
def test_what_is_open_around_the_event_loop_is_no_obstacle(around, unchanged):
    """It belongs to the thread that awaits: the function runs above it."""

    @seeded(2)
    async def body():
        return [pull(), await to_thread(pull), pull()]

    def call():
        return [pull(), run(body()), pull()]

    def generate():
        yield call()

    if around == "a scope":
        with rng_scope(1):
            found = call()
    elif around == "a decorated function":
        found = seeded(1)(call)()
    else:
        found = next(seeded(1)(generate)())
    assert found == [alone(1, 1)[0], alone(2, 3), alone(1, 2)[1]]


def test_several_event_loops_take_turns(unchanged):
    """Each in a thread of its own, all with work for further threads."""

    @seeded(seed_from=lambda seed: seed)
    async def answer(seed):
        numbers = [await to_thread(pull)]
        await asyncio.sleep(0)
        return [*numbers, await to_thread(pull), await to_thread(pull)]

    async def serve(seeds):
        return await asyncio.gather(*map(answer, seeds))

    found = {}

    def work(start):
        seeds = range(start, start + 20)
        found.update(zip(seeds, asyncio.run(serve(seeds))))

    run_threads(*[functools.partial(work, 100 * number) for number in range(4)])
    assert found == {seed: alone(seed, 3) for seed in found} and len(found) == 80


# to_thread: the event loop ----------------------------------------------------------------


def test_the_event_loop_goes_on_while_the_function_runs(unchanged):
    """What is not decorated runs; the next step of a decorated body waits, in the loop."""
    go_on, log = threading.Event(), []

    def work():
        first = pull()
        assert go_on.wait(LONG)
        log.append("function")
        return [first, pull()]

    @seeded(1)
    async def body():
        return await to_thread(work)

    @seeded(2)
    async def other():
        log.append("other")
        return [pull(), pull()]

    @seeded(3)
    async def items():
        yield pull()
        log.append("items")
        yield pull()

    async def main():
        made = items()
        numbers = [await anext(made)]
        tasks = [asyncio.create_task(body())]
        await until(lambda: is_lent(tasks))
        tasks += [asyncio.create_task(other()), asyncio.create_task(anext(made))]
        # All are held up by the function, and this is not.
        await until(lambda: len(_turns.claims) == 2)
        log.append("loop")
        go_on.set()
        first, second, third = await asyncio.gather(*tasks)
        await made.aclose()
        return first, second, [*numbers, third]

    assert run(main()) == (alone(1, 2), alone(2, 2), alone(3, 2))
    assert log == ["loop", "function", "other", "items"]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def is_lent(*_):
    """Tell whether a function runs in a thread."""
    return any(isinstance(claim, _loans.Loan) for claim in _turns.granted)


def test_the_function_may_ask_the_event_loop(unchanged):
    """It waits for an undecorated coroutine, which waits for nobody."""

    async def fetch():
        await asyncio.sleep(0)
        return "page"

    @seeded(1)
    async def body():
        loop = asyncio.get_running_loop()
        return [pull(), *await to_thread(work, loop), pull()]

    def work(loop):
        return asyncio.run_coroutine_threadsafe(fetch(), loop).result(LONG), pull()

    first, page, second, third = run(body())
    assert page == "page" and [first, second, third] == alone(1, 3)


def test_a_function_that_waits_for_a_decorated_coroutine_is_told(monkeypatch, unchanged):
    """Each waits for the other: after the limit, the coroutine gets an error, and no hang."""
    monkeypatch.setattr(_claims, "LIMIT", 0.2)

    @seeded(2)
    async def fetch():
        return pull()

    @seeded(1)
    async def body():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError) as caught:
            await to_thread(work, loop)
        return str(caught.value), pull()

    def work(loop):
        return asyncio.run_coroutine_threadsafe(fetch(), loop).result(LONG)

    text, number = run(body())
    assert "locals>.fetch at " in text and "has waited 0.2 seconds for the function" in text
    assert "locals>.work at " in text and "locals>.body at" in text and "exclusive=0.4" in text
    assert number == alone(1, 1)[0]


def test_functions_that_wait_do_not_fill_the_executor(monkeypatch, unchanged):
    """One at a time is given to it, in the order in which they came; each is told at once."""
    monkeypatch.setattr(_claims, "GLANCE", 10 * LONG)
    monkeypatch.setattr(_claims, "GLANCE", 10 * LONG)
    go_on, order = threading.Event(), []

    def work(seed):
        order.append(seed)
        assert go_on.wait(LONG)
        return pull()

    @seeded(seed_from=lambda seed: seed)
    async def body(seed):
        return await to_thread(work, seed)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(2))
        tasks = [asyncio.create_task(body(seed)) for seed in range(9)]
        await until(is_lent)
        await until(lambda: len(_turns.claims) == 8)
        assert await asyncio.to_thread(lambda: "done") == "done"
        go_on.set()
        return await asyncio.gather(*tasks)

    assert run(main()) == [alone(seed, 1)[0] for seed in range(9)]
    assert order == list(range(9))


def test_sources_that_are_not_shared_run_side_by_side(unchanged):
    """Two functions that wait for each other, each in a stream over other sources."""
    both = threading.Barrier(2, timeout=LONG)
    mine = [random.Random(1), random.Random(2)]

    def work(number):
        both.wait()
        return mine[number].random()

    @seeded(seed_from=lambda number, own: number, sources=[], generators=[mine[0]])
    async def first(number, own):
        return await to_thread(work, number)

    @seeded(seed_from=lambda number, own: number, sources=[], generators=[mine[1]])
    async def second(number, own):
        return await to_thread(work, number)

    async def main():
        return await asyncio.gather(first(0, mine[0]), second(1, mine[1]))

    assert run(main()) == [random.Random(0).random(), random.Random(1).random()]


# to_thread: cancelled, closed, refused ----------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancellation_arrives_when_the_function_has_ended(times, unchanged):
    """Nobody else has the stream meanwhile; the body may then draw as it handles it."""
    go_on, ended = threading.Event(), threading.Event()
    log = []

    def work():
        log.append(pull())
        assert go_on.wait(LONG)
        log.append(pull())
        ended.set()

    @seeded(1)
    async def body():
        try:
            await to_thread(work)
        except asyncio.CancelledError:
            assert ended.is_set()
            log.append(pull())
            raise

    async def main():
        before = public_states()
        task = asyncio.create_task(body())
        await until(is_lent)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert public_states() == before

    run(main())
    assert log == alone(1, 3)


def test_a_time_limit_of_asyncio_is_told_when_the_function_has_ended(unchanged):
    """``asyncio.timeout`` counts its cancellation as its own, and the body goes on."""

    @seeded(1)
    async def body():
        try:
            async with asyncio.timeout(0.01):
                await to_thread(lambda: time.sleep(0.05) or pull())
        except TimeoutError:
            return pull()

    assert run(body()) == alone(1, 2)[1]


def test_what_the_function_draws_while_it_waits_for_its_own_end_is_not_limited(
    monkeypatch, unchanged
):
    """A function may take longer than any other may wait."""
    monkeypatch.setattr(_claims, "LIMIT", 0.05)
    go_on = threading.Event()

    @seeded(1)
    async def body():
        with contextlib.suppress(asyncio.CancelledError):
            await to_thread(go_on.wait, LONG)
        return pull()

    async def main():
        task = asyncio.create_task(body())
        await until(is_lent)
        task.cancel()
        await asyncio.sleep(0.2)
        go_on.set()
        return await task

    assert run(main()) == alone(1, 1)[0]


def test_a_function_that_was_cancelled_in_time_never_begins(unchanged):
    """In line behind another one, or in its thread and not yet at its turn."""
    go_on, begun = threading.Event(), []

    @seeded(1)
    async def first():
        return await to_thread(go_on.wait, LONG)

    @seeded(2)
    async def second():
        try:
            await to_thread(begun.append, "second")
        except asyncio.CancelledError:
            return pull()

    async def main():
        one = asyncio.create_task(first())
        await until(is_lent)
        two = asyncio.create_task(second())
        # Held up before its first step: from there it is a task of asyncio that never began.
        await until(lambda: len(_turns.claims) == 1)
        two.cancel()
        with pytest.raises(asyncio.CancelledError):
            await two
        assert not one.done()
        go_on.set()
        assert await one
        # In a thread, which waits for a scope of another one.
        with open_in_a_thread(rng_scope(3)):
            with pytest.warns(RuntimeWarning, match="two threads"):
                two = asyncio.create_task(second())
                await until(lambda: any(claim.is_blocking for claim in _turns.claims))
            two.cancel()
            assert await two == alone(2, 1)[0]

    run(main())
    assert begun == []


def test_a_function_in_line_may_be_cancelled_with_its_stream_as_it_was(unchanged):
    """Both tasks have begun; the second one is in line."""
    go_on, begun = threading.Event(), []

    @seeded(seed_from=lambda seed, act: seed)
    async def body(seed, act):
        first = pull()
        try:
            await to_thread(act)
        except asyncio.CancelledError:
            pass
        return [first, pull()]

    async def main():
        one = asyncio.create_task(body(1, functools.partial(go_on.wait, LONG)))
        two = asyncio.create_task(body(2, functools.partial(begun.append, 2)))
        await until(lambda: is_lent() and len(_turns.claims) == 1)
        two.cancel()
        # Withdrawn at once; to draw while it handles that, the body waits for its turn.
        await until(lambda: not any(isinstance(c, _loans.Loan) for c in _turns.claims))
        assert not two.done()
        go_on.set()
        return await asyncio.gather(one, two)

    assert run(main()) == [alone(1, 2), alone(2, 2)]
    assert begun == []


@pytest.mark.parametrize("kind", ["coroutine", "async generator"])
def test_a_cancellation_arrives_at_the_turn_of_the_body(kind, unchanged):
    """A body that waits for its turn handles it in its own stream."""
    go_on, log = threading.Event(), []

    @seeded(1)
    async def first():
        return await to_thread(go_on.wait, LONG)

    @seeded(2)
    async def coroutine(event):
        log.append(pull())
        try:
            await event.wait()
        except asyncio.CancelledError:
            log.append(pull())
            raise

    @seeded(2)
    async def generate(event):
        log.append(pull())
        try:
            yield
        except asyncio.CancelledError:
            log.append(pull())
            raise

    async def consume(event):
        made = generate(event)
        await anext(made)
        await event.wait()
        await anext(made)

    async def main():
        event = asyncio.Event()
        task = asyncio.create_task((coroutine if kind == "coroutine" else consume)(event))
        await until(lambda: log)
        one = asyncio.create_task(first())
        await until(is_lent)
        event.set()
        await until(lambda: len(_turns.claims) == 1)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await one

    run(main())
    assert log == alone(2, 2)


def test_a_body_that_never_began_is_cancelled_before_it_begins(unchanged):
    """A coroutine, and the first item of an async generator."""
    go_on, log = threading.Event(), []

    @seeded(1)
    async def first():
        return await to_thread(go_on.wait, LONG)

    @seeded(2)
    async def coroutine():
        log.append("begun")

    @seeded(2)
    async def generate():
        log.append("begun")
        yield

    async def main():
        one = asyncio.create_task(first())
        await until(is_lent)
        made = generate()
        tasks = [asyncio.create_task(coroutine()), asyncio.create_task(anext(made))]
        await until(lambda: len(_turns.claims) == 2)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in done] == [asyncio.CancelledError] * 2
        assert _turns.claims == []
        go_on.set()
        await one

    run(main())
    assert log == []


@pytest.mark.parametrize("how", ["undecorated", "in a scope", "gather", "create_task", "shield"])
def test_without_a_stream_it_is_refused(how, unchanged):
    """It would draw from nobody's stream: the error says what to do instead."""
    begun = []

    async def undecorated():
        await to_thread(begun.append, 1)

    async def in_a_scope():
        with rng_scope(1):
            await to_thread(begun.append, 1)

    @seeded(1)
    async def gathered():
        await asyncio.gather(to_thread(begun.append, 1), to_thread(begun.append, 2))

    @seeded(1)
    async def task():
        await asyncio.create_task(to_thread(begun.append, 1))

    @seeded(1)
    async def shielded():
        await asyncio.shield(to_thread(begun.append, 1))

    bodies = {
        "undecorated": undecorated,
        "in a scope": in_a_scope,
        "gather": gathered,
        "create_task": task,
        "shield": shielded,
    }
    with pytest.raises(RuntimeError) as caught:
        run(bodies[how]())
    for part in ("@seeded(...)", "gather", "asyncio.timeout(...)", "asyncio.to_thread", "append"):
        assert part in str(caught.value)
    assert begun == []


def test_a_task_that_is_cancelled_before_it_is_refused_is_only_cancelled(unchanged):
    """Nothing is started for it any more."""

    async def main():
        task = asyncio.create_task(to_thread(pull))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs Python 3.12")
def test_an_eager_task_is_no_part_of_the_body(unchanged):
    """It begins inside the step of the body all the same."""

    @seeded(1)
    async def body():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(to_thread(pull))
        with pytest.raises(RuntimeError, match="there is no stream"):
            await task
        return pull()

    assert run(body()) == alone(1, 1)[0]


def test_without_an_event_loop_it_is_an_error():
    """As ``asyncio.to_thread``."""
    made = to_thread(pull)
    with pytest.raises(RuntimeError, match="no running event loop"):
        made.send(None)


def test_an_executor_that_was_shut_down_is_an_error(unchanged):
    """The stream goes on where it was."""

    @seeded(1)
    async def body():
        executor = concurrent.futures.ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await to_thread(pull)
        return pull()

    assert run(body()) == alone(1, 1)[0]


def test_an_executor_that_is_shut_down_before_the_function_begins_is_an_error(unchanged):
    """Its jobs are cancelled; the coroutine is told."""
    busy, go_on = threading.Event(), threading.Event()

    @seeded(1)
    async def body():
        executor = concurrent.futures.ThreadPoolExecutor(1)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        executor.submit(lambda: (busy.set(), go_on.wait(LONG)))
        loop.call_later(0.05, lambda: executor.shutdown(wait=False, cancel_futures=True))
        loop.call_later(0.1, go_on.set)
        with pytest.raises(RuntimeError, match="executor was shut down"):
            await to_thread(pull)
        return pull()

    assert run(body()) == alone(1, 1)[0]


@overlaps
def test_a_function_that_waits_too_long_for_its_turn_is_an_error(monkeypatch, unchanged):
    """It names the scope; the stream goes on where it was."""

    @seeded(1)
    async def body():
        with pytest.raises(TimeoutError) as caught:
            await to_thread(pull)
        return str(caught.value), pull()

    monkeypatch.setattr(_claims, "LIMIT", 0.1)
    with open_in_a_thread(rng_scope(2), name="holder"):
        text, number = run(body())
    assert "the function pull" in text and "in the scope of" in text and "thread 'holder'" in text
    assert "waits until no other thread has one open" in text
    assert number == alone(1, 1)[0]


def test_the_seconds_of_a_decorator_count_for_its_steps(unchanged):
    """``exclusive=seconds`` is how long each step of the body waits."""
    go_on = threading.Event()

    @seeded(2)
    async def slow():
        await to_thread(go_on.wait, LONG)

    @seeded(1, exclusive=0.1)
    async def body():
        raise AssertionError("it has no turn")

    async def main():
        task = asyncio.create_task(slow())
        await until(is_lent)
        try:
            with pytest.raises(TimeoutError, match="body .*has waited 0.1 seconds for the funct"):
                await body()
        finally:
            go_on.set()
        await task

    run(main())


@overlaps
@pytest.mark.parametrize("seconds", [0.05, 0.1])
def test_the_seconds_of_a_decorator_count_for_its_functions(seconds, unchanged):
    """The longest one, where bodies await each other."""

    @seeded(1, exclusive=0.05)
    async def body():
        with pytest.raises(TimeoutError, match=f"has waited {seconds} seconds for the scope"):
            await to_thread(pull)
        # The other thread's scope has ended now.
        return pull()

    async def main():
        holder = contextlib.ExitStack()
        first = rng_scope(3, sources=[], generators=[random.Random(1)])

        @seeded(2, sources=[], generators=[random.Random(2)], exclusive=seconds)
        async def outer():
            with contextlib.suppress(asyncio.CancelledError):
                return await body()

        with open_in_a_thread(first):
            task = asyncio.create_task(outer())
            loan = None
            # It is held up by what appears just before its thread does.
            with mocked_start(holder):
                loan = await task
        return loan

    @contextlib.contextmanager
    def mocked_start(holder):
        start = _loans.Loan.start

        def open_first(loan):
            holder.enter_context(open_in_a_thread(rng_scope(4)))
            start(loan)

        finish = _loans.Loan.finish

        def close_first(loan, job=None):
            holder.close()
            finish(loan, job)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_loans.Loan, "start", open_first)
            patch.setattr(_loans.Loan, "finish", close_first)
            yield

    assert run(main()) == alone(1, 1)[0]


def test_a_function_in_line_does_not_wait_for_ever(monkeypatch, unchanged):
    """It is told which function it waited for."""
    monkeypatch.setattr(_claims, "LIMIT", 0.5)
    go_on = threading.Event()

    @seeded(seed_from=lambda seed, act: seed)
    async def body(seed, act):
        try:
            return await to_thread(act, LONG)
        except TimeoutError as error:
            return str(error)

    async def main():
        tasks = [asyncio.create_task(body(seed, go_on.wait)) for seed in range(2)]
        await until(lambda: is_lent() and any(map(is_loan, _turns.claims)))
        await until(lambda: not any(map(is_loan, _turns.claims)))
        go_on.set()
        return await asyncio.gather(*tasks)

    def is_loan(claim):
        return isinstance(claim, _loans.Loan)

    first, second = run(main())
    assert first is True
    assert "wait" in second and "by a thread has waited 0.5 seconds for the function" in second


class Failing(random.Random):
    """An RNG that fails in threads, when it is told to."""

    fails = False

    def getstate(self):
        is_main = threading.current_thread() is threading.main_thread()
        if self.fails and not is_main:
            raise OSError("broken")
        return super().getstate()


def test_a_stream_that_cannot_be_taken_up_in_the_thread_is_an_error(unchanged):
    """All that can be put back is put back, and the stream is where it was."""
    own = Failing(5)
    stands = own.getstate()

    @seeded(2, sources=["python"])
    async def inner():
        numbers = [pull()]
        with pytest.raises(OSError, match="broken"):
            await to_thread(pull)
        return [*numbers, pull()]

    @seeded(1, generators=[own])
    async def outer():
        first = pull(), own.random()
        own.fails = True
        numbers = await inner()
        own.fails = False
        return numbers, first, (pull(), own.random())

    numbers, first, last = run(outer())
    assert numbers == alone(2, 2)
    assert [first[0], last[0]] == alone(1, 2)
    twin = random.Random(1)
    assert [first[1], last[1]] == [twin.random(), twin.random()]
    assert own.getstate() == stands


def test_a_stream_that_cannot_be_suspend_in_the_thread_is_an_error(unchanged):
    """The error of the function is in the group, too."""
    own = Failing(5)
    stands = own.getstate()

    def work():
        own.fails = True
        raise KeyError("it")

    @seeded(1, generators=[own])
    async def body():
        try:
            await to_thread(work)
        except BaseExceptionGroup as group:
            return group.exceptions

    errors = run(body())
    assert [type(error) for error in errors] == [KeyError, OSError]
    assert own.getstate() == stands


def test_a_loop_that_is_closed_while_the_function_runs_leaves_nothing_behind(unchanged):
    """The thread puts the streams aside when it ends, and nobody waits for it."""
    go_on, ended = threading.Event(), threading.Event()

    def work():
        assert go_on.wait(LONG)
        pull()
        ended.set()

    @seeded(1)
    async def body():
        await to_thread(work)

    loop = asyncio.new_event_loop()
    executor = concurrent.futures.ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    task = loop.create_task(body())
    loop.run_until_complete(until(is_lent))
    loop.close()
    go_on.set()
    assert ended.wait(LONG)
    executor.shutdown()
    assert _order.lives == [] and _turns.claims == _turns.granted == []
    task._log_destroy_pending = False
    del task
    gc.collect()
    assert _loans.lent == _loans.offers == {}


def test_functions_in_line_of_a_loop_that_was_closed_hold_up_nobody(unchanged):
    """Another loop's functions go on, and so do the steps of its bodies."""
    go_on = threading.Event()

    @seeded(seed_from=lambda seed: seed)
    async def body(seed):
        await to_thread(go_on.wait, LONG)
        return pull()

    @seeded(9)
    async def step():
        return pull()

    loop = asyncio.new_event_loop()
    executor = concurrent.futures.ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    tasks = [loop.create_task(body(seed)) for seed in range(3)]
    loop.run_until_complete(until(lambda: is_lent() and len(_turns.claims) == 2))
    tasks.append(loop.create_task(step()))
    loop.run_until_complete(until(lambda: len(_turns.claims) == 3))
    loop.close()
    go_on.set()
    executor.shutdown()
    wait_until(lambda: not _turns.granted)

    @seeded(4)
    async def later():
        return [pull(), await to_thread(pull)]

    assert asyncio.run(later()) == alone(4, 2)
    for task in tasks:
        task._log_destroy_pending = False
    del task, tasks
    gc.collect()
    assert _loans.lent == _loans.offers == {}


@pytest.mark.parametrize("waits", ["a step", "a function"])
def test_a_loop_that_stands_still_does_not_keep_its_turn(waits, monkeypatch, unchanged):
    """A turn that comes to it is passed on if nobody comes for it."""
    monkeypatch.setattr(_claims, "RESERVED", 0.05)
    monkeypatch.setattr(_claims, "GLANCE", 0.05)
    go_on = threading.Event()

    @seeded(1)
    async def first():
        await to_thread(go_on.wait, LONG)

    @seeded(2)
    async def step():
        return [pull(), pull()]

    @seeded(2)
    async def function():
        return [await to_thread(pull), pull()]

    @seeded(3)
    async def later():
        return [await to_thread(pull), pull()]

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(first())]
    if waits == "a function":
        tasks.append(loop.create_task(function()))
    loop.run_until_complete(until(is_lent))
    if waits == "a step":
        tasks.append(loop.create_task(step()))
    loop.run_until_complete(until(lambda: len(_turns.claims) == 1))
    go_on.set()
    wait_until(lambda: not is_lent())

    # The loop is not running: another one's functions get their turn.
    found = []
    run_threads(lambda: found.append(asyncio.run(later())))
    _, numbers = loop.run_until_complete(asyncio.gather(*tasks))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert (found, numbers) == ([alone(3, 2)], alone(2, 2))


@pytest.mark.parametrize("waiting", [False, True])
def test_a_step_that_came_too_late_waits_again(waiting, monkeypatch, unchanged):
    """Its loop stood still, and an exclusive scope was entered meanwhile."""
    monkeypatch.setattr(_claims, "RESERVED", 0.01)
    go_on = threading.Event()

    @seeded(1)
    async def first():
        await to_thread(go_on.wait, LONG)

    @seeded(2)
    async def step():
        return [pull(), pull()]

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(first())]
    loop.run_until_complete(until(is_lent))
    tasks.append(loop.create_task(step()))
    loop.run_until_complete(until(lambda: len(_turns.claims) == 1))
    go_on.set()
    wait_until(lambda: not is_lent())
    time.sleep(0.05)
    with open_in_a_thread(rng_scope(3, exclusive=True)):
        if waiting:
            # When the scope ends, it is this one's turn as well as the step's.
            other = threading.Thread(target=rng_scope(4)(pull))
            other.start()
            wait_until(lambda: len(_turns.claims) == 1)
        else:
            loop.run_until_complete(until(lambda: len(_turns.claims) == 2))
    _, numbers = loop.run_until_complete(asyncio.gather(*tasks))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert numbers == alone(2, 2)
    if waiting:
        other.join(LONG)


def test_a_body_that_is_closed_while_the_function_runs_waits_for_it(unchanged):
    """Its clean-up draws from its stream, which nobody else has then."""
    go_on, log = threading.Event(), []

    def work():
        log.append(pull())
        assert go_on.wait(LONG)
        log.append(pull())

    @seeded(1)
    async def body():
        try:
            await to_thread(work)
        finally:
            log.append(pull())

    async def main():
        made = body()
        # Driven by hand, as a library does that has tasks of its own.
        future = made.send(None)
        await until(is_lent)
        asyncio.get_running_loop().call_later(0, future.cancel)
        timer = threading.Timer(0.05, go_on.set)
        timer.start()
        made.close()
        timer.join()

    run(main())
    assert log == alone(1, 3)


def test_a_body_that_is_closed_by_its_own_function_is_an_error(unchanged):
    """It would wait for itself."""
    log = []

    @seeded(1)
    async def body():
        await to_thread(work)

    def work():
        with pytest.raises(RuntimeError, match="cannot go on within the function") as caught:
            made[0].close()
        log.append(str(caught.value))
        return pull()

    async def main():
        made.append(body())
        made[0].send(None)
        await until(lambda: log)

    made = []
    run(main())
    assert "its stream is in use" in log[0]


def test_a_body_outside_of_a_task_waits_where_it_stands(unchanged):
    """trio's and curio's tasks, and coroutines that are driven by hand."""

    @seeded(2)
    async def body():
        return [pull(), pull()]

    with open_in_a_thread(rng_scope(1, exclusive=True)):
        log = []

        def drive():
            try:
                body().send(None)
            except StopIteration as end:
                log.append(end.value)

        thread = threading.Thread(target=drive)
        thread.start()
        wait_until(lambda: any(claim.is_blocking for claim in _turns.claims))
        assert log == []
    thread.join(LONG)
    assert log == [alone(2, 2)]


@needs_fork
def test_a_child_forked_by_the_function_goes_on_in_its_stream(unchanged):
    """``random`` is fresh there, as in every child."""

    def work():
        pull()
        return in_child(lambda: len(_order.lives))

    @seeded(1)
    async def body():
        return await to_thread(work), pull()

    assert run(body()) == (1, alone(1, 2)[1])


@needs_fork
def test_a_child_forked_while_a_function_runs_does_not_wait_for_it(unchanged):
    """Its thread is not there: scopes and bodies of the child have their turn at once."""
    go_on = threading.Event()

    @seeded(1)
    async def body():
        try:
            await to_thread(go_on.wait, LONG)
        finally:
            log.append("closed")

    @seeded(2)
    async def other():
        return pull()

    log = []

    async def main():
        made = body()
        made.send(None)
        await until(is_lent)
        with pytest.raises(asyncio.InvalidStateError):
            asyncio.current_task().result()

        def act():
            with rng_scope(2, exclusive=1.0):
                numbers = [pull()]
            try:
                other().send(None)
            except StopIteration as end:
                numbers.append(end.value)
            made.close()
            return numbers, log, len(_turns.granted)

        found = in_child(act)
        go_on.set()
        await until(lambda: not is_lent())
        made.close()
        return found

    numbers, closed, left = run(main())
    assert numbers == [alone(2, 1)[0]] * 2
    assert (closed, left) == (["closed"], 0)


# exclusive=True ---------------------------------------------------------------------------


def under_a_block(seed, name):
    with rng_scope(seed, exclusive=True):
        return [draw(name) for _ in range(3)]


def under_a_decorator(seed, name):
    @seeded(seed, exclusive=True)
    def function():
        return [draw(name) for _ in range(3)]

    return function()


def under_a_scope_that_decorates(seed, name):
    @rng_scope(seed, exclusive=5.0)
    def function():
        return [draw(name) for _ in range(3)]

    return function()


def under_seed_from(seed, name):
    @seeded(seed_from=lambda seed: seed, exclusive=True)
    def function(seed):
        return [draw(name) for _ in range(3)]

    return function(seed)


def under_a_generator(seed, name):
    @seeded(seed, exclusive=True)
    def generate():
        for _ in range(3):
            yield draw(name)

    return list(generate())


def under_a_coroutine(seed, name):
    @seeded(seed, exclusive=True)
    async def wait():
        numbers = []
        for _ in range(3):
            numbers.append(draw(name))
            await asyncio.sleep(0)
        return numbers

    return asyncio.run(wait())


def under_an_async_generator(seed, name):
    @seeded(seed, exclusive=True)
    async def generate():
        for _ in range(3):
            yield draw(name)

    async def consume():
        return [number async for number in generate()]

    return asyncio.run(consume())


def under_a_stream(seed, name):
    stream = RNGStream(seed, exclusive=True)
    numbers = []
    for _ in range(3):
        with stream:
            numbers.append(draw(name))
    return numbers


def under_a_decorating_stream(seed, name):
    stream = RNGStream(seed, exclusive=True)
    return [stream(draw)(name) for _ in range(3)]


WAYS = [
    under_a_block,
    under_a_decorator,
    under_a_scope_that_decorates,
    under_seed_from,
    under_a_generator,
    under_a_coroutine,
    under_an_async_generator,
    under_a_stream,
    under_a_decorating_stream,
]


@pytest.mark.parametrize("way", WAYS)
def test_threads_that_take_turns_draw_what_each_draws_alone(way, unchanged):
    """Without a lock of the program's own; and nobody is warned."""
    name = NAMES[-1]
    want = {seed: expected(name, seed, 3) for seed in range(8)}
    found = []

    def work(seed):
        for _ in range(10):
            found.append((seed, way(seed, name)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_threads(*[functools.partial(work, seed) for seed in range(8)])
    finally:
        sys.setswitchinterval(interval)
    assert [pair for pair in found if pair[1] != want[pair[0]]] == []
    assert len(found) == 80


@pytest.mark.parametrize("exclusive", ["the first", "the second", "both"])
def test_an_exclusive_scope_waits_and_keeps_others_out(exclusive, unchanged):
    """Whichever of two is exclusive, the second begins when the first has ended."""
    log = []

    def work():
        with rng_scope(2, exclusive=exclusive != "the first"):
            log.append("second")
            assert pull() == alone(2, 1)[0]

    with open_in_a_thread(rng_scope(1, exclusive=exclusive != "the second")):
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: _turns.claims)
        log.append("first ends")
    thread.join(LONG)
    assert log == ["first ends", "second"]


def test_an_exclusive_scope_is_reentrant(unchanged):
    """Scopes of the same thread, exclusive or not, nest as ever."""

    @seeded(2, exclusive=True)
    def recurse(depth):
        return [pull(), *(recurse(depth - 1) if depth else ()), pull()]

    stream = RNGStream(4, exclusive=True)
    with rng_scope(1, exclusive=True):
        first = pull()
        with rng_scope(3):
            assert recurse(2) == [*[alone(2, 1)[0]] * 3, *[alone(2, 2)[1]] * 3]
            with stream, stream:
                assert pull() == alone(4, 1)[0]
        assert [first, pull()] == alone(1, 2)
    with rng_scope(5):
        with rng_scope(6, exclusive=True):
            assert pull() == alone(6, 1)[0]
        assert pull() == alone(5, 1)[0]


def test_steps_of_exclusive_bodies_alternate(unchanged):
    """A body that is suspended keeps nobody out, not even with an exclusive block in it."""

    @seeded(1, exclusive=True)
    def body():
        yield pull()
        with rng_scope(2, exclusive=True):
            yield pull()
        yield pull()

    made = body()
    found = []
    for _ in range(3):
        found.append(next(made))
        with open_in_a_thread(rng_scope(3, exclusive=True)):
            pass
    made.close()
    assert found == [alone(1, 1)[0], alone(2, 1)[0], alone(1, 2)[1]]


def test_an_exclusive_coroutine_waits_without_holding_up_the_event_loop(unchanged):
    """For a scope of another thread; what is not decorated goes on."""

    @seeded(1, exclusive=True)
    async def body():
        return [pull(), pull()]

    @seeded(2)
    async def with_a_block():
        numbers = [pull()]
        with rng_scope(3, exclusive=True):
            await until(lambda: entered)
            numbers.append(pull())
        return numbers

    entered = []

    async def main():
        made = asyncio.create_task(with_a_block())
        await asyncio.sleep(0)
        with open_in_a_thread(rng_scope(4, exclusive=True)):
            entered.append(True)
            task = asyncio.create_task(body())
            # The steps of both wait.
            await until(lambda: len(_turns.claims) == 2)
        return await task, await made

    assert run(main()) == (alone(1, 2), [alone(2, 1)[0], alone(3, 1)[0]])


@pytest.mark.parametrize("kind", ["a block", "a stream", "a generator"])
def test_the_wait_ends_with_an_error_that_names_the_other_scope(kind, unchanged):
    """Where it was opened, and by which thread; nothing has been touched."""
    stream = RNGStream(2, exclusive=0.05)

    @seeded(2, exclusive=0.05)
    def generate():
        yield pull()

    def enter():
        if kind == "a block":
            with rng_scope(2, exclusive=0.05):
                pass
        elif kind == "a stream":
            with stream:
                pass
        else:
            next(generate())

    with open_in_a_thread(rng_scope(1), name="holder"):
        before = public_states()
        with pytest.raises(TimeoutError) as caught:
            enter()
        assert public_states() == before
        assert len(_order.lives) == 1
    text = str(caught.value)
    mine = "locals>.generate at" if kind == "a generator" else os.path.basename(__file__)
    for part in (mine, "has waited 0.05 seconds", "with scope:", "'holder'", "exclusive=0.1"):
        assert part in text
    assert "MainThread" in text and "because an exclusive scope waits" in text
    with stream:
        assert pull() == alone(2, 1)[0]


def test_who_is_kept_out_waits_for_five_minutes(monkeypatch, unchanged):
    """That is the constant; here it is less."""
    assert _claims.LIMIT == 300
    monkeypatch.setattr(_claims, "LIMIT", 0.05)
    with open_in_a_thread(rng_scope(1, exclusive=True), name="holder"):
        with pytest.raises(TimeoutError, match="'holder' to end, which keeps other threads out"):
            with rng_scope(2):
                pass
        # An exclusive scope without a number waits as long.
        with pytest.raises(TimeoutError, match="has waited 0.05 seconds"):
            with rng_scope(2, exclusive=True):
                pass


def test_who_sees_others_take_turns_goes_on_waiting(monkeypatch, unchanged):
    """The limit is for one and the same scope; a number of one's own is for all of them."""
    monkeypatch.setattr(_claims, "LIMIT", 0.5)
    entered = [threading.Event() for _ in range(4)]
    times = []

    def hold(number):
        with rng_scope(number, exclusive=True):
            entered[number].set()
            time.sleep(0.3)

    def wait(exclusive):
        start = time.monotonic()
        try:
            with rng_scope(9, exclusive=exclusive):
                pass
        except TimeoutError as error:
            times.append((exclusive, "too long", str(error)))
        else:
            times.append((exclusive, time.monotonic() - start > 0.6))

    def work():
        threads = [threading.Thread(target=hold, args=[0])]
        threads[0].start()
        assert entered[0].wait(LONG)
        for number in (1, 2, 3):
            threads.append(threading.Thread(target=hold, args=[number]))
            threads[-1].start()
            wait_until(lambda: len(_turns.claims) >= number)
        threads += [threading.Thread(target=wait, args=[seconds]) for seconds in (True, 0.4)]
        for thread in threads[-2:]:
            thread.start()
        for thread in threads:
            thread.join(LONG)

    work()
    assert (True, True) in times
    assert [entry[:2] for entry in times if entry[0] == 0.4] == [(0.4, "too long")]


def test_two_threads_that_wait_for_each_other_are_told_at_once(unchanged):
    """Each has a scope open and wants an exclusive one: one gets an error, the other its turn."""
    both = threading.Barrier(2, timeout=LONG)
    log = []

    def work(seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with rng_scope(seed):
                    both.wait()
                    with rng_scope(seed + 10, exclusive=True):
                        log.append(pull() == alone(seed + 10, 1)[0])
            except RuntimeError as error:
                log.append(str(error))

    start = time.monotonic()
    run_threads(functools.partial(work, 1), functools.partial(work, 2))
    assert time.monotonic() - start < LONG
    told = [entry for entry in log if entry is not True]
    assert len(log) == 2 and len(told) == 1
    assert told[0].startswith("deadlock: ") and "Enter the exclusive scope first" in told[0]


@overlaps
def test_a_ring_of_three_threads_is_told_as_well(unchanged):
    """Each waits for the next one's scope, over sources that only the two share."""
    own = [random.Random(number) for number in range(3)]
    all_in = threading.Barrier(3, timeout=LONG)
    log = []

    def work(number):
        following = own[(number + 1) % 3]
        try:
            with rng_scope(1, sources=[], generators=[own[number]]):
                all_in.wait()
                with rng_scope(2, sources=[], generators=[following], exclusive=True):
                    log.append(True)
        except RuntimeError as error:
            log.append(str(error))

    run_threads(*[functools.partial(work, number) for number in range(3)])
    assert log.count(True) == 2 and len(log) == 3
    assert sum("deadlock" in str(entry) for entry in log) == 1


def test_scopes_that_share_nothing_do_not_wait(unchanged):
    """Over other sources, other generators, or other devices."""
    mine, yours = random.Random(1), random.Random(2)
    with open_in_a_thread(rng_scope(1, sources=["python"], exclusive=True)):
        with rng_scope(2, sources=["numpy"], exclusive=True):
            pass
        with rng_scope(2, sources=[], generators=[mine]):
            with open_in_a_thread(rng_scope(3, sources=[], generators=[yours], exclusive=0.5)):
                pass
        with pytest.raises(TimeoutError):
            with rng_scope(4, sources=["torch", "python"], exclusive=0.01):
                pass
    with open_in_a_thread(rng_scope(1, sources=["cuda"], devices=[0, 2], exclusive=True)):
        with rng_scope(2, sources=["cuda", "python"], devices=[1], exclusive=0.5):
            pass
        with pytest.raises(TimeoutError):
            with rng_scope(2, sources=["cuda"], devices=[1, 2], exclusive=0.01):
                pass


@pytest.mark.parametrize("exclusive", ["yes", None, [1], 1j])
@pytest.mark.parametrize("make", [rng_scope, seeded, RNGStream])
def test_an_argument_of_another_type_is_refused(make, exclusive):
    """With the value and what it may be."""
    with pytest.raises(TypeError, match="exclusive must be True, False or the seconds") as caught:
        make(1, exclusive=exclusive)
    assert repr(exclusive) in str(caught.value)


@pytest.mark.parametrize("exclusive", [0, 0.0, -1, float("nan")])
def test_a_number_that_is_no_time_is_refused(exclusive):
    """Zero as well: to say no is to say False."""
    with pytest.raises(ValueError, match=f"positive number of seconds, not {exclusive!r}"):
        rng_scope(1, exclusive=exclusive)


def test_to_wait_for_ever_is_a_number_of_seconds(unchanged):
    """``float("inf")``."""
    with open_in_a_thread(rng_scope(1, exclusive=float("inf"))):
        thread = threading.Thread(target=rng_scope(2, exclusive=float("inf"))(pull))
        thread.start()
        wait_until(lambda: _turns.claims)
    thread.join(LONG)
    assert not thread.is_alive()


def test_a_thread_that_ended_with_its_scope_open_is_named(unchanged):
    """Nobody else can end it but its owner, who has the object."""
    scope = rng_scope(1, exclusive=True)
    thread = threading.Thread(target=scope.__enter__)
    thread.start()
    thread.join(LONG)
    # Another thread may have got the number of the one that ended.
    scope._life.thread = -1
    with pytest.raises(TimeoutError, match=r"thread '-1 \(ended\)'"):
        with rng_scope(2, exclusive=0.05):
            pass
    scope.__exit__()
    with rng_scope(2, exclusive=0.05):
        assert pull() == alone(2, 1)[0]


@needs_fork
@pytest.mark.parametrize("whose", ["its own", "another thread's"])
def test_a_forked_child_has_its_turn(whose, unchanged):
    """A scope of another thread is forgotten there; its own one it has inherited."""

    def act():
        with rng_scope(2, exclusive=1.0):
            return pull(), _turns.claims + _turns.granted

    waiting = threading.Thread(target=lambda: rng_scope(3, exclusive=True)(pull)())
    if whose == "its own":
        with rng_scope(1, exclusive=True):
            waiting.start()
            wait_until(lambda: _turns.claims)
            found = in_child(act)
    else:
        with open_in_a_thread(rng_scope(1, exclusive=True)):
            waiting.start()
            wait_until(lambda: _turns.claims)
            found = in_child(act)
    waiting.join(LONG)
    assert found == (alone(2, 1)[0], [])


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.parametrize("kind", ["a block", "a stream"])
def test_an_interrupt_ends_the_wait_and_leaves_nothing_behind(kind, unchanged):
    """No place in line, no lock, no scope that counts as open."""

    def interrupt(signum, frame):
        raise Interrupt

    stream = RNGStream(2, exclusive=True)
    scope = rng_scope(2, exclusive=True) if kind == "a block" else stream
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_in_a_thread(rng_scope(1)):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupt):
                with scope:
                    pass
            assert _turns.claims == _turns.granted == []
            assert len(_order.lives) == 1
            assert not _order.lock._is_owned()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with scope:
        assert pull() == alone(2, 1)[0]


STORM = """
import random, signal, sys, threading, warnings
from by_hand import cache_gaussians, load_libraries, public_states
from rngscope import _order, _turns, rng_scope

warnings.simplefilter("error")
load_libraries()

class Interrupt(BaseException):
    pass

place = None

def interrupt(signum, frame):
    global place
    place = frame
    raise Interrupt

def work():
    while True:
        with rng_scope(1, exclusive=True):
            random.random()

def others():
    while not stop.is_set():
        with rng_scope(2, exclusive=True):
            random.random()

for _ in range(5):
    with rng_scope(1, exclusive=True), rng_scope(2):
        pass
stop = threading.Event()
threads = [threading.Thread(target=others) for _ in range(2)]
signal.signal(signal.SIGALRM, interrupt)
choose = random.Random(7)
sys.setswitchinterval(1e-4)
for thread in threads:
    thread.start()
unexplained = []
me = threading.get_ident()
for _ in range(int(sys.argv[1])):
    try:
        signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-4, 5e-3))
        work()
    except Interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
    with _order.lock:
        left = [life for life in _order.lives if life.thread == me]
        mine = [c for c in _turns.claims + _turns.granted if c.thread == me]
        if left or mine:
            unexplained.append(f"{place.f_code.co_name}, line {place.f_lineno}: {left} {mine}")
    for life in left:
        life.leave()
stop.set()
for thread in threads:
    # They are held up by nothing.
    thread.join(60)
    assert not thread.is_alive()
assert _order.lives == _turns.claims == _turns.granted == []
assert not _order.lock._is_owned()
print(unexplained)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_storm_of_interrupts_leaves_no_turn_behind():
    """In scopes that wait for two other threads, and are waited for: no lock stays."""
    # Coverage has a lock of its own, which an interrupt may leave locked.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", STORM, "400"],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=os.path.dirname(__file__),
        env=environment,
    )
    assert (done.stderr, done.stdout) == ("", "[]\n")


def test_a_scope_in_the_middle_of_another_ones_entry_does_not_wait(unchanged):
    """Of a finalizer or a signal handler: it would wait for its own thread."""
    found = []

    class Reentrant(random.Random):
        is_busy = False

        def getstate(self):
            if not self.is_busy:
                self.is_busy = True
                with rng_scope(3, exclusive=True):
                    found.append(pull())
                with RNGStream(4, exclusive=True):
                    found.append(pull())
            return super().getstate()

    mine = Reentrant(1)
    with open_in_a_thread(rng_scope(1, sources=["python"])):
        with rng_scope(2, sources=[], generators=[mine]):
            pass
        assert found == [alone(3, 1)[0], alone(4, 1)[0]]
        assert _turns.claims == _turns.granted == []


def test_a_turn_that_is_given_up_is_passed_on_at_once(unchanged):
    """Nobody looks by itself in the meantime."""
    with _order.lock:
        first, second = (_claims.Claim(None, SOURCES, True) for _ in range(2))
        second.thread = -1
        assert first.take() and not second.take()
    first.drop()
    assert _turns.granted == [second] and not second.bell.locked()
    second.drop()


def test_a_late_error_of_the_entry_gives_the_turn_back(unchanged):
    """The scope had waited for it; then an RNG could not be saved."""
    own = Failing(1)
    own.fails = True
    errors = []

    def work():
        try:
            with rng_scope(2, generators=[own], exclusive=True):
                pass
        except OSError as error:
            errors.append(error)

    with open_in_a_thread(rng_scope(1)):
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: _turns.claims)
    thread.join(LONG)
    assert len(errors) == 1 and _turns.claims == _turns.granted == []


def test_a_copy_that_came_from_another_process_is_exclusive_too(monkeypatch, unchanged):
    """Nobody has checked its arguments here; what it is made of is enough."""
    written = pickle.dumps(rng_scope(1, exclusive=0.05))
    monkeypatch.setattr(_turns, "_has_exclusive_scopes", False)
    monkeypatch.setattr(_turns, "looks_closely", False)
    copy = pickle.loads(written)
    with open_in_a_thread(rng_scope(2)):
        with pytest.raises(TimeoutError, match="has waited 0.05 seconds"):
            with copy:
                pass


FRESH = """
import sys, threading
from rngscope import RNGStream, _turns, rng_scope, seeded

def refuse(*args):
    raise AssertionError("a scope has asked for its turn")

_turns.needed_before = _turns.pass_turns = refuse
stream = RNGStream(1)

@seeded(1)
def generate():
    yield 1

@seeded(1)
async def wait():
    return 1

for _ in range(3):
    with rng_scope(1), rng_scope(2), stream, stream:
        list(generate())
        try:
            wait().send(None)
        except StopIteration:
            pass
    thread = threading.Thread(target=lambda: rng_scope(3).__enter__().__exit__())
    thread.start()
    thread.join()
assert not _turns.looks_closely
assert "asyncio" not in sys.modules
"""


def test_a_process_without_exclusive_scopes_asks_nothing():
    """Law: a scope of one thread alone compares two numbers and looks at two flags."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The warning of overlapping threads -------------------------------------------------------


def test_two_threads_that_overlap_are_named_once(unchanged):
    """Where each scope was opened, which thread has it, and what to do."""
    with open_in_a_thread(rng_scope(1), name="the other"):
        with pytest.warns(RuntimeWarning) as caught:
            with rng_scope(2):
                pass
        with rng_scope(3):
            pass
        open_another = functools.partial(open_in_a_thread, rng_scope(4))
        with open_another():
            pass
    assert len(caught) == 1 and caught[0].filename == __file__
    text = str(caught[0].message)
    for part in (
        "two threads have scopes open at the same time",
        "(with rng_scope(2):) by thread 'MainThread'",
        "(with scope:) by thread 'the other'",
        "exclusive=True",
        "rngscope.to_thread",
        "only one thread",
        "processes",
        "once in a process",
    ):
        assert part in text


def enter_a_block():
    with rng_scope(2):
        pass


def enter_a_stream():
    with RNGStream(2):
        pass


def call_a_function():
    seeded(2)(lambda: None)()


def step_a_generator():
    @seeded(2)
    def generate():
        yield

    made = generate()
    try:
        next(made)
    finally:
        made.close()


def step_a_coroutine():
    @seeded(2)
    async def wait():
        pass

    asyncio.run(wait())


@pytest.mark.parametrize(
    "act", [enter_a_block, enter_a_stream, call_a_function, step_a_generator, step_a_coroutine]
)
def test_as_an_error_the_warning_leaves_everything_as_it_was(act, unchanged):
    """And the next overlap raises again: nobody has been told yet."""
    with open_in_a_thread(rng_scope(1)):
        before = public_states()
        for _ in range(2):
            with pytest.raises(RuntimeWarning, match="two threads"):
                act()
            assert public_states() == before and len(_order.lives) == 1


def test_threads_that_share_no_source_are_not_warned(unchanged):
    """Until they do: a third scope is looked at, too."""
    with open_in_a_thread(rng_scope(1, sources=["torch"])):
        with rng_scope(2, sources=["python"]):
            with rng_scope(3, sources=["python", "numpy"]):
                pass
            with pytest.raises(RuntimeWarning, match="two threads"):
                with rng_scope(4, sources=["numpy", "torch"]):
                    pass
            with pytest.raises(RuntimeWarning, match="two threads"):
                with RNGStream(4, sources=["torch"]):
                    pass


def test_steps_that_do_not_overlap_are_not_warned(unchanged):
    """Bodies of two threads that are suspended between their steps."""

    @seeded(1)
    def body():
        while True:
            yield pull()

    mine = body()
    found = [next(mine)]

    def work():
        yours = body()
        with rng_scope(2):
            assert [next(yours), next(yours)] == alone(1, 2)
        found.append(next(mine))

    run_threads(work)
    found.append(next(mine))
    assert found == alone(1, 3)


@overlaps
def test_to_look_closely_ends_with_the_reason_for_it(unchanged, monkeypatch):
    """After scopes that shared nothing, or after the warning, entries are cheap again."""
    monkeypatch.setattr(_turns, "_has_exclusive_scopes", False)
    monkeypatch.setattr(_turns, "looks_closely", False)
    with open_in_a_thread(rng_scope(1, sources=["torch"])):
        with rng_scope(2, sources=["python"]):
            assert _turns.looks_closely
    assert _turns.looks_closely
    with rng_scope(2):
        assert not _turns.looks_closely
    with open_in_a_thread(rng_scope(1, sources=["torch"])):
        with rng_scope(2, sources=["python"]):
            assert _turns.looks_closely
            with rng_scope(3):
                assert _turns._has_warned
            with rng_scope(3):
                assert not _turns.looks_closely


@needs_fork
def test_a_forked_child_is_warned_of_its_own_threads(unchanged):
    """Once, as every process."""

    def act():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                with open_in_a_thread(rng_scope(1)), rng_scope(2):
                    pass
        return [str(warning.message)[:11] for warning in caught]

    with pytest.warns(RuntimeWarning, match="two threads"):
        with open_in_a_thread(rng_scope(1)), rng_scope(2):
            pass
    assert in_child(act) == ["two threads"]


def test_a_task_that_hands_work_to_a_thread_is_given_the_time_to_suspend(unchanged):
    """``asyncio.to_thread`` starts the thread while the step of the body still runs."""
    begun = threading.Event()

    def work():
        begun.set()
        with rng_scope(2):
            return pull()

    @seeded(1)
    async def body():
        first = pull()
        waiting = asyncio.get_running_loop().run_in_executor(None, work)
        assert begun.wait(LONG)
        time.sleep(0.01)
        return [first, await waiting, pull()]

    first, second, third = run(body())
    assert [first, third] == alone(1, 2) and second == alone(2, 1)[0]


def test_a_task_that_does_not_suspend_overlaps(unchanged):
    """It waits for the thread, which does not wait for ever."""

    @seeded(1)
    async def body():
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(enter_a_block).result(LONG)

    with pytest.raises(RuntimeWarning, match="task 'Task-"):
        run(body())


def test_a_scope_in_the_middle_of_another_ones_entry_is_not_warned(unchanged):
    """No foreign code runs under the lock."""
    found = []

    class Reentrant(random.Random):
        is_busy = False

        def getstate(self):
            if not self.is_busy:
                self.is_busy = True
                with rng_scope(3):
                    found.append(pull())
            return super().getstate()

    with open_in_a_thread(rng_scope(1, sources=["python"])):
        with rng_scope(2, sources=[], generators=[Reentrant(1)]):
            pass
    assert found == alone(3, 1)


def test_a_task_of_many_steps_gets_no_more_time_than_one_of_one(unchanged):
    """Its steps may overlap the scope of a thread one after the other."""
    mine = life_of(rng_scope(2))
    with open_in_a_thread(rng_scope(1)):
        with _order.lock:
            first = _turns.needed_before(mine, None)
            time.sleep(0.002)
            second = _turns.needed_before(mine, first)
            third = _turns.needed_before(mine, None)
    assert first is not second
    assert first.patient_until == second.patient_until < third.patient_until


def test_a_scope_around_a_test_or_program_belongs_to_no_thread(unchanged):
    """Threads inside of it neither overlap it nor wait for it."""
    with LifeOfProcess(Plan(SOURCES, 1)):
        first = pull()
        run_threads(lambda: rng_scope(2)(pull)(), lambda: rng_scope(3, exclusive=0.5)(pull)())

        @seeded(4)
        async def body():
            return [pull(), await to_thread(pull)]

        found = []
        run_threads(lambda: found.append(asyncio.run(body())))
        assert found == [alone(4, 2)]
        assert [first, pull()] == alone(1, 2)


def test_a_program_under_rngscope_run_may_have_exclusive_threads(tmp_path):
    """Its own scope, around everything, is not in their way; nobody is warned."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import asyncio, random, threading
            from rngscope import rng_scope, seeded, to_thread

            def work():
                with rng_scope(1, exclusive=5.0):
                    print(random.random())

            @seeded(1)
            async def body():
                return await to_thread(random.random)

            for target in (work, rng_scope(2)(random.random)):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
            print(asyncio.run(body()))
            """
        )
    )
    command = [sys.executable, "-W", "error", "-m", "rngscope", "run", "--seed", "7", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    first = random.Random(1).random()
    assert (done.returncode, done.stdout) == (0, f"{first}\n{first}\n")
    assert "Warning" not in done.stderr


def test_a_seeded_test_may_have_threads_and_servers(tmp_path):
    """Under --rng-seed and the marker, with fixtures that are wider, and under Hypothesis."""
    pytest.importorskip("hypothesis")
    suite = tmp_path / "test_it.py"
    suite.write_text(
        textwrap.dedent(
            """
            import asyncio, random, threading
            import pytest
            from hypothesis import given, settings, strategies as st
            from rngscope import rng_scope, seeded, to_thread

            @seeded(1)
            async def body():
                return await to_thread(random.random)

            def check():
                found = []

                def work():
                    with rng_scope(1):
                        found.append(random.random())
                    with rng_scope(1, exclusive=5.0):
                        found.append(random.random())
                    found.append(asyncio.run(body()))

                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
                assert found + [asyncio.run(body())] == [random.Random(1).random()] * 4

            check()

            @pytest.fixture(scope="module")
            def wide():
                check()

            def test_seeded(wide):
                check()

            @pytest.mark.rng_seed(3)
            def test_marked():
                check()

            @pytest.mark.rng_seed(3, exclusive=5.0)
            def test_exclusive():
                errors = []

                def work():
                    try:
                        with rng_scope(1, exclusive=0.01):
                            pass
                    except TimeoutError as error:
                        errors.append(str(error))

                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
                assert "test_exclusive at" in errors[0]

            @settings(max_examples=3, database=None, deadline=None)
            @given(st.integers())
            def test_property(number):
                check()
            """
        )
    )
    flags = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "error::RuntimeWarning"]
    for more in ([], ["--rng-seed=7"], ["--rng-seed=7", "--rng-leaks=error"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *flags, *more, str(suite)],
            capture_output=True,
            text=True,
            timeout=LONG,
            cwd=tmp_path,
        )
        assert "4 passed" in done.stdout, done.stdout
