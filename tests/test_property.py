"""Law 1 for random programs: nested scopes, draws, seeds and exceptions in any order.

A model keeps a generator of its own beside every RNG, and plain copies of states where the
scopes keep theirs. After each step every draw, and at each boundary of a scope every byte,
is what the model says.
"""

import random

import pytest
from by_hand import NAMES, as_bytes, load_libraries, public_states, words
from conftest import take_path

from rngscope import RNGState, derive_seed, rng_scope, seed_all

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, event, given, note, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

load_libraries()


class Stop(Exception):
    """What a program raises."""


class HardStop(BaseException):
    """What a program raises past every ``except Exception``."""


# The model --------------------------------------------------------------------------------


class PythonTwin:
    """A ``random.Random`` that is to stay equal to the real one."""

    def __init__(self, real):
        self.real = real
        self.twin = random.Random()
        self.twin.setstate(real.getstate())

    def plain(self):
        return self.twin.getstate()

    def put(self, plain):
        self.twin.setstate(plain)

    continue_from = put

    def seed(self, seed):
        self.twin.seed(seed)

    def real_state(self):
        return self.real.getstate()

    def draws(self, kind):
        for rng in (self.real, self.twin):
            yield {
                "uniform": lambda: rng.random(),
                "normal": lambda: rng.gauss(0, 1),
                "integer": lambda: rng.randrange(10**6),
                "shuffle": lambda: rng.sample(range(30), 30),
                "block": lambda: [rng.random() for _ in range(400)],
            }[kind]()


class NumpyTwin:
    """A ``RandomState``, and the bit generator object that is to be the installed one."""

    def __init__(self, real):
        import numpy

        self.numpy, self.real = numpy, real
        self.installed = real.get_bit_generator()
        self.put((self.installed, real.get_state(legacy=False)))

    def plain(self):
        return self.installed, self.twin.get_state(legacy=False)

    def put(self, plain):
        self.installed, fields = plain
        make = getattr(self.numpy.random, fields["bit_generator"])
        self.twin = self.numpy.random.RandomState(make(0))
        self.twin.set_state(fields)

    def continue_from(self, plain):
        """Replay: another type of bit generator means a new object."""
        kind = plain[1]["bit_generator"]
        installed = self.installed
        if type(installed).__name__ != kind:
            installed = self.real.get_bit_generator()
            assert installed is not self.installed and type(installed).__name__ == kind
        self.put((installed, plain[1]))

    def install(self, kind, seed):
        self.installed = getattr(self.numpy.random, kind)(seed)
        self.real.set_bit_generator(self.installed)
        self.twin = self.numpy.random.RandomState(getattr(self.numpy.random, kind)(seed))

    def seed(self, seed):
        make = type(self.installed)
        if make.__name__ == "MT19937":
            self.twin = self.numpy.random.RandomState(words(seed))
        else:
            self.twin = self.numpy.random.RandomState(make(words(seed)))

    def real_state(self):
        return self.real.get_bit_generator(), as_bytes(self.real.get_state(legacy=False))

    def draws(self, kind):
        for rng in (self.real, self.twin):
            yield {
                "uniform": lambda: rng.random_sample(),
                "normal": lambda: rng.standard_normal(),
                "integer": lambda: rng.randint(0, 10**6),
                "shuffle": lambda: rng.permutation(30).tolist(),
                "block": lambda: rng.standard_normal(400).tolist(),
            }[kind]()


class TorchTwin:
    """A ``torch.Generator`` on the CPU."""

    def __init__(self, real):
        import torch

        self.torch, self.real = torch, real
        self.twin = torch.Generator()
        self.twin.set_state(real.get_state())

    def plain(self):
        return self.twin.get_state()

    def put(self, plain):
        self.twin.set_state(plain)

    continue_from = put

    def seed(self, seed):
        self.twin.manual_seed(seed)

    def real_state(self):
        return self.real.initial_seed(), self.real.get_state().numpy().tobytes()

    def draws(self, kind):
        torch = self.torch
        for rng in (self.real, self.twin):
            yield {
                "uniform": lambda: torch.rand(1, generator=rng).item(),
                "normal": lambda: torch.randn(1, generator=rng).item(),
                "integer": lambda: torch.randint(0, 10**6, (1,), generator=rng).item(),
                "shuffle": lambda: torch.randperm(30, generator=rng).tolist(),
                "block": lambda: torch.randn(400, generator=rng).tolist(),
            }[kind]()


