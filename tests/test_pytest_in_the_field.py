"""What suites in the field do to the pytest plugin: imports, libraries of test data, reruns,
other folders to start in, and reports that one reads in a hurry.
"""

import importlib
import importlib.util
import os
import random
import shlex
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import by_hand
import pytest
from pytest_suite import CONFTEST, draws, summary

from rngscope import derive_seed, rng_scope
from rngscope._arrival import take_in
from rngscope._life import Life
from rngscope._plan import Plan
from rngscope.pytest_plugin import imports, names
from rngscope.pytest_plugin.generators import Generators, MimesisSeed, named_generator
from rngscope.pytest_plugin.report import with_seed
from rngscope.sources import SOURCES

pytest_plugins = ["pytester"]
by_hand.load_libraries()

#: Of a conftest file that draws at its import.
DRAWING = CONFTEST + "\nnote('conftest')\n"


def repeat_line(result):
    """Return the arguments of the last line that repeats a test."""
    lines = [line for line in result.outlines if line.startswith("repeat it: pytest ")]
    return shlex.split(lines[-1])[3:]


def imported(name, count=1, seed=7):
    """Return the first numbers of the stream that a module is imported in."""
    return draws(derive_seed(seed, "import", name), count)


# Imports ------------------------------------------------------------------------------------


def test_a_conftest_file_draws_in_a_stream_of_its_own(suite):
    """Law: draws at the import of each conftest file are seeded by its path, and put back."""
    suite.write("def test_it():\n    note('test')", "test_top")
    below = suite.path / "below"
    below.mkdir()
    (below / "conftest.py").write_text(DRAWING.replace("'conftest'", "'below'"))
    (below / "test_below.py").write_text("def test_it(): pass\n")
    (suite.path / "conftest.py").write_text(DRAWING)
    for arguments in ([], ["below"]):
        notes = suite.notes("--rng-seed=7", *arguments, passed=2 - len(arguments))
        assert notes["conftest"] == imported("conftest.py")
        assert notes["below"] == imported("below/conftest.py")
    assert suite.notes("--rng-seed=8", passed=2)["conftest"] == imported("conftest.py", seed=8)
    assert suite.notes(passed=2)["conftest"] != imported("conftest.py")


def test_the_state_around_an_import_is_put_back(suite):
    """Law: a conftest file, plugin or helper that seeds or draws at its import moves nothing."""
    (suite.path / "seeding.py").write_text("import random\nrandom.seed(1)\n")
    text = "import random\nbefore = random.getstate()\nimport seeding\nfrom conftest import note\n"
    suite.write(text + "def test_it():\n    assert random.getstate() != before", "test_it")
    (suite.path / "test_it.py").write_text(
        text + "assert random.getstate() == before\ndef test_it(): pass\n"
    )
    suite.notes("--rng-seed=7", passed=1)
    assert len(set(suite.between)) == 1


HELPER = "import random\nNUMBER = random.random()\n"


def test_a_helper_draws_the_same_whoever_imports_it_first(suite):
    """Law: the stream of a module goes by its name, so that the line "repeat it" repeats."""
    (suite.path / "helper.py").write_text(HELPER)
    for name in "ab":
        suite.write(
            f"import helper\nOWN = random.random()\ndef test_it():\n    note('{name}', "
            f"[helper.NUMBER, OWN])\n    assert '{name}' == 'a'",
            f"test_{name}",
        )
    whole = suite.notes("--rng-seed=7", passed=1, failed=1)
    assert whole["a"][0][0] == whole["b"][0][0] == imported("helper")[0]
    # The test's own module goes on in its own stream.
    assert whole["b"][0][1] == imported("test_b.py")[0]
    again = suite.notes(*repeat_line(suite.result), failed=1)
    assert again == {"b": whole["b"]}


def test_a_helper_that_a_test_imports_leaves_the_test_its_numbers(suite):
    """Law: a test draws the same whether it is the first to import a module or not."""
    (suite.path / "helper.py").write_text(HELPER)
    for name in "ab":
        suite.write(
            f"def test_it():\n    import helper\n    note('{name}')\n    note('h', helper.NUMBER)",
            f"test_{name}",
        )
    whole = suite.notes("--rng-seed=7", passed=2)
    alone = suite.notes("--rng-seed=7", "test_b.py", passed=1)
    assert whole["b"] == alone["b"] == draws(derive_seed(7, "test_b.py::test_it"), 1)
    assert {*whole["h"], *alone["h"]} == set(imported("helper"))


