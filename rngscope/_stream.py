"""``RNGStream``: a scope that remembers where it stopped."""

from __future__ import annotations

import sys
from _thread import get_ident

from rngscope import _turns
from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses, find_frame, raise_together, warn_caller
from rngscope._interrupts import no_signal_at_start
from rngscope._not_covered import warn_at_end
from rngscope._open_scopes import (
    OpenScope,
    keep_out_of_graphs,
    leave_deferred,
    lock,
    scopes,
    task_name,
)
from rngscope._scope import rng_scope
from rngscope._seeds import check_seed, short_repr
from rngscope._sources.torch_accelerator import AcceleratorSource
from rngscope._state import dump_sources, load_sources, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, FrameType
    from typing import Any, Self, SupportsIndex, TypeVar

    from rngscope._sources import Listed

    Function = TypeVar("Function", bound=Callable[..., Any])

    #: Where a stream stands: its position, what was loaded, and its uses that are open.
    Place = tuple[dict[Any, Any], dict[str, Any], Sequence[Any]]

#: What wants to know where a stream stands whenever one is entered: checkpointed functions
#: that run, see ``_checkpoint``.
recordings: list[Any] = []


def move_to(stream: RNGStream, place: Place) -> Place:
    """Have a stream stand elsewhere, and return where it stood."""
    with lock:
        before = stream._position, stream._loaded, stream._open
        stream._position, stream._loaded, stream._open = dict(place[0]), place[1], list(place[2])
    return before


class RNGStream(metaclass=NeedsParentheses):
    """A scope that continues, each time it is entered, where it stopped the last time.

    Outside, the RNGs of the program are untouched. A stream that is entered while it is
    open, directly or through other scopes, goes on where it is, and the outer use goes on
    after the inner one. An exception keeps what was drawn.

    A stream has the verbs of torch's ``Stateful``. In a ``torch.distributed.checkpoint`` of
    several ranks, wrap it in ``rngscope.distributed.PerRank``.

    A copy, here or in another process, stands at the same place and is independent from then on;
    a deep or pickled one has copies of the ``generators``. A stream that is open, or suspended
    with the body that entered it, refuses to be copied with a ``RuntimeError``.

    Args:
        seed: integer in ``[0, 2**64)``; for streams with names,
            ``derive_seed(42, "dropout")``.
        sources, devices, generators, independent, deterministic, exclusive: as in
            ``rng_scope``.

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

    __slots__ = ("_template", "_position", "_loaded", "_open", "_suspended")
    _as_block = "RNGStream(42)"

    def __init__(
        self,
        seed: SupportsIndex,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
        independent: bool = False,
        deterministic: bool = False,
        exclusive: bool | float = False,
    ) -> None:
        self._template = rng_scope(
            check_seed(seed),
            sources=sources,
            devices=devices,
            generators=generators,
            independent=independent,
            deterministic=deterministic,
            exclusive=exclusive,
        )
        #: Identity of a source -> where the stream stopped in it.
        self._position: dict[Any, Any] = {}
        #: Source name -> state that was loaded, for sources that have not gone on from it.
        self._loaded: dict[str, Any] = {}
        #: The uses of this stream that are open, in the order of their entry.
        self._open: list[_Use] = []
        #: Those that are put aside with the bodies they belong to.
        self._suspended: set[_Use] = set()

    @property
    def seed(self) -> int:
        """The seed that the stream began with."""
        assert self._template.seed is not None
        return self._template.seed

    def __enter__(self) -> Self:
        use = _Use(self)
        try:
            use.__enter__(find_frame(1))
            return self
        except BaseException as error:
            use._stop_after(error)
            raise

    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        use = None
        try:
            use = self._use_of(find_frame(1).f_code)
            use.leave()
        except BaseException:
            if use is None and sys.is_finalizing():
                # A body that is still suspended at the end of the program.
                return
            # An interrupt may have come before it was known which use ends, or before that
            # use began to.
            if use is None and self._latest() is not None:
                use = self._use_of(find_frame(1).f_code)
            if use is not None and use.saved is not None:
                use.leave()
            raise

    no_signal_at_start(__exit__)
    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(__exit__)

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call goes on with the stream."""
        from rngscope._seeded import decorate

        made: Function = decorate(function, lambda function, *_: _Use(self, function))
        return made

    def reset(self) -> None:
        """Begin again at the next entry: with the seed, which a loaded state brings along.

        Raises:
            RuntimeError: the stream is open.
        """
        with lock:
            self._refuse_open("reset")
            self._position, self._loaded = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return seed and states in plain form, as ``RNGState.state_dict`` does.

        Of a source that the stream has not met yet the seed is enough.

        Raises:
            TypeError: a NumPy bit generator that is not NumPy's own.

        Warns:
            RuntimeWarning: a body has queued seeds or states of its own for an accelerator that
                has not started; these cannot be written.
        """
        with lock:
            use = self._latest()
            position = self._position if use is None else {**self._position, **use.stands()}
            place = _Place(self, position)
        return place.written()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, at the next entry, where the stream that wrote ``state_dict`` stopped.

        Its seed replaces the one of this stream, for ``reset()`` too. States of other library
        versions load with a ``RuntimeWarning``.

        Args:
            state_dict: what ``state_dict()`` returned for a stream of the same options.

        Raises:
            ValueError: naming what does not fit, the number of devices for one; the stream
                is unchanged.
            RuntimeError: the stream is open.
        """
        fields = unseal(state_dict, "RNGStream", {"seed", "independent", "states"})
        text = fields["seed"]
        if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20):
            raise ValueError(f"seed must be an integer in decimal digits, not {short_repr(text)}")
        seed = check_seed(int(text))
        if type(fields["independent"]) is not bool:
            raise ValueError(
                f"independent must be True or False, not {short_repr(fields['independent'])}"
            )
        if fields["independent"] is not self._template.independent:
            raise ValueError(
                f"the state_dict is of a stream with independent={fields['independent']}, this "
                f"one has independent={self._template.independent}"
            )
        sources = self._template.sources
        states = load_sources(fields["states"], sources, "states")
        with lock:
            self._refuse_open("load into")
            for source in sources:
                if source.name in states:
                    source.check(states[source.name])
                    _check_devices(source, states[source.name])
            self._template.seed = seed
            self._position, self._loaded = {}, states

    def __getstate__(self) -> tuple[dict[str, Any], rng_scope, _Place]:
        from copy import copy

        with lock:
            self._refuse_open("copy or pickle")
            if self._suspended:
                raise RuntimeError(
                    "cannot copy or pickle a stream while a body that runs in it is suspended: "
                    "let the body end first, or close it"
                )
            place = _Place(self, self._position)
        return added_attributes(self, RNGStream.__slots__), copy(self._template), place

    def __setstate__(
        self, state: tuple[dict[str, Any], rng_scope, _Place | dict[str, Any]]
    ) -> None:
        attributes, self._template, place = state
        self._position, self._open, self._suspended = {}, [], set()
        if isinstance(place, _Place):
            self._loaded, self._position = place.states, place.duplicate_rest()
        else:
            RNGStream.load_state_dict(self, place)
        add_attributes(self, attributes)

    def _refuse_open(self, verb: str) -> None:
        if self._latest() is not None:
            raise RuntimeError(f"cannot {verb} a stream while it is open: leave its blocks first")

    def _latest(self, below: _Use | None = None) -> _Use | None:
        """Return the latest use that is open, or the latest but one."""
        if not self._open:
            return None
        for use in reversed(self._open):
            # A forked child has forgotten the uses of other threads: they are not open.
            if use is not below and use.saved is not None:
                return use
        return None

    def _use_of(self, code: CodeType) -> _Use:
        """Return the use that ends when this code leaves a block."""
        me = get_ident()
        with lock:
            if len(self._open) == 1 and self._open[0].saved is not None:
                return self._open[0]
            uses = [use for use in reversed(self._open) if use.saved is not None]
        mine = [use for use in uses if use.thread == me]
        # A block is left by the code that entered it, an ExitStack's by another.
        for use in [use for use in mine if use.code is code] or mine or uses:
            return use
        raise RuntimeError("cannot leave a stream that is not open")

    def __repr__(self) -> str:
        return f"<RNGStream seed={self.seed}>"


