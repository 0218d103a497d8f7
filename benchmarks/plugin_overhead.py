"""What the pytest plugin costs on a suite of empty tests.

    python benchmarks/plugin_overhead.py [--tests 2000] [--repeats 7] [--json]

Each way to run the suite is a process of its own; the ways take turns, and the fastest run
of each counts.

While it is idle, the plugin costs its import: processor time of the whole process, in a
suite that imports neither torch nor NumPy, which would hide it (target: at most 3 %).
What it costs in each test is the time from the first hook of a test to the last one, the
lower decile over all tests, where torch and NumPy are imported, if they are installed
(targets: with ``--rng-seed`` no more than pytest-randomly, which restores nothing, or 60 us;
with ``--rng-leaks`` 100 us).
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = ["-p", "rngscope.pytest_plugin"]
#: Way -> (flags, whether the suite imports the libraries, the way to compare with).
WAYS = {
    "without": ([], False, "without"),
    "idle": (PLUGIN, False, "without"),
    "without, libraries": ([], True, "without, libraries"),
    "idle, libraries": (PLUGIN, True, "without, libraries"),
    "--rng-seed": ([*PLUGIN, "--rng-seed=0"], True, "without, libraries"),
    "--rng-leaks": ([*PLUGIN, "--rng-leaks=warn"], True, "without, libraries"),
    "both": ([*PLUGIN, "--rng-seed=0", "--rng-leaks=warn"], True, "without, libraries"),
}
if importlib.util.find_spec("pytest_randomly") is not None:
    # In the same order as the others.
    RANDOMLY = ["-p", "pytest_randomly", "--randomly-seed=0", "--randomly-dont-reorganize"]
    WAYS["pytest-randomly"] = (RANDOMLY, True, "without, libraries")
FILES = 20
CONFTEST = """\
import importlib, os, sys, time
import pytest

for name in os.environ["LIBRARIES"].split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass

# Let pytest-randomly seed Python and NumPy only. It also calls what other packages have registered
# with it, and so rngscope, and puts states into libraries that may be installed here or not.
randomly = sys.modules.get("pytest_randomly")
if randomly is not None:
    randomly.entrypoint_reseeds = []
    for library in ("factory_boy", "faker", "model_bakery", "polyfactory"):
        setattr(randomly, f"have_{library}", False)

TIMES = []

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol():
    start = time.perf_counter()
    result = yield
    TIMES.append(time.perf_counter() - start)
    return result

def pytest_sessionfinish():
    with open("decile.txt", "w") as file:
        file.write(str(sorted(TIMES)[len(TIMES) // 10]))
"""


def write_suite(directory, tests):
    for number in range(FILES):
        lines = [f"def test_{index}():\n    pass\n" for index in range(tests // FILES)]
        (directory / f"test_{number}.py").write_text("\n\n".join(lines))
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "pytest.ini").write_text("[pytest]\n")


def run_once(directory, flags, has_libraries):
    """Return the processor seconds of the whole process, and the seconds of one test."""
    environment = os.environ | {
        # Other plugins would cost the same in every way, and blur the difference.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "LIBRARIES": "numpy.random torch" if has_libraries else "",
    }
    # pytest keeps its own compiled form of a plugin; without it each run would compile anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return whole, float((directory / "decile.txt").read_text())


def measure(tests, repeats, ways=tuple(WAYS)):
    """Return the fastest of both times for each way."""
    fastest = {way: (float("inf"), float("inf")) for way in ways}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_suite(directory, tests)
        for _ in range(repeats):
            for way in ways:
                flags, has_libraries, _ = WAYS[way]
                times = run_once(directory, flags, has_libraries)
                fastest[way] = tuple(map(min, fastest[way], times))
    return fastest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    fastest = measure(options.tests, options.repeats)
    results = {}
    for way, (whole, test) in fastest.items():
        base_whole, base_test = fastest[WAYS[way][2]]
        results[way] = {
            "ms_per_run": round(1e3 * whole, 1),
            "percent_of_run": round(100 * (whole / base_whole - 1), 2),
            "us_per_test": round(1e6 * (test - base_test), 1),
        }
    if options.json:
        print(json.dumps({"tests": options.tests, "repeats": options.repeats, "ways": results}))
        return
    print(f"{options.tests} empty tests, fastest of {options.repeats} runs")
    for way, row in results.items():
        print(
            f"{way:18} {row['ms_per_run']:8.1f} ms a run {row['percent_of_run']:+7.2f} % "
            f"{row['us_per_test']:+7.1f} us a test"
        )


if __name__ == "__main__":
    main()
