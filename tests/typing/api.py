"""What type checkers see of the public names: checked by mypy, never run."""

import collections
import copy
import functools
import random
import types
import unittest
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, assert_type

import torch

from rngscope import (
    RNGState,
    RNGStream,
    assert_rng_unchanged,
    checkpoint_context_fn,
    derive_seed,
    rng_scope,
    seed_all,
    seeded,
    to_thread,
)
from rngscope.data import per_item, seed_worker, views
from rngscope.distributed import assert_in_sync

# The six kinds of function ----------------------------------------------------------------


@seeded(42)
def function(a: int, /, b: str, *c: float, d: bool = True) -> bytes:
    return b""


@seeded(42)
def generator(a: int) -> Generator[str, bytes, float]:
    yield ""
    return 0.0


@seeded(42)
async def coroutine(a: int, *, b: str = "") -> bytes:
    return b""


@seeded(42)
async def async_generator(a: int) -> AsyncGenerator[str, bytes]:
    yield ""


@seeded(42)
@types.coroutine
def awaitable_generator(a: int) -> Generator[str, None, float]:
    yield ""
    return 0.0


class Object:
    async def __call__(self, a: int) -> bytes:
        return b""


called = seeded(42)(Object())
partial = seeded(42)(functools.partial(coroutine, 1))


async def kinds() -> None:
    assert_type(function(1, "b", 2.0, d=False), bytes)
    assert_type(generator(1), Generator[str, bytes, float])
    made: Coroutine[Any, Any, bytes] = coroutine(1, b="")
    assert_type(await made, bytes)
    assert_type(async_generator(1), AsyncGenerator[str, bytes])
    assert_type(await awaitable_generator(1), float)
    assert_type(await called(1), bytes)
    assert_type(await partial(b=""), bytes)
    function("a", "b")  # type: ignore[arg-type]
    generator()  # type: ignore[call-arg]
    await coroutine(1, c="")  # type: ignore[call-arg]
    await coroutine(b"")  # type: ignore[arg-type]
    async_generator(b"")  # type: ignore[arg-type]


# Methods ----------------------------------------------------------------------------------


class Methods:
    @seeded(42)
    def method(self, a: int) -> bytes:
        return b""

    @seeded(seed_from=lambda self, a: a)
    def generator(self, a: int) -> Iterator[str]:
        yield ""

    @seeded(42)
    async def coroutine(self, a: int) -> bytes:
        return b""

    @seeded(42)
    async def async_generator(self, a: int) -> AsyncIterator[str]:
        yield ""

    @classmethod
    @seeded(42)
    def class_method(cls, a: int) -> bytes:
        return b""

    @staticmethod
    @seeded(42)
    async def static_method(a: int) -> bytes:
        return b""

    @property
    @seeded(42)
    def value(self) -> bytes:
        return b""


async def methods(made: Methods) -> None:
    assert_type(made.method(1), bytes)
    assert_type(Methods.method(made, 1), bytes)
    assert_type(made.generator(1), Iterator[str])
    assert_type(await made.coroutine(1), bytes)
    assert_type(made.async_generator(1), AsyncIterator[str])
    assert_type(Methods.class_method(1), bytes)
    assert_type(made.class_method(1), bytes)
    assert_type(await Methods.static_method(1), bytes)
    assert_type(made.value, bytes)
    made.method("a")  # type: ignore[arg-type]
    Methods.class_method()  # type: ignore[call-arg]
    await made.static_method("a")  # type: ignore[arg-type]


@seeded(42)
class Case(unittest.TestCase):
    def test(self) -> None: ...


assert_type(Case().test(), None)


# With other decorators, and the other names that decorate ----------------------------------


@contextmanager
@seeded(42)
def block(a: int) -> Iterator[str]:
    yield ""


@asynccontextmanager
@seeded(42)
async def async_block(a: int) -> AsyncIterator[str]:
    yield ""


@functools.cache
@seeded(42)
def cached(a: int) -> bytes:
    return b""


stream = RNGStream(42, sources=["python"], independent=True)


@rng_scope(42)
def scoped(a: int) -> bytes:
    return b""


@stream
async def streamed(a: int) -> bytes:
    return b""


@assert_rng_unchanged()
def checked(a: int) -> Iterator[bytes]:
    yield b""


def work(a: int, *, b: str = "") -> bytes:
    return b""


@seeded(42, exclusive=True)
async def threads() -> None:
    assert_type(await to_thread(work, 1, b=""), bytes)
    assert_type(await to_thread(function, 1, "b"), bytes)
    await to_thread(work, "a")  # type: ignore[arg-type]
    await to_thread(work, 1, c="")  # type: ignore[call-arg]
    with rng_scope(42, exclusive=5), rng_scope(42, exclusive=0.5):
        pass
    RNGStream(42, exclusive=False)
    seeded(42, exclusive="yes")  # type: ignore[arg-type]


async def others() -> None:
    with block(1) as text:
        assert_type(text, str)
    async with async_block(1) as text:
        assert_type(text, str)
    assert_type(cached(1), bytes)
    assert_type(scoped(1), bytes)
    assert_type(await streamed(1), bytes)
    assert_type(checked(1), Iterator[bytes])
    decorated: Callable[[int], Awaitable[bytes]] = streamed
    await decorated(1)


# Blocks, states and seeds -----------------------------------------------------------------


