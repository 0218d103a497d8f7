"""Law 3: nothing is imported, and a library that appears inside scopes is taken into them.

A library is imported once in a process, so every test has a process of its own.
"""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
from by_hand import NAMES, load_libraries

from rngscope import RNGState, rng_scope

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
LIBRARIES = [name for name in NAMES if name != "python"]
each_library = pytest.mark.parametrize("name", LIBRARIES)

PRELUDE = """
import json
import random
import secrets
import sys

# NumPy begins from these bits: so it begins alike whenever it is asked.
secrets.randbits = lambda count: 12345
from by_hand import as_bytes, draw, expected, public_states
from rngscope import RNGState, derive_seed, rng_scope, seed_all
from rngscope import _arrival, _order

NAME = sys.argv[1] if sys.argv[1:] else "python"
LIBRARY = {"numpy": "numpy.random", "torch": "torch"}.get(NAME)
finders, at_first = list(sys.meta_path), random.getstate()
assert "numpy" not in sys.modules and "torch" not in sys.modules


def appear():
    assert LIBRARY not in sys.modules
    __import__(LIBRARY)


def state_now():
    state = public_states()[NAME]
    return state[1] if NAME == "numpy" else state


def first_state():
    if NAME == "numpy":
        numpy = sys.modules["numpy"]
        fresh = numpy.random.RandomState(numpy.random.MT19937())
        return as_bytes(fresh.get_state(legacy=False))
    # torch begins from a seed of the operating system, so from none that a test gives.
    seed = sys.modules["torch"].initial_seed()
    assert seed > 2**32
    fresh = sys.modules["torch"].Generator().manual_seed(seed)
    return seed, fresh.get_state().numpy().tobytes()


def check_end():
    assert LIBRARY in sys.modules
    assert state_now() == first_state(), "the first state is not back"
    assert random.getstate() == at_first
    assert _order.lives == []
    ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("rngscope")]
    assert ours == [] and not _arrival.is_watching
    assert [finder for finder in finders if finder not in sys.meta_path] == []
    module = sys.modules[LIBRARY]
    for loader in (module.__loader__, module.__spec__.loader):
        assert type(loader).__module__.partition(".")[0] != "rngscope"
        assert "exec_module" not in vars(loader)
    # From now on it is a source like any other.
    with rng_scope(42):
        assert draw(NAME) == expected(NAME, 42)[0]
    assert state_now() == first_state()
"""


def start(code, *args, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=250,
        **options,
    )


def run(body, *args, prelude=PRELUDE, **options):
    """Run code in a process of its own, after the prelude."""
    done = start(prelude + textwrap.dedent(body), *args, **options)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# Nothing is imported ----------------------------------------------------------------------

CHECK_IMPORTS = """
import sys
import warnings

# That deterministic=True needs torch.
warnings.filterwarnings("ignore", "deterministic=True changed nothing")
before = set(sys.modules)
import rngscope

ALTERATION = None
with rngscope.rng_scope(42) as scope:
    with rngscope.rng_scope(7, independent=True, deterministic=True, devices=[0]):
        pass
    with rngscope.rng_scope():
        pass
    with rngscope.rng_scope(rngscope.RNGState.capture()):
        pass
with scope:
    pass
rngscope.seed_all(42)
rngscope.RNGState.from_state_dict(rngscope.RNGState.capture().state_dict()).restore()
with rngscope.assert_rng_unchanged(), rngscope.RNGStream(1):
    pass
rngscope.seeded(42)(print)(end="")
new = {name.partition(".")[0] for name in set(sys.modules) - before}
foreign = new - set(sys.stdlib_module_names) - {"rngscope"}
sys.exit(f"imported {sorted(foreign)}" if foreign else 0)
"""


def test_neither_the_import_nor_a_scope_imports_a_library():
    """Only what a program imports itself is there; the standard library does not count."""
    run(CHECK_IMPORTS, prelude="")


@each_library
@pytest.mark.parametrize("verb", ["getstate", "setstate", "is_present"])
def test_the_check_of_imports_can_fail(name, verb):
    """A source that imports a library is found out."""
    code = CHECK_IMPORTS.replace(
        "ALTERATION = None",
        f"""
source, = [s for s in rngscope.sources.SOURCES if s.name == "python"]
works = source.{verb}
source.{verb} = lambda *args: __import__("{name}") and works(*args)
""",
    )
    done = start(code)
    assert done.returncode == 1 and f"'{name}'" in done.stderr, done.stderr


