"""RNG objects of other modules that are seeded for each test, once their module is there."""

from __future__ import annotations

import sys

from rngscope._plan import Plan
from rngscope.sources.cell import OneCell
from rngscope.sources.generators import GeneratorCell, generator_cell
from rngscope.sources.presence import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rngscope._life import Life

#: Where libraries that make up test data keep their RNGs: module and attribute. What another
#: version of theirs does not have is passed over.
_KNOWN = (
    ("faker.generator", "random"),
    ("factory.random", "randgen"),
    ("polyfactory.constants", "DEFAULT_RANDOM"),
    ("model_bakery.random_gen", "baker_random"),
    ("mimesis.random", "random"),
    ("mimesis.random", "global_seed"),
)


def named_generator(generator: Any, name: str) -> GeneratorCell:
    """Return an RNG object that the run knows by a name, for scopes over any other generators.

    Raises:
        TypeError: it is none of the kinds that can be scoped.
    """
    cell = generator_cell(generator, 0)
    cell.name, cell.path = name, (name,)
    return cell


class MimesisSeed(OneCell):
    """What mimesis seeds the RNG of each new provider with; its state is the seed."""

    name = kind = "mimesis.random:global_seed"
    module = ""
    path = (name,)

    def __init__(self, module: Any) -> None:
        self.mimesis = module

    def getstate(self) -> Any:
        return self.mimesis.global_seed

    def setstate(self, state: Any) -> None:
        self.mimesis.global_seed = state

    def seed(self, seed: int) -> None:
        self.mimesis.global_seed = seed


class Generators:
    """The RNG objects of one run: those that are there, and the names of the others."""

    def __init__(self, names: Iterable[str]) -> None:
        #: Module -> (attribute, or several with dots between; whether it must be there).
        self.waiting: dict[str, list[tuple[str, bool]]] = {}
        for module, attribute in _KNOWN:
            self.waiting.setdefault(module, []).append((attribute, False))
        for name in names:
            module, colon, attribute = name.partition(":")
            if not colon:
                module, _, attribute = name.rpartition(".")
            self.waiting.setdefault(module, []).append((attribute, True))
        self.sources: tuple[Any, ...] = ()
        #: How many modules there were when they were looked through.
        self._looked_at = 0
        #: What is wrong with a name, once that shows.
        self.wrong = ""

    def look(self, complete: str = "") -> list[Any]:
        """Take in what is there by now; return the new ones.

        Args:
            complete: a module that has run, although its import has not ended yet.
        """
        found: list[Any] = []
        if not complete and len(sys.modules) == self._looked_at:
            return found
        self._looked_at = len(sys.modules)
        for name in [name for name in self.waiting if name in sys.modules]:
            if name == complete or imported(name, "__spec__") is not None:
                module = sys.modules[name]
                for attribute, must_be in self.waiting.pop(name):
                    found += self._find(module, name, attribute, must_be)
        return found

    def add(self, objects: Iterable[Any]) -> None:
        """Take in what the hook has returned.

        Raises:
            TypeError: one of them is no RNG object that can be scoped.
        """
        for thing in objects:
            self._take(named_generator(thing, f"pytest_rng_generators[{len(self.sources)}]"))

    def join(self, stream: Life) -> None:
        """Have a stream over all sources cover these as well, from its next entry on."""
        plan = stream.plan
        more = tuple([source for source in self.sources if source not in plan.sources])
        if more:
            stream.plan = Plan(
                (*plan.sources, *more), plan.seed, plan.independent, plan.values, plan.exclusive
            )

    def _find(self, module: Any, name: str, attribute: str, must_be: bool) -> list[Any]:
        where = f"{name}:{attribute}"
        if where == MimesisSeed.name:
            return self._take(MimesisSeed(module)) if hasattr(module, attribute) else []
        thing: Any = module
        try:
            for part in attribute.split("."):
                thing = getattr(thing, part)
            return self._take(named_generator(thing, where))
        except AttributeError:
            error = f"module {name!r} has no {attribute}"
        except TypeError as refusal:
            error = str(refusal)
        if must_be:
            self.wrong = self.wrong or f"rng_generators: {where}: {error}"
        return []

    def _take(self, source: Any) -> list[Any]:
        if source in self.sources:
            return []
        self.sources = (*self.sources, source)
        return [source]