def test_installed_modules_and_plugins_have_streams_too(suite, monkeypatch):
    """Law: it does not matter where a module lies: in site-packages, or in pytest_plugins."""
    site = suite.path / "site-packages" / "package"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text(HELPER)
    (site / "module.py").write_text(HELPER)
    (site / "plugin.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(site.parent), prepend=os.pathsep)
    (suite.path / "conftest.py").write_text(CONFTEST + "pytest_plugins = ['package.plugin']\n")
    suite.write(
        "from package import plugin, module, NUMBER\ndef test_it():\n"
        "    note('numbers', [NUMBER, module.NUMBER, plugin.NUMBER])"
    )
    expected = [imported(name)[0] for name in ("package", "package.module", "package.plugin")]
    assert suite.notes("--rng-seed=7", passed=1)["numbers"] == [expected]


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_every_import_mode_keeps_streams_and_rewritten_assertions(suite, mode):
    """Law: a test module has the same stream in each mode, and its assertions are rewritten."""
    suite.write(
        "X = random.random()\ndef test_it():\n    note('x', X)\n    a = 1\n    assert a == 2\n"
    )
    suite.pytester.makeini("[pytest]\npythonpath = .\n")
    flags = ["--rng-seed=7", f"--import-mode={mode}"]
    assert suite.notes(*flags, failed=1)["x"] == imported("test_it.py")
    suite.result.stdout.fnmatch_lines(["E       assert 1 == 2"])


def test_without_rewriting_the_streams_are_the_same(suite):
    """Law: with --assert=plain Python's own loader runs the modules."""
    suite.write("X = random.random()\ndef test_it():\n    note('x', X)")
    assert suite.notes("--rng-seed=7", "--assert=plain", passed=1)["x"] == imported("test_it.py")


def test_workers_of_xdist_collect_the_same_parameters(suite):
    """Law: parameters that are drawn in a conftest file, a helper or a hook are the same in
    each worker, also for a seed that is drawn.
    """
    pytest.importorskip("xdist")
    (suite.path / "helper.py").write_text(HELPER)
    (suite.path / "conftest.py").write_text(
        CONFTEST
        + """
NUMBER = random.random()

def pytest_generate_tests(metafunc):
    if "drawn" in metafunc.fixturenames:
        metafunc.parametrize("drawn", [random.random()])
"""
    )
    suite.write(
        """
import conftest, helper

@pytest.mark.parametrize("number", [conftest.NUMBER, helper.NUMBER, random.random()])
def test_it(number, drawn):
    note("numbers", [number, drawn])
    note("drawn")
"""
    )
    one = suite.notes("--rng-seed=7", passed=3)
    two = suite.notes("--rng-seed=7", "-n", "2", plugins=["xdist"], passed=3)
    assert sorted(one["numbers"]) == sorted(two["numbers"])
    for flag in ("--rng-seed=random", "--rng-seed random"):
        two = suite.notes(*flag.split(), "-n", "2", plugins=["xdist"], passed=3)
        head = next(line for line in suite.result.outlines if line.startswith("rngscope: "))
        one = suite.notes(head.removeprefix("rngscope: "), passed=3)
        assert {key: sorted(one[key]) for key in one} == {key: sorted(two[key]) for key in two}
    suite.pytester.makeini("[pytest]\nrng_seed = random\n")
    suite.notes("-n", "2", plugins=["xdist"], passed=3)


def test_the_seed_that_workers_are_told_goes_before_what_the_user_wrote():
    """Law: 'random' is replaced where it stands, and nothing else of the arguments is."""
    told = ("--rng-seed=5", "-k", "random", "--rng-seed=5", "--", Path("random"))
    asked = ("-k", "random", "--rng-seed=random", "--", Path("random"))
    assert with_seed(asked, 5) == tuple(map(str, told))
    assert with_seed(["--rng-seed", "random"], 5) == ("--rng-seed=5", "--rng-seed", "5")
    assert with_seed(["random"], 5) == ("--rng-seed=5", "random")
    assert with_seed(asked, None) == tuple(map(str, asked))


def test_without_pytests_own_plugin_for_python_conftest_files_are_seeded(suite):
    """Law: a suite of doctests alone is a suite."""
    (suite.path / "test_it.txt").write_text(">>> from conftest import note\n>>> note('x')\n")
    (suite.path / "conftest.py").write_text(DRAWING)
    notes = suite.notes("--rng-seed=7", "-p", "no:python", passed=1)
    assert notes["conftest"] == imported("conftest.py")
    assert notes["x"] == draws(derive_seed(7, "test_it.txt::test_it.txt"), 1)


def test_a_module_that_fails_leaves_no_stream_behind(suite):
    """Law: an import that raises puts everything back; its traceback has no frame of ours, and
    none of the import system, as without the plugin.
    """
    (suite.path / "broken.py").write_text("import random\nrandom.seed(1)\n1 / 0\n")
    suite.write("def test_it():\n    note('before')\n    import broken")
    suite.write("import broken\ndef test_it(): pass", "test_no")
    flags = ["--rng-seed=7", "--continue-on-collection-errors"]
    notes = suite.notes(*flags, failed=1, errors=1)
    assert notes["before"] == draws(derive_seed(7, "test_it.py::test_it"), 1)
    assert len(set(suite.between)) == 1
    text = suite.result.stdout.str()
    assert "ZeroDivisionError" in text
    assert "pytest_plugin" not in text and "frozen importlib" not in text


def test_a_module_that_opens_a_scope_for_good_is_reported(suite):
    """Law: what its import leaves open is closed with the import's stream, with a warning."""
    suite.write(
        "from rngscope import rng_scope\nrng_scope(42).__enter__()\ndef test_it():\n    note('x')"
    )
    notes = suite.notes("--rng-seed=7", passed=1, warnings=1)
    assert notes["x"] == draws(derive_seed(7, "test_it.py::test_it"), 1)
    suite.result.stdout.fnmatch_lines(["*import of test_it.py: never left the scope opened at*"])


def test_an_import_in_another_thread_moves_no_number_of_the_test(suite):
    """Law: a stream holds for the whole process, so only imports of the test's thread have one."""
    (suite.path / "slow.py").write_text("import gate\ngate.inside.set()\ngate.go_on.wait(60)\n")
    (suite.path / "gate.py").write_text(
        "import threading\ninside, go_on = threading.Event(), threading.Event()\n"
    )
    suite.write(
        """
import gate, importlib, threading

def test_it():
    note("draw")
    thread = threading.Thread(target=importlib.import_module, args=["slow"])
    thread.start()
    assert gate.inside.wait(60)
    note("draw")
    gate.go_on.set()
    thread.join()
    note("draw")
"""
    )
    expected = draws(derive_seed(7, "test_it.py::test_it"), 3)
    assert suite.notes("--rng-seed=7", passed=1)["draw"] == expected


@pytest.mark.skipif("torch" not in by_hand.NAMES, reason="needs torch")
def test_torch_is_as_ever_when_a_helper_imports_it_first(suite):
    """Law: law 3 holds in the stream of an import: each stream has its own state of torch, and
    the program its own afterwards.
    """
    (suite.path / "helper.py").write_text("import torch\nNUMBER = torch.rand(1).item()\n")
    suite.write(
        """
import sys

def test_a():
    assert "torch" not in sys.modules
    import helper
    note("a", [helper.NUMBER, sys.modules["torch"].rand(1).item()])

def test_b():
    note("b", sys.modules["torch"].rand(1).item())
"""
    )
    notes = suite.notes("--rng-seed=7", passed=2)
    import torch

    def number(*path):
        return torch.rand(1, generator=torch.Generator().manual_seed(derive_seed(7, *path))).item()

    assert notes["a"] == [[number("import", "helper"), number("test_it.py::test_a")]]
    assert notes["b"] == [number("test_it.py::test_b")]


def test_afterwards_the_loaders_are_what_they_were(pytester):
    """Law: a run that is over hears of no import, whether it went well or ended early."""
    pytester.makepyfile("def test_it(): pass")
    loader = importlib.machinery.SourceFileLoader
    before = loader.exec_module
    pytester.runpytest_inprocess("--rng-seed=7", "-p", "no:randomly").assert_outcomes(passed=1)
    assert pytester.runpytest_inprocess("--rng-seed=7", "--no-such-flag").ret == 4
    assert pytester.runpytest_inprocess("--rng-seed=7", "--rng-leaks=no").ret == 4
    assert loader.exec_module is before
    # Of this process, if the tests run under the plugin themselves.
    assert all(one.run.config.option.rng_seed != "7" for one in imports._listening)


def test_what_somebody_else_put_on_top_of_the_loader_stays():
    """Law: at the end only what is ours is taken away."""

    class Loader:
        def exec_module(self, module):
            log.append("original")

    log, kind = [], Loader
    listener = imports.Imports.__new__(imports.Imports)
    listener.thread = None
    saved, imports._listening[:] = list(imports._listening), []
    changed, imports._changed = imports._changed, {}
    sys.meta_path.append(Loader())
    try:
        original = vars(kind)["exec_module"]
        listener.start()
        ours = vars(kind)["exec_module"]
        assert kind.exec_module is original and ours is not original
        kind.exec_module = lambda self, module: log.append("theirs")
        theirs = vars(kind)["exec_module"]
        listener.stop()
        assert vars(kind)["exec_module"] is theirs
        # Whoever kept ours calls through it.
        ours.__get__(kind(), kind)(ModuleType("m"))
        assert log == ["original"]
    finally:
        sys.meta_path.pop()
        imports._listening[:], imports._changed = saved, changed


def test_a_loader_that_calls_its_base_class_runs_the_module_once_in_one_stream(suite):
    """Law: loaders of other import hooks work as ever."""
    (suite.path / "conftest.py").write_text(
        CONFTEST
        + """
import importlib.abc, importlib.machinery, importlib.util, sys

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        module.HOOKED = random.random()

class Finder(importlib.abc.MetaPathFinder, Loader):
    def __init__(self):
        pass

    def find_spec(self, name, path=None, target=None):
        if name == "helper":
            return importlib.util.spec_from_file_location(
                name, "helper.py", loader=Hooked(name, "helper.py")
            )

class Hooked(Finder):
    def __init__(self, *arguments):
        Loader.__init__(self, *arguments)

sys.meta_path.insert(0, Finder())
"""
    )
    (suite.path / "helper.py").write_text(HELPER)
    suite.write("import helper\ndef test_it():\n    note('x', helper.NUMBER)")
    assert suite.notes("--rng-seed=7", passed=1)["x"] == imported("helper")


# Imports as leaks ---------------------------------------------------------------------------

IMPORTING = """
import helper
import quiet
random.random()

def test_it():
    import late
"""
FOUND = [
    "import of 'helper' at test_it.py:5: drew from 'python'",
    "import of 'late' at test_it.py:10: re-seeded 'python'",
    "import of zbelow/conftest.py: re-seeded 'python'",
    "import of test_it.py: drew from 'python'",
]


@pytest.fixture
def importing(suite):
    (suite.path / "helper.py").write_text(HELPER)
    (suite.path / "late.py").write_text("import random\nrandom.seed(1)\n")
    (suite.path / "quiet.py").write_text(
        "import random\nfrom rngscope import rng_scope\nwith rng_scope():\n    random.random()\n"
        "    import late_not\n"
    )
    (suite.path / "late_not.py").write_text("import nested_not\n" + HELPER)
    (suite.path / "nested_not.py").write_text(HELPER)
    (suite.path / "zbelow").mkdir()
    (suite.path / "zbelow" / "conftest.py").write_text("import random\nrandom.seed(2)\n")
    (suite.path / "zbelow" / "test_below.py").write_text("def test_below(): pass\n")
    suite.write(IMPORTING)
    return suite


@pytest.mark.parametrize("flags", [[], ["--rng-seed=7"]])
def test_imports_are_listed_with_the_importing_line(importing, flags):
    """Law: each module that moves an RNG at its import is a leak of its own, once, with the
    line that imports it; what it does in a scope of its own is none.
    """
    importing.notes("--rng-leaks=warn", *flags, passed=2)
    assert summary(importing.result) == sorted(FOUND)


def test_workers_of_xdist_tell_of_imports(importing):
    """Law: what workers find while they collect is in the list of the controller, once."""
    pytest.importorskip("xdist")
    importing.notes("--rng-leaks=warn", "-n", "2", plugins=["xdist"], passed=2)
    assert summary(importing.result) == sorted(FOUND)


def test_a_leaking_import_is_an_error_where_it_happens(importing):
    """Law: 'error' fails the collection of the file that imports, or the test."""
    result = importing.run("--rng-leaks=error", "--continue-on-collection-errors")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "ERROR test_it.py - Failed: drew from 'python' in import of 'helper' at*",
            "ERROR zbelow/test_below.py - Failed: re-seeded 'python' in import of zbelow*",
        ]
    )
    (importing.path / "zbelow" / "conftest.py").write_text("")
    importing.write(IMPORTING.replace("import helper\n", "").replace("\nrandom.random()", ""))
    result = importing.run("--rng-leaks=error", "test_it.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["FAILED test_it.py::test_it - Failed: re-seeded 'python' in import of 'late'*"]
    )


