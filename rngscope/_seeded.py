"""``seeded``: every call of a function in a scope of its own.

A body that suspends has a stream that is put aside at each suspension and taken up again
at each step (``_wrap_generator``). Nothing here knows an RNG library.
"""

from __future__ import annotations

import sys

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

    #: Makes the scope of one call: function, positional and keyword arguments.
    Make = Callable[[Any, tuple[Any, ...], dict[str, Any]], Scope]


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
    class, each method named ``test*`` is decorated, inherited ones included, and no other:
    ``setUp`` and fixtures run outside.

    Args:
        seed: as in ``rng_scope``.
        seed_from: called with the arguments of each call; returns the seed. What it raises,
            and a seed that is none, comes out of the call before anything is touched.
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

    new: Any = OpenScope

    def decorate_with_seed(function: Decorated) -> Decorated:
        if seed_from is None:
            return seeded_like(template, function)

        def make(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return new(*template.values_with(seed_from(*args, **kwargs)), function)

        return decorate(function, make)  # type: ignore[no-any-return]

    return decorate_with_seed


def seeded_like(template: rng_scope, function: Decorated) -> Decorated:
    """Decorate with the meaning of one scope, which itself stays unused."""
    new: Any = OpenScope
    values = template.values

    def make(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return new(*values, function)

    return decorate(function, make)  # type: ignore[no-any-return]


def decorate(function: Any, make: Make) -> Any:
    """Return what runs ``function`` in the scopes that ``make`` makes.

    Raises:
        TypeError: ``function`` cannot be decorated; it says what to do instead.
    """
    # Imported here, as below, because they cost more than the whole package.
    import functools

    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(decorate(function.__func__, make))
    if isinstance(function, functools.partialmethod):
        inner = decorate(function.func, make)
        return functools.partialmethod(inner, *function.args, **function.keywords)
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
    if getattr(function, "is_hypothesis_test", False) is True and hasattr(function, "hypothesis"):
        # A test under @given: each example runs in a scope of its own.
        function.hypothesis.inner_test = decorate(function.hypothesis.inner_test, make)
        return function
    wrap = _wrapper_for(function)
    return functools.update_wrapper(wrap(function, make), function)


def _wrapper_for(function: Any) -> Callable[[Any, Make], Any]:
    import functools
    import inspect

    while isinstance(function, functools.partial):
        function = function.func
    # Of an object with a __call__, that method says what kind of function it is.
    for kind in (function, type(function).__call__):
        if inspect.isasyncgenfunction(kind):
            return _wrap_async_generator
        if inspect.iscoroutinefunction(kind):
            return _wrap_coroutine
        if inspect.isgeneratorfunction(kind):
            is_awaitable = kind.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
            return _wrap_awaitable_generator if is_awaitable else _wrap_generator
    return _wrap_call


def _wrap_call(function: Any, make: Make) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with make(function, args, kwargs):
            return function(*args, **kwargs)

    return call


def _wrap_generator(function: Any, make: Make, goes_on: bool = False) -> Any:
    """Run a body step by step; its scope is open only while a step runs.

    All bodies that suspend run here: a coroutine answers to the same ``send`` and ``throw``
    as a generator. With ``goes_on`` the stream goes on in another body when this one returns.
    """
    # Kept here, since at the interpreter's end a module may be gone before a body is.
    is_finalizing = sys.is_finalizing

    def generate(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(function, args, kwargs)
        act: Any = None
        argument: Any = None
        while True:
            try:
                scope.take_up()
                if act is None:
                    body = function(*args, **kwargs)
                    del args, kwargs
                    act = body.send
                # What comes and goes gets no name here: it may end as soon as both sides
                # have dropped it.
                items, argument = [act(argument)], None
                scope.put_aside()
            except StopIteration as end:
                if goes_on:
                    scope.put_aside()
                else:
                    scope.leave(StopIteration)
                return end.value
            except BaseException as error:
                argument = None
                scope.leave(type(error))
                raise
            try:
                argument = yield items.pop()
                act = body.send
            except BaseException as error:
                # GeneratorExit too: a body may answer it with a value or another step.
                if is_finalizing():
                    # The libraries may be gone already, and nobody will draw any more.
                    raise
                act, argument = body.throw, error

    return generate


def _wrap_awaitable_generator(function: Any, make: Make, goes_on: bool = False) -> Any:
    import types

    return types.coroutine(_wrap_generator(function, make, goes_on))


def _wrap_coroutine(function: Any, make: Make) -> Any:
    steps = _wrap_awaitable_generator(function, make)

    async def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return await steps(*args, **kwargs)

    return run


def _wrap_async_generator(function: Any, make: Make) -> Any:
    # What runs from one yield to the next is a body of its own.
    part = _wrap_awaitable_generator(
        lambda scope, act, argument: act(argument),
        lambda function, args, kwargs: args[0],
        goes_on=True,
    )
    is_finalizing = sys.is_finalizing

    async def generate(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(function, args, kwargs)
        body = function(*args, **kwargs)
        del args, kwargs
        act, argument = _begin, [body]
        while True:
            try:
                items = [await part(scope, act, argument.pop())]
            except StopAsyncIteration:
                return
            try:
                act, argument = body.asend, [(yield items.pop())]
            except BaseException as error:
                if is_finalizing():
                    raise
                act, argument = body.athrow, [error]

    return generate


def _begin(body: Any) -> Any:
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


def _decorate_class(cls: type, make: Make) -> type:
    """Decorate the methods named ``test*``, as ``unittest.mock.patch`` does.

    Inherited ones are decorated for this class only.
    """
    import functools
    import inspect

    # Classes, fixtures and other objects with such a name are no methods.
    wrappers = (staticmethod, classmethod, functools.partialmethod)
    names = [name for name in dir(cls) if name.startswith("test")]
    tests = {name: inspect.getattr_static(cls, name) for name in names}
    tests = {
        name: test
        for name, test in tests.items()
        if (inspect.isroutine(test) or isinstance(test, wrappers))
        # From Python 3.14 it binds as a method does, and counts as a routine.
        and not isinstance(test, functools.partial)
        and not _is_fixture(test)
    }
    if not tests:
        raise TypeError(
            f"the class {cls.__qualname__} has no methods named test*; decorate the methods "
            f"that draw, __init__ for example"
        )
    for name, test in tests.items():
        is_shared = any(test is item for base in cls.__mro__[1:] for item in vars(base).values())
        if is_shared and hasattr(getattr(test, "__func__", test), "hypothesis"):
            raise TypeError(
                f"{cls.__qualname__}.{name} is a Hypothesis test of a base class, which must "
                f"not change; decorate the base class, or override the method and decorate it"
            )
    for name, test in tests.items():
        setattr(cls, name, decorate(test, make))
    return cls


def _is_fixture(function: Any) -> bool:
    pytest: Any = sys.modules.get("pytest")
    if pytest is None:
        return False
    # pytest 8.4 puts the function into an object of a type of its own; older ones mark it.
    fixture = pytest.fixture(lambda: None)
    return type(function) is type(fixture) and vars(fixture).keys() <= vars(function).keys()
