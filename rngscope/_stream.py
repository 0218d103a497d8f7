"""``RNGStream``: a scope that remembers where it stopped."""

from __future__ import annotations

from _thread import get_ident

from rngscope._open_scopes import OpenScope, lock, scopes
from rngscope._scope import rng_scope
from rngscope._seeds import check_seed
from rngscope._state import dump_sources, load_sources, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Self, SupportsIndex, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])


class RNGStream:
    """A scope that continues, each time it is entered, where it stopped the last time.

    Outside, the RNGs of the program are untouched. A stream that is entered while it is
    open, directly or through other scopes, goes on where it is, and the outer use goes on
    after the inner one. An exception keeps what was drawn.

    Args:
        seed: integer in ``[0, 2**64)``; for streams with names,
            ``derive_seed(42, "dropout")``.
        sources, devices, generators, independent, deterministic: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: as ``rng_scope``.

    Example:
        >>> import random
        >>> stream = RNGStream(42)
        >>> with stream:
        ...     random.random()
        0.6394267984578837
        >>> with stream:
        ...     random.random()
        0.025010755222666936
    """

    __slots__ = ("_template", "_position", "_loaded", "_open")

    def __init__(
        self,
        seed: SupportsIndex,
        *,
        sources: Iterable[str] | None = None,
        devices: Iterable[Any] | None = None,
        generators: Iterable[Any] = (),
        independent: bool = False,
        deterministic: bool = False,
    ) -> None:
        self._template = rng_scope(
            check_seed(seed),
            sources=sources,
            devices=devices,
            generators=generators,
            independent=independent,
            deterministic=deterministic,
        )
        #: Identity of a source -> where the stream stopped in it.
        self._position: dict[Any, Any] = {}
        #: Source name -> state that was loaded, for sources that have not gone on from it.
        self._loaded: dict[str, Any] = {}
        #: The uses of this stream that are open, in the order of their entry.
        self._open: list[_Use] = []

    @property
    def seed(self) -> int:
        """The seed that the stream began with."""
        assert self._template.seed is not None
        return self._template.seed

    def __enter__(self) -> Self:
        _Use(self).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with lock:
            # The innermost use, unless other threads have entered the stream as well.
            use = _latest(self._open)
        use.leave(*error)

    __enter__._torchdynamo_disable = True  # type: ignore[attr-defined]
    __exit__._torchdynamo_disable = True  # type: ignore[attr-defined]

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call goes on with the stream."""
        from rngscope._seeded import decorate

        return decorate(function, lambda args, kwargs: _Use(self))  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Begin again with the seed at the next entry.

        Raises:
            RuntimeError: the stream is open.
        """
        with lock:
            self._refuse_open("reset")
            self._position, self._loaded = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return seed and states in plain form, as ``RNGState.state_dict`` does.

        Of a source that the stream has not met yet the seed is enough.
        """
        with lock:
            position = self._open[-1].stands() if self._open else self._position
            states = {**self._loaded}
            for source in self._template.sources:
                state = source.portable(position.get(source.identity))
                if state is not None:
                    states[source.name] = state
        return seal(
            "RNGStream",
            {
                "seed": str(self.seed),
                "independent": self._template.independent,
                "states": dump_sources(states, self._template.sources),
            },
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, at the next entry, where the stream that wrote ``state_dict`` stopped.

        Args:
            state_dict: what ``state_dict()`` returned for a stream of the same options.

        Raises:
            ValueError: naming what does not fit; the stream is unchanged.
            RuntimeError: the stream is open.
        """
        fields = unseal(state_dict, "RNGStream", {"seed", "independent", "states"})
        text = fields["seed"]
        if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20):
            raise ValueError(f"seed must be an integer in decimal digits, not {text!r}")
        seed = check_seed(int(text))
        if type(fields["independent"]) is not bool:
            raise ValueError(f"independent must be True or False, not {fields['independent']!r}")
        if fields["independent"] is not self._template.independent:
            raise ValueError(
                f"the state_dict is of a stream with independent={fields['independent']}, this "
                f"one has independent={self._template.independent}"
            )
        states = load_sources(fields["states"], self._template.sources, "states")
        with lock:
            self._refuse_open("load into")
            self._template.seed = seed
            self._position, self._loaded = {}, states

    def _refuse_open(self, verb: str) -> None:
        if self._open:
            raise RuntimeError(f"cannot {verb} a stream while it is open: leave its blocks first")

    def __repr__(self) -> str:
        return f"<RNGStream seed={self.seed}>"


class _Use(OpenScope):
    """One use of a stream, from where it stands to where it stops."""

    __slots__ = ("stream",)

    def __init__(self, stream: RNGStream) -> None:
        super().__init__(*stream._template.values)
        self.stream = stream

    def __enter__(self) -> Self:
        stream = self.stream
        with lock:
            outer = stream._open[-1] if stream._open else None
            if outer is not None:
                # From here on its place in the pile holds what it found, until we leave.
                stream._position.update(outer.swap(outer.found()))
            self.seed, self.replayed = stream._template.seed, stream._loaded
            self.start = dict(stream._position)
            try:
                super().__enter__()
                stream._open.append(self)
            except BaseException:
                if outer is not None:
                    outer.swap(stream._position)
                raise
        return self

    def leave(self, *error: Any) -> None:
        with lock:
            if self.saved is None:
                self.position = None
                return
            crossed = None if scopes[-1] is self else self._first_crossed()
            self.put_aside()
            self.position = None
        if crossed is not None:
            self._warn_of_order(crossed)

    __exit__ = leave

    def take_up(self) -> None:
        self.position = None
        inner, self.inner = self.inner, ()
        self.__enter__()
        for scope in inner:
            if scope.position is not None:
                scope.take_up()

    def put_aside(self) -> None:
        with lock:
            stream = self.stream
            try:
                super().put_aside()
            finally:
                is_latest = stream._open[-1:] == [self]
                if self in stream._open:
                    stream._open.remove(self)
            if not is_latest:
                # The stream stands where a later use of it stands.
                return
            stream._position.update(self.position or {})
            if stream._open:
                stream._open[-1].swap(stream._position)

    def found(self) -> dict[Any, Any]:
        """Return what was found at entry."""
        return {s.identity: state for s, state in zip(self.covered, self.saved or ())}

    def swap(self, states: dict[Any, Any]) -> dict[Any, Any]:
        """Set where the stream stands in the pile, and return where it stood."""
        return {
            source.identity: self.exchange(source, states[source.identity])
            for source in self.covered
            if source.identity in states
        }

    def stands(self) -> dict[Any, Any]:
        """Return where the stream stands."""
        stands = self.swap(self.found())
        self.swap(stands)
        return stands


def _latest(uses: list[_Use]) -> _Use:
    me = get_ident()
    for use in reversed(uses):
        if use.thread == me:
            return use
    if not uses:
        raise RuntimeError("cannot leave a stream that is not open")
    return uses[-1]
