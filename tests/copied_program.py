"""Use everything public in another process, before and after the first scope of this one.

    python copied_program.py METHOD

METHOD is how things get there: ``spawn`` and ``forkserver`` of multiprocessing, ``loky`` of
joblib, ``cloudpickle`` with a pipe, or ``loader spawn`` and ``loader forkserver``, in the
workers of a DataLoader. What is defined here is in ``__main__``, as in a user's script.
"""

import asyncio
import functools
import inspect
import json
import multiprocessing
import subprocess
import sys
import warnings
from contextlib import contextmanager

from by_hand import NAMES, draw, generator, load_libraries

from rngscope import RNGState, RNGStream, assert_rng_unchanged, rng_scope, seeded
from rngscope.data import per_item, seed_worker
from rngscope.distributed import PerRank
from rngscope.sources import SOURCES

# A scope here names NumPy, which some runs of the tests do without.
warnings.filterwarnings("ignore", ".* was not imported before", RuntimeWarning)


def draws(names=NAMES):
    return [draw(name) for name in NAMES if name in names]


# Decorated functions of every kind --------------------------------------------------------


@seeded(42)
def plain(first=0):
    return first, draws()


@seeded(seed_from=lambda first=0: first + 1)
def from_a_seed(first=0):
    return first, draws()


@rng_scope(2**63, independent=True)
def in_a_scope():
    return draws()


@seeded(1)
def steps():
    for _ in range(3):
        yield draws()


@seeded(2)
async def coroutine():
    first = draws()
    await asyncio.sleep(0)
    return first, draws()


@seeded(3)
async def async_steps():
    for _ in range(2):
        await asyncio.sleep(0)
        yield draws()


@RNGStream(4)
def walking():
    return draws()


@RNGStream(5)
def walking_steps():
    yield draws()
    yield draws()


@assert_rng_unchanged()
def still():
    return plain(5)


@seeded(6)
def fails():
    raise OSError(str(draws()))


class Sampler:
    """Holds a scope and a stream, and has decorated methods."""

    scale = 3

    def __init__(self):
        self.stream = RNGStream(9, independent=True)
        self.scope = rng_scope(10)

    @seeded(seed_from=lambda self: self.scale)
    def method(self):
        return self.scale, draws()

    @classmethod
    @seeded(11)
    def of_the_class(cls):
        return cls.__name__, draws()

    @staticmethod
    @seeded(12)
    def of_nobody():
        return draws()

    @property
    @seeded(14)
    def value(self):
        return draws()

    @seeded(15)
    def _named(self, names):
        return draws(names)

    partial = functools.partialmethod(_named, NAMES[:1])
    decorated_partial = seeded(16)(functools.partialmethod(_named.__wrapped__, NAMES[:1]))

    def use(self):
        with self.stream:
            with self.scope:
                inner = draws()
            here = draws()
        of_the_class = self.of_the_class(), self.of_nobody()
        partials = self.partial(), self.decorated_partial()
        return inner, here, self.method(), of_the_class, self.value, partials


@seeded(13)
class TestDecorated:
    def test(self):
        self.drawn = draws()

    def use(self):
        self.test()
        return self.drawn


class Owned:
    """A stream over generators, and these generators: one object each, also as a copy."""

    def __init__(self, owner):
        self.generators = [generator(name, 14) for name in NAMES]
        self.owner = owner(15, generators=self.generators, sources=[], independent=True)

    def draws(self):
        return [draw(name, own) for name, own in zip(NAMES, self.generators)]

    def use(self):
        with self.owner:
            inside = self.draws()
        return inside, self.draws()


class Noise:
    def __init__(self):
        self.stream = RNGStream(16)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        with self.stream:
            return index, draws(), plain(index), self.method(index)

    @seeded(seed_from=lambda self, index: index)
    def method(self, index):
        return draws()


class Drawing:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index, draws()


# What is sent -----------------------------------------------------------------------------


def make_things():
    """Return one thing of each kind; making them opens no scope."""
    return [
        rng_scope(42),
        rng_scope(2**40 + 1, sources=["python", "numpy"], independent=True),
        rng_scope(42, devices=[0]),
        RNGStream(5),
        RNGStream(6, sources=["python"], independent=True),
        Owned(rng_scope),
        Owned(RNGStream),
        assert_rng_unchanged(sources=["python"]),
        *[plain, from_a_seed, in_a_scope, steps, coroutine, async_steps],
        *[walking, walking_steps, still, fails],
        functools.partial(plain, 17),
        Sampler(),
        TestDecorated(),
        Sampler().method,
        per_item(Drawing(), 42, sources=NAMES),
        PerRank(RNGStream(7)),
        functools.partial(seed_worker, rank=1),
    ]


