"""What a source is copied as, here or in another process: the source of that process.

What a source keeps is of this process only: the addresses of states, the locks of libraries.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CopiedByName:
    """A source of which every process has one."""

    __slots__ = ()

    if TYPE_CHECKING:
        identity: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return source_of, (self.identity,)


def source_of(identity: str) -> Any:
    """Return this process's source of one identity.

    Raises:
        ValueError: there is none, in a copy that another version of rngscope wrote.
    """
    # Not at the top: the list imports the sources.
    from rngscope._sources import SOURCES

    for source in SOURCES:
        if source.identity == identity:
            return source
    raise ValueError(
        f"the copy is over {identity!r}, a source that this version of rngscope does not have"
    )


def limited_source_of(identity: str, devices: Any, without: Any) -> Any:
    """Return this process's source of one accelerator, over some devices only."""
    return source_of(identity).limited_to(devices, without)
