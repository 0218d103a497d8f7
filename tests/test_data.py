"""``rngscope.data``: items and workers that draw the same numbers in every arrangement."""

import concurrent.futures
import copy
import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from by_hand import NAMES, draw, expected
from data_sets import Drawing, Failing, Named, Probing, keep

import rngscope
from rngscope import RNGState, _order, derive_seed, rng_scope, seed_all
from rngscope.data import per_item, seed_worker

needs_torch = pytest.mark.skipif("torch" not in NAMES, reason="needs torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes"),
]

METHODS = ["fork", "spawn", "forkserver"]


def by_number(batches):
    """Return items of any batches by their number, without the process that made them."""
    return {index: drawn for batch in batches for index, drawn, _ in batch}


def in_one_process(data):
    return by_number([[data[index] for index in range(len(data))]])


def loader(data, **options):
    from torch.utils.data import DataLoader

    if options.get("num_workers"):
        options.setdefault("multiprocessing_context", "fork")
    return DataLoader(data, collate_fn=keep, **options)


# per_item -----------------------------------------------------------------------------------


def test_an_item_is_made_from_its_own_seed(unchanged):
    """As in a scope of that seed by hand; the program's RNGs do not move."""
    data = per_item(Drawing(names=NAMES), 42)
    for index in (3, 0, 3):
        with rng_scope(data.item_seed(index), independent=True):
            by_hand = [draw(name) for name in NAMES]
        assert data[index][:2] == (index, by_hand)
    assert data.item_seed(3) == derive_seed(42, "item", 0, 3)
    assert by_hand == [expected(n, derive_seed(data.item_seed(3), n))[0] for n in NAMES]


def test_items_epochs_and_seeds_differ(unchanged):
    """Every (seed, epoch, item) has numbers of its own, and the same ones again."""
    drawn = {}
    for seed in (1, 2):
        data = per_item(Drawing(), seed)
        for epoch in (0, 1, 0):
            data.set_epoch(epoch)
            for index, values in in_one_process(data).items():
                assert drawn.setdefault((seed, epoch, index), values) == values
    assert len({str(values) for values in drawn.values()}) == len(drawn) == 2 * 2 * 12


@pytest.mark.parametrize("kind", ["int", "numpy", "torch"])
def test_the_same_item_by_another_index_is_the_same(kind, unchanged):
    """Negative indices, NumPy integers and 0-d tensors name the item that they name."""
    data = per_item(Drawing(), 42)
    make = {
        "int": lambda: [4, -8],
        "numpy": lambda: [pytest.importorskip("numpy").int64(4)],
        "torch": lambda: [pytest.importorskip("torch").tensor(4)],
    }
    for index in make[kind]():
        assert data[index][1] == data[4][1]


def test_names_are_indices_too(unchanged):
    """A data set with names for its items; 1 and "1" are different items."""
    data = per_item(Named(), 42)
    assert data["cat"] == data["cat"] != data["dog"]
    assert data.item_seed("1") != data.item_seed(1)


@pytest.mark.parametrize("index", [slice(2), [1, 2], None, 1.0, True], ids=repr)
def test_what_is_not_one_item_is_refused(index, unchanged):
    """TypeError that says so, before anything is drawn."""
    with pytest.raises(TypeError, match="one by one, by an int or a str"):
        per_item(Drawing(), 42)[index]


def test_an_item_that_fails_leaves_no_trace(unchanged):
    """The error comes through, every source is what it was, and the next item is itself."""
    data = per_item(Failing(), 42)
    for _ in range(2):
        with pytest.raises(OSError):
            data[3]
        assert _order.lives == []
    with pytest.raises(IndexError):
        per_item(Drawing(), 42)[12]


def test_data_sets_inside_data_sets_each_have_their_scope(unchanged):
    """A wrapped data set that reads another wrapped one: both draw what they draw alone."""
    inner = per_item(Drawing(), 1)

    class Outer:
        def __getitem__(self, index):
            return draw("python"), inner[index][1], draw("python")

    outer = per_item(Outer(), 2)
    first, between, second = outer[3]
    assert [first, second] == expected("python", derive_seed(outer.item_seed(3), "python"), 2)
    assert between == inner[3][1]


