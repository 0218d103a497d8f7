"""Law 5: scopes may be left in any order; once all are closed the outer state is back."""

import asyncio
import itertools
import queue
import random
import threading
import warnings

import pytest
from by_hand import NAMES, draw, generator, public_states
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from rngscope import RNGState, RNGStream, _order, rng_scope, seeded
from rngscope._origin import describe


class Pile:
    """What law 5 says, without any library: the topmost scope that covers a source draws.

    A scope is (its sources, source -> generator of its stream).
    """

    def __init__(self):
        self.outer = {name: outer_generator(name) for name in NAMES}
        self.open = []

    def enter(self, key, sources, streams):
        self.open.append((key, sources, streams))

    def leave(self, key):
        """Take one out; tell which scope is crossed, if any."""
        place = [key for key, *_ in self.open].index(key)
        _, sources, _ = self.open.pop(place)
        for upper, others, _ in self.open[place:]:
            if set(sources) & set(others):
                return upper
        return None

    def top(self, name):
        for _, sources, streams in reversed(self.open):
            if name in sources:
                return streams[name]
        return self.outer[name]


def outer_generator(name):
    """Return a generator that goes on as the global one does now."""
    own = generator(name, 0)
    copy_state(name, None, own)
    return own


def copy_state(name, source, target):
    """Copy the state of one generator to another; None is the global one."""
    if name == "python":
        target.setstate((source or random).getstate())
    elif name == "numpy":
        import numpy

        target.set_state((source or numpy.random).get_state())
    else:
        import torch

        target.set_state((source or torch.default_generator).get_state())


def check_draws(pile):
    for name in NAMES:
        assert draw(name) == draw(name, pile.top(name))