def test_a_collection_that_fails_by_itself_keeps_its_own_error(suite):
    """Law: the leak is in the list, the error is the module's own."""
    suite.write("random.seed(1)\nraise ValueError('mine')")
    result = suite.run("--rng-leaks=error")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E   ValueError: mine"])
    assert summary(result) == ["import of test_it.py: re-seeded 'python'"]


def test_collection_itself_is_watched(suite):
    """Law: a hook that draws parameters is named with the file that they are for."""
    (suite.path / "conftest.py").write_text(
        CONFTEST + "def pytest_generate_tests(metafunc):\n    random.random()\n"
    )
    suite.write("def test_it(): pass")
    suite.notes("--rng-leaks=warn", passed=1)
    assert summary(suite.result) == ["collection of test_it.py: drew from 'python'"]


def test_watching_imports_changes_no_number(suite):
    """Law: --rng-leaks alone leaves the draws of imports, and those after them, as they are;
    also in a test with a seed of its own, and with scopes that a module leaves open.
    """
    (suite.path / "helper.py").write_text(HELPER)
    (suite.path / "conftest.py").write_text(CONFTEST + "random.seed(5)\nnote('outer')\n")
    suite.write(
        """
from rngscope import rng_scope

note("outer")

@pytest.mark.rng_seed(42)
def test_it():
    import helper
    note("marked", helper.NUMBER)
    note("marked")

def test_open():
    rng_scope(3).__enter__()
    import late
"""
    )
    (suite.path / "late.py").write_text(HELPER)
    notes = suite.notes("--rng-leaks=warn", passed=2)
    assert notes["outer"] == draws(5, 2) and notes["marked"] == draws(42, 2)
    assert "import of 'helper' at test_it.py:11: drew from 'python'" in summary(suite.result)
    # In a scope that the test has opened, it moves nothing of the test's.
    assert not [line for line in summary(suite.result) if "late" in line]