class _Use(OpenScope):
    """One use of a stream, from where it stands to where it stops."""

    __slots__ = ("stream",)

    def __init__(self, stream: RNGStream, function: Any = None) -> None:
        template = stream._template
        OpenScope.__init__(self, template.sources, None, template.independent)
        self.exclusive = template.exclusive
        self.begins_anyhow = template.begins_anyhow
        self.function = function
        self.code: Any = None
        self.stream = stream

    def __enter__(self, caller: FrameType | None = None) -> Self:
        """Go on where the stream stands; where an outer use of it stands, if there is one."""
        stream = self.stream
        first: Any
        try:
            # In here, as in OpenScope.__enter__: for CPython 3.11.
            first = None
            while True:
                if first is not None:
                    first.wait()
                with lock:
                    if caller is not None:
                        self.code, self.instruction = caller.f_code, caller.f_lasti
                    me = self.thread = get_ident()
                    if scopes and scopes[-1].thread != me or _turns.looks_closely:
                        # Before it is asked where the stream stands, and before anything of
                        # it changes.
                        self.task = task_name()
                        needed = _turns.needed_before(self, first)
                        if needed is not None:
                            first = needed
                            continue
                    stream._suspended.discard(self)
                    position = stream._position
                    outer = stream._latest()
                    if outer is not None:
                        position.update(outer.stands())
                    for recording in recordings:
                        place = dict(position), stream._loaded, ()
                        recording.note(stream, place, outer is not None)
                    self.seed, self.replayed = stream._template.seed, stream._loaded
                    self.start = position if position or stream._loaded else None
                    OpenScope.__enter__(self)
                    if caller is not None:
                        self.code, self.instruction = caller.f_code, caller.f_lasti
                    stream._open.append(self)
                break
            if first is not None:
                first.drop()
            leave_deferred()
        except BaseException as error:
            self._stop_after(error)
            raise
        return self

    def leave(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Keep where the stream stands, and put every source back."""
        crossed = None
        try:
            if self.is_not_its_turn():
                return
            with lock:
                if self.saved is not None:
                    if scopes[-1] is not self:
                        crossed = self._first_crossed()
                    self._stop()
                self.position = None
        except BaseException as interruption:
            self._stop_after(interruption)
            self.position = None
            raise
        if crossed is not None and not sys.is_finalizing():
            self._warn_of_order(crossed)
        leave_deferred()
        if type(self.sources) is not tuple:
            warn_at_end(self.sources, self.covered, kind)  # type: ignore[arg-type]

    no_signal_at_start(leave)
    __exit__ = leave

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(leave)

    def put_aside(self) -> None:
        OpenScope.put_aside(self)
        # Until it is entered again, which is also how a body ends that is closed or dropped.
        self.stream._suspended.add(self)

    def _stop(self) -> None:
        try:
            with lock:
                errors = self._keep()
                if errors:
                    # What keeps a source from being restored as well is the graver error.
                    OpenScope.leave(self)
                    raise_together("several errors while a stream was left", errors)
                found = zip(self.covered, self.saved or ())
                if scopes[-1] is self:
                    for source, state in found:
                        source.restore(state)
                else:
                    for source, state in found:
                        self.set_to(source, state)
                self._close()
                self.stream._open.remove(self)
        except BaseException as error:
            self._stop_after(error)
            raise

    def _stop_after(self, error: BaseException) -> None:
        """Keep what can be kept and restore every source in spite of an error."""
        try:
            with lock:
                # It may have been interrupted. What fails in it has been raised already.
                self._keep()
        finally:
            self._close_after(error)
            if self in self.stream._open:
                self.stream._open.remove(self)

    def _keep(self) -> list[BaseException]:
        """Remember where the stream stands, in the outer use of it as well.

        Twice is once, until the first source is put back: from then on there is a position.

        Returns:
            The errors of sources that cannot be saved.
        """
        errors: list[BaseException] = []
        if self.saved is None or self.position is not None:
            return errors
        stream = self.stream
        # Otherwise the stream stands where a later use of it stands.
        if stream._latest() is self:
            outer = stream._latest(self)
            is_top = scopes[-1] is self
            position = stream._position
            for place, source in enumerate(self.covered):
                try:
                    if is_top:
                        state = source.save()
                    else:
                        state = self.stands_at(source, self.saved[place])
                    position[source.identity] = state
                    if outer is not None and outer._place_of(source) is not None:
                        outer.set_to(source, state)
                except Exception as error:
                    # One source that fails must not keep the others from being kept.
                    errors.append(error)
            position.update(self._take_dropped())
        self.position = {}
        return errors

    def stands(self) -> dict[Any, Any]:
        """Return where the stream stands."""
        return {
            source.identity: self.stands_at(source, state)
            for source, state in zip(self.covered, self.saved or ())
        }


class _Place:
    """Where a stream stands: what makes a copy of the stream stand there too.

    Within the process a copy takes these very states, which nobody changes. In a pickle they
    are what ``state_dict()`` returns.
    """

    __slots__ = ("template", "states", "rest")

    def __init__(self, stream: RNGStream, position: dict[Any, Any]) -> None:
        self.template = stream._template
        #: Captured states by source name.
        self.states = {**stream._loaded}
        #: Sources that have no captured form now, with their states: switches, and accelerators
        #: that have not started.
        self.rest: list[tuple[Any, Any]] = []
        for source in self.template.sources:
            state = position.get(source.identity)
            captured = source.portable(state)
            if captured is not None:
                self.states[source.name] = captured
            elif state is not None:
                self.rest.append((source, state))

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.written(),)

    def written(self) -> dict[str, Any]:
        """Return seed and states in plain form."""
        for source, state in self.rest:
            if isinstance(source, AcceleratorSource) and not source.is_as_begun(state):
                warn_caller(
                    f"what a body of this stream has queued for {source.name!r}, which has not "
                    f"started, cannot be written: where it is loaded, the stream begins there with "
                    f"its seed; start {source.name!r} before the stream is used"
                )
        return seal(
            "RNGStream",
            {
                "seed": str(self.template.seed),
                "independent": self.template.independent,
                "states": dump_sources(self.states, self.template.sources),
            },
        )

    def duplicate_rest(self) -> dict[Any, Any]:
        """Return the rest by identity, for one more stream that stands there."""
        return {
            source.identity: (
                source.duplicate(state) if isinstance(source, AcceleratorSource) else state
            )
            for source, state in self.rest
        }


def _check_devices(source: Any, state: Any) -> None:
    """Refuse a state that lacks a device which the stream was given.

    Raises:
        ValueError: naming both numbers.
    """
    devices = getattr(source, "devices", None)
    if devices is not None and not {i for i in devices if i is not None} <= set(state):
        raise ValueError(
            f"the state holds {len(state)} {source.name} device(s), {sorted(state)}, and the "
            f"stream is over {len(devices)}, {sorted(devices)}; make the stream over those that "
            f"are there with devices=, or begin anew with RNGStream(derive_seed(seed, ...))"
        )
