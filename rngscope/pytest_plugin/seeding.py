"""What runs in streams of its own: a test, a fixture of a wider scope, an import."""

from __future__ import annotations

import warnings
from _thread import get_ident
from functools import wraps

import pytest

from rngscope._errors import raise_together
from rngscope._life import Life, LifeOfProcess
from rngscope._order import lives
from rngscope._origin import describe
from rngscope._plan import Plan
from rngscope._scope import life_of, rng_scope
from rngscope._seeds import derive_seed
from rngscope.pytest_plugin.leaks import Finding
from rngscope.pytest_plugin.names import definition_name, node_name
from rngscope.sources import SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rngscope.pytest_plugin.run import Run

_RUNS = pytest.StashKey[int]()
#: Types whose ``repr`` is the same in every process.
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def stream_over_all(seed: int, function: Any = None) -> Life:
    """Return the scope around a test, fixture or import, and around the threads that it starts."""
    return LifeOfProcess(Plan(SOURCES, seed), function)


def _unheard(change: Callable[..., None]) -> Callable[..., None]:
    """Have imports go unheard while a stretch begins or ends: states are looked at there."""

    @wraps(change)
    def act(stretch: Stretch, *args: Any, **kwargs: Any) -> None:
        imports = stretch.run.imports
        imports.is_deaf = True
        try:
            change(stretch, *args, **kwargs)
        finally:
            imports.is_deaf = False

    return act


class Stretch:
    """What runs, with breaks, in streams of its own.

    That is a test, a fixture of a wider scope, or the import of a module. The fixtures of
    one test are stretches as well while leaks are looked for, only to be named.

    Args:
        run: the run that it belongs to.
        owner: what to call it in the list of leaks.
        part: what to call it in the failure of a test; "" for the test itself.
        item: the test, if it is one.
        part_of: the stretch whose scopes it shares.
        is_wide: whether the streams of the test around it are not for it.
    """

    def __init__(
        self,
        run: Run,
        owner: str,
        part: str = "",
        *,
        item: pytest.Item | None = None,
        part_of: Stretch | None = None,
        is_wide: bool = False,
    ) -> None:
        self.run = run
        self.owner = owner
        self.part = part
        self.item = item
        self.part_of = part_of
        self.is_wide = is_wide
        #: Whether it may be blamed for what it moves.
        self.is_watched = True
        #: How often the test has run before.
        self.rerun = 0
        #: The outermost first.
        self.streams: list[Life] = []
        #: Those among them that cover the generators of the run as well.
        self.whole: list[Life] = []
        self.phase = ""
        #: Without streams: the scopes that were open before. Others are its own.
        self.base: list[Life] | None = None
        #: The scopes that were open when the phase began.
        self.before: list[Life] = []
        #: The test around a fixture, whose streams are suspended for it.
        self.around: Stretch | None = None

    @property
    def seed(self) -> int | None:
        return self.streams[-1].plan.seed if self.streams else None

    def add(self, stream: Life, is_whole: bool = True) -> None:
        """Have it run in one more stream, inside of those that it has."""
        self.streams.append(stream)
        if is_whole:
            self.whole.append(stream)

    def tell(self, what: str, sources: Iterable[str] = ()) -> Finding:
        """Return the words for something that was done here."""
        line = ": ".join(filter(None, (self.owner, self.phase, what)))
        where = " of ".join(filter(None, (self.phase, self.part)))
        return Finding(line, f"{what} in {where}", tuple(sources))

    @_unheard
    def begin(self, phase: str) -> None:
        """Resume the streams."""
        self.phase = phase
        run = self.run
        run.watch_nobody()
        if self.is_wide and run.running and not self.streams:
            self.suspend_test()
        try:
            for stream in self.streams:
                if run.generators.sources:
                    self.join(stream)
                stream.resume()
        except BaseException:
            _each(s.suspend for s in self.streams[::-1] if s.found is not None)
            raise
        if not self.streams:
            self.before = lives[:]
            if self.base is None:
                self.base = lives[:]
        run.running.append(self)
        run.watch_who_runs()

    def join(self, stream: Life) -> None:
        """Have one stream cover the generators that are there by now, from its next entry on."""
        if stream in self.whole:
            self.run.generators.join(stream)

    def suspend_test(self) -> None:
        """Leave the streams of the test around a fixture that has none of its own.

        The seed in the marker of one test is not for the fixtures of others.
        """
        around = next(s for s in self.run.running[::-1] if s.part_of is None)
        if not around.is_wide:
            self.around = around
            _each(stream.suspend for stream in around.streams[::-1])

    @_unheard
    def end(self, is_last: bool = False) -> None:
        """Suspend the streams, or leave them for good."""
        running = self.run.running
        if running[-1:] != [self]:
            # Its beginning failed.
            return
        running.pop()
        try:
            self.run.watch_nobody()
            if is_last and (self.item or self.streams):
                self.leave_what_is_open()
        finally:
            _each((s.leave if is_last else s.suspend) for s in self.streams[::-1])
            still_open: list[Life] = []
            if self.is_wide and not self.streams:
                # Those of this phase: what a test has opened before its tear-down is the test's.
                still_open = [scope for scope in self.own_scopes() if scope not in self.before]
            around, self.around = self.around, None
            if around is not None:
                for stream in around.streams:
                    around.join(stream)
                _each(stream.resume for stream in around.streams)
        if running:
            outer = running[-1].part_of or running[-1]
            if outer.base is not None:
                outer.base += still_open
            self.run.watch_who_runs()

    def own_scopes(self) -> list[Life]:
        """Return the scopes that this stretch has opened and that are open now."""
        if self.part_of is not None:
            return self.part_of.own_scopes()
        if not self.streams:
            above = [scope for scope in lives if scope not in (self.base or ())]
        elif lives[-1] is self.streams[-1]:
            return []
        else:
            above = lives[lives.index(self.streams[-1]) + 1 :]
        me = get_ident()
        return [scope for scope in above if scope.thread == me]

    def leave_what_is_open(self) -> None:
        """Close the scopes that were opened here and never left, and report them."""
        own = self.own_scopes()
        _each(scope.leave for scope in reversed(own))
        for scope in own:
            what = f"never left {describe(scope)}"
            line = f"{self.owner}: {what}"
            if self.run.watch is not None:
                self.run.watch.report(Finding(line, what, ()))
            else:
                warnings.warn(line, RuntimeWarning, stacklevel=2)