def test_an_import_from_the_command_line_is_named_without_a_line(suite):
    """Law: a plugin that pytest imports has the place of its file."""
    (suite.path / "conftest.py").write_text(CONFTEST + "pytest_plugins = ['helper']\n")
    (suite.path / "helper.py").write_text(HELPER)
    suite.write("def test_it(): pass")
    suite.notes("--rng-leaks=warn", passed=1)
    assert summary(suite.result) == ["import of helper.py: drew from 'python'"]


# Generators of the run ----------------------------------------------------------------------


def test_names_in_the_ini_file_are_seeded_and_put_back(suite):
    """Law: an RNG object named in rng_generators draws in each test what generators= would
    give it, from the test that imports its module on; afterwards it is as it was.
    """
    (suite.path / "mine.py").write_text(
        "import random\n\nclass Holder:\n    rng = random.Random(1)\n\nplain = random.Random(2)\n"
        "class Reporter:\n    def pytest_runtest_logreport(self, report):\n"
        "        from conftest import note\n"
        "        note('outside', hash((plain.getstate(), Holder.rng.getstate())))\n"
    )
    suite.pytester.makeini(
        "[pytest]\nrng_generators = mine:Holder.rng, mine.plain\n    never.imported:rng\n"
    )
    suite.write(
        """
@pytest.fixture(scope="module")
def wide(pytestconfig):
    yield
    import mine
    note("wide", mine.plain.random())

@pytest.fixture
def number():
    yield
    import mine
    note("a", [mine.plain.random(), mine.Holder.rng.random()])

def test_a(wide, number, pytestconfig):
    import mine
    pytestconfig.pluginmanager.register(mine.Reporter())
    note("a", [mine.plain.random(), mine.Holder.rng.random()])

@pytest.mark.rng_seed(42)
def test_b():
    import mine
    note("b", [mine.plain.random(), mine.Holder.rng.random()])

@pytest.mark.rng_seed(42, sources=["python"])
def test_c():
    import mine
    note("c", [mine.plain.random(), mine.Holder.rng.random()])
"""
    )
    notes = suite.notes("--rng-seed=7", passed=3)
    seed = derive_seed(7, "test_it.py::test_a")
    assert notes["a"] == [[number] * 2 for number in draws(seed, 2)]
    assert notes["b"] == [draws(42, 1) * 2]
    assert notes["c"] == [draws(derive_seed(7, "test_it.py::test_c"), 1) * 2]
    assert len(set(notes["outside"])) == 1
    assert notes["wide"] == suite.notes("--rng-seed=7", "-k", "test_a", passed=1)["wide"]
    # With the marker alone the others have their own.
    notes = suite.notes(passed=3)
    assert notes["b"] == [draws(42, 1) * 2]
    assert notes["c"][0][0] != draws(42, 1)[0]


def test_a_generator_whose_module_draws_at_its_import_is_seeded_there(suite):
    """Law: a module that draws from an RNG of another module, at import, draws by its own name."""
    (suite.path / "mine.py").write_text("import random\nrng = random.Random()\n")
    (suite.path / "helper.py").write_text("import mine\nNUMBER = mine.rng.random()\n")
    suite.pytester.makeini("[pytest]\nrng_generators = mine:rng\n")
    suite.write("import helper\ndef test_it():\n    note('x', helper.NUMBER)")
    assert suite.notes("--rng-seed=7", passed=1)["x"] == imported("helper")


def test_the_hook_names_objects(suite):
    """Law: every conftest file and plugin may return RNG objects of each kind of generators=."""
    numpy = "numpy" in by_hand.NAMES
    (suite.path / "conftest.py").write_text(
        CONFTEST
        + f"""
RNG = random.Random()
OTHER = {"__import__('numpy').random.default_rng()" if numpy else "random.Random()"}

def pytest_rng_generators(config):
    assert config.getoption("rng_seed") == "7"
    return [RNG, OTHER, RNG]
"""
    )
    suite.write(
        """
import conftest

def test_a():
    note("a", [conftest.RNG.random(), conftest.OTHER.random()])

@pytest.mark.rng_seed(42, independent=True, generators=[conftest.RNG])
def test_b():
    note("b", conftest.RNG.random())
    note("c", conftest.OTHER.random())
"""
    )
    notes = suite.notes("--rng-seed=7", passed=2)
    seed = derive_seed(7, "test_it.py::test_a")
    default_rng = importlib.import_module("numpy").random.default_rng if numpy else random.Random
    assert notes["a"] == [[*draws(seed, 1), default_rng(seed).random()]]
    # As without the hook.
    assert notes["b"] == draws(derive_seed(42, "generators", 0), 1)
    other = derive_seed(42, "pytest_rng_generators[1]")
    assert notes["c"] == [default_rng(other).random()]


