"""``PerRank``: the states of all ranks in one checkpoint."""

from __future__ import annotations

import json

from rngscope._ranks import is_initialized
from rngscope._state import RNGState
from rngscope.distributed.calls import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Stateful(Protocol):
        """What ``torch.distributed.checkpoint`` asks for; an ``RNGStream`` is one."""

        def state_dict(self) -> dict[str, Any]: ...

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class PerRank:
    """Keep the RNG states of every rank in a checkpoint of ``torch.distributed.checkpoint``.

    Such a checkpoint drops all but one of the values that have the same key on several
    ranks, so a stream put into it directly would come back as one rank's stream on all of
    them. This object gathers the states of all ranks on the first one, which writes them,
    and hands each rank its own again. Every rank must have it in its dict, under the same
    key.

    Args:
        stateful: an ``RNGStream``, or any other object with ``state_dict`` and
            ``load_state_dict`` whose dict ``json`` can hold; None for the global RNGs.
        group: the process group of the checkpoint; default all ranks. Without one there is
            a single rank.

    Raises:
        TypeError: ``stateful`` lacks one of the two methods.

    Example:
        >>> from rngscope import RNGStream
        >>> dropout = RNGStream(rank_seed(42, "dropout"))
        >>> state = {"rng": PerRank(), "dropout": PerRank(dropout)}

        ``torch.distributed.checkpoint.save(state, checkpoint_id=path)`` writes it, ``load``
        with the same arguments restores the global RNGs and the stream.
    """

    # Where it is found, and what pickles name.
    __module__ = "rngscope.distributed"

    def __init__(self, stateful: Stateful | None = None, *, group: Any = None) -> None:
        for verb in () if stateful is None else ("state_dict", "load_state_dict"):
            if not callable(getattr(stateful, verb, None)):
                raise TypeError(
                    f"PerRank needs an object with state_dict and load_state_dict, such as an "
                    f"RNGStream, not {type(stateful).__name__}"
                )
        self._stateful = stateful
        self._group = group

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks on the first rank, nothing on the others.

        Every rank must call it. It is one ``all_gather`` of 80 bytes a rank and one
        ``gather`` of some 20 kB a rank.

        Raises:
            TypeError: a NumPy bit generator that is not NumPy's own.
            RuntimeError: as ``sync``.
        """
        stateful = self._stateful
        own = RNGState.capture().state_dict() if stateful is None else stateful.state_dict()
        text = json.dumps(own)
        if not is_initialized():
            return {"ranks": json.dumps([text])}
        texts = Call("PerRank.state_dict", self._group).gather(text.encode())
        # As one text: lists and dicts would be cut into entries of their own.
        return {} if texts is None else {"ranks": json.dumps([item.decode() for item in texts])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand every rank its own state again. Every rank must call it.

        It is one ``broadcast`` of 16 bytes and one ``scatter`` of some 20 kB a rank.

        Raises:
            ValueError: the checkpoint is one of another number of ranks: every rank gets the
                same error, and nothing has been touched. A state is damaged.
            RuntimeError: as ``sync``.
        """
        texts = _parse(state_dict.get("ranks") if isinstance(state_dict, dict) else None)
        if not is_initialized():
            count, here, own = len(texts), 1, texts[0] if texts else ""
        else:
            call = Call("PerRank.load_state_dict", self._group)
            here = len(call.ranks)
            count, own = call.hand_out(texts)
        if not count:
            raise ValueError("ranks must be a JSON list of the states of all ranks")
        if count != here:
            raise ValueError(
                f"the checkpoint holds the RNG states of {count} rank(s), and this job has "
                f"{here}; leave PerRank out of what is loaded and derive the seeds anew, for "
                f"example with seed_all(rank_seed(seed, 'resumed', step))"
            )
        if self._stateful is None:
            RNGState.from_state_dict(json.loads(own)).restore()
        else:
            self._stateful.load_state_dict(json.loads(own))


def _parse(text: object) -> list[str]:
    """Return the states of all ranks; none if this is not what they were written as."""
    try:
        texts = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        texts = None
    return texts if isinstance(texts, list) and all(type(t) is str for t in texts) else []