def test_only_the_sources_that_are_named_are_scoped():
    """sources= and devices= mean what they mean in rng_scope, a one-way iterator included."""
    data = per_item(Drawing(names=["python"]), 42, sources=iter(["python"]), devices=iter([]))
    with rng_scope(7, sources=["python"]):
        values = data[3][1]
        assert draw("python") == expected("python", 7)[0]
    assert pickle.loads(pickle.dumps(data))[3][1] == values == per_item(Drawing(), 42)[3][1]
    if "numpy" in NAMES:
        with rng_scope(7):
            moving = per_item(Drawing(names=["numpy"]), 42, sources=["python"])
            assert [moving[3][1], moving[3][1]] == [[each] for each in expected("numpy", 7, 2)]


@pytest.mark.parametrize(
    "options", [{"sources": "python"}, {"devices": b"0"}, {"devices": "0"}], ids=str
)
def test_text_is_no_list_of_sources_or_devices(options):
    """It is refused, as rng_scope refuses it."""
    with pytest.raises(TypeError, match="must be a list of"):
        per_item(Drawing(names=["python"]), 42, **options)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"seed": -1}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"sources": ["jax"]}, ValueError),
        ({"sources": "torch"}, TypeError),
        ({"sources": 3}, TypeError),
        ({"devices": [-1]}, ValueError),
        ({"devices": 0}, TypeError),
    ],
)
def test_wrong_options_are_refused_as_by_a_scope(options, error, unchanged):
    """When the data set is made, not when the first item is."""
    with pytest.raises(error):
        per_item(Drawing(), **{"seed": 42, **options})


@pytest.mark.parametrize("epoch", [-1, 2**63, 1.0, True, None, "1"], ids=repr)
def test_what_is_no_epoch_is_refused(epoch, unchanged):
    """The epoch stays what it was."""
    data = per_item(Drawing(), 42)
    data.set_epoch(5)
    with pytest.raises((TypeError, ValueError), match="epoch"):
        data.set_epoch(epoch)
    assert data.epoch == 5
    data.set_epoch(2**63 - 1)
    assert data.epoch == 2**63 - 1 and "epoch=9223372036854775807" in repr(data)


def test_what_has_no_numbered_items_is_refused():
    """TypeError that says what to do instead, for generators and IterableDataset alike."""
    things = [iter([1]), (number for number in [1]), {1, 2}]
    if "torch" in NAMES:
        from data_sets import probing_stream

        things.append(probing_stream())
    for thing in things:
        with pytest.raises(TypeError, match="numbered items.*rng_scope.*seed_worker"):
            per_item(thing, 42)


def test_it_is_a_sequence_like_the_data_set_itself(unchanged):
    """len() and iteration are those of the data set, which stays reachable."""
    data = per_item(Drawing(5), 42)
    assert len(data) == 5 and [item[0] for item in data] == [0, 1, 2, 3, 4]
    assert isinstance(data.dataset, Drawing) and data.seed == 42
    with pytest.raises(TypeError):
        len(per_item(Named(), 42))


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))]
)
def test_a_copy_has_an_epoch_of_its_own(duplicate, unchanged):
    """It begins with the epoch of the original; from there on each has its own."""
    data = per_item(Drawing(), 42)
    data.set_epoch(3)
    again = duplicate(data)
    assert again.epoch == 3 and again[5][:2] == data[5][:2]
    data.set_epoch(4)
    assert again.epoch == 3


