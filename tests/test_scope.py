"""``rng_scope``, row by row, and laws 1 and 2, on the sources that every machine has."""

import contextlib
import os
import random
import sys

import pytest
from by_hand import NAMES, cache_gaussians, draw, expected, generator, seed_library, words

from rngscope import RNGState, derive_seed, rng_scope
from rngscope.sources import SOURCES

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 42, 2**63, 2**64 - 1]
BIT_GENERATORS = ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"]
each_source = pytest.mark.parametrize("name", NAMES)
each_seed = pytest.mark.parametrize("seed", SEEDS)


class Number:
    """An integer that is none of the known types."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


# Seeding ----------------------------------------------------------------------------------


@each_source
@each_seed
def test_a_scope_draws_what_the_seeded_library_draws(name, seed, path):
    """rng_scope(s) draws exactly what the library's own seed function gives."""
    seed_library(name, seed)
    by_library = [draw(name), draw(name)]
    with rng_scope(seed):
        assert [draw(name), draw(name)] == by_library
    assert by_library == expected(name, seed, 2)


@each_source
@each_seed
def test_a_scope_leaves_no_trace(name, seed, path, unchanged):
    """Law 1: after the exit every source is byte for byte what it was."""
    with rng_scope(seed):
        assert draw(name) == expected(name, seed)[0]


def test_numpy_draws_from_large_seeds_as_from_their_two_words(path, unchanged):
    """From 2**32 up NumPy, which has no such seeds, gets [low, high]."""
    np = pytest.importorskip("numpy")
    with rng_scope(5 + 7 * 2**32):
        drawn = np.random.random_sample(3).tolist()
    assert drawn == np.random.RandomState([5, 7]).random_sample(3).tolist()


def test_torch_draws_the_numbers_that_everyone_knows(path, unchanged):
    """torch.manual_seed(42); torch.randn(3, 3) begins with 0.3367, 0.1288, 0.2345."""
    torch = pytest.importorskip("torch")
    with rng_scope(42):
        first_row = torch.randn(3, 3)[0]
    assert [round(number, 4) for number in first_row.tolist()] == [0.3367, 0.1288, 0.2345]


def test_python_and_numpy_draw_the_numbers_that_everyone_knows(path, unchanged):
    """random.seed(42) gives 0.6394, numpy.random.seed(42) gives 0.3745."""
    with rng_scope(42):
        assert random.random() == 0.6394267984578837
        if "numpy" in NAMES:
            import numpy as np

            assert round(np.random.rand(), 4) == 0.3745


@each_source
@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
def test_whatever_is_an_integer_is_a_seed(name, seed, unchanged):
    """Anything with __index__ counts: NumPy integers, 0-d arrays and 0-d tensors."""
    integers = [Number(seed)]
    if "numpy" in NAMES:
        import numpy as np

        integers += [np.uint64(seed), np.array(seed, dtype="uint64")]
        integers += [np.int64(seed), np.array(seed)] if seed < 2**63 else []
    if "torch" in NAMES and seed < 2**63:
        import torch

        integers += [torch.tensor(seed), torch.tensor(seed, dtype=torch.uint64)]
    for integer in integers:
        with rng_scope(integer) as scope:
            assert type(scope.seed) is int and scope.seed == seed
            assert draw(name) == expected(name, seed)[0]


def test_a_scope_acts_on_entry_never_on_construction(unchanged):
    """To make a scope touches nothing, and to drop it unused neither."""
    scope = rng_scope(42, independent=True, deterministic=True)
    del scope
    before = unchanged()
    scope = rng_scope(42)
    random.random()
    moved = random.getstate()
    with scope:
        pass
    assert random.getstate() == moved != before["python"]
    random.setstate(before["python"])


def test_as_binds_the_scope_with_its_seed(unchanged):
    """scope.seed is the integer given, None when preserving or replaying."""
    scope = rng_scope(42)
    with scope as bound:
        assert bound is scope and bound.seed == 42
    with rng_scope(7, independent=True) as bound:
        assert bound.seed == 7
    with rng_scope() as bound:
        assert bound.seed is None
    with rng_scope(RNGState.capture()) as bound:
        assert bound.seed is None


