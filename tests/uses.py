"""Every kind of use of rngscope, made so that a test can break into it anywhere.

A use is prepared, acts, is finished by the program if it was broken off, and is looked at. Tests
break into ``act`` with interrupts (``every_interrupt.py``) or with a stack that is too short.
"""

import itertools
import random
import sys
import types

from by_hand import NAMES

from rngscope import RNGState, RNGStream, _arrival, _present, rng_scope, seed_all, seeded

#: Name -> class of every kind of use.
USES = {}

SEED = 42

#: Seeds that no scope has had yet, so that none is cached.
_new_seeds = itertools.count(10**6)


def draw(names, drawn):
    """Draw once from each library that is there, and note what is drawn, one by one."""
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if "python" in names:
        drawn.append(("python", random.random()))
    if "numpy" in names and numpy_random is not None:
        drawn.append(("numpy", numpy_random.random_sample()))
    if "torch" in names and torch is not None:
        drawn.append(("torch", torch.rand(1).item()))


@types.coroutine
def pause():
    yield


class Use:
    """A ``with`` block, in the simplest case.

    Args:
        options: ``sources`` of the scopes, as keywords.
        cuda: the simulated CUDA, or None.
        size: how many times the body draws.
    """

    #: Whether it changes the RNGs for good: then all are changed, or none.
    changes = False
    #: Whether it starts the simulated CUDA, if that has not started.
    starts = False
    #: Whether it leaves scopes out of order, or does so where an interrupt comes while a body is
    #: suspended in the middle of a scope of its own.
    warns = False
    #: Whether it can act again and again.
    repeats = True
    #: The libraries that it needs.
    needs = ()

    def __init_subclass__(cls):
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)[1:]
        USES[name] = cls

    def __init__(self, options, cuda=None, size=1):
        self.options, self.cuda, self.size = options, cuda, size
        #: What the scopes cover, which alone is drawn from.
        self.names = options.get("sources", NAMES)
        self.drawn = []
        self.prepare()

    def prepare(self):
        """Make what the use needs; nothing interrupts this."""

    def begin(self):
        """Do what comes last before the use, once the RNGs have their states."""

    def body(self):
        for _ in range(self.size):
            draw(self.names, self.drawn)

    def steps(self):
        """A body that suspends."""
        self.body()
        yield 1
        self.body()

    def act(self):
        with self.scope():
            self.body()

    def scope(self):
        return rng_scope(SEED, **self.options)

    def finish(self):
        """Do what the program does after an interrupt, before it counts on its RNGs."""

    def faults(self):
        """Return what is wrong afterwards with objects of the use's own."""
        return []


class WithSeed(Use):
    pass


class WithNewSeed(Use):
    def scope(self):
        return rng_scope(next(_new_seeds), **self.options)


class WithLargeSeed(Use):
    def scope(self):
        return rng_scope(2**40 + next(_new_seeds), **self.options)


class Preserving(Use):
    def scope(self):
        return rng_scope(**self.options)


class Nested(Use):
    def act(self):
        with rng_scope(1, **self.options), rng_scope(2, sources=["python"]):
            with rng_scope(**self.options):
                self.body()


class Independent(Use):
    def scope(self):
        return rng_scope(SEED, independent=True, **self.options)


class Deterministic(Use):
    needs = ("torch",)

    def scope(self):
        return rng_scope(SEED, deterministic=True, **self.options)


class Generators(Use):
    """The program's own generators, of all four kinds."""

    def prepare(self):
        self.mine = [random.Random(1)]
        if "numpy" in NAMES:
            import numpy

            self.mine += [numpy.random.default_rng(2), numpy.random.RandomState(3)]
        if "torch" in NAMES:
            import torch

            self.mine.append(torch.Generator().manual_seed(4))
        self.before = RNGState.capture(sources=[], generators=self.mine)

    def scope(self):
        return rng_scope(SEED, generators=self.mine, **self.options)

    def body(self):
        super().body()
        self.mine[0].random()

    def faults(self):
        after = RNGState.capture(sources=[], generators=self.mine)
        return [f"changed {name}" for name in after.differs_from(self.before)]


class Everything(Generators):
    needs = ("torch",)

    def scope(self):
        return rng_scope(
            SEED, generators=self.mine, independent=True, deterministic=True, **self.options
        )


class Replay(Use):
    def prepare(self):
        with rng_scope(5, **self.options):
            self.state = RNGState.capture(**self.options)

    def scope(self):
        return rng_scope(self.state, **self.options)


