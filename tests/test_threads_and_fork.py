"""Laws 5 and 6: threads, forked children, worker processes and ``DataLoader``."""

import inspect
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings

import pytest
from by_hand import NAMES, draw, expected, public_states

from rngscope import RNGStream, _order, rng_scope, seeded

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
pytestmark = [
    # From Python 3.12 on, a fork with threads around warns.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
out_of_order = pytest.mark.filterwarnings("ignore:the scope .* was left while:RuntimeWarning")
#: Of tests whose threads have scopes open at the same time on purpose.
overlaps = pytest.mark.filterwarnings("ignore:two threads have scopes open:RuntimeWarning")


def run_threads(*targets):
    """Run each in a thread of its own; raise what one of them raised."""
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


# Threads ----------------------------------------------------------------------------------


@out_of_order
@overlaps
def test_many_threads_through_one_decorated_function_lose_nothing(path, unchanged):
    """However their calls overlap, the outer state is back at the end."""

    @seeded(42)
    def function():
        draw("python")
        time.sleep(0.0001)
        return draw(NAMES[-1])

    def work():
        for _ in range(100):
            function()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_threads(*[work] * 8)
    finally:
        sys.setswitchinterval(interval)


@out_of_order
@overlaps
def test_many_threads_through_decorated_bodies_lose_nothing(unchanged):
    """Steps of suspending bodies overlap as well."""
    stream = RNGStream(5)

    @seeded(42)
    def body():
        for _ in range(20):
            draw("python")
            with stream:
                yield
            yield

    def work():
        for _ in range(20):
            for _ in body():
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_threads(*[work] * 6)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("seed", [None, 42])
def test_no_lock_is_held_while_a_body_runs(seed, unchanged):
    """Two bodies that wait for each other inside of their scopes both go on."""
    barrier = threading.Barrier(2, timeout=20)
    left = threading.Barrier(2, timeout=20)

    @seeded(seed)
    def function():
        barrier.wait()
        draw("python")
        barrier.wait()
        return left

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_threads(work, work)


@overlaps
def test_another_thread_may_enter_and_leave_while_a_body_waits_for_it(unchanged):
    """The body of a scope can wait for a thread that uses scopes: a lock would hang it."""
    with rng_scope(1):
        first = draw("python")

        def work():
            with rng_scope(2):
                assert draw("python") == expected("python", 2)[0]

        run_threads(work)
        assert [first, draw("python")] == expected("python", 1, 2)


@pytest.mark.parametrize("name", NAMES)
@overlaps
def test_a_scope_open_for_seconds_while_others_come_and_go_ends_exact(name, path, unchanged):
    """Scopes of other threads that end before it leave its stream where it was."""
    deadline = time.monotonic() + 1.5
    entered = []

    def work():
        seed = 0
        while time.monotonic() < deadline:
            seed += 1
            with turns, rng_scope(seed):
                assert draw(name) == expected(name, seed)[0]
            entered.append(seed)

    turns = threading.Lock()
    with rng_scope(42):
        drawn = [draw(name)]
        run_threads(work, work, work)
        drawn.append(draw(name))
    assert drawn == expected(name, 42, 2)
    assert len(entered) > 20


@out_of_order
@overlaps
def test_scopes_that_overlap_without_order_for_a_second_end_exact(unchanged):
    """Nobody waits for anybody: only the end is certain, and it is exact."""
    deadline = time.monotonic() + 1

    def work(seed):
        own = random.Random(seed)
        while time.monotonic() < deadline:
            sources = own.sample(NAMES, own.randrange(1, len(NAMES) + 1))
            with rng_scope(seed, sources=sources):
                time.sleep(own.random() / 1000)
                draw(sources[0])

    with rng_scope(42):
        run_threads(*[lambda seed=seed: work(seed) for seed in range(6)])
    assert _order.lives == []


# Fork -------------------------------------------------------------------------------------


def in_child(act):
    """Run it in a forked child; return what it returned, or fail with its traceback."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = ("result", act())
        except BaseException:
            result = ("error", traceback.format_exc())
        try:
            with os.fdopen(writer, "wb") as file:
                pickle.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        kind, result = pickle.load(file)
    os.waitpid(pid, 0)
    assert kind == "result", result
    return result


def values():
    """The public states without NumPy's bit generator, which cannot be compared elsewhere."""
    states = public_states()
    if "numpy" in states:
        states["numpy"] = states["numpy"][1]
    return states


@needs_fork
@pytest.mark.parametrize("left", ["in the child", "never"])
def test_a_scope_left_in_a_forked_child_restores_all_but_random(left, path, unchanged):
    """NumPy and torch are put back; ``random`` keeps the seed that CPython gave the child."""
    outer = values()
    with rng_scope(42):
        draw("python")
        inner = values()

        def act():
            fresh = random.getstate()
            assert {**values(), "python": inner["python"]} == inner
            if left == "in the child":
                scope.__exit__(None, None, None)
                assert _order.lives == []
            return random.getstate() == fresh, values()

        scope = _order.lives[-1]
        is_fresh, seen = in_child(act)
        want = outer if left == "in the child" else inner
        assert is_fresh and seen["python"] not in (outer["python"], inner["python"])
        assert {**seen, "python": None} == {**want, "python": None}
        # The parent is not concerned.
        assert values() == inner


@needs_fork
def test_nested_scopes_left_in_a_forked_child_end_in_the_outer_state(unchanged):
    """Each exit hands on what it found, but for ``random``."""
    outer = values()
    with rng_scope(1), rng_scope(2), rng_scope(3):

        def act():
            for scope in reversed(list(_order.lives)):
                scope.__exit__(None, None, None)
            return values()

        assert {**in_child(act), "python": None} == {**outer, "python": None}


@needs_fork
def test_two_children_do_not_share_random(unchanged):
    """Each child's ``random`` is its own, in a scope as elsewhere."""
    with rng_scope(42):
        assert in_child(random.random) != in_child(random.random)


@needs_fork
def test_scopes_in_a_forked_child_work(unchanged):
    """New scopes in the child draw as everywhere, and put back what they found there."""
    with rng_scope(1):

        def act():
            before = values()
            with rng_scope(42):
                drawn = [draw(name) for name in NAMES]
            assert values() == before
            return drawn

        assert in_child(act) == [expected(name, 42)[0] for name in NAMES]


@needs_fork
@out_of_order
@pytest.mark.parametrize("place", ["below", "above", "alone"])
@overlaps
def test_scopes_of_other_threads_are_forgotten_in_the_child(place, unchanged):
    """They will never be left there: what they found goes to those above."""
    outer = values()
    entered, go_on = threading.Event(), threading.Event()

    def work():
        with rng_scope(1):
            entered.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=work)
    mine = rng_scope(2)
    if place == "above":
        mine.__enter__()
    thread.start()
    assert entered.wait(60)
    if place == "below":
        mine.__enter__()
    try:

        def act():
            assert _order.lives == ([] if place == "alone" else [mine._life])
            if place != "alone":
                mine.__exit__(None, None, None)
            return values()

        seen = in_child(act)
    finally:
        go_on.set()
        if place == "above":
            thread.join()
        if place != "alone":
            mine.__exit__(None, None, None)
        thread.join()
    if place == "below":
        assert {**seen, "python": None} == {**outer, "python": None}