@each_source
def test_uses_of_one_seed_are_all_alike(name, path, unchanged):
    """From the second use on a seed may come from memory, and nobody can tell."""
    for seed in (42, 2**40):
        wanted = expected(name, seed, 2)
        for _ in range(4):
            with rng_scope(seed):
                assert [draw(name), draw(name)] == wanted


@each_source
def test_many_seeds_in_turn_are_all_right(name, path, unchanged):
    """What is kept of seeds is bounded, and is never taken for another seed."""
    seeds = range(1000, 1100)
    wanted = {seed: expected(name, seed)[0] for seed in seeds}
    for _ in range(3):
        for seed in seeds:
            with rng_scope(seed, sources=[name]):
                assert draw(name) == wanted[seed]
    for source in SOURCES:
        if source.name == name:
            assert len(source.seeded_states) <= source.seeded_states.LIMIT


@each_source
def test_a_body_that_draws_does_not_change_the_next_use_of_its_seed(name, path, unchanged):
    """A kept state is copied, never lent."""
    for _ in range(5):
        with rng_scope(42):
            first = draw(name)
            draw(name)
        assert first == expected(name, 42)[0]


# Preserving and replaying -----------------------------------------------------------------


@each_source
def test_without_a_seed_a_scope_only_preserves(name, path, unchanged):
    """rng_scope() goes on from what there is, and puts it back."""
    with rng_scope():
        first = [draw(name), draw(name)]
    with rng_scope(None):
        assert [draw(name), draw(name)] == first


@each_source
def test_a_scope_replays_a_state(name, path, unchanged):
    """rng_scope(state) continues where the state was captured."""
    with rng_scope(5):
        draw(name)
        state = RNGState.capture()
        wanted = [draw(name), draw(name)]
    for _ in range(2):
        with rng_scope(state):
            assert [draw(name), draw(name)] == wanted


@each_source
def test_a_replay_preserves_what_the_state_does_not_hold(name, path, unchanged):
    """Sources that are not in the state go on from what there is."""
    state = RNGState.capture(sources=[other for other in NAMES if other != name])
    with rng_scope():
        wanted = draw(name)
    with rng_scope(state):
        assert draw(name) == wanted


@each_source
def test_a_replay_covers_only_its_sources(name, path, unchanged):
    """What the state holds beyond sources=[...] is left alone."""
    with rng_scope(5):
        state = RNGState.capture()
    before = unchanged()
    with rng_scope(state, sources=[name]):
        inside = unchanged()
        assert draw(name) == expected(name, 5)[0]
    for other in NAMES:
        assert (inside[other] == before[other]) == (other != name)


# Nesting and entering again ---------------------------------------------------------------


@each_source
@pytest.mark.parametrize("inner_seed", [None, 42, 43])
def test_the_outer_scope_goes_on_after_the_inner_one(name, inner_seed, path, unchanged):
    """An inner scope takes nothing from the stream of the outer one."""
    with rng_scope(42):
        first = draw(name)
        with rng_scope(inner_seed):
            inside = draw(name)
        second = draw(name)
    assert [first, second] == expected(name, 42, 2)
    assert inside == (second if inner_seed is None else expected(name, inner_seed)[0])


@each_source
def test_a_scope_can_be_entered_again_after_it_was_left(name, path, unchanged):
    """Each use of one object begins anew."""
    scope = rng_scope(42)
    for _ in range(3):
        with scope:
            assert [draw(name), draw(name)] == expected(name, 42, 2)
    with pytest.raises(KeyError), scope:
        raise KeyError
    with scope:
        assert draw(name) == expected(name, 42)[0]


