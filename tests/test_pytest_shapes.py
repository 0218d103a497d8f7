"""``@seeded`` in the shapes that pytest, its plugins and Hypothesis give to functions."""

import importlib.util
import os
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from by_hand import NAMES, draw, expected, public_states

from rngscope import RNGStream, rng_scope, seeded

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def run_suite(path, suite, *options):
    """Run pytest on a file of its own in a process of its own; return its output."""
    (path / "test_suite.py").write_text(textwrap.dedent(suite))
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    if has("pytest_asyncio"):
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [*command, "-p", "no:benchmark", *options],
        cwd=path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def has(plugin):
    return importlib.util.find_spec(plugin) is not None


def needs(plugin):
    return pytest.mark.skipif(not has(plugin), reason=f"needs {plugin}")


RANDOMLY = [pytest.param(["-p", "no:randomly"], id="without randomly")]
if has("pytest_randomly"):
    RANDOMLY += [pytest.param([], id="with randomly")]
each_way = pytest.mark.parametrize("options", RANDOMLY)

SUITE = """
import random
import unittest

import pytest
from hypothesis import given, settings, strategies as st
from rngscope import rng_scope, seeded

def numbers(seed, count=2):
    own = random.Random(seed)
    return [own.random() for _ in range(count)]

ONE, TWO = numbers(42)
log = []

# Fixtures

@pytest.fixture
@seeded(42)
def plain():
    return random.random()

@pytest.fixture
@seeded(42)
def yielding():
    yield random.random()
    assert random.random() == TWO
    log.append("torn down")

@pytest.fixture(scope="module", params=[1, 2])
@seeded(seed_from=lambda request: request.param)
def with_a_parameter(request):
    yield request.param, random.random()
    assert random.random() == numbers(request.param)[1]

@pytest.fixture
def before():
    return random.getstate()

@pytest.fixture
def plain_and_yielding(before, plain, yielding):
    "Set up after the others: they have not moved anything."
    assert random.getstate() == before
    return plain, yielding

def test_plain_and_yielding(plain_and_yielding):
    assert plain_and_yielding == (ONE, ONE) and random.random() not in (ONE, TWO)

def test_with_a_parameter(with_a_parameter):
    seed, number = with_a_parameter
    assert number == numbers(seed)[0] and random.random() not in numbers(seed)

class TestMethods:
    @pytest.fixture
    @seeded(42)
    def method(self):
        return self, random.random()

    def test_method(self, method):
        assert isinstance(method[0], TestMethods) and method[1] == ONE

# Tests

@seeded(42)
def test_function():
    assert random.random() == ONE

@seeded(42)
@pytest.mark.parametrize("number", [1, 2])
def test_above_parametrize(number, plain):
    assert number in (1, 2) and plain == ONE and random.random() == ONE

@pytest.mark.parametrize("number", [1, 2])
@seeded(seed_from=lambda number, **_: number)
def test_below_parametrize(number, tmp_path):
    assert random.random() == numbers(number)[0]

@seeded(42)
@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_marks_survive():
    assert random.random() == ONE
    1 / 0

@seeded(42)
class TestClass:
    @pytest.mark.parametrize("number", [1, 2])
    def test_in_a_class(self, number, plain):
        assert number in (1, 2) and plain == ONE and random.random() == ONE

@seeded(42)
class TestCase(unittest.TestCase):
    def test_in_a_case(self):
        self.assertEqual(random.random(), ONE)

# Hypothesis

examples = {}

@seeded(42)
@given(number=st.integers())
def test_above_given(number):
    assert random.random() == ONE
    examples.setdefault("above", []).append(number)

@given(number=st.integers())
@seeded(seed_from=lambda number: number % 2**64)
def test_below_given(number):
    assert random.random() == numbers(number % 2**64)[0]
    examples.setdefault("below", []).append(number)

@seeded(seed_from=lambda number: number % 2**64)
@settings(max_examples=7, database=None)
@given(number=st.integers())
def test_above_settings(number):
    assert random.random() == numbers(number % 2**64)[0]

@settings(max_examples=7, database=None)
@seeded(42)
@given(st.integers())
def test_between_settings_and_given(number):
    assert random.random() == ONE

@given(st.integers())
@settings(max_examples=7, database=None)
@seeded(42)
def test_below_settings(number):
    assert random.random() == ONE

@seeded(42)
@pytest.mark.parametrize("letter", "ab")
@given(number=st.integers())
def test_above_parametrize_and_given(letter, number):
    assert letter in "ab" and random.random() == ONE

class TestGivenMethods:
    @seeded(seed_from=lambda self, number: self.seed)
    @given(number=st.integers())
    def test_method(self, number):
        assert random.random() == ONE

    seed = 42

def test_many_examples_ran():
    for numbers in examples.values():
        assert len(set(numbers)) > 10
"""

