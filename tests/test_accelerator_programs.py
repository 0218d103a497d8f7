"""Law 4 and 5 as a property: random programs of scopes, seeds and draws around a start.

The model knows no queue. For each device it keeps a pile of plain generators, one for each open
scope that covers the device, made when the accelerator starts from what each scope has seeded.
"""

import warnings

import pytest

torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from simulated_cuda import simulated_cuda, state_bytes  # noqa: E402

from rngscope import rng_scope  # noqa: E402

COUNT = 2


def seeded(seed):
    return lambda generator: torch.Generator().manual_seed(seed)


def copy_of(generator):
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return copy


class Pile:
    """One device: what its generator holds in each open scope, from the program's up."""

    def __init__(self, index):
        self.index = index
        #: (scope, changes): the changes lead from the level below to this one.
        self.levels = [(None, [])]
        self.copies = None

    def start(self, fresh):
        self.copies = []
        for _, changes in self.levels:
            generator = fresh = copy_of(fresh)
            for change in changes:
                generator = fresh = change(generator)
            self.copies.append(generator)

    def change(self, change):
        if self.copies is None:
            self.levels[-1][1].append(change)
        else:
            self.copies[-1] = change(self.copies[-1])

    def enter(self, scope, seed):
        self.levels.append((scope, []))
        if self.copies is not None:
            self.copies.append(copy_of(self.copies[-1]))
        if seed is not None:
            self.change(seeded(seed))

    def leave(self, scope):
        """Take one level out; those above keep what they hold."""
        for place, (owner, changes) in enumerate(self.levels):
            if owner is scope:
                del self.levels[place]
                if place < len(self.levels):
                    self.levels[place][1][:0] = changes
                if self.copies is not None:
                    del self.copies[place]
                return


def seeds():
    return st.integers(0, 2**64 - 1)


def steps(devices):
    return st.one_of(
        st.tuples(st.just("enter"), st.none() | seeds(), devices),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("torch.manual_seed"), seeds()),
        st.tuples(st.just("manual_seed"), seeds()),
        st.tuples(st.just("unrelated")),
        st.tuples(st.just("draw")),
        st.tuples(st.just("start")),
    )


def run(program, queued_state, in_order):
    """Run the program on the simulated accelerator and on the model, and compare.

    Given up: a scope that is left below one over further devices, before the start, after the
    program has queued seeds in it. See DESIGN.rst, "An accelerator before its start".
    """
    with simulated_cuda(COUNT) as cuda, warnings.catch_warnings():
        if not in_order:
            warnings.simplefilter("ignore", RuntimeWarning)
        piles = [Pile(index) for index in range(COUNT)]
        #: The devices of each open scope; and those scopes in which the program has queued seeds.
        covered, seeded_in = {}, set()
        scopes, ran, expected = [], [], []

        def look():
            if cuda.started:
                for pile, generator in zip(piles, cuda.generators):
                    if pile.copies is None:
                        fresh = torch.Generator()
                        fresh.set_state(torch.tensor(list(cuda.fresh[pile.index]),
                                                     dtype=torch.uint8))
                        pile.start(fresh)
                    assert state_bytes(generator) == state_bytes(pile.copies[-1])

        def is_given_up(scope, uppers):
            further = [upper for upper in uppers if not covered[upper] <= covered[scope]]
            return not cuda.started and scope in seeded_in and covered[scope] and further

        def leave(place):
            if place != -1 and is_given_up(scopes[place], scopes[place + 1 :]):
                place = -1
            scope = scopes.pop(place)
            for pile in piles:
                pile.leave(scope)
            scope.__exit__(None, None, None)

        if queued_state:
            # Only here: in a body, torch's order of states and seeds is not that of the calls.
            state = torch.Generator().manual_seed(11).get_state()
            torch.cuda.set_rng_state(state, 1)
            piles[1].change(seeded(11))
        for step, *values in program:
            if step == "enter":
                seed, devices = values
                scope = rng_scope(seed, devices=devices)
                scope.__enter__()
                scopes.append(scope)
                covered[scope] = set(range(COUNT) if devices is None else devices)
                for pile in piles:
                    if devices is None or pile.index in devices:
                        pile.enter(scope, seed)
            elif step == "leave" and scopes:
                leave(-1 if in_order else values[0] % len(scopes))
            elif step == "torch.manual_seed":
                seeded_in.update(scopes)
                torch.manual_seed(values[0])
                for pile in piles:
                    pile.change(seeded(values[0]))
            elif step == "manual_seed":
                seeded_in.update(scopes)
                torch.cuda.manual_seed(values[0])
                piles[0].change(seeded(values[0]))
            elif step == "unrelated":
                number = len(expected)
                expected.append(number)
                torch.cuda._lazy_call(lambda number=number: ran.append(number))
            elif step == "draw" and cuda.started:
                for pile, generator in zip(piles, cuda.generators):
                    drawn = torch.randn(3, generator=generator)
                    assert torch.equal(drawn, torch.randn(3, generator=pile.copies[-1]))
            elif step == "start":
                cuda.start()
            look()
        while scopes:
            leave(-1 if in_order else 0)
            look()
        cuda.start()
        look()
        assert ran == expected
        assert cuda.ran == ["capability", "cubins"]


COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@COMMON
@given(st.lists(steps(st.none()), max_size=14), st.booleans())
def test_scopes_nest_around_a_start_anywhere(program, queued_state):
    """Law 4: whatever was queued, seeded and drawn, each level holds its own stream."""
    run(program, queued_state, in_order=True)


@COMMON
@given(st.lists(steps(st.none()), max_size=14), st.booleans())
def test_scopes_left_in_any_order_around_a_start_anywhere(program, queued_state):
    """Law 5: taking one level out leaves those above and below as they are."""
    run(program, queued_state, in_order=False)


@COMMON
@given(
    st.lists(steps(st.sampled_from([None, [0], [1], [0, 1], []])), max_size=14), st.booleans()
)
def test_scopes_over_some_devices_nest_around_a_start_anywhere(program, queued_state):
    """Laws 4 and 5 hold for each device by itself."""
    run(program, queued_state, in_order=True)


@COMMON
@given(
    st.lists(steps(st.sampled_from([None, [0], [1], [0, 1], []])), max_size=14), st.booleans()
)
def test_scopes_over_some_devices_left_in_any_order(program, queued_state):
    """Laws 4 and 5 hold for each device by itself, in any order."""
    run(program, queued_state, in_order=False)
