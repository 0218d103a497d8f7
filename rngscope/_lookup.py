"""Look private details of other libraries up, and remember what was not there."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# Not a NamedTuple: to import typing costs as much as the whole package.
class Detail:
    """One row.

    Args:
        library: whose detail it is: the name of the table.
        module: where it is, as in ``sys.modules``. ``{}`` stands for the name of an
            accelerator. Empty if no path leads to it: a memory layout, which is proved where
            it is used, or an attribute that one sets or finds on objects.
        name: its name there, with dots where it is an attribute of an attribute.
        purpose: what it is used for. Rows of one library with the same purpose stand in for
            each other.
        without: what is done where it is missing.
        versions: the versions that have it, if not all.
    """

    __slots__ = ("library", "module", "name", "purpose", "without", "versions")

    def __init__(
        self, library: str, module: str, name: str, purpose: str, without: str, versions: str = ""
    ) -> None:
        self.library, self.module, self.name = library, module, name
        self.purpose, self.without, self.versions = purpose, without, versions

    @property
    def path(self) -> str:
        """The dotted path; of what has none, the name."""
        return f"{self.module}.{self.name}" if self.module else self.name

    @property
    def attribute(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    def on(self, accelerator: str) -> Detail:
        """Return the row for one accelerator."""
        module, name = self.module.format(accelerator), self.name.format(accelerator)
        return self.elsewhere(module, name, self.versions)

    def elsewhere(self, module: str, name: str, versions: str = "") -> Detail:
        """Return a row that stands in for this one."""
        return Detail(self.library, module, name, self.purpose, self.without, versions)

    def __repr__(self) -> str:
        return f"<Detail {self.path} of {self.library}>"


#: Not None, which may be what a name stands for.
_ABSENT = object()
#: What was looked for and not found, by path.
not_found: dict[str, Detail] = {}


def find(*rows: Detail, default: Any = None) -> Any:
    """Return the first of some rows that stand in for each other; ``default`` if none is there.

    If the libraries are not imported, nothing is said to be missing.
    """
    looked_for: list[Detail] = []
    for row in rows:
        found: Any = sys.modules.get(row.module)
        if found is None:
            continue
        looked_for.append(row)
        for part in row.name.split("."):
            found = getattr(found, part, _ABSENT)
        if found is _ABSENT:
            continue
        for other in rows:
            not_found.pop(other.path, None)
        return found
    # The first row is the one that the newest version should have.
    for row in looked_for[:1]:
        not_found[row.path] = row
    return default


def proved(row: Detail, is_as_known: bool) -> bool:
    """Note whether a memory layout proved to be the known one, and return that."""
    if is_as_known:
        not_found.pop(row.path, None)
    else:
        not_found[row.path] = row
    return is_as_known


def missing() -> list[Detail]:
    """Return what was looked for in this process and not found."""
    return list(not_found.values())
