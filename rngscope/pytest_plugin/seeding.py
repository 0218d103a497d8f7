"""What runs in streams of its own: a test, or a fixture of a wider scope."""

from __future__ import annotations

import warnings
from _thread import get_ident

import pytest

from rngscope._errors import raise_together
from rngscope._open_scopes import OpenScope, scopes
from rngscope._scope import rng_scope
from rngscope._sources import SOURCES, load_what_is_lazy
from rngscope.pytest_plugin.leaks import describe, has_moved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rngscope.pytest_plugin.run import Run

#: Types whose ``repr`` is the same in every process.
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


class Stretch:
    """What runs, with breaks, in streams of its own: a test, or a fixture of a wider scope.

    The fixtures of one test are stretches as well while leaks are looked for, only to be
    named.
    """

    def __init__(
        self,
        run: Run,
        owner: str,
        item: pytest.Item | None = None,
        part_of: Stretch | None = None,
    ) -> None:
        self.run = run
        self.owner = owner
        self.item = item
        self.part_of = part_of
        self.is_wide = item is None and part_of is None
        self.streams: list[OpenScope] = []
        self.phase = ""
        #: Without streams: the scopes that were open before. Others are its own.
        self.base: list[OpenScope] | None = None
        self.states: dict[str, Any] = {}
        #: Streams of the test around a fixture, which are put aside for it.
        self.aside: list[OpenScope] = []

    @property
    def seed(self) -> int | None:
        return self.streams[-1].seed if self.streams else None

    def begin(self, phase: str) -> None:
        """Take up the streams."""
        self.phase = phase
        running = self.run.running
        if running:
            running[-1].compare()
            self.put_test_aside()
        try:
            for stream in self.streams:
                stream.take_up()
        except BaseException:
            _each(s.put_aside for s in self.streams[::-1] if s.saved is not None)
            raise
        if not self.streams and self.base is None:
            self.base = scopes[:]
        running.append(self)
        if self.run.leaks:
            self.look()

    def put_test_aside(self) -> None:
        """Leave the streams of the test around a fixture, if this has none of its own.

        The seed in the marker of one test is not for the fixtures of others.
        """
        if self.is_wide and not self.streams:
            around = next(s for s in self.run.running[::-1] if s.part_of is None)
            self.aside = [] if around.is_wide else around.streams
            _each(stream.put_aside for stream in self.aside[::-1])

    def end(self, is_last: bool = False) -> None:
        """Put the streams aside, or leave them for good."""
        running = self.run.running
        if running[-1:] != [self]:
            # Its beginning failed.
            return
        running.pop()
        try:
            if self.run.leaks:
                self.compare()
            if is_last and (self.item or self.streams):
                self.leave_what_is_open()
        finally:
            _each((s.leave if is_last else s.put_aside) for s in self.streams[::-1])
            still_open = self.own_scopes() if self.is_wide and not self.streams else []
            aside, self.aside = self.aside, []
            _each(stream.take_up for stream in aside)
        if running:
            outer = running[-1].part_of or running[-1]
            if outer.base is not None:
                outer.base += still_open
            running[-1].look()

    def own_scopes(self) -> list[OpenScope]:
        """Return the scopes that this stretch has opened and that are open now."""
        if self.part_of is not None:
            return self.part_of.own_scopes()
        if not self.streams:
            above = [scope for scope in scopes if scope not in (self.base or ())]
        elif scopes[-1] is self.streams[-1]:
            return []
        else:
            above = scopes[scopes.index(self.streams[-1]) + 1 :]
        me = get_ident()
        return [scope for scope in above if scope.thread == me]

    def leave_what_is_open(self) -> None:
        """Close the scopes that were opened here and never left, and report them."""
        own = self.own_scopes()
        _each(scope.leave for scope in reversed(own))
        for scope in own:
            message = f"{self.owner}: never left {scope.describe()}"
            if self.run.leaks:
                self.run.found.append(message)
            else:
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    # Looking for leaks -------------------------------------------------------------------

    def look(self) -> None:
        """Remember where the RNGs stand under the scopes of this stretch."""
        if not self.run.leaks:
            return
        # Otherwise the first draw would go unseen.
        load_what_is_lazy(SOURCES)
        self.states = self.find_states()

    def compare(self) -> None:
        """Report the RNGs that have moved since."""
        if not self.run.leaks:
            return
        before, now = self.states, self.find_states()
        moved = [
            name
            for name in before
            if name in now
            and name not in self.run.allowed
            and has_moved(name, before[name], now[name])
        ]
        if moved:
            how = describe({name: (before[name], now[name]) for name in moved})
            self.run.found.append(f"{self.owner}: {self.phase}: {how}")

    def find_states(self) -> dict[str, Any]:
        own = self.own_scopes()
        states = {}
        for source in SOURCES:
            state = None
            for scope in own:
                place = scope._place_of(source)
                if place is not None and scope.saved is not None:
                    state = source.portable(scope.saved[place])
                    break
            else:
                state = source.capture()
            if state is not None:
                states[source.name] = state
        return states


def _each(actions: Iterable[Callable[[], object]]) -> None:
    """Do every action in spite of errors, and raise them at the end."""
    errors: list[BaseException] = []
    for act in actions:
        try:
            act()
        except BaseException as error:
            errors.append(error)
    raise_together("several streams could not be put aside", errors)


def scope_of(marker: pytest.Mark) -> rng_scope:
    if not marker.args and "seed" not in marker.kwargs:
        pytest.fail("rng_seed needs a seed: write @pytest.mark.rng_seed(42)", pytrace=False)
    try:
        return rng_scope(*marker.args, **marker.kwargs)
    except (TypeError, ValueError) as error:
        message = f"@pytest.mark.rng_seed: {error}"
    pytest.fail(message, pytrace=False)


def parameter_of(request: pytest.FixtureRequest) -> tuple[str | int, ...]:
    if not hasattr(request, "param"):
        return ()
    # The position says less: tests may list the same values in another order.
    param = request.param
    return (repr(param) if type(param) in _PLAIN else getattr(request, "param_index", 0),)
