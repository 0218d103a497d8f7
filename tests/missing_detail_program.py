"""The laws without a private detail of another library; ``test_private_details.py`` runs this.

In one process, because to import torch for every detail would take minutes: rngscope itself is
imported anew each time, with the rows of its table misspelled, so that what is looked for is not
there. Prints a JSON object: name of a case -> what went wrong, and the paths that were missed.
"""

import asyncio
import importlib
import json
import random
import sys
import traceback
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

import by_hand

PACKAGE = str(Path(__file__).resolve().parents[1] / "rngscope")


def import_without(paths):
    """Import rngscope as if these details were not there; return its table."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rngscope"]:
        del sys.modules[name]
    # The table has to be wrong before anything looks into it.
    stub = types.ModuleType("rngscope")
    stub.__path__ = [PACKAGE]
    sys.modules["rngscope"] = stub
    details = importlib.import_module("rngscope._details")
    for rows in details.alternatives():
        for row in rows:
            if row.path in paths:
                row.name += "_that_is_gone"
    del sys.modules["rngscope"]
    importlib.import_module("rngscope")
    # What is proved, and not looked for by a name.
    if "the memory of random.Random" in paths:
        sys.modules["rngscope.sources.mersenne"]._layout_is_known = lambda: False
    if "the memory of numpy.random.RandomState" in paths:
        sys.modules["rngscope.sources.numpy_memory"]._prove_gauss = lambda scratch: None
    if "the bytes of a CPU generator's state" in paths:
        sys.modules["rngscope.sources.torch"].STATE_BYTES = 9
    return details


# The laws -------------------------------------------------------------------------------------


class Unchanged:
    """Check that a block leaves every source as it was, a cached Gaussian included."""

    def __enter__(self):
        by_hand.cache_gaussians()
        self.before = by_hand.public_states()

    def __exit__(self, kind, error, trace):
        if error is None:
            after = by_hand.public_states()
            moved = [name for name in self.before if after[name] != self.before[name]]
            assert not moved, f"moved {moved}"


def draws(own=None):
    return {name: by_hand.draw(name) for name in by_hand.NAMES}


def expected(seed):
    return {name: by_hand.expected(name, seed)[0] for name in by_hand.NAMES}


def scopes_are_exact(rngscope):
    """A seed once, again, and often; of 32 bits and more; inside each other."""
    for seed in (42, 2**32 + 5, 2**64 - 1, 0):
        for _ in range(3):
            with Unchanged(), rngscope.rng_scope(seed):
                assert draws() == expected(seed), seed
                with Unchanged(), rngscope.rng_scope():
                    draws()
    with Unchanged():
        try:
            with rngscope.rng_scope(42):
                draws()
                raise KeyError
        except KeyError:
            pass


def independent_scopes_are_exact(rngscope):
    for _ in range(3):
        with Unchanged(), rngscope.rng_scope(42, independent=True):
            for name in by_hand.NAMES:
                seed = rngscope.derive_seed(42, name)
                assert by_hand.draw(name) == by_hand.expected(name, seed)[0]


def functions_are_exact(rngscope):
    """Calls, bodies that suspend, and a task of asyncio."""

    @rngscope.seeded(42)
    def call():
        return draws()

    @rngscope.seeded(42)
    def body():
        for _ in range(2):
            yield {name: by_hand.draw(name) for name in by_hand.NAMES}

    @rngscope.seeded(42)
    async def task():
        await asyncio.sleep(0)
        return draws()

    async def tasks():
        with rngscope.rng_scope(7):
            return await task(), draws()

    twice = {name: by_hand.expected(name, 42, 2) for name in by_hand.NAMES}
    with Unchanged():
        assert call() == expected(42)
        for index, drawn in enumerate(body()):
            assert drawn == {name: pair[index] for name, pair in twice.items()}
            draws_of_the_caller = random.random()
            assert draws_of_the_caller is not None
            by_hand.cache_gaussians()
    with Unchanged():
        assert asyncio.run(tasks()) == (expected(42), expected(7))


def streams_are_exact(rngscope):
    stream, again = rngscope.RNGStream(42), rngscope.RNGStream(0)
    twice = {name: by_hand.expected(name, 42, 3) for name in by_hand.NAMES}
    for index in range(2):
        with Unchanged(), stream:
            drawn = draws()
            assert drawn == {name: pair[index] for name, pair in twice.items()}
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    with Unchanged(), again:
        assert draws() == {name: pair[2] for name, pair in twice.items()}


def states_are_exact(rngscope):
    by_hand.cache_gaussians()
    state = rngscope.RNGState.capture()
    before = by_hand.public_states()
    first = draws()
    plain = json.loads(json.dumps(state.state_dict()))
    for other in (state, rngscope.RNGState.from_state_dict(plain)):
        assert other == state
        with Unchanged(), rngscope.rng_scope(other):
            assert draws() == first
        other.restore()
        assert by_hand.public_states() == before
        assert draws() == first
    rngscope.seed_all(42)
    assert draws() == expected(42)


def generators_are_exact(rngscope):
    own = [random.Random(5)]
    if "numpy" in by_hand.NAMES:
        import numpy.random as numpy_random

        own += [
            numpy_random.RandomState(5),
            numpy_random.RandomState(numpy_random.PCG64(5)),
            numpy_random.default_rng(5),
        ]
    numbers = [[g.random() for _ in range(2)] for g in own]
    fresh = [random.Random(42).random()]
    if "numpy" in by_hand.NAMES:
        fresh += [
            numpy_random.RandomState(42).random(),
            numpy_random.RandomState(numpy_random.PCG64(42)).random(),
            numpy_random.default_rng(42).random(),
        ]
    assert len(numbers) == len(fresh)
    state = rngscope.RNGState.capture(sources=[], generators=own)
    following = [g.random() for g in own]
    plain = json.loads(json.dumps(state.state_dict()))
    rngscope.RNGState.from_state_dict(plain).restore(generators=own)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*draw the same numbers", RuntimeWarning)
            scope = rngscope.rng_scope(42, generators=own)
        with scope:
            assert [g.random() for g in own] == fresh
    assert [g.random() for g in own] == following


def any_order_is_exact(rngscope):
    with Unchanged(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        one, two = rngscope.rng_scope(1), rngscope.rng_scope(2)
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        draws()
        two.__exit__(None, None, None)


def a_bit_generator_that_is_swapped_is_put_back(rngscope):
    if "numpy" not in by_hand.NAMES:
        return
    import numpy.random as numpy_random

    for _ in range(2):
        with Unchanged(), rngscope.rng_scope(42):
            numpy_random.set_bit_generator(numpy_random.PCG64(1))
            with rngscope.rng_scope(43):
                draws()


def a_scope_that_ends_in_the_entry_of_another_waits(rngscope):
    """A finalizer may end a scope while this thread is in the middle of entering another."""
    second = random.Random(4)
    before = second.getstate()
    inner = rngscope.rng_scope(1, generators=[second])

    class Meddler(random.Random):
        is_on = False

        def getstate(self):
            if self.is_on:
                Meddler.is_on = False
                inner.__exit__(None, None, None)
            return super().getstate()

    own = Meddler(3)
    with Unchanged(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        inner.__enter__()
        Meddler.is_on = True
        # When the first one is saved, what is above the other scope has not saved the second.
        with rngscope.rng_scope(2, generators=[own, second]):
            drawn = draws()
            assert second.random() == random.Random(2).random()
    assert drawn["python"] == expected(2)["python"]
    assert second.getstate() == before


def deterministic_is_put_back(rngscope):
    if "torch" not in by_hand.NAMES:
        return
    import torch

    def switches():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )

    before = switches()
    with rngscope.rng_scope(42, deterministic=True):
        assert switches() == (True, False, True, False)
        assert draws() == expected(42)
    assert switches() == before


def recording_is_no_error(rngscope):
    """A scope in a program that torch records draws as ever; the warning may be missing."""
    if "torch" not in by_hand.NAMES:
        return
    import torch
    import torch.fx

    def program(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with rngscope.rng_scope(42, sources=["torch"]):
                return x + 1

    with Unchanged():
        torch.fx.symbolic_trace(program)
    with Unchanged(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(program, torch.zeros(2))


LAWS = [
    scopes_are_exact,
    independent_scopes_are_exact,
    functions_are_exact,
    streams_are_exact,
    states_are_exact,
    generators_are_exact,
    any_order_is_exact,
    a_bit_generator_that_is_swapped_is_put_back,
    a_scope_that_ends_in_the_entry_of_another_waits,
    deterministic_is_put_back,
    recording_is_no_error,
]

# The laws of accelerators ---------------------------------------------------------------------


@contextmanager
def accelerator_of_two(simulated, name):
    """Stand in for an accelerator and for all that says publicly that torch was built for it."""
    import torch

    real, version = torch.Generator, {n: getattr(torch.version, n, None) for n in ("cuda", "xpu")}
    ask = torch.accelerator.current_accelerator

    class Kind(type):
        def __instancecheck__(self, thing):
            return isinstance(thing, real)

    class Generator(metaclass=Kind):
        """A CPU build cannot make generators of other devices."""

        def __new__(cls, device=None):
            return real()

    try:
        torch.accelerator.current_accelerator = lambda: torch.device(name)
        if name in version:
            setattr(torch.version, name, "1.0")
        torch.Generator = Generator
        with simulated.simulated_cuda(2, name=name) as accelerator:
            yield accelerator
    finally:
        torch.Generator, torch.accelerator.current_accelerator = real, ask
        for key, value in version.items():
            setattr(torch.version, key, value)


def expected_states(simulated, seed):
    import torch

    return [
        simulated.state_bytes(torch.Generator().manual_seed(seed)) for _ in range(2)
    ]


def an_accelerator_that_starts_inside_is_exact(rngscope, simulated, name):
    import torch

    with accelerator_of_two(simulated, name) as accelerator:
        torch.manual_seed(7)
        with Unchanged(), rngscope.rng_scope(42):
            with rngscope.rng_scope(43):
                pass
            accelerator.start()
            assert accelerator.states() == expected_states(simulated, 42)
        assert accelerator.states() == expected_states(simulated, 7)


def an_accelerator_that_waits_keeps_its_queue(rngscope, simulated, name):
    import torch

    with accelerator_of_two(simulated, name) as accelerator:
        torch.manual_seed(7)
        with rngscope.rng_scope(42), rngscope.rng_scope(43, generators=[random.Random(1)]):
            pass
        accelerator.start()
        assert accelerator.states() == expected_states(simulated, 7)


def an_accelerator_that_has_started_is_exact(rngscope, simulated, name):
    with accelerator_of_two(simulated, name) as accelerator:
        accelerator.start()
        before = accelerator.states()
        with rngscope.rng_scope(42):
            assert accelerator.states() == expected_states(simulated, 42)
            state = rngscope.RNGState.capture()
        assert accelerator.states() == before
        state.restore()
        assert accelerator.states() == expected_states(simulated, 42)


def a_forked_child_leaves_it_alone(rngscope, simulated, name):
    with accelerator_of_two(simulated, name) as accelerator:
        accelerator.start()
        with rngscope.rng_scope(42):
            accelerator.bad_fork = True
        accelerator.bad_fork = False


OF_ACCELERATORS = [
    an_accelerator_that_starts_inside_is_exact,
    an_accelerator_that_waits_keeps_its_queue,
    an_accelerator_that_has_started_is_exact,
    a_forked_child_leaves_it_alone,
]
#: Without these the seeds of an accelerator that has not started are a feature that is lost.
OF_THE_QUEUE = ("_queued_calls", "_lazy_seed_tracker", "default_generators")


def run(paths):
    """Return what went wrong, and what was missed."""
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Said by seed_all, where torch is built for CUDA; the law below looks for it.
        warnings.filterwarnings("ignore", "cuda has not started and is not seeded")
        details = import_without(paths)
        rngscope = sys.modules["rngscope"]
        cases = [(law.__name__, law, ()) for law in LAWS]
        if "torch" in by_hand.NAMES:
            import simulated_cuda

            for law in OF_ACCELERATORS:
                for name in simulated_cuda.ACCELERATORS:
                    cases.append((f"{law.__name__}: {name}", law, (simulated_cuda, name)))
        has_no_queue = any(word in path for word in OF_THE_QUEUE for path in paths)
        for title, law, more in cases:
            if has_no_queue and law is an_accelerator_that_starts_inside_is_exact:
                law, title = an_accelerator_without_a_queue_is_left_out, f"left out: {more[1]}"
            try:
                law(rngscope, *more)
            except BaseException:
                wrong[title] = traceback.format_exc()
    missing = [row.path.replace("_that_is_gone", "") for row in details.missing()]
    return {"wrong": wrong, "missing": missing}


def an_accelerator_without_a_queue_is_left_out(rngscope, simulated, name):
    """Nothing is an error; a start inside a scope is named once, and a strict restore refuses."""
    import torch

    rngscope.sources.queue._warned.clear()
    with accelerator_of_two(simulated, name) as accelerator:
        accelerator.start()
        state = rngscope.RNGState.capture()
    with accelerator_of_two(simulated, name) as accelerator:
        torch.manual_seed(7)
        queue = accelerator.queue()
        with Unchanged(), rngscope.rng_scope(42):
            assert draws() == expected(42)
        any_order_is_exact(rngscope)
        assert accelerator.queue() == queue
        try:
            state.restore()
            raise AssertionError("not refused")
        except ValueError as error:
            assert f"start {name} first: torch.{name}.init()" in str(error), error
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Unchanged():
                with rngscope.rng_scope(42):
                    accelerator.start()
                    assert accelerator.states() == expected_states(simulated, 7)
                with rngscope.rng_scope(42):
                    assert accelerator.states() == expected_states(simulated, 42)
                    any_order_is_exact(rngscope)
                assert accelerator.states() == expected_states(simulated, 7)
        told = [str(warning.message) for warning in caught]
        assert len(told) == 1 and f"this torch has no torch.{name}." in told[0], told
        assert "was started inside an RNG scope" in told[0]
    rngscope.sources.queue._warned.clear()
    with accelerator_of_two(simulated, name):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rngscope.seed_all(3)
            rngscope.seed_all(3)
        told = [str(w.message) for w in caught if str(w.message).startswith(name)]
        assert len(told) == 1 and "has not started and is not seeded" in told[0], told


def main():
    by_hand.load_libraries()
    cases = json.loads(sys.argv[1])
    print(json.dumps({title: run(paths) for title, paths in cases.items()}))


if __name__ == "__main__":
    main()