@each_library
def test_a_library_that_is_imported_outside_is_left_alone(name):
    """The control: this is what each of these processes finds without a scope."""
    run("appear(); check_end()", name)


def test_the_finder_stands_in_the_path_only_while_scopes_are_open():
    """Whatever the order and the way out."""
    run(
        """
        def is_there():
            return sys.meta_path[0] is _arrival.FINDER

        with rng_scope(1):
            assert is_there() and sys.meta_path[1:] == finders
            with rng_scope(2):
                assert is_there() and sys.meta_path[1:] == finders
            assert is_there()
        assert sys.meta_path == finders
        try:
            with rng_scope(1):
                raise KeyError
        except KeyError:
            assert sys.meta_path == finders
        one, two = rng_scope(1), rng_scope(2)
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.__enter__(), two.__enter__()
            one.__exit__(None, None, None)
            assert is_there()
            two.__exit__(None, None, None)
        assert sys.meta_path == finders
        # Somebody may have taken it out, or put another in front.
        with rng_scope(1):
            sys.meta_path[:] = finders
        assert sys.meta_path == finders
        """
    )


def test_other_imports_are_not_looked_at():
    """The finder finds nothing by itself, and keeps no other module."""
    run(
        """
        with rng_scope(1):
            import wave
            assert wave.__spec__.loader.__class__.__name__ == "SourceFileLoader"
            assert "exec_module" not in vars(wave.__spec__.loader)
            try:
                import no_such_module_anywhere
            except ModuleNotFoundError as error:
                assert error.name == "no_such_module_anywhere"
            else:
                raise AssertionError
        assert sys.meta_path == finders
        """
    )


# A library appears ------------------------------------------------------------------------


@each_library
def test_a_library_imported_inside_a_scope_is_seeded(name):
    """Its first draw is that of the seed, and its first state is back at the end."""
    run(
        """
        with rng_scope(42):
            appear()
            assert [draw(NAME), draw(NAME)] == expected(NAME, 42, 2)
        check_end()
        """,
        name,
    )


@each_library
def test_a_library_imported_inside_nested_scopes_is_seeded_for_each(name):
    """Each open scope gives it that scope's seeded state: as if it had been there before."""
    run(
        """
        with rng_scope(1):
            random.random()
            with rng_scope(2, independent=True):
                with rng_scope(None):
                    with rng_scope(3):
                        appear()
                        assert [draw(NAME), draw(NAME)] == expected(NAME, 3, 2)
                    assert draw(NAME) == expected(NAME, derive_seed(2, NAME))[0]
                assert draw(NAME) == expected(NAME, derive_seed(2, NAME))[0]
            assert [draw(NAME), draw(NAME)] == expected(NAME, 1, 2)
            with rng_scope(4):
                assert draw(NAME) == expected(NAME, 4)[0]
            assert draw(NAME) == expected(NAME, 1, 3)[2]
        check_end()
        """,
        name,
    )


@each_library
def test_a_library_imported_in_the_outer_scope_is_there_for_the_inner(name):
    """The scope that opens after the import finds a source like any other."""
    run(
        """
        with rng_scope(1):
            with rng_scope(9):
                pass
            appear()
            first = draw(NAME)
            with rng_scope(2):
                assert draw(NAME) == expected(NAME, 2)[0]
            assert [first, draw(NAME)] == expected(NAME, 1, 2)
        check_end()
        """,
        name,
    )


@each_library
def test_scopes_that_do_not_cover_a_library_leave_it_alone(name):
    """Each scope takes up what it covers, inner and outer ones apart."""
    run(
        """
        with rng_scope(1, sources=["python"]):
            with rng_scope(2, sources=["python", NAME]):
                with rng_scope(3, sources=["python"]):
                    appear()
                    assert draw(NAME) == expected(NAME, 2)[0]
                assert draw(NAME) == expected(NAME, 2, 2)[1]
            assert state_now() == first_state()
        check_end()
        """,
        name,
    )


@each_library
def test_a_scope_that_only_preserves_puts_the_first_state_back(name):
    """Nothing is seeded, everything is put back, also after an exception."""
    run(
        """
        try:
            with rng_scope():
                appear()
                assert state_now() == first_state()
                draw(NAME)
                assert state_now() != first_state()
                raise KeyError
        except KeyError:
            check_end()
        """,
        name,
    )


