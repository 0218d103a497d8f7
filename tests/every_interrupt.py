"""Break into every kind of use with a signal, wherever CPython looks for one, and see what leaks.

``python tests/every_interrupt.py`` does so at every point, in storms of signals at random times,
and at every depth near the recursion limit; with options in a part of these. It prints one line
for each kind of use, and ends with status 1 if anything leaked.

How every point is found: a trace function counts the instructions that run in the package and in
the use. At the one wanted it marks a SIGINT as arrived, in a way that does not look for signals
itself, and takes itself out. So CPython finds the signal where it looks for one the next time,
and calls the handler, which raises. Instructions at which the signal waits for the same look are
one point, tried once.
"""

import argparse
import contextlib
import dis
import gc
import json
import os
import random
import signal
import sys
import time
import warnings
from _thread import interrupt_main

import uses
from by_hand import NAMES, cache_gaussians, load_libraries, public_states
from conftest import take_path
from uses import USES

import rngscope
from rngscope import _arrival, _order, rng_scope
from rngscope.sources import numpy_memory

#: Name -> sources of the scopes, path, simulated CUDA. With a plain lock NumPy's is taken as one
#: that is not reentrant, as those of NumPy 2.3 and older are.
WORLDS = {
    "python": ({"sources": ["python"]}, "fast", None),
    "all": ({}, "fast", None),
    "API": ({}, "API", None),
    "plain lock": ({}, "plain lock", None),
    "waiting": ({}, "fast", "waiting"),
    "started": ({}, "fast", "started"),
}

_REENTRANT = numpy_memory._REENTRANT
_PACKAGE = os.path.dirname(rngscope.__file__) + os.sep
_IMPORTS = ("<frozen importlib._bootstrap>",)


class Interrupt(BaseException):
    """What a signal handler raises: no Exception."""


# The world around a use ------------------------------------------------------------------------


class World:
    """What a use runs in, and how all of it is looked at."""

    def __init__(self, name):
        self.options, self.path, self.cuda_state = WORLDS[name]
        self.name = name

    def can_run(self, make):
        return all(name in NAMES for name in make.needs) and self.is_there()

    def is_there(self):
        needed = "torch" if self.cuda_state else "numpy" if self.path == "plain lock" else "python"
        return needed in NAMES

    def enter(self):
        """Have all sources take the path of this world."""
        numpy_memory._REENTRANT = () if self.path == "plain lock" else _REENTRANT
        take_path(self.path != "API")

    @contextlib.contextmanager
    def opened(self):
        """Open it; yield the simulated CUDA, or None."""
        if self.cuda_state is None:
            yield None
            return
        import torch
        from simulated_cuda import simulated_cuda

        with simulated_cuda(2) as cuda:
            torch.cuda.set_rng_state(torch.Generator().manual_seed(4).get_state(), device=0)
            torch.cuda.manual_seed_all(5)
            if self.cuda_state == "started":
                cuda.start()
            # What is kept of the libraries is kept again.
            with rng_scope(uses.SEED, **self.options):
                pass
            yield cuda

    def reset(self, cuda):
        """Give every RNG a state to be found again, with a cached Gaussian."""
        cache_gaussians()
        if cuda is not None and cuda.started:
            for generator in cuda.generators:
                generator.manual_seed(5)

    def snapshot(self, cuda):
        """Return everything that a use must leave as it was."""
        found = public_states()
        torch = sys.modules.get("torch")
        if torch is not None:
            found["switches"] = (
                torch.are_deterministic_algorithms_enabled(),
                torch.backends.cudnn.deterministic,
                torch.backends.cudnn.benchmark,
                os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            )
        if cuda is not None:
            found["cuda"] = cuda.states() if cuda.started else cuda.queue()
        found["recursion limit"] = sys.getrecursionlimit()
        found["finders"] = [id(finder) for finder in sys.meta_path]
        return found


def open_things(cuda):
    """Return what of the package, and of the libraries' locks, was left behind."""
    found = []
    if _order.lives:
        found.append(f"{len(_order.lives)} scopes open")
    if _order.deferred:
        found.append("a deferred scope")
    if _order.not_restored:
        found.append("a note of a forked child")
    if _arrival.is_watching or _arrival.FINDER in sys.meta_path or _arrival.FINDER.is_asking:
        found.append("the finder")
    if is_held(_order.lock):
        found.append("the lock of rngscope")
    if "numpy" in NAMES and is_held(sys.modules["numpy.random"].get_bit_generator().lock):
        found.append("NumPy's lock")
    if cuda is not None and is_held(cuda.module._initialization_lock):
        found.append("torch's lock")
    return found


