"""``seeded``: every call of a function in a scope of its own.

A body that suspends has a stream that is put aside at each suspension and taken up again
at each step (``_Steps``). Nothing here knows an RNG library.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types

from rngscope._open_scopes import OpenScope
from rngscope._scope import rng_scope
from rngscope._state import RNGState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol, SupportsIndex, TypeVar

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])

    class Scope(Protocol):
        """What a step runs in."""

        def __enter__(self) -> Any: ...

        def leave(self, *error: Any) -> None: ...

        def __exit__(self, *error: Any) -> None: ...

        def take_up(self) -> None: ...

        def put_aside(self) -> None: ...

    #: Makes the scope of one call from its positional and keyword arguments.
    Make = Callable[[tuple[Any, ...], dict[str, Any]], Scope]


def seeded(
    seed: SupportsIndex | RNGState | None = None,
    *,
    seed_from: Callable[..., SupportsIndex | RNGState | None] | None = None,
    sources: Iterable[str] | None = None,
    devices: Iterable[Any] | None = None,
    generators: Iterable[Any] = (),
    independent: bool = False,
    deterministic: bool = False,
) -> Callable[[Decorated], Decorated]:
    """Run every call of a function in a fresh ``rng_scope``.

    Generator, coroutine and async generator functions keep a stream of their own: it is
    put aside whenever the body suspends, and the caller has its own RNGs meanwhile. Of a
    function that only *returns* a generator or a coroutine, the call is the scope. Of a
    class, each method named ``test*`` is decorated, inherited ones included.

    Args:
        seed: as in ``rng_scope``.
        seed_from: called with the arguments of each call; returns the seed.
        sources, devices, generators, independent, deterministic: as in ``rng_scope``.

    Raises:
        TypeError: ``@seeded`` without parentheses; both ``seed`` and ``seed_from``; an
            object that cannot be decorated.
        ValueError: as ``rng_scope``.

    Example:
        >>> import random
        >>> @seeded(42)
        ... def draw():
        ...     return random.random()
        >>> draw(), draw()
        (0.6394267984578837, 0.6394267984578837)
    """
    if callable(seed) or isinstance(seed, (staticmethod, classmethod)):
        raise TypeError("@seeded needs parentheses: write @seeded(42), or @seeded() to preserve")
    if seed_from is not None and (seed is not None or not callable(seed_from)):
        raise TypeError(
            f"give either seed or seed_from, which must be callable, not seed={seed!r} and "
            f"seed_from={seed_from!r}"
        )
    template = rng_scope(
        seed,
        sources=sources,
        devices=devices,
        generators=generators,
        independent=independent,
        deterministic=deterministic,
    )

    def decorate_with_seed(function: Decorated) -> Decorated:
        if seed_from is None:
            return seeded_like(template, function)

        def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenScope:
            return OpenScope(*template.values_with(seed_from(*args, **kwargs)))

        return decorate(function, make)  # type: ignore[no-any-return]

    return decorate_with_seed


def seeded_like(template: rng_scope, function: Decorated) -> Decorated:
    """Decorate with the meaning of one scope, which itself stays unused."""
    new, values = OpenScope, template.values

    def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenScope:
        return new(*values)

    return decorate(function, make)  # type: ignore[no-any-return]


def decorate(function: Any, make: Make) -> Any:
    """Return what runs ``function`` in the scopes that ``make`` makes.

    Raises:
        TypeError: ``function`` cannot be decorated; it says what to do instead.
    """
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(decorate(function.__func__, make))
    if isinstance(function, type):
        return _decorate_class(function, make)
    if _is_fixture(function):
        raise TypeError(
            "a fixture cannot be decorated: write @pytest.fixture above @seeded(...), so that "
            "the function is decorated before it becomes a fixture"
        )
    if not callable(function):
        raise TypeError(
            f"only functions, methods and test classes can be decorated, not "
            f"{type(function).__name__}: {function!r:.60}"
        )
    hypothesis: Any = getattr(function, "hypothesis", None)
    if hasattr(hypothesis, "inner_test"):
        # A test under @given: each example runs in a scope of its own.
        hypothesis.inner_test = decorate(hypothesis.inner_test, make)
        return function
    # Of an object with a __call__, that method says what kind of function it is.
    is_object = not isinstance(function, functools.partial) and not inspect.isroutine(function)
    wrap = _wrapper_for(type(function).__call__ if is_object else function)
    return functools.update_wrapper(wrap(function, make), function)


def _wrapper_for(function: Any) -> Callable[[Any, Make], Any]:
    if inspect.isasyncgenfunction(function):
        return _wrap_async_generator
    if inspect.iscoroutinefunction(function):
        return _wrap_coroutine
    if inspect.isgeneratorfunction(function):
        code = getattr(function, "__code__", None)
        is_awaitable = code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE
        return _wrap_awaitable_generator if is_awaitable else _wrap_generator
    return _wrap_call


def _wrap_call(function: Any, make: Make) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with make(args, kwargs):
            return function(*args, **kwargs)

    return call


def _wrap_generator(function: Any, make: Make) -> Any:
    def generate(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(args, kwargs)
        return (yield from _Steps(function(*args, **kwargs), scope))

    return generate


def _wrap_awaitable_generator(function: Any, make: Make) -> Any:
    return types.coroutine(_wrap_generator(function, make))


def _wrap_coroutine(function: Any, make: Make) -> Any:
    async def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(args, kwargs)
        return await _Steps(function(*args, **kwargs), scope)

    return run


def _wrap_async_generator(function: Any, make: Make) -> Any:
    async def generate(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(args, kwargs)
        body = function(*args, **kwargs)
        step = _first_step(body)
        while True:
            try:
                value = await _Steps(step, scope, goes_on=True)
            except StopAsyncIteration:
                return
            try:
                sent = yield value
            except GeneratorExit:
                await _Steps(body.aclose(), scope)
                raise
            except BaseException as error:
                step = body.athrow(error)
            else:
                step = body.asend(sent)

    return generate


def _first_step(body: Any) -> Any:
    """Begin an async generator that the event loop does not hear of.

    The loop closes those that it knows. It knows the one around the body, which closes the
    body; to close both at once is an error.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return body.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