@each_library
def test_a_library_that_appears_in_a_replay_continues_from_the_state(name):
    """The state was read before the library was there."""
    load_libraries()
    with rng_scope(42):
        state = json.dumps(RNGState.capture().state_dict())
    run(
        """
        state = RNGState.from_state_dict(json.load(sys.stdin))
        python_only = RNGState.capture()
        with rng_scope(state):
            with rng_scope(python_only):
                appear()
                assert draw(NAME) == expected(NAME, 42)[0]
            assert [draw(NAME), draw(NAME)] == expected(NAME, 42, 2)
        check_end()
        """,
        name,
        input=state,
    )


@each_library
def test_an_import_in_another_thread_counts_as_well(name):
    """The RNGs belong to the process."""
    run(
        """
        import threading

        with rng_scope(42):
            thread = threading.Thread(target=appear)
            thread.start()
            thread.join()
            assert draw(NAME) == expected(NAME, 42)[0]
        check_end()
        """,
        name,
    )


@each_library
def test_a_decorated_function_may_import_a_library(name):
    """Functions, and generators that are put aside in between."""
    run(
        """
        from rngscope import seeded

        @seeded(42)
        def steps():
            yield
            appear()
            yield draw(NAME)
            yield draw(NAME)

        running = steps()
        next(running)
        drawn = next(running)
        assert state_now() == first_state()
        assert [drawn, next(running)] == expected(NAME, 42, 2)
        running.close()
        check_end()
        """,
        name,
    )


@each_library
def test_what_the_program_seeds_while_it_imports_is_part_of_the_body(name):
    """seed_all does not reach what is imported later; the scope does."""
    run(
        """
        with rng_scope(42):
            seed_all(7)
            appear()
            assert draw(NAME) == expected(NAME, 42)[0]
            seed_all(7)
            assert draw(NAME) == expected(NAME, 7)[0]
        check_end()
        """,
        name,
    )


@each_library
def test_a_spec_that_was_only_looked_up_is_harmless(name):
    """find_spec imports nothing; its loader works inside and after the scope."""
    run(
        """
        import importlib.util

        with rng_scope(42):
            spec = importlib.util.find_spec(LIBRARY.partition(".")[0])
            assert spec.loader is not None
            assert LIBRARY not in sys.modules
        appear()
        check_end()
        """,
        name,
    )


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
def test_numpy_without_its_random_module_is_no_source_yet():
    """import numpy does not import numpy.random: it appears at its first use."""
    run(
        """
        import numpy

        was_lazy = "numpy.random" not in sys.modules
        with rng_scope(42):
            assert ("numpy.random" not in sys.modules) == was_lazy
            numpy.random
            assert draw(NAME) == expected(NAME, 42)[0]
        check_end()
        """,
        "numpy",
    )


#: What counts on NumPy's generator as soon as NumPy is imported -> the same with others only.
COUNTS_ON_NUMPY = {
    "seed_all(42)": "seed_all(42, sources=['python'])",
    "RNGState.capture()": "RNGState.capture(sources=['python'])",
    "assert_rng_unchanged().__enter__()": "assert_rng_unchanged(sources=['python']).__enter__()",
}


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
@pytest.mark.parametrize("what", COUNTS_ON_NUMPY)
@pytest.mark.parametrize("scope", ["contextlib.nullcontext()", "rng_scope(5)"])
def test_who_imported_numpy_has_its_random_module(what, scope):
    """That NumPy puts its import off must not leave its generator out."""
    run(
        f"""
        import contextlib
        from rngscope import assert_rng_unchanged, seed_all

        {what}
        assert "numpy" not in sys.modules
        import numpy

        was_lazy = "numpy.random" not in sys.modules
        {COUNTS_ON_NUMPY[what]}
        assert ("numpy.random" not in sys.modules) == was_lazy
        before = random.getstate()
        with {scope}:
            made = {what}
            first = draw(NAME)
            if "seed_all" in {what!r}:
                assert first == expected(NAME, 42)[0]
            elif "capture" in {what!r}:
                made.restore()
                assert draw(NAME) == first
            else:
                try:
                    made.__exit__(None, None, None)
                except AssertionError as error:
                    assert "'numpy'" in str(error)
                else:
                    raise AssertionError("it saw nothing")
        """,
        "numpy",
    )


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
def test_a_state_is_restored_although_numpy_put_its_import_off():
    """As a checkpoint is in a new process."""
    saved = start(
        "import json, numpy.random\n"
        "from rngscope import RNGState\n"
        "print(json.dumps(RNGState.capture(sources=['numpy']).state_dict()))\n"
        "print(numpy.random.random())"
    )
    text, first = saved.stdout.splitlines()
    run(
        f"""
        import json, numpy

        RNGState.from_state_dict(json.loads({text!r})).restore()
        assert numpy.random.random() == {first}
        """,
        "numpy",
    )


