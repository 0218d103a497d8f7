"""The scopes in which items are made, and what RNG objects they do not cover."""

from __future__ import annotations

import operator

from rngscope._errors import warn_caller
from rngscope._scope import life_with, rng_scope
from rngscope._stream import RNGStream
from rngscope.data.epochs import HasEpochs
from rngscope.data.owners import find_generators

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rngscope._life import Life

    #: What ``generators=`` takes: the objects, or what finds them in a copy of the data set.
    Generators = Iterable[Any] | Callable[[Any], Iterable[Any]]


class ItemScopes:
    """The scopes in which the items of one data set are made.

    Args:
        dataset: the data set.
        options: ``sources`` and ``devices`` of ``rng_scope``.
        generators: RNG objects, or the function that finds them.
        named: paths of RNG objects that are not covered, and that a warning has named.
    """

    __slots__ = ("dataset", "options", "generators", "named", "_covered", "_template")

    def __init__(
        self, dataset: Any, options: dict[str, Any], generators: Any, named: Iterable[str] = ()
    ) -> None:
        self.dataset = dataset
        self.options = options
        self.generators = generators
        self.named = set(named)
        self._covered: list[Any] | None = None
        self.life(0)

    def life(self, seed: int) -> Life:
        """Return the scope of an item."""
        if self._covered is None or callable(self.generators):
            generators = listed(self.generators, self.dataset)
            if self._covered is None or not _are_same(generators, self._covered):
                self._template = rng_scope(
                    0, independent=True, generators=generators, **self.options
                )
                self._covered = list(generators)
        return life_with(self._template, seed, None)

    def take_uncovered(self) -> list[tuple[str, Any]]:
        """Return RNG objects in the data set that are not covered, each path only once."""
        self.life(0)
        uncovered = find_uncovered(self.dataset, self._covered or ())
        found = [each for each in uncovered if each[0] not in self.named]
        self.named.update(path for path, _ in found)
        return found


def listed(generators: Any, dataset: Any) -> Any:
    """Return the RNG objects, which a function finds in this process's data set."""
    return copied(generators(dataset)) if callable(generators) else generators


def copied(items: Any) -> Any:
    """Return a copy of a list; anything else is left for ``rng_scope`` to refuse."""
    is_text = isinstance(items, (str, bytes))
    return list(items) if hasattr(items, "__iter__") and not is_text else items


def _are_same(some: Any, others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def find_uncovered(dataset: Any, covered: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return the RNG objects that a data set holds beside the covered ones, and their paths.

    What is under a ``per_item`` is the concern of that.
    """
    ids = set(map(id, covered))
    found = find_generators(dataset, "dataset", (RNGStream,), (HasEpochs,))
    return [(path, generator) for path, generator in found if id(generator) not in ids]


def warn_of_uncovered(who: str, found: list[tuple[str, Any]], consequence: str) -> None:
    """Warn, by path, of RNG objects that are not covered."""
    if not found:
        return
    names = [f"{path} ({type(generator).__name__})" for path, generator in found]
    if len(names) > 8:
        names[8:] = [f"{len(names) - 8} more"]
    streams = " An RNGStream cannot be named there: draw from the global RNGs instead."
    warn_caller(
        f"{who} does not cover RNG objects that the data set holds: {', '.join(names)}. What "
        f"they draw {consequence}. Name them in generators=, a list or a function of the data "
        f"set."
        + streams * any(isinstance(generator, RNGStream) for _, generator in found)
    )
