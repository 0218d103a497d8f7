"""``seeded``: every call of a function in a scope of its own."""

from __future__ import annotations

from rngscope._scope import life_of, life_with, rng_scope
from rngscope._seeds import short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, SupportsIndex, TypeVar

    from rngscope._life import Life
    from rngscope._plan import Listed
    from rngscope._state import RNGState

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class seeded:
    """Run every call of a function in a fresh ``rng_scope``.

    Generator, coroutine and async generator functions keep a stream of their own: it is
    suspended whenever the body is, and the caller has its own RNGs meanwhile. Of a
    function that only *returns* a generator or a coroutine, the call is the scope. Of a
    class, each method named ``test*`` is decorated, inherited ones included, and no other:
    ``setUp`` and fixtures run outside.

    Args:
        seed: as in ``rng_scope``.
        seed_from: called with the arguments of each call; returns the seed. What it raises,
            and a seed that is none, comes out of the call before anything is touched.
        sources, devices, generators, independent, deterministic: as in ``rng_scope``.
        exclusive: as in ``rng_scope``, for each call; for each step of a body that suspends.

    Raises:
        TypeError: ``@seeded`` without parentheses; both ``seed`` and ``seed_from``; an
            object that cannot be decorated, such as what ``@contextmanager`` has made: write
            that above.
        ValueError: as ``rng_scope``.

    Example:
        >>> import random
        >>> @seeded(42)
        ... def draw():
        ...     return random.random()
        >>> draw(), draw()
        (0.6394267984578837, 0.6394267984578837)
    """

    __slots__ = ("_template", "_seed_from", "_shown")

    def __init__(
        self,
        seed: SupportsIndex | RNGState | None = None,
        *,
        seed_from: Callable[..., SupportsIndex | RNGState | None] | None = None,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
        independent: bool = False,
        deterministic: bool = False,
        exclusive: bool | float = False,
    ) -> None:
        if callable(seed) or isinstance(seed, (staticmethod, classmethod)):
            raise TypeError(
                "@seeded needs parentheses: write @seeded(42), or @seeded() to preserve"
            )
        if seed_from is not None and (seed is not None or not callable(seed_from)):
            raise TypeError(
                f"give either seed or seed_from, which must be callable, not "
                f"seed={short_repr(seed)} and seed_from={short_repr(seed_from)}"
            )
        self._template = rng_scope(
            seed,
            sources=sources,
            devices=devices,
            generators=generators,
            independent=independent,
            deterministic=deterministic,
            exclusive=exclusive,
        )
        self._seed_from = seed_from
        #: The seed, as it is written.
        self._shown = "seed" if seed_from is not None else "" if seed is None else short_repr(seed)

    def __call__(self, function: Decorated) -> Decorated:
        """Decorate a function."""
        # Here because it imports inspect, which takes milliseconds.
        from rngscope._decorate import decorate

        template, seed_from = self._template, self._seed_from

        def make(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Life:
            if seed_from is None:
                return life_of(template, function)
            return life_with(template, seed_from(*args, **kwargs), function)

        return decorate(function, make)  # type: ignore[no-any-return]

    # A type checker refuses it as a context manager by itself.
    if not TYPE_CHECKING:

        def __enter__(self, *_: object) -> NoReturn:
            raise TypeError(
                f"seeded(...) decorates functions; for a block, write with "
                f"rng_scope({self._shown}):"
            )

        # Python looks for both before it calls one.
        __exit__ = __enter__

    def __repr__(self) -> str:
        return f"<seeded seed={self._shown or None}>"
