"""What used to be silent or without a way out: one test for each claim."""

import asyncio
import contextlib
import functools
import os
import random
import subprocess
import sys
import textwrap
import time
import unittest.mock
import warnings
from pathlib import Path

import pytest
from by_hand import NAMES, expected

import rngscope
from rngscope import (
    RNGState,
    RNGStream,
    assert_rng_unchanged,
    derive_seed,
    rng_scope,
    seeded,
)
from rngscope._life import Life
from rngscope._origin import describe
from rngscope._plan import Plan

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


def test_an_object_with_every_attribute_can_be_decorated_and_described(unchanged):
    """A Mock has a func, which has a func, and so on: only partials are looked into."""
    called = unittest.mock.Mock(return_value=3)
    assert seeded(42)(called)(1) == 3
    called.assert_called_once_with(1)
    scope = Life(Plan((), 1), functools.partial(called))
    scope.enter()
    scope.leave()
    assert describe(scope).startswith("the scope of <Mock")


# What was named and never came ------------------------------------------------------------


def in_process(text, *options):
    """Run a program in which nothing is imported yet; return status and standard error."""
    path = [str(Path(rngscope.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(text)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path))),
        stderr=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    return result.returncode, result.stderr


PRELUDE = """
    import asyncio, random, sys, warnings
    from rngscope import *

    def told(function, *args):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(*args)
        assert all(w.category is RuntimeWarning for w in caught), caught
        # The line of the program, or of the event loop that runs it.
        files = [w.filename for w in caught]
        assert all(file == "<string>" or "asyncio" in file for file in files), files
        return [str(w.message) for w in caught]

    def use(scope):
        with scope:
            random.random()
"""


def check(text):
    """Run checks in a process of their own, after the prelude."""
    status, errors = in_process(textwrap.dedent(PRELUDE) + textwrap.dedent(text))
    assert status == 0, errors


@pytest.mark.parametrize(
    "make",
    [
        "use(rng_scope(1, sources=['torch']))",
        "use(rng_scope(sources=('python', 'torch')))",
        "use(rng_scope(1, sources=['torch'], devices=[], generators=[random.Random(1)]))",
        "use(RNGStream(1, sources={'torch': 1}))",
        "seeded(1, sources=['torch'])(random.random)()",
        "seeded(seed_from=lambda: 1, sources=['torch'])(random.random)()",
        "rng_scope(1, sources=['torch'])(random.random)()",
        "list(seeded(1, sources=['torch'])(body)())",
        "asyncio.run(seeded(1, sources=['torch'])(coroutine)())",
        "asyncio.run(run_through(seeded(1, sources=['torch'])(async_body)()))",
    ],
)
def test_a_named_source_whose_library_never_came_is_one_warning_at_the_end(make):
    """It names the source and the library; once a process, with the line of the program."""
    check(f"""
        def body():
            yield 1
            yield 2

        async def coroutine():
            await asyncio.sleep(0)

        async def async_body():
            yield 1
            await asyncio.sleep(0)
            yield 2

        async def run_through(items):
            async for item in items:
                pass

        warnings.filterwarnings("ignore", category=DeprecationWarning)
        messages = told(lambda: {make})
        assert len(messages) == 1, messages
        assert "sources names 'torch', but torch was not imported" in messages[0], messages
        assert told(lambda: {make}) == []
        assert "torch" not in sys.modules
    """)


def test_each_name_is_told_once():
    """Names of one library come together, in one message; each only the first time."""
    check("""
        assert "'numpy', but numpy" in told(use, rng_scope(1, sources=["numpy"]))[0]
        names = ["cuda", "torch", "python"]
        (message,) = told(use, rng_scope(1, sources=names))
        assert "sources names 'cuda', 'torch', but torch was not" in message, message
        assert told(use, rng_scope(1, sources=names)) == []
        (message,) = told(use, rng_scope(1, sources=["mps", "cuda"]))
        assert "sources names 'mps', but" in message
    """)


def test_deterministic_without_torch_is_one_warning_at_the_end():
    """Its switches are torch's."""
    check("""
        (message,) = told(use, rng_scope(1, deterministic=True))
        assert message.startswith("deterministic=True changed nothing"), message
        assert "torch was not imported" in message
        assert told(use, rng_scope(1, deterministic=True)) == []
    """)


def test_what_was_not_named_is_no_warning():
    """By default a scope covers what there is, and so it does with other options."""
    check("""
        for options in ({}, {"devices": []}, {"generators": [random.Random(1)]}):
            assert told(use, rng_scope(1, **options)) == []
        assert told(use, rng_scope(1, sources=["python"])) == []
        assert told(use, rng_scope(1, sources=[])) == []
        assert told(use, rng_scope(RNGState.capture())) == []
        assert told(seed_all, 1) == []
    """)


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
def test_a_library_imported_before_or_inside_is_no_warning():
    """Also where its import comes late in a body that suspends, or it has no RNG yet."""
    check("""
        def late():
            yield 1
            import numpy
            yield 2

        assert told(lambda: list(seeded(1, sources=["numpy"])(late)())) == []
        for name in ("numpy.random", "numpy"):
            # NumPy 2 imports it at the first use, which would have been covered.
            sys.modules.pop("numpy.random", None)
            assert told(use, rng_scope(1, sources=["numpy"])) == []
    """)


