"""One file and its place in the list make a source of a new library, for every part of rngscope.

The package is copied, and gets a source of a library that this test writes: dice.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rngscope

LIBRARY = """
import random

_dice = random.Random(1)
roll, seed = _dice.random, _dice.seed
"""

SOURCE = '''
"""The dice of the module ``dice``."""

import random
import sys

from rngscope.sources.cell import OneCell
from rngscope.sources.python import dump_python, load_python


class DiceSource(OneCell):
    name = kind = "dice"
    module = "dice"
    path = ("dice",)

    def getstate(self):
        return sys.modules["dice"]._dice.getstate()

    def setstate(self, state):
        sys.modules["dice"]._dice.setstate(state)

    def seed(self, seed):
        sys.modules["dice"].seed(seed)

    def dump(self, state):
        return dump_python(state)

    def load(self, fields):
        return load_python(fields, self.name)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds the package with the new source, and the library."""
    place = tmp_path_factory.mktemp("toy")
    shutil.copytree(
        Path(rngscope.__file__).parent,
        place / "rngscope",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (place / "rngscope" / "sources" / "dice.py").write_text(SOURCE)
    sources = place / "rngscope" / "sources" / "__init__.py"
    text = sources.read_text()
    line = "from rngscope.sources.dice import DiceSource"
    added = text.replace("\nfrom rngscope", f"\n{line}\nfrom rngscope", 1)
    added = added.replace("    PythonSource(),\n", "    DiceSource(),\n    PythonSource(),\n")
    assert added.count("DiceSource") == 2
    sources.write_text(added)
    (place / "dice.py").write_text(LIBRARY)
    return place


def run(place, *arguments):
    # The lines of the copy are none of the package's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def passes(place, code):
    done = run(place, "-c", code)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


BEGIN = """
import random
from rngscope import RNGState, RNGStream, assert_rng_unchanged, derive_seed, rng_scope
from rngscope import seed_all, seeded

def rolls(seed, count=1):
    own = random.Random(seed)
    return [own.random() for _ in range(count)]
"""


@pytest.mark.parametrize(
    "entry", ["rng_scope(42)", "rng_scope(42, sources=['dice'])", "RNGStream(42)"]
)
def test_a_library_that_is_imported_inside_is_seeded_and_put_back(place, entry):
    """Also when scopes were used before, and looked at what there is."""
    passes(place, BEGIN + f"""
with rng_scope(1):
    pass
with {entry}:
    import dice
    assert [dice.roll()] == rolls(42)
assert [dice.roll()] == rolls(1)
""")


def test_it_is_covered_like_every_other(place):
    """Scopes in any order, decorated bodies, streams, states, seeds by name."""
    passes(place, BEGIN + """
import copy, json, warnings
import dice

before = dice._dice.getstate()
with rng_scope(42):
    assert [dice.roll()] == rolls(42)
    with rng_scope(43, sources=["dice"]):
        assert [dice.roll()] == rolls(43)
    assert [rolls(42), [dice.roll()]][1] == rolls(42, 2)[1:]
with rng_scope(42, independent=True):
    assert [dice.roll()] == rolls(derive_seed(42, "dice"))
with rng_scope(42, sources=["python"]):
    dice.roll()
assert dice._dice.getstate() != before
dice._dice.setstate(before)

first, second = rng_scope(1), rng_scope(2)
first.__enter__(), second.__enter__()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first.__exit__(), second.__exit__()
assert len(caught) == 1 and dice._dice.getstate() == before

@seeded(42)
def generate():
    yield dice.roll()
    yield dice.roll()

assert list(generate()) == rolls(42, 2) and dice._dice.getstate() == before

stream = RNGStream(42)
with stream:
    drawn = [dice.roll()]
written = json.loads(json.dumps(stream.state_dict()))
other = RNGStream(7)
other.load_state_dict(written)
for each in (copy.deepcopy(stream), stream, other):
    with each:
        assert drawn + [dice.roll()] == rolls(42, 2)

state = RNGState.from_state_dict(json.loads(json.dumps(RNGState.capture().state_dict())))
dice.roll()
assert state.differs_from(RNGState.capture()) == ["dice"]
state.restore()
assert dice._dice.getstate() == before
try:
    with assert_rng_unchanged():
        dice.roll()
except AssertionError as error:
    assert "'dice'" in str(error)
else:
    raise SystemExit("a draw went unnoticed")
seed_all(42)
assert [dice.roll()] == rolls(42)
""")


def test_the_self_check_checks_it(place):
    done = run(place, "-m", "rngscope")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("dice: "))
    assert re.match(r"dice: dice; \d+ bytes of state; outer state exact; seeded draws equal", line)


def test_the_plugin_seeds_it_and_tells_who_has_moved_it(place):
    (place / "test_it.py").write_text("""
import dice

def test_one():
    dice.roll()

def test_same(seen=[]):
    seen.append(dice.roll())
""")
    options = ("-p", "no:cacheprovider", "-p", "no:randomly")
    done = run(place, "-m", "pytest", *options, "--rng-seed=7", "test_it.py")
    assert done.returncode == 0, done.stdout
    done = run(place, "-m", "pytest", *options, "--rng-leaks=error", "test_it.py")
    assert "moved 'dice'" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout and "INTERNALERROR" not in done.stdout
