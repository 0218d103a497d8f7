"""``rngscope.data`` never gives the same numbers quietly: asked twice, passes, RNGs held."""

import collections
import functools
import os
import pickle
import random
import sys
import types
import warnings

import data_sets
import pytest
from by_hand import NAMES
from data_sets import (
    Failing,
    Holder,
    Keyed,
    Named,
    Noise,
    Probing,
    Remembering,
    SeededCollate,
    Twice,
    Windows,
    collate_with_noise,
    generators_of,
    keep,
)

from rngscope import RNGStream, derive_seed, distributed, rng_scope
from rngscope._ranks import world_size
from rngscope.data import owners, per_item, requests, seed_worker, views
from rngscope.data.board import Board
from rngscope.data.owners import find_generators

needs_torch = pytest.mark.skipif("torch" not in NAMES, reason="needs torch")
needs_numpy = pytest.mark.skipif("numpy" not in NAMES, reason="needs NumPy")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    # torchdata calls it.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]

#: Imported here, so that no worker has to do it under pytest, which rewrites it.
assert distributed

#: Number of workers, and how they are started.
ARRANGEMENTS = [
    pytest.param({"num_workers": 0}, id="0"),
    pytest.param({"num_workers": 2, "multiprocessing_context": "fork"}, id="2-fork"),
    pytest.param(
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        id="2-persistent",
    ),
]
SPAWNED = pytest.param({"num_workers": 2, "multiprocessing_context": "spawn"}, id="2-spawn")
arrangements = pytest.mark.parametrize("arrangement", ARRANGEMENTS)
arrangements_and_spawned = pytest.mark.parametrize("arrangement", [*ARRANGEMENTS, SPAWNED])


def loader(data, **options):
    import torch
    from torch.utils.data import DataLoader

    # Without one of its own a loader draws from torch's global generator.
    own = torch.Generator().manual_seed(0)
    return DataLoader(data, **{"collate_fn": keep, "generator": own, **options})


def items(batches):
    """Return the items of all batches, in their order."""
    return [item for batch in batches for item in batch]


def drawn(batches):
    return [str(draws) for _, draws in items(batches)]


def said(recorded):
    return [str(warning.message) for warning in recorded]


# Asked for again: by hand, by number, by a loader --------------------------------------------


def test_by_hand_an_item_is_the_same_every_time(unchanged):
    """It is view 0, whose seed is that of version 0.1; view 0 by number is the same one."""
    data = per_item(Noise(), 42)
    assert data[3] == data[3] == data[3, 0] == data[(3, 0)]
    assert data.item_seed(3) == data.item_seed((3, 0)) == derive_seed(42, "item", 0, 3)


def test_a_view_has_numbers_of_its_own_in_each_epoch(unchanged):
    """As of a scope with the seed of that view, by any index that names the item."""
    data, seen = per_item(Noise(), 42), set()
    for epoch in (0, 1):
        data.set_epoch(epoch)
        for index in (3, 4):
            for view in (0, 1, 2, 300):
                with rng_scope(data.item_seed((index, view)), independent=True):
                    by_hand = Noise()[index]
                assert data[index, view] == by_hand == (index, data[index - 12, view][1])
                seen.add(str(by_hand))
    assert len(seen) == 2 * 2 * 4


def test_names_have_views_too(unchanged):
    """And the number of a view may be any integer object."""
    data = per_item(Named(), 42)
    assert data["cat", 0] == data["cat"] != data["cat", 1]
    assert data["cat", 1] != data["cat", 2]
    if "numpy" in NAMES:
        import numpy

        assert data["cat", numpy.int64(1)] == data["cat", 1]
        assert per_item(Noise(), 1)[numpy.int64(3), 1] == per_item(Noise(), 1)[3, 1]


def test_a_data_set_whose_keys_are_tuples_is_not_misread(unchanged):
    """A tuple is always (key, view): of such a data set the key stands in it whole."""
    data = per_item(Keyed(), 42)
    assert data[("room", 1), 0][:2] == ("room", 1)
    seeds = [data.item_seed((key, 0)) for key in [("room", 1), ("room", 2), (1, 1), ("1", 1)]]
    seeds += [data.item_seed((("room", 1), 1)), data.item_seed((("room", 1, 1), 0))]
    seeds += [data.item_seed(("room", 1)), data.item_seed((("room",), 1))]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises((TypeError, ValueError)) as caught:
        data["room", 1]
    assert "item 'room', view 1" in caught.value.__notes__[0]
    assert "data[key, view]" in caught.value.__notes__[0]
    with pytest.raises(OSError) as caught:
        per_item(Failing(), 42)[3]
    assert not hasattr(caught.value, "__notes__")


NO_ITEM_AND_VIEW = [(1,), (1, 2, 3), (1, -1), (1, True), (1, "a"), (1.5, 0), ([1], 0)]
NO_ITEM_AND_VIEW += [((1, 1.5), 0), ((1, None), 0)]


@pytest.mark.parametrize("index", NO_ITEM_AND_VIEW, ids=repr)
def test_a_tuple_that_is_no_item_and_view_is_refused(index, unchanged):
    """TypeError before anything is drawn."""
    with pytest.raises(TypeError, match=r"data\[3, 1\].*data\[key, 0\]|one by one"):
        per_item(Noise(), 42)[index]


