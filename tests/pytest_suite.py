"""Small suites that pytest runs in a process of its own, for the tests of the plugin."""

import json
import random

CONFTEST = """
import json, random
import pytest

def note(key, value=None):
    "Write down a value, or the next number of Python's RNG."
    with open("notes.jsonl", "a") as file:
        file.write(json.dumps([key, random.random() if value is None else value]) + "\\n")

class Reporter:
    def pytest_runtest_logreport(self, report):
        note("between phases", hash(random.getstate()[1]))

def pytest_configure(config):
    config.pluginmanager.register(Reporter())
"""


class Suite:
    def __init__(self, pytester):
        self.pytester = pytester
        self.path = pytester.path

    def write(self, text, name="test_it"):
        head = "import random\nimport pytest\nfrom conftest import note\n"
        self.pytester.makepyfile(**{name: head + text})

    def run(self, *flags, plugins=()):
        """Run pytest with rngscope and these plugins, which are named by their entry points."""
        chosen = [flag for name in ("rngscope", *plugins) for flag in ("-p", name)]
        return self.pytester.runpytest_subprocess(*chosen, *flags)

    def notes(self, *flags, plugins=(), **outcomes):
        """Run, check the outcomes, and return what was written down: key -> values."""
        path = self.path / "notes.jsonl"
        path.unlink(missing_ok=True)
        result = self.run(*flags, plugins=plugins)
        result.assert_outcomes(**outcomes)
        notes = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            key, value = json.loads(line)
            notes.setdefault(key, []).append(value)
        self.result = result
        #: The state of Python's RNG after each phase.
        self.between = notes.pop("between phases", [])
        return notes


def draws(seed, count):
    """Return the first numbers that Python draws after this seed."""
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


def summary(result):
    """Return the lines of the section on leaks, without the remedy at its end."""
    lines = result.outlines
    heads = [i for i, line in enumerate(lines) if "rngscope: global RNGs moved" in line]
    if not heads:
        return []
    rest = lines[heads[0] + 1 :]
    end = next(i for i, line in enumerate(rest) if line.startswith(("Wrap the", "Leave each")))
    return [line for line in rest[:end] if line]
