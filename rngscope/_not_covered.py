"""What a scope was asked to cover, and could not: told at its end, once, by name."""

from __future__ import annotations

import sys

from rngscope._errors import warn_caller
from rngscope._plan import NamedSources
from rngscope.sources.generators import GeneratorCell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope.sources.cell import Cell

#: Names of sources that this process has been told about.
_told: set[str] = set()

#: What a body that ends passes to ``leave``.
_NO_ERROR = (None, StopIteration, StopAsyncIteration)


def warn_at_end(sources: NamedSources, covered: tuple[Cell, ...], kind: object) -> bool:
    """Warn, at the end of a scope, of what the program asked it to cover and it could not.

    That is a generator whose owner has made a new one meanwhile, and a named source whose
    library has not been imported.

    Args:
        sources: those of the scope.
        covered: the cells that it has covered, whatever is hidden by now.
        kind: type of the exception that ends it. A program that fails has other troubles.

    Returns:
        Whether there may be something to tell at the end of the next scope of this plan.
    """
    generators = [source for source in sources if isinstance(source, GeneratorCell)]
    for source in generators:
        if source.was_replaced():
            warn_caller(
                f"{source.name}, a {source.kind}, was replaced: nothing but the scope holds it any "
                f"more, and what draws from its successor was neither seeded nor put back; have "
                f"the new one made before the scope: by env.reset(seed=...), for example"
            )
    if kind in _NO_ERROR:
        warn_of_missing(
            sources,
            "was not imported before the scope ended, so nothing of it was seeded or put back; "
            "import it before or inside the scope",
            covered,
        )
    # A library that has come stays.
    return bool(generators) or len({cell.source.kind for cell in covered}) < len(sources)


def warn_of_missing(sources: Any, what: str, covered: tuple[Cell, ...] = ()) -> None:
    """Warn of named sources whose library is not imported, each once a process."""
    if not isinstance(sources, NamedSources):
        return
    missing: dict[str, list[str]] = {}
    kinds = {cell.source.kind for cell in covered}
    for source in sources:
        # Not numpy.random, which NumPy 2 imports at its first use: a scope would cover that.
        library = source.module.partition(".")[0]
        is_asked_for = source.applies_always or sources.has_names
        if library and is_asked_for and source.name not in _told and source.kind not in kinds:
            if sys.modules.get(library) is None:
                missing.setdefault("" if source.applies_always else library, []).append(source.name)
    for library, names in missing.items():
        if library:
            # In the order of the message for unknown sources: the accelerators come last.
            shown = ", ".join(map(repr, sorted(names)))
            warn_caller(f"sources names {shown}, but {library} {what}, or leave sources= out")
        else:
            warn_caller(f"deterministic=True changed nothing: torch {what}, or leave it out")
        # Only now: where warnings are errors, each scope raises one.
        _told.update(names)