def test_what_an_item_asks_for_is_counted_for_each_item_anew(unchanged):
    """Two-view wrappers and windows under per_item: any order, again and again."""
    for wrapper, differ in ((Twice, 2), (Windows, 1)):
        inner = per_item(Noise(), 1)
        outer = per_item(wrapper(inner), 2)
        alone = [outer[index] for index in range(12)]
        assert [outer[index] for index in range(11, -1, -1)] == alone[::-1]
        assert alone[3][0] == inner[3]
        assert (alone[3][0] != alone[3][1]) and (wrapper is not Twice or alone[3][0][0] == 3)
        assert len({str(view) for item in alone for view in item}) == 12 * differ


def test_an_item_that_fails_counts_no_further(unchanged):
    """What it asked for is forgotten with it."""

    class Once(Twice):
        def __getitem__(self, index):
            self.data[index]
            raise OSError

    inner = per_item(Noise(), 1)
    outer = per_item(Once(inner), 2)
    with pytest.raises(OSError):
        outer[3]
    assert inner[3] == inner[3] == inner[3, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_an_item_that_is_forked_in_the_middle_goes_on_in_both(unchanged):
    """What it has asked for counts in the child as well, and other items begin anew."""

    class Forking(Twice):
        def __getitem__(self, index):
            first = self.data[index]
            child = os.fork()
            if child:
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                return first, self.data[index], status
            os._exit(0 if self.data[index] == (index, inner_view_1) else 1)

    inner = per_item(Noise(), 1)
    inner_view_1 = inner[3, 1][1]
    assert per_item(Forking(inner), 2)[3] == (inner[3, 0], inner[3, 1], 0)


@needs_torch
def test_forty_requests_for_an_item_are_forty_augmentations(unchanged):
    """A WeightedRandomSampler without workers; the second time the same forty again."""
    import torch
    from torch.utils.data import WeightedRandomSampler

    data = per_item(Noise(), 42)
    sampler = WeightedRandomSampler([0, 1], 40, generator=torch.Generator())
    batches = loader(data, sampler=sampler, batch_size=8)
    first = drawn(batches)
    assert len(set(first)) == 40
    assert first == [str(data[1, view][1]) for view in range(40)]
    data.set_epoch(0)
    assert drawn(batches) == first


@needs_torch
@arrangements
def test_numbered_by_the_sampler_it_is_the_same_in_every_arrangement(arrangement, unchanged):
    """views(): with and without workers that are forked or persist; over epochs; batches too."""
    from torch.utils.data import BatchSampler

    order = [1, 0, 1, 2, 1, 1, 0, 5]
    numbered = [(1, 0), (0, 0), (1, 1), (2, 0), (1, 2), (1, 3), (0, 1), (5, 0)]
    data = per_item(Noise(), 42)
    for options in (
        {"sampler": views(order), "batch_size": 2},
        {"batch_sampler": views(BatchSampler(order, 2, False))},
    ):
        batches = loader(data, **options, **arrangement)
        assert len(batches) == 4
        for epoch in (0, 1):
            data.set_epoch(epoch)
            wanted = [data[each] for each in numbered]
            assert len({str(each) for each in wanted}) == len(order)
            data.set_epoch(epoch)
            assert items(batches) == wanted


@needs_torch
def test_numbered_by_the_sampler_it_is_the_same_in_spawned_workers(unchanged):
    """The key carries the view."""
    data = per_item(Noise(), 42)
    options = {"num_workers": 2, "multiprocessing_context": "spawn", "batch_size": 1}
    made = items(loader(data, sampler=views([1, 1, 1]), **options))
    assert made == [data[1, view] for view in range(3)]


@needs_torch
@arrangements
def test_a_wrapper_that_asks_twice_gets_two_views_in_every_arrangement(arrangement, unchanged):
    """[d[3], d[3]]: both are asked for in one process, so the count is right."""
    for is_numbered in (False, True):
        inner = per_item(Noise(), 42)
        batches = loader(Twice(inner, is_numbered), batch_size=3, shuffle=True, **arrangement)
        pairs = sorted(items(batches))
        assert pairs == [[inner[index, 0], inner[index, 1]] for index in range(12)]


@needs_torch
def test_to_look_at_an_item_by_hand_counts_for_nothing(unchanged):
    """Before a pass and in the middle of it: what the loader makes is the same."""
    data = per_item(Noise(4), 42)
    data[2], data[2]
    made = []
    for batch in loader(data, batch_size=2):
        made += batch
        data[2], data[3]
    assert made == [data[index, 0] for index in range(4)]


@needs_torch
def test_two_loaders_over_one_data_set_at_once_count_apart(unchanged):
    """Each pass has its own count."""
    data = per_item(Noise(4), 42)
    one, other = loader(data, batch_size=2), loader(data, batch_size=2)
    for batch, again in zip(one, other):
        assert batch == again == [data[index, 0] for index, _ in batch]


@needs_torch
def test_a_part_of_the_data_set_counts_as_the_whole(unchanged):
    """Subset, ConcatDataset of the same data twice, and items without batches."""
    from torch.utils.data import ConcatDataset, Subset

    data = per_item(Noise(4), 42, epochs=False)
    for options in ({"batch_size": 2}, {"batch_size": None, "collate_fn": lambda item: [item]}):
        for part in (Subset(data, [3, 3]), ConcatDataset([data, data])):
            made = items(loader(part, **options))
            views_of_3 = [item for item in made if item[0] == 3]
            assert views_of_3 == [data[3, 0], data[3, 1]]


def test_counts_hold_beyond_a_byte_and_for_what_is_no_number():
    """300 requests for a number, a name, and a number that is out of range."""
    counts = requests.Counts(3)
    for key in (2, "cat", 7, -1):
        assert [counts.ask(key) for _ in range(300)] == list(range(300))
    assert counts.ask(1) == 0


def test_views_number_what_a_sampler_yields(unchanged):
    """Numbers, names, tuples and batches of them; len and other attributes are the sampler's."""
    assert list(views([3, "a", 3, ("k", 1), ("k", 1)])) == [
        (3, 0),
        ("a", 0),
        (3, 1),
        (("k", 1), 0),
        (("k", 1), 1),
    ]
    assert list(views([[1, 1], [2, 1]])) == [[(1, 0), (1, 1)], [(2, 0), (1, 2)]]

    class Sampler(list):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    numbered = views(Sampler([1, 2]))
    numbered.set_epoch(5)
    assert numbered.sampler.epoch == 5 == numbered.epoch and len(numbered) == 2
    assert list(numbered) == list(numbered) == list(pickle.loads(pickle.dumps(views([1, 2]))))
    assert repr(views([1])) == "views([1])"
    for name in ("state_dict", "load_state_dict", "__array__", "nothing"):
        assert not hasattr(numbered, name)
    assert list(iter(iter(numbered))) == [(1, 0), (2, 0)]
    with pytest.raises(TypeError, match="needs a sampler, not 5"):
        views(5)


@needs_torch
@needs_numpy
def test_views_of_integers_of_other_libraries_are_those_of_the_number(unchanged):
    """What NumPy and torch call 3 is the item 3."""
    import numpy
    import torch

    asked = [3, numpy.int64(3), torch.tensor(3)]
    assert [view for _, view in views(asked)] == [0, 1, 2]


# Two workers that make the same item --------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("order", [[0, 0, 1, 1], [5] * 40], ids=["pairs", "one"])
@pytest.mark.parametrize("persistent", [False, True])
def test_an_item_that_two_workers_make_is_said(order, persistent, unchanged):
    """Each counts on its own, so a RuntimeWarning names the item and the remedy."""
    data = per_item(Noise(), 42)
    batches = loader(
        data,
        sampler=order,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=persistent,
    )
    with pytest.raises(RuntimeWarning, match=r"item [05] was asked for in two workers.*views\("):
        list(batches)
    # Once: for all workers together.
    data.set_epoch(1)
    list(batches)


@needs_torch
@pytest.mark.parametrize("persistent", [False, True])
def test_to_make_an_item_in_another_worker_in_another_pass_is_nothing_to_say(
    persistent, unchanged
):
    """Six shuffled epochs, with every item once in each, and the epoch set or not."""
    for data in (per_item(Noise(), 42), per_item(Noise(), 42, epochs=False)):
        batches = loader(
            data,
            shuffle=True,
            num_workers=2,
            multiprocessing_context="fork",
            persistent_workers=persistent,
        )
        for epoch in range(6):
            data.set_epoch(epoch)
            assert len(items(batches)) == 12


def test_it_is_noticed_whichever_worker_comes_first():
    """Both look when they begin and when they have done: one of them sees the other."""
    board = Board(0)

    def ask(worker, seed=99, number_of_pass=1):
        return board.mark(seed, number_of_pass, (worker, 2, 1234))

    first, second = ask(0), ask(1)
    assert not board.is_shared(first) and not board.is_shared(first)
    assert board.is_shared(second) and not board.is_shared(second)
    assert board.is_shared(first)
    # Another item in the same slot, and another pass, are no reason.
    assert not board.is_shared(ask(1, 99 + 2**40))
    assert not board.is_shared(ask(0, 99, 2)) and not board.is_shared(ask(1, 99, 3))


@needs_torch
def test_a_worker_that_begins_while_this_one_makes_the_item_is_seen(monkeypatch, unchanged):
    """Two that looked at the same moment saw nothing: so this one looks again at the end."""

    class Overtaken(Noise):
        def __getitem__(self, index):
            if index == 3:
                data._board.is_shared(data._board.mark(data.item_seed(3), 1, (1, 2, 1234)))
            return super().__getitem__(index)

    monkeypatch.setattr(requests, "own_worker", lambda: (0, 2, 1234))
    data = per_item(Overtaken(4), 42)
    with pytest.warns(RuntimeWarning, match="item 3 was asked for in two workers"):
        list(loader(data))


# A second pass without set_epoch -------------------------------------------------------------

SECOND_PASS = r"a second pass over <per_item seed=42.*set_epoch.*epochs=False"


@needs_torch
@arrangements
def test_a_second_pass_without_set_epoch_is_said_once(arrangement, unchanged):
    """RuntimeWarning at its first item, in whichever process makes that.

    A spawned worker has no error filter: see the test of its standard error.
    """
    data = per_item(Noise(), 42)
    batches = loader(data, batch_size=4, **arrangement)
    first = drawn(batches)
    with pytest.raises(RuntimeWarning, match=SECOND_PASS):
        list(batches)
    # It is said once, and what it says is true.
    assert drawn(batches) == first


@needs_torch
def test_a_spawned_worker_says_it_on_standard_error(capfd, unchanged):
    """The warning is the worker's."""
    data = per_item(Noise(), 42)
    batches = loader(data, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    for _ in range(2):
        list(batches)
    assert capfd.readouterr().err.count("a second pass over") == 1


@needs_torch
@arrangements
def test_what_is_meant_is_not_warned_of(arrangement, unchanged):
    """set_epoch before each pass, the same epoch too; epochs=False; looking at a batch."""
    data = per_item(Noise(200), 42)
    batches = loader(data, batch_size=4, **arrangement)
    for _ in range(3):
        next(iter(batches))
    made = []
    for epoch in (0, 0, 1):
        data.set_epoch(epoch)
        made.append(drawn(batches))
    assert made[0] == made[1] != made[2]
    same = per_item(Noise(8), 42, epochs=False)
    batches = loader(same, batch_size=4, **arrangement)
    passes = []
    for epoch in range(3):
        same.set_epoch(epoch)
        passes.append(drawn(batches))
    assert same.epoch == 0 and passes[0] == passes[1] == passes[2]
    with pytest.raises(TypeError, match="epoch"):
        same.set_epoch("1")


@needs_torch
def test_replacement_and_repetition_are_no_second_pass(unchanged):
    """In one pass: 5 times the data with replacement, each item 3 times, two orders at once."""
    import torch
    from torch.utils.data import RandomSampler

    own = torch.Generator()
    for order in (
        RandomSampler(range(12), replacement=True, num_samples=60, generator=own),
        [index for index in range(12) for _ in range(3)],
        RandomSampler(range(12), num_samples=24, generator=own),
    ):
        data = per_item(Noise(), 42)
        made = drawn(loader(data, sampler=order, batch_size=4))
        assert len(set(made)) == len(made)


@needs_torch
def test_a_data_set_without_a_length_cannot_tell(unchanged):
    """Its passes are not warned of, as the docs say."""
    data = per_item(Named(), 42)
    batches = loader(data, sampler=["a", "b"], batch_size=1)
    assert list(batches) == list(batches)


@needs_torch
def test_each_rank_has_its_share(monkeypatch, unchanged):
    """With 4 ranks a pass over a quarter of the data is one; a look at it is none."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for asked, is_pass in ((3, True), (1, False)):
        data = per_item(Noise(12), 42)
        batches = loader(data, sampler=range(asked), batch_size=1)
        list(batches)
        if is_pass:
            with pytest.raises(RuntimeWarning, match=SECOND_PASS):
                list(batches)
        else:
            list(batches)


def test_the_number_of_ranks_is_told_by_torch_or_the_environment(monkeypatch):
    """What is no number is one rank."""
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    for text, number in (("3", 3), ("x", 1)):
        monkeypatch.setenv("WORLD_SIZE", text)
        assert world_size() == number

    class Distributed:
        is_available = is_initialized = staticmethod(lambda: True)
        get_world_size = staticmethod(lambda: 5)

    monkeypatch.setitem(sys.modules, "torch.distributed", Distributed)
    assert world_size() == 5


def test_without_torch_every_request_is_made_by_hand(monkeypatch, unchanged):
    """Loaders that are not torch's: the same numbers every time, as in version 0.1."""
    monkeypatch.delitem(sys.modules, requests.FETCHING, raising=False)
    monkeypatch.delitem(sys.modules, "torch.utils.data", raising=False)
    assert requests.fetcher_of_this_request() is None and requests.own_worker() == (0, 1, 0)
    data = per_item(Noise(), 42)
    assert data[3] == data[3]


@needs_torch
def test_a_function_there_that_is_no_method_is_passed_over(unchanged):
    """The fetcher is the self of the first frame that has one."""
    import torch.utils.data._utils.fetch as fetch

    names = {"__name__": fetch.__name__, "find": requests.fetcher_of_this_request}
    exec("def function(): return find()", names)
    assert names["function"]() is None


# What a StatefulDataLoader saves -------------------------------------------------------------


@pytest.fixture(params=[0, 2])
def stateful(request):
    """Return a function that makes a ``StatefulDataLoader``, without workers and with two."""
    stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader")
    workers = {"num_workers": 2, "multiprocessing_context": "fork"} if request.param else {}

    import torch

    def make(data, **options):
        own = torch.Generator().manual_seed(0)
        options = {"batch_size": 2, "collate_fn": keep, "generator": own, **workers, **options}
        return stateful_dataloader.StatefulDataLoader(data, **options)

    return make


def test_a_resume_in_epoch_3_makes_the_items_of_epoch_3(stateful, unchanged):
    """In the middle of the epoch, and the loop need not set it."""
    data = per_item(Noise(), 42)
    batches = stateful(data)
    for epoch in range(4):
        data.set_epoch(epoch)
        running = iter(batches)
        before = [next(running), next(running)]
        state = batches.state_dict()
        rest = list(running)
    assert items(before + rest) == [data[index] for index in range(12)]
    for epoch_set in (None, 3):
        again = per_item(Noise(), 42)
        resumed = stateful(again)
        resumed.load_state_dict(state)
        if epoch_set is not None:
            again.set_epoch(epoch_set)
        assert list(resumed) == rest and again.epoch == 3


def test_a_checkpoint_at_the_end_of_an_epoch_leaves_the_next_one_alone(stateful, unchanged):
    """The loop sets epoch 3; the state, which is loaded after that, is of epoch 2."""
    data = per_item(Noise(), 42)
    batches = stateful(data)
    data.set_epoch(2)
    list(batches)
    state = batches.state_dict()
    again = per_item(Noise(), 42)
    resumed = stateful(again)
    resumed.load_state_dict(state)
    again.set_epoch(3)
    assert items(resumed) == [again[index] for index in range(12)] and again.epoch == 3


def test_a_state_that_is_loaded_after_later_epochs_goes_back(stateful, unchanged):
    """In one process: epoch 1 again, after epoch 2 was made."""
    data = per_item(Noise(), 42)
    batches = stateful(data)
    data.set_epoch(1)
    running = iter(batches)
    next(running)
    state = batches.state_dict()
    rest = list(running)
    data.set_epoch(2)
    list(batches)
    batches.load_state_dict(state)
    assert list(batches) == rest and data.epoch == 1


def test_numbered_requests_go_on_in_the_middle_of_a_pass(stateful, unchanged):
    """views() over a sampler with replacement, of torch and of torchdata, and of batches."""
    import torch
    from torch.utils.data import BatchSampler, RandomSampler
    from torchdata.stateful_dataloader.sampler import RandomSampler as OfTorchdata

    def samplers(seed):
        own = [torch.Generator().manual_seed(seed) for _ in range(3)]
        kinds = [RandomSampler, OfTorchdata, OfTorchdata]
        made = [
            kind(range(12), replacement=True, num_samples=24, generator=generator)
            for kind, generator in zip(kinds, own)
        ]
        return [{"sampler": views(made[0])}, {"sampler": views(made[1])}] + [
            {"batch_sampler": views(BatchSampler(made[2], 2, False)), "batch_size": 1}
        ]

    # torchdata's own sampler keeps where it stands, torch's is the user's to seed.
    for place, seed in ((0, 1), (1, 2), (2, 1)):
        data = per_item(Noise(), 42)
        running_over = stateful(data, **samplers(1)[place])
        running = iter(running_over)
        [next(running) for _ in range(5)]
        state = running_over.state_dict()
        rest = list(running)
        resumed = stateful(per_item(Noise(), 42), **samplers(seed)[place])
        resumed.load_state_dict(state)
        assert list(resumed) == rest
        assert len({str(item) for item in items(rest)}) == len(items(rest))


def test_the_state_of_the_data_set_itself_goes_along(stateful, unchanged):
    """A data set that counts what it has made goes on counting."""
    data = per_item(Remembering(), 42)
    batches = stateful(data)
    running = iter(batches)
    [next(running) for _ in range(2)]
    state = batches.state_dict()
    rest = list(running)
    resumed = stateful(per_item(Remembering(), 42))
    resumed.load_state_dict(state)
    assert list(resumed) == rest


def test_a_state_is_the_epoch_and_what_the_data_set_has(unchanged):
    """Loading checks every field, and what is wrong changes nothing."""
    data, remembering = per_item(Noise(), 42), per_item(Remembering(), 42)
    data.set_epoch(5)
    remembering.dataset.made = 7
    assert data.state_dict() == {"epoch": 5}
    assert remembering.state_dict() == {"epoch": 0, "dataset": {"made": 7}}
    again = per_item(Noise(), 42)
    again.load_state_dict({"epoch": 5})
    assert again.epoch == 5
    for bad, named in (
        (None, "a dict"),
        ({"epoch": 1, "seed": 2}, "a dict"),
        ({}, "epoch"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"epoch": 2**63}, "epoch"),
        ({"epoch": 1, "dataset": {}}, "Noise has no load_state_dict"),
    ):
        with pytest.raises(ValueError, match=named):
            again.load_state_dict(bad)
    assert again.epoch == 5
    remembering.load_state_dict({"epoch": 1})
    assert remembering.epoch == 1 and remembering.dataset.made == 7
    same = per_item(Noise(), 42, epochs=False)
    same.load_state_dict({"epoch": 5})
    assert same.epoch == 0


def test_an_earlier_epoch_that_was_set_stays_and_is_said(unchanged):
    """RuntimeWarning with both numbers: a loop that begins at 0 does not resume."""
    data = per_item(Noise(), 42)
    data.set_epoch(0)
    with pytest.warns(RuntimeWarning, match=r"of epoch 3, but epoch 0 was set.*set_epoch\(3\)"):
        data.load_state_dict({"epoch": 3})
    assert data.epoch == 0


# RNG objects that the data set holds ----------------------------------------------------------


def held():
    """Return one RNG object of each kind that is here, by name."""
    found = {"python": random.Random(1)}
    if "numpy" in NAMES:
        import numpy

        found["generator"] = numpy.random.default_rng(1)
        found["state"] = numpy.random.RandomState(1)
    return found


def test_what_is_not_covered_is_named_by_its_path(unchanged):
    """Once, when the data set is wrapped; a stream too, with what to do instead."""
    rngs = held()
    with pytest.warns(RuntimeWarning) as recorded:
        data = per_item(Holder(**rngs, stream=RNGStream(1)), 42)
    [message] = said(recorded)
    for name, rng in rngs.items():
        assert f"dataset.transform.{name} ({type(rng).__name__})" in message
    assert "dataset.transform.stream (RNGStream)" in message and "global RNGs instead" in message
    assert "generators=" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data[0], data[1]


def test_what_comes_later_is_named_when_the_first_item_is_made(unchanged):
    """And many objects in one message of reasonable length."""
    data = per_item(Holder(), 42)
    data.dataset.transform = [random.Random(1) for _ in range(20)]
    data.dataset.__class__ = type("Plain", (Holder,), {"__getitem__": lambda self, index: index})
    with pytest.warns(RuntimeWarning) as recorded:
        data[0], data[1]
    [message] = said(recorded)
    assert "dataset.transform[7] (Random)" in message and "12 more" in message
    assert "transform[8]" not in message and "RNGStream" not in message


@needs_torch
def test_workers_that_find_it_say_it_once(capfd, unchanged):
    """Spawned ones, which look for themselves: all of them together."""
    data = per_item(Holder(), 42, epochs=False)
    data.dataset.transform.late = random.Random(1)
    batches = loader(data, batch_size=1, num_workers=2, multiprocessing_context="spawn")
    list(batches)
    # Twice if both look at the same moment.
    assert 1 <= capfd.readouterr().err.count("does not cover RNG objects") <= 2


def test_a_data_set_inside_names_its_own(unchanged):
    """The outer one does not repeat it."""
    with pytest.warns(RuntimeWarning) as recorded:
        inner = per_item(Holder(rng=random.Random(1)), 1)
        per_item(Twice(inner), 2)
    assert len(said(recorded)) == 1


@pytest.mark.parametrize("by", ["list", "function"])
def test_objects_that_are_named_are_part_of_the_item(by, unchanged):
    """Items in any order, each object with a seed of its own, and all as before afterwards."""
    holder = Holder(**held())
    objects = generators_of(holder)
    states = [pickle.dumps(rng) for rng in objects]
    generators = iter(objects) if by == "list" else generators_of
    data = per_item(holder, 42, generators=generators)
    alone = [data[index] for index in range(8)]
    assert [data[index] for index in range(7, -1, -1)] == alone[::-1]
    assert [pickle.dumps(rng) for rng in objects] == states
    numbers = [number for _, numbers in alone for number in numbers]
    assert len(set(numbers)) == len(numbers) == 8 * len(objects)
    again = pickle.loads(pickle.dumps(data))
    assert [again[index] for index in range(8)] == alone


def test_a_function_finds_objects_that_were_replaced(unchanged):
    """MONAI and albumentations make new ones when they are seeded."""
    data = per_item(Holder(**held()), 42, generators=generators_of)
    wanted = data[3]
    data.dataset.transform.renew()
    assert data[3] == wanted
    data.dataset.transform.__dict__["more"] = random.Random(5)
    assert data[3][1][:-1] == wanted[1] and data[3] == data[3]


@needs_torch
@arrangements_and_spawned
@pytest.mark.parametrize("by", ["list", "function"])
def test_objects_that_are_named_are_covered_in_every_worker(by, arrangement, unchanged):
    """Each worker has copies of its own, and finds them."""
    holder = Holder(**held())
    generators = generators_of(holder) if by == "list" else generators_of
    data = per_item(holder, 42, generators=generators)
    alone = [data[index] for index in range(8)]
    assert sorted(items(loader(data, batch_size=2, shuffle=True, **arrangement))) == alone


@pytest.mark.parametrize(
    "generators", [5, "abc", [5], [random.SystemRandom()], lambda data: [5], lambda data: 5]
)
def test_what_is_no_rng_object_is_refused_at_once(generators, unchanged):
    """TypeError when the data set is wrapped, as rng_scope raises it."""
    with pytest.raises(TypeError, match="generators must"):
        per_item(Noise(), 42, generators=generators)


def test_no_objects_are_none(unchanged):
    """None and an empty list mean the default."""
    assert per_item(Noise(), 42, generators=None)[3] == per_item(Noise(), 42, generators=[])[3]
    with pytest.raises(TypeError, match="epochs must be True or False, not 1"):
        per_item(Noise(), 42, epochs=1)


# seed_worker and RNG objects ------------------------------------------------------------------


def of_workers(holder, base=1, **options):
    """Return what the first item of each of two workers draws."""
    import torch

    own = torch.Generator().manual_seed(base)
    options = {"multiprocessing_context": "fork", "batch_size": 1, **options}
    batches = loader(holder, num_workers=2, generator=own, **options)
    made = items(batches)
    return [made[0][1], made[1][1]]


@needs_torch
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("by", ["list", "function"])
def test_a_worker_seeds_the_objects_that_are_named(by, method, unchanged):
    """Its own copies, each with a seed of its own: workers draw apart, and the same next time."""
    holder = Holder(**held())
    generators = generators_of(holder) if by == "list" else generators_of
    init = functools.partial(seed_worker, rank=0, generators=generators)
    options = {"worker_init_fn": init, "multiprocessing_context": method}
    first, second = of_workers(holder, **options)
    if method == "fork":
        assert [first, second] == of_workers(holder, **options)
        assert of_workers(holder, base=2, **options) != [first, second]
    assert len({*first, *second}) == 2 * len(held())
    import torch

    base = torch.empty((), dtype=torch.int64)
    base = base.random_(generator=torch.Generator().manual_seed(1)).item()
    seed = derive_seed(derive_seed(base, "worker", 0, 1), "generators", 0)
    assert second[0] == random.Random(seed).random()


@needs_torch
def test_a_worker_names_what_is_not_covered(unchanged):
    """It is the same in every worker: the first of them says so."""
    init = functools.partial(seed_worker, rank=0)
    with pytest.raises(RuntimeWarning) as caught:
        of_workers(Holder(rng=random.Random(1), stream=RNGStream(1)), worker_init_fn=init)
    message = str(caught.value)
    assert "dataset.transform.rng (Random), dataset.transform.stream (RNGStream)" in message
    assert "is the same in every worker" in message and "worker process 0" in message
    # Under per_item it is the concern of that.
    holder = Holder(rng=random.Random(1))
    data = per_item(holder, 42, generators=[holder.transform.rng])
    of_workers(data, worker_init_fn=init)


@needs_torch
@pytest.mark.parametrize("worker", [0, 1])
def test_only_the_first_worker_names_it(worker, monkeypatch, unchanged):
    """As seen from within a worker."""
    import torch.utils.data

    info = types.SimpleNamespace(id=worker, num_workers=2, seed=5, dataset=Holder(**held()))
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: info)
    with rng_scope(), warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        seed_worker(worker, rank=0)
        seed_worker(worker, rank=0, generators=generators_of)
    assert len(said(recorded)) == (1 if worker == 0 else 0)


