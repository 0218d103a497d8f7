"""The pytest plugin: seeded tests, the seed in every failure, and who moves the RNGs.

Not asked for, it registers nothing that runs during tests: what works is ``_Run``, which is
registered for ``--rng-seed``, ``--rng-leaks``, or a test that asks by marker or fixture.
"""

from __future__ import annotations

import os
import random
import shlex
import struct
import sys
import warnings
from _thread import get_ident
from functools import partial

import pytest

from rngscope import _details
from rngscope._errors import raise_together
from rngscope._open_scopes import OpenScope, scopes
from rngscope._scope import rng_scope, seed_all
from rngscope._seeds import check_seed, derive_seed
from rngscope._sources import SOURCES, choose, load_what_is_lazy
from rngscope._sources.plain import WORDS
from rngscope._sources.torch_cpu import STATE_BYTES, tensor_bytes, torch_module
from rngscope._state import RNGState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

_MARKER = (
    "rng_seed(seed, *, sources=None, devices=None, generators=(), independent=False, "
    "deterministic=False): run the test with this seed; arguments as rngscope.rng_scope."
)
#: Types whose ``repr`` is the same in every process.
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_REMEDY = (
    "Wrap the draws in rng_scope(), give them a generator of their own, or allow a source: "
    "rng_leaks_allow = torch"
)

