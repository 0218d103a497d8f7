"""``@seeded`` on test classes, as pytest and unittest run them."""

import asyncio
import functools
import inspect
import random
import unittest

import pytest
from by_hand import NAMES, draw, expected, public_states

from rngscope import RNGStream, rng_scope, seeded

FIRST = {name: expected(name, 42)[0] for name in NAMES}


def draws():
    return {name: draw(name) for name in NAMES}


def run_case(case):
    """Run a TestCase; return the number of its tests."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    problems = [text for _, text in (*result.errors, *result.failures)]
    assert problems == []
    return result.testsRun


# What is decorated ------------------------------------------------------------------------


class Base:
    """Methods of every kind; ``drawn`` notes what each call drew."""

    drawn: list = []

    def test_method(self, argument="default"):
        """Draw."""
        return argument, draws()

    @staticmethod
    def test_static():
        return draws()

    @classmethod
    def test_class(cls):
        return cls, draws()

    async def test_coroutine(self):
        one = draw("python")
        await asyncio.sleep(0)
        return [one, draw("python")]

    def test_generator(self):
        yield draw("python")
        yield draw("python")

    test_partial = functools.partialmethod(test_method, "partial")

    def helper(self):
        return draws()

    def setUp(self):
        return draws()

    setup_method = teardown_method = setup_class = setUp

    class testNested:
        def test(self):
            return draws()

    test_number = 5
    test_object = functools.partial(draw, "python")


TESTS = ["test_method", "test_static", "test_class", "test_coroutine", "test_generator"]


@pytest.fixture(params=["own", "inherited", "both"])
def made(request):
    """A decorated class that has the methods itself, inherits them, or overrides some."""
    if request.param == "own":
        return seeded(42)(type("Own", (), dict(vars(Base))))
    if request.param == "inherited":
        return seeded(42)(type("Inherited", (Base,), {}))
    some = {name: vars(Base)[name] for name in TESTS[::2]}
    return seeded(42)(type("Both", (type("Middle", (Base,), {}),), some))


def test_each_method_named_test_is_a_scope(made, unchanged):
    """Methods, static and class methods, coroutines and generators, inherited or not."""
    case = made()
    assert case.test_method() == ("default", FIRST)
    assert case.test_method("given") == ("given", FIRST)
    assert case.test_partial() == ("partial", FIRST)
    assert case.test_static() == made.test_static() == FIRST
    assert case.test_class() == made.test_class() == (made, FIRST)
    assert asyncio.run(case.test_coroutine()) == expected("python", 42, 2)
    assert list(case.test_generator()) == expected("python", 42, 2)


def test_everything_else_is_left_alone(made, unchanged):
    """Helpers, set-up, nested classes and objects that are no methods stay as they are."""
    for name in ("helper", "setUp", "setup_method", "testNested", "test_number", "test_object"):
        assert inspect.getattr_static(made, name) is vars(Base)[name]
    with rng_scope(7):
        assert made().setUp()["python"] == expected("python", 7)[0]
        assert made.testNested().test()["python"] == expected("python", 7, 2)[1]


def test_the_base_class_is_never_changed(unchanged):
    """Decorating a subclass leaves every attribute of its bases as it was."""
    before = dict(vars(Base))
    sub = seeded(42)(type("Sub", (Base,), {}))
    assert dict(vars(Base)) == before
    assert sub().test_method() == ("default", FIRST)
    with rng_scope(7):
        assert Base().test_static()["python"] == expected("python", 7)[0]


def test_the_class_itself_comes_back(made):
    """It is the same class, so that its name, bases and ``super()`` work."""

    class Other(Base):
        def test_method(self, argument="default"):
            return super().test_method(argument)

    assert seeded(42)(Other) is Other
    assert Other().test_method() == ("default", FIRST)
    assert Other.test_method.__qualname__.endswith("Other.test_method")
    assert made.test_method.__doc__ == "Draw."


def test_a_subclass_inherits_the_scopes(unchanged):
    """A class that derives from a decorated one has its seeded tests."""
    derived = type("Derived", (seeded(42)(type("Own", (Base,), {})),), {})
    assert derived().test_method() == ("default", FIRST)


def test_a_method_with_a_seed_of_its_own_keeps_it(unchanged):
    """The innermost scope decides."""

    @seeded(1)
    class Cases:
        @seeded(42)
        def test_own(self):
            return draws()

    assert Cases().test_own() == FIRST


def test_seed_from_gets_the_instance(unchanged):
    """So a class of tests can have one seed per instance or parameter."""

    @seeded(seed_from=lambda self, number: self.base + number)
    class Cases:
        base = 40

        def test_number(self, number):
            return draws()

    assert Cases().test_number(2) == FIRST


@pytest.mark.parametrize("decorate", [rng_scope(42), RNGStream(42)], ids=["scope", "stream"])
def test_a_scope_and_a_stream_decorate_classes_too(decorate, unchanged):
    """As decorators they mean the same."""
    cases = decorate(type("Cases", (Base,), {}))()
    assert cases.test_static() == FIRST
    second = {name: expected(name, 42, 2)[1] for name in NAMES}
    assert cases.test_static() == (second if isinstance(decorate, RNGStream) else FIRST)


class Empty:
    def run(self):
        pass

    test_value = 5


@pytest.mark.parametrize("cls", [Empty, int, type("TestNothing", (Empty,), {})])
def test_a_class_without_tests_is_refused(cls):
    """The error names the class and says what to do instead."""
    with pytest.raises(TypeError, match=f"{cls.__qualname__} has no methods named test") as caught:
        seeded(42)(cls)
    assert "decorate the methods that draw" in str(caught.value)


# unittest ---------------------------------------------------------------------------------


def test_a_test_case_runs_seeded(unchanged):
    """unittest runs each test in a scope, and setUp outside of it."""
    seen = []

    @seeded(42)
    class Case(unittest.TestCase):
        def setUp(self):
            seen.append(draw("python"))

        def test_one(self):
            self.assertEqual(draws(), FIRST)

        def test_two(self):
            for number in range(2):
                with self.subTest(number=number):
                    self.assertEqual(draw("python"), expected("python", 42, 2)[number])

        @unittest.expectedFailure
        def test_three(self):
            self.assertNotEqual(draws(), FIRST)

        @unittest.skip("not this one")
        def test_skipped(self):
            raise AssertionError

    with rng_scope(7):
        # Python 3.12.1 alone does not count what is skipped.
        assert run_case(Case) in (3, 4)
    assert seen == expected("python", 7, 3)


def test_an_inherited_test_case_runs_seeded(unchanged):
    """Only the decorated subclass is seeded."""

    class Common(unittest.TestCase):
        seeded = False

        def test_common(self):
            self.assertEqual(draws() == FIRST, self.seeded)

    @seeded(42)
    class Case(Common):
        seeded = True

    with rng_scope(7):
        assert run_case(Case) == run_case(Common) == 1


def test_an_async_test_case_runs_seeded(unchanged):
    """``IsolatedAsyncioTestCase``: tests have streams, asyncSetUp is left alone."""
    seen = []

    @seeded(42)
    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            seen.append(draw("python"))

        async def test_coroutine(self):
            one, two = expected("python", 42, 2)
            self.assertEqual(draw("python"), one)
            before = public_states()
            await asyncio.sleep(0)
            self.assertEqual(public_states(), before)
            self.assertEqual(draw("python"), two)

        def test_plain(self):
            self.assertEqual(draws(), FIRST)

    with rng_scope(7):
        assert run_case(Case) == 2
    assert seen == expected("python", 7, 2)


# Hypothesis -------------------------------------------------------------------------------


def given_case():
    hypothesis = pytest.importorskip("hypothesis")

    class Common(unittest.TestCase):
        seen: list = []

        @hypothesis.settings(max_examples=5, database=None)
        @hypothesis.given(hypothesis.strategies.integers())
        def test_given(self, number):
            self.seen.append(draw("python"))

    return Common


def test_hypothesis_tests_of_the_class_run_each_example_seeded(unchanged):
    """The body is decorated, so every example draws the same."""
    case = seeded(42)(given_case())
    case.seen = []
    with rng_scope():
        assert run_case(case) == 1
    assert len(case.seen) == 5 and case.seen == [FIRST["python"]] * 5


def test_an_inherited_hypothesis_test_is_refused_by_name(unchanged):
    """To decorate it would change the base class: the error names the method."""
    common = given_case()
    inner = common.test_given.hypothesis.inner_test
    before = dict(vars(common))
    with pytest.raises(TypeError, match=r"Sub\.test_given is a Hypothesis test of a base class"):

        @seeded(42)
        class Sub(common):
            def test_other(self):
                pass

    assert dict(vars(common)) == before
    assert common.test_given.hypothesis.inner_test is inner


def test_an_overridden_hypothesis_test_may_be_decorated(unchanged):
    """As the error says: override it, and decorate the override."""
    common = given_case()

    @seeded(42)
    class Sub(common):
        seen: list = []

        def test_given(self):
            super().test_given()

    with rng_scope():
        run_case(Sub)
    assert len(Sub.seen) == 5


def test_a_state_machine_is_no_test_class():
    """It has no methods named test*; its rules can be decorated."""
    stateful = pytest.importorskip("hypothesis.stateful")

    class Machine(stateful.RuleBasedStateMachine):
        @stateful.rule()
        @seeded(42)
        def draw(self):
            assert random.random() == random.Random(42).random()

    with pytest.raises(TypeError, match="has no methods named test"):
        seeded(42)(Machine)
    with rng_scope():
        stateful.run_state_machine_as_test(Machine)
