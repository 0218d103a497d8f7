"""The epoch that a data set is in, and its state in a checkpoint."""

from __future__ import annotations

from rngscope._errors import warn_caller
from rngscope._seeds import as_integer, short_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    from rngscope.data.board import Board


class HasEpochs:
    """A data set whose items differ from epoch to epoch, in all processes alike."""

    __slots__ = ("dataset", "_epochs", "_board")

    dataset: Any
    #: Whether its epochs differ.
    _epochs: bool
    _board: Board

    @property
    def epoch(self) -> int:
        """The epoch whose items are made now."""
        return self._board.epoch

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Make the items of another epoch from here on, in every worker.

        Call it before ``iter(loader)``, as with ``DistributedSampler``: workers fetch ahead.
        With ``epochs=False`` it only checks the number.

        Args:
            epoch: integer in ``[0, 2**63)``.

        Raises:
            TypeError, ValueError: it is not such an integer.
        """
        number = as_integer(epoch, "epoch", "an integer")
        if not 0 <= number < 2**63:
            raise ValueError(
                f"epoch {short_repr(number)} is out of range; expected 0 <= epoch < 2**63"
            )
        if self._epochs:
            self._board.set_epoch(number)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, and the state of the data set if that has one.

        ``torchdata``'s ``StatefulDataLoader`` saves it. How often items were asked for in this
        pass is not in it: ``views(sampler)`` goes on exactly.
        """
        state: dict[str, Any] = {"epoch": self.epoch}
        if is_stateful(self.dataset):
            state["dataset"] = self.dataset.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the items of the epoch that the state is of.

        ``StatefulDataLoader`` loads it late, in ``iter(loader)``. So an epoch that was set since
        a loader last asked for an item stays: it is the one that is about to begin.

        Raises:
            ValueError: it is not such a state, or has one for a data set that takes none.

        Warns:
            RuntimeWarning: the epoch that was set, and stays, is an earlier one.
        """
        if not isinstance(state_dict, dict) or not state_dict.keys() <= {"epoch", "dataset"}:
            raise ValueError(f"a state of per_item is a dict, not {short_repr(state_dict)}")
        epoch = state_dict.get("epoch")
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise ValueError(f"epoch must be an integer in [0, 2**63), not {short_repr(epoch)}")
        if "dataset" in state_dict:
            if not is_stateful(self.dataset):
                raise ValueError(
                    f"the state holds one of the data set, but {type(self.dataset).__name__} has "
                    f"no load_state_dict"
                )
            self.dataset.load_state_dict(state_dict["dataset"])
        if not self._epochs:
            return
        if not self._board.is_new:
            self._board.set_epoch(epoch)
        elif self.epoch < epoch:
            warn_caller(
                f"the state is of epoch {epoch}, but epoch {self.epoch} was set before it was "
                f"loaded, and stays: to go on in epoch {epoch}, call set_epoch({epoch})"
            )


def is_stateful(thing: Any) -> bool:
    """Tell whether ``torchdata`` would save the state of a thing."""
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