@pytest.mark.parametrize(
    "ini, conftest, message",
    [
        ("nothing", "", "rng_generators: 'nothing' names no RNG object; write module:attribute*"),
        ("a:b:c", "", "rng_generators: 'a:b:c' names no RNG object; write module:attribute*"),
        ("random:x", "", "rng_generators: random:x: module 'random' has no x"),
        ("os.path", "", "rng_generators: os:path: generators must hold *, not module: *"),
        ("", "[random]", "pytest_rng_generators: generators must hold *, not module: *"),
    ],
)
def test_what_is_no_generator_is_a_usage_error(suite, ini, conftest, message):
    """Law: a name or an object that cannot be seeded ends the run with one line that says why."""
    suite.write(THREE_TESTS)
    suite.pytester.makeini(f"[pytest]\nrng_generators = {ini}\n")
    if conftest:
        text = f"{CONFTEST}def pytest_rng_generators():\n    return {conftest}\n"
        (suite.path / "conftest.py").write_text(text)
    result = suite.run("--rng-seed=7")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


THREE_TESTS = """
def test_a():
    note("a")

def test_b():
    import late

def test_c():
    note("c")
"""


def test_a_name_that_proves_wrong_later_fails_the_tests_from_there_on(suite):
    """Law: the import goes on as it would; the next test says what is wrong with the name."""
    (suite.path / "late.py").write_text("")
    suite.write(THREE_TESTS)
    suite.pytester.makeini("[pytest]\nrng_generators = late:rng\n")
    result = suite.run("--rng-seed=7")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["rng_generators: late:rng: module 'late' has no rng"])


def test_what_another_version_of_a_library_does_not_have_is_passed_over(monkeypatch):
    """Law: where a known library keeps its RNG elsewhere, nothing is seeded and nothing fails."""
    for name in ("faker.generator", "mimesis.random"):
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace()
        monkeypatch.setitem(sys.modules, name, module)
    generators = Generators([])
    assert [s.name for s in generators.look() if "faker" in s.name or "mimesis" in s.name] == []
    assert generators.wrong == ""


def test_a_named_generator_has_a_seed_of_its_own_under_independent():
    """Law: its seed goes by its name, and mimesis' by its own."""
    rng, module = random.Random(), SimpleNamespace(global_seed=None)
    named_generator(rng, "mine:rng").seed_independently(42)
    assert rng.random() == draws(derive_seed(42, "mine:rng"), 1)[0]
    mimesis = MimesisSeed(module)
    scope = Life(Plan((mimesis,), 42, True))
    with scope:
        assert module.global_seed == derive_seed(42, mimesis.name)
    assert module.global_seed is None