@needs_torch
def test_what_a_worker_cannot_seed_is_refused(unchanged):
    """TypeError, before anything is seeded."""
    init = functools.partial(seed_worker, rank=0, generators=[RNGStream(1)])
    with pytest.raises(TypeError, match="generators must hold"):
        of_workers(Noise(), worker_init_fn=init)


# The finder ---------------------------------------------------------------------------------


def test_every_way_to_hold_an_object_is_found():
    """Attributes, slots, class attributes, containers, cycles; each object once."""
    rng = collections.defaultdict(lambda: random.Random(1))

    class Slots:
        __slots__ = ("inside", "empty", "__weakref__")

    class Shared:
        all_of_them = rng["class"]
        hidden = all_of_them

    class Deep(Shared):
        pass

    owner = Deep()
    owner.slots = Slots()
    owner.slots.inside = rng["slot"]
    owner.dict = {"a": rng["dict"], 3: {"b": [rng["list"], (rng["tuple"],)]}}
    owner.set = {rng["set"]}
    owner.frozen = frozenset(["x", 1.5])
    owner.deque = collections.deque([0, rng["deque"]])
    owner.partial = functools.partial(print, rng=rng["partial"])
    owner.again = [owner, rng["list"]]
    owner.dict["self"] = owner
    owner.text, owner.number, owner.system = "x" * 9, 5, random.SystemRandom()
    found = find_generators(owner, "data")
    paths = {name: path for name in rng for path, value in found if value is rng[name]}
    assert paths == {
        "class": "data.all_of_them",
        "slot": "data.slots.inside",
        "dict": "data.dict['a']",
        "list": "data.again[1]",
        "tuple": "data.dict[3]['b'][1][0]",
        "set": "data.set{0}",
        "deque": "data.deque[1]",
        "partial": "data.partial.keywords['rng']",
    }
    assert len(found) == len(rng)


