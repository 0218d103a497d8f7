"""A generator that its owner replaces inside a scope: noticed, and named at the end."""

import asyncio
import gc
import random
import sys
import warnings

import pytest
from by_hand import NAMES

from rngscope import RNGState, RNGStream, rng_scope, seeded
from rngscope.sources import generators as generators_module


class Owner:
    """An object that makes its generator anew when it is seeded, as a Gymnasium environment."""

    def __init__(self, make):
        self.make = make
        self.rng = make()

    def reset(self):
        self.rng = self.make()


MAKERS = {"random.Random": random.Random}
if "numpy" in NAMES:
    import numpy

    MAKERS["numpy.random.Generator"] = numpy.random.default_rng
    MAKERS["numpy.random.RandomState"] = numpy.random.RandomState
if "torch" in NAMES:
    import torch

    MAKERS["torch.Generator"] = torch.Generator
REPLACED = "generators[0], a {}, was replaced: nothing but the scope holds it"


@pytest.fixture
def owner():
    return Owner(random.Random)


def told(function):
    """Return the messages of warnings, after checking that this file is to blame."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    assert all(w.category is RuntimeWarning for w in caught), caught
    assert all(w.filename in (__file__, asyncio.events.__file__) for w in caught), caught
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_generator_that_its_owner_replaces_is_one_warning_that_names_it(kind):
    """What is drawn from its successor is neither seeded nor put back."""
    owner = Owner(MAKERS[kind])

    def block():
        with rng_scope(42, generators=[owner.rng]):
            owner.reset()

    (message,) = told(block)
    assert message.startswith(REPLACED.format(kind))
    assert "neither seeded nor put back" in message and "before the scope" in message


def test_the_position_is_that_of_the_replaced_one(owner):
    """Others are not named."""
    stays = random.Random(1)
    two = Owner(random.Random)

    def block():
        with rng_scope(42, generators=[stays, owner.rng, two.rng], independent=True):
            owner.reset()
            two.reset()

    messages = told(block)
    assert [message.partition(",")[0] for message in messages] == ["generators[1]", "generators[2]"]


def use_seeded(owner):
    seeded(42, generators=[owner.rng])(owner.reset)()


def use_seed_from(owner):
    seeded(seed_from=lambda: 42, generators=[owner.rng])(owner.reset)()


def use_a_stream(owner):
    with RNGStream(42, generators=[owner.rng]):
        owner.reset()


def use_a_replay(owner):
    with rng_scope(RNGState.capture(generators=[owner.rng]), generators=[owner.rng]):
        owner.reset()


def use_preserve(owner):
    with rng_scope(generators=[owner.rng]):
        owner.reset()


def use_a_generator_function(owner):
    @seeded(42, generators=[owner.rng])
    def body():
        yield 1
        owner.reset()
        yield 2
        yield 3

    list(body())


def use_a_coroutine(owner):
    @seeded(42, generators=[owner.rng])
    async def body():
        owner.reset()
        await asyncio.sleep(0)

    asyncio.run(body())


def use_a_block_that_raises(owner):
    try:
        with rng_scope(42, generators=[owner.rng]):
            owner.reset()
            raise KeyError
    except KeyError:
        pass


@pytest.mark.parametrize(
    "use",
    [
        use_seeded,
        use_seed_from,
        use_a_stream,
        use_a_replay,
        use_preserve,
        use_a_generator_function,
        use_a_coroutine,
        use_a_block_that_raises,
    ],
)
def test_every_way_to_scope_a_generator_notices(use, owner):
    """At the end of the scope, once, however it ends."""
    asyncio.run(asyncio.sleep(0))
    messages = told(lambda: use(owner))
    assert len(messages) == 1 and messages[0].startswith(REPLACED.format("random.Random"))


def test_it_is_told_once_for_each_replaced_object(owner):
    """Later calls of a decorated function have nothing new to tell."""
    decorated = seeded(42, generators=[owner.rng])(lambda: None)
    assert told(decorated) == []
    owner.reset()
    # Between two calls, too: the first one saw an owner, the second sees none.
    assert len(told(decorated)) == 1
    assert told(decorated) == []


def test_what_stays_or_never_had_an_owner_is_no_warning(owner):
    """No false alarm: a temporary object, one that somebody else still holds, a list."""
    kept = owner.rng
    listed = [random.Random(1)]

    def block():
        with rng_scope(42, generators=[random.Random(5)]):
            pass
        with rng_scope(42, generators=[owner.rng]):
            owner.rng.random()
        with rng_scope(42, generators=[owner.rng]):
            # It is still there to draw from.
            owner.reset()
        with rng_scope(42, generators=listed):
            gc.collect()
        with rng_scope(42, generators=iter([random.Random(1)])):
            pass

    assert told(block) == []
    assert kept is not owner.rng


def test_everything_is_back_before_the_warning_comes(owner):
    """Under -W error it comes out of the block, after all else is done."""
    stays, twin = random.Random(1), random.Random(1)
    random.seed(5)
    with pytest.raises(RuntimeWarning, match="was replaced"):
        with rng_scope(42, generators=[stays, owner.rng], independent=True):
            owner.reset()
    assert random.random() == random.Random(5).random()
    assert stays.getstate() == twin.getstate()
    with rng_scope(42):
        assert random.random() == random.Random(42).random()


def test_an_interpreter_that_does_not_count_references_says_nothing(owner, monkeypatch):
    """PyPy, and CPython without its global lock: there the question has no exact answer."""
    monkeypatch.setattr(generators_module, "count_references", None)
    assert told(lambda: use_seeded(owner)) == []


def test_this_interpreter_counts_references():
    """Otherwise this file would test nothing."""
    is_exact = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()
    assert (generators_module.count_references is not None) == is_exact


def test_a_gymnasium_environment_that_is_seeded_inside_is_noticed():
    """reset(seed=...) makes a new generator; reset() goes on with the one that is there."""
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=1)

    def seed_inside():
        with rng_scope(42, generators=[env.np_random]):
            env.reset(seed=2)

    def seed_outside():
        observations = []
        for _ in range(2):
            with rng_scope(42, generators=[env.np_random]):
                observations.append(env.reset()[0].tolist())
        assert observations[0] == observations[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        (message,) = told(seed_inside)
        assert message.startswith(REPLACED.format("numpy.random.Generator"))
        assert told(seed_outside) == []
    env.close()
