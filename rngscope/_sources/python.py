"""Python's own global generator, module ``random``."""

from __future__ import annotations

import random
import struct

from rngscope._seeds import source_seed
from rngscope._sources import memory
from rngscope._sources.plain import WORDS, check_gauss, check_keys, load_mersenne

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The hidden instance whose methods ``random.random`` and its sisters are.
_GLOBAL: random.Random = random.seed.__self__  # type: ignore[attr-defined]

_SEED = random.Random.__base__.seed  # type: ignore[union-attr]

#: CPython keeps an int32 position, then 624 uint32 words, behind the object's header. This
#: is documented nowhere: ``_check_layout`` proves it before it is trusted.
_HEADER = object.__basicsize__


class PythonSource:
    """The hidden instance behind ``random.random()`` and its sisters.

    A state is position and words in one ``bytes`` of 2500, and the cached second Gaussian;
    on the public road it is what ``random.getstate()`` returns.
    """

    name = identity = "python"
    library = "random"
    #: CPython seeds ``random`` anew in a forked child, and that seed must stay.
    is_switch = False
    keeps_fresh_seed_after_fork = True

    def __init__(self) -> None:
        #: The global generator's memory; False where the public road must be taken.
        self._view: memoryview | bool | None = None
        self._images = memory.SeedImages()

    def save(self) -> Any:
        view = self._view
        if view is None:
            view = self._open_view()
        if view is False:
            return _GLOBAL.getstate()
        return bytes(view), _GLOBAL.gauss_next  # type: ignore[attr-defined]

    capture = save

    def restore(self, state: Any) -> None:
        view = self._view
        if view is None:
            view = self._open_view()
        if view is False or len(state) != 2:
            _GLOBAL.setstate(as_tuple(state))
        else:
            view[:], _GLOBAL.gauss_next = state  # type: ignore[index, attr-defined]

    replay = restore

    def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
        saved.append(self.save())
        self.seed(seed, independent)

    def seed(self, seed: int, independent: bool) -> None:
        if independent:
            seed = source_seed(seed, self.name)
        image = self._images.get(seed)
        if image is not None:
            self.restore(image)
            return
        if self._images.wants(seed):
            # Of a generator of its own: other threads may draw from the global one meanwhile.
            scratch = random.Random(seed)
            view = self._view
            self._images[seed] = image = (
                (bytes(view_of(scratch)), None)
                if isinstance(view, memoryview)
                else scratch.getstate()
            )
            self.restore(image)
            return
        # Not random.seed(): it does the same, but looks at the type of the seed before.
        _SEED(_GLOBAL, seed)
        _GLOBAL.gauss_next = None  # type: ignore[attr-defined]

    def _open_view(self) -> memoryview | bool:
        self._view = view = memory.may_be_fast() and _check_layout() and view_of(_GLOBAL)
        return view

    def is_present(self) -> bool:
        return True

    def check(self, state: Any) -> None:
        pass

    def portable(self, state: Any) -> Any:
        return state

    def dump(self, state: Any) -> dict[str, Any]:
        return dump_python(state)

    def load(self, fields: Any) -> Any:
        return load_python(fields, self.name)


def view_of(generator: random.Random) -> memoryview:
    """Return the memory of position and words."""
    return memory.view_memory(generator, id(generator) + _HEADER, memory.MERSENNE_BYTES)


def _check_layout() -> bool:
    """Prove on a scratch generator, reading and writing, that the layout is the known one."""
    if random.Random.__base__.__basicsize__ < _HEADER + memory.MERSENNE_BYTES:  # type: ignore
        return False
    scratch, other = random.Random(1), random.Random(2)
    scratch.random()
    view = view_of(scratch)
    # Words are read after position: as the public state orders them, the other way round.
    if as_tuple((bytes(view), None)) != scratch.getstate():
        return False
    view[:] = as_block(other.getstate())
    return scratch.getstate() == other.getstate() and scratch.random() == other.random()


def as_block(state: Any) -> bytes:
    """Return position and words of ``getstate()`` as the bytes that CPython holds."""
    *words, position = state[1]
    return struct.pack(f"=i{WORDS}I", position, *words)


def as_tuple(state: Any) -> Any:
    """Return a state of either road as what ``setstate()`` takes."""
    if len(state) != 2:
        return state
    block, gauss = state
    position, *words = struct.unpack(f"=i{WORDS}I", block)
    return (3, (*words, position), gauss)


def dump_python(state: Any) -> dict[str, Any]:
    """Return the plain form of a ``random.Random`` state."""
    _, (*words, position), gauss = as_tuple(state)
    data = struct.pack(f"<{WORDS}I", *words)
    return {"words": data.hex(), "position": position, "gauss": gauss}


def load_python(fields: Any, where: str) -> Any:
    """Return the state that ``fields`` describe, after checking every one of them."""
    check_keys(fields, {"words", "position", "gauss"}, where)
    words, position = load_mersenne(fields, where)
    gauss = check_gauss(fields["gauss"], f"{where}.gauss")
    return (3, (*struct.unpack(f"<{WORDS}I", words), position), gauss)