def test_an_attribute_of_its_own_hides_that_of_the_class():
    """As it does in Python."""

    class Shared:
        rng = random.Random(1)

    owner = Shared()
    owner.rng = random.Random(2)
    assert find_generators(owner, "data") == [("data.rng", owner.rng)]


def test_nothing_is_looked_for_where_nothing_is_held():
    """Not in modules, classes, functions, methods and the global RNGs; no code is run."""

    class Class:
        rng = random.Random(1)

        def method(self):
            pass

    def function():
        pass

    function.rng = random.Random(1)

    class Touchy:
        @property
        def attribute(self):
            raise AssertionError

        def __getattr__(self, name):
            raise AssertionError(name)

        @property
        def __class__(self):
            raise AssertionError

    class Odd:
        __dict__ = 5

    module = type(sys)("module")
    module.rng = random.Random(1)
    owner = [Class, function, Class().method, module, Touchy(), Odd(), random._inst, len]
    if "numpy" in NAMES:
        import numpy

        owner += [numpy.random.mtrand._rand, numpy.array([random.Random(1)], dtype=object)]
    if "torch" in NAMES:
        import torch

        owner += [torch.default_generator, torch.zeros(3)]
    assert find_generators(owner, "data") == []


def test_paths_are_the_same_in_every_process():
    """Attributes by name, whatever the order in which they were set."""

    def make(names):
        owner = data_sets.Transform()
        for name in names:
            setattr(owner, name, random.Random(1))
        return [path for path, _ in find_generators(owner, "data")]

    assert make("abc") == make("cba") == ["data.a", "data.b", "data.c"]