@pytest.mark.skipif(len(LIBRARIES) < 2, reason="needs numpy and torch")
def test_two_libraries_appear_in_two_scopes():
    """One in the outer scope, the other in the inner one."""
    run(
        """
        with rng_scope(1):
            import numpy.random
            first = draw("numpy")
            with rng_scope(2):
                import torch
                assert draw("torch") == expected("torch", 2)[0]
                assert draw("numpy") == expected("numpy", 2)[0]
            assert draw("torch") == expected("torch", 1)[0]
            assert [first, draw("numpy")] == expected("numpy", 1, 2)
        check_end()
        NAME = "torch"
        assert state_now() == first_state()
        """,
        "numpy",
    )


@pytest.mark.skipif(not LIBRARIES, reason="needs numpy or torch")
def test_a_library_that_appears_while_a_scope_is_entered_confuses_nothing():
    """A generator of the user's may import what it needs when it is asked for its state."""
    run(
        """
        class Lazy(random.Random):
            def getstate(self):
                if LIBRARY not in sys.modules:
                    appear()
                return super().getstate()

        own = Lazy(1)
        with rng_scope(1):
            with rng_scope(2, generators=[own]):
                assert random.random() == own.random() == random.Random(2).random()
            assert draw(NAME) == expected(NAME, 1)[0]
        assert random.Random(1).random() == own.random()
        check_end()
        """,
        LIBRARIES[0],
    )


# Other loaders and failing imports --------------------------------------------------------


def test_an_import_that_raises_raises_as_ever_and_can_be_tried_again(tmp_path):
    """The scope does not come between, and takes the library up at the second try."""
    package = tmp_path / "torch"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        textwrap.dedent(
            """
            import os

            if "BROKEN" in os.environ:
                raise OSError("no such library")
            """
        )
    )
    run(
        """
        import os

        sys.path.insert(0, sys.argv[2])
        os.environ["BROKEN"] = "1"
        for _ in range(2):
            with rng_scope(42):
                for _ in range(2):
                    try:
                        import torch
                    except OSError as error:
                        assert str(error) == "no such library"
                        frames, step = [], error.__traceback__
                        while step is not None:
                            frames.append(step.tb_frame.f_code.co_filename)
                            step = step.tb_next
                        assert frames[-1].startswith(sys.argv[2])
                    else:
                        raise AssertionError
                    assert "torch" not in sys.modules
            assert sys.meta_path == finders
        with rng_scope(42):
            del os.environ["BROKEN"]
            import torch

            # A module of that name without generators is no source.
            assert set(RNGState.capture().fingerprints()) == {"python"}
            assert "exec_module" not in vars(torch.__spec__.loader)
            with rng_scope(7):
                assert random.random() == random.Random(7).random()
        assert sys.meta_path == finders and random.getstate() == at_first
        """,
        "torch",
        str(tmp_path),
    )


@each_library
def test_finders_of_other_packages_still_find(name):
    """A finder in front of the usual ones, with a loader of its own, as import hooks have."""
    run(
        """
        from importlib.machinery import PathFinder

        asked = []

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                asked.append(name)
                spec = PathFinder.find_spec(name, path, target)
                if spec is not None and name == LIBRARY:
                    spec.loader = Loader(spec.loader)
                return spec

        class Loader:
            def __init__(self, loader):
                self.loader = loader

            def create_module(self, spec):
                return self.loader.create_module(spec)

            def exec_module(self, module):
                self.loader.exec_module(module)
                asked.append("has run")

            def __getattr__(self, name):
                return getattr(self.loader, name)

        sys.meta_path.insert(0, Finder)
        finders = list(sys.meta_path)
        with rng_scope(42):
            appear()
            assert asked.count(LIBRARY) == 1 and asked.count("has run") == 1
            assert draw(NAME) == expected(NAME, 42)[0]
        assert type(sys.modules[LIBRARY].__spec__.loader) is Loader
        check_end()
        """,
        name,
    )