def make_nameless():
    """Return functions that have no name to be found by: pickle refuses all such functions."""
    return [
        seeded(18)(draws),
        seeded(19)(lambda: draws()),
        seeded(20)(functools.partial(draws, NAMES[:1])),
    ]


def make_states():
    """Return what needs a captured state."""
    state = RNGState.capture()
    own = [generator(name, 3) for name in NAMES]
    streams = [RNGStream(8), RNGStream(9)]
    for stream in streams:
        with stream:
            draws()
    return [
        state,
        rng_scope(state),
        rng_scope(RNGState.capture(generators=own), generators=own),
        streams[0],
        PerRank(streams[1]),
    ]


def use(thing):
    """Return what a thing draws."""
    if isinstance(thing, RNGState):
        thing = rng_scope(thing)
    if isinstance(thing, (rng_scope, RNGStream)):
        covered = thing._plan.sources
        with thing:
            return draws([source.name for source in covered])
    if isinstance(thing, assert_rng_unchanged):
        with thing:
            return plain()
    if isinstance(thing, per_item):
        return [thing[index] for index in range(2)]
    if isinstance(thing, PerRank):
        return [use(thing._stateful), thing.state_dict()]
    if hasattr(thing, "use"):
        return thing.use()
    if getattr(thing, "func", None) is seed_worker:
        return thing.keywords
    if inspect.isgeneratorfunction(thing):
        return list(thing())
    if inspect.iscoroutinefunction(thing):
        return asyncio.run(thing())
    if inspect.isasyncgenfunction(thing):
        return asyncio.run(collect(thing()))
    try:
        return thing()
    except OSError as error:
        return str(error)


async def collect(items):
    return [item async for item in items]


def use_all(things):
    """Return what the things draw, as text, and check that nothing else moves."""
    load_libraries()
    used = []
    for thing in things:
        try:
            with assert_rng_unchanged():
                used.append(json.dumps(use(thing)))
        except AssertionError as error:
            raise AssertionError(f"{thing!r}: {error}") from None
    return used


# How it is sent ---------------------------------------------------------------------------


@contextmanager
def through_processes(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        yield lambda things: pool.apply(use_all, (things,))


@contextmanager
def through_loky():
    import joblib

    def send(things):
        parallel = joblib.Parallel(n_jobs=2, backend="loky")
        return [text for (text,) in parallel(joblib.delayed(use_all)([t]) for t in things)]

    yield send


@contextmanager
def through_a_pipe():
    import cloudpickle

    # In a process that cannot import this file: what is defined here goes by value.
    code = (
        "import sys, pickle; sys.path.append(sys.argv[1]); import by_hand; sys.path.pop();"
        "use_all, things = pickle.load(sys.stdin.buffer); print(*use_all(things), sep='\\n')"
    )

    def send(things):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, sys.path[0]],
            input=cloudpickle.dumps((use_all, things)),
            stdout=subprocess.PIPE,
            check=True,
            cwd="/",
        )
        return done.stdout.decode().splitlines()

    yield send


@contextmanager
def through_a_loader(method):
    """Compare what the items of a data set draw in a worker; the things are not sent."""
    from torch.utils.data import DataLoader

    def send(things):
        loader = DataLoader(
            things[0], batch_size=None, num_workers=1, multiprocessing_context=method
        )
        return [json.dumps(item) for item in loader]

    yield send


WAYS = {"loky": through_loky, "cloudpickle": through_a_pipe, "loader": through_a_loader}


def main(method, *options):
    load_libraries()
    is_loader = method == "loader"
    way = WAYS[method](*options) if method in WAYS else through_processes(method)
    things = [Noise()] if is_loader else make_things()
    if method in ("loky", "cloudpickle"):
        things += make_nameless()
    with way as send:
        (python,) = [source for source in SOURCES if source.name == "python"]
        assert python._view is None, "a scope has been open already"
        compare("before", send, things, is_loader)
        if not is_loader:
            things += make_states()
        compare("after", send, things, is_loader)


def compare(moment, send, things, is_loader):
    """Compare what the copies draw elsewhere with what the things draw here, afterwards."""
    there = send(things)
    here = list(map(json.dumps, things[0])) if is_loader else use_all(things)
    for number, (mine, theirs) in enumerate(zip(here, there, strict=True)):
        assert mine == theirs, (moment, number, things)
    print(moment, len(there))


if __name__ == "__main__":
    main(*sys.argv[1:])
