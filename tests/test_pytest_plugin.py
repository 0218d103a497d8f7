"""The pytest plugin: each test runs a small suite in a process of its own.

Other plugins stay out unless they are what is tested.
"""

import os
import random
import shlex
import subprocess
import sys
from types import SimpleNamespace
from zlib import crc32

import by_hand
import pytest
from pytest_suite import CONFTEST, draws, summary

from rngscope import RNGState, derive_seed, pytest_plugin, rng_scope
from rngscope.pytest_plugin import seed_from_pytest_randomly
from rngscope.pytest_plugin.leaks import describe, has_moved
from rngscope.pytest_plugin.names import node_id
from rngscope.pytest_plugin.run import Run
from rngscope.pytest_plugin.seeding import Stretch
from rngscope.sources.accelerators import DeviceStates

pytest_plugins = ["pytester"]
# pytester takes out of sys.modules what a test has imported, and NumPy breaks when it is
# imported a second time.
by_hand.load_libraries()


# Installed, not asked for -------------------------------------------------------------------


def test_it_is_found_through_its_entry_point(pytester):
    """Law: to install rngscope is enough; the flags are there."""
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("--rng-seed=7", "-p", "no:randomly")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rngscope: --rng-seed=7", "plugins: *rngscope-*"])


def test_idle_it_takes_part_in_no_test_and_imports_nothing(suite):
    """Law: not asked for, it has no hook that runs during tests, and imports no library."""
    suite.write(
        """
import sys

def test_it(pytestconfig):
    manager = pytestconfig.pluginmanager
    plugin = manager.get_plugin("rngscope")
    hooks = {caller.name for caller in manager.get_hookcallers(plugin)}
    assert hooks == {
        "pytest_addoption",
        "pytest_addhooks",
        "pytest_load_initial_conftests",
        "pytest_configure",
        "pytest_collection_finish",
    }
    assert not manager.has_plugin("rngscope run")
    assert not {"torch", "numpy"} & sys.modules.keys()
"""
    )
    suite.notes(passed=1)
    assert "rngscope:" not in suite.result.stdout.str()


def test_idle_it_moves_nothing(suite):
    """Law: not asked for, it changes nothing."""
    suite.write("def test_it():\n    note('draw')")
    (suite.path / "conftest.py").write_text(CONFTEST + "\nrandom.seed(5)\n")
    assert suite.notes(passed=1)["draw"] == draws(5, 1)


def test_taken_out_with_no_rngscope_it_has_no_flags(suite, monkeypatch):
    """Law: with -p no:rngscope the flags are unknown, and a suite without them runs."""
    suite.write("def test_it():\n    note('draw')")
    run = suite.pytester.runpytest_subprocess
    result = run("-p", "no:rngscope", "--rng-seed=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --rng-seed=1"])
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    run("-p", "no:rngscope").assert_outcomes(passed=1)


# --rng-seed ---------------------------------------------------------------------------------


def test_set_up_call_and_tear_down_draw_from_the_seed_of_the_node_id(suite):
    """Law: a test's seed is derive_seed(N, node id); its fixtures, call and tear-down share it."""
    suite.write(
        """
@pytest.fixture
def number():
    note("draw")
    yield
    note("draw")

class TestClass:
    @pytest.mark.parametrize("parameter", [1])
    def test_it(self, number, parameter):
        note("draw")
"""
    )
    expected = draws(derive_seed(7, "test_it.py::TestClass::test_it[1]"), 3)
    assert suite.notes("--rng-seed=7", passed=1)["draw"] == expected


@pytest.mark.parametrize("name", by_hand.NAMES)
def test_every_source_is_seeded(suite, monkeypatch, name):
    """Law: a seeded test draws what rng_scope with its seed draws, from every source."""
    suite.write(f"import by_hand\n\ndef test_it():\n    note('draw', by_hand.draw({name!r}))")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(by_hand.__file__), prepend=os.pathsep)
    expected = by_hand.expected(name, derive_seed(7, "test_it.py::test_it"))
    assert suite.notes("--rng-seed=7", passed=1)["draw"] == expected


def test_the_outer_state_is_back_after_each_phase(suite):
    """Law: between the phases of seeded tests the program has its own RNGs."""
    suite.write(
        """
@pytest.fixture(scope="module")
def number():
    yield random.random()
    random.seed(1)

def test_a(number):
    random.seed(0)

def test_b():
    random.random()
"""
    )
    suite.notes("--rng-seed=7", passed=2)
    assert len(suite.between) == 6 and len(set(suite.between)) == 1


THREE = """
@pytest.mark.parametrize("name", "abc")
def test_it(name):
    note(name)
"""


def test_order_and_selection_do_not_matter(suite):
    """Law: a test draws the same first, last, or alone; and no two tests draw the same."""
    suite.write(THREE)
    whole = suite.notes("--rng-seed=7", passed=3)
    backwards = [f"test_it.py::test_it[{name}]" for name in "cba"]
    assert {name: whole[name] for name in "abc"}.items() <= suite.notes(
        "--rng-seed=7", *backwards, passed=3
    ).items()
    assert suite.notes("--rng-seed=7", backwards[0], passed=1)["c"] == whole["c"]
    assert len({whole[name][0] for name in "abc"}) == 3
    assert suite.notes("--rng-seed=8", passed=3)["a"] != whole["a"]


def test_random_draws_a_seed_that_the_header_shows(suite):
    """Law: with 'random', the header is the flag that reproduces the run; runs differ."""
    suite.write(THREE)
    # To draw the seed moves no RNG of the program.
    (suite.path / "conftest.py").write_text(CONFTEST + "    random.seed(5)\n")
    first = suite.notes("--rng-seed=random", passed=3)
    outer = suite.between
    flag = next(line for line in suite.result.outlines if line.startswith("rngscope:"))
    assert flag.startswith("rngscope: --rng-seed=") and flag.rpartition("=")[2].isdigit()
    assert suite.notes(flag.removeprefix("rngscope: "), passed=3) == first
    assert suite.between == outer
    assert suite.notes("--rng-seed=random", passed=3)["a"] != first["a"]


