"""NumPy's generators: the legacy global one, ``numpy.random``, and those of the user."""

from __future__ import annotations

import sys

from rngscope import _details
from rngscope._interrupts import PATIENCE
from rngscope.sources import mersenne
from rngscope.sources.bit_generators import (
    NO_GAUSS,
    as_fields,
    dump_bit_generator,
    dump_random_state,
    load_bit_generator,
    load_random_state,
    name_of,
    numpy_seed,
    with_arrays,
)
from rngscope.sources.cell import OneCell, SeededStates
from rngscope.sources.generators import BY_ONE_WORD, BY_TWO_WORDS, GeneratorCell
from rngscope.sources.numpy_memory import Views
from rngscope.sources.presence import imported
from rngscope.sources.serialized import check_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from rngscope.sources.cell import Cell

_NOT_SEEDED_ALIKE = SeededStates(are_kept=False)
_BIT_GENERATOR = _details.NUMPY_BIT_GENERATOR


class NumpyGeneratorCell(GeneratorCell):
    """A ``numpy.random.Generator``; a state is the name of its bit generator and the fields."""

    kind = "numpy.random.Generator"

    def getstate(self) -> Any:
        bit_generator = self.generator.bit_generator
        return name_of(bit_generator), bit_generator.state

    def setstate(self, state: Any) -> None:
        self.generator.bit_generator.state = with_arrays(state[1])

    def check(self, state: Any) -> None:
        _check_name(name_of(self.generator.bit_generator), state, self.name)

    def seed(self, seed: int) -> None:
        bit_generator = self.generator.bit_generator
        bit_generator.state = type(bit_generator)(seed).state

    def stream_of(self, seed: int) -> tuple[str, Any]:
        return str(name_of(self.generator.bit_generator)), self.generator.bit_generator

    @staticmethod
    def write(state: Any) -> dict[str, Any]:
        return {"bit_generator": dump_bit_generator(*state)}

    @staticmethod
    def read(fields: Any, where: str) -> Any:
        check_keys(fields, {"bit_generator"}, where)
        state = load_bit_generator(fields["bit_generator"], f"{where}.bit_generator")
        return state["bit_generator"], state


class RandomStateCell(GeneratorCell):
    """A ``numpy.random.RandomState``; a state is its bit generator's name and the fields."""

    kind = "numpy.random.RandomState"

    def getstate(self) -> Any:
        return _name_in(self.generator), self.generator.get_state(legacy=False)

    def setstate(self, state: Any) -> None:
        self.generator.set_state(as_fields(state))

    def check(self, state: Any) -> None:
        _check_name(_name_in(self.generator), state, self.name)

    def seed(self, seed: int) -> None:
        # Not generator.seed(): under MT19937 it forgets the seed_seq, under others it leaves a
        # cached Gaussian behind (numpy#32062). A state without one drops it.
        self.generator.set_state(_state_after(seed, _kind_in(self.generator)))

    def stream_of(self, seed: int) -> tuple[str, Any]:
        bit_generator = getattr(self.generator, _BIT_GENERATOR.attribute, self.generator)
        if _kind_in(self.generator).__name__ == "MT19937":
            return (BY_TWO_WORDS if seed >= 2**32 else BY_ONE_WORD), bit_generator
        return str(_name_in(self.generator)), bit_generator

    @staticmethod
    def write(state: Any) -> dict[str, Any]:
        return dump_random_state(state)

    read = staticmethod(load_random_state)


def _name_in(generator: Any) -> Any:
    """Return the name of the bit generator of a ``RandomState``; its type if not NumPy's own."""
    bit_generator = getattr(generator, _BIT_GENERATOR.attribute, None)
    if bit_generator is not None:
        return name_of(bit_generator)
    _details.find(_BIT_GENERATOR)
    # The name of its type, where name_of() gives the type itself.
    return generator.get_state(legacy=False)["bit_generator"]


def _kind_in(generator: Any) -> Any:
    """Return the type of the bit generator of a ``RandomState``.

    Raises:
        TypeError: it cannot be found out.
    """
    bit_generator = getattr(generator, _BIT_GENERATOR.attribute, None)
    if bit_generator is not None:
        return type(bit_generator)
    name = _name_in(generator)
    kind = getattr(sys.modules["numpy.random"], name, None)
    if kind is None:
        raise TypeError(
            f"a RandomState over {name} cannot be seeded: this NumPy has no {_BIT_GENERATOR.path}"
        )
    return kind


def _check_name(here: Any, state: Any, where: str) -> None:
    if here != state[0]:
        raise ValueError(f"{where} runs on {here}, but the state is one of {state[0]}")


