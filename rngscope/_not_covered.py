"""What a scope was asked to cover, and could not: told at its end, once, by name."""

from __future__ import annotations

import sys

from rngscope._errors import warn_caller
from rngscope._sources import NamedSources
from rngscope._sources.generators import GeneratorSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope._sources import Source

#: Names of sources that this process has been told about.
_told: set[str] = set()

#: What a body that ends passes to ``leave``.
_NO_ERROR = (None, StopIteration, StopAsyncIteration)


def warn_at_end(sources: NamedSources, covered: tuple[Source, ...], kind: object) -> None:
    """Warn, at the end of a scope, of what the program asked it to cover and it could not.

    That is a generator whose owner has made a new one meanwhile, and a named source whose
    library has not been imported.

    Args:
        sources: those of the scope.
        covered: those of them that it has covered, in spite of what is hidden by now.
        kind: type of the exception that ends it. A program that fails has other troubles.
    """
    for source in sources:
        if isinstance(source, GeneratorSource) and source.was_replaced():
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


def warn_of_missing(sources: Any, what: str, covered: tuple[Source, ...] = ()) -> None:
    """Warn of named sources whose library is not imported, each once a process."""
    if not isinstance(sources, NamedSources):
        return
    missing: dict[str, list[str]] = {}
    for source in sources:
        # Not numpy.random, which NumPy 2 imports at its first use: a scope would cover that.
        library = source.library.partition(".")[0]
        is_asked_for = source.is_switch or sources.has_names
        if library and is_asked_for and source.name not in _told and source not in covered:
            if sys.modules.get(library) is None:
                missing.setdefault("" if source.is_switch else library, []).append(source.name)
    for library, names in missing.items():
        if library:
            # In the order of the message for unknown sources: the accelerators come last.
            shown = ", ".join(map(repr, sorted(names)))
            warn_caller(f"sources names {shown}, but {library} {what}, or leave sources= out")
        else:
            warn_caller(f"deterministic=True changed nothing: torch {what}, or leave it out")
        # Only now: where warnings are errors, each scope raises one.
        _told.update(names)