def test_the_ini_file_sets_the_default(suite):
    """Law: rng_seed and rng_leaks in the ini file are the defaults of the flags."""
    suite.write(THREE)
    expected = suite.notes("--rng-seed=7", passed=3)
    suite.pytester.makeini("[pytest]\nrng_seed = 7\nrng_leaks = warn\n")
    assert suite.notes(passed=3) == expected
    suite.result.stdout.fnmatch_lines(["rngscope: --rng-seed=7 --rng-leaks=warn"])
    assert suite.notes("--rng-seed=8", passed=3) != expected
    suite.result.stdout.fnmatch_lines(["rngscope: --rng-seed=8 --rng-leaks=warn"])


@pytest.mark.parametrize("text", ["-1", str(2**64), "abc", "1.5", ""])
def test_a_wrong_seed_is_a_usage_error_in_one_line(suite, text):
    """Law: what is no seed ends pytest before any test, with one line that names it."""
    suite.write(THREE)
    result = suite.run(f"--rng-seed={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: --rng-seed must be an integer in [0, 2**64) or 'random', not {text!r}"
    ]


@pytest.mark.parametrize(
    "ini, message",
    [
        ("rng_seed = x", "rng_seed in tox.ini must be an integer in [0, 2**64) or 'random', not"),
        ("rng_leaks = x", "rng_leaks in tox.ini must be 'warn' or 'error', not 'x'"),
        ("rng_leaks_allow = jax", "rng_leaks_allow: unknown source 'jax'; choose from 'python'"),
    ],
)
def test_a_wrong_ini_value_is_a_usage_error_in_one_line(suite, ini, message):
    """Law: a wrong value in the ini file is named with its option and what to write."""
    suite.write(THREE)
    suite.pytester.makeini(f"[pytest]\n{ini}\n")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines if line]
    assert len(lines) == 1 and lines[0].startswith(f"ERROR: {message}")


def test_modules_are_imported_in_streams_of_their_own(suite):
    """Law: what a module draws at its import is the same in every run, whatever is selected."""
    suite.write("NUMBER = random.random()\ndef test_it():\n    note('a', NUMBER)", "test_a")
    suite.write("NUMBER = random.random()\ndef test_it():\n    note('b', NUMBER)", "test_b")
    whole = suite.notes("--rng-seed=7", passed=2)
    assert whole["a"] != whole["b"]
    assert suite.notes("--rng-seed=7", "test_b.py", passed=1)["b"] == whole["b"]


# Fixtures of a wider scope ------------------------------------------------------------------

WIDE = """
@pytest.fixture(scope="session")
def of_session():
    note("session")
    yield
    note("session")

@pytest.fixture(scope="module", params=["x", "y"])
def of_module(request):
    note("module " + request.param)
    yield
    note("module " + request.param)

@pytest.fixture(scope="class")
def of_class(of_session):
    note("class")
    yield
    note("class")

class TestOne:
    def test_a(self, of_class):
        note("a")

    def test_b(self, of_class):
        note("b")

def test_c(of_module):
    note("c")
    note("c")

def test_d(of_session):
    note("d")
"""


def test_a_wide_fixture_has_a_stream_of_its_own_whichever_test_triggers_it(suite):
    """Law: class, module and session fixtures draw by their own id and parameter, set-up and
    tear-down in one stream; and the tests draw as if the fixtures did not.
    """
    suite.write(WIDE)
    whole = suite.notes("--rng-seed=7", passed=5)
    assert whole["a"] == draws(derive_seed(7, "test_it.py::TestOne::test_a"), 1)
    of_each = [whole[key] for key in ("session", "module x", "module y", "class")]
    assert all(len(set(numbers)) == 2 for numbers in of_each)
    assert len({number for numbers in of_each for number in numbers}) == 8
    alone = suite.notes("--rng-seed=7", "test_it.py::test_d", passed=1)
    assert alone["session"] == whole["session"] and alone["d"] == whole["d"]
    chosen = ["test_it.py::test_c[y]", "test_it.py::TestOne::test_b"]
    alone = suite.notes("--rng-seed=7", *chosen, passed=2)
    for key in ("b", "session", "class", "module y"):
        assert alone[key] == whole[key]


def test_the_order_in_which_tests_list_parameters_does_not_matter(suite):
    """Law: the stream of a parametrized fixture goes by the parameter, not by its place."""
    text = """
@pytest.fixture(scope="module")
def thing(request):
    note(str(request.param))

@pytest.mark.parametrize("thing", {}, indirect=True)
def test_it(thing):
    pass
"""
    suite.write(text.format("[1, 2]"))
    forwards = suite.notes("--rng-seed=7", passed=2)
    suite.write(text.format("[2, 1]"))
    backwards = suite.notes("--rng-seed=7", passed=2)
    assert forwards["1"] == backwards["1"] and forwards["2"] == backwards["2"]
    assert forwards["1"] != forwards["2"]
    suite.write(text.format("[[1], [2]]"))
    lists = suite.notes("--rng-seed=7", passed=2)
    assert lists["[1]"] != lists["[2]"]


def test_a_wide_fixture_that_a_test_has_for_itself_is_part_of_the_test(suite):
    """Law: parametrize() may narrow the scope of a fixture; what counts is that scope."""
    suite.write(
        """
@pytest.fixture(scope="module")
def thing(request):
    note("draw")

@pytest.mark.parametrize("thing", [1], indirect=True, scope="function")
def test_it(thing):
    note("draw")
"""
    )
    expected = draws(derive_seed(7, "test_it.py::test_it[1]"), 2)
    assert suite.notes("--rng-seed=7", passed=1)["draw"] == expected


def test_a_wide_fixture_that_fails_leaves_no_stream_behind(suite):
    """Law: set-up and tear-down that raise put their stream aside like any other."""
    suite.write(
        """
@pytest.fixture(scope="module")
def broken(request):
    request.addfinalizer(lambda: note("finalizer"))
    raise ValueError

@pytest.fixture(scope="module")
def breaks():
    yield
    raise ValueError

def test_a(broken):
    pass

def test_b(breaks):
    note("b")
"""
    )
    notes = suite.notes("--rng-seed=7", passed=1, errors=2)
    assert notes["b"] == draws(derive_seed(7, "test_it.py::test_b"), 1)
    assert len(set(suite.between)) == 1
    assert notes["finalizer"] == suite.notes("--rng-seed=7", passed=1, errors=2)["finalizer"]