@pytest.mark.parametrize("between", [False, True])
def test_entering_an_open_scope_is_refused_and_changes_nothing(between, path, unchanged):
    """Also when it is open further down; the open use goes on."""
    scope = rng_scope(42)
    with scope:
        first = {name: draw(name) for name in NAMES}
        with rng_scope(43) if between else contextlib.nullcontext():
            inside = unchanged()
            with pytest.raises(RuntimeError, match="^this scope is open already; make another"):
                scope.__enter__()
            assert unchanged() == inside
        for name in NAMES:
            assert [first[name], draw(name)] == expected(name, 42, 2)


@each_source
def test_scopes_work_in_an_exit_stack(name, path, unchanged):
    """An ExitStack leaves them in the reverse order of their entry."""
    with contextlib.ExitStack() as stack:
        for seed in range(5):
            stack.enter_context(rng_scope(seed))
            assert draw(name) == expected(name, seed)[0]
        assert draw(name) == expected(name, 4, 2)[1]


@each_source
def test_recursion_nests_scopes(name, path, unchanged):
    """At every depth the draws before and after the inner call are one stream."""

    def descend(depth):
        with rng_scope(depth):
            first = draw(name)
            if depth:
                descend(depth - 1)
            assert [first, draw(name)] == expected(name, depth, 2)

    descend(30)


@each_source
def test_a_scope_is_a_decorator_too(name, unchanged):
    """Every call has a scope of its own."""

    @rng_scope(42)
    def body(depth):
        first = draw(name)
        return first if depth == 0 else (first, body(depth - 1))

    first = expected(name, 42)[0]
    assert body(1) == (first, first)


# Sources and devices ----------------------------------------------------------------------


@each_source
def test_a_scope_seeds_and_restores_only_its_sources(name, path, public_states):
    """Draws of sources that a scope does not cover stay made."""
    cache_gaussians()
    before = public_states()
    with rng_scope(42, sources=[name]):
        drawn = {other: draw(other) for other in NAMES}
    after = public_states()
    for other in NAMES:
        assert (after[other] == before[other]) == (other == name)
        assert (drawn[other] == expected(other, 42)[0]) == (other == name)


def test_sources_are_any_iterable_of_names(unchanged):
    """A tuple, a set, a generator; the same name twice is that source once."""
    for sources in [("python",), {"python"}, iter(["python"]), ["python", "python"]]:
        scope = rng_scope(42, sources=sources)
        assert [source.name for source in scope._plan.sources] == ["python"]
    with rng_scope(42, sources=[]):
        assert unchanged() == unchanged()


def test_a_scope_over_no_source_changes_nothing(unchanged):
    """sources=[] is an empty choice, not all of them."""
    before = unchanged()
    with rng_scope(42, sources=[]):
        assert unchanged() == before


@each_source
@pytest.mark.parametrize("devices", [[], [0], (0, 1), iter([0]), [Number(3)]])
def test_devices_do_not_concern_the_cpu(name, devices, unchanged):
    """Whatever devices are named, the sources on the CPU are covered."""
    with rng_scope(42, sources=NAMES, devices=devices):
        assert draw(name) == expected(name, 42)[0]


def test_no_devices_means_no_accelerator():
    """devices=[] leaves the sources without a device."""
    names = [source.name for source in rng_scope(devices=[])._plan.sources]
    assert names == ["python", "numpy", "torch"]


# Generators of the user -------------------------------------------------------------------


def own_generators():
    """Return kind -> (object, draws of an object seeded with s, by hand)."""
    kinds = {"random.Random": (random.Random(3), lambda s: random.Random(s))}
    if "numpy" in NAMES:
        import numpy as np

        for kind in BIT_GENERATORS:
            make = getattr(np.random, kind)
            kinds[f"Generator {kind}"] = (
                np.random.Generator(make(3)),
                lambda s, make=make: np.random.Generator(make(s)),
            )
        kinds["RandomState"] = (
            np.random.RandomState(3),
            lambda s: np.random.RandomState(words(s)),
        )
        kinds["RandomState PCG64"] = (
            np.random.RandomState(np.random.PCG64(3)),
            lambda s: np.random.RandomState(np.random.PCG64(words(s))),
        )
    if "torch" in NAMES:
        import torch

        kinds["torch.Generator"] = (
            torch.Generator().manual_seed(3),
            lambda s: torch.Generator().manual_seed(s),
        )
    return kinds


