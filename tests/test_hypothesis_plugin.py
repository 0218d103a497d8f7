"""The Hypothesis plugin, in processes of their own where Hypothesis must load it anew."""

import os
import random
import subprocess
import sys
import textwrap

import by_hand
import pytest

pytest.importorskip("hypothesis")

from hypothesis import find, given, settings, strategies  # noqa: E402

from rngscope import RNGState, hypothesis_plugin, rng_scope  # noqa: E402
from rngscope.hypothesis_plugin import _TORCH, rng_states, seeds  # noqa: E402
from rngscope.pytest_plugin.leaks import mersenne_of  # noqa: E402

needs_torch = pytest.mark.skipif("torch" not in by_hand.NAMES, reason="needs torch")
by_hand.load_libraries()


def run(code, *flags, **variables):
    """Run a program in a new process, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FIRST_DRAWS = """
import random, numpy.random, torch
from hypothesis import given, settings, strategies as st

first = {"random": set(), "numpy": set(), "torch": set()}

def draw():
    first["random"].add(random.random())
    first["numpy"].add(numpy.random.rand())
    first["torch"].add(torch.rand(1).item())

@settings(max_examples=5, database=None, derandomize=True)
@given(st.integers())
def test(number):
    draw()

before = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state()
test()
after = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state()
print(*(len(draws) for draws in first.values()))
print(before[:2] == after[:2], torch.equal(before[2], after[2]))
"""


@needs_torch
def test_torch_draws_the_same_in_every_example():
    """Law: of 5 examples, random, numpy and torch have 1 distinct first draw each, and the
    outer state is back; without the plugin torch has 5, and is moved.
    """
    assert run(FIRST_DRAWS, HYPOTHESIS_NO_PLUGINS="1").splitlines() == ["1 1 5", "True False"]
    assert run(FIRST_DRAWS).splitlines() == ["1 1 1", "True True"]


@needs_torch
def test_torch_starts_from_the_seed_of_hypothesis_in_every_run():
    """Law: inside @given torch draws what it draws after a seed of 0."""
    code = """
    import torch
    from hypothesis import given, strategies as st

    @given(st.just(1))
    def test(number):
        print(torch.initial_seed(), torch.equal(torch.rand(9), torch.rand(9, generator=own)))

    own = torch.Generator().manual_seed(0)
    test()
    """
    assert run(code) == "0 True"


@needs_torch
def test_a_failing_example_replays():
    """Law: a failure that needs torch's draw is no flaky test."""
    code = """
    import torch
    from hypothesis import given, settings, strategies as st
    from hypothesis.errors import Flaky

    @settings(database=None, derandomize=True)
    @given(st.integers())
    def test(number):
        # The first draw after a seed of 0, and after a seed of 1.
        assert round(torch.rand(()).item(), 4) not in (0.4963, 0.7576)

    torch.manual_seed(1)
    try:
        test()
    except AssertionError:
        print("fails")
    except Flaky:
        print("is flaky")
    """
    assert run(code) == "fails"
    assert run(code, HYPOTHESIS_NO_PLUGINS="1") == "is flaky"


@needs_torch
def test_random_module_varies_torch_too():
    """Law: the strategy random_module() seeds torch with what it drew, for that example."""
    code = """
    import random, torch
    from hypothesis import given, settings, strategies as st

    @settings(max_examples=5, database=None, derandomize=True)
    @given(st.random_module())
    def test(module):
        assert torch.initial_seed() == module.seed
        assert random.random() == random.Random(module.seed).random()

    torch.manual_seed(7)
    before = torch.get_rng_state()
    test()
    print(torch.equal(before, torch.get_rng_state()), torch.initial_seed())
    """
    assert run(code) == "True 7"


def test_it_imports_nothing():
    """Law: Hypothesis with the plugin imports neither torch nor NumPy, and no example does."""
    code = """
    import sys
    from hypothesis import given, strategies as st

    @given(st.integers())
    def test(number):
        pass

    test()
    print({"torch", "numpy"} & sys.modules.keys(), "rngscope.hypothesis_plugin" in sys.modules)
    """
    assert run(code) == "set() True"


def test_it_can_be_imported_before_hypothesis():
    """Law: the import of the plugin needs no Hypothesis, and survives that of Hypothesis."""
    code = """
    import sys
    import rngscope.hypothesis_plugin
    print("hypothesis" in sys.modules)
    rngscope.hypothesis_plugin.seeds()
    """
    assert run(code) == "False"


@needs_torch
def test_torch_that_is_imported_in_an_example_is_seeded_then():
    """Law: from the moment of its import torch has the example's seed; afterwards it has
    the state that it was imported with.
    """
    code = """
    from hypothesis import given, settings, strategies as st

    draws = set()
    imported_with = []

    @settings(max_examples=3, database=None, derandomize=True, deadline=None)
    @given(st.integers())
    def test(number):
        import torch
        draws.add((torch.initial_seed(), torch.rand(1).item()))

    test()
    import torch
    print(draws == {(0, torch.rand(1, generator=torch.Generator().manual_seed(0)).item())})
    print(torch.initial_seed() != 0)
    """
    assert run(code).splitlines() == ["True", "True"]