def test_scopes_that_a_fixture_holds_open_go_on_in_the_test(suite):
    """Law: a fixture's open scope holds in set-up, call and tear-down, and is left as written."""
    suite.write(
        """
from rngscope import rng_scope

@pytest.fixture
def scoped():
    with rng_scope(42):
        note("in")
        yield
        note("in")
    note("out")

def test_it(scoped):
    note("in")
"""
    )
    notes = suite.notes("--rng-seed=7", passed=1)
    assert notes["in"] == draws(42, 3)
    assert notes["out"] == draws(derive_seed(7, "test_it.py::test_it"), 1)


# The section of a failure -------------------------------------------------------------------

FAILS = """
@pytest.mark.parametrize("name", ["a b", 'c"$HOME`d'])
def test_it(name):
    assert random.random() == 2
"""


def test_a_failure_shows_its_seed_and_the_line_that_repeats_it(suite):
    """Law: the printed line, run by a shell, fails with the same number."""
    (suite.path / "sub").mkdir()
    suite.write(FAILS)
    result = suite.run("--rng-seed=7")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- rngscope -*",
            f"seed of this test: {derive_seed(7, 'test_it.py::test_it[a b]')}",
            'repeat it: pytest "test_it.py::test_it[[]a b[]]" --rng-seed=7',
        ]
    )
    check_that_the_lines_repeat(suite, result, suite.path)


def test_the_line_that_repeats_fits_the_directory_that_pytest_was_started_in(suite, monkeypatch):
    """Law: started in another directory than the root, the line names the file from there."""
    directory = suite.path / "sub"
    directory.mkdir()
    suite.write(FAILS)
    monkeypatch.chdir(directory)
    result = suite.run("--rng-seed=7", "..")
    result.stdout.fnmatch_lines(['repeat it: pytest "../test_it.py::test_it[[]a b[]]" *'])
    check_that_the_lines_repeat(suite, result, directory)


def check_that_the_lines_repeat(suite, result, directory):
    numbers = [line for line in result.outlines if line.startswith("E  ") and "== 2" in line]
    lines = [line for line in result.outlines if line.startswith("repeat it: pytest ")]
    assert len(numbers) == len(lines) == 2 and numbers[0] != numbers[1]
    python = shlex.quote(sys.executable)
    for line, number in zip(lines, numbers):
        command = line.removeprefix("repeat it: pytest ")
        again = subprocess.run(
            f"{python} -m pytest -p rngscope {command}",
            shell=True,
            cwd=directory,
            capture_output=True,
            text=True,
        )
        assert again.returncode == 1 and "1 failed" in again.stdout
        assert number in again.stdout.splitlines()


def test_a_failure_in_set_up_and_in_tear_down_shows_the_seed_too(suite):
    """Law: errors of fixtures have the section as well; skips and passes have none."""
    suite.write(
        """
@pytest.fixture
def before():
    assert False

@pytest.fixture
def after():
    yield
    assert False

def test_a(before):
    pass

def test_b(after):
    pass

def test_c():
    pytest.skip()

@pytest.mark.xfail
def test_d():
    assert False
"""
    )
    suite.notes("--rng-seed=7", "-rA", passed=1, errors=2, skipped=1, xfailed=1)
    shown = [line for line in suite.result.outlines if line.startswith("repeat it:")]
    assert [line.split('"')[1][-6:] for line in shown] == ["test_a", "test_b"]


def test_without_a_seed_failures_have_no_section(suite):
    """Law: there is no seed to show when none was asked for."""
    suite.write("def test_it():\n    assert False")
    assert "seed of this test" not in suite.run("--rng-leaks=warn").stdout.str()


# The marker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--rng-seed=7"], ["--rng-leaks=warn"]])
def test_the_marker_gives_a_test_this_very_seed(suite, flags):
    """Law: rng_seed(42) on a function, class or module counts, the closest first, whatever
    the flags; the outer state is back afterwards.
    """
    suite.write(
        """
pytestmark = pytest.mark.rng_seed(1)

@pytest.fixture
def number():
    note("42")

@pytest.mark.rng_seed(42)
def test_function(number):
    note("42")

@pytest.mark.rng_seed(2)
class TestClass:
    def test_method(self):
        note("2")

def test_module():
    note("1")
"""
    )
    notes = suite.notes(*flags, passed=3)
    assert [notes[key] for key in ("42", "2", "1")] == [draws(42, 2), draws(2, 1), draws(1, 1)]
    assert len(set(suite.between)) == 1


@pytest.mark.parametrize("flags", [[], ["--rng-seed=7"]])
def test_the_marker_leaves_wider_fixtures_untouched(suite, flags):
    """Law: a wide fixture draws the same whether a marked test triggers it or another."""
    suite.write(
        """
from rngscope import rng_scope

random.seed(5)

@pytest.fixture(scope="module")
def wide():
    note("wide")
    yield
    note("wide")

@pytest.fixture
def narrow(request):
    with rng_scope(3):
        request.getfixturevalue("wide")
        yield

@pytest.mark.rng_seed(42)
def test_marked(narrow):
    note("narrow")

def test_other(wide):
    pass
"""
    )
    marked = suite.notes(*flags, passed=2)
    assert marked["narrow"] == draws(3, 1)
    assert suite.notes(*flags, "-k", "other", passed=1)["wide"] == marked["wide"]
    if not flags:
        # The numbers of the program's own stream, as they are without the plugin.
        assert marked["wide"] == draws(5, 2)


def test_the_marker_takes_the_arguments_of_rng_scope(suite):
    """Law: options mean what they mean in rng_scope; what the marker leaves out has the
    seed of the flag.
    """
    suite.write(
        """
from rngscope import RNGState

@pytest.mark.rng_seed(42, independent=True)
def test_independent():
    note("independent")

@pytest.mark.rng_seed(42, sources=["torch"])
def test_other_source():
    note("other")

random.seed(9)
STATE = RNGState.capture()

@pytest.mark.rng_seed(STATE)
def test_replay():
    note("replay")
    assert False
"""
    )
    notes = suite.notes("--rng-seed=7", passed=2, failed=1)
    assert notes["independent"] == draws(derive_seed(42, "python"), 1)
    assert notes["other"] == draws(derive_seed(7, "test_it.py::test_other_source"), 1)
    assert notes["replay"] == draws(9, 1)
    suite.result.stdout.fnmatch_lines(
        ["seed of this test: none: an RNGState is replayed (its rng_seed marker)"]
    )