each_kind = pytest.mark.parametrize("kind", own_generators())


def draw_own(own):
    """Draw an odd number of Gaussians, uniforms and small integers."""
    if isinstance(own, random.Random):
        return [own.gauss(0, 1), own.random()]
    if hasattr(own, "initial_seed"):
        import torch

        return [torch.randn(1, generator=own).item(), torch.rand(1, generator=own).item()]
    if hasattr(own, "integers"):
        # One integer of 32 bits leaves the other half of a word cached.
        return [
            own.integers(0, 99, dtype="uint32").item(),
            own.standard_normal(),
            own.permutation(9).tolist(),
        ]
    return [own.standard_normal(), own.random_sample(), own.randint(0, 99)]


@each_kind
@pytest.mark.parametrize("seed", [0, 42, 2**32, 2**64 - 1])
def test_generators_of_the_user_are_seeded_and_put_back(kind, seed, unchanged):
    """Each kind draws what a new object with that seed draws, and then what it would have."""
    own, by_hand = own_generators()[kind]
    twin = own_generators()[kind][0]
    assert draw_own(own) == draw_own(twin)
    for _ in range(2):
        with rng_scope(seed, generators=[own]):
            fresh = by_hand(seed)
            assert [draw_own(own) for _ in range(3)] == [draw_own(fresh) for _ in range(3)]
    with rng_scope(generators=[own]):
        again = draw_own(own)
    assert again == draw_own(twin) == draw_own(own)
    assert draw_own(own) == draw_own(twin)


@each_kind
def test_generators_are_put_back_after_an_exception(kind, unchanged):
    """Law 1 holds for the objects of the user too."""
    (own, _), (twin, _) = own_generators()[kind], own_generators()[kind]
    with pytest.raises(KeyError), rng_scope(42, generators=[own]):
        draw_own(own)
        raise KeyError
    assert draw_own(own) == draw_own(twin)


def test_the_same_generator_twice_is_one_generator(unchanged):
    """Neither is it saved twice nor seeded twice."""
    own, twin = random.Random(3), random.Random(3)
    with rng_scope(42, generators=[own, own], independent=True):
        own.random()
    assert own.getstate() == twin.getstate()


@pytest.mark.filterwarnings("ignore:generators.* draw the same numbers")
def test_the_global_generator_may_be_named_as_ones_own(unchanged):
    """A scope that covers one RNG under two names still puts it back."""
    generators = [random._inst]
    if "numpy" in NAMES:
        generators.append(sys.modules["numpy.random"].mtrand._rand)
    if "torch" in NAMES:
        generators.append(sys.modules["torch"].default_generator)
    with rng_scope(42, generators=generators):
        assert [draw(name) for name in NAMES] == [expected(name, 42)[0] for name in NAMES]


def test_a_subclass_with_a_seed_of_its_own_is_seeded_its_own_way(unchanged):
    """random.Random is meant to be subclassed: getstate, setstate and seed are its words."""

    class Counter(random.Random):
        def __init__(self):
            self.count = 5

        def seed(self, *args):
            self.count = 100

        def getstate(self):
            return self.count

        def setstate(self, state):
            self.count = state

    own = Counter()
    with rng_scope(42, generators=[own]):
        assert own.count == 100
    assert own.count == 5


# Independent ------------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
def test_independent_gives_each_source_a_derived_seed(name, seed, path, unchanged):
    """Each source gets derive_seed(seed, its name), and scope.seed stays the one given."""
    for _ in range(3):
        with rng_scope(seed, independent=True) as scope:
            assert scope.seed == seed
            assert draw(name) == expected(name, derive_seed(seed, name))[0]


def test_one_integer_for_all_gives_numpy_and_torch_the_same_numbers(unchanged):
    """Why independent exists: without it both walk one Mersenne Twister."""
    np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")

    def both():
        return np.random.randint(0, 256, 50).tolist(), torch.randint(0, 256, (50,)).tolist()

    with rng_scope(42):
        by_numpy, by_torch = both()
    assert by_numpy == by_torch
    with rng_scope(42, independent=True):
        by_numpy, by_torch = both()
    assert by_numpy != by_torch


