"""``views``: a sampler that numbers the requests for each item."""

from __future__ import annotations

import operator

from rngscope._seeds import short_repr
from rngscope.data.epochs import is_stateful
from rngscope.data.keys import is_integer
from rngscope.data.requests import Counts, length_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class views:
    """A sampler that numbers the requests for each item: ``(3, 0)``, and later ``(3, 1)``.

    Under ``per_item`` the n-th request for an item in a pass then has numbers of its own. The
    sampler runs in one process, so this is exact with any number of workers, and
    ``StatefulDataLoader`` goes on in the middle of a pass. For samplers that yield an item more
    than once: with replacement, or for repeated augmentation.

    The ``per_item`` must be the loader's own data set: ``Subset`` and ``ConcatDataset`` refuse
    such keys.

    Args:
        sampler: what yields indices or, as a ``batch_sampler``, lists of them. Its
            attributes, ``set_epoch`` for one, are reached through this one.

    Example:
        >>> list(views(["cat", "dog", "cat"]))
        [('cat', 0), ('dog', 0), ('cat', 1)]
    """

    # Where it is found, and what pickles name.
    __module__ = "rngscope.data"

    def __init__(self, sampler: Iterable[Any]) -> None:
        if not hasattr(sampler, "__iter__"):
            raise TypeError(f"views needs a sampler, not {short_repr(sampler)}")
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return _Numbered(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Not the state: it would leave the counts behind. That of the iterator has them. And
        # not before there is a sampler, which a copy that is being made asks for.
        if name in ("sampler", "state_dict", "load_state_dict") or name.startswith("__"):
            raise AttributeError(f"'views' object has no attribute {name!r}")
        return getattr(self.sampler, name)

    def __repr__(self) -> str:
        return f"views({self.sampler!r})"


class _Numbered:
    """One pass of ``views``; a ``Stateful`` of ``torchdata``."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._start(None)

    def _start(self, begin: Any) -> None:
        self._indices: Any = iter(self._sampler)
        if begin is not None:
            self._indices.load_state_dict(begin)
        #: Where the sampler began, if it can tell.
        self._begin = self._indices.state_dict() if is_stateful(self._indices) else None
        self._counts = Counts(length_of(self._sampler))
        self._yielded = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        index = next(self._indices)
        self._yielded += 1
        if isinstance(index, list):
            return [self._number(each) for each in index]
        return self._number(index)

    def _number(self, index: Any) -> tuple[Any, int]:
        return index, self._counts.ask(operator.index(index) if is_integer(index) else index)

    def state_dict(self) -> dict[str, Any]:
        return {"begin": self._begin, "yielded": self._yielded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # From the beginning, because the requests before the state count.
        self._start(state_dict["begin"])
        for _ in range(state_dict["yielded"]):
            next(self)
