"""Decorating functions and test classes, so that every call has a scope of its own.

Imported with the first decorated function, since inspect takes milliseconds to import.
It knows no scope, only what makes one.
"""

from __future__ import annotations

import functools
import inspect
import sys

from rngscope._bodies import (
    wrap_async_generator,
    wrap_awaitable_generator,
    wrap_coroutine,
    wrap_generator,
)
from rngscope._seeds import short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rngscope._bodies import Make


def decorate(function: Any, make: Make) -> Any:
    """Return what runs ``function`` in the scopes that ``make`` makes.

    Raises:
        TypeError: ``function`` cannot be decorated; it says what to do instead.
    """
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
    if _makes_context_manager(function):
        raise TypeError(
            "a function that @contextmanager has made cannot be decorated, since its block would "
            "run outside: write @contextmanager above @seeded(...), so that the generator function "
            "is decorated"
        )
    if not callable(function):
        raise TypeError(
            f"only functions, methods and test classes can be decorated, not "
            f"{type(function).__name__}: {short_repr(function)}"
        )
    if getattr(function, "is_hypothesis_test", False) is True and hasattr(function, "hypothesis"):
        # A test under @given: each example runs in a scope of its own.
        function.hypothesis.inner_test = decorate(function.hypothesis.inner_test, make)
        return function
    wrap = _wrapper_for(function)
    return functools.update_wrapper(wrap(function, make), function)


def _wrapper_for(function: Any) -> Callable[[Any, Make], Any]:
    while isinstance(function, functools.partial):
        function = function.func
    # Of an object with a __call__, that method says what kind of function it is.
    for kind in (function, type(function).__call__):
        if inspect.isasyncgenfunction(kind):
            return wrap_async_generator
        if inspect.iscoroutinefunction(kind):
            return wrap_coroutine
        if inspect.isgeneratorfunction(kind):
            is_awaitable = kind.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
            return wrap_awaitable_generator if is_awaitable else wrap_generator
    return _wrap_call


def _wrap_call(function: Any, make: Make) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with make(function, args, kwargs):
            return function(*args, **kwargs)

    return call


def _decorate_class(cls: type, make: Make) -> type:
    """Decorate the methods named ``test*``, as ``unittest.mock.patch`` does.

    Inherited ones are decorated for this class only.
    """
    # Classes, fixtures and other objects with such a name are no tests for pytest either, and
    # what @contextmanager has made is none for anybody.
    wrappers = (staticmethod, classmethod, functools.partialmethod)
    names = [name for name in dir(cls) if name.startswith("test")]
    tests = {name: inspect.getattr_static(cls, name) for name in names}
    tests = {
        name: test
        for name, test in tests.items()
        if (inspect.isroutine(test) or isinstance(test, wrappers))
        # From Python 3.14 it binds as a method does, and counts as a routine.
        and not isinstance(test, functools.partial)
        and not (_is_fixture(test) or _makes_context_manager(test))
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


def _makes_context_manager(function: Any) -> bool:
    """Tell whether ``contextmanager`` or ``asynccontextmanager`` has made this function.

    Calling it only makes the context manager; its block runs afterwards.
    """
    while isinstance(function, (functools.partial, functools.partialmethod)):
        function = function.func
    function = getattr(function, "__func__", function)
    # Not __wrapped__ alone: any wrapper of a generator function has that. contextlib's own has
    # always had this name, as have the backports of it.
    code = getattr(function, "__code__", None)
    return hasattr(function, "__wrapped__") and getattr(code, "co_qualname", "") in (
        "contextmanager.<locals>.helper",
        "asynccontextmanager.<locals>.helper",
    )