def test_independent_generators_get_seeds_by_position(unchanged):
    """The seed of a user's generator is derive_seed(seed, 'generators', position)."""
    owns = [random.Random(3), random.Random(3)]
    with rng_scope(42, generators=owns, independent=True):
        drawn = [own.random() for own in owns]
    seeds = [derive_seed(42, "generators", position) for position in (0, 1)]
    assert drawn == [random.Random(seed).random() for seed in seeds]


# Deterministic ----------------------------------------------------------------------------


def flags():
    import torch

    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.fixture(params=["all off", "all on", "warn only", "workspace set"])
def found_flags(request):
    """Set the flags to each of the ways in which a program may have set them."""
    torch = pytest.importorskip("torch")
    before = flags()
    mode, warn_only, benchmark, workspace = {
        "all off": (False, False, False, None),
        "all on": (True, False, False, ":4096:8"),
        "warn only": (True, True, True, None),
        "workspace set": (False, False, True, ":16:8"),
    }[request.param]

    def put(mode, warn_only, deterministic, benchmark, workspace):
        torch._C._set_deterministic_algorithms(mode, warn_only=warn_only)
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = benchmark
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        if workspace is not None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace

    put(mode, warn_only, mode, benchmark, workspace)
    yield flags()
    put(*before)


@pytest.mark.parametrize("seed", [None, 42])
@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_deterministic_kernels_are_switched_on_and_back(found_flags, seed, error, unchanged):
    """Every flag is what it was: warn_only, cuDNN's two, and the variable unset again."""
    workspace = found_flags[-1] or ":4096:8"
    with contextlib.suppress(error or ()), rng_scope(seed, deterministic=True):
        assert flags() == (True, False, True, False, workspace)
        with rng_scope(seed):
            assert flags() == (True, False, True, False, workspace)
        if error:
            raise error
    assert flags() == found_flags


def test_deterministic_undoes_what_the_body_sets(found_flags, unchanged):
    """Flags are put back like a source, also those that the body changes."""
    torch = pytest.importorskip("torch")
    with rng_scope(deterministic=True):
        torch._C._set_deterministic_algorithms(False, warn_only=True)
        torch.backends.cudnn.benchmark = True
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        inside = flags()
        with rng_scope(deterministic=True):
            assert flags()[:4] == (True, False, True, False)
        assert flags() == inside
    assert flags() == found_flags


def test_a_deterministic_replay_switches_too(found_flags, unchanged):
    """The flags do not depend on how the sources begin."""
    with rng_scope(RNGState.capture(), deterministic=True):
        assert flags()[:4] == (True, False, True, False)
    assert flags() == found_flags


def test_a_scope_that_is_not_deterministic_leaves_the_flags_to_the_body(found_flags):
    """Without deterministic=True the flags are no business of the scope."""
    torch = pytest.importorskip("torch")
    with rng_scope(42):
        assert flags() == found_flags
        torch.backends.cudnn.benchmark = not found_flags[3]
    assert flags()[3] is not found_flags[3]