LIBRARIES = {
    "faker": "import faker\ndef make():\n    return faker.Faker().name()",
    "factory": """
import factory, factory.fuzzy

class Factory(factory.DictFactory):
    name = factory.Faker("name")
    number = factory.fuzzy.FuzzyInteger(0, 10**9)

def make():
    return dict(Factory())
""",
    "polyfactory": """
import dataclasses
from polyfactory.factories import DataclassFactory

@dataclasses.dataclass
class Thing:
    number: int
    name: str

class ThingFactory(DataclassFactory[Thing]):
    pass

def make():
    return dataclasses.astuple(ThingFactory.build())
""",
    "model_bakery": """
import django
from django.conf import settings

settings.configure(INSTALLED_APPS=[], USE_TZ=False)
django.setup()
from django.db import models
from model_bakery import baker

class Thing(models.Model):
    number = models.IntegerField()
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "things"

def make():
    thing = baker.prepare(Thing)
    return [thing.number, thing.name]
""",
    "mimesis": """
import mimesis, mimesis.random

def make():
    return mimesis.Person().full_name()
""",
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("where", ["module", "test"])
def test_libraries_of_test_data_are_found_by_themselves(suite, library, where):
    """Law: once it is imported, what it makes up goes by the seed of the test: alone or not,
    imported by the module or by the test, with the flag and with the marker.
    """
    pytest.importorskip(library)
    (suite.path / "maker.py").write_text(LIBRARIES[library])
    top, inner = ("import maker", "") if where == "module" else ("", "    import maker\n")
    suite.write(
        f"""
{top}

def test_a():
{inner}    note("a", maker.make())

def test_b():
{inner}    note("b", maker.make())

@pytest.mark.rng_seed(42)
def test_c():
{inner}    note("c", maker.make())
"""
    )
    first = suite.notes("--rng-seed=7", passed=3)
    assert first["a"] != first["b"]
    assert suite.notes("--rng-seed=7", "-k", "test_b", passed=1)["b"] == first["b"]
    assert suite.notes("--rng-seed=8", "-k", "test_b", passed=1)["b"] != first["b"]
    assert suite.notes("-k", "test_c", passed=1)["c"] == first["c"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_of_test_data_are_put_back(suite, library):
    """Law: between the tests their RNGs are what they were."""
    pytest.importorskip(library)
    (suite.path / "maker.py").write_text(LIBRARIES[library])
    (suite.path / "conftest.py").write_text(
        CONFTEST
        + """
import maker, sys

class Between:
    def pytest_runtest_logreport(self):
        states = [
            getattr(sys.modules[module], name).getstate()
            for module, name in [
                ("faker.generator", "random"), ("factory.random", "randgen"),
                ("polyfactory.constants", "DEFAULT_RANDOM"),
                ("model_bakery.random_gen", "baker_random"), ("mimesis.random", "random"),
            ]
            if module in sys.modules
        ]
        states.append(str(getattr(sys.modules.get("mimesis.random"), "global_seed", "")))
        note("states", hash(str(states)))

def pytest_sessionstart(session):
    session.config.pluginmanager.register(Between())
"""
    )
    suite.write("import maker\ndef test_a():\n    maker.make()\ndef test_b():\n    maker.make()")
    notes = suite.notes("--rng-seed=7", passed=2)
    assert len(notes["states"]) == 6 and len(set(notes["states"])) == 1


def test_no_library_of_test_data_is_imported(suite):
    """Law: they are looked for, never imported."""
    suite.write(
        f"import sys\ndef test_it():\n    assert not {set(LIBRARIES)} & sys.modules.keys()"
    )
    suite.notes("--rng-seed=7", passed=1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_pytest_randomly_does_not_seed_them_over(suite, library):
    """Law: with both, they go by rngscope's seed; a test that none was asked for goes by
    pytest-randomly's.
    """
    pytest.importorskip("pytest_randomly")
    pytest.importorskip(library)
    (suite.path / "maker.py").write_text(LIBRARIES[library])
    suite.write(
        """
import maker

@pytest.mark.rng_seed(42)
def test_a():
    note("a", maker.make())

def test_b():
    note("b", maker.make())
"""
    )
    with_both = suite.notes("--rng-seed=7", plugins=["randomly"], passed=2)
    assert with_both == suite.notes("--rng-seed=7", passed=2)
    marked = suite.notes("--randomly-seed=3", plugins=["randomly"], passed=2)
    assert marked["a"] == with_both["a"] and marked["b"] != with_both["b"]
    assert marked["b"] == suite.notes("--randomly-seed=3", plugins=["randomly"], passed=2)["b"]


# Reruns -------------------------------------------------------------------------------------

FLAKY = """
@pytest.fixture
def number():
    note("a")
    yield
    note("a")

@pytest.fixture(scope="module")
def wide():
    note("wide")

def test_a(wide, number, rng_seed):
    note("a")
    note("seed", rng_seed)
    assert False

@pytest.mark.rng_seed(42)
def test_b():
    note("b")
    assert False
"""


def test_a_rerun_draws_other_numbers_and_its_line_repeats_it(suite):
    """Law: the n-th rerun has its number in the seed; the first run, the marker and wider
    fixtures keep theirs. The line, in a shell, repeats that rerun alone.
    """
    pytest.importorskip("pytest_rerunfailures")
    suite.write(FLAKY)
    flags = ["--reruns=2", "--rng-seed=7", "--rng-leaks=warn"]
    notes = suite.notes(*flags, plugins=["rerunfailures"], failed=2)
    name = "test_it.py::test_a"
    seeds = [derive_seed(7, name), *(derive_seed(7, name, "rerun", n) for n in (1, 2))]
    assert notes["a"] == sum((draws(seed, 3) for seed in seeds), [])
    assert notes["b"] == 3 * draws(42, 1)
    assert len(set(notes["seed"])) == 3
    # A leak of each is one line.
    assert len(summary(suite.result)) == 5
    lines = [line for line in suite.result.outlines if line.startswith("repeat it:")]
    assert lines[0].endswith(" --rng-seed=7 --rng-leaks=warn --rng-rerun=2")
    assert "--rng-rerun" not in lines[1]
    suite.result.stdout.fnmatch_lines([f"seed of this test: {seeds[2]} (rerun 2)"])
    command = lines[0].removeprefix("repeat it: pytest ")
    (suite.path / "notes.jsonl").unlink()
    python = shlex.quote(sys.executable)
    line = f"{python} -m pytest -p rngscope {command}"
    again = subprocess.run(line, shell=True, cwd=suite.path, capture_output=True, text=True)
    assert "1 failed" in again.stdout and f"{seeds[2]} (rerun 2)" in again.stdout
    repeated = suite.notes(*shlex.split(command), failed=1)
    assert repeated["a"] == draws(seeds[2], 3)
    assert repeated["seed"] == notes["seed"][2:] and repeated["wide"] == notes["wide"]


def test_a_rerun_after_a_crash_of_its_worker_goes_on_counting(suite):
    """Law: a worker of xdist that takes over a crashed test runs its next rerun."""
    pytest.importorskip("pytest_rerunfailures")
    pytest.importorskip("xdist")
    suite.write(
        """
import os

def test_it():
    note("x")
    if not os.path.exists("crashed"):
        open("crashed", "w").close()
        os._exit(1)
"""
    )
    flags = ["--rng-seed=7", "--reruns=2", "-n", "1"]
    notes = suite.notes(*flags, plugins=["rerunfailures", "xdist"], passed=1)
    name = "test_it.py::test_it"
    assert notes["x"] == [
        draws(seed, 1)[0] for seed in (derive_seed(7, name), derive_seed(7, name, "rerun", 1))
    ]


@pytest.mark.parametrize("text", ["x", "-1", "1.5"])
def test_a_wrong_number_of_a_rerun_is_a_usage_error(suite, text):
    """Law: --rng-rerun takes the number of a rerun."""
    suite.write(THREE_TESTS)
    result = suite.run(f"--rng-rerun={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = f"ERROR: --rng-rerun must be the number of a rerun, 1 or more, not {text!r}"
    assert message in result.errlines


# The folder that pytest starts in -----------------------------------------------------------

PROJECT = """
import json, random
import pytest

def note(key, value=None):
    with open({path!r}, "a") as file:
        file.write(json.dumps([key, random.random() if value is None else value]) + "\\n")

note("conftest")

@pytest.fixture(scope="session")
def of_session():
    note("session")

@pytest.fixture(scope="package")
def of_package():
    note("package")
"""
IN_PROJECT = """
import random
import pytest
from conftest import note

note("module")

@pytest.fixture(scope="module")
def of_module():
    note("fixture")

class TestClass:
    @pytest.fixture(scope="class")
    @classmethod
    def of_class(cls):
        note("class")

    def test_it(self, of_session, of_package, of_module, of_class, of_plugin, rng_seed):
        note("test")
        note("seed", rng_seed)
"""
OF_PLUGIN = """
import pytest

@pytest.fixture(scope="session")
def of_plugin():
    from conftest import note
    note("plugin")
"""


@pytest.mark.parametrize(
    "marker, mode",
    [("pytest.ini", "prepend"), ("setup.py", "importlib"), (None, "prepend"), (None, "importlib")],
)
def test_the_folder_that_pytest_starts_in_does_not_matter(suite, monkeypatch, marker, mode):
    """Law: from the project, from its tests, from elsewhere, with another root folder or
    configuration: all streams are the same.
    """
    project = suite.path / "project"
    tests = project / "tests"
    tests.mkdir(parents=True)
    # Above the project there is nothing that makes a root folder.
    for name in ("tox.ini", "conftest.py"):
        (suite.path / name).unlink()
    if marker:
        (project / marker).write_text("[pytest]\n" if marker == "pytest.ini" else "")
    (tests / "conftest.py").write_text(PROJECT.format(path=str(suite.path / "notes.jsonl")))
    (tests / "test_it.py").write_text(IN_PROJECT)
    (suite.path / "a_plugin.py").write_text(OF_PLUGIN)
    (suite.path / "other.ini").write_text("[pytest]\n")
    monkeypatch.setenv("PYTHONPATH", f"{suite.path}{os.pathsep}{tests}", prepend=os.pathsep)
    ways = [
        (project, ["tests"]),
        (project, ["tests/test_it.py::TestClass::test_it"]),
        (tests, []),
        (tests, ["test_it.py"]),
        (suite.path, ["project/tests/test_it.py"]),
        (suite.path, ["project/tests", "--rootdir=."]),
        (suite.path, ["project/tests", "--rootdir=/"]),
        (suite.path, ["project", "-c", "other.ini"]),
        (project, ["tests", "--rootdir=tests"]),
    ]
    found = []
    for folder, arguments in ways:
        monkeypatch.chdir(folder)
        flags = ["-p", "a_plugin", "--rng-seed=7", f"--import-mode={mode}", *arguments]
        found.append(suite.notes(*flags, passed=1))
        assert len({str(numbers) for numbers in found[-1].values()}) == len(found[-1]) == 9
    for notes in found:
        # With importlib, "from conftest import" loads it once more, under another name.
        assert {key: set(notes[key]) for key in notes} == {
            key: set(found[0][key]) for key in found[0]
        }


def test_a_fixture_that_is_no_function_goes_by_its_base():
    """Law: without a file of its own, the name is what pytest knows."""
    definition = SimpleNamespace(baseid="tests/test_it.py::TestClass", func=random.Random)
    assert names.definition_name(definition) == "tests/test_it.py::TestClass"
    definition.func = partial(test_a_fixture_that_is_no_function_goes_by_its_base)
    assert names.definition_name(definition) == f"tests/{Path(__file__).name}::TestClass"


def test_a_name_begins_at_the_nearest_project(tmp_path):
    """Law: the project of a file is the nearest folder with a configuration, or site-packages,
    or what holds its package and conftest files.
    """

    def name(*parts, marker=None, folder=False):
        path = tmp_path.joinpath(*parts)
        (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
        if not folder:
            path.write_text("")
        return names.path_name(path)

    assert name("a", "loose", "test_it.py") == "test_it.py"
    assert name("a", "loose", "sub", folder=True) == ""
    name("b", "package", "__init__.py")
    name("b", "package", "sub", "__init__.py")
    assert name("b", "package", "sub", "test_it.py") == "package/sub/test_it.py"
    name("c", "conftest.py")
    assert name("c", "sub", "sub", "test_it.py") == "sub/sub/test_it.py"
    name("d", "pytest.ini")
    name("d", "inner", "setup.py")
    assert name("d", "sub", "test_it.py") == "sub/test_it.py"
    assert name("d", "inner", "tests", "test_it.py") == "tests/test_it.py"
    assert name("d", "venv", "site-packages", "p", "tests", "test_it.py") == "p/tests/test_it.py"


# The fixture --------------------------------------------------------------------------------

USES_SEED = """
def test_a(rng_seed):
    assert type(rng_seed) is int and 0 <= rng_seed < 2**32
    note("a", rng_seed)

@pytest.mark.parametrize("x", [1, 2])
def test_b(rng_seed, x):
    note("b", rng_seed)

@pytest.mark.rng_seed(42)
def test_marked(rng_seed):
    note("marked", rng_seed)

@pytest.mark.rng_seed(2**40)
def test_long(rng_seed):
    note("long", rng_seed)

@pytest.mark.rng_seed(None)
def test_none(rng_seed):
    note("none", rng_seed)

def test_late(request):
    note("late", request.getfixturevalue("rng_seed"))
"""


def test_rng_seed_is_the_seed_of_the_test_in_32_bits(suite):
    """Law: each test has its own, by flag and name; that of a marker is the marker's."""
    suite.write(USES_SEED)
    notes = suite.notes("--rng-seed=7", passed=7)
    assert notes["marked"] == [42]
    assert notes["long"] == [derive_seed(2**40, "rng_seed") % 2**32]
    seed = derive_seed(7, "test_it.py::test_a")
    assert notes["a"] == [derive_seed(seed, "rng_seed") % 2**32]
    assert len({*notes["a"], *notes["b"], *notes["none"], *notes["late"]}) == 5
    other = suite.notes("--rng-seed=8", passed=7)
    assert other["a"] != notes["a"] and other["marked"] == [42]
    assert suite.notes("--rng-seed=7", "-k", "test_b", passed=2)["b"] == notes["b"]


def test_without_a_flag_rng_seed_is_that_of_the_flag_with_0(suite):
    """Law: a test that asks for a seed has the same in every run."""
    suite.write(USES_SEED)
    expected = suite.notes("--rng-seed=0", passed=7)
    assert suite.notes(passed=7) == expected
    # Also where no test says so before it runs.
    assert suite.notes("-k", "test_late", passed=1)["late"] == expected["late"]


def test_rng_seed_moves_no_rng(suite):
    """Law: a test that asks for its seed is not seeded by that."""
    suite.write("def test_it(rng_seed):\n    note('x')")
    (suite.path / "conftest.py").write_text(CONFTEST + "    random.seed(5)\n")
    assert suite.notes(passed=1)["x"] == draws(5, 1)


def test_a_failure_shows_the_seed_that_the_fixture_gave(suite):
    """Law: with a seed of the test, or alone; the line repeats it."""
    suite.write("def test_it(rng_seed):\n    note('x', rng_seed)\n    assert False")
    for flags in ([], ["--rng-seed=7"]):
        notes = suite.notes(*flags, failed=1)
        line = " ".join(["repeat it: pytest \"test_it.py::test_it\"", *flags])
        shown = [f"its fixture rng_seed: {notes['x'][0]}", line]
        suite.result.stdout.fnmatch_lines(shown)
        assert suite.notes(*repeat_line(suite.result), failed=1)["x"] == notes["x"]


@pytest.mark.skipif("numpy" not in by_hand.NAMES, reason="needs NumPy")
def test_the_one_line_rng_fixture(suite):
    """Law: numpy.random.default_rng(rng_seed), RandomState and scikit-learn take it."""
    has_sklearn = importlib.util.find_spec("sklearn") is not None
    suite.write(
        f"""
import numpy

@pytest.fixture
def rng(rng_seed):
    return numpy.random.default_rng(rng_seed)

def test_it(rng, rng_seed):
    note("x", [rng.random(), numpy.random.RandomState(rng_seed).rand()])
    if {has_sklearn}:
        from sklearn.utils import shuffle
        note("shuffled", shuffle(list(range(20)), random_state=rng_seed))
"""
    )
    first = suite.notes("--rng-seed=7", passed=1)
    assert suite.notes("--rng-seed=7", passed=1) == first
    assert suite.notes("--rng-seed=8", passed=1)["x"] != first["x"]


# What a report says -------------------------------------------------------------------------


def test_the_hint_names_the_sources_that_leaked(suite):
    """Law: what to allow is what has moved, in failures and in the list."""
    suite.write(
        "import by_hand\nby_hand.load_libraries()\n"
        + "".join(f"def test_{n}():\n    by_hand.draw({n!r})\n" for n in by_hand.NAMES)
    )
    suite.pytester.makeini(
        f"[pytest]\npythonpath = {os.path.dirname(by_hand.__file__)}\n"
    )
    hint = "Wrap the draws in rng_scope(), give them a generator of their own, or allow"
    for name in by_hand.NAMES:
        result = suite.run("--rng-leaks=error", "-k", f"test_{name}")
        assert result.outlines.count(f"{hint} a source: rng_leaks_allow = {name}") == 2
    if len(by_hand.NAMES) > 1:
        every = " ".join(sorted(by_hand.NAMES))
        result = suite.run("--rng-leaks=warn")
        assert f"{hint} sources: rng_leaks_allow = {every}" in result.outlines


def test_a_failure_begins_with_what_moved(suite):
    """Law: pytest's summary, which cuts lines off, shows what was done to what, and where."""
    suite.write(
        """
from rngscope import rng_scope

@pytest.fixture(scope="module")
def wide():
    random.seed(1)

@pytest.fixture
def narrow():
    yield
    random.random()

def test_call():
    random.random()

def test_fixtures(wide, narrow):
    pass

def test_open():
    rng_scope(1).__enter__()
"""
    )
    result = suite.run("--rng-leaks=error")
    result.stdout.fnmatch_lines(
        [
            "FAILED test_it.py::test_call - Failed: drew from 'python' in call",
            "ERROR test_it.py::test_fixtures - Failed: re-seeded 'python' in set-up of mo*",
            "ERROR test_it.py::test_fixtures - Failed: drew from 'python' in tear-down of*",
            "ERROR test_it.py::test_open - Failed: never left the scope opened at*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["re-seeded 'python' in set-up of module fixture 'wide' of test_it.py"]
    )
    assert "Leave each scope where it was entered: with rng_scope(...):" in result.outlines


def test_drew_re_seeded_and_moved_are_explained(suite):
    """Law: --help and the README say what the three words mean."""
    text = " ".join(suite.run("--help").stdout.str().split())
    assert "'drew from' it, 're-seeded' it, or 'moved' it, where the states do not show" in text
    readme = (Path(__file__).parents[1] / "README.rst").read_text()
    assert all(f"*{word}*" in readme for word in ("drew from", "re-seeded", "moved"))


@pytest.mark.parametrize("value", ["torch, python", "torch,python", "torch python", "python,"])
def test_lists_in_the_ini_file_may_have_commas(suite, value):
    """Law: names have no commas, so a list with commas means what it seems to mean."""
    suite.write("def test_it():\n    random.random()")
    suite.pytester.makeini(f"[pytest]\nrng_leaks = error\nrng_leaks_allow = {value}\n")
    suite.notes(passed=1)


def test_options_that_a_conftest_file_sets_count(suite):
    """Law: config.option, set before the plugin is configured, is what the user asked for."""
    suite.write("def test_it():\n    note('x')")
    (suite.path / "conftest.py").write_text(
        CONFTEST.replace(
            "def pytest_configure(config):",
            "@pytest.hookimpl(tryfirst=True)\ndef pytest_configure(config):\n"
            "    config.option.rng_seed = '9'",
        )
    )
    expected = draws(derive_seed(9, "test_it.py::test_it"), 1)
    assert suite.notes(passed=1)["x"] == suite.notes("--rng-seed=7", passed=1)["x"] == expected


def test_threads_are_left_alone_where_nothing_listens():
    """Law: an import in a thread without a run is an import like any other."""
    module = ModuleType("m")
    done = []
    thread = threading.Thread(
        target=imports._run_module, args=(lambda loader, m: done.append(m), None, module)
    )
    thread.start()
    thread.join()
    assert done == [module]


def test_a_source_that_arrives_in_an_open_scope_begins_there():
    """Law: take_in() saves it, begins it with the scope's seed, and puts it back at the end."""
    rng = random.Random(1)
    with rng_scope(42, sources=["python"]) as scope:
        take_in(scope._life, named_generator(rng, "mine:rng"))
        assert rng.random() == draws(42, 1)[0]
    assert rng.random() == draws(1, 1)[0]
    assert SOURCES