ASYNC_SUITE = """
import asyncio
import random

import pytest
import pytest_asyncio
from hypothesis import given, settings, strategies as st
from rngscope import seeded

own = random.Random(42)
ONE, TWO = own.random(), own.random()

@pytest_asyncio.fixture
@seeded(42)
async def plain():
    await asyncio.sleep(0)
    return random.random()

@pytest_asyncio.fixture
@seeded(42)
async def yielding():
    await asyncio.sleep(0)
    yield random.random()
    await asyncio.sleep(0)
    assert random.random() == TWO

@pytest.fixture
def before():
    return random.getstate()

@pytest.fixture
def both(before, plain, yielding):
    assert random.getstate() == before
    return plain, yielding

@pytest.mark.asyncio
async def test_fixtures(both):
    assert both == (ONE, ONE) and random.random() not in (ONE, TWO)

@pytest.mark.asyncio
@seeded(42)
async def test_below_the_mark(plain):
    assert random.random() == ONE
    await asyncio.sleep(0)
    assert random.random() == TWO

@seeded(42)
@pytest.mark.asyncio
async def test_above_the_mark(yielding):
    assert random.random() == ONE
    await asyncio.sleep(0)
    assert random.random() == TWO

@pytest.mark.asyncio
@pytest.mark.parametrize("number", [1, 2])
@seeded(seed_from=lambda number: number)
async def test_with_parameters(number):
    assert random.random() == random.Random(number).random()

@pytest.mark.asyncio
@seeded(42)
@settings(max_examples=5, database=None)
@given(number=st.integers())
async def test_above_given(number):
    assert random.random() == ONE
    await asyncio.sleep(0)
    assert random.random() == TWO

@pytest.mark.asyncio
@settings(max_examples=5, database=None)
@given(number=st.integers())
@seeded(42)
async def test_below_given(number):
    assert random.random() == ONE
    await asyncio.sleep(0)
    assert random.random() == TWO

@pytest.mark.asyncio
@seeded(42)
class TestClass:
    async def test_method(self, yielding):
        assert random.random() == ONE
        await asyncio.sleep(0)
        assert random.random() == TWO
"""


@each_way
def test_every_shape_of_test_and_fixture_runs_seeded(options, tmp_path):
    """Fixtures, marks, parameters, classes and Hypothesis, above and below."""
    code, output = run_suite(tmp_path, SUITE, *options)
    assert code == 0 and "21 passed, 1 xfailed" in output, output


@needs("pytest_asyncio")
@each_way
def test_every_async_shape_runs_seeded(options, tmp_path):
    """pytest-asyncio sees the coroutine functions that it would see without."""
    code, output = run_suite(tmp_path, ASYNC_SUITE, *options)
    assert code == 0 and "8 passed" in output, output


@needs("xdist")
def test_workers_of_xdist_run_the_same(tmp_path):
    """Distributed over processes, every test draws the same."""
    options = ["-p", "no:randomly", "-n", "2", "--dist", "loadfile"]
    code, output = run_suite(tmp_path, SUITE, *options)
    assert code == 0 and "21 passed, 1 xfailed" in output, output


def test_the_other_order_with_a_fixture_is_refused(tmp_path):
    """A fixture that is decorated is a TypeError which shows the right order."""
    suite = """
        import pytest
        from rngscope import seeded

        @seeded(42)
        @pytest.fixture
        def number():
            return 1

        def test(number):
            pass
    """
    code, output = run_suite(tmp_path, suite, "-p", "no:randomly")
    assert code != 0
    assert "TypeError: a fixture cannot be decorated: write @pytest.fixture above" in output


@pytest.mark.parametrize("decorate", [seeded(42), rng_scope(42), RNGStream(42)])
def test_no_decorator_of_ours_takes_a_fixture(decorate):
    """Scopes and streams refuse as ``seeded`` does, static ones included."""

    @pytest.fixture
    def number():
        """A fixture."""

    for thing in (number, staticmethod(number)):
        with pytest.raises(TypeError, match="write @pytest.fixture above @seeded"):
            decorate(thing)


def test_without_parentheses_no_test_disappears(tmp_path):
    """The file does not even load: a test that is not collected would look like success."""
    suite = """
        from rngscope import seeded

        @seeded
        def test():
            pass
    """
    code, output = run_suite(tmp_path, suite, "-p", "no:randomly")
    assert code != 0 and "write @seeded(42)" in output