# Where torch is not installed the end of the scope says so, as it should.
@pytest.mark.filterwarnings("ignore:deterministic=True changed nothing:RuntimeWarning")
def test_deterministic_without_torch_has_no_effect(monkeypatch, unchanged):
    """If torch is never imported, nothing is switched: not even the variable."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("rngscope.sources.determinism.torch_module", lambda: None)
    with rng_scope(42, deterministic=True):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


# However it ends --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 42])
@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration]
)
def test_every_exception_restores_and_goes_on(error, seed, path, unchanged):
    """Law 1: what the body raises comes out as it is, after everything is put back."""
    raised = error("out")
    with pytest.raises(error) as caught, rng_scope(seed):
        for name in NAMES:
            draw(name)
        raise raised
    assert caught.value is raised and raised.__context__ is None


def test_leaving_by_return_break_and_continue_restores(unchanged):
    """A with block ends in many ways."""

    def returns():
        with rng_scope(1):
            return random.random()

    assert returns() == random.Random(1).random()
    for _ in range(2):
        with rng_scope(1):
            random.random()
            continue
    while True:
        with rng_scope(1):
            random.random()
            break


def test_a_closed_generator_restores(unchanged):
    """GeneratorExit, thrown where the body is suspended, ends its scope."""

    def body():
        with rng_scope(42):
            random.random()
            yield

    steps = body()
    next(steps)
    steps.close()


@each_source
def test_what_the_body_seeds_is_undone(name, path, unchanged):
    """Law 1 does not depend on what the body does to the source."""
    with rng_scope(42):
        seed_library(name, 7)
        assert draw(name) == expected(name, 7)[0]
    with rng_scope():
        seed_library(name, 8)


def test_the_initial_seed_of_torch_comes_back(path, unchanged):
    """torch.initial_seed() is part of the state, inside and after."""
    torch = pytest.importorskip("torch")
    before = torch.initial_seed()
    for seed in (42, 42, 42, 42 + 2**32, 2**64 - 1):
        with rng_scope(seed):
            assert torch.initial_seed() == seed
    assert torch.initial_seed() == before == 99


# Gaussians --------------------------------------------------------------------------------


def gaussian(name):
    """Draw one Gaussian, of which all three libraries cache a second one."""
    if name == "python":
        return random.gauss(0, 1)
    if name == "numpy":
        return sys.modules["numpy"].random.standard_normal()
    return sys.modules["torch"].randn(1).item()


@each_source
@pytest.mark.parametrize("outer", [0, 1])
@pytest.mark.parametrize("inner", [0, 1])
@pytest.mark.parametrize("begins", ["preserved", "seeded", "seeded again", "replayed"])
def test_cached_gaussians_are_kept_apart(name, outer, inner, begins, path):
    """The cached half of a pair stays where it belongs, in every combination."""
    own = generator(name, 5)

    def gaussian_by_hand(own):
        if name == "torch":
            return sys.modules["torch"].randn(1, generator=own).item()
        return own.gauss(0, 1) if name == "python" else own.standard_normal()

    with rng_scope(9):
        gaussian(name)
        state = RNGState.capture()
        wanted_in_replay = [gaussian(name) for _ in range(3)]
    begin = {"preserved": None, "seeded": 42, "seeded again": 42, "replayed": state}[begins]
    if begins == "seeded again":
        for _ in range(2):
            with rng_scope(42):
                gaussian(name)
    seed_library(name, 5)
    for _ in range(outer):
        assert gaussian(name) == gaussian_by_hand(own)
    with rng_scope(begin):
        drawn = [gaussian(name) for _ in range(2 + inner)]
    rest = [gaussian_by_hand(own) for _ in range(3)]
    assert [gaussian(name) for _ in range(3)] == rest
    if begin is None:
        assert drawn == rest[: len(drawn)]
    elif begin is state:
        assert drawn == wanted_in_replay[: len(drawn)]
    else:
        fresh = generator(name, 42)
        assert drawn == [gaussian_by_hand(fresh) for _ in drawn]


# NumPy's bit generators -------------------------------------------------------------------


@pytest.fixture
def numpy_random():
    """Give NumPy's module back with the bit generator that it had."""
    np = pytest.importorskip("numpy")
    original = np.random.get_bit_generator()
    state = np.random.get_state(legacy=False)
    yield np.random
    np.random.set_bit_generator(original)
    np.random.set_state(state)


@pytest.mark.parametrize("kind", BIT_GENERATORS)
@pytest.mark.parametrize("seed", [None, 42])
def test_a_bit_generator_that_the_body_installs_is_taken_out(
    kind, seed, path, numpy_random, unchanged
):
    """The exit puts the same object back, with its state and its cached Gaussian."""
    for swaps in (1, 2):
        with rng_scope(seed):
            for _ in range(swaps):
                numpy_random.set_bit_generator(getattr(numpy_random, kind)(5))
            numpy_random.standard_normal()