def test_a_failure_of_a_marked_test_says_where_the_seed_is_from(suite):
    """Law: the line that repeats a marked test needs no flag."""
    suite.write("@pytest.mark.rng_seed(42)\ndef test_it():\n    assert False")
    suite.run().stdout.fnmatch_lines(
        [
            "seed of this test: 42 (its rng_seed marker)",
            'repeat it: pytest "test_it.py::test_it"',
        ]
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("()", "rng_seed needs a seed: write @pytest.mark.rng_seed(42)"),
        ("(-1)", "@pytest.mark.rng_seed: seed -1 is out of range; expected 0 <= seed < 2**64"),
        ("(1, source=[])", "@pytest.mark.rng_seed: *unexpected keyword argument 'source'*"),
    ],
)
def test_a_wrong_marker_is_an_error_of_its_test_alone(suite, arguments, message):
    """Law: the message says what is wrong, and the other tests run."""
    suite.write(
        f"""
@pytest.mark.rng_seed{arguments}
def test_wrong():
    pass

def test_right():
    note("right")
"""
    )
    notes = suite.notes("--rng-seed=7", "--strict-markers", passed=1, errors=1)
    suite.result.stdout.fnmatch_lines([message])
    assert notes["right"] == draws(derive_seed(7, "test_it.py::test_right"), 1)


def test_the_seed_of_a_marker_may_have_its_name(suite):
    """Law: rng_seed(seed=42) is rng_seed(42)."""
    suite.write("@pytest.mark.rng_seed(seed=42)\ndef test_it():\n    note('it')")
    assert suite.notes(passed=1)["it"] == draws(42, 1)


@pytest.mark.parametrize("flags", [["--rng-seed=7"], []])
def test_a_thread_that_outlives_a_test_is_told_which_test_it_was(suite, flags):
    """Law: a warning about order names the test, not a line of the plugin."""
    suite.write(
        """
import threading
from rngscope import rng_scope

go_on, entered = threading.Event(), threading.Event()

def work():
    with rng_scope(1):
        entered.set()
        go_on.wait(60)

@pytest.fixture
def thread():
    yield
    threading.Thread(target=work).start()
    assert entered.wait(60)

@pytest.mark.rng_seed(3)
def test_it(thread):
    pass

def test_end():
    go_on.set()
"""
    )
    suite.notes(*flags, passed=2)
    text = suite.result.stdout.str()
    assert "the scope of test_it at" in text and "pytest_plugin" not in text
    assert "_order.py" not in text


# The fixture --------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--rng-seed=7"], ["--rng-leaks=warn"]])
def test_rng_state_is_the_state_at_the_start_of_the_test(suite, flags):
    """Law: it is taken before the test's own fixtures draw, and replays them."""
    suite.write(
        """
from rngscope import RNGState, rng_scope

@pytest.fixture(autouse=True)
def first():
    return random.random()

def test_it(first, rng_state):
    assert isinstance(rng_state, RNGState)
    with rng_scope(rng_state):
        assert random.random() == first

def test_asked_for_late(request):
    random.seed(1)
    with rng_scope(request.getfixturevalue("rng_state")):
        assert random.random() == random.Random(1).random()
"""
    )
    suite.notes(*flags, passed=2)


# --rng-leaks --------------------------------------------------------------------------------

LEAKS = """
from rngscope import rng_scope

@pytest.fixture(scope="module")
def wide():
    random.random()
    yield
    random.seed(1)

@pytest.fixture
def narrow():
    random.random()
    yield
    random.seed(1)

@pytest.fixture
def scoped():
    with rng_scope(1):
        random.random()
        yield

def test_clean():
    random.Random(1).random()
    with rng_scope(1):
        random.random()

def test_in_scope_of_fixture(scoped):
    random.random()

def test_call():
    random.random()

def test_fixture(narrow):
    pass

class TestClass:
    def setup_method(self):
        random.random()

    def test_wide(self, wide):
        pass
"""
FOUND = [
    "test_it.py::test_call: call: drew from 'python'",
    "test_it.py::test_fixture: fixture 'narrow': set-up: drew from 'python'",
    "test_it.py::test_fixture: fixture 'narrow': tear-down: re-seeded 'python'",
    "module fixture 'wide' of test_it.py: set-up: drew from 'python'",
    "test_it.py::TestClass::test_wide: fixture '_xunit_setup_method_fixture_TestClass': set-up: "
    "drew from 'python'",
    "module fixture 'wide' of test_it.py: tear-down: re-seeded 'python'",
]


@pytest.mark.parametrize("flags", [[], ["--rng-seed=7"]])
def test_leaks_are_listed_by_test_fixture_phase_and_source(suite, flags):
    """Law: the summary names who moved which RNG, when and how, with a seed and without;
    what stays inside a scope of its own is no leak, and wide fixtures stand alone.
    """
    suite.write(LEAKS)
    suite.notes("--rng-leaks=warn", *flags, passed=5)
    assert summary(suite.result) == sorted(FOUND)


def test_a_fixture_that_draws_before_it_asks_for_a_wide_one_is_blamed_for_its_own_draw(suite):
    """Law: each draw belongs to the innermost test or fixture that ran then."""
    suite.write(
        """
@pytest.fixture(scope="module")
def wide():
    pass

@pytest.fixture(scope="module")
def draws():
    random.random()

@pytest.fixture
def first(request):
    random.random()
    request.getfixturevalue("wide")

@pytest.fixture
def second(request):
    request.getfixturevalue("draws")
    random.seed(1)

def test_it(first, second):
    pass
"""
    )
    assert summary(suite.run("--rng-leaks=warn")) == [
        "module fixture 'draws' of test_it.py: set-up: drew from 'python'",
        "test_it.py::test_it: fixture 'first': set-up: drew from 'python'",
        "test_it.py::test_it: fixture 'second': set-up: re-seeded 'python'",
    ]


def test_leaks_fail_the_test_with_error(suite):
    """Law: 'error' fails each phase that moved an RNG, with the words of the summary."""
    suite.write(LEAKS)
    result = suite.run("--rng-leaks=error")
    result.assert_outcomes(passed=2, failed=1, errors=4)
    assert summary(result) == sorted(FOUND)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_fixture*",
            "drew from 'python' in set-up of fixture 'narrow'",
            "Wrap the draws in rng_scope()*rng_leaks_allow = python",
            "*_ test_call _*",
            "drew from 'python' in call",
        ]
    )