def is_held(lock):
    # Older NumPys have plain locks, which say it in another word.
    return getattr(lock, "_is_owned", getattr(lock, "locked", bool))()


def clean_up(cuda):
    """Let nothing that was left behind count twice."""
    for life in _order.lives:
        life.found = None
    for things in (_order.lives, _order.deferred, _order.not_restored):
        things.clear()
    _arrival.stop_watching()
    _arrival.FINDER.is_asking = False
    locks = [_order.lock]
    if "numpy" in NAMES:
        locks.append(sys.modules["numpy.random"].get_bit_generator().lock)
    if cuda is not None:
        locks.append(cuda.module._initialization_lock)
    for lock in locks:
        while is_held(lock):
            lock.release()
    sys.setrecursionlimit(LIMIT)
    if "torch" in NAMES:
        import torch

        # Not torch.use_deterministic_algorithms, which imports 800 modules.
        torch._C._set_deterministic_algorithms(False, warn_only=False)
        torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


LIMIT = sys.getrecursionlimit()

#: The warnings of the present case.
_warned = []


class Case:
    """One use in its world, of which the outcomes that may be are known."""

    def __init__(self, world, make, cuda, size=1):
        self.world, self.make, self.cuda = world, make, cuda
        self.use = make(world.options, cuda, size)
        world.reset(cuda)
        self.before = world.snapshot(cuda)
        self.use.begin()
        _warned.clear()

    def finish(self):
        """Do what the program does afterwards."""
        self.use.finish()
        if self.make.starts and self.cuda is not None and not self.cuda.started:
            self.cuda.start()

    def faults(self, outcomes=()):
        """Return what is wrong.

        Args:
            outcomes: what may be found besides what was there before, as ``snapshot`` shows it.
        """
        faults = []
        try:
            self.finish()
        except BaseException as error:
            faults.append(f"{type(error).__name__} afterwards: {str(error)[:200]}")
        faults += open_things(self.cuda)
        if _warned and not self.make.warns:
            faults.append("warned of scopes left out of order")
        now = self.world.snapshot(self.cuda)
        if now not in (outcomes or [self.before]):
            expected = (outcomes or [self.before])[0]
            faults += [f"changed {name}" for name in now if now[name] != expected.get(name)]
        if not faults:
            faults += self.use.faults()
            faults += open_things(self.cuda)
        if faults:
            clean_up(self.cuda)
        return faults


def outcomes_of(world, make):
    """Return what may be found after a use was broken off: what was there, and what it leads to.

    Nothing where the former is enough.
    """
    found = []
    if not (make.changes or make.starts):
        return found
    for acts in (False, True):
        with world.opened() as cuda:
            case = Case(world, make, cuda)
            if acts and make.changes:
                case.use.act()
            case.finish()
            found.append(world.snapshot(cuda))
            del case
    return found


# Every point -----------------------------------------------------------------------------------

_pending = None