def test_a_block_that_raises_has_a_trouble_of_its_own():
    """A block that fails since torch is missing needs no warning that it is."""
    check("""
        def fail():
            try:
                with rng_scope(1, sources=["torch"], deterministic=True):
                    raise ImportError
            except ImportError:
                pass

        assert told(fail) == []
        assert len(told(use, rng_scope(1, sources=["torch"], deterministic=True))) == 2
    """)


def test_the_warning_comes_after_everything_is_back():
    """Under -W error it comes out of the block, each time."""
    check("""
        warnings.simplefilter("error")
        for _ in range(2):
            random.seed(5)
            try:
                use(rng_scope(1, sources=["python", "torch"]))
            except RuntimeWarning:
                assert random.random() == random.Random(5).random()
            else:
                raise AssertionError
        with rng_scope(1):
            assert random.random() == random.Random(1).random()
    """)


def test_seed_all_and_capture_tell_at_once_what_is_missing():
    """What is imported later is not reached, and not in the state."""
    check("""
        (message,) = told(lambda: seed_all(1, sources=["python", "torch"]))
        assert "sources names 'torch', but torch is not imported" in message
        assert random.random() == random.Random(1).random()
        (message,) = told(lambda: RNGState.capture(sources=["numpy", "python"]))
        assert "sources names 'numpy', but numpy is not imported" in message
        assert told(lambda: seed_all(1, sources=["python", "torch"])) == []
        with assert_rng_unchanged(sources=["cuda"]):
            pass
    """)


# Seeds of fewer bits ----------------------------------------------------------------------

PINNED = derive_seed(42, "dropout", 1)


def test_a_derived_seed_of_fewer_bits_is_the_low_bits_of_the_whole_one():
    """So it is as stable, and torch's CPU generator draws the same from both."""
    assert PINNED == 18403225292349084604
    assert derive_seed(42, "dropout", 1, bits=64) == PINNED
    assert derive_seed(42, "dropout", 1, bits=63) == 9179853255494308796
    assert derive_seed(42, "dropout", 1, bits=32) == 536056764
    assert derive_seed(42, bits=1) in (0, 1)
    for bits in range(1, 65):
        assert derive_seed(42, "dropout", 1, bits=bits) == PINNED % 2**bits
    # Of a seed that exists already, such as rank_seed's or item_seed's.
    assert 0 <= derive_seed(2**64 - 1, bits=32) < 2**32


def test_bits_are_no_part_of_the_path():
    """They are given by name, so that a path of numbers stays one."""
    assert derive_seed(42, 32) != derive_seed(42, bits=32) % 2**32
    assert len({derive_seed(42, i, bits=32) for i in range(1000)}) == 1000


class Index:
    def __index__(self):
        return 32


def test_bits_may_be_anything_with_an_index():
    """As a seed may."""
    assert derive_seed(42, bits=Index()) == derive_seed(42, bits=32)


def test_libraries_take_a_seed_of_fewer_bits():
    """They refuse, or cut off, what does not fit."""
    numpy = pytest.importorskip("numpy")
    whole = max(derive_seed(seed) for seed in range(10))
    assert whole >= 2**63
    with pytest.raises(ValueError):
        numpy.random.RandomState(whole)
    for seed in range(10):
        numpy.random.RandomState(derive_seed(seed, bits=32))
        assert numpy.array([derive_seed(seed, bits=63)], dtype=numpy.int64)[0] >= 0


def test_sklearn_takes_a_seed_of_32_bits():
    """Its random_state is checked against 32 bits."""
    pytest.importorskip("sklearn")
    from sklearn.model_selection import ShuffleSplit

    rows = [[0]] * 6
    seed = derive_seed(42, "split", bits=32)
    split = next(ShuffleSplit(1, random_state=seed).split(rows))[0].tolist()
    assert split == next(ShuffleSplit(1, random_state=seed).split(rows))[0].tolist()
    with pytest.raises(ValueError):
        next(ShuffleSplit(1, random_state=2**32 + seed).split(rows))


def test_torch_draws_the_same_from_the_low_32_bits():
    """Its CPU generator reads only these, as the documentation says."""
    torch = pytest.importorskip("torch")
    low = derive_seed(42, "dropout", 1, bits=32)
    draws = [
        torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in (PINNED, low)
    ]
    assert draws[0] == draws[1]


# Two generators of one's own --------------------------------------------------------------


def own_generators():
    """Return kind -> a function that makes one, for the libraries that are there."""
    makers = {"random.Random": lambda: random.Random(1)}
    if "numpy" in NAMES:
        import numpy

        makers["numpy.random.Generator"] = lambda: numpy.random.default_rng(1)
        makers["numpy.random.Generator of Philox"] = lambda: numpy.random.Generator(
            numpy.random.Philox(1)
        )
        makers["numpy.random.RandomState"] = lambda: numpy.random.RandomState(1)
    if "torch" in NAMES:
        import torch

        makers["torch.Generator"] = lambda: torch.Generator().manual_seed(1)
    return makers


