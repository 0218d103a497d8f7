"""Generators that belong to the user: each is a source of its own."""

from __future__ import annotations

import random
import sys

from rngscope import _details
from rngscope._errors import warn_caller
from rngscope._seeds import short_repr, source_seed
from rngscope._sources import memory
from rngscope._sources.numpy import (
    as_fields,
    dump_bit_generator,
    dump_random_state,
    fields_of,
    load_bit_generator,
    load_random_state,
    name_of,
    numpy_seed,
    with_arrays,
)
from rngscope._sources.plain import check_keys, load_hex
from rngscope._sources.python import dump_python, load_python
from rngscope._sources.torch_cpu import (
    check_torch_state,
    load_torch_state,
    set_generator,
    tensor_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


_BIT_GENERATOR = _details.NUMPY_BIT_GENERATOR
#: Tells how many references there are to an object. Exact only in CPython with its global lock;
#: elsewhere None.
count_references = (
    getattr(sys, "getrefcount", None) if memory.may_be_fast() else None
)


class GeneratorSource:
    """One RNG object of the user, at one position of ``generators=``."""

    library = ""
    is_switch = False
    keeps_fresh_seed_after_fork = False

    def __init__(self, generator: Any, position: int) -> None:
        self.generator = generator
        self.position = position
        self.kind = kind_of(generator)
        self.verbs = _VERBS[self.kind]
        self.name = f"generators[{position}]"
        self.identity = id(generator)
        #: Whether anybody but this source was seen to hold the generator.
        self.had_owner = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the generator is another RNG, which need not have been the same one here.
        return GeneratorSource, (self.generator, self.position)

    def save(self) -> Any:
        self.had_owner = self.had_owner or self._has_owner()
        return self.verbs.save(self.generator)

    capture = save

    def _has_owner(self) -> bool:
        # This source's own reference, and that of the call.
        return count_references is not None and count_references(self.generator) > 2

    def was_replaced(self) -> bool:
        """Tell, once, whether those that held the generator have let it go.

        ``env.reset(seed=...)`` of a Gymnasium environment, for one, makes a new generator.
        """
        if not self.had_owner or self._has_owner():
            return False
        self.had_owner = False
        return True

    def restore(self, state: Any) -> None:
        self.verbs.restore(self.generator, state)

    replay = restore

    def portable(self, state: Any) -> Any:
        return state

    def is_present(self) -> bool:
        return True

    def check(self, state: Any) -> None:
        """Refuse the state of another kind of generator.

        Raises:
            ValueError: naming both kinds.
        """
        self.verbs.check(self.generator, state, self.name)

    def seed(self, seed: int, independent: bool) -> None:
        if independent:
            seed = source_seed(seed, "generators", self.position)
        self.verbs.seed(self.generator, seed)

    def dump(self, state: Any) -> dict[str, Any]:
        return dump_generator(self.kind, state)

    def load(self, fields: Any) -> Any:
        kind, state = load_generator(fields, self.name)
        if kind != self.kind:
            raise ValueError(f"{self.name} is a {self.kind}, but the state is one of a {kind}")
        self.check(state)
        return state


#: Two ways to seed a Mersenne Twister, which libraries share: from one 32-bit word, and from
#: an array of them.
_BY_ONE_WORD, _BY_TWO_WORDS = "Mersenne Twister of one word", "Mersenne Twister of two words"


class _PythonRandom:
    """A ``random.Random``; a state is what ``getstate()`` returns."""

    @staticmethod
    def save(generator: Any) -> Any:
        return generator.getstate()

    @staticmethod
    def restore(generator: Any, state: Any) -> None:
        generator.setstate(state)

    @staticmethod
    def check(generator: Any, state: Any, where: str) -> None:
        pass

    @staticmethod
    def seed(generator: Any, seed: int) -> None:
        generator.seed(seed)

    @staticmethod
    def stream_of(generator: Any, seed: int) -> tuple[str, Any]:
        return (_BY_TWO_WORDS if seed >= 2**32 else "random.Random"), generator

    dump = staticmethod(dump_python)
    load = staticmethod(load_python)


class _TorchGenerator:
    """A ``torch.Generator``; a state is device and tensor, or the bytes of one."""

    @staticmethod
    def save(generator: Any) -> Any:
        return str(generator.device), generator.get_state()

    @staticmethod
    def restore(generator: Any, state: Any) -> None:
        set_generator(generator, state[1], "state")

    @staticmethod
    def check(generator: Any, state: Any, where: str) -> None:
        here = generator.device.type
        if state[0].partition(":")[0] != here:
            raise ValueError(
                f"{where} runs on {here!r}, but the state is one of {short_repr(state[0])}"
            )
        if here == "cpu" and isinstance(state[1], bytes):
            check_torch_state(state[1], where)

    @staticmethod
    def seed(generator: Any, seed: int) -> None:
        generator.manual_seed(seed)

    @staticmethod
    def stream_of(generator: Any, seed: int) -> tuple[str, Any]:
        kind = generator.device.type
        # On the CPU it reads the low word only.
        return (_BY_ONE_WORD if kind == "cpu" else f"torch.Generator on {kind}"), generator

    @staticmethod
    def dump(state: Any) -> dict[str, Any]:
        return {"device": state[0], "state": tensor_bytes(state[1]).hex()}

    @staticmethod
    def load(fields: Any, where: str) -> Any:
        check_keys(fields, {"device", "state"}, where)
        device = fields["device"]
        if not isinstance(device, str):
            raise ValueError(f"{where}.device must be a str, not {short_repr(device)}")
        if device == "cpu":
            return device, load_torch_state({"state": fields["state"]}, where)
        return device, load_hex(fields["state"], f"{where}.state")


class _NumpyGenerator:
    """A ``numpy.random.Generator``; a state is the name of its bit generator and the words."""

    @staticmethod
    def save(generator: Any) -> Any:
        bit_generator = generator.bit_generator
        return name_of(bit_generator), bit_generator.state

    @staticmethod
    def restore(generator: Any, state: Any) -> None:
        generator.bit_generator.state = with_arrays(state[1])

    @staticmethod
    def check(generator: Any, state: Any, where: str) -> None:
        _check_name(name_of(generator.bit_generator), state, where)

    @staticmethod
    def seed(generator: Any, seed: int) -> None:
        bit_generator = generator.bit_generator
        bit_generator.state = type(bit_generator)(seed).state

    @staticmethod
    def stream_of(generator: Any, seed: int) -> tuple[str, Any]:
        return name_of(generator.bit_generator), generator.bit_generator

    @staticmethod
    def dump(state: Any) -> dict[str, Any]:
        return {"bit_generator": dump_bit_generator(*state)}

    @staticmethod
    def load(fields: Any, where: str) -> Any:
        check_keys(fields, {"bit_generator"}, where)
        state = load_bit_generator(fields["bit_generator"], f"{where}.bit_generator")
        return state["bit_generator"], state


class _NumpyRandomState:
    """A ``numpy.random.RandomState``; a state is its bit generator's name and the fields."""

    @staticmethod
    def save(generator: Any) -> Any:
        return _name_in(generator), generator.get_state(legacy=False)

    @staticmethod
    def restore(generator: Any, state: Any) -> None:
        generator.set_state(as_fields(state))

    @staticmethod
    def check(generator: Any, state: Any, where: str) -> None:
        _check_name(_name_in(generator), state, where)

    @staticmethod
    def seed(generator: Any, seed: int) -> None:
        kind = _kind_in(generator)
        if kind.__name__ == "MT19937":
            generator.seed(numpy_seed(seed))
        else:
            # As numpy.random.seed does under another bit generator; without has_gauss in
            # the state, set_state also drops a cached Gaussian.
            generator.set_state(kind(numpy_seed(seed)).state)

    @staticmethod
    def stream_of(generator: Any, seed: int) -> tuple[str, Any]:
        bit_generator = getattr(generator, _BIT_GENERATOR.attribute, generator)
        if _kind_in(generator).__name__ == "MT19937":
            return (_BY_TWO_WORDS if seed >= 2**32 else _BY_ONE_WORD), bit_generator
        return _name_in(generator), bit_generator

    @staticmethod
    def dump(state: Any) -> dict[str, Any]:
        return dump_random_state(state[0], fields_of(state))

    load = staticmethod(load_random_state)


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


_VERBS: dict[str, Any] = {
    "torch.Generator": _TorchGenerator,
    "numpy.random.Generator": _NumpyGenerator,
    "numpy.random.RandomState": _NumpyRandomState,
    "random.Random": _PythonRandom,
}


def warn_of_alike(sources: Iterable[Any], seed: int) -> None:
    """Warn of generators that draw the same numbers when all are seeded with ``seed``."""
    alike: dict[str, dict[Any, str]] = {}
    for source in sources:
        if isinstance(source, GeneratorSource):
            stream, rng = source.verbs.stream_of(source.generator, seed)
            # Of several generators over one bit generator, which are one RNG, the first counts.
            alike.setdefault(stream, {}).setdefault(id(rng), source.name)
    for names in alike.values():
        if len(names) > 1:
            *others, last = names.values()
            warn_caller(
                f"{', '.join(others)} and {last} draw the same numbers, because they are seeded "
                f"with one integer; independent=True gives each a seed of its own"
            )


def load_generator(fields: Any, where: str) -> tuple[str, Any]:
    """Return kind and state that ``fields`` describe, after checking every one of them."""
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _VERBS:
        raise ValueError(f"{where}.kind must be one of {', '.join(_VERBS)}, not {short_repr(kind)}")
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return kind, _VERBS[kind].load(rest, where)


def dump_generator(kind: str, state: Any) -> dict[str, Any]:
    """Return the plain form of the state of one kind of generator."""
    return {"kind": kind, **_VERBS[kind].dump(state)}


def generator_types() -> tuple[type, ...]:
    """Return the types of the four kinds whose libraries are imported."""
    found = []
    for kind in _VERBS:
        module, _, name = kind.rpartition(".")
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None:
            found.append(cls)
    return tuple(found)


def kind_of(generator: object) -> str:
    """Return which of the four kinds of generator this is.

    Raises:
        TypeError: it is none of them, or a ``random.SystemRandom``, which has no state.
    """
    for kind in _VERBS:
        module, _, name = kind.rpartition(".")
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(generator, cls):
            if not isinstance(generator, random.SystemRandom):
                return kind
    hint = " (it draws from the operating system: no state)"
    raise TypeError(
        f"generators must hold {', '.join(_VERBS)}, not {type(generator).__name__}: "
        f"{short_repr(generator)}{hint if isinstance(generator, random.SystemRandom) else ''}"
    )