@needs_torch
def test_started_accelerators_are_managed_and_others_stay_as_they_are(monkeypatch):
    """Law: a started accelerator is seeded and restored; one that has not started is not
    started, and one that starts in an example has its seed. torch.manual_seed is not called.
    """
    code = """
    import torch
    from hypothesis import given, settings, strategies as st
    from simulated_cuda import simulated_cuda

    def refuse(seed):
        raise AssertionError("torch.manual_seed was called")

    torch.manual_seed = refuse
    with simulated_cuda(2) as cuda:
        start_it = False

        @settings(max_examples=3, database=None, derandomize=True)
        @given(st.integers())
        def test(number):
            if start_it:
                cuda.start()
            seeds.update(generator.initial_seed() for generator in cuda.generators)

        seeds = set()
        test()
        print(cuda.started, seeds)
        start_it = True
        test()
        print(cuda.states() == cuda.fresh, seeds)
        cuda.generators[1].manual_seed(5)
        before = cuda.states()
        test()
        print(cuda.states() == before, seeds)
    """
    path = os.path.dirname(by_hand.__file__)
    expected = ["False set()", "True {0}", "True {0}"]
    monkeypatch.setenv("PYTHONPATH", path, prepend=os.pathsep)
    assert run(code).splitlines() == expected


def test_examples_of_several_threads_may_end_in_any_order(recwarn):
    """Law: the outer state is back once all have ended, and nothing is said about order."""
    with rng_scope(3):
        before = RNGState.capture()
        first = _TORCH.getstate()
        _TORCH.seed(1)
        second = _TORCH.getstate()
        _TORCH.seed(2)
        _TORCH.setstate(first)
        _TORCH.setstate(second)
        assert RNGState.capture() == before
    assert not recwarn.list


def test_an_example_that_was_never_seeded_is_put_back_without_harm():
    """Law: an interrupt between the state and the seed leaves nothing to undo."""
    before = RNGState.capture()
    _TORCH.setstate(_TORCH.getstate())
    assert RNGState.capture() == before


# Strategies ---------------------------------------------------------------------------------


@given(seeds())
def test_seeds_are_seeds(seed):
    """Law: each is what rng_scope takes."""
    with rng_scope(seed) as scope:
        assert scope.seed == seed


@pytest.mark.parametrize("boundary", [0, 2**32 - 1, 2**32, 2**64 - 1])
def test_seeds_reach_their_boundaries(boundary):
    """Law: the seeds at which libraries differ come up, and the smallest is 0."""
    quick = settings(max_examples=2000, database=None)
    assert find(seeds(), lambda seed: seed >= boundary, settings=quick) == boundary


@settings(max_examples=50, deadline=None)
@given(rng_states())
def test_states_can_be_replayed(state):
    """Law: a state of rng_states() holds all sources that are there, and is restored exactly."""
    assert set(by_hand.NAMES) <= set(state.fingerprints())
    with rng_scope(state):
        assert RNGState.capture() == state


def draw_gaussian(name):
    if name == "python":
        random.gauss(0, 1)
    elif name == "numpy":
        sys.modules["numpy"].random.standard_normal()
    else:
        sys.modules["torch"].randn(1)


def mersenne(state, name):
    """Return the words and the position."""
    return mersenne_of(name, state._sources[name])[1:]


@pytest.mark.parametrize("name", by_hand.NAMES)
def test_states_that_are_easily_lost_come_up(name):
    """Law: some states hold a cached Gaussian, some stand at the end of their words."""
    quick = settings(max_examples=500, database=None, deadline=None)

    def holds_a_gaussian(state):
        with rng_scope(state):
            draw_gaussian(name)
            return mersenne(RNGState.capture(), name) == mersenne(state, name)

    assert find(rng_states(), holds_a_gaussian, settings=quick)
    assert find(rng_states(), lambda state: mersenne(state, name)[1] == 623, settings=quick)


@settings(max_examples=20, deadline=None)
@given(strategies.data())
def test_drawing_states_moves_no_global_rng(data):
    """Law: neither Hypothesis nor the test sees that the strategy draws."""
    before = RNGState.capture()
    data.draw(rng_states())
    assert before == RNGState.capture()


@pytest.mark.parametrize("missing", ["numpy_random", "torch_module"])
def test_states_need_neither_library(monkeypatch, missing):
    """Law: what is not imported is not drawn from, and not imported."""
    monkeypatch.setattr(hypothesis_plugin, missing, lambda: None)
    name = missing.partition("_")[0]
    with rng_scope(1):
        before = RNGState.capture()
        hypothesis_plugin._draw([1, 1, 1], True)
        assert set(before.differs_from(RNGState.capture())) == set(by_hand.NAMES) - {name}
