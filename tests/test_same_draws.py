"""same_draws: an image and its mask draw alike, and the program goes on."""

import asyncio
import copy
import os
import pickle
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from by_hand import NAMES, draw, expected, public_states, seed_library

import rngscope
from rngscope import RNGState, rng_scope, same_draws, seeded

each_source = pytest.mark.parametrize("name", NAMES)


def seed_all_by_hand(seed):
    for name in NAMES:
        seed_library(name, seed)


@pytest.fixture(autouse=True)
def in_a_scope(unchanged):
    """Each test moves the RNGs as it likes."""
    with rng_scope():
        yield


@each_source
def test_each_block_draws_the_same_and_the_program_goes_on(name, path):
    """As if the first block were the only one; the next object gets new numbers."""
    seed_all_by_hand(42)
    drawn = []
    for _ in range(3):
        with same_draws() as pair:
            drawn.append([draw(name), draw(name)])
        for _ in range(2):
            before = public_states()
            with pair:
                assert [draw(name), draw(name)] == drawn[-1]
            assert public_states() == before
        drawn.append([draw(name)])
    assert sum(drawn, []) == expected(name, 42, 9)


@each_source
def test_a_later_block_may_take_fewer_or_more_numbers(name):
    """The first one alone says where the program goes on: no number is given out twice."""
    seed_all_by_hand(42)
    with same_draws() as pair:
        draw(name), draw(name)
    with pair:
        assert draw(name) == expected(name, 42)[0]
    with pair:
        assert [draw(name) for _ in range(4)] == expected(name, 42, 4)
    assert draw(name) == expected(name, 42, 3)[2]


@each_source
def test_the_outer_rng_may_move_between_the_blocks(name):
    """What was drawn meanwhile stays drawn."""
    seed_all_by_hand(42)
    with same_draws() as pair:
        draw(name)
    draw(name)
    with pair:
        assert draw(name) == expected(name, 42)[0]
    assert draw(name) == expected(name, 42, 3)[2]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_goes_through(error):
    """The first block counts however it ends; a later one is put back."""
    random.seed(42)
    pair = same_draws()
    with pytest.raises(error), pair:
        random.random()
        raise error
    with pytest.raises(error), pair:
        assert random.random() == random.Random(42).random()
        raise error
    own = random.Random(42)
    own.random()
    assert random.random() == own.random()


def test_generators_of_ones_own_draw_the_same_too():
    """They are given as in rng_scope."""
    mine = [random.Random(3), random.Random(4)]
    twins = [random.Random(3), random.Random(4)]
    with same_draws(generators=mine) as pair:
        first = [own.random() for own in mine]
    with pair:
        assert [own.random() for own in mine] == first == [twin.random() for twin in twins]
    assert [own.random() for own in mine] == [twin.random() for twin in twins]


def test_only_the_named_sources_draw_the_same():
    """Others go on from block to block."""
    own = random.Random(5)
    random.seed(42)
    with same_draws(sources=[], generators=[own]) as pair:
        first = random.random(), own.random()
    with pair:
        second = random.random(), own.random()
    assert first[1] == second[1] == random.Random(5).random()
    assert [first[0], second[0]] == [own.random() for own in [random.Random(42)] * 2]


def test_scopes_may_stand_around_and_inside():
    """In a scope its stream goes on; a scope inside leaves no trace."""
    with rng_scope(42):
        with same_draws() as pair:
            first = random.random()
            with rng_scope(7):
                random.random()
            second = random.random()
        with pair, rng_scope(8):
            random.random()
        with pair:
            assert [random.random(), random.random()] == [first, second]
        third = random.random()
    own = random.Random(42)
    assert [first, second, third] == [own.random() for _ in range(3)]
    with rng_scope(3):
        with pair:
            assert random.random() == first
        assert random.random() == random.Random(3).random()


def test_objects_may_be_nested():
    """Each repeats its own first block."""
    random.seed(42)
    with same_draws() as outer:
        first = random.random()
        with same_draws() as inner:
            second = random.random()
        with inner:
            assert random.random() == second
    with outer:
        assert random.random() == first
        with inner:
            assert random.random() == second
        assert random.random() == second
    own = random.Random(42)
    assert [first, second, random.random()] == [own.random() for _ in range(3)]