def test_threads_make_the_same_items(unchanged):
    """Eight threads at once, in any order: each item is what it is alone."""
    data = per_item(Drawing(200, names=NAMES), 42)
    alone = in_one_process(data)
    order = random.Random(1).sample(range(200), 200)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert by_number([list(threads.map(data.__getitem__, order))]) == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_while_another_thread_makes_an_item_locks_nothing(unchanged):
    """The child, in which that thread is missing, makes its items without waiting for it."""
    inside, may_go = threading.Event(), threading.Event()

    class Waiting(Drawing):
        def __getitem__(self, index):
            if index == 1:
                inside.set()
                may_go.wait(10)
            return super().__getitem__(index)

    data = per_item(Waiting(), 42)
    wanted = data[3][1]
    thread = threading.Thread(target=data.__getitem__, args=[1])
    thread.start()
    inside.wait(10)
    child = os.fork()
    if not child:
        # A child that waits for the lock must not outlive the test.
        signal.alarm(30)
        os._exit(0 if data[3][1] == wanted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    may_go.set()
    thread.join()


# per_item in a DataLoader ---------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("method", METHODS)
def test_set_epoch_reaches_workers_that_live_on(method):
    """Epochs 0, 1 and 0 again, shuffled, in two workers that persist."""
    import torch

    names = [name for name in ("python", "numpy", "torch") if name in NAMES]
    data = per_item(Drawing(8, names), 42)
    wanted = {}
    for epoch in (0, 1):
        data.set_epoch(epoch)
        wanted[epoch] = in_one_process(data)
    assert wanted[0] != wanted[1]
    workers = loader(
        data,
        batch_size=2,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        worker_init_fn=seed_worker,
        generator=torch.Generator().manual_seed(1),
    )
    processes = set()
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        batches = list(workers)
        assert by_number(batches) == wanted[epoch]
        processes |= {process for batch in batches for _, _, process in batch}
        # An epoch that is given up half way leaves nothing behind for the next.
        data.set_epoch(epoch)
        for _ in workers:
            break
    assert os.getpid() not in processes and len(processes) == 2


@needs_torch
@pytest.mark.parametrize("method", METHODS[:2])
def test_workers_of_one_epoch_have_its_items(method):
    """Workers that are started anew for each epoch."""
    data = per_item(Drawing(4), 42)
    workers = loader(data, num_workers=1, multiprocessing_context=method)
    for epoch in (5, 6):
        data.set_epoch(epoch)
        assert by_number(workers) == in_one_process(data)


@needs_torch
def test_the_items_are_the_same_in_every_arrangement():
    """0, 2 and 4 workers, batch sizes 1 to 12, any order, single items without batches."""
    data = per_item(Drawing(), 42)
    wanted = in_one_process(data)
    orders = [list(range(12)), list(range(11, -1, -1)), random.Random(2).sample(range(12), 12)]
    for workers, size, order in [(0, 1, 0), (0, 5, 1), (2, 3, 2), (4, 12, 1), (4, 2, 2)]:
        data.set_epoch(0)
        batches = loader(data, num_workers=workers, batch_size=size, sampler=orders[order])
        assert by_number(batches) == wanted
    data.set_epoch(0)
    assert by_number([list(loader(data, batch_size=None))]) == wanted


@needs_torch
def test_the_items_are_the_same_on_every_rank():
    """Two ranks of a DistributedSampler make together what one process makes."""
    from torch.utils.data.distributed import DistributedSampler

    data = per_item(Drawing(), 42)
    data.set_epoch(3)
    items = {}
    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, seed=1)
        sampler.set_epoch(3)
        items.update(by_number(loader(data, sampler=sampler, batch_size=4)))
    assert items == in_one_process(data)


@needs_torch
def test_a_part_of_the_data_set_has_the_same_items():
    """Subset and random_split over it, and ConcatDataset of two."""
    import torch
    from torch.utils.data import ConcatDataset, Subset, random_split

    data = per_item(Drawing(), 42)
    wanted = in_one_process(data)
    assert Subset(data, [7, 2])[0][1] == wanted[7]
    parts = random_split(data, [5, 7], generator=torch.Generator().manual_seed(1))
    assert by_number([[part[i] for i in range(len(part))] for part in parts]) == wanted
    both = ConcatDataset([data, per_item(Drawing(), 43)])
    assert both[3][1] == wanted[3] != both[15][1]


@needs_torch
def test_the_program_draws_the_same_with_and_without_workers(unchanged):
    """With a generator for the loader, its global RNGs do not move by loading."""
    import torch

    data = per_item(Drawing(), 42, epochs=False)
    for workers in (0, 2):
        own = torch.Generator().manual_seed(1)
        before = unchanged()
        list(loader(data, num_workers=workers, shuffle=True, generator=own))
        assert unchanged() == before


# seed_worker ----------------------------------------------------------------------------------


@pytest.fixture
def rank(monkeypatch):
    """Return a function that sets the rank of this process and of its workers."""
    monkeypatch.delenv("RANK", raising=False)
    return lambda number: monkeypatch.setenv("RANK", str(number))


def probed(workers=2, epochs=1, base=1, **options):
    """Return, per epoch, what each worker's first item drew."""
    import torch

    options = {"worker_init_fn": seed_worker, "num_workers": workers, **options}
    own = torch.Generator().manual_seed(base)
    data = loader(Probing(), generator=own, batch_size=1, **options)
    return [{worker: drawn for [(worker, drawn)] in reversed(list(data))} for _ in range(epochs)]


