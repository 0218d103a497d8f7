"""What used to be silent or without a way out: one test for each claim."""

import asyncio
import contextlib
import functools
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from by_hand import NAMES, expected

import rngscope
from rngscope import RNGStream, assert_rng_unchanged, derive_seed, rng_scope, seeded

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
