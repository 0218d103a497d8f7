"""What used to be silent or without a way out: one test for each claim."""

import asyncio
import contextlib
import functools
import random

import pytest
from by_hand import expected

from rngscope import RNGStream, assert_rng_unchanged, rng_scope, seeded

# @seeded above @contextmanager ------------------------------------------------------------

DECORATORS = {
    "seeded": seeded(42),
    "seed_from": seeded(seed_from=lambda *_: 42),
    "rng_scope": rng_scope(42),
    "RNGStream": RNGStream(42),
    "assert_rng_unchanged": assert_rng_unchanged(),
}


@contextlib.contextmanager
def block(*_):
    yield random.random()


@contextlib.asynccontextmanager
async def async_block(*_):
    yield random.random()


class Owner:
    """Context managers that are methods."""

    @contextlib.contextmanager
    def block(self):
        yield random.random()

    @staticmethod
    @contextlib.contextmanager
    def static():
        yield random.random()


MADE = {
    "contextmanager": block,
    "asynccontextmanager": async_block,
    "method": Owner.block,
    "bound method": Owner().block,
    "staticmethod": vars(Owner)["static"],
    "classmethod": classmethod(block),
    "partial": functools.partial(functools.partial(block, 1), 2),
    "partialmethod": functools.partialmethod(block, 1),
}


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("made", MADE)
def test_a_decorator_above_contextmanager_is_a_type_error_that_shows_the_order(decorator, made):
    """Only making the context manager would be seeded, never its block, and nobody would know."""
    with pytest.raises(TypeError, match="write @contextmanager above @seeded") as caught:
        DECORATORS[decorator](MADE[made])
    assert "\n" not in str(caught.value)


def test_below_contextmanager_set_up_and_tear_down_are_seeded(unchanged):
    """The order that the error shows does what it says."""
    log = []

    @contextlib.contextmanager
    @seeded(42)
    def right():
        log.append(random.random())
        yield
        log.append(random.random())

    @contextlib.asynccontextmanager
    @seeded(42)
    async def right_too():
        log.append(random.random())
        yield
        log.append(random.random())

    async def use():
        async with right_too():
            pass

    with right():
        pass
    asyncio.run(use())
    own = random.Random(42)
    assert log == [own.random(), own.random()] * 2


def test_what_wraps_a_generator_function_and_runs_it_can_be_decorated(unchanged):
    """A function of another kind than the one that it wraps is nothing unusual."""

    def listed(function):
        @functools.wraps(function)
        def helper(*args):
            return list(function(*args))

        return helper

    def used(function):
        @functools.wraps(function)
        def helper():
            with function() as number:
                return number

        return helper

    @seeded(42)
    @listed
    def numbers(count):
        for _ in range(count):
            yield random.random()

    own = random.Random(42)
    assert numbers(2) == [own.random(), own.random()]
    assert seeded(42)(used(block))() == random.Random(42).random()


def test_a_context_manager_in_a_test_class_is_left_as_it_is(unchanged):
    """It is no test, whatever its name begins with, and must not keep the class from its seed."""

    @seeded(42)
    class TestDraws:
        @contextlib.contextmanager
        def tested_block(self):
            yield random.random()

        def test_draw(self):
            with self.tested_block() as number:
                return number

    assert TestDraws().test_draw() == random.Random(42).random() != expected("python", 1)[0][0]
    with pytest.raises(TypeError, match="has no methods named test"):
        seeded(42)(type("C", (), {"test_block": block}))