class _Steps:
    """Runs a body step by step; its scope is open only while a step runs.

    ``yield from`` and ``await`` hand every ``send``, ``throw`` and ``close`` on to it.
    """

    __slots__ = ("_body", "_scope", "_goes_on")

    def __init__(self, body: Any, scope: Scope, goes_on: bool = False) -> None:
        self._body = body
        self._scope = scope
        #: Whether the stream goes on in another body when this one returns.
        self._goes_on = goes_on

    def __iter__(self) -> _Steps:
        return self

    __await__ = __iter__

    def __next__(self) -> Any:
        return self._step(self._body.send, None)

    def send(self, value: Any) -> Any:
        return self._step(self._body.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._body.throw, *error)

    def _step(self, act: Callable[..., Any], *arguments: Any) -> Any:
        __tracebackhide__ = True
        scope = self._scope
        try:
            scope.take_up()
            result = act(*arguments)
        except StopIteration as end:
            if self._goes_on:
                scope.put_aside()
            else:
                scope.leave(type(end))
            raise
        except BaseException as error:
            scope.leave(type(error))
            raise
        scope.put_aside()
        return result

    def close(self) -> None:
        if sys.is_finalizing():
            # The libraries may be gone already, and nobody will draw any more.
            self._body.close()
            return
        scope = self._scope
        try:
            scope.take_up()
            self._body.close()
        finally:
            scope.leave()


def _decorate_class(cls: type, make: Make) -> type:
    """Decorate the methods named ``test*``, as ``unittest.mock.patch`` does.

    Inherited ones are decorated for this class only.
    """
    names = [name for name in dir(cls) if name.startswith("test")]
    tests = {name: inspect.getattr_static(cls, name) for name in names}
    tests = {
        name: test
        for name, test in tests.items()
        if (callable(test) and not isinstance(test, type))
        or isinstance(test, (staticmethod, classmethod))
    }
    if not tests:
        raise TypeError(
            f"the class {cls.__qualname__} has no methods named test*; decorate the methods "
            f"that draw, __init__ for example"
        )
    for name, test in tests.items():
        is_shared = any(test is item for base in cls.__mro__[1:] for item in vars(base).values())
        if is_shared and hasattr(test, "hypothesis"):
            raise TypeError(
                f"{cls.__qualname__}.{name} is a Hypothesis test of a base class, which must "
                f"not change; decorate the base class, or override the method and decorate it"
            )
    for name, test in tests.items():
        setattr(cls, name, decorate(test, make))
    return cls


def _is_fixture(function: Any) -> bool:
    # pytest 8.4 wraps the function in an object of this type; older ones mark it.
    return (
        type(function).__name__ == "FixtureFunctionDefinition"
        or getattr(function, "_pytestfixturefunction", None) is not None
    )