def test_a_failure_of_the_test_itself_is_kept(suite):
    """Law: a test that fails and leaks shows its own error; the leak is in the summary."""
    suite.write("def test_it():\n    random.seed(1)\n    raise ValueError('mine')")
    result = suite.run("--rng-leaks=error", "--rng-seed=7")
    result.stdout.fnmatch_lines(["E * ValueError: mine", "repeat it: * --rng-leaks=error"])
    assert summary(result) == ["test_it.py::test_it: call: re-seeded 'python'"]


def test_watching_changes_no_number(suite):
    """Law: --rng-leaks alone leaves every draw as it is without the plugin."""
    suite.write(
        """
from rngscope import rng_scope

random.seed(5)

@pytest.fixture(scope="module")
def wide():
    note("outer")
    with rng_scope(42):
        yield
    note("outer")

def test_a():
    note("outer")

def test_b(wide):
    note("wide")

def test_c(wide):
    note("wide")
"""
    )
    notes = suite.notes("--rng-leaks=warn", passed=3)
    assert notes["outer"] == draws(5, 3) and notes["wide"] == draws(42, 2)
    # To draw from the scope of a shared fixture is a leak from one test into the next.
    assert "test_it.py::test_c: call: drew from 'python'" in summary(suite.result)


def draw_words(name, count):
    """Draw so many times 32 random bits."""
    if name == "python":
        random.randbytes(4 * count)
    elif name == "numpy":
        import numpy

        numpy.random.bytes(4 * count)
    else:
        import torch

        torch.rand(count)


@pytest.mark.parametrize("name", by_hand.NAMES)
@pytest.mark.parametrize(
    "verb, text",
    [
        ("drew from", "draw(1)"),
        ("drew from", "draw(3000)"),
        ("re-seeded", "seed(5)"),
        ("re-seeded", "draw(1); restore()"),
        ("moved", "draw(200_000)"),
    ],
)
def test_a_draw_is_told_from_a_new_seed_where_the_state_shows_it(name, verb, text):
    """Law: 'drew from' and 're-seeded' are said only where the states prove it."""
    with rng_scope(3):
        by_hand.draw(name)
        before = RNGState.capture()
        # As if the test had begun a little later, so that "before" can be set again.
        by_hand.draw(name)
        start = RNGState.capture()
        exec(
            text,
            {
                "draw": lambda count: draw_words(name, count),
                "seed": lambda seed: by_hand.seed_library(name, seed),
                "restore": before.restore,
            },
        )
        moved = {name: (start._sources[name], RNGState.capture()._sources[name])}
    assert describe(moved) == f"{verb} {name!r}"


@pytest.mark.skipif("torch" not in by_hand.NAMES, reason="needs torch")
def test_torch_keeps_the_seed_that_it_drew_from_since():
    """Law: torch's state holds its seed, so a new one shows after draws as well."""
    with rng_scope(3):
        before = RNGState.capture()
        by_hand.seed_library("torch", 5)
        draw_words("torch", 1)
        moved = {"torch": (before._sources["torch"], RNGState.capture()._sources["torch"])}
    assert describe(moved) == "re-seeded 'torch'"


def test_one_state_in_two_forms_has_not_moved(path):
    """Law: what counts is the state, not whether it came from memory or a public call."""
    by_value = RNGState.from_state_dict(RNGState.capture(sources=["python"]).state_dict())
    by_memory = RNGState.capture(sources=["python"])
    states = [state._sources["python"] for state in (by_value, by_memory)]
    assert not has_moved("python", *states)
    random.random()
    moved = RNGState.capture(sources=["python"])._sources["python"]
    assert has_moved("python", states[0], moved)
    by_memory.restore()


def test_what_an_accelerator_did_is_told_by_its_seed_and_offset():
    """Law: a later Philox offset is a draw, another seed a new seed; other layouts 'moved'."""

    def state(seed, offset, device=0):
        return {device: seed.to_bytes(8, "little") + offset.to_bytes(8, "little")}

    def told(before, now):
        return describe({"cuda": (DeviceStates(before, 2), DeviceStates(now, 2))})

    assert told(state(1, 4), state(1, 256)) == "drew from 'cuda'"
    assert told(state(1, 256), state(1, 4)) == "re-seeded 'cuda'"
    assert told(state(1, 4), state(2, 4)) == "re-seeded 'cuda'"
    one_of_two = state(1, 4) | state(2, 0, 1), state(1, 8) | state(3, 0, 1)
    assert told(*one_of_two) == "re-seeded 'cuda'"
    assert told({0: b"1" * 44}, {0: b"2" * 44}) == "moved 'cuda'"


@pytest.mark.skipif("numpy" not in by_hand.NAMES, reason="needs NumPy")
def test_other_bit_generators_of_numpy_are_told_apart_as_far_as_they_show():
    """Law: another bit generator is a new seed, another state of one of them a move."""
    import numpy

    def state(bit_generator):
        original = numpy.random.get_bit_generator()
        numpy.random.set_bit_generator(bit_generator)
        try:
            return RNGState.capture(sources=["numpy"])._sources["numpy"]
        finally:
            numpy.random.set_bit_generator(original)

    class Mine(numpy.random.PCG64):
        pass

    first, second = state(numpy.random.PCG64(1)), state(numpy.random.PCG64(2))
    mersenne = state(numpy.random.MT19937(1))
    assert describe({"numpy": (first, second)}) == "moved 'numpy'"
    assert describe({"numpy": (mersenne, first)}) == "re-seeded 'numpy'"
    mine = state(Mine(1)), state(Mine(2))
    assert has_moved("numpy", *mine)
    assert describe({"numpy": mine}) == "moved 'numpy'"


def test_allowed_sources_are_no_leaks(suite):
    """Law: rng_leaks_allow lists sources that every test may move."""
    suite.write(LEAKS)
    suite.pytester.makeini("[pytest]\nrng_leaks = error\nrng_leaks_allow = torch python\n")
    suite.notes(passed=5)
    assert summary(suite.result) == []


@pytest.mark.skipif("numpy" not in by_hand.NAMES, reason="needs NumPy")
def test_the_first_draw_from_numpy_is_seen(suite):
    """Law: numpy.random, which NumPy imports at its first use, is no hole."""
    suite.write("import numpy\n\ndef test_it():\n    numpy.random.rand()")
    assert summary(suite.run("--rng-leaks=warn")) == [
        "test_it.py::test_it: call: drew from 'numpy'"
    ]