class DevicesInTurn(Use):
    """Scopes over one device each, which wait for one start."""

    needs = ("torch",)

    def act(self):
        with rng_scope(SEED, devices=[0], **self.options):
            with rng_scope(SEED, devices=[1], **self.options):
                self.body()


class Decorated(Use):
    def prepare(self):
        self.function = seeded(SEED, **self.options)(self.body)

    def act(self):
        self.function()


class DecoratedTwice(Use):
    def prepare(self):
        once = seeded(SEED, **self.options)(self.body)
        self.function = seeded(seed_from=lambda: next(_new_seeds), **self.options)(once)

    def act(self):
        self.function()


class Generator(Use):
    def prepare(self):
        self.steps = seeded(SEED, **self.options)(self.steps)

    def act(self):
        for _ in self.steps():
            pass


class GeneratorInScopes(Use):
    """A body that suspends inside a scope of its own, used inside a scope of the caller."""

    warns = True

    def prepare(self):
        @seeded(SEED, **self.options)
        def steps():
            with rng_scope(3, **self.options):
                self.body()
                yield 1
                self.body()

        self.steps = steps

    def act(self):
        with rng_scope(4, **self.options):
            for _ in self.steps():
                self.body()


class GeneratorClosed(GeneratorInScopes):
    def act(self):
        steps = self.steps()
        next(steps)
        steps.close()


class GeneratorThrown(GeneratorInScopes):
    def act(self):
        steps = self.steps()
        next(steps)
        try:
            steps.throw(LookupError("thrown"))
        except LookupError:
            pass


class Coroutine(Use):
    warns = True

    def prepare(self):
        @seeded(SEED, **self.options)
        async def body():
            self.body()
            await pause()
            with rng_scope(3, **self.options):
                await pause()
            self.body()

        self.coroutine = body

    def act(self):
        run(self.coroutine())