def test_a_million_items_cost_nothing_noticeable(monkeypatch):
    """Of a container the first 1000 are looked at, and 10,000 objects in all."""
    rng = random.Random(1)
    owner = {"many": [(index, str(index)) for index in range(100_000)], "rng": [[rng]]}
    assert find_generators(owner, "data") == [("data['rng'][0][0]", rng)]
    far = [0] * 1000 + [rng]
    assert find_generators(far, "data") == []
    assert find_generators(far[1:], "data") == [("data[999]", rng)]
    monkeypatch.setattr(owners, "MOST_OBJECTS", 3)
    assert find_generators([[0], [1], [rng]], "data") == []
    for of_items in ({index: index for index in range(10**4)}, set(range(10**4))):
        assert find_generators(of_items, "data") == []


# Real libraries ------------------------------------------------------------------------------


def images_of(data, **options):
    """Return the images that a loader makes, by number, as bytes."""
    return {index: image.tobytes() for index, image in items(loader(data, **options))}


@needs_torch
@pytest.mark.parametrize("workers", [0, 2])
def test_albumentations_is_named_and_covered(workers, unchanged):
    """Version 2 draws from RNG objects of its own: named without generators=, exact with."""
    albumentations = pytest.importorskip("albumentations")
    import numpy

    compose = albumentations.Compose(
        [albumentations.GaussNoise(p=1), albumentations.OneOf([albumentations.Blur()], p=0.5)]
    )
    compose.set_random_state(numpy.random.default_rng(1), random.Random(1))
    holder = Augmented(compose)
    with pytest.warns(RuntimeWarning, match=r"dataset\.transform\.random_generator \(Generator\)"):
        per_item(holder, 42)
    data = per_item(holder, 42, generators=[compose.random_generator, compose.py_random])
    options = {"multiprocessing_context": "fork"} if workers else {}
    alone = {index: data[index][1].tobytes() for index in range(8)}
    assert len(set(alone.values())) == 8
    assert images_of(data, shuffle=True, num_workers=workers, **options) == alone