def test_a_block_that_is_open_is_not_entered_again():
    """One object has one block at a time."""
    pair = same_draws()
    with pytest.raises(RuntimeError, match="was not entered"):
        pair.__exit__(None, None, None)
    for _ in range(2):
        with pair:
            with pytest.raises(RuntimeError, match="open already"):
                pair.__enter__()
    assert repr(same_draws(sources=["python"])) == "<same_draws over python>"


def test_a_first_block_that_cannot_be_entered_does_not_count():
    """What failed is put back, and the next one is the first."""

    class Broken(random.Random):
        fails = True

        def getstate(self):
            if self.fails:
                raise OSError("broken")
            return super().getstate()

    own = Broken(1)
    pair = same_draws(generators=[own])
    with pytest.raises(OSError, match="broken"), pair:
        raise AssertionError
    Broken.fails = False
    with pair:
        first = random.random()
    with pair:
        assert random.random() == first


def test_an_interrupt_at_the_end_of_the_first_block_leaves_no_scope_open(monkeypatch):
    """Wherever it comes, the block has ended and counts."""
    from rngscope import _same_draws

    close = _same_draws._FirstBlock._close
    for moment in ("before", "after"):
        random.seed(42)
        raised = []

        def interrupted(self):
            if not raised and moment == "before":
                raised.append(True)
                raise KeyboardInterrupt
            close(self)
            if not raised:
                raised.append(True)
                raise KeyboardInterrupt

        monkeypatch.setattr(_same_draws._FirstBlock, "_close", interrupted)
        pair = same_draws()
        with pytest.raises(KeyboardInterrupt), pair:
            random.random()
        with pair:
            assert random.random() == random.Random(42).random()
        own = random.Random(42)
        own.random()
        assert random.random() == own.random()


def test_blocks_that_end_out_of_order_are_named():
    """As with scopes; both streams are what they should be."""
    random.seed(42)
    pair, scope = same_draws(), rng_scope(7)
    pair.__enter__()
    scope.__enter__()
    random.random()
    with pytest.warns(RuntimeWarning, match="test_same_draws.py.*pair.__enter__"):
        pair.__exit__(None, None, None)
    scope.__exit__(None, None, None)
    assert random.random() == random.Random(42).random()
    with pair:
        assert random.random() == random.Random(42).random()


def test_a_block_in_a_body_that_suspends_is_suspended_with_it():
    """The caller's draws are not part of it."""

    @seeded(42)
    def body():
        with same_draws() as pair:
            first = [random.random()]
            yield
            first.append(random.random())
        with pair:
            assert random.random() == first[0]
            yield
            assert random.random() == first[1]
        yield [*first, random.random()]

    random.seed(1)
    caller = random.Random(1)
    *_, drawn = [(random.random() == caller.random(), item) for item in body()]
    own = random.Random(42)
    assert drawn == (True, [own.random() for _ in range(3)])

    @seeded(42)
    async def coroutine():
        with same_draws() as pair:
            first = random.random()
            await asyncio.sleep(0)
        with pair:
            await asyncio.sleep(0)
            assert random.random() == first
        return first, random.random()

    async def main():
        return await asyncio.gather(coroutine(), coroutine())

    own = random.Random(42)
    assert asyncio.run(main()) == [(own.random(), own.random())] * 2