#: What works now; the last one, where a test runs pytest in its own process.
_runs: list[_Run] = []
_START = pytest.StashKey[RNGState]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rngscope", "reproducible random numbers (rngscope)")
    group.addoption(
        "--rng-seed",
        metavar="N",
        help="Seed every test with a seed of its own, derived from N and its node id, and "
        "restore the global RNGs after it; 'random' draws N.",
    )
    group.addoption(
        "--rng-leaks",
        metavar="MODE",
        help="Report tests and fixtures that move a global RNG outside a scope: 'warn' lists "
        "them, 'error' also fails the test.",
    )
    parser.addini("rng_seed", "Default of --rng-seed.", default="")
    parser.addini("rng_leaks", "Default of --rng-leaks.", default="")
    parser.addini("rng_leaks_allow", "Sources that every test may move.", "args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    seed, leaks, allowed = _seed_of(config), _leaks_of(config), _allowed_of(config)
    if seed is not None or leaks:
        _start(config, _Run(config, seed, leaks, allowed))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to work if a test asks for it by itself."""
    if session.config.pluginmanager.has_plugin(_Run.NAME):
        return
    # Not get_closest_marker() of each item, which would ask its class and module as often.
    parents = {item.parent for item in session.items}
    if (
        any(parent is not None and parent.get_closest_marker("rng_seed") for parent in parents)
        or any(mark.name == "rng_seed" for item in session.items for mark in item.own_markers)
        or any("rng_state" in _fixtures_of(item) for item in session.items)
    ):
        _start(session.config, _Run(session.config, None, "", []))


@pytest.fixture
def rng_state(request: pytest.FixtureRequest) -> RNGState:
    """The state of the global RNGs at the start of the test, before its fixtures."""
    # A test that asks with getfixturevalue() gets the state of that moment.
    return request.node.stash.get(_START, None) or RNGState.capture()


def seed_from_pytest_randomly(seed: int) -> None:
    """Seed torch, if it is imported, along with what pytest-randomly has seeded.

    pytest-randomly calls this with each of its seeds: at the start of the session, and of
    set-up, call and tear-down of each test. In a test that rngscope has seeded, everything
    goes back to that seed instead.

    Args:
        seed: any integer.
    """
    if torch_module() is not None:
        seed_all(seed % 2**64, sources=[s.name for s in SOURCES if s.library == "torch"])
    if _runs:
        _runs[-1].was_reseeded()


# What was asked for ------------------------------------------------------------------------


def _option(config: pytest.Config, name: str) -> tuple[str, str | None]:
    """Return how the user names an option, and its text; None if it is not set."""
    text = config.getoption(name)
    if text is not None:
        return "--" + name.replace("_", "-"), text
    return f"{name} in {config.inipath and config.inipath.name}", config.getini(name) or None


def _seed_of(config: pytest.Config) -> int | None:
    # xdist: the controller has drawn it, or read it.
    from_controller: dict[str, Any] = getattr(config, "workerinput", {})
    if _Run.NAME in from_controller:
        return int(from_controller[_Run.NAME])
    where, text = _option(config, "rng_seed")
    if text is None:
        return None
    if text == "random":
        return int.from_bytes(os.urandom(4), "little")
    try:
        return check_seed(int(text))
    except ValueError:
        raise pytest.UsageError(
            f"{where} must be an integer in [0, 2**64) or 'random', not {text!r}"
        ) from None


def _leaks_of(config: pytest.Config) -> str:
    where, text = _option(config, "rng_leaks")
    if text not in (None, "warn", "error"):
        raise pytest.UsageError(f"{where} must be 'warn' or 'error', not {text!r}")
    return text or ""


def _allowed_of(config: pytest.Config) -> list[str]:
    allowed: list[str] = config.getini("rng_leaks_allow")
    try:
        choose(allowed, None)
    except ValueError as error:
        raise pytest.UsageError(f"rng_leaks_allow: {error}") from None
    return allowed


def _start(config: pytest.Config, run: _Run) -> None:
    config.pluginmanager.register(run, _Run.NAME)
    _runs.append(run)
    config.add_cleanup(partial(_runs.remove, run))


def _fixtures_of(item: pytest.Item) -> Iterable[str]:
    return getattr(item, "fixturenames", ())


# What works --------------------------------------------------------------------------------


class _Run:
    """One run of pytest in which tests are seeded, watched, or both."""

    NAME = "rngscope run"

    def __init__(
        self, config: pytest.Config, seed: int | None, leaks: str, allowed: list[str]
    ) -> None:
        self.config = config
        self.seed = seed
        #: "", "warn" or "error".
        self.leaks = leaks
        self.allowed = allowed
        self.has_randomly = config.pluginmanager.has_plugin("randomly") and bool(
            config.getoption("randomly_reset_seed", True)
        )
        #: The stretches that are running, the innermost last.
        self.running: list[_Stretch] = []
        self.test: _Stretch | None = None
        #: What was found in this phase of the test.
        self.found: list[str] = []
        #: Whether it was said that the seed does not reach Hypothesis.
        self.has_warned = False
        #: Where the streams of the test stand at the start of a phase.
        self.at_start: RNGState | None = None

    # The run -----------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist the seed."""
        if self.seed is not None:
            node.workerinput[self.NAME] = str(self.seed)

    def pytest_report_header(self) -> str:
        wins = " (wins over pytest-randomly)" if self.seed is not None and self.has_randomly else ""
        return f"rngscope: {self.flags()}{wins}"

    def flags(self) -> str:
        """Return the flags that reproduce the run."""
        flags = [] if self.seed is None else [f"--rng-seed={self.seed}"]
        if self.leaks:
            flags.append(f"--rng-leaks={self.leaks}")
        return " ".join(flags)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reports = sum(terminalreporter.stats.values(), [])
        found = [line for report in reports for line in getattr(report, "rng_leaks", ())]
        if found:
            terminalreporter.section("rngscope: global RNGs moved outside a scope", yellow=True)
            # The same line again is a rerun.
            for line in sorted(set(found)):
                terminalreporter.write_line(line)
            terminalreporter.write_line(_REMEDY)

    # Collection --------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, Result, Result]:
        """Import each module in a stream of its own: it may draw data for its tests."""
        if self.seed is None:
            return (yield)
        with OpenScope(SOURCES, derive_seed(self.seed, "collect", collector.nodeid)):
            return (yield)

    # A test ------------------------------------------------------------------------------

    # The innermost wrappers: those of other plugins run outside, and their set-up is done
    # when ours refuses to go on.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Result, Result]:
        # Also at each rerun.
        name = _node_id(item)
        test = _Stretch(self, name, item)
        if self.seed is not None:
            test.streams.append(OpenScope(SOURCES, derive_seed(self.seed, name)))
        marker = item.get_closest_marker("rng_seed")
        if marker is not None:
            test.streams.append(_scope_of(marker))
        for stream in test.streams:
            # Named in warnings: nobody opened it in a line of the program.
            stream.function = getattr(item, "function", item)
        test.begin("set-up")
        self.test = test
        return (yield from self.phase(test))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, Result, Result]:
        test = self.test
        # pytest's own plugins fail as well where there was no set-up.
        assert test is not None
        test.begin("call")
        # What --hypothesis-seed sets: @seed and derandomize go before it, as they should.
        row = _details.HYPOTHESIS_SEED
        forced = _details.find(row, default=row)
        if test.seed is None or forced is not None:
            if forced is row:
                self.warn_of_examples(test)
            return (yield from self.phase(test))
        core = sys.modules[row.module]
        setattr(core, row.name, derive_seed(test.seed, "hypothesis"))
        try:
            return (yield from self.phase(test))
        finally:
            setattr(core, row.name, None)

    def warn_of_examples(self, test: _Stretch) -> None:
        """Say once that the seed of a test does not reach its examples."""
        function = getattr(test.item, "obj", None)
        is_under_given = getattr(function, "is_hypothesis_test", False)
        if test.item and test.seed is not None and is_under_given and not self.has_warned:
            self.has_warned = True
            message = (
                f"the examples of tests under @given do not follow from --rng-seed: this "
                f"Hypothesis has no {_details.HYPOTHESIS_SEED.path}; add --hypothesis-seed"
            )
            test.item.warn(pytest.PytestWarning(message))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, Result, Result]:
        test = self.test
        if test is None:
            # Its set-up was refused.
            return (yield)
        try:
            test.begin("tear-down")
        except BaseException:
            # What was set up must be torn down all the same.
            yield
            raise
        return (yield from self.phase(test))

    def phase(self, test: _Stretch) -> Generator[None, Result, Result]:
        """Run a phase that has begun, and fail the test for what it moved."""
        self.at_start = RNGState.capture() if self.has_randomly and test.streams else None
        self.keep_start()
        try:
            result = yield
        finally:
            test.end(is_last=test.phase == "tear-down")
        if self.found and self.leaks == "error":
            pytest.fail("\n".join([*self.found, _REMEDY]), pytrace=False)
        return result

    def keep_start(self) -> None:
        """Keep the state for the fixture ``rng_state``."""
        test = self.test
        if test and test.item and test.phase == "set-up" and "rng_state" in _fixtures_of(test.item):
            test.item.stash[_START] = RNGState.capture()

    def was_reseeded(self) -> None:
        """Put right what pytest-randomly did at the start of a phase."""
        if self.test is None or self.running[-1:] != [self.test]:
            return
        if self.at_start is not None:
            self.at_start.restore()
        else:
            self.test.look()
            self.keep_start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and self.test is not None and self.test.streams:
            report.sections.append(("rngscope", self.how_to_repeat(item, self.test)))
        if self.found:
            # An attribute of the report also comes back from a worker of xdist.
            report.rng_leaks, self.found = self.found, []  # type: ignore[attr-defined]
        if call.when == "teardown":
            self.test = None
        return report

    def how_to_repeat(self, item: pytest.Item, test: _Stretch) -> str:
        is_marked = item.get_closest_marker("rng_seed") is not None
        seed = "none: an RNGState is replayed" if test.seed is None else str(test.seed)
        flags = self.flags()
        if isinstance(item, pytest.DoctestItem) and self.config.getoption("doctestmodules"):
            flags = f"--doctest-modules {flags}"
        path, colons, name = _node_id(item).partition("::")
        if (here := self.config.invocation_params.dir) != self.config.rootpath:
            path = os.path.relpath(self.config.rootpath / path, here)
        argument = path + colons + name
        is_plain = not set(argument) & set('"$`\\!')
        quoted = f'"{argument}"' if is_plain else shlex.quote(argument)
        return (
            f"seed of this test: {seed}{' (its rng_seed marker)' if is_marked else ''}\n"
            f"repeat it: {f'pytest {quoted} {flags}'.strip()}"
        )

    # A fixture ---------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Result, Result]:
        stretch = self.stretch_of(fixturedef, request)
        if stretch is None:
            return (yield)
        # pytest runs finalizers from the last to the first: those of the fixture in between.
        fixturedef.addfinalizer(partial(stretch.end, is_last=True))
        stretch.begin("set-up")
        try:
            return (yield)
        finally:
            stretch.end()
            fixturedef.addfinalizer(partial(stretch.begin, "tear-down"))

    def stretch_of(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> _Stretch | None:
        """Return what a fixture runs in; None for the same as what is around it."""
        # Not the scope of fixturedef: parametrize() may have given it another one.
        name, scope = fixturedef.argname, request.scope
        if scope == "function":
            if not self.leaks or self.test is None:
                return None
            return _Stretch(self, f"{self.test.owner}: fixture {name!r}", part_of=self.test)
        where = request.node.nodeid or "the session"
        stretch = _Stretch(self, f"{scope} fixture {name!r} of {where}")
        if self.seed is not None:
            base = getattr(fixturedef, "baseid", "")
            path = ("fixture", request.node.nodeid, base, name, *_parameter(request))
            seed = derive_seed(self.seed, *path)
            stretch.streams.append(OpenScope(SOURCES, seed, function=fixturedef))
        return stretch


class _Stretch:
    """What runs, with breaks, in streams of its own: a test, or a fixture of a wider scope.

    The fixtures of one test are stretches as well while leaks are looked for, only to be
    named.
    """

    def __init__(
        self,
        run: _Run,
        owner: str,
        item: pytest.Item | None = None,
        part_of: _Stretch | None = None,
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
            and _has_moved(name, before[name], now[name])
        ]
        if moved:
            how = _describe({name: (before[name], now[name]) for name in moved})
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


def _scope_of(marker: pytest.Mark) -> rng_scope:
    if not marker.args and "seed" not in marker.kwargs:
        pytest.fail("rng_seed needs a seed: write @pytest.mark.rng_seed(42)", pytrace=False)
    try:
        return rng_scope(*marker.args, **marker.kwargs)
    except (TypeError, ValueError) as error:
        message = f"@pytest.mark.rng_seed: {error}"
    pytest.fail(message, pytrace=False)


def _node_id(item: pytest.Item) -> str:
    """Return the node id as it is without xdist, which appends the name of a group."""
    head, at, _ = item.nodeid.rpartition("@")
    return head if at and item.get_closest_marker("xdist_group") else item.nodeid


def _parameter(request: pytest.FixtureRequest) -> tuple[str | int, ...]:
    if not hasattr(request, "param"):
        return ()
    # The position says less: tests may list the same values in another order.
    param = request.param
    return (repr(param) if type(param) in _PLAIN else getattr(request, "param_index", 0),)


# What a state shows ------------------------------------------------------------------------

#: How far a stream is followed, in blocks of 624 words.
_REACH = 100


def _has_moved(name: str, before: Any, now: Any) -> bool:
    old, new = RNGState._made_of({name: before}, ()), RNGState._made_of({name: now}, ())
    return bool(old.differs_from(new))


def _describe(moved: dict[str, tuple[Any, Any]]) -> str:
    verbs: dict[str, list[str]] = {}
    for name, (before, now) in moved.items():
        verbs.setdefault(_verb(name, before, now), []).append(repr(name))
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in verbs.items())