@needs_torch
@pytest.mark.parametrize("workers", [0, 2])
def test_monai_is_named_and_covered(workers, monkeypatch, unchanged):
    """Its transforms have a RandomState each, of their own or of the class."""
    # Its import sets this, for good.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    transforms = pytest.importorskip("monai.transforms")

    def states(data):
        return [data.transform.R, *(each.R for each in data.transform.transforms)]

    compose = transforms.Compose([transforms.RandGaussianNoise(prob=1)])
    holder = Augmented(compose)
    with pytest.warns(RuntimeWarning, match=r"dataset\.transform\.transforms\[0\]\.R \(RandomSt"):
        per_item(holder, 42)
    data = per_item(holder, 42, generators=states)
    compose.set_random_state(3)
    options = {"multiprocessing_context": "fork"} if workers else {}
    alone = {index: data[index][1].tobytes() for index in range(8)}
    assert len(set(alone.values())) == 8
    assert images_of(data, shuffle=True, num_workers=workers, **options) == alone


class Augmented:
    """Images, augmented by a transform of albumentations or MONAI."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        import numpy

        image = numpy.full((8, 8, 3), 128, numpy.uint8 if self.takes_names else numpy.float32)
        if self.takes_names:
            return index, self.transform(image=image)["image"]
        return index, numpy.asarray(self.transform(image))

    @property
    def takes_names(self):
        return "albumentations" in type(self.transform).__module__


# Order, collate_fn, no workers -----------------------------------------------------------------


@needs_torch
@arrangements
def test_the_order_of_one_loader_is_that_of_a_fresh_one_in_every_epoch(arrangement, unchanged):
    """RandomSampler with a generator of its own, seeded per epoch, with workers that live on.

    A loader with ``generator=order`` draws its base seed from it as well, but only when its
    workers start: from the second epoch on the order is another one.
    """
    import torch
    from torch.utils.data import RandomSampler

    data = per_item(Noise(), 42)

    def one_loader():
        order = torch.Generator()
        base = torch.Generator().manual_seed(9)
        sampler = RandomSampler(data, generator=order)
        return order, loader(data, sampler=sampler, batch_size=4, generator=base, **arrangement)

    def epoch_of(epoch, order, batches):
        data.set_epoch(epoch)
        order.manual_seed(derive_seed(42, "order", epoch))
        return list(batches)

    kept = one_loader()
    for epoch in range(3):
        assert epoch_of(epoch, *kept) == epoch_of(epoch, *one_loader())
    if arrangement.get("persistent_workers"):
        order = torch.Generator()
        wrong = loader(data, shuffle=True, batch_size=4, generator=order, **arrangement)
        same = [epoch_of(e, order, wrong) == epoch_of(e, *kept) for e in range(1, 3)]
        assert same != [True, True]


@needs_torch
@arrangements_and_spawned
def test_a_collate_fn_that_draws_is_seeded_from_its_batch(arrangement, unchanged):
    """Under seeded(seed_from=...) the batches are the same with any number of workers."""
    data = per_item(Noise(), 42)
    is_slow = arrangement.get("multiprocessing_context") == "spawn"
    for epoch in (1,) if is_slow else (0, 1):
        data.set_epoch(epoch)
        collate = SeededCollate(data)
        wanted = [collate([data[i] for i in range(b, b + 4)]) for b in (0, 4, 8)]
        assert list(loader(data, batch_size=4, collate_fn=collate, **arrangement)) == wanted


@needs_torch
def test_a_collate_fn_that_draws_without_a_seed_depends_on_the_workers():
    """What the test above is about: per_item does not reach it."""
    import torch

    made = []
    for workers in (1, 2):
        own = torch.Generator().manual_seed(1)
        options = {"num_workers": workers, "multiprocessing_context": "fork", "generator": own}
        data = per_item(Noise(), 42)
        made.append(list(loader(data, batch_size=4, collate_fn=collate_with_noise, **options)))
    assert [batch for batch, _ in made[0]] == [batch for batch, _ in made[1]]
    assert [number for _, number in made[0]] != [number for _, number in made[1]]


@needs_torch
@needs_numpy
def test_without_workers_items_draw_from_the_program():
    """num_workers=0 is not seeded as one worker is: worker_init_fn is not called."""
    import torch

    def first(workers):
        with rng_scope(5):
            own = torch.Generator().manual_seed(1)
            options = {"multiprocessing_context": "fork"} if workers else {}
            init = functools.partial(seed_worker, rank=0)
            batches = loader(
                Probing(), num_workers=workers, worker_init_fn=init, generator=own, **options
            )
            return items(batches)[0][1]

    with rng_scope(5):
        assert first(0) == Probing()[0][1]
    assert first(0) != first(1) == first(1)