@pytest.mark.parametrize(
    "library, source", [("numpy.random", "numpy"), ("torch", "torch")], ids=["numpy", "torch"]
)
def test_a_library_that_is_imported_in_the_first_block_draws_the_same(library, source):
    """Its first numbers are part of the block."""
    if source not in NAMES:
        pytest.skip(f"needs {source}")
    folder = Path(rngscope.__file__).parents[1]
    program = f"""
        import sys
        from by_hand import draw, public_states
        from rngscope import same_draws

        with same_draws() as pair:
            import {library}
            first = [draw({source!r}), draw({source!r})]
        before = public_states()
        with pair:
            assert [draw({source!r}), draw({source!r})] == first
        assert public_states() == before
        assert draw({source!r}) not in first
    """
    path = os.pathsep.join([str(folder), str(folder / "tests"), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr


def test_an_accelerator_draws_the_same_if_it_has_started_before():
    """One that starts inside the first block is a warning that names it."""
    torch = pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as cuda:
        with same_draws() as pair:
            pass
        with pytest.warns(RuntimeWarning, match="cuda started inside the first block"):
            with same_draws() as pair:
                cuda.module.init()
        generators = torch.cuda.default_generators
        with pair:
            pass
        for devices in (None, [1]):
            generators[1].manual_seed(42)
            with same_draws(devices=devices) as pair:
                first = [torch.rand(1, generator=generators[1]).item() for _ in range(2)]
            with pair:
                again = [torch.rand(1, generator=generators[1]).item() for _ in range(2)]
            own = torch.Generator().manual_seed(42)
            assert first == again == [torch.rand(1, generator=own).item() for _ in range(2)]
            after = torch.rand(1, generator=generators[1]).item()
            assert after == torch.rand(1, generator=own).item()


def test_a_queue_of_an_accelerator_that_has_not_started_is_left_alone():
    """What the program queues in the first block stays queued, and nothing of ours."""
    torch = pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    with simulated_cuda(1) as cuda:
        queued = list(cuda.module._queued_calls)
        with same_draws() as pair:
            pass
        assert cuda.module._queued_calls == queued
        with pair:
            torch.cuda.manual_seed(5)
        with same_draws():
            torch.cuda.manual_seed(7)
        cuda.module.init()
        assert torch.cuda.default_generators[0].initial_seed() == 7


def test_the_end_of_a_block_tells_what_was_not_covered():
    """As the end of a scope does."""

    class Owner:
        rng = random.Random(1)

    with pytest.warns(RuntimeWarning, match=r"generators\[0\], a random.Random, was replaced"):
        with same_draws(generators=[Owner.rng]):
            Owner.rng = random.Random(2)


def test_a_block_that_a_finalizer_ends_in_the_middle_of_an_entry_waits_for_its_turn():
    """It is left after that."""
    from rngscope import _order

    pair, other = same_draws(), rng_scope(7)
    pair.__enter__()
    random.seed(42)
    other.__enter__()
    with _order.lock:
        pair.__exit__(None, None, None)
        assert pair._first.found is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        other.__exit__(None, None, None)
    assert pair._first.found is not None
    assert random.random() == random.Random(42).random()


def test_image_and_mask_are_cut_alike():
    """The case that it was made for; the next pair is cut otherwise."""

    def crop(rows):
        top = random.randrange(len(rows) - 3)
        return rows[top : top + 3]

    cuts = []
    random.seed(42)
    for _ in range(20):
        image, mask = list(range(100)), [f"m{i}" for i in range(100)]
        with same_draws() as pair:
            image = crop(image)
        with pair:
            mask = crop(mask)
        assert mask == [f"m{i}" for i in image]
        cuts.append(image[0])
    own = random.Random(42)
    assert cuts == [own.randrange(97) for _ in range(20)]


def test_what_the_issue_complains_of_is_so():
    """The control: with rng_scope(state) twice, the outer RNG stands still."""
    pairs = []
    for _ in range(2):
        state = RNGState.capture()
        with rng_scope(state):
            first = random.random()
        with rng_scope(state):
            pairs.append((first, random.random()))
    assert pairs[0] == pairs[1]


def test_wrong_arguments_are_those_of_rng_scope():
    """Before anything is touched."""
    with pytest.raises(TypeError, match=r"sources=\['torch'\]"):
        same_draws(sources="torch")
    with pytest.raises(TypeError, match="generators must hold"):
        same_draws(generators=[1])
    with pytest.raises(TypeError):
        same_draws(42)
    with pytest.raises(TypeError, match=r"write with same_draws\(\):"), same_draws:
        pass


# Copies ------------------------------------------------------------------------------------

each_way = pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
)


@each_way
@pytest.mark.parametrize("is_begun", [False, True])
def test_a_copy_means_the_same_and_is_independent(way, is_begun, unchanged):
    """Law 11: it repeats the first block of its original, or has a first block of its own."""
    pair = same_draws(sources=["python"])
    with rng_scope(7):
        if is_begun:
            with pair:
                first = random.random()
        twin = way(pair)
        with twin:
            drawn = random.random()
        if is_begun:
            assert drawn == first
        else:
            with pair:
                assert random.random() != drawn
        with twin:
            assert random.random() == drawn


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_is_open_refuses_to_be_copied(way, unchanged):
    pair = same_draws()
    with rng_scope(7), pair:
        with pytest.raises(RuntimeError, match="open or suspended: leave the block first"):
            way(pair)


@each_way
def test_a_scope_over_named_sources_stays_one(way, unchanged):
    """Law 11: a copy expects the sources that its original has asked for."""
    twin = way(rng_scope(42, sources=["python"]))
    assert type(twin._plan.sources).__name__ == "NamedSources" and twin._plan.sources.has_names
    with twin:
        assert random.random() == random.Random(42).random()