class Model:
    """One twin for every global RNG, and for each generator of the user's own."""

    def __init__(self):
        self.own = {"own python": random.Random(5)}
        self.twins = {"python": PythonTwin(random)}
        self.twins["own python"] = PythonTwin(self.own["own python"])
        if "numpy" in NAMES:
            import numpy

            self.twins["numpy"] = NumpyTwin(numpy.random)
        if "torch" in NAMES:
            import torch

            self.own["own torch"] = torch.Generator().manual_seed(5)
            self.twins["torch"] = TorchTwin(torch.default_generator)
            self.twins["own torch"] = TorchTwin(self.own["own torch"])
        self.states = []
        self.scopes = {}

    def names_in(self, sources, with_own):
        names = NAMES if sources is None else [name for name in NAMES if name in sources]
        return [*names, *self.own] if with_own else names

    def check(self):
        """Compare every byte of every RNG with the model, through public calls only."""
        for name, twin in self.twins.items():
            plain = twin.plain()
            if name == "numpy":
                plain = plain[0], as_bytes(plain[1])
            elif name.endswith("torch"):
                plain = twin.twin.initial_seed(), plain.numpy().tobytes()
            assert twin.real_state() == plain, name

    def seed_of(self, name, seed, independent):
        if not independent:
            return seed
        if name in self.own:
            return derive_seed(seed, "generators", list(self.own).index(name))
        return derive_seed(seed, name)

    # The steps of a program ---------------------------------------------------------------

    def run(self, program):
        for step in program:
            getattr(self, step[0])(*step[1:])

    def draw(self, name, kind):
        if name in self.twins:
            real, wanted = self.twins[name].draws(kind)
            assert real == wanted, name

    def raises(self, error):
        raise error

    def catch(self, body):
        try:
            self.run(body)
        except (Stop, HardStop):
            self.check()

    def install(self, kind, seed):
        if "numpy" in self.twins:
            self.twins["numpy"].install(kind, seed)

    def library_seed(self, seed):
        seed_all(seed, sources=NAMES)
        for name in NAMES:
            self.twins[name].seed(seed)

    def capture(self, sources):
        state = RNGState.capture(sources=sources, generators=self.own.values())
        names = self.names_in(sources, True)
        self.states.append((state, {name: self.twins[name].plain() for name in names}))

    def restore(self, index):
        if self.states:
            state, plains = self.states[index % len(self.states)]
            state.restore(generators=self.own.values())
            for name, plain in plains.items():
                self.twins[name].continue_from(plain)
            self.check()

    def scope(self, seed, sources, independent, body, error):
        self.enter(
            (seed, sources, independent, False),
            lambda: rng_scope(seed, sources=sources, independent=independent),
            [] if seed is None else self.names_in(sources, False),
            lambda name: self.twins[name].seed(self.seed_of(name, seed, independent)),
            body,
            error,
            covered=self.names_in(sources, False),
        )

    def scope_with_own(self, seed, sources, independent, body, error):
        self.enter(
            (seed, sources, independent, True),
            lambda: rng_scope(
                seed, sources=sources, generators=self.own.values(), independent=independent
            ),
            [] if seed is None else self.names_in(sources, True),
            lambda name: self.twins[name].seed(self.seed_of(name, seed, independent)),
            body,
            error,
            covered=self.names_in(sources, True),
        )

    def replay(self, index, sources, body, error):
        if not self.states:
            return
        state, plains = self.states[index % len(self.states)]
        self.enter(
            None,
            lambda: rng_scope(state, sources=sources, generators=self.own.values()),
            [name for name in self.names_in(sources, True) if name in plains],
            lambda name: self.twins[name].continue_from(plains[name]),
            body,
            error,
            covered=self.names_in(sources, True),
        )

    def enter(self, key, make, names, begin, body, error, covered):
        scope = self.scopes.get(key) or make()
        if scope._life is not None and scope._life.found is not None:
            with pytest.raises(RuntimeError, match="is open already"):
                scope.__enter__()
            self.check()
            scope = make()
        if key is not None:
            # One object for all scopes that are alike, so that it is entered again.
            self.scopes.setdefault(key, scope)
        # A copy of what each is now: the states of the twins are values.
        saved = {name: self.twins[name].plain() for name in covered}
        try:
            with scope:
                for name in names:
                    begin(name)
                self.check()
                self.run(body)
                if error is not None:
                    raise error
        finally:
            for name, plain in saved.items():
                self.twins[name].put(plain)
            self.check()


# The programs -----------------------------------------------------------------------------

names = st.sampled_from([*NAMES, "own python", "own torch"])
kinds = st.sampled_from(["uniform", "normal", "normal", "integer", "shuffle", "block"])
seeds = st.sampled_from([0, 42, 42, 2**32, 2**64 - 1]) | st.integers(0, 2**64 - 1)
subsets = st.none() | st.lists(st.sampled_from(NAMES), unique=True).map(tuple)
errors = st.none() | st.sampled_from([Stop, HardStop])
indices = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("draw"), names, kinds),
    st.tuples(st.just("draw"), names, kinds),
    st.tuples(st.just("raises"), st.sampled_from([Stop, HardStop])),
    st.tuples(
        st.just("install"), st.sampled_from(["MT19937", "PCG64", "Philox"]), st.integers(0, 9)
    ),
    st.tuples(st.just("library_seed"), seeds),
    st.tuples(st.just("capture"), subsets),
    st.tuples(st.just("restore"), indices),
)


def blocks(bodies):
    """Return strategies for the steps that have a body."""
    return st.one_of(
        st.tuples(
            st.sampled_from(["scope", "scope_with_own"]),
            st.none() | seeds,
            subsets,
            st.booleans(),
            bodies,
            errors,
        ),
        st.tuples(st.just("replay"), indices, subsets, bodies, errors),
        st.tuples(st.just("catch"), bodies),
    )


programs = st.recursive(
    st.lists(steps, max_size=4),
    lambda bodies: st.lists(steps | blocks(bodies), min_size=1, max_size=5),
    max_leaves=12,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(programs, st.booleans(), st.booleans())
def test_every_program_leaves_what_the_model_says(program, fast, inside):
    """Bytes and draws, on both paths, at the top and inside of another scope."""
    take_path(fast)
    before = public_states()
    try:
        with rng_scope(9):
            model = Model()
            # States to replay from the start; the second with cached Gaussians.
            model.capture(None)
            for name in model.twins:
                model.draw(name, "normal")
            model.capture(None)
            if inside:
                program = [("scope", 7, None, False, program, None)]
            try:
                model.run(program)
            except (Stop, HardStop):
                event("ended by an exception")
            note(f"{len(model.states)} states, {len(model.scopes)} scopes")
            model.check()
        assert public_states() == before
    finally:
        take_path(True)