@pytest.mark.skipif("torch" not in by_hand.NAMES, reason="needs torch")
def test_accelerators_are_watched_once_they_have_started(suite, monkeypatch):
    """Law: a started accelerator is a source like the others; its start is no move."""
    suite.write(
        """
import torch
from simulated_cuda import simulated_cuda

@pytest.fixture(scope="module", autouse=True)
def cuda():
    with simulated_cuda(2) as accelerator:
        yield accelerator

def test_queue():
    torch.cuda.manual_seed_all(1)

def test_start(cuda):
    cuda.start()

def test_draw(cuda):
    torch.rand(1, generator=cuda.generators[1])

def test_nothing():
    pass
"""
    )
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(by_hand.__file__), prepend=os.pathsep)
    suite.notes("--rng-leaks=warn", passed=4)
    assert summary(suite.result) == ["test_it.py::test_draw: call: moved 'cuda'"]


NEVER_LEFT = """
from rngscope import rng_scope

@pytest.fixture(scope="module")
def wide():
    with rng_scope(3):
        yield

def test_open(wide):
    rng_scope(42).__enter__()

def test_next(wide):
    with rng_scope():
        note("next")
"""


@pytest.mark.parametrize("flag", ["--rng-seed=7", "--rng-leaks=warn", "--rng-leaks=error"])
def test_a_scope_that_is_never_left_is_reported_and_closed(suite, flag):
    """Law: the next test finds what it would find without; the report says where it opened."""
    suite.write(NEVER_LEFT)
    is_error = flag.endswith("error")
    notes = suite.notes(flag, passed=2, errors=is_error, warnings=flag == "--rng-seed=7")
    is_seeded = flag == "--rng-seed=7"
    seed = derive_seed(7, "test_it.py::test_next") if is_seeded else 3
    assert notes["next"] == draws(seed, 1)
    message = "*test_it.py::test_open: never left the scope opened at *test_it.py:1?*"
    suite.result.stdout.fnmatch_lines([message])
    if not is_seeded:
        assert summary(suite.result)[0].startswith("test_it.py::test_open: never left")


def test_a_scope_that_a_wide_fixture_never_leaves_is_reported_with_its_name(suite):
    """Law: a seeded wide fixture is cleaned up like a test."""
    suite.write(
        """
from rngscope import rng_scope

@pytest.fixture(scope="module")
def wide():
    rng_scope(42).__enter__()

def test_it(wide):
    note("draw")
"""
    )
    notes = suite.notes("--rng-seed=7", "--rng-leaks=warn", passed=1)
    assert notes["draw"] == draws(derive_seed(7, "test_it.py::test_it"), 1)
    assert len(set(suite.between)) == 1
    never_left = "module fixture 'wide' of test_it.py: never left"
    assert any(line.startswith(never_left) for line in summary(suite.result))


def test_the_scope_of_another_thread_is_none_of_the_test(suite):
    """Law: what a thread of the program holds open is neither reported nor closed."""
    suite.write(
        """
import threading
from rngscope import rng_scope

entered, finish = threading.Event(), threading.Event()

def background():
    with rng_scope(1, sources=["torch"]):
        entered.set()
        finish.wait()

def test_it():
    thread = threading.Thread(target=background)
    thread.start()
    entered.wait()
    test_it.thread = thread

def test_end():
    finish.set()
    test_it.thread.join()
"""
    )
    suite.notes("--rng-leaks=error", passed=2)


@pytest.mark.parametrize("verb, errors", [("getstate", 1), ("setstate", 2)])
def test_streams_that_cannot_be_taken_up_leave_nothing_half_done(suite, verb, errors):
    """Law: a test whose RNGs cannot be saved, or put back, is an error in each phase that ran;
    the next test is as ever.
    """
    suite.write(
        f"""
class Broken(random.Random):
    def {verb}(self, *state):
        raise OSError("no entropy today")

@pytest.mark.rng_seed(1, generators=[Broken()])
def test_broken():
    pass

def test_next():
    note("next")
"""
    )
    suite.run("--rng-seed=7")
    notes = suite.notes("--rng-seed=7", "-k", "next", passed=1)
    again = suite.notes("--rng-seed=7", errors=errors, passed=1)
    assert again["next"] == notes["next"]
    assert len(set(suite.between)) == 1


# Other kinds of tests and other plugins -----------------------------------------------------


def test_unittest_test_cases_are_seeded(suite):
    """Law: setUp, test and tearDown share the test's stream; setUpClass has its own."""
    suite.write(
        """
import unittest

class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        note("class")

    def setUp(self):
        note(self._testMethodName)

    def test_a(self):
        note("test_a")

    def test_b(self):
        note("test_b")

    def tearDown(self):
        note(self._testMethodName)
"""
    )
    notes = suite.notes("--rng-seed=7", "--rng-leaks=warn", passed=2)
    assert "test_it.py::TestCase::test_a: call: drew from 'python'" in summary(suite.result)
    for name in ("test_a", "test_b"):
        assert notes[name] == draws(derive_seed(7, f"test_it.py::TestCase::{name}"), 3)
    alone = suite.notes("--rng-seed=7", "-k", "test_b", passed=1)
    assert alone["class"] == notes["class"]


def test_doctest_items_are_seeded(suite):
    """Law: doctests of modules and of text files are tests like any other."""
    text = ">>> from conftest import note\n>>> note('{}')\n>>> 1\n2\n"
    (suite.path / "module.py").write_text('"""\n' + text.format("module") + '"""\n')
    (suite.path / "text.txt").write_text(text.format("text"))
    notes = suite.notes(
        "--rng-seed=7", "--doctest-modules", "--doctest-glob=*.txt", failed=2
    )
    assert notes["module"] == draws(derive_seed(7, "module.py::module"), 1)
    assert notes["text"] == draws(derive_seed(7, "text.txt::text.txt"), 1)
    line = 'repeat it: pytest "module.py::module" --doctest-modules --rng-seed=7'
    suite.result.stdout.fnmatch_lines([line])
    repeated = suite.notes(*shlex.split(line)[3:], failed=1)
    assert repeated["module"] == notes["module"]


