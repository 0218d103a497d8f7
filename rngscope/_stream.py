"""``RNGStream``: a scope that remembers where it stopped."""

from __future__ import annotations

import sys

from rngscope._errors import NeedsParentheses, find_frame
from rngscope._graphs import keep_out_of_graphs
from rngscope._interrupts import no_signal_at_start
from rngscope._life import Life
from rngscope._order import lock, run_deferred
from rngscope._plan import choose
from rngscope._seeds import check_seed, short_repr
from rngscope._state_dict import unseal
from rngscope._stream_copies import WRITTEN, CopiedStream, Snapshot, load_into
from rngscope._stream_plan import StreamPlan, stands
from rngscope._turns import check_exclusive
from rngscope.sources.generators import warn_of_alike

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, SupportsIndex, TypeVar

    from rngscope._plan import Listed

    Function = TypeVar("Function", bound=Callable[..., Any])


class RNGStream(CopiedStream, metaclass=NeedsParentheses):
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

    __slots__ = ()
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
        number = check_seed(seed)
        if type(independent) is not bool:
            raise TypeError(f"independent must be True or False, not {short_repr(independent)}")
        chosen = choose(sources, devices, generators, deterministic)
        if not independent and type(chosen) is not tuple:
            warn_of_alike(chosen, number)
        exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
        self._plan = StreamPlan(chosen, number, independent, exclusive)

    @property
    def seed(self) -> int:
        """The seed that the stream began with."""
        assert self._plan.seed is not None
        return self._plan.seed

    def __enter__(self) -> Self:
        """Go on where the stream stands; where an outer use of it stands, if there is one."""
        Life(self._plan).enter(find_frame(1))
        return self

    @no_signal_at_start
    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Keep where the stream stands, and put every RNG back."""
        life: Life | None = None
        try:
            life = self._plan.use_of(find_frame(1).f_code)
        except BaseException:
            if sys.is_finalizing():
                # A body that is still suspended at the end of the program.
                return
            # An interrupt may have come before it was known which use ends.
            life = life or self._plan.use_of(find_frame(1).f_code)
            if life is not None:
                life.leave()
            raise
        if life is not None:
            life.leave()
        elif not sys.is_finalizing():
            # At the end of the program, a body that is still suspended has its streams closed.
            raise RuntimeError("cannot leave a stream that is not open")

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(__exit__)

    def __call__(self, function: Function) -> Function:
        """Decorate a function: each call goes on with the stream."""
        # Here because it imports inspect, which takes milliseconds.
        from rngscope._decorate import decorate

        made: Function = decorate(function, lambda function, *_: Life(self._plan, function))
        return made

    def reset(self) -> None:
        """Begin again at the next entry: with the seed, which a loaded state brings along.

        Raises:
            RuntimeError: the stream is open.
        """
        with lock:
            self._plan.refuse_open("reset")
            self._plan.begin_anew(self.seed, None)

    def state_dict(self) -> dict[str, Any]:
        """Return seed and states in plain form, as ``RNGState.state_dict`` does.

        Of a source that the stream has not met yet the seed is enough.

        Raises:
            TypeError: a NumPy bit generator that is not NumPy's own.

        Warns:
            RuntimeWarning: a body has queued seeds or states of its own for an accelerator that
                has not started; these cannot be written.
        """
        plan = self._plan
        with lock:
            position = {**plan.position}
            use = plan.latest()
            if use is not None:
                position.update(stands(use))
            place = Snapshot(plan, position)
        run_deferred()
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
        load_into(self._plan, unseal(state_dict, *WRITTEN))

    def __repr__(self) -> str:
        return f"<RNGStream seed={self.seed}>"