def _state_after(seed: int, kind: Any) -> Any:
    """Return the state that ``RandomState.seed()`` gives a bit generator of this type."""
    module = sys.modules["numpy.random"]
    if not issubclass(kind, module.MT19937):
        return kind(numpy_seed(seed)).state
    # What the type of a subclass makes of a seed is another thing than RandomState.seed().
    scratch = module.RandomState(0)
    scratch.seed(numpy_seed(seed))
    return {**scratch.get_state(legacy=False), "bit_generator": kind.__name__}


class NumpySource(OneCell):
    """The ``RandomState`` behind ``numpy.random.rand()`` and its sisters.

    A state is a tuple. On the fast path, which knows MT19937 only: the bit generator, its 2500
    bytes (624 words and the position) and the 16 bytes of the cached Gaussian. Otherwise: the bit
    generator and the dict that ``get_state(legacy=False)`` returns. To set a state puts back this
    very bit generator; one for use elsewhere has its name instead (its type, if it is not NumPy's
    own), and goes on with a bit generator of that type.
    """

    name = kind = "numpy"
    module = "numpy.random"
    path = ("numpy",)

    def __init__(self) -> None:
        self._views: Views | None = None
        self._seeded_states = SeededStates()

    def getstate(self) -> Any:
        views = self._views
        if views is None or views.current() is not views.bit_generator:
            views = self._open_views()
        lock = views.lock
        if lock is None:
            return views.read()
        # Not a with statement, which waits for ever: see TimedLock.
        try:
            lock.acquire(True, PATIENCE)
            return views.bit_generator, bytes(views.words), bytes(views.gauss)
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass

    def setstate(self, state: Any) -> None:
        bit_generator, views = state[0], self._views
        if (
            len(state) == 3
            and views is not None
            and views.current() is views.bit_generator
            and (bit_generator is views.bit_generator or bit_generator == "MT19937")
        ):
            views.write(state[1], state[2])
            return
        # Not as it is in sys.modules: an import that is interrupted at its very end is taken out of
        # there, although scopes have seeded it.
        module = (views or self._open_views()).module
        if not isinstance(bit_generator, (str, type)):
            # The object first: its words mean nothing to a bit generator of another type. To
            # install the same object again also drops a cached Gaussian.
            module.set_bit_generator(bit_generator)
        elif name_of(module.get_bit_generator()) != bit_generator:
            # The current object must not change: the scope's exit puts it back.
            if isinstance(bit_generator, str):
                bit_generator = getattr(module, bit_generator)
            module.set_bit_generator(bit_generator())
        views = self._open_views()
        if views.bit_generator is None or len(state) != 3:
            module.set_state(as_fields(state))
        else:
            views.write(state[1], state[2])

    def swap(self, found: dict[Cell, Any], state: Any) -> None:
        views = self._views
        if views is None or views.lock is None or views.current() is not views.bit_generator:
            super().swap(found, state)
            return
        lock = views.lock
        try:
            lock.acquire(True, PATIENCE)
            found[self] = views.bit_generator, bytes(views.words), bytes(views.gauss)
            views.words[:], views.gauss[:] = state[1], state[2]
        finally:
            try:
                lock.release()
            except RuntimeError:  # it was not to be had in time
                pass

    def seed(self, seed: int) -> None:
        views = self._open_views()
        if views.bit_generator is None:
            views.module.set_state(_state_after(seed, type(views.current())))
        else:
            views.write(*self.seeded_state(seed)[1:])

    def seeded_state(self, seed: int) -> Any:
        views = self._views
        assert views is not None
        if seed >= mersenne.FIRST_SHARED_SEED and views.shares_seeding:
            block = mersenne.seeded_block(seed)
            # CPython keeps the position before the words.
            return "MT19937", block[4:] + block[:4], NO_GAUSS
        return "MT19937", views.seeded_words(seed), NO_GAUSS

    def portable(self, state: Any) -> Any:
        return (name_of(state[0]), *state[1:])

    def _open_views(self) -> Views:
        """Return the views, of what the global generator runs on now if its layout is known."""
        views = self._views
        if views is None:
            views = self._views = Views(sys.modules["numpy.random"])
        is_known = views.current() is views.bit_generator or views.reopen()
        # Another type of bit generator makes something else of the same seed.
        self.seeded_states = self._seeded_states if is_known else _NOT_SEEDED_ALIKE
        return views

    def is_present(self) -> bool:
        return numpy_random() is not None

    dump = staticmethod(dump_random_state)

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
