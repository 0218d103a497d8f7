"""Python's own generators: the global one of module ``random``, and others of its type."""

from __future__ import annotations

import random
import struct

from rngscope import _details
from rngscope.sources import memory, mersenne
from rngscope.sources.cell import OneCell, SeededStates
from rngscope.sources.generators import BY_TWO_WORDS, GeneratorCell
from rngscope.sources.mersenne import as_tuple
from rngscope.sources.serialized import WORDS, check_gauss, check_keys, load_mersenne

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rngscope.sources.cell import Cell

#: The hidden instance whose methods ``random.random`` and its sisters are, or the module, whose
#: functions have the same names.
_GLOBAL: Any = _details.find(
    _details.RANDOM_INSTANCE, _details.RANDOM_INSTANCE_OF_METHOD, default=random
)
_GAUSS_IS_THERE = _details.proved(
    _details.RANDOM_GAUSS, hasattr(_GLOBAL, _details.RANDOM_GAUSS.name)
)


class RandomCell(GeneratorCell):
    """A ``random.Random``; a state is what ``getstate()`` returns."""

    kind = "random.Random"

    def getstate(self) -> Any:
        return self.generator.getstate()

    def setstate(self, state: Any) -> None:
        self.generator.setstate(state)

    def seed(self, seed: int) -> None:
        self.generator.seed(seed)

    def stream_of(self, seed: int) -> tuple[str, Any]:
        return (BY_TWO_WORDS if seed >= 2**32 else self.kind), self.generator

    @staticmethod
    def write(state: Any) -> dict[str, Any]:
        return dump_python(state)

    @staticmethod
    def read(fields: Any, where: str) -> Any:
        return load_python(fields, where)


class PythonSource(OneCell):
    """The hidden instance behind ``random.random()`` and its sisters.

    A state is position and words in one ``bytes`` of 2500, and the cached second Gaussian; on the
    API path it is what ``random.getstate()`` returns.
    """

    name = kind = "python"
    module = "random"
    path = ("python",)
    #: CPython seeds ``random`` anew in a forked child, and that seed must stay.
    not_restored_in_child = True

    def __init__(self) -> None:
        #: The generator's memory; False where the API path must be taken.
        self._view: memoryview | bool | None = None
        self.seeded_states = SeededStates()

    def getstate(self) -> Any:
        view = self._view
        if view is None:
            view = self._open_view()
        if view is False:
            return _GLOBAL.getstate()
        return bytes(view), _GLOBAL.gauss_next

    def setstate(self, state: Any) -> None:
        view = self._view
        if view and len(state) == 2:
            view[:], _GLOBAL.gauss_next = state  # type: ignore[index]
        else:
            _GLOBAL.setstate(as_tuple(state))

    def swap(self, found: dict[Cell, Any], state: Any) -> None:
        view = self._view
        if view and len(state) == 2:
            found[self] = bytes(view), _GLOBAL.gauss_next
            view[:], _GLOBAL.gauss_next = state  # type: ignore[index]
        else:
            super().swap(found, state)

    def seed(self, seed: int) -> None:
        if self._view and seed >= mersenne.FIRST_SHARED_SEED:
            # NumPy's words are the same, and made only once.
            self.setstate(self.seeded_state(seed))
        elif _GAUSS_IS_THERE:
            # What random.seed does, without its look at the type of the seed.
            mersenne.SEED(_GLOBAL, seed)
            _GLOBAL.gauss_next = None
        else:
            _GLOBAL.seed(seed)

    def seeded_state(self, seed: int) -> Any:
        if self._view:
            return mersenne.seeded_block(seed), None
        return random.Random(seed).getstate()

    def _open_view(self) -> memoryview | bool:
        is_known = _GAUSS_IS_THERE and memory.may_be_fast() and mersenne.layout_is_known()
        self._view = view = is_known and mersenne.view_of(_GLOBAL)
        return view

    def dump(self, state: Any) -> dict[str, Any]:
        return dump_python(state)

    def load(self, fields: Any) -> Any:
        return load_python(fields, self.name)


def dump_python(state: Any) -> dict[str, Any]:
    """Return the serialized form of a ``random.Random`` state."""
    _, (*words, position), gauss = as_tuple(state)
    data = struct.pack(f"<{WORDS}I", *words)
    return {"words": data.hex(), "position": position, "gauss": gauss}


def load_python(fields: Any, where: str) -> Any:
    """Return the state that ``fields`` describe, after checking every one of them."""
    check_keys(fields, {"words", "position", "gauss"}, where)
    words, position = load_mersenne(fields, where)
    gauss = check_gauss(fields["gauss"], f"{where}.gauss")
    return (3, (*struct.unpack(f"<{WORDS}I", words), position), gauss)