def _each(actions: Iterable[Callable[[], object]]) -> None:
    """Do every action in spite of errors, and raise them at the end."""
    errors: list[BaseException] = []
    for act in actions:
        try:
            act()
        except BaseException as error:
            errors.append(error)
    raise_together("several streams could not be suspended", errors)


def scope_of(marker: pytest.Mark) -> Life:
    """Return the scope that a marker describes, or fail the test for what is wrong with it."""
    if not marker.args and "seed" not in marker.kwargs:
        pytest.fail("rng_seed needs a seed: write @pytest.mark.rng_seed(42)", pytrace=False)
    try:
        plan = life_of(rng_scope(*marker.args, **marker.kwargs)).plan
        return LifeOfProcess(plan)
    except (TypeError, ValueError) as error:
        message = f"@pytest.mark.rng_seed: {error}"
    pytest.fail(message, pytrace=False)


def seed_of_test(seed: int, item: pytest.Item, rerun: int) -> int:
    """Return the seed of a test, or of one of its reruns."""
    name = node_name(item)
    return derive_seed(seed, name, "rerun", rerun) if rerun else derive_seed(seed, name)


def seed_of_fixture(
    seed: int, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> int:
    """Return the seed of a fixture of a wider scope, by its place and its parameter."""
    where = node_name(request.node), definition_name(fixturedef)
    return derive_seed(seed, "fixture", *where, fixturedef.argname, *_parameter_of(request))


def _parameter_of(request: pytest.FixtureRequest) -> tuple[str | int, ...]:
    if not hasattr(request, "param"):
        return ()
    # The position says less: tests may list the same values in another order.
    param = request.param
    return (repr(param) if type(param) in _PLAIN else getattr(request, "param_index", 0),)


def count_run(item: pytest.Item) -> int:
    """Count one more run of a test; return how many there were before.

    Whoever has it run again: pytest-rerunfailures, flaky and others have their own ways.
    """
    item.stash[_RUNS] = count = item.stash.get(_RUNS, 0) + 1
    # After a crash, pytest-rerunfailures goes on counting in another worker of xdist.
    return max(count, getattr(item, "execution_count", 1)) - 1


def fixture_value(item: pytest.Item, test: Stretch | None) -> int:
    """Return what the fixture ``rng_seed`` gives a test.

    Args:
        item: the test.
        test: what it runs in; None where it has asked so late that nothing of this works.
    """
    streams = () if test is None else test.streams
    seeds = [stream.plan.seed for stream in streams if stream.plan.seed is not None]
    seed = seeds[-1] if seeds else seed_of_test(0, item, 0 if test is None else test.rerun)
    # Not its low bits: with those torch draws on the CPU what the test itself draws.
    return seed if seed < 2**32 else derive_seed(seed, "rng_seed") % 2**32