def test_a_failing_test_shows_no_frame_of_ours(tmp_path):
    """``__tracebackhide__``: the traceback ends where it would end without the decorator."""
    suite = """
        import asyncio
        from rngscope import seeded

        @seeded(42)
        def test_function():
            assert 1 == 2

        @seeded(42)
        async def fail():
            assert 3 == 4

        def test_coroutine():
            asyncio.run(fail())
    """
    code, output = run_suite(tmp_path, suite, "-p", "no:randomly")
    assert code == 1 and "assert 1 == 2" in output and "assert 3 == 4" in output
    assert "rngscope/_decorate.py" not in output and "rngscope/_bodies.py" not in output


# Law 10: invisible to Hypothesis ----------------------------------------------------------


def example_list(body, strategy=None, fail_from=None, **more):
    """Run a test under Hypothesis; return all examples and the failing one."""
    seen, failed = [], []

    @hypothesis.settings(max_examples=50, derandomize=True, database=None, **more)
    @hypothesis.given(st.lists(st.integers()) if strategy is None else strategy)
    def test(value):
        seen.append(value)
        body(value)
        if fail_from is not None and isinstance(value, list) and len(value) >= fail_from:
            failed.append(value)
            raise ZeroDivisionError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if fail_from is None:
            test()
        else:
            with pytest.raises(ZeroDivisionError):
                test()
    return seen, failed[-1:]


def scoped(value):
    with rng_scope(len(str(value))):
        draw("python")


def left_in_any_order(value):
    one, two = rng_scope(1), rng_scope(2)
    one.__enter__()
    two.__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.__exit__(None, None, None)
    two.__exit__(None, None, None)


def suspended(value):
    for _ in seeded(5)(lambda: (draw("python") for _ in range(3)))():
        pass


BODIES = [scoped, left_in_any_order, suspended, seeded(42)(scoped), RNGStream(42)(scoped)]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fail_from", [None, 3])
def test_scopes_in_a_test_change_no_example(body, fail_from, unchanged):
    """The same examples, the same shrinking, and no complaint about the global RNGs."""
    without = example_list(lambda value: None, fail_from=fail_from)
    assert example_list(body, fail_from=fail_from) == without


def test_scopes_in_a_strategy_change_no_example(unchanged):
    """A strategy that builds its values in scopes draws the same choices."""

    def mapped(value):
        with rng_scope(42):
            return [*value, random.random()]

    number = expected_random(42)
    seen, failed = example_list(lambda v: None, st.lists(st.integers()).map(mapped), 4)
    plain = st.lists(st.integers()).map(lambda value: [*value, number])
    assert (seen, failed) == example_list(lambda v: None, plain, 4)


def test_scopes_around_interactive_draws_change_no_example(unchanged):
    """``data.draw`` inside of a scope takes from Hypothesis, not from the scope."""

    def body(data):
        with rng_scope(42):
            drawn.append(data.draw(st.integers()))

    def without(data):
        drawn.append(data.draw(st.integers()))

    drawn = []
    example_list(body, st.data())
    inside, drawn = drawn, []
    example_list(without, st.data())
    assert inside == drawn


def test_the_rngs_that_hypothesis_manages_are_scoped_too(unchanged):
    """What ``random`` and NumPy draw around a scope is as without the scope."""

    def around(scope):
        def body(value):
            drawn.append([draw(name) for name in NAMES if name != "torch"])
            if scope is not None:
                with scope:
                    draw("python")
            drawn.append([draw(name) for name in NAMES if name != "torch"])

        drawn = []
        with rng_scope():
            example_list(body)
        return drawn

    assert around(rng_scope(42)) == around(None)


def test_every_example_of_a_decorated_test_draws_the_same(unchanged):
    """Also torch, which Hypothesis does not manage."""
    drawn = []
    example_list(seeded(42)(lambda value: drawn.append([draw(name) for name in NAMES])))
    assert drawn[1:] == drawn[:-1] and drawn[0] == [expected(name, 42)[0] for name in NAMES]


def test_a_failure_is_reproduced_from_the_database(unchanged):
    """A failing example found inside a scope is found again: nothing is flaky."""
    database = hypothesis.database.InMemoryExampleDatabase()
    calls = []

    @seeded(42)
    @hypothesis.settings(database=database, max_examples=100)
    @hypothesis.given(st.integers())
    def test(number):
        calls.append(number)
        assert number < 1000 or draw("python") is None

    for _ in range(2):
        calls.clear()
        before = public_states()
        with pytest.raises(AssertionError):
            test()
        assert public_states() == before
    assert calls[0] == 1000


def expected_random(seed):
    return random.Random(seed).random()