def blocks() -> None:
    with rng_scope(42, sources=["torch"], devices=[0], independent=True) as scope:
        assert_type(scope, rng_scope)
        assert_type(scope.seed, int | None)
    with stream as same:
        assert_type(same, RNGStream)
        assert_type(same.seed, int)
    with rng_scope(RNGState.capture()), rng_scope(), assert_rng_unchanged(devices=[]):
        pass
    state = RNGState.capture(generators=[])
    assert_type(state, RNGState)
    assert_type(state == state, bool)
    assert_type(state.differs_from(state), list[str])
    assert_type(state.fingerprints(), dict[str, str])
    assert_type(state.fingerprint(), str)
    assert_type(state.state_dict(), dict[str, Any])
    assert_type(RNGState.from_state_dict({}), RNGState)
    state.restore(generators=[], strict=False)
    stream.load_state_dict(stream.state_dict())
    stream.reset()
    assert_type(derive_seed(42, "dropout", 1), int)
    assert_type(derive_seed(42, "dropout", bits=32), int)
    seed_all(42, sources=["numpy"], independent=True)


def copies() -> None:
    assert_type(copy.copy(rng_scope(42)), rng_scope)
    assert_type(copy.deepcopy(stream), RNGStream)
    assert_type(copy.copy(RNGState.capture()), RNGState)
    assert_type(copy.deepcopy(assert_rng_unchanged()), assert_rng_unchanged)


def data_sets() -> None:
    data = per_item([1, 2], 42, sources=["python"], devices=[], generators=[], epochs=False)
    data = per_item([1, 2], 42, generators=lambda data: [data])
    data.set_epoch(3)
    assert_type(data.epoch, int)
    assert_type(data.item_seed((3, 1)), int)
    assert_type(len(data), int)
    assert_type(data.state_dict(), dict[str, Any])
    data.load_state_dict(data.state_dict())
    numbered = views([1, 2])
    assert_type(iter(numbered), Iterator[Any])
    assert_type(len(numbered), int)
    seed_worker(0, rank=1, generators=lambda data: [data])
    init: Callable[[int], None] = functools.partial(seed_worker, generators=[])
    init(1)
    per_item([1, 2], "42")  # type: ignore[arg-type]
    per_item([1, 2], 42, generators=5)  # type: ignore[arg-type]
    views(5)  # type: ignore[arg-type]


def checkpoints() -> None:
    context_fn: Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
    context_fn = checkpoint_context_fn
    context_fn = functools.partial(checkpoint_context_fn, context_fn=context_fn, generators=[])
    forward, recomputation = context_fn()
    with forward, recomputation:
        pass
    checkpoint_context_fn(sources=5)  # type: ignore[arg-type]
    checkpoint_context_fn(context_fn=lambda: 5)  # type: ignore[arg-type, return-value]


def block_may_raise() -> int:
    # A scope swallows nothing: mypy knows that this line is always reached.
    with rng_scope(42):
        return 1


def refused() -> None:
    rng_scope("42")  # type: ignore[arg-type]
    rng_scope(1.5)  # type: ignore[arg-type]
    seeded(42, seed_from=5)  # type: ignore[arg-type]
    derive_seed(42, 1.5)  # type: ignore[arg-type]
    derive_seed(42, bits="32")  # type: ignore[arg-type]
    RNGStream(None)  # type: ignore[arg-type]


def refused_text() -> None:
    # A str is an iterable of str, and never what was meant.
    rng_scope(42, sources="torch")  # type: ignore[arg-type]
    rng_scope(42, devices="cuda:0")  # type: ignore[arg-type]
    rng_scope(42, generators="random")  # type: ignore[arg-type]
    seeded(42, sources="torch")  # type: ignore[arg-type]
    seeded(42, devices="cuda:0")  # type: ignore[arg-type]
    seed_all(42, sources="torch")  # type: ignore[arg-type]
    seed_all(42, devices="cuda:0")  # type: ignore[arg-type]
    RNGStream(42, sources="torch")  # type: ignore[arg-type]
    RNGStream(42, devices="cuda:0")  # type: ignore[arg-type]
    RNGState.capture(sources="torch")  # type: ignore[arg-type]
    RNGState.capture(devices="cuda:0")  # type: ignore[arg-type]
    assert_rng_unchanged(sources="torch")  # type: ignore[arg-type]
    assert_rng_unchanged(devices="cuda:0")  # type: ignore[arg-type]
    per_item([1], 42, sources="torch")  # type: ignore[arg-type]
    per_item([1], 42, devices="cuda:0")  # type: ignore[arg-type]
    assert_in_sync(sources="torch")  # type: ignore[arg-type]
    # Nor is a single one a list.
    rng_scope(42, sources=b"torch")  # type: ignore[arg-type]
    rng_scope(42, sources=[1])  # type: ignore[list-item]
    rng_scope(42, devices=0)  # type: ignore[arg-type]
    rng_scope(42, generators=random.Random(1))  # type: ignore[arg-type]


def everything_to_iterate_over_is_taken() -> None:
    names = {"python": 1, "torch": 2}
    rng_scope(42, sources=["torch"], devices=[0], generators=[random.Random(1)])
    rng_scope(42, sources=("python", "torch"), devices=(0, 1), generators=())
    rng_scope(42, sources={"torch"}, devices={0}, generators=None)
    rng_scope(42, sources=frozenset({"torch"}), devices=range(2))
    rng_scope(42, sources=names, devices={0: "a"})
    rng_scope(42, sources=names.keys(), devices=names.values(), generators=[])
    rng_scope(42, sources=(name for name in names), devices=(i for i in range(2)))
    rng_scope(42, sources=map(str, names), devices=iter([0]), generators=iter([]))
    rng_scope(42, sources=sorted(names), devices=None, generators=collections.deque())
    rng_scope(42, sources=None, devices=[torch.device("cuda")])


def blocks_without_a_call() -> None:
    with rng_scope:  # type: ignore[attr-defined]
        pass
    with seeded(42):  # type: ignore[attr-defined]
        pass