@needs_fork
@out_of_order
@pytest.mark.skipif(len(NAMES) < 2, reason="needs two sources")
@overlaps
def test_what_scopes_of_other_threads_found_goes_to_the_next_that_covers_it(unchanged):
    """For each source to another one, if they cover different ones."""
    outer = values()
    entered, go_on = threading.Event(), threading.Event()

    def work():
        with rng_scope(1):
            entered.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(60)
    try:
        with rng_scope(2, sources=["python"]), rng_scope(3, sources=NAMES[1:]):

            def act():
                for scope in reversed(_order.lives):
                    scope.__exit__(None, None, None)
                return values()

            seen = in_child(act)
    finally:
        go_on.set()
        thread.join()
    assert {**seen, "python": None} == {**outer, "python": None}


@needs_fork
def test_the_lock_is_not_inherited_locked(unchanged):
    """A thread that is entering scopes all the while never leaves the child without it."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            with turns, rng_scope(1):
                pass

    def act():
        result = []
        thread = threading.Thread(target=lambda: result.append(seeded(42)(draw)("python")))
        thread.daemon = True
        thread.start()
        thread.join(20)
        return result

    turns = threading.Lock()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(act) == expected("python", 42)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@needs_fork
def test_a_suspended_body_goes_on_in_the_child(unchanged):
    """Its stream was put aside, so parent and child both continue it."""

    @seeded(42)
    def body():
        while True:
            yield draw("python")

    made = body()
    one, two, three = expected("python", 42, 3)
    assert next(made) == one
    assert in_child(lambda: [next(made), next(made)]) == [two, three]
    assert next(made) == two


# multiprocessing --------------------------------------------------------------------------


def draw_in_worker(seed):
    for name in NAMES:
        draw(name)
    before = values()
    with rng_scope(seed):
        drawn = [draw(name) for name in NAMES]
    assert values() == before
    return drawn


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_worker_processes_use_scopes_of_their_own(method, unchanged):
    """fork, spawn and forkserver: started inside a scope, each draws what its seed gives."""
    context = multiprocessing.get_context(method)
    with rng_scope(42):
        before = public_states()
        with context.Pool(2) as pool:
            results = pool.map(draw_in_worker, [1, 2, 3], chunksize=1)
            pool.close()
            pool.join()
        assert public_states() == before
    assert results == [[expected(name, seed)[0] for name in NAMES] for seed in (1, 2, 3)]


def test_a_program_with_open_scopes_in_threads_ends(unchanged):
    """A daemon thread that is inside of a scope does not keep the program from ending."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            textwrap.dedent("""
            import threading, time
            from rngscope import rng_scope
            def work():
                with rng_scope(1):
                    entered.set()
                    time.sleep(60)
            entered = threading.Event()
            threading.Thread(target=work, daemon=True).start()
            entered.wait()
            """),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# DataLoader -------------------------------------------------------------------------------


class Seeded:
    """A data set whose items draw in a scope, and say what they found around it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        before = values()
        with rng_scope(index):
            drawn = draw("torch")
        assert values() == before
        return index, drawn