def leave(scope, by=lambda act: act()):
    """Leave a scope; return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by(lambda: scope.__exit__(None, None, None))
    return caught


class Threads:
    """Threads that do one thing at a time, as they are told."""

    def __init__(self, count):
        self.queues = [(queue.SimpleQueue(), queue.SimpleQueue()) for _ in range(count)]
        self.threads = [
            threading.Thread(target=self.work, args=pair, name=f"worker {i}", daemon=True)
            for i, pair in enumerate(self.queues)
        ]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def work(orders, results):
        for act in iter(orders.get, None):
            try:
                results.put((act(), None))
            except BaseException as error:
                results.put((None, error))

    def __getitem__(self, index):
        orders, results = self.queues[index]

        def by(act):
            orders.put(act)
            result, error = results.get(timeout=60)
            if error is not None:
                raise error
            return result

        return by

    def stop(self):
        for (orders, _), thread in zip(self.queues, self.threads):
            orders.put(None)
            thread.join()


@pytest.fixture
def threads():
    made = Threads(4)
    yield made
    made.stop()


# All orders -------------------------------------------------------------------------------

ORDERS = list(itertools.permutations(range(4)))
SUBSETS = [NAMES, NAMES[:1], NAMES[-1:], NAMES[:2]]


def check_order(subsets, order, by):
    """Enter scopes over these sources, leave them in this order, draw all the while."""
    pile = Pile()
    before = list(_order.lives)
    scopes = {}
    for index, sources in enumerate(subsets):
        scopes[index] = scope = rng_scope(index, sources=sources)
        by[index](scope.__enter__)
        streams = {name: generator(name, index) for name in sources}
        pile.enter(index, sources, streams)
        check_draws(pile)
    for index in order:
        caught = leave(scopes[index], by[index])
        assert len(caught) == (pile.leave(index) is not None)
        check_draws(pile)
    assert _order.lives == before


HERE = [lambda act: act()] * 4


@pytest.mark.parametrize("count", [2, 3, 4])
def test_scopes_over_all_sources_may_be_left_in_any_order(count, path, unchanged):
    """Every draw comes from the topmost open scope, and the outer state is back."""
    with rng_scope():
        for order in itertools.permutations(range(count)):
            check_order([NAMES] * count, order, HERE)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_scopes_over_different_sources_may_be_left_in_any_order(count, unchanged):
    """Source by source: the next scope above that covers a source gets what was found."""
    subsets = list(itertools.product(SUBSETS, repeat=count))
    orders = list(itertools.permutations(range(count)))
    chosen = random.Random(1).sample(list(itertools.product(subsets, orders)), k=32 * (count - 1))
    with rng_scope():
        for subset, order in chosen:
            check_order(subset, order, HERE)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_scopes_of_four_threads_may_be_left_in_any_order(order, threads, unchanged):
    """Each is entered and left in a thread of its own."""
    with rng_scope():
        check_order(SUBSETS, order, threads)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_scopes_of_four_tasks_may_be_left_in_any_order(order, unchanged):
    """Each is entered and left in a task of its own, which waits inside."""

    async def work(orders):
        while (act := await orders.get()) is not None:
            act()

    async def main():
        queues = [asyncio.Queue() for _ in range(4)]
        tasks = [asyncio.create_task(work(queues[i]), name=f"task {i}") for i in range(4)]
        pile = Pile()
        scopes = [rng_scope(index, sources=SUBSETS[index]) for index in range(4)]
        for index, scope in enumerate(scopes):
            queues[index].put_nowait(scope.__enter__)
            await asyncio.sleep(0)
            streams = {name: generator(name, index) for name in SUBSETS[index]}
            pile.enter(index, SUBSETS[index], streams)
            check_draws(pile)
        for index in order:
            caught = []
            queues[index].put_nowait(lambda: caught.extend(leave(scopes[index])))
            await asyncio.sleep(0)
            crossed = pile.leave(index)
            assert len(caught) == (crossed is not None)
            for warning in caught:
                assert f"by task 'task {index}' was left" in str(warning.message)
                assert f"by task 'task {crossed}'" in str(warning.message)
            check_draws(pile)
        for orders in queues:
            orders.put_nowait(None)
        await asyncio.gather(*tasks)

    with rng_scope():
        asyncio.run(main())


# The warning ------------------------------------------------------------------------------


def test_the_warning_names_both_scopes_with_line_and_thread(threads, unchanged):
    """Exactly one RuntimeWarning: who was left, who was open, where, by whom."""
    scopes = []

    def open_first():
        with rng_scope(1) as scope:
            scopes.append(scope)
            go_on.wait(60)

    def open_second():
        scopes.append(rng_scope(2).__enter__())

    go_on = threading.Event()
    first = threading.Thread(target=open_first, name="the first")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first.start()
        while not scopes:
            pass
        threads[1](open_second)
        go_on.set()
        first.join()
        threads[1](lambda: scopes[1].__exit__(None, None, None))
    # That they are open at the same time is another one.
    (warning,) = [each for each in caught if "was left" in str(each.message)]
    message = str(warning.message)
    assert warning.category is RuntimeWarning
    lines = [open_first.__code__.co_firstlineno + 1, open_second.__code__.co_firstlineno + 1]
    one = f"{__file__}:{lines[0]} (with rng_scope(1) as scope:) by thread 'the first'"
    two = f"{__file__}:{lines[1]} (scopes.append(rng_scope(2).__enter__())) by thread 'worker 1'"
    assert message.startswith(f"the scope opened at {one} was left while another one was still")
    assert two in message and "decorate the function with @seeded(...)" in message
    # It points to the block that was left, in the program.
    assert (warning.filename, warning.lineno) == (__file__, lines[0])


@pytest.mark.parametrize("opens", [rng_scope, RNGStream])
def test_an_undecorated_coroutine_that_waits_in_a_scope_warns(opens, unchanged):
    """When another scope opens meanwhile and stays: the warning names both tasks."""

    async def request(seed, delay):
        with opens(seed):
            await asyncio.sleep(delay)

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(request(1, 0.01), name="one")
            group.create_task(request(2, 0.02), name="two")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
    (warning,) = caught
    message = str(warning.message)
    line = f"{__file__}:{request.__code__.co_firstlineno + 1} (with opens(seed):)"
    assert f"{line} by task 'one' was left" in message and f"{line} by task 'two'" in message
    assert "@seeded(...)" in message and warning.filename == __file__


def test_tasks_whose_scopes_nest_do_not_warn(unchanged):
    """A scope around tasks that have scopes of their own is in order."""

    async def work(seed):
        with rng_scope(seed):
            draw("python")

    async def main():
        with rng_scope(1):
            await asyncio.gather(work(2), work(3))

    asyncio.run(main())


def test_scopes_that_share_no_source_do_not_warn(unchanged):
    """Their order does not matter to anybody."""
    if len(NAMES) > 1:
        with rng_scope():
            check_order([NAMES[:1], NAMES[1:2]], (0, 1), HERE)


def test_the_warning_as_an_error_still_restores(unchanged):
    """Under ``-W error`` the exit raises after everything is put back."""
    one, two = rng_scope(1), rng_scope(2)
    one.__enter__()
    two.__enter__()
    with pytest.raises(RuntimeWarning, match="was left while another one"):
        one.__exit__(None, None, None)
    two.__exit__(None, None, None)


def test_a_scope_that_was_taken_up_names_the_line_that_opened_it(unchanged):
    """A scope inside a decorated body is still known by its own line after a suspension."""
    held = []

    @seeded(42)
    def body():
        held.append(rng_scope(1).__enter__())
        yield
        held.append(rng_scope(2).__enter__())
        yield

    made = body()
    next(made)
    next(made)
    line = body.__wrapped__.__code__.co_firstlineno
    for index, scope in enumerate(held):
        assert f"{__file__}:{line + 2 + 2 * index} (held.append(" in describe(scope._life)
    for scope in reversed(held):
        scope.__exit__(None, None, None)
    made.close()


def test_a_stream_left_early_leaves_the_scope_above_in_place(unchanged):
    """The scope that was opened inside goes on with its own stream."""
    stream, scope = RNGStream(1), rng_scope(2)
    stream.__enter__()
    scope.__enter__()
    own = generator("python", 2)
    assert draw("python") == draw("python", own)
    assert len(leave(stream)) == 1
    assert draw("python") == draw("python", own)
    scope.__exit__(None, None, None)
    with stream:
        assert draw("python") == draw("python", generator("python", 1))


# Any program ------------------------------------------------------------------------------

indices = st.integers(0, 3)
names = st.sampled_from(NAMES)
subsets = st.sampled_from(SUBSETS)


class Program(RuleBasedStateMachine):
    """Open, close, draw, capture, restore and resume in any order, on four threads."""

    def __init__(self):
        super().__init__()
        self.guard = rng_scope()
        self.guard.__enter__()
        self.pile = Pile()
        self.threads = Threads(4)
        self.scopes = []
        self.states = []
        self.bodies = []
        self.streams = [
            (RNGStream(seed), {name: generator(name, seed) for name in NAMES}) for seed in (8, 9)
        ]
        self.uses = []

    def pick(self, items, index):
        return items[index % len(items)] if items else None

    @rule(thread=indices, seed=st.integers(0, 3), sources=subsets)
    def open(self, thread, seed, sources):
        if len(self.pile.open) < 6:
            scope = rng_scope(seed, sources=sources)
            self.threads[thread](scope.__enter__)
            self.pile.enter(scope, sources, {name: generator(name, seed) for name in sources})
            self.scopes.append(scope)

    @rule(thread=indices, sources=subsets)
    def preserve(self, thread, sources):
        if len(self.pile.open) < 6:
            scope = rng_scope(sources=sources)
            streams = {name: generator(name, 0) for name in sources}
            for name in sources:
                copy_state(name, self.pile.top(name), streams[name])
            self.threads[thread](scope.__enter__)
            self.pile.enter(scope, sources, streams)
            self.scopes.append(scope)

    @rule(thread=indices, index=indices)
    def close(self, thread, index):
        scope = self.pick(self.scopes, index)
        if scope is not None:
            self.scopes.remove(scope)
            caught = leave(scope, self.threads[thread])
            assert len(caught) == (self.pile.leave(scope) is not None)

    @rule(thread=indices, index=indices)
    def enter_stream(self, thread, index):
        if len(self.pile.open) < 6:
            stream, streams = self.pick(self.streams, index)
            self.threads[thread](stream.__enter__)
            use = (stream, thread, object())
            self.uses.append(use)
            self.pile.enter(use, NAMES, streams)

    @rule(index=indices)
    def leave_stream(self, index):
        use = self.pick(self.uses, index)
        if use is not None:
            stream, thread, _ = use
            # Of several uses, the latest of this thread ends.
            use = [u for u in self.uses if u[:2] == (stream, thread)][-1]
            self.uses.remove(use)
            caught = leave(stream, self.threads[thread])
            assert len(caught) == (self.pile.leave(use) is not None)

    @rule(seed=indices)
    def begin_body(self, seed):
        if len(self.bodies) < 3:

            @seeded(seed)
            def body():
                drawn = None
                while True:
                    name = yield drawn
                    drawn = draw(name)

            made = body()
            next(made)
            self.bodies.append((made, {name: generator(name, seed) for name in NAMES}))

    @rule(thread=indices, index=indices, name=names)
    def resume_body(self, thread, index, name):
        if self.bodies:
            made, streams = self.pick(self.bodies, index)
            drawn = self.threads[thread](lambda: made.send(name))
            assert drawn == draw(name, streams[name])

    @rule(thread=indices, index=indices)
    def close_body(self, thread, index):
        if self.bodies:
            made, _ = self.bodies.pop(index % len(self.bodies))
            self.threads[thread](made.close)

    @rule(thread=indices, name=names)
    def draw(self, thread, name):
        drawn = self.threads[thread](lambda: draw(name))
        assert drawn == draw(name, self.pile.top(name))

    @rule(sources=subsets)
    def capture(self, sources):
        copies = {name: generator(name, 0) for name in sources}
        for name in sources:
            copy_state(name, self.pile.top(name), copies[name])
        self.states.append((RNGState.capture(sources=sources), copies))

    @rule(thread=indices, index=indices)
    def restore(self, thread, index):
        if self.states:
            state, copies = self.pick(self.states, index)
            self.threads[thread](state.restore)
            for name, copy in copies.items():
                copy_state(name, copy, self.pile.top(name))

    def teardown(self):
        try:
            while self.scopes or self.uses:
                self.close(0, 0)
                self.leave_stream(0)
            for made, _ in self.bodies:
                made.close()
            assert _order.lives[-1] is self.guard._life
            check_draws(self.pile)
        finally:
            leave(self.guard)
            self.threads.stop()


Program.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")
def test_any_program_of_scopes_ends_in_the_outer_state(unchanged):
    """Whatever is opened, closed, drawn, captured and restored on whichever thread."""
    before = public_states()
    Program.TestCase("runTest").runTest()
    assert public_states() == before