def test_the_last_failed_fail_again(suite):
    """Law: --lf runs the failed tests with the seeds that they had."""
    suite.write("def test_a():\n    pass\n\ndef test_b():\n    note('b')\n    assert False")
    first = suite.notes("--rng-seed=7", failed=1, passed=1)
    assert suite.notes("--rng-seed=7", "--lf", failed=1)["b"] == first["b"]


def test_workers_of_xdist_have_the_same_seed(suite):
    """Law: with -n 2 the header, the draws and the summary are those of one process."""
    pytest.importorskip("xdist")
    suite.write(THREE + WIDE + "\n\ndef test_fails():\n    assert False\n")
    flags = ["--rng-seed=7", "--rng-leaks=warn"]
    one = suite.notes(*flags, passed=8, failed=1)
    found = set(summary(suite.result))
    two = suite.notes(*flags, "-n", "2", plugins=["xdist"], passed=8, failed=1)
    assert {key: set(values) for key, values in two.items()} == {
        key: set(values) for key, values in one.items()
    }
    assert set(summary(suite.result)) == found and found
    suite.result.stdout.fnmatch_lines(
        ["rngscope: --rng-seed=7 --rng-leaks=warn", "repeat it: * --rng-seed=7 --rng-leaks=warn"]
    )


@pytest.mark.parametrize("groups, name", [([], "a.py::t[x@y]"), (["y"], "a.py::t")])
def test_the_group_that_xdist_appends_is_no_part_of_the_name(groups, name):
    """Law: where xdist writes the group behind the node id, the seed is that of the id alone."""
    nodeid = name if not groups else "a.py::t@y"
    item = SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda marker: groups)
    assert node_id(item) == name


def test_without_a_seed_the_workers_of_xdist_only_watch(suite):
    """Law: with --rng-leaks alone, workers report to the controller's summary."""
    pytest.importorskip("xdist")
    suite.write(LEAKS)
    suite.notes("--rng-leaks=warn", "-n", "2", plugins=["xdist"], passed=5)
    assert set(FOUND) <= set(summary(suite.result))


def test_a_drawn_seed_reaches_the_workers_of_xdist(suite):
    """Law: 'random' is drawn once; grouped tests, whose names xdist changes, keep their seed."""
    pytest.importorskip("xdist")
    suite.write(
        """
@pytest.mark.xdist_group("group")
def test_grouped():
    note("grouped")
    assert False
""" + THREE
    )
    flags = ["-n", "2", "--dist", "loadgroup"]
    drawn = suite.notes("--rng-seed=random", *flags, plugins=["xdist"], passed=3, failed=1)
    flag = next(line for line in suite.result.outlines if line.startswith("rngscope:"))
    suite.result.stdout.fnmatch_lines(['repeat it: pytest "test_it.py::test_grouped" *'])
    one = suite.notes(flag.removeprefix("rngscope: "), passed=3, failed=1)
    assert [drawn[key] for key in ("grouped", *"abc")] == [one[key] for key in ("grouped", *"abc")]


def test_asynchronous_tests_and_fixtures_are_seeded(suite):
    """Law: under pytest-asyncio, coroutines draw from the stream of their test or fixture."""
    pytest.importorskip("pytest_asyncio")
    suite.write(
        """
import asyncio
import pytest_asyncio

@pytest_asyncio.fixture
async def narrow():
    await asyncio.sleep(0)
    note("a")
    yield
    note("a")

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wide():
    note("wide")
    await asyncio.sleep(0)
    yield
    note("wide")

@pytest.mark.asyncio
async def test_a(wide, narrow):
    await asyncio.sleep(0)
    note("a")

@pytest.mark.asyncio
async def test_b(wide):
    note("b")
"""
    )
    suite.pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    notes = suite.notes("--rng-seed=7", plugins=["asyncio"], passed=2)
    assert notes["a"] == draws(derive_seed(7, "test_it.py::test_a"), 3)
    alone = suite.notes("--rng-seed=7", "-k", "test_b", plugins=["asyncio"], passed=1)
    assert alone["wide"] == notes["wide"] and alone["b"] == notes["b"]
    assert len(set(suite.between)) == 1


# pytest-randomly ----------------------------------------------------------------------------


def test_the_seed_of_rngscope_wins_over_pytest_randomly(suite):
    """Law: with both, seeded tests draw as without pytest-randomly, and the header says so;
    tests that no seed was asked for are pytest-randomly's.
    """
    pytest.importorskip("pytest_randomly")
    suite.write(
        """
@pytest.fixture(autouse=True)
def number(request):
    note(request.node.name)
    yield
    note(request.node.name)

def test_a():
    note("test_a")

@pytest.mark.rng_seed(42)
def test_b():
    note("test_b")
"""
    )
    notes = suite.notes("--rng-seed=7", plugins=["randomly"], passed=2)
    suite.result.stdout.fnmatch_lines(["rngscope: --rng-seed=7 (wins over pytest-randomly)"])
    assert notes["test_a"] == draws(derive_seed(7, "test_it.py::test_a"), 3)
    assert notes["test_b"] == draws(42, 3)
    notes = suite.notes("--randomly-seed=3", plugins=["randomly"], passed=2)
    assert "rngscope:" not in suite.result.stdout.str()
    # It seeds each phase anew.
    assert notes["test_a"] == [
        draws(3 + crc32(b"test_it.py::test_a") + shift, 1)[0] for shift in (-1, 0, 1)
    ]
    assert notes["test_b"] == draws(42, 3)


def test_what_pytest_randomly_moves_is_no_leak(suite):
    """Law: its own re-seeding is not blamed on tests, and rng_state is taken after it."""
    pytest.importorskip("pytest_randomly")
    suite.write(
        """
from rngscope import rng_scope

@pytest.fixture
def number():
    return random.random()

def test_clean():
    pass

def test_state(number, rng_state):
    with rng_scope(rng_state):
        assert random.random() == number
"""
    )
    suite.notes("--rng-leaks=warn", plugins=["randomly"], passed=2)
    assert summary(suite.result) == [
        "test_it.py::test_state: fixture 'number': set-up: drew from 'python'"
    ]


