"""Python's own global generator, module ``random``."""

from __future__ import annotations

import random
import struct

from rngscope import _details
from rngscope._seeds import source_seed
from rngscope._sources import memory, mersenne
from rngscope._sources.mersenne import as_tuple
from rngscope._sources.plain import WORDS, check_gauss, check_keys, load_mersenne

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The hidden instance whose methods ``random.random`` and its sisters are, or the module, whose
#: functions have the same names.
_GLOBAL: Any = _details.find(
    _details.RANDOM_INSTANCE, _details.RANDOM_INSTANCE_OF_METHOD, default=random
)
_GAUSS_IS_THERE = _details.proved(
    _details.RANDOM_GAUSS, hasattr(_GLOBAL, _details.RANDOM_GAUSS.name)
)


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
        return bytes(view), _GLOBAL.gauss_next

    capture = save

    def restore(self, state: Any) -> None:
        view = self._view
        if view and len(state) == 2:
            view[:], _GLOBAL.gauss_next = state  # type: ignore[index]
        else:
            _GLOBAL.setstate(as_tuple(state))

    replay = restore

    def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
        view, image = self._view, self._images.get(seed)
        if not view or image is None or independent:
            saved.append(self.save())
            self.seed(seed, independent)
            return
        saved.append((bytes(view), _GLOBAL.gauss_next))
        view[:], _GLOBAL.gauss_next = image  # type: ignore[index]

    def seed(self, seed: int, independent: bool) -> None:
        if independent:
            seed = source_seed(seed, self.name)
        image = self._images.get(seed)
        if image is None:
            is_fast = bool(self._view)
            is_kept = self._images.wants(seed)
            if not is_kept and not (is_fast and seed >= mersenne.FIRST_SHARED_SEED):
                if not _GAUSS_IS_THERE:
                    _GLOBAL.seed(seed)
                    return
                mersenne.SEED(_GLOBAL, seed)
                _GLOBAL.gauss_next = None
                return
            # Of a generator of its own: other threads may draw from the global one meanwhile.
            image = (
                (mersenne.seeded_block(seed), None) if is_fast else random.Random(seed).getstate()
            )
            if is_kept:
                self._images[seed] = image
        self.restore(image)

    def _open_view(self) -> memoryview | bool:
        is_known = _GAUSS_IS_THERE and memory.may_be_fast() and mersenne.layout_is_known()
        self._view = view = is_known and mersenne.view_of(_GLOBAL)
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