@pytest.mark.parametrize("kind", BIT_GENERATORS)
@pytest.mark.parametrize("seed", [42, 2**32 + 1])
@pytest.mark.parametrize("gaussians", [0, 1])
def test_a_bit_generator_that_is_installed_at_entry_is_seeded_and_kept(
    kind, seed, gaussians, path, numpy_random, public_states
):
    """Under every bit generator a scope draws what numpy.random.seed gives, from no cache."""
    make = getattr(numpy_random, kind)
    installed = make(3)
    numpy_random.set_bit_generator(installed)
    for _ in range(gaussians):
        numpy_random.standard_normal()
    before = public_states()
    if kind == "MT19937":
        fresh = numpy_random.RandomState(words(seed))
    else:
        fresh = numpy_random.RandomState(make(words(seed)))
    with rng_scope(seed):
        assert numpy_random.get_bit_generator() is installed
        drawn = [numpy_random.standard_normal(), numpy_random.random_sample()]
    assert drawn == [fresh.standard_normal(), fresh.random_sample()]
    with rng_scope(seed):
        numpy_random.set_bit_generator(numpy_random.MT19937(1))
        with rng_scope(seed):
            assert draw("numpy") == expected("numpy", seed)[0]
    assert public_states() == before


@pytest.mark.parametrize("inside", BIT_GENERATORS)
@pytest.mark.parametrize("outside", ["MT19937", "PCG64"])
def test_a_replay_onto_another_bit_generator_installs_one_for_the_scope(
    inside, outside, path, numpy_random, public_states
):
    """The object that was there never changes, and comes back at the end."""
    numpy_random.set_bit_generator(getattr(numpy_random, inside)(7))
    numpy_random.standard_normal()
    state = RNGState.capture(sources=["numpy"])
    wanted = [numpy_random.standard_normal(), numpy_random.random_sample()]
    numpy_random.set_bit_generator(getattr(numpy_random, outside)(8))
    numpy_random.standard_normal()
    before = public_states()
    with rng_scope(state):
        assert type(numpy_random.get_bit_generator()).__name__ == inside
        assert [numpy_random.standard_normal(), numpy_random.random_sample()] == wanted
    assert public_states() == before


def test_a_scope_leaves_the_seed_sequence_of_the_bit_generator_alone(path, numpy_random):
    """numpy.random.seed() forgets it; a scope must not, or spawn() breaks afterwards."""
    bit_generator = numpy_random.MT19937(3)
    numpy_random.set_bit_generator(bit_generator)
    # NumPy 1.25 made the attribute public.
    name = "seed_seq" if hasattr(bit_generator, "seed_seq") else "_seed_seq"
    sequence = getattr(bit_generator, name)
    assert sequence is not None
    for _ in range(3):
        with rng_scope(42):
            assert draw("numpy") == expected("numpy", 42)[0]
    assert getattr(bit_generator, name) is sequence


# Modes of torch ---------------------------------------------------------------------------


def torch_modes():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    return {
        "meta device": torch.device("meta"),
        "inference mode": torch.inference_mode(),
        "no grad": torch.no_grad(),
        "fake tensors": FakeTensorMode(),
        "fake tensors that let others in": FakeTensorMode(allow_non_fake_inputs=True),
    }


@pytest.mark.parametrize(
    "mode",
    [
        "meta device",
        "inference mode",
        "no grad",
        "fake tensors",
        "fake tensors that let others in",
    ],
)
def test_modes_of_torch_change_nothing(mode, path, unchanged):
    """Law 9: saving, seeding and restoring are no tensor operations."""
    torch = pytest.importorskip("torch")
    for _ in range(3):
        with torch_modes()[mode]:
            scope = rng_scope(42)
            scope.__enter__()
        try:
            assert draw("torch") == expected("torch", 42)[0]
        finally:
            with torch_modes()[mode]:
                scope.__exit__(None, None, None)
    with torch_modes()[mode], rng_scope(42):
        torch.rand(3)