@pytest.mark.skipif("torch" not in by_hand.NAMES, reason="needs torch")
def test_pytest_randomly_seeds_torch_as_well(suite):
    """Law: through the entry point torch is seeded with the rest, without any flag of ours."""
    pytest.importorskip("pytest_randomly")
    suite.write(
        """
import torch

def test_a():
    note("a", torch.rand(1).item())

def test_b():
    note("b", torch.rand(1).item())
"""
    )
    first = suite.notes("--randomly-seed=3", plugins=["randomly"], passed=2)
    assert first["a"] != first["b"]
    alone = suite.notes("--randomly-seed=3", "-k", "test_b", plugins=["randomly"], passed=1)
    assert alone["b"] == first["b"]
    other = suite.notes("--randomly-seed=4", plugins=["randomly"], passed=2)
    assert other["a"] != first["a"]


def test_pytest_randomly_does_not_import_torch(suite):
    """Law: torch is seeded only where it is imported."""
    pytest.importorskip("pytest_randomly")
    suite.write("import sys\n\ndef test_it():\n    assert 'torch' not in sys.modules")
    suite.notes(plugins=["randomly"], passed=1)


@pytest.mark.parametrize("seed", [0, 3, 2**32 + 3, 2**64 + 3, 2**100, -5])
def test_any_integer_that_pytest_randomly_hands_over_works(seed):
    """Law: torch gets the seed modulo 2**64; Python's and NumPy's RNGs are not touched."""
    with rng_scope(1):
        before = RNGState.capture()
        seed_from_pytest_randomly(seed)
        assert set(before.differs_from(RNGState.capture())) <= {"torch", "cuda"}
        if "torch" in sys.modules:
            import torch

            assert torch.initial_seed() == seed % 2**64


# Hypothesis ---------------------------------------------------------------------------------

GIVEN = """
from hypothesis import given, seed, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

HEAD = settings(max_examples=5, database=None)

@HEAD
@given(st.integers(0, 2**60))
def test_plain(number):
    note("plain", number)
    note("drawn in plain")

@seed(1)
@HEAD
@given(st.integers(0, 2**60))
def test_with_seed(number):
    note("seed", number)

@settings(HEAD, derandomize=True)
@given(st.integers(0, 2**60))
def test_derandomized(number):
    note("derandomized", number)

class Machine(RuleBasedStateMachine):
    @rule(number=st.integers(0, 2**60))
    def note(self, number):
        note("machine", number)

TestMachine = Machine.TestCase
TestMachine.settings = settings(HEAD, stateful_step_count=2)

def test_after():
    random.seed(1)
"""
AFTERWARDS = """
class AfterEachPhase:
    def pytest_runtest_logreport(self):
        from hypothesis import core
        note("forced", core.global_force_seed or 0)

def pytest_sessionstart(session):
    session.config.pluginmanager.register(AfterEachPhase())
"""


@pytest.fixture
def given_suite(suite, monkeypatch):
    """A suite of Hypothesis tests, without the profile that Hypothesis takes under CI."""
    pytest.importorskip("hypothesis")
    for name in ("CI", "TF_BUILD", "BUILDKITE", "GITHUB_ACTIONS", "CODEBUILD_BUILD_ID"):
        monkeypatch.delenv(name, raising=False)
    suite.write(GIVEN)
    suite.pytester.makeconftest(CONFTEST + AFTERWARDS)
    return suite


def test_hypothesis_tests_get_their_seed_from_the_tests_seed(given_suite):
    """Law: the same seed, the same examples; @seed and derandomize keep theirs; Hypothesis
    stays in charge of the RNGs inside @given.
    """
    first = given_suite.notes("--rng-seed=7", plugins=["hypothesispytest"], passed=5)
    again = given_suite.notes("--rng-seed=7", plugins=["hypothesispytest"], passed=5)
    other = given_suite.notes("--rng-seed=8", plugins=["hypothesispytest"], passed=5)
    assert again == first
    assert other["plain"] != first["plain"] and other["machine"] != first["machine"]
    assert other["seed"] == first["seed"] and other["derandomized"] == first["derandomized"]
    assert first["drawn in plain"] == 5 * draws(0, 1)
    assert set(first["forced"]) == {0}


def test_hypothesis_tests_have_examples_of_their_own(suite):
    """Law: two tests, and two parameters of one test, have different examples."""
    pytest.importorskip("hypothesis")
    suite.write(
        """
from hypothesis import given, settings, strategies as st

@pytest.mark.parametrize("name", ["a", "b"])
@settings(max_examples=5, database=None, derandomize=False)
@given(number=st.integers(0, 2**60))
def test_it(name, number):
    note(name, number)

@pytest.mark.rng_seed(42)
@settings(max_examples=5, database=None, derandomize=False)
@given(number=st.integers(0, 2**60))
def test_marked(number):
    note("marked", number)
"""
    )
    notes = suite.notes("--rng-seed=7", plugins=["hypothesispytest"], passed=3)
    assert notes["a"] != notes["b"]
    again = suite.notes("--rng-seed=8", plugins=["hypothesispytest"], passed=3)
    assert again["marked"] == notes["marked"] and again["a"] != notes["a"]


def test_the_seed_of_hypothesis_on_the_command_line_wins(given_suite):
    """Law: with --hypothesis-seed the examples do not depend on ours."""
    flags = ["--hypothesis-seed=5", "--rng-seed"]
    first = given_suite.notes(*flags, "7", plugins=["hypothesispytest"], passed=5)
    other = given_suite.notes(*flags, "8", plugins=["hypothesispytest"], passed=5)
    assert other["plain"] == first["plain"] and other["machine"] == first["machine"]
    assert set(first["forced"]) == {5}


# Guards of what calls into the plugin --------------------------------------------------------


def test_the_seeder_outside_of_tests_only_seeds(monkeypatch):
    """Law: at the start of the session, or in a fixture, nothing is put back."""
    calls = []
    test = SimpleNamespace(streams=[], look=lambda: calls.append("look"))
    run = SimpleNamespace(test=test, running=[], at_start=None)
    monkeypatch.setattr(pytest_plugin, "_runs", [run])
    run.was_reseeded = lambda: Run.was_reseeded(run)
    seed_from_pytest_randomly(1)
    run.test = None
    seed_from_pytest_randomly(1)
    assert calls == []


def test_what_never_began_ends_without_harm():
    """Law: a fixture whose streams could not be taken up has none to put aside."""
    run = SimpleNamespace(running=["another"], imports=SimpleNamespace())
    Stretch(run, "fixture").end(is_last=True)
    assert run.running == ["another"]
