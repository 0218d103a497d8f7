"""Libraries that the program has imported; nothing here imports one."""

from __future__ import annotations

import sys

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_IS_RUNNING = _details.IS_BEING_IMPORTED.attribute


def imported(library: str, attribute: str = "__name__") -> ModuleType | None:
    """Return a library that has this attribute, if the program has imported it completely.

    While its import runs, in this thread or another one, its generators are not to be used:
    torch crashes.
    """
    module = sys.modules.get(library)
    # Not getattr: a module may be one that loads itself when asked for an attribute.
    names = object.__getattribute__(module, "__dict__") if module is not None else {}
    if attribute not in names:
        return None
    is_running = getattr(names.get("__spec__"), _IS_RUNNING, False)
    return None if is_running else module