OWN = own_generators()
ALIKE = "generators[0] and generators[1] draw the same numbers"


TAKES_GENERATORS = {
    "rng_scope": lambda seed, **options: rng_scope(seed, **options),
    "seeded": lambda seed, **options: seeded(seed, **options),
    "RNGStream": lambda seed, **options: RNGStream(seed, **options),
    "seed_from": lambda seed, **options: seeded(seed_from=lambda: seed, **options)(time.time)(),
}


def warned(function):
    """Return the messages of RuntimeWarnings, after checking that this file is to blame."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    assert all(w.category is RuntimeWarning for w in caught), caught
    assert all(w.filename == __file__ for w in caught), caught
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("name", TAKES_GENERATORS)
@pytest.mark.parametrize("kind", OWN)
def test_two_generators_of_one_kind_are_a_warning_unless_independent(name, kind, unchanged):
    """They draw the same numbers, which nobody wants; the remedy is named."""
    take = TAKES_GENERATORS[name]
    two = [OWN[kind](), OWN[kind]()]
    (message,) = warned(lambda: take(42, generators=two))
    assert message.startswith(ALIKE) and "independent=True" in message
    assert warned(lambda: take(42, generators=two, independent=True)) == []
    assert warned(lambda: take(42, generators=two[:1])) == []
    # The same object twice is one RNG.
    assert warned(lambda: take(42, generators=[two[0], two[0]])) == []
    others = [OWN[kind](), OWN[kind](), OWN[kind]()]
    (message,) = warned(lambda: take(42, generators=others))
    assert message.startswith("generators[0], generators[1] and generators[2] draw the same")


@pytest.mark.parametrize("kind", OWN)
def test_what_the_warning_says_is_so(kind, unchanged):
    """And what it advises helps."""
    two = [OWN[kind](), OWN[kind]()]
    with pytest.warns(RuntimeWarning, match="draw the same"), rng_scope(42, generators=two):
        assert bytes_of(two[0]) == bytes_of(two[1])
    with rng_scope(42, generators=two, independent=True):
        assert bytes_of(two[0]) != bytes_of(two[1])


@pytest.mark.parametrize("seed", [42, 2**32 + 42])
@pytest.mark.parametrize("one", OWN)
@pytest.mark.parametrize("two", OWN)
def test_generators_of_two_kinds_are_a_warning_exactly_if_they_draw_alike(one, two, seed):
    """RandomState and torch.Generator below 2**32; RandomState and random.Random above."""
    generators = [OWN[one](), OWN[two]()]
    messages = warned(lambda: rng_scope(seed, generators=generators))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rng_scope(seed, generators=generators):
            are_alike = bytes_of(generators[0]) == bytes_of(generators[1])
    assert [message[: len(ALIKE)] for message in messages] == [ALIKE] * are_alike


def bytes_of(generator):
    """Return the low bytes of the first 32-bit words, whatever the library."""
    if hasattr(generator, "manual_seed"):
        import torch

        # Of a range of 2**28 or more, torch takes two words for a number.
        return torch.randint(0, 256, (8,), generator=generator).tolist()
    if isinstance(generator, random.Random):
        return [generator.getrandbits(32) % 256 for _ in range(8)]
    draw = generator.randint if hasattr(generator, "randint") else generator.integers
    return [word % 256 for word in draw(0, 2**32, 8, dtype="uint32").tolist()]


def test_where_no_seed_is_there_is_no_warning(unchanged):
    """Generators that are preserved, or go on from a state, keep what tells them apart."""
    two = [random.Random(1), random.Random(2)]
    state = RNGState.capture(generators=two)
    assert warned(lambda: rng_scope(generators=two)) == []
    assert warned(lambda: rng_scope(state, generators=two)) == []
    assert warned(seeded(seed_from=lambda: None, generators=two)(time.time)) == []
    assert warned(seeded(seed_from=lambda: state, generators=two)(time.time)) == []


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
def test_two_generators_over_one_bit_generator_are_one(unchanged):
    """They take turns in one stream, so they cannot draw the same."""
    import numpy

    shared = numpy.random.PCG64(1)
    two = [numpy.random.Generator(shared), numpy.random.Generator(shared)]
    assert warned(lambda: rng_scope(42, generators=two)) == []
    other = numpy.random.RandomState(numpy.random.PCG64(1))
    (message,) = warned(lambda: rng_scope(2**40, generators=[*two, other]))
    assert message.startswith("generators[0] and generators[2] draw the same")


def test_any_integer_warns_once(unchanged):
    """Also one that is no int."""
    two = [random.Random(1), random.Random(2)]
    assert len(warned(lambda: rng_scope(Index(), generators=two))) == 1
    assert len(warned(lambda: RNGStream(Index(), generators=two))) == 1