@needs_torch
@pytest.mark.parametrize("method", METHODS)
def test_every_source_of_a_worker_has_a_seed_of_its_own(method, rank):
    """From the base seed, the rank and the worker's number, one derived seed a source."""
    pytest.importorskip("numpy")
    import numpy as np
    import torch

    rank(3)
    base = torch.empty((), dtype=torch.int64)
    base = base.random_(generator=torch.Generator().manual_seed(1)).item()
    init = seed_worker
    if method == "forkserver":
        # Its server, and so its workers, have the environment of long ago.
        init = functools.partial(seed_worker, rank=3)
    [workers] = probed(multiprocessing_context=method, worker_init_fn=init)
    assert sorted(workers) == [0, 1]
    for number, drawn in workers.items():
        seeds = derive_seed(base, "worker", 3, number)
        python, numpy, torch_ = (derive_seed(seeds, n) for n in ("python", "numpy", "torch"))
        words = [numpy & 0xFFFFFFFF, numpy >> 32]
        assert drawn == [
            random.Random(python).random(),
            np.random.RandomState(words).rand(),
            torch.rand(1, generator=torch.Generator().manual_seed(torch_)).item(),
        ]


@needs_torch
def test_workers_ranks_and_epochs_draw_different_numbers(rank):
    """And the same ones again in a second run of the same program."""
    pytest.importorskip("numpy")
    runs = []
    for _ in range(2):
        drawn = []
        for number in (0, 1):
            rank(number)
            drawn += [draws for epoch in probed(epochs=2) for draws in epoch.values()]
        runs.append(drawn)
    assert runs[0] == runs[1]
    numbers = [number for draws in runs[0] for number in draws]
    assert len(set(numbers)) == len(numbers) == 2 * 2 * 2 * 3


@needs_torch
def test_the_rank_can_be_bound(rank):
    """functools.partial(seed_worker, rank=...) where a worker cannot know it."""
    pytest.importorskip("numpy")
    rank(0)
    at_rank_0 = probed()
    bound = probed(worker_init_fn=functools.partial(seed_worker, rank=5))
    rank(5)
    assert probed() == bound != at_rank_0


@needs_torch
def test_iterable_data_sets_have_seeded_workers(rank):
    """seed_worker is what such a data set has; each worker goes on with its own streams."""
    pytest.importorskip("numpy")
    import torch
    from data_sets import probing_stream

    def run():
        own = torch.Generator().manual_seed(1)
        options = {"worker_init_fn": seed_worker, "num_workers": 2, "generator": own}
        return [item for batch in loader(probing_stream(), **options) for item in batch]

    first = run()
    assert first == run()
    assert len({str(drawn) for _, drawn in first}) == len(first) == 4


@needs_torch
@pytest.mark.parametrize("count", [0, 2, 4])
def test_with_items_of_their_own_the_number_of_workers_is_no_matter(count, rank):
    """seed_worker and per_item together: the same items with 0, 2 and 4 workers."""
    data = per_item(Drawing(), 42)
    assert by_number(loader(data, num_workers=count, worker_init_fn=seed_worker)) == (
        in_one_process(data)
    )


@needs_torch
def test_outside_a_worker_it_is_refused(unchanged):
    """RuntimeError that says where it belongs, and no RNG moves."""
    with pytest.raises(RuntimeError, match="worker_init_fn=seed_worker"):
        seed_worker(0)


# The cost of importing --------------------------------------------------------------------------


def test_it_needs_no_torch():
    """per_item works with any loader; importing it imports neither torch nor NumPy."""
    code = (
        "import sys; from rngscope.data import per_item; import random\n"
        "class Data:\n"
        "    def __getitem__(self, index): return random.random()\n"
        "data = per_item(Data(), 42)\n"
        "assert data[1] == data[1] != data[2]\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(rngscope.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@needs_torch
def test_the_states_of_the_program_are_those_before(unchanged):
    """seed_all in a worker is the worker's own: the parent's states do not move."""
    import torch

    before = RNGState.capture()
    probed()
    assert RNGState.capture() == before
    seed_all(1)
    assert torch.initial_seed() == 1
    before.restore()