class Trap:
    """Count instructions, and have a SIGINT arrive at one of them."""

    def __init__(self, at=None, more_files=()):
        self.left = sys.maxsize if at is None else at
        self.files = more_files
        #: Of every instruction in a run that is not interrupted: how deep, code and offset.
        self.events = [] if at is None else None
        self.depth = 0
        #: Where the handler was called.
        self.place = None
        self._is_ours = {}

    def watches(self, code):
        file = code.co_filename
        found = self._is_ours.get(file)
        if found is None:
            found = file.startswith(_PACKAGE) or file == uses.__file__ or file in self.files
            self._is_ours[file] = found
        return found

    def trace(self, frame, event, argument):
        if not self.watches(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        self.depth += 1
        return self.step

    def step(self, frame, event, argument):
        global _pending
        if event == "opcode":
            if self.events is not None:
                self.events.append((self.depth, frame.f_code, frame.f_lasti))
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                _pending = []
                # No signal is looked for after an addition, nor at the end of a function.
                _pending += map(interrupt_main, (signal.SIGINT,))
                return None
        elif event == "return":
            self.depth -= 1
        return self.step

    def handle(self, number, frame):
        self.place = frame.f_code, frame.f_lasti, frame.f_lineno
        raise Interrupt

    def run(self, act):
        """Act; return the error that came out."""
        tracer, handler = sys.gettrace(), signal.signal(signal.SIGINT, self.handle)
        try:
            try:
                sys.settrace(self.trace)
                act()
            finally:
                # Here at the latest the signal is found.
                sys.settrace(tracer)
        except BaseException as error:
            return described(error)
        finally:
            signal.signal(signal.SIGINT, handler)
        return None


def described(error):
    """Return what an error was, without keeping its frames."""
    if isinstance(error, BaseExceptionGroup):
        inner = ", ".join(described(inner) for inner in error.exceptions)
        return f"{type(error).__name__} of {inner}"
    return type(error).__name__ + (f": {error}" if str(error) else "")


class Findings:
    """How many points, and what went wrong where."""

    def __init__(self):
        self.points = 0
        self.swallowed = 0
        self.faults = {}

    def add(self, place, faults):
        for fault in faults:
            self.faults.setdefault(fault, []).append(place)


def name_of(place):
    code, _, line = place
    return f"{os.path.basename(code.co_filename)}:{code.co_name}:{line}"


def every_point(world, make, every=1, offset=0):
    """Interrupt a use wherever CPython looks for signals.

    Args:
        every, offset: with ``every`` above 1 a sample: each so manieth instruction.

    Returns:
        Findings: all points.
    """
    findings = Findings()
    more = _IMPORTS if make is USES.get("late_import") else ()
    outcomes = outcomes_of(world, make)
    for _ in range(2):
        with world.opened() as cuda:
            case = Case(world, make, cuda)
            trap = Trap(more_files=more)
            error = trap.run(case.use.act)
            faults = case.faults(outcomes)
            if error or faults:
                findings.add("not interrupted", [*([error] if error else []), *faults])
                return findings
    events, at = trap.events, offset
    while at < len(events):
        with world.opened() as cuda:
            case = Case(world, make, cuda)
            trap = Trap(at, more)
            error = trap.run(case.use.act)
            faults = case.faults(outcomes)
            del case
        if trap.place is None:
            # The use took fewer steps this time.
            findings.swallowed += 1
            at += every
            continue
        findings.points += 1
        if error is None:
            findings.swallowed += 1
        elif error != "Interrupt":
            faults.append(f"came out as {error}")
        findings.add(name_of(trap.place), faults)
        at = next_point(events, at, *trap.place[:2]) if every == 1 else at + every
    return findings


_CALLS = {dis.opmap[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") if name in dis.opmap}


def is_call(code, offset):
    return code.co_code[offset] in _CALLS


def next_point(events, at, code, offset):
    """Return the first instruction at which a signal is found elsewhere.

    Args:
        events: what ``Trap`` has noted.
        at: where the signal arrived.
        code, offset: where it was found.
    """
    depth = events[at][0]
    for index in range(at, len(events)):
        if index > at and is_call(*events[index][1:]):
            # Once it is specialized, CPython may look for no signal after it; here it does.
            return index
        if events[index][0] < depth:
            # Frames have returned, and no signal was looked for.
            depth = events[index][0]
            before = at - 1
            while before >= 0 and events[before][0] > depth:
                before -= 1
            if events[before] == (depth, code, offset):
                # It was found when the call of a C function was over, in which they ran.
                return index
        if events[index] == (depth, code, offset):
            return index + 1
        if events[index][0] > depth:
            # It was found where the next function starts.
            return index if events[index][1] is code else at + 1
    return at + 1


# Storms ----------------------------------------------------------------------------------------


def storm(world, make, rounds, size, longest, seed=11):
    """Interrupt a use at random times, in a loop.

    Args:
        rounds: how many times.
        size: how many times the body draws; 0 for tight loops.
        longest: seconds to the interrupt, at most.

    Returns:
        Findings: all rounds.
    """
    findings, choose, trap = Findings(), random.Random(seed), Trap()
    outcomes = outcomes_of(world, make)
    handler = signal.signal(signal.SIGALRM, trap.handle)
    try:
        for _ in range(rounds):
            with world.opened() as cuda:
                case = Case(world, make, cuda, size)
                act, trap.place = case.use.act, None
                error = None
                try:
                    # And again a second later: the interpreter swallows what is raised in a
                    # finalizer.
                    signal.setitimer(signal.ITIMER_REAL, choose.uniform(20e-6, longest), 1)
                    while True:
                        act()
                except Interrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except BaseException as other:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    error = described(other)
                faults = case.faults(outcomes)
                del case, act
            findings.points += 1
            findings.add(
                name_of(trap.place), faults + ([f"came out as {error}"] if error else [])
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return findings


# Depths ----------------------------------------------------------------------------------------


def every_depth(world, make, deepest=80):
    """Use the package with few frames left to the recursion limit.

    Returns:
        Findings: all depths at which a ``RecursionError`` came out.
    """
    findings = Findings()
    outcomes = outcomes_of(world, make)
    for left in range(1, deepest + 1):
        with world.opened() as cuda:
            case = Case(world, make, cuda)
            error = None
            try:
                at_depth(sys.getrecursionlimit() - depth() - left, case.use.act)
            except BaseException as failure:
                error = described(failure)
            faults = case.faults(outcomes)
            del case
        if error is not None:
            findings.points += 1
            if not error.startswith("RecursionError"):
                faults.append(f"came out as {error}")
        findings.add(f"{left} left", faults)
    return findings


def depth():
    count, frame = 0, sys._getframe()
    while frame is not None:
        count, frame = count + 1, frame.f_back
    return count


def at_depth(frames, act):
    if frames > 0:
        return at_depth(frames - 1, act)
    act()


# The program -----------------------------------------------------------------------------------

KINDS = {"points", "storms", "depths"}


def prepare():
    """Use every source once: what is loaded lazily is loaded, what is kept is kept."""
    # A scope that another one overlaps says so; nothing else must.
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", "the scope .* was left while")
    warnings.showwarning = lambda message, *_: _warned.append(message)
    # What is raised in a finalizer is printed, which does not matter here.
    sys.unraisablehook = lambda _: None
    load_libraries()
    gc.collect()
    gc.freeze()


def warm_up(world):
    world.enter()
    for make in USES.values():
        if world.can_run(make):
            for _ in range(3):
                with world.opened() as cuda:
                    case = Case(world, make, cuda)
                    case.use.act()
                    case.finish()
                    del case


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help="points, storms or depths; default all")
    parser.add_argument("--world", action="append", choices=WORLDS)
    parser.add_argument("--use", action="append", choices=USES)
    parser.add_argument("--every", type=int, default=1, help="a sample of the points")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20_000, help="interrupts in each storm")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    kinds = options.kinds or sorted(KINDS)
    prepare()
    results, start = {}, time.monotonic()
    for name in options.world or WORLDS:
        world = World(name)
        if not world.is_there():
            continue
        warm_up(world)
        for use, make in USES.items():
            if options.use and use not in options.use or not world.can_run(make):
                continue
            jobs = {}
            if "points" in kinds:
                jobs["points"] = lambda: every_point(world, make, options.every, options.offset)
            if "storms" in kinds and make.repeats:
                jobs["tight"] = lambda: storm(world, make, options.rounds, 0, 200e-6)
                jobs["bodies"] = lambda: storm(world, make, options.rounds, 30, 500e-6)
            if "depths" in kinds:
                jobs["depths"] = lambda: every_depth(world, make)
            for kind, job in jobs.items():
                found = job()
                results[f"{name} {use} {kind}"] = found.points, found.swallowed, found.faults
                if not options.json:
                    tell(f"{name:10} {use:24} {kind:7}", found)
    if options.json:
        print(json.dumps(results))
    else:
        total = sum(points for points, _, _ in results.values())
        bad = sum(len(places) for _, _, f in results.values() for places in f.values())
        took = time.monotonic() - start
        print(f"Python {sys.version.split()[0]}: {total} in all, {bad} faults, {took:.0f} s")
    return any(faults for _, _, faults in results.values())


def tell(what, found):
    bad = sum(map(len, found.faults.values()))
    counts = f"{found.points:6} points, {found.swallowed:3} swallowed"
    print(f"{what} {counts}, {bad} faults", flush=True)
    for fault, places in found.faults.items():
        counts = {place: places.count(place) for place in places}
        shown = ", ".join(f"{place} ({n})" for place, n in list(counts.items())[:6])
        print(f"    {fault}: {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