def run(coroutine):
    """Run a coroutine to its end."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration:
            return


class AsyncGenerator(Use):
    warns = True

    def prepare(self):
        @seeded(SEED, **self.options)
        async def items():
            self.body()
            yield 1
            await pause()
            with rng_scope(3, **self.options):
                yield 2
            self.body()

        self.items = items

    def act(self):
        run(self.consume())

    async def consume(self):
        async for _ in self.items():
            pass


class AsyncGeneratorClosed(AsyncGenerator):
    async def consume(self):
        items = self.items()
        await items.asend(None)
        await items.asend(None)
        await items.aclose()


class Stream(Use):
    """A stream that was used before: it goes on where it stopped."""

    def prepare(self):
        self.stream = RNGStream(SEED, **self.options)
        with self.stream:
            draw(self.names, self.drawn)

    def act(self):
        with self.stream:
            self.body()

    def faults(self):
        """Its next draws continue what was drawn, of which one may not have been noted."""
        if self.stream._plan.open:
            self.stream._plan.open.clear()
            return ["a use of the stream is open"]
        expected, found = {}, []
        with rng_scope(SEED, **self.options):
            for _ in range(len(self.drawn) + 2):
                drawn = []
                draw(self.names, drawn)
                for name, value in drawn:
                    expected.setdefault(name, []).append(value)
        with self.stream:
            draw(self.names, found)
        faults, may_be_ahead = [], 1
        for name, value in found:
            place = sum(name == other for other, _ in self.drawn)
            if value != expected[name][place]:
                if value == expected[name][place + 1] and may_be_ahead:
                    may_be_ahead -= 1
                else:
                    faults.append(f"the stream does not go on in {name}")
        return faults


class StreamNested(Stream):
    def act(self):
        with self.stream:
            self.body()
            with self.stream:
                self.body()
            self.body()


class StreamThroughScope(Stream):
    def act(self):
        with self.stream:
            self.body()
            with rng_scope(7, **self.options):
                draw(self.names, [])
                with self.stream:
                    self.body()
                draw(self.names, [])
            self.body()


class StreamDecorated(Stream):
    def prepare(self):
        super().prepare()
        self.function = self.stream(self.body)

    def act(self):
        self.function()


class StreamGenerator(Stream):
    def prepare(self):
        super().prepare()
        self.steps = self.stream(self.steps)

    act = Generator.act


class StreamSaved(Stream):
    """A stream whose state is read in a block of its own, then loaded again."""

    def prepare(self):
        # The states of simulated devices are not those of real ones.
        self.options = {"sources": self.names}
        super().prepare()

    def act(self):
        with self.stream:
            saved = self.stream.state_dict()
        self.stream.load_state_dict(saved)


class OutOfOrder(Use):
    """A scope that is left below one that another part of the program entered."""

    warns = True

    def prepare(self):
        self.upper = rng_scope(2, **self.options)
        self.lower = rng_scope(1, **self.options)

    def act(self):
        with self.lower:
            self.upper.__enter__()
            self.body()
        self.body()
        self.upper.__exit__(None, None, None)
        self.prepare()

    def finish(self):
        if self.upper._life is not None and self.upper._life.found is not None:
            self.upper.__exit__(None, None, None)


class OutOfOrderTwice(OutOfOrder):
    """The same with a scope on top that covers less."""

    def prepare(self):
        super().prepare()
        self.top = rng_scope(3, sources=["python"])

    def act(self):
        with self.lower:
            self.upper.__enter__()
            with self.top:
                self.upper.__exit__(None, None, None)
        self.prepare()


class StreamOutOfOrder(Stream):
    warns = True

    def prepare(self):
        super().prepare()
        self.upper = rng_scope(2, **self.options)

    def act(self):
        with self.stream:
            self.body()
            self.upper.__enter__()
        self.upper.__exit__(None, None, None)
        self.upper = rng_scope(2, **self.options)

    finish = OutOfOrder.finish


class Capture(Use):
    def act(self):
        RNGState.capture(**self.options).fingerprint()


class Restore(Use):
    changes = True
    # Only after the start can queues be compared that are not the same one.
    starts = True

    def prepare(self):
        with rng_scope(5, **self.options):
            draw(self.names, [])
            self.state = RNGState.capture(**self.options)

    def act(self):
        self.state.restore()


class SeedAll(Use):
    changes = True
    starts = True

    def act(self):
        seed_all(6, **self.options)


class SeedAllIndependent(SeedAll):
    def act(self):
        seed_all(6, independent=True, **self.options)


class RestoreInScope(Use):
    """A change for good in a scope, which undoes it."""

    def prepare(self):
        Restore.prepare(self)

    def body(self):
        self.state.restore()
        seed_all(8, **self.options)


class LateStart(Use):
    """CUDA starts inside scopes, one of them suspended."""

    repeats = False
    needs = ("torch",)
    starts = True

    def prepare(self):
        @seeded(SEED, **self.options)
        def steps():
            self.body()
            yield 1
            self.body()

        self.steps = steps

    def act(self):
        for _ in self.steps():
            with rng_scope(1, **self.options), rng_scope(2, devices=[1], **self.options):
                if self.cuda is not None:
                    self.cuda.start()
                self.body()


class LateImport(Use):
    """NumPy's random module arrives inside scopes; here it is the one that was there before."""

    repeats = False
    needs = ("numpy",)

    def prepare(self):
        self.module = sys.modules["numpy.random"]
        self.spec = self.module.__spec__
        self.finder = _Again("numpy.random", self.module)

    def begin(self):
        sys.modules.pop("numpy.random", None)
        sys.meta_path.insert(0, self.finder)
        _arrival.pending.add("numpy.random")
        # In real life no library vanishes.
        _present._kept = _present._Kept()
        with rng_scope(1, **self.options):
            pass

    def act(self):
        with rng_scope(SEED, **self.options):
            with rng_scope(2, **self.options):
                import_again()
                self.body()

    def show(self):
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        sys.modules["numpy.random"] = self.module
        self.module.__spec__ = self.spec

    def finish(self):
        """Import it again in a scope, as a program does that goes on after an interrupt."""
        if self.finder not in sys.meta_path:
            sys.meta_path.insert(0, self.finder)
        with rng_scope(SEED, **self.options):
            import_again()
            if "numpy" in self.names:
                self.first = self.module.random_sample()
        self.show()

    def faults(self):
        expected = self.module.RandomState(SEED).random_sample()
        faults = []
        if "numpy" in self.names and self.first != expected:
            faults.append("the library that was imported again is not seeded")
        if "numpy.random" in _arrival.pending:
            faults.append("the library still counts as missing")
        return faults


def import_again():
    import numpy.random  # noqa: F401


class _Again:
    """A finder that brings a module which was there before."""

    def __init__(self, name, module):
        self.name, self.module = name, module

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, _Loader(self.module), is_package=True)


class _Loader:
    def __init__(self, module):
        self.module = module

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        pass