@each_library
def test_a_loader_that_takes_no_attributes_is_left_alone(name):
    """The library is taken up at the next scope at the latest; its import does not break."""
    run(
        """
        from importlib.machinery import PathFinder

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                spec = PathFinder.find_spec(name, path, target)
                if spec is not None and name == LIBRARY:
                    spec.loader = Loader(spec.loader)
                return spec

        class Loader:
            __slots__ = ("loader",)

            def __init__(self, loader):
                self.loader = loader

            def create_module(self, spec):
                return self.loader.create_module(spec)

            def exec_module(self, module):
                self.loader.exec_module(module)

            def __getattr__(self, name):
                return getattr(self.loader, name)

        sys.meta_path.insert(0, Finder)
        with rng_scope(42):
            appear()
            with rng_scope(7):
                assert draw(NAME) == expected(NAME, 7)[0]
        assert random.getstate() == at_first
        """,
        name,
    )


@each_library
def test_a_library_that_cannot_be_seeded_warns_and_does_not_break_the_import(name):
    """An import statement must not fail because of a scope around it."""
    run(
        """
        import warnings
        from rngscope.sources import SOURCES

        source, = [source for source in SOURCES if source.name == NAME]

        def fail(*args):
            raise OSError("broken")

        source.seed = fail
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with rng_scope(42):
                appear()
        del source.seed
        messages = [str(warning.message) for warning in caught]
        assert f"{NAME} could not be seeded when it appeared: broken" in messages, messages
        check_end()
        """,
        name,
    )


# What is not the library ------------------------------------------------------------------

NOT_THERE = """
import random, sys, warnings

sys.path[:] = [path for path in sys.path if "site-packages" not in path]
from rngscope import _arrival, rng_scope
"""


def run_without_libraries(body, *args):
    done = start(NOT_THERE + textwrap.dedent(body), *args)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_import_that_fails_in_a_scope_fails_as_ever():
    """Nobody finds the library: the finder that listens says so, too."""
    run_without_libraries(
        """
        with rng_scope(42):
            first = random.random()
            try:
                import torch
            except ModuleNotFoundError as error:
                assert error.name == "torch" and error.__context__ is None
            else:
                raise AssertionError("there is one")
        assert first == random.Random(42).random()
        assert _arrival.pending == {"numpy.random", "torch"}
        """
    )


def test_a_folder_with_the_name_of_a_library_is_not_the_library(tmp_path):
    """It is a namespace package, which no loader runs."""
    (tmp_path / "torch").mkdir()
    run_without_libraries(
        """
        sys.path.insert(0, sys.argv[1])
        for _ in range(2):
            with rng_scope(42):
                import torch
                assert random.random() == random.Random(42).random()
                del sys.modules["torch"]
        assert "torch" in _arrival.pending
        """,
        str(tmp_path),
    )


def test_a_loader_of_several_modules_tells_of_the_library_only(tmp_path):
    """A part that the library imports while it runs is not the library."""
    (tmp_path / "torch.py").write_text("import part\nassert part.number\ndefault_generator = None")
    (tmp_path / "part.py").write_text("number = 1")
    run_without_libraries(
        """
        from importlib.machinery import ModuleSpec
        from pathlib import Path

        class Loader:
            def create_module(self, spec):
                return None

            def exec_module(self, module):
                path = Path(sys.argv[1]) / (module.__name__ + ".py")
                exec(path.read_text(), vars(module))

        class Finder:
            loader = Loader()

            def find_spec(self, name, path=None, target=None):
                return ModuleSpec(name, self.loader) if name in ("torch", "part") else None

        sys.meta_path.insert(0, Finder())
        told = []
        with rng_scope(42):
            _arrival.take_up = told.append
            import torch
        assert told == ["torch"]
        assert "exec_module" not in vars(Finder.loader)
        """,
        str(tmp_path),
    )


def test_a_scope_that_ends_during_the_import_of_another_thread_hides_no_finder(tmp_path):
    """That thread is on its way through the finders, where ours stood at the front."""
    (tmp_path / "something.py").write_text("")
    run_without_libraries(
        """
        import threading
        from importlib.machinery import PathFinder

        sys.path.insert(0, sys.argv[1])
        inside, go_on, imported = threading.Event(), threading.Event(), []

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "something":
                    inside.set()
                    go_on.wait(60)

        def work():
            import something
            imported.append(something)

        place = sys.meta_path.index(PathFinder)
        sys.meta_path.insert(place, Slow())
        with rng_scope(1):
            thread = threading.Thread(target=work)
            thread.start()
            assert inside.wait(60)
        go_on.set()
        thread.join()
        assert imported and type(sys.meta_path[place]) is Slow
        """,
        str(tmp_path),
    )
