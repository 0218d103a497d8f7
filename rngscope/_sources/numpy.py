"""NumPy's legacy global generator, ``numpy.random``."""

from __future__ import annotations

import struct
import sys
from _thread import RLock

from rngscope import _details
from rngscope._seeds import short_repr, source_seed
from rngscope._sources import memory, mersenne
from rngscope._sources.copied import CopiedByName
from rngscope._sources.imported import imported
from rngscope._sources.patient_lock import PATIENCE, PatientLock
from rngscope._sources.plain import (
    WORDS,
    check_gauss,
    check_keys,
    check_range,
    load_hex,
    load_mersenne,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_UINT128 = 2**128 - 1

#: ``has_gauss`` (int32, padded to 8 bytes) and ``gauss`` (double), as ``RandomState`` holds
#: its cached second Gaussian.
_GAUSS = struct.Struct("=iid")
_REENTRANT = type(RLock())
_NO_GAUSS = _GAUSS.pack(0, 0, 0.0)


class NumpySource(CopiedByName):
    """The ``RandomState`` behind ``numpy.random.rand()`` and its sisters.

    A state is a tuple. On the fast road, which knows MT19937 only: the bit generator, its
    2500 bytes (624 words and the position) and the 16 bytes of the cached Gaussian.
    Otherwise: the bit generator and the dict that ``get_state(legacy=False)`` returns.
    A captured state has the bit generator's name (its type, if it is not NumPy's own)
    in place of the object.
    """

    name = identity = "numpy"
    library = "numpy.random"
    is_switch = False
    keeps_fresh_seed_after_fork = False

    def __init__(self) -> None:
        self._views: _Views | None = None
        self._images = memory.SeedImages()

    def save(self) -> Any:
        views = self._views
        if views is None or views.current() is not views.bit_generator:
            views = self._open_views()
        if views is None:
            module = sys.modules["numpy.random"]
            return module.get_bit_generator(), module.get_state(legacy=False)
        lock = views.lock or PatientLock(views.plain_lock)
        try:
            lock.acquire(True, PATIENCE)
            return views.bit_generator, bytes(views.words), bytes(views.gauss)
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass

    def capture(self) -> Any:
        if numpy_random() is None:
            return None
        return self.portable(self.save())

    def portable(self, state: Any) -> Any:
        return None if state is None else (name_of(state[0]), *state[1:])

    def restore(self, state: Any) -> None:
        bit_generator, views = state[0], self._views
        if (
            len(state) == 3
            and views is not None
            and views.current() is bit_generator is views.bit_generator
        ):
            views.write(state[1], state[2])
            return
        # The object first: its words mean nothing to a bit generator of another type. To
        # install the same object again also drops a cached Gaussian.
        sys.modules["numpy.random"].set_bit_generator(bit_generator)
        self._write(state)

    def replay(self, state: Any) -> None:
        module = sys.modules["numpy.random"]
        kind = state[0]
        if name_of(module.get_bit_generator()) != kind:
            # The current object must not change: the scope's exit puts it back.
            made = getattr(module, kind) if isinstance(kind, str) else kind
            module.set_bit_generator(made())
        self._write(state)

    def _write(self, state: Any) -> None:
        views = self._open_views()
        if views is None or len(state) != 3:
            sys.modules["numpy.random"].set_state(as_fields(state))
            return
        views.write(state[1], state[2])

    def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
        views = self._views
        if views is None or views.current() is not views.bit_generator:
            saved.append(self.save())
            self.seed(seed, independent)
            return
        if independent:
            seed = source_seed(seed, self.name)
        words = self._images.get(seed) or self._words_of(seed, views)
        lock = views.lock or PatientLock(views.plain_lock)
        try:
            lock.acquire(True, PATIENCE)
            saved.append((views.bit_generator, bytes(views.words), bytes(views.gauss)))
            views.words[:] = words
            views.gauss[:] = _NO_GAUSS
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass

    def seed(self, seed: int, independent: bool) -> None:
        if independent:
            seed = source_seed(seed, self.name)
        views = self._open_views()
        if views is None:
            module = sys.modules["numpy.random"]
            # Not numpy.random.seed(): under MT19937 it forgets the seed_seq, under others it
            # leaves a cached Gaussian behind (numpy#32062). A state without one drops it.
            module.set_state(self._seeded_by_hand(seed, module.get_bit_generator()))
            return
        words = self._images.get(seed) or self._words_of(seed, views)
        views.write(words, _NO_GAUSS)

    def _seeded_by_hand(self, seed: int, bit_generator: Any) -> Any:
        """Return the state that ``numpy.random.seed()`` gives this bit generator."""
        assert self._views is not None
        if not isinstance(bit_generator, self._views.mersenne):
            return type(bit_generator)(numpy_seed(seed)).state
        self._views.scratch.seed(numpy_seed(seed))
        return self._views.scratch_bit_generator.state

    def _words_of(self, seed: int, views: _Views) -> bytes:
        if seed >= mersenne.FIRST_SHARED_SEED and views.shares_seeding:
            block = mersenne.seeded_block(seed)
            # CPython keeps the position before the words.
            words = block[4:] + block[:4]
        else:
            words = views.seeded_words(seed)
        if self._images.wants(seed):
            self._images[seed] = words
        return words

    def _open_views(self) -> _Views | None:
        """Return views of what the global generator runs on now, if its layout is known."""
        views = self._views
        if views is None:
            views = self._views = _Views(sys.modules["numpy.random"])
        if views.current() is views.bit_generator or views.reopen():
            return views
        return None

    def is_present(self) -> bool:
        return numpy_random() is not None

    def check(self, state: Any) -> None:
        pass

    def dump(self, state: Any) -> dict[str, Any]:
        return dump_random_state(state[0], fields_of(state))

    def load(self, fields: Any) -> Any:
        return load_random_state(fields, self.name)


def numpy_random() -> ModuleType | None:
    """Return ``numpy.random`` once it is imported."""
    # Through sys.modules: when its import completes, it is no attribute of numpy yet.
    return imported("numpy.random", "set_bit_generator")


def load_numpy_random() -> None:
    """Import ``numpy.random`` where NumPy is imported.

    NumPy 2 does so at its first use, but who has imported NumPy counts on it.
    """
    if "numpy.random" not in sys.modules and imported("numpy", "ndarray") is not None:
        import numpy.random  # noqa: F401


class _Views:
    """The memory of the global ``RandomState``: the words of its MT19937, and the Gaussian."""

    __slots__ = (
        "global_state",
        "current",
        "bit_generator",
        "mersenne",
        "words",
        "gauss",
        "lock",
        "plain_lock",
        "offset",
        "scratch",
        "scratch_bit_generator",
        "scratch_words",
        "seed_scratch",
        "scratch_seed",
        "shares_seeding",
    )

    def __init__(self, module: ModuleType) -> None:
        self.global_state = _details.find(
            _details.NUMPY_INSTANCE, _details.NUMPY_INSTANCE_OF_METHOD
        )
        #: Returns the bit generator that is installed now.
        self.current = module.get_bit_generator
        self.mersenne = module.MT19937
        self.scratch_bit_generator = self.mersenne(0)
        self.scratch = module.RandomState(self.scratch_bit_generator)
        self.scratch_words = _view_words(self.scratch_bit_generator)
        # What RandomState.seed calls after a look at the type of its bit generator.
        bare = _details.NUMPY_BARE_SEEDING
        self.seed_scratch = (
            getattr(self.scratch_bit_generator, bare.attribute)
            if _details.find(bare)
            else self.scratch.seed
        )
        self.scratch_seed = 0
        #: Whether CPython's generator proves to be seeded alike.
        self.shares_seeding = self._compare_seeding()
        self.offset = (
            self.global_state is not None
            and memory.may_be_fast()
            and _find_gauss(self.scratch)
        )
        #: The MT19937 that ``words`` and the lock belong to.
        self.bit_generator: Any = None

    def _compare_seeding(self) -> bool:
        if not (memory.may_be_fast() and mersenne.layout_is_known()):
            return False
        seed = 2**63 + 5
        block = mersenne.seeded_block(seed)
        return block[4:] + block[:4] == self.seeded_words(seed)

    def seeded_words(self, seed: int) -> bytes:
        """Return words and position of a freshly seeded MT19937."""
        # On a scratch object: numpy.random.seed() forgets the seed_seq of the global one.
        while True:
            self.scratch_seed = seed
            self.seed_scratch(numpy_seed(seed))
            words = bytes(self.scratch_words)
            # A signal handler may have opened a scope of its own in between.
            if self.scratch_seed == seed:
                return words

    def reopen(self) -> bool:
        """Look at the bit generator that is installed now; tell whether that is possible."""
        bit_generator = self.current()
        if self.offset is False or type(bit_generator) is not self.mersenne:
            return False
        self.words = _view_words(bit_generator)
        state = self.global_state
        self.gauss = memory.view_memory(state, id(state) + self.offset, _GAUSS.size)
        self.plain_lock: Any = bit_generator.lock
        #: None for an older NumPy, whose lock is not reentrant.
        self.lock: Any = self.plain_lock if isinstance(self.plain_lock, _REENTRANT) else None
        self.bit_generator = bit_generator
        return True

    def write(self, words: bytes, gauss: bytes) -> None:
        # NumPy draws arrays without the GIL, under this lock. It may be held by a thread that
        # waits for us: numpy.random.shuffle runs a list's own code. Not a with statement,
        # which takes twice the time; no interrupt comes between acquire and its effect, nor,
        # unless something is asked before, between the last line and the release.
        lock = self.lock or PatientLock(self.plain_lock)
        try:
            lock.acquire(True, PATIENCE)
            self.words[:] = words
            self.gauss[:] = gauss
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass


def _view_words(bit_generator: Any) -> memoryview:
    # A documented address: the words of an MT19937, then an int32 position.
    address = bit_generator.ctypes.state_address
    return memory.view_memory(bit_generator, address, memory.MERSENNE_BYTES)


def _find_gauss(scratch: Any) -> int | bool:
    """Return where a ``RandomState`` keeps its cached Gaussian, or False.

    The place is documented nowhere: it is found and proved on a scratch object, reading
    and writing.
    """
    offset = _prove_gauss(scratch)
    _details.proved(_details.NUMPY_LAYOUT, offset is not False)
    return offset


def _prove_gauss(scratch: Any) -> int | bool:
    mark = 1.2345678901234567
    whole = memory.view_memory(scratch, id(scratch), type(scratch).__basicsize__)
    before = scratch.get_state()
    scratch.set_state((*before[:3], 1, mark))
    offset = bytes(whole).find(_GAUSS.pack(1, 0, mark))
    # The four bytes of padding may hold anything; where they do, by public calls.
    if offset < 0:
        return False
    view = whole[offset : offset + _GAUSS.size]
    scratch.set_state(before)
    if _GAUSS.unpack(view)[0] != 0:
        return False
    view[:] = _GAUSS.pack(1, 0, -mark)
    is_known = scratch.get_state()[3:] == (1, -mark) and scratch.standard_normal() == -mark
    return offset if is_known and _GAUSS.unpack(view)[0] == 0 else False


def name_of(bit_generator: Any) -> Any:
    """Return the name of one of NumPy's own bit generators, of any other its type."""
    kind = type(bit_generator)
    is_own = kind.__name__ in _LAYOUTS and kind.__module__.startswith("numpy.")
    return kind.__name__ if is_own else kind


def numpy_seed(seed: int) -> int | list[int]:
    """Return what NumPy takes for ``seed``: from 2**32 up the words ``[low, high]``."""
    return seed if seed <= _UINT32 else [seed & _UINT32, seed >> 32]


def as_fields(state: Any) -> dict[str, Any]:
    """Return a state of either road as what ``RandomState.set_state`` takes."""
    fields: dict[str, Any] = with_arrays(fields_of(state))
    return fields


def fields_of(state: Any) -> Any:
    """Return the fields of a state of either road; needs no NumPy."""
    if len(state) == 2:
        return state[1]
    *key, position = struct.unpack(f"={WORDS}Ii", state[1])
    has_gauss, _, gauss = _GAUSS.unpack(state[2])
    return {
        "bit_generator": "MT19937",
        "state": {"key": key, "pos": position},
        "has_gauss": has_gauss,
        "gauss": gauss,
    }


#: Field of a bit generator's state -> largest value, or (number of words, bytes a word).
#: MT19937 stands apart: see ``load_mersenne``.
_LAYOUTS: dict[str, dict[str, Any]] = {
    "MT19937": {},
    "PCG64": {"state": _UINT128, "inc": _UINT128, "has_uint32": 1, "uinteger": _UINT32},
    "PCG64DXSM": {"state": _UINT128, "inc": _UINT128, "has_uint32": 1, "uinteger": _UINT32},
    "Philox": {
        "counter": (4, 8),
        "key": (2, 8),
        "buffer": (4, 8),
        "buffer_pos": 4,
        "has_uint32": 1,
        "uinteger": _UINT32,
    },
    "SFC64": {"state": (4, 8), "has_uint32": 1, "uinteger": _UINT32},
}
#: Fields that stand beside the inner ``state`` of a bit generator, not in it.
_OUTSIDE = ("has_uint32", "uinteger", "buffer", "buffer_pos")


def dump_random_state(name: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the plain form of a ``RandomState``: its bit generator and cached Gaussian."""
    return {
        "bit_generator": dump_bit_generator(name, fields),
        "gauss": float(fields["gauss"]) if fields["has_gauss"] else None,
    }


def load_random_state(fields: Any, where: str) -> Any:
    """Return the state that ``fields`` describe, after checking every one of them."""
    check_keys(fields, {"bit_generator", "gauss"}, where)
    gauss = check_gauss(fields["gauss"], f"{where}.gauss")
    inner = load_bit_generator(fields["bit_generator"], f"{where}.bit_generator")
    if inner["bit_generator"] == "MT19937":
        key, position = inner["state"]["key"], inner["state"]["pos"]
        words = struct.pack(f"={WORDS}Ii", *key, position)
        return "MT19937", words, _GAUSS.pack(gauss is not None, 0, gauss or 0.0)
    inner["has_gauss"], inner["gauss"] = int(gauss is not None), gauss or 0.0
    return inner["bit_generator"], inner


def dump_bit_generator(name: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return the plain form of a bit generator's state.

    Raises:
        TypeError: the bit generator is not one of NumPy's own.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the bit generator {name.__qualname__!r} is not NumPy's own, so its state has no "
            f"plain form; choose from {', '.join(map(repr, _LAYOUTS))}"
        )
    inner = state["state"]
    if name == "MT19937":
        data = struct.pack(f"<{WORDS}I", *map(int, inner["key"]))
        return {"kind": name, "words": data.hex(), "position": int(inner["pos"])}
    inner = {**inner, **{k: v for k, v in state.items() if k in _OUTSIDE}}
    plain: dict[str, Any] = {"kind": name}
    for field, layout in _LAYOUTS[name].items():
        if isinstance(layout, tuple):
            words = [int(word).to_bytes(layout[1], "little") for word in inner[field]]
            plain[field] = b"".join(words).hex()
        else:
            # As text: many JSON readers know no integer of 128 bits.
            plain[field] = str(int(inner[field])) if layout > _UINT64 else int(inner[field])
    return plain


def load_bit_generator(fields: Any, where: str) -> dict[str, Any]:
    """Return the state that ``fields`` describe, after checking every one of them.

    Words come as lists: ``with_arrays`` makes them what NumPy's setters want.
    """
    name = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(name, str) or name not in _LAYOUTS:
        choices = ", ".join(map(repr, _LAYOUTS))
        raise ValueError(f"{where}.kind must be one of {choices}, not {short_repr(name)}")
    fields = {key: value for key, value in fields.items() if key != "kind"}
    if name == "MT19937":
        check_keys(fields, {"words", "position"}, where)
        words, position = load_mersenne(fields, where)
        key = list(struct.unpack(f"<{WORDS}I", words))
        return {"bit_generator": name, "state": {"key": key, "pos": position}}
    check_keys(fields, set(_LAYOUTS[name]), where)
    values: dict[str, Any] = {}
    for field, layout in _LAYOUTS[name].items():
        place, value = f"{where}.{field}", fields[field]
        if isinstance(layout, tuple):
            count, size = layout
            data = load_hex(value, place, count * size)
            chunks = [data[i : i + size] for i in range(0, len(data), size)]
            values[field] = [int.from_bytes(chunk, "little") for chunk in chunks]
        elif layout > _UINT64:
            is_decimal = isinstance(value, str) and value.isascii() and value.isdigit()
            number = int(value) if is_decimal and len(value) < 40 else value
            values[field] = check_range(number, 0, layout, place)
        else:
            values[field] = check_range(value, 0, layout, place)
    if not values.get("inc", 1) & 1:
        raise ValueError(f"{where}.inc must be odd, not {values['inc']!r}")
    outside = {k: v for k, v in values.items() if k in _OUTSIDE}
    inside = {k: v for k, v in values.items() if k not in _OUTSIDE}
    return {
        "bit_generator": name,
        "state": inside,
        **outside,
    }


def with_arrays(state: Any) -> Any:
    """Return ``state`` with its word lists as the arrays that NumPy's setters want."""
    numpy = sys.modules["numpy"]
    dtype = "uint32" if state["bit_generator"] == "MT19937" else "uint64"

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: arrays(v) for k, v in value.items()}
        return numpy.array(value, dtype=dtype) if isinstance(value, list) else value

    return arrays(state)