def _verb(name: str, before: Any, now: Any) -> str:
    """Tell a draw from a new seed, where the states show it."""
    if name not in ("python", "numpy", "torch"):
        return _philox_verb(before, now)
    try:
        old, new = _mersenne(name, before), _mersenne(name, now)
    except TypeError:
        # A bit generator that is not NumPy's own.
        return "moved"
    if old is None or new is None:
        return "re-seeded" if old is not new else "moved"
    return _mersenne_verb(old, new)


def _mersenne(name: str, state: Any) -> tuple[Any, ...] | None:
    """Return seed (if it is known), words and position of a Mersenne Twister."""
    plain = RNGState._made_of({name: state}, ()).state_dict()["sources"][name]
    if name == "torch":
        # A legacy layout that torch keeps for its files: ATen/CPUGeneratorImpl.cpp.
        data = bytes.fromhex(plain["state"])
        if len(data) != STATE_BYTES:
            return None
        seed, left, _, position = struct.unpack_from("=Qiiq", data)
        words = struct.unpack_from(f"={WORDS}Q", data, 24)
        return seed, words, WORDS if left == 1 and position == 0 else position
    if name == "numpy":
        plain = plain["bit_generator"]
    if plain.get("kind", "MT19937") != "MT19937":
        return None
    return None, struct.unpack(f"<{WORDS}I", bytes.fromhex(plain["words"])), plain["position"]


def _mersenne_verb(old: tuple[Any, ...], new: tuple[Any, ...]) -> str:
    if old[0] != new[0]:
        return "re-seeded"
    (_, words, was), (_, wanted, position) = old, new
    if words == wanted:
        return "drew from" if position >= was else "re-seeded"
    walker = random.Random()
    walker.setstate((3, (*words, WORDS), None))
    for _ in range(_REACH):
        walker.getrandbits(32 * WORDS)
        if walker.getstate()[1][:WORDS] == wanted:
            return "drew from"
    # A new seed leaves the position behind the last word.
    return "re-seeded" if position == WORDS else "moved"


def _philox_verb(before: Any, now: Any) -> str:
    verbs = set()
    for index in before.keys() & now.keys():
        old, new = tensor_bytes(before[index]), tensor_bytes(now[index])
        if len(old) != 16 or len(new) != 16:
            return "moved"
        # A seed and an offset, which a new seed sets to zero.
        seed, offset = struct.unpack("=QQ", old)
        new_seed, new_offset = struct.unpack("=QQ", new)
        verbs.add("drew from" if seed == new_seed and offset <= new_offset else "re-seeded")
    return max(verbs, default="moved")