class Drawing:
    """A data set whose items draw from the worker's own RNGs."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return draw("torch"), draw("numpy") if "numpy" in NAMES else None


def seed_worker(worker):
    """Draw in a scope; what the worker begins with stays."""
    before = values()
    with rng_scope(worker):
        draw("torch")
    assert values() == before


def first(batch):
    return batch[0]


WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]
if hasattr(os, "fork"):
    WORKERS.append({"num_workers": 2, "multiprocessing_context": "fork"})
each_loader = pytest.mark.parametrize("options", WORKERS, ids=str)


def thread_workers():
    """The options for workers that are threads; for this process, where torch has none."""
    torch = pytest.importorskip("torch")
    parameters = inspect.signature(torch.utils.data.DataLoader.__init__).parameters
    has_threads = "worker_method" in parameters
    return {"num_workers": 1, "worker_method": "thread"} if has_threads else {"num_workers": 0}


def loader(data, options, **more):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(data, collate_fn=first, **options, **more)


@each_loader
def test_scopes_in_getitem_and_worker_init_draw_right(options, unchanged):
    """Inside of the workers as well as without any."""
    started = {"worker_init_fn": seed_worker} if options["num_workers"] else {}
    with rng_scope(42):
        made = loader(Seeded(), options, **started)
        for _ in range(2):
            assert list(made) == [(i, expected("torch", i)[0]) for i in range(4)]
        del made


def test_scopes_in_worker_threads_draw_right(unchanged):
    """Thread workers share the process: their scopes come and go above the main one."""
    with rng_scope(42), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = loader(Seeded(), thread_workers())
        assert [index for index, _ in made] == list(range(4))
        del made


@each_loader
def test_a_loader_inside_a_scope_is_reproducible_and_leaves_no_trace(options, unchanged):
    """Two runs with one seed draw the same in the workers, epoch by epoch."""
    runs = []
    for _ in range(2):
        with rng_scope(42):
            made = loader(Drawing(), options, shuffle=True)
            runs.append([list(made), list(made)])
            del made
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


@each_loader
def test_a_validation_loop_in_a_scope_does_not_move_the_training(options, unchanged):
    """``iter(DataLoader)`` draws from torch's generator: in a scope nobody sees it."""
    with rng_scope(7):
        before = public_states()
        with rng_scope():
            list(loader(Drawing(), options))
        assert public_states() == before


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loader_that_outlives_its_scope_goes_on(persistent, unchanged):
    """Workers that were started inside a scope are not concerned by its end."""
    options = {"num_workers": 1, "persistent_workers": persistent}
    with rng_scope():
        with rng_scope(42):
            made = loader(Seeded(), options)
            iterator = iter(made)
            next(iterator)
        assert [index for index, _ in iterator] == [1, 2, 3]
        assert len(list(made)) == 4
        del iterator, made
