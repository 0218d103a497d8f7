"""What works while a run is seeded or watched: what its hooks have in common."""

from __future__ import annotations

from functools import cached_property

import pytest

from rngscope._arrival import take_in
from rngscope._order import lock
from rngscope._state import RNGState
from rngscope.pytest_plugin.generators import Generators
from rngscope.pytest_plugin.imports import Imports
from rngscope.pytest_plugin.leaks import Finding, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rngscope.pytest_plugin.options import Asked
    from rngscope.pytest_plugin.seeding import Stretch

#: The state at the start of a test, for the fixture ``rng_state``.
START = pytest.StashKey[RNGState]()


def fixtures_of(item: pytest.Item) -> Iterable[str]:
    """Return the names of the fixtures that a test uses."""
    return getattr(item, "fixturenames", ())


class Run:
    """One run of pytest in which tests are seeded, watched, or both."""

    def __init__(self, config: pytest.Config, asked: Asked) -> None:
        self.config = config
        self.asked = asked
        self.seed = asked.seed
        self.watch = Watch(asked.allowed) if asked.leaks else None
        self.generators = Generators(asked.generators)
        self.imports = Imports(self)
        #: The stretches that are running, the innermost last.
        self.running: list[Stretch] = []
        self.test: Stretch | None = None
        #: What was found outside of tests: in imports, and in collection.
        self.found: list[Finding] = []

    @cached_property
    def has_randomly(self) -> bool:
        """Tell whether pytest-randomly seeds every test."""
        has_plugin = self.config.pluginmanager.has_plugin("randomly")
        return has_plugin and getattr(self.config.option, "randomly_reset_seed", True)

    def flags(self) -> str:
        """Return the flags that reproduce the run."""
        flags = [] if self.seed is None else [f"--rng-seed={self.seed}"]
        if self.asked.leaks:
            flags.append(f"--rng-leaks={self.asked.leaks}")
        return " ".join(flags)

    def watch_who_runs(self) -> None:
        """Watch the RNGs, if asked to, for the innermost of what runs now."""
        if self.watch is not None:
            stretch = self.running[-1] if self.running else None
            self.watch.switch(stretch if stretch and stretch.is_watched else None)

    def watch_nobody(self) -> None:
        """Blame who ran until now, if asked to."""
        if self.watch is not None:
            self.watch.switch(None)

    def take_in_generators(self, complete: str = "") -> None:
        """Have all that runs now cover the RNG objects whose modules are there by now."""
        if complete and complete not in self.generators.waiting:
            return
        for source in self.generators.look(complete):
            with lock:
                _cover(source, self.running)

    def ask_for_generators(self) -> None:
        """Take in what plugins and conftest files want to have seeded.

        Raises:
            pytest.UsageError: it cannot be, or a name in the ini file is wrong.
        """
        try:
            for objects in self.config.hook.pytest_rng_generators(config=self.config):
                self.generators.add(objects)
        except TypeError as error:
            raise pytest.UsageError(f"pytest_rng_generators: {error}") from None
        self.take_in_generators()
        if self.generators.wrong:
            raise pytest.UsageError(self.generators.wrong)

    def keep_start(self) -> None:
        """Keep the state for the fixture ``rng_state``."""
        test = self.test
        if test and test.item and test.phase == "set-up" and "rng_state" in fixtures_of(test.item):
            test.item.stash[START] = RNGState.capture()

    def was_reseeded(self) -> None:
        """Take what pytest-randomly did at the start of a phase as no doing of the test."""
        if self.test is not None and self.running[-1:] == [self.test] and not self.test.streams:
            if self.watch is not None:
                self.watch.look_again()
            self.keep_start()


def _cover(source: Any, running: list[Stretch]) -> None:
    for stretch in running:
        for stream in stretch.whole:
            if stream.found is not None:
                take_in(stream, source)
