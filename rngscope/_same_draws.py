"""``same_draws``: several blocks that draw the same numbers, and a program that goes on."""

from __future__ import annotations

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import NeedsParentheses, find_frame, warn_caller
from rngscope._not_covered import warn_at_end
from rngscope._open_scopes import (
    OpenScope,
    keep_out_of_graphs,
    leave_deferred,
    lock,
    scopes,
)
from rngscope._scope import rng_scope
from rngscope._sources.generators import GeneratorSource
from rngscope._sources.torch_accelerator import AcceleratorSource
from rngscope._state import RNGState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from rngscope._sources import Listed


class same_draws(metaclass=NeedsParentheses):
    """Have several blocks draw the same numbers: an image and its mask, two views of a sample.

    The first block draws from the program's own RNGs, which go on from its end. Each later
    block of the same object repeats its numbers, however many it takes of them, and leaves no
    trace. So the program goes on as if the first block were the only one, and the next
    ``same_draws()`` gets new numbers.

    An exception in the first block changes nothing of that: later blocks repeat it from its
    beginning. Sources that are not there during the first block are preserved in the others.

    Args:
        sources, devices, generators: as in ``rng_scope``.

    Raises:
        TypeError, ValueError: as ``rng_scope``.
        RuntimeError: at entry, if a block of this object is open already, or if CUDA is covered
            while a graph is captured.

    Warns:
        RuntimeWarning: an accelerator started inside the first block, so that the others do
            not repeat what it drew there.

    Example:
        >>> import random
        >>> random.seed(42)
        >>> with same_draws() as pair:
        ...     random.random()
        0.6394267984578837
        >>> with pair:
        ...     random.random()
        0.6394267984578837
        >>> random.random()
        0.025010755222666936
    """

    __slots__ = ("_template", "_first", "_open")
    _as_block = "same_draws()"

    def __init__(
        self,
        *,
        sources: Listed[str] | None = None,
        devices: Listed[Any] | None = None,
        generators: Listed[Any] | None = (),
    ) -> None:
        self._template = rng_scope(sources=sources, devices=devices, generators=generators)
        #: The block that the others repeat, from its entry on.
        self._first: _FirstBlock | _CopiedBlock | None = None
        self._open: OpenScope | None = None

    def __enter__(self) -> Self:
        if self._open is not None and self._open.saved is not None:
            raise RuntimeError("a block of this same_draws() is open already; make another one")
        first = self._first
        if first is None or first.found is None:
            self._first = block = _FirstBlock(self._template)
        else:
            new: Any = OpenScope
            block = new(*self._template.values_with(first.state()))
        self._open = block
        try:
            block.__enter__()
            caller = find_frame(1)
            block.code, block.instruction = caller.f_code, caller.f_lasti
            return self
        except BaseException:
            # After an interrupt between the two, too.
            block.leave()
            raise

    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        block = self._open
        if block is None:
            raise RuntimeError("cannot leave a block of same_draws() that was not entered")
        block.leave(kind, error, traceback)

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(__exit__)

    def __getstate__(self) -> tuple[dict[str, Any], rng_scope, RNGState | None]:
        block, first = self._open, self._first
        if block is not None and (block.saved is not None or block.position is not None):
            raise RuntimeError(
                "cannot copy or pickle a same_draws() while a block of it is open or suspended: "
                "leave the block first"
            )
        state = None if first is None or first.found is None else first.state()
        return added_attributes(self, same_draws.__slots__), self._template, state

    def __setstate__(self, state: tuple[dict[str, Any], rng_scope, RNGState | None]) -> None:
        attributes, self._template, repeated = state
        self._open = None
        self._first = None if repeated is None else _CopiedBlock(repeated)
        add_attributes(self, attributes)

    def __repr__(self) -> str:
        return f"<same_draws over {', '.join(source.name for source in self._template.sources)}>"


class _CopiedBlock:
    """What a copy knows of the first block of its original: the state in which that began."""

    __slots__ = ("found",)

    def __init__(self, state: RNGState) -> None:
        self.found = state

    def state(self) -> RNGState:
        return self.found


class _FirstBlock(OpenScope):
    """A scope that keeps what it finds and puts nothing back.

    It is one at all so that a library which is imported inside is found as it begins. An
    accelerator that starts inside begins with what is queued for it, and its queue is not ours
    to keep: of those, only what has started counts.
    """

    __slots__ = ("found", "asked_for", "accelerators")

    def __init__(self, template: rng_scope) -> None:
        accelerators = [s for s in template.sources if isinstance(s, AcceleratorSource)]
        rest = tuple(s for s in template.sources if not isinstance(s, AcceleratorSource))
        OpenScope.__init__(self, rest, None)
        self.asked_for = template.sources
        #: Source and state, for each source that was there; None until the block has ended.
        self.found: list[tuple[Any, Any]] | None = None
        self.accelerators = [(source, source.capture()) for source in accelerators]

    def state(self) -> RNGState:
        """Return the state in which the block began."""
        found = self.found or []
        states = {s.name: s.portable(state) for s, state in found}
        states.update((s.name, state) for s, state in self.accelerators if state is not None)
        mine = [s for s in self.asked_for if isinstance(s, GeneratorSource)]
        return RNGState._made_of(
            {name: state for name, state in states.items() if name not in {s.name for s in mine}},
            [(s.kind, states[s.name]) for s in mine],
        )

    def leave(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Close, and leave every source where it is."""
        if self.is_not_its_turn():
            return
        try:
            crossed = self._let_go()
        except BaseException:
            # An interrupt.
            self._let_go()
            raise
        if crossed is not None:
            self._warn_of_order(crossed)
        leave_deferred()
        for source, state in self.accelerators:
            if state is None and source.capture() is not None:
                warn_caller(
                    f"{source.name} started inside the first block of same_draws(), so later "
                    f"blocks do not repeat what it drew there; start it before"
                )
        if type(self.asked_for) is not tuple:
            warn_at_end(self.asked_for, self.covered, kind)  # type: ignore[arg-type]

    __exit__ = leave

    keep_out_of_graphs(leave)

    def _let_go(self) -> OpenScope | None:
        crossed = None
        with lock:
            self.position = None
            if self.saved is not None:
                if scopes[-1] is not self:
                    crossed = self._first_crossed()
                self.found = list(zip(self.covered, self.saved))
            if self in scopes:
                self._close()
        return crossed
