"""Bodies that suspend: generators, coroutines, async generators.

Each has a scope that is open only while a step runs: it is suspended and resumed with the body.
"""

from __future__ import annotations

import sys
import types

from rngscope import _threads, _turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Protocol

    class Scope(Protocol):
        """What a step runs in."""

        def __enter__(self) -> Any: ...

        def leave(self, *error: Any) -> None: ...

        def __exit__(self, *error: Any) -> None: ...

        def resume(self) -> None: ...

        def suspend(self) -> None: ...

    #: Makes the scope of one call: function, positional and keyword arguments.
    Make = Callable[[Any, tuple[Any, ...], dict[str, Any]], Scope]


# A coroutine answers to the same ``send`` and ``throw`` as a generator. Where ``is_begun`` is
# given, the stream goes on in another body when this one returns; it tells by the arguments whether
# there was one before. With ``waits``, a step may wait for its turn in the event loop.
#
# What comes and goes gets no name: it may end as soon as both sides have dropped it. A body is told
# of GeneratorExit too, which it may answer with a value or another step; but not at the end of the
# interpreter, where libraries may be gone already, and this module too: hence a name of its own
# for ``is_finalizing``.
def wrap_generator(function: Any, make: Make, is_begun: Any = None, waits: bool = False) -> Any:
    is_finalizing = sys.is_finalizing

    def generate(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        scope = make(function, args, kwargs)
        act: Any = None
        argument = body = turn = act
        while True:
            if waits and _turns.looks_closely:
                turn, act, argument, args = yield from _wait_for_turn(
                    scope, body, act, argument, args, is_begun
                )
            try:
                scope.resume()
                turn = turn and turn.drop()
                if act is None:
                    body, args, kwargs = function(*args, **kwargs), (), {}
                    act = body.send
                items, argument = [act(argument)], None
                scope.suspend()
                if _threads.offers:
                    _threads.lend(items[0], scope)
            except StopIteration as end:
                scope.leave(StopIteration) if is_begun is None else scope.suspend()
                return end.value
            except BaseException as error:
                argument, turn = None, turn and turn.drop()
                # Not type(error): after a call CPython would look for signals, outside of any try.
                scope.leave(error.__class__)
                raise
            try:
                act, argument = body.send, (yield items.pop())
            except BaseException as error:
                if is_finalizing():
                    raise
                act, argument = body.throw, error

    return generate


def _wait_for_turn(
    scope: Scope, body: Any, act: Any, argument: Any, args: tuple[Any, ...], is_begun: Any
) -> Generator[Any, Any, tuple[Any, Any, Any, tuple[Any, ...]]]:
    """Wait for a body's turn; return that, and what to do then: act, argument, arguments."""
    is_new = act is None and (is_begun is None or not is_begun(*args))
    turn = yield from _threads.wait_in_task(scope, argument, is_new)
    if turn.late is None:
        return turn, act, argument, args
    if act is not None:
        return turn, body.throw, turn.late, args
    # An async generator that has begun goes on by raising it.
    return turn, act, argument, (scope, args[1], args[1].athrow, turn.late)


def wrap_awaitable_generator(function: Any, make: Make, is_begun: Any = None) -> Any:
    return types.coroutine(wrap_generator(function, make, is_begun, waits=True))


def wrap_coroutine(function: Any, make: Make) -> Any:
    steps = wrap_awaitable_generator(function, make)

    async def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return await steps(*args, **kwargs)

    return run


def wrap_async_generator(function: Any, make: Make) -> Any:
    # What runs from one yield to the next is a body of its own.
    part = wrap_awaitable_generator(
        lambda scope, body, act, argument: act(argument),
        lambda function, args, kwargs: args[0],
        lambda scope, body, act, argument: act is not _begin,
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
                items = [await part(scope, body, act, argument.pop())]
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
