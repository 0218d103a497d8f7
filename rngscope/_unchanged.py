"""``assert_rng_unchanged``: check that a block moves no global RNG."""

from __future__ import annotations

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses
from rngscope._plan import choose
from rngscope._state import RNGState, capture_from, values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn, Self, TypeVar

    from rngscope._plan import Listed
    from rngscope.sources.cell import Source

    Function = TypeVar("Function", bound=Callable[..., Any])


class assert_rng_unchanged(metaclass=NeedsParentheses):
    """Check that a block leaves every global RNG as it was; also a decorator.

    Sources that are there only at one end (torch imported, CUDA started meanwhile) are no
    change.

    Nothing is checked when the block raises.

    Args:
        sources, devices: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: an argument is wrong.
        AssertionError: at exit, naming the sources that moved.
        RuntimeError: a CUDA graph is being captured.

    Example:
        >>> import random
        >>> with assert_rng_unchanged():
        ...     with rng_scope(42):
        ...         number = random.random()
    """

    __slots__ = ("_sources", "_before")
    _as_block = "assert_rng_unchanged()"

    def __init__(
        self,
        *wrong: NoReturn,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
    ) -> None:
        if wrong:
            raise TypeError(
                "assert_rng_unchanged needs parentheses as a decorator: write "
                "@assert_rng_unchanged(); sources and devices are given by name"
            )
        self._sources = choose(sources, devices)
        self._before: list[RNGState] = []

    def __getstate__(self) -> tuple[dict[str, Any], tuple[Source, ...]]:
        if self._before:
            raise RuntimeError(
                "cannot copy or pickle an assert_rng_unchanged while it is open: leave its block "
                "first, or make another one"
            )
        return added_attributes(self, assert_rng_unchanged.__slots__), self._sources

    def __setstate__(self, state: tuple[dict[str, Any], tuple[Source, ...]]) -> None:
        attributes, self._sources = state
        self._before = []
        add_attributes(self, attributes)

    def __enter__(self) -> Self:
        self._before.append(self._capture())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        before = self._before.pop()
        if error is None:
            self._compare(before)

    def _capture(self) -> RNGState:
        return capture_from(self._sources)

    def _compare(self, before: RNGState) -> None:
        after = self._capture()
        both = values_of(before).keys() & values_of(after).keys()
        moved = [name for name in before.differs_from(after) if name in both]
        if moved:
            raise AssertionError(
                f"the block moved the global RNG of {', '.join(map(repr, moved))}; wrap it in "
                f"rng_scope(), or give its draws a generator of their own"
            )

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call is checked."""
        # Here because it imports inspect, which takes milliseconds.
        from rngscope._decorate import decorate

        return decorate(function, lambda *call: _Check(self))  # type: ignore[no-any-return]


class _Check:
    """The check of one call; of a body that suspends, of each of its steps."""

    __slots__ = ("_check", "_before")

    def __init__(self, check: assert_rng_unchanged) -> None:
        self._check = check

    def resume(self) -> None:
        self._before = self._check._capture()

    __enter__ = resume

    def suspend(self) -> None:
        self._check._compare(self._before)

    def leave(self, kind: type[BaseException] | None = None, *_: object) -> None:
        # A body that ends says so with one of these.
        if kind is None or kind in (StopIteration, StopAsyncIteration):
            self._check._compare(self._before)

    __exit__ = leave
