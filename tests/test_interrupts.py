"""Law 1 under interrupts: whatever comes out of the blue, every RNG is as it was.

Each test is a run of ``every_interrupt.py``, in a process of its own: what is left behind there
spoils nothing here, and no other tool traces it. In every run a sample; that script alone tries
every point.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import NAMES

PROGRAM = Path(__file__).parent / "every_interrupt.py"

WORLDS = [
    "python",
    pytest.param("all", marks=pytest.mark.skipif(len(NAMES) < 2, reason="needs a library")),
    pytest.param("API", marks=pytest.mark.skipif(len(NAMES) < 2, reason="needs a library")),
    *[
        pytest.param(world, marks=pytest.mark.skipif(name not in NAMES, reason=f"needs {name}"))
        for world, name in (("plain lock", "numpy"), ("waiting", "torch"), ("started", "torch"))
    ],
]

#: The uses that are interrupted at random times.
STORMED = (
    *("with_seed", "preserving", "nested", "decorated", "generator_in_scopes", "coroutine"),
    *("async_generator", "stream", "stream_through_scope"),
)


def run(*arguments, code=None):
    """Return what the program found: name -> number of points, swallowed ones, faults."""
    start = [str(PROGRAM)] if code is None else ["-c", code]
    # Coverage traces as well, and has a lock of its own, which an interrupt may leave locked.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, *start, "--json", *arguments],
        env=dict(environment, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def faults_in(results):
    return {name: faults for name, (_, _, faults) in results.items() if faults}


@pytest.mark.parametrize("world", WORLDS)
def test_an_interrupt_wherever_one_can_come_leaves_nothing(world):
    """A sample of the points of every use; other ones in every run."""
    offset = str(int.from_bytes(os.urandom(2), "little") % 97)
    results = run("points", "--world", world, "--every", "97", "--offset", offset)
    assert not faults_in(results), f"--every 97 --offset {offset}"
    assert sum(points for points, _, _ in results.values()) > 100


@pytest.mark.parametrize("world", WORLDS)
def test_interrupts_at_random_times_leave_nothing(world):
    """With real signals, in tight loops and in bodies: not one leaks."""
    uses = [word for use in STORMED for word in ("--use", use)]
    results = run("storms", "--world", world, "--rounds", "100", *uses)
    assert not faults_in(results)
    assert sum(rounds for rounds, _, _ in results.values()) == len(STORMED) * 2 * 100


@pytest.mark.parametrize("world", WORLDS)
def test_a_use_at_every_depth_near_the_recursion_limit_leaves_nothing(world):
    """A ``RecursionError`` comes out as itself, at each remaining depth from 1 to 80."""
    results = run("depths", "--world", world)
    assert not faults_in(results)
    assert all(points for points, _, _ in results.values())


BROKEN = """
import sys
sys.path.insert(0, {folder!r})
import every_interrupt
from rngscope import rng_scope
from rngscope._interrupts import RESUME

code = rng_scope.__exit__.__code__
start = bytes((RESUME, 3))
assert code.co_code.startswith(start)
rng_scope.__exit__.__code__ = code.replace(co_code=bytes((RESUME, 0)) + code.co_code[2:])
sys.exit(every_interrupt.main())
"""


def test_a_single_point_that_is_not_guarded_is_found():
    """As the start of ``__exit__`` is, where CPython looks for signals there."""
    code = BROKEN.format(folder=str(PROGRAM.parent))
    results = run("points", "--world", "python", "--use", "with_seed", code=code)
    ((points, _, faults),) = results.values()
    # Where a library is missing, a scope that stays open also keeps the finder.
    finder = {"the finder", "changed finders"}
    assert points > 20 and set(faults) - finder == {"1 scopes open", "changed python"}
    assert all("__exit__" in place for places in faults.values() for place in places)
