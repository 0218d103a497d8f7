"""Copies of streams: what is written of one, and what goes into a pickle."""

from __future__ import annotations

from rngscope._copies import add_attributes, added_attributes
from rngscope._errors import warn_caller
from rngscope._order import lock
from rngscope._seeds import check_seed, short_repr
from rngscope._state_dict import dump_sources, load_sources, seal, unseal
from rngscope._stream_plan import StreamPlan
from rngscope._turns import check_exclusive
from rngscope.sources import SOURCES
from rngscope.sources.start import LEFT_OUT, Waiting, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from rngscope.sources.cell import Cell

#: What ``unseal`` wants to know: the kind, and the fields of its own.
WRITTEN = ("RNGStream", {"seed", "independent", "states"})


class CopiedStream:
    """How a stream is copied, in this process and to others."""

    __slots__ = ("_plan",)
    _plan: StreamPlan

    def __getstate__(self) -> tuple[dict[str, Any], tuple[Any, ...], Snapshot]:
        plan = self._plan
        with lock:
            plan.refuse_open("copy or pickle")
            if plan.suspended:
                raise RuntimeError(
                    "cannot copy or pickle a stream while a body that runs in it is suspended: "
                    "let the body end first, or close it"
                )
            place = Snapshot(plan, plan.position)
        sources = None if plan.sources is SOURCES else plan.sources
        added = added_attributes(self, CopiedStream.__slots__)
        return added, (sources, plan.seed, plan.independent, plan.exclusive), place

    def __setstate__(
        self, state: tuple[dict[str, Any], tuple[Any, ...], Snapshot | dict[str, Any]]
    ) -> None:
        attributes, (sources, seed, independent, exclusive), place = state
        exclusive = exclusive if exclusive is False else check_exclusive(exclusive)
        sources = SOURCES if sources is None else sources
        self._plan = plan = StreamPlan(sources, seed, independent, exclusive)
        if isinstance(place, Snapshot):
            plan.values, plan.position = place.values or None, {**place.rest}
        else:
            load_into(plan, unseal(place, *WRITTEN))
        add_attributes(self, attributes)


class Snapshot:
    """Where a stream stands: what makes a copy of the stream stand there too.

    Within the process a copy takes these very states, which nobody changes. In a pickle they are
    what ``state_dict()`` returns.
    """

    __slots__ = ("plan", "values", "rest")

    def __init__(self, plan: StreamPlan, position: dict[Cell, Any]) -> None:
        position = {**position}
        settle(position)
        self.plan = plan
        found = {source.name: source.gather(position) for source in plan.sources}
        #: By source name.
        self.values = {**(plan.values or {})}
        self.values.update({name: value for name, value in found.items() if value is not None})
        #: What has no value now: switches, and accelerators that have not started.
        self.rest = {
            cell: state
            for cell, state in position.items()
            if isinstance(cell, Waiting) or cell.applies_always
        }

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.written(),)

    def written(self) -> dict[str, Any]:
        """Return seed and states as plain values."""
        for cell, state in self.rest.items():
            if isinstance(cell, Waiting) and state is not LEFT_OUT and not state.is_as_begun():
                name = cell.source.name
                warn_caller(
                    f"what a body of this stream has queued for {name!r}, which has not "
                    f"started, cannot be written: where it is loaded, the stream begins there with "
                    f"its seed; start {name!r} before the stream is used"
                )
        plan = self.plan
        return seal(
            "RNGStream",
            {
                "seed": str(plan.seed),
                "independent": plan.independent,
                "states": dump_sources(self.values, plan.sources),
            },
        )


def load_into(plan: StreamPlan, fields: dict[str, Any]) -> None:
    """Have a stream begin with what ``Snapshot.written`` returned; unsealed already.

    Raises:
        ValueError: naming what does not fit; the stream is unchanged.
        RuntimeError: the stream is open.
    """
    text = fields["seed"]
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"seed must be an integer in decimal digits, not {short_repr(text)}")
    seed = check_seed(int(text))
    if type(fields["independent"]) is not bool:
        raise ValueError(
            f"independent must be True or False, not {short_repr(fields['independent'])}"
        )
    if fields["independent"] is not plan.independent:
        raise ValueError(
            f"the state_dict is of a stream with independent={fields['independent']}, this "
            f"one has independent={plan.independent}"
        )
    sources = plan.sources
    values = load_sources(fields["states"], sources, "states")
    loaded = [source for source in sources if source.name in values]
    with lock:
        plan.refuse_open("load into")
        for source in loaded:
            source.check(values[source.name])
            _check_devices(source, values[source.name])
        plan.begin_anew(seed, values)


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
