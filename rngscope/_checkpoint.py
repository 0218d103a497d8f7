"""``checkpoint_context_fn``: what is recomputed draws what it drew before."""

from __future__ import annotations

from _thread import get_ident

from rngscope import _details
from rngscope._errors import warn_caller
from rngscope._plan import choose
from rngscope._scope import rng_scope
from rngscope._state import RNGState
from rngscope._stream_plan import move_to, recordings
from rngscope.sources.start import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager, ExitStack
    from typing import Any

    from rngscope._plan import Listed
    from rngscope._stream_plan import Place, StreamPlan
    from rngscope.sources.cell import Source

    #: What a ``context_fn`` returns: one for the forward pass, one for the recomputation.
    Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def checkpoint_context_fn(
    *,
    sources: Listed[str] | None = None,
    devices: Listed[Any] | None = None,
    generators: Listed[Any] | None = (),
    context_fn: Callable[[], Contexts] | None = None,
) -> Contexts:
    """Have a checkpointed function draw the same numbers when it is recomputed.

    For ``torch.utils.checkpoint.checkpoint(..., use_reentrant=False,
    context_fn=checkpoint_context_fn)``; options go in with ``functools.partial``. By itself
    torch replays only its own generators, and gradients are wrong where ``random`` or NumPy is
    drawn from. Here every source, and each stream that the function enters, is replayed; the
    RNGs of whoever calls ``backward`` are untouched. ``torch.compile`` needs none of it.

    Args:
        sources, devices, generators: as in ``rng_scope``.
        context_fn: another one to combine with this one.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Warns:
        RuntimeWarning: an accelerator starts, or a stream that is open is entered, within it.

    Example:
        >>> import random
        >>> forward, recomputation = checkpoint_context_fn(sources=["python"])
        >>> with forward:
        ...     drawn = random.random()
        >>> with recomputation:
        ...     drawn == random.random()
        True
    """
    _check(context_fn)
    recording = _Recording(sources, devices, generators)
    if _is_traced():
        return context_fn() if context_fn is not None else _contexts_of_torch()
    inner = (None, None) if context_fn is None else context_fn()
    return _Context(recording.record, inner[0]), _Context(recording.replay, inner[1])


def _check(context_fn: Any) -> None:
    if context_fn is not None and not callable(context_fn):
        raise TypeError(
            f"context_fn must be a function that returns two contexts, not {context_fn!r:.60}"
        )


def _is_traced() -> bool:
    """Tell whether torch records the function in a graph, and so takes no other contexts."""
    is_compiling = _details.find(_details.CHECKPOINT_IS_COMPILING)
    return is_compiling is not None and bool(is_compiling(None, (), {}))


def _contexts_of_torch() -> Contexts:
    """Return contexts that save nothing, as torch does where there is no ``context_fn``."""
    # Imported here because torch costs a second, and whoever asks has it already.
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    contexts: Contexts = create_selective_checkpoint_contexts(  # type: ignore[no-untyped-call]
        lambda *_, **__: CheckpointPolicy.PREFER_RECOMPUTE
    )
    return contexts


class _Recording:
    """Where all RNGs stood when the function began."""

    def __init__(
        self,
        sources: Listed[str] | None,
        devices: Listed[Any] | None,
        generators: Listed[Any] | None,
    ) -> None:
        # Copies: what is recomputed must not depend on what a list holds by then.
        self.options: dict[str, Any] = {
            "sources": None if sources is None else tuple(sources),
            "devices": None if devices is None else tuple(devices),
            "generators": () if generators is None else tuple(generators),
        }
        # Checked now: an error must not come out of the backward pass.
        self.chosen = choose(**self.options)
        self.state: RNGState | None = None
        self.absent: list[Any] = []
        self.thread = 0
        self.streams: dict[StreamPlan, Place] = {}

    def note(self, stream: StreamPlan, place: Place, is_open: bool) -> None:
        """Keep where a stream stood when the function entered it first."""
        if get_ident() != self.thread or stream in self.streams:
            return
        self.streams[stream] = place
        if is_open:
            warn_caller(
                f"<RNGStream seed={stream.seed}> is open around a checkpointed function, which "
                f"enters it as well: what the function draws in between may come out differently "
                f"when it is recomputed; enter the stream only around the call of checkpoint, or "
                f"only in the function"
            )

    def record(self, stack: ExitStack) -> None:
        """Note where all RNGs stand; of streams, as they are entered until the stack ends."""
        self.absent = _absent(self.chosen)
        self.state = RNGState.capture(**self.options)
        self.thread = get_ident()
        self.streams = {}
        stack.callback(self.warn_of_latecomers)
        stack.callback(recordings.remove, self)
        recordings.append(self)

    def replay(self, stack: ExitStack) -> None:
        """Have all RNGs, and the streams that were entered, stand there until the stack ends."""
        for stream, place in self.streams.items():
            stack.callback(move_to, stream, move_to(stream, place))
        stack.enter_context(rng_scope(self.state, **self.options))

    def warn_of_latecomers(self) -> None:
        still_absent = _absent(self.chosen)
        for source in self.absent:
            if source not in still_absent:
                warn_caller(
                    f"{source.name!r} started within a checkpointed function, so its "
                    f"recomputation cannot draw the same numbers from it: start it before"
                )


def _absent(sources: Iterable[Source]) -> list[Source]:
    """Return the sources without an RNG that has a state now."""
    return [s for s in sources if all(isinstance(cell, Waiting) for cell in s.cells())]


class _Context:
    """One of the two contexts; may be entered again, also while it is open."""

    def __init__(self, begin: Callable[[ExitStack], None], inner: Any) -> None:
        self._begin = begin
        self._inner = inner
        self._open: list[ExitStack] = []

    def __enter__(self) -> None:
        # Imported here because it costs as much as the whole package.
        from contextlib import ExitStack

        with ExitStack() as stack:
            self._begin(stack)
            if self._inner is not None:
                stack.enter_context(self._inner)
            self._open.append(stack.pop_all())

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.pop().__exit__(*error)
