"""The list of sources, and what each of them can do.

A new library is one new file here and one line in ``SOURCES``.
"""

from __future__ import annotations

import sys

from rngscope._seeds import short_repr
from rngscope._sources.determinism import DeterminismSource
from rngscope._sources.generators import GeneratorSource
from rngscope._sources.numpy import NumpySource, load_numpy_random, numpy_random
from rngscope._sources.python import PythonSource
from rngscope._sources.torch_accelerator import (
    AcceleratorSource,
    MpsSource,
    MtiaSource,
    PrivateSource,
)
from rngscope._sources.torch_cpu import TorchSource, core_names, torch_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    class Source(Protocol):
        """One global RNG. States are opaque: only their own source looks into them.

        Nothing here imports or starts anything. Only ``is_present`` and ``capture`` may be
        asked of a source whose library is not imported.
        """

        name: str
        #: The same for two sources of the same RNG.
        identity: Any
        #: The module that brings the RNG.
        library: str
        #: Begins in every scope, even one that seeds nothing.
        is_switch: bool
        keeps_fresh_seed_after_fork: bool

        def save(self) -> Any:
            """Return what ``restore`` needs to undo whatever comes after."""

        def restore(self, state: Any) -> None:
            """Put back what ``save`` returned. To do it twice is to do it once."""

        def seed(self, seed: int, independent: bool) -> None:
            """Seed as the library itself would, or with a seed derived from the name."""

        def save_and_seed(self, saved: list[Any], seed: int, independent: bool) -> None:
            """Append to ``saved`` what ``save`` returns, then seed.

            Appended before anything changes, so that an interrupt in between loses nothing.
            Asked only of the sources in ``SOURCES``.
            """

        def capture(self) -> Any:
            """Return a state of values only; None if there is none now."""

        def portable(self, state: Any) -> Any:
            """Return the captured form of a saved state; None if it has none."""

        def replay(self, state: Any) -> None:
            """Continue from a state that was captured or loaded, here or elsewhere."""

        def is_present(self) -> bool:
            """Tell whether its library is imported, and can run it."""

        def check(self, state: Any) -> None:
            """Refuse a state that cannot be replayed here with a ``ValueError``."""

        def dump(self, state: Any) -> dict[str, Any]:
            """Return a captured state in plain form: str, int, float, None, dict."""

        def load(self, fields: Any) -> Any:
            """Return the state that ``dump`` returned, after checking every field."""

    # Only accelerators have this one verb more, because two scopes may cover different
    # devices of theirs: pass_on(upper, state) -> (upper, displaced, rest).


_PRIVATE = PrivateSource()

#: All sources. Accelerators first: they alone refuse an entry, and then nothing is touched.
SOURCES: tuple[Any, ...] = (
    AcceleratorSource("cuda"),
    AcceleratorSource("xpu"),
    MpsSource("mps"),
    MtiaSource("mtia"),
    _PRIVATE,
    PythonSource(),
    NumpySource(),
    TorchSource(),
)
#: All but the private backend, whose name may still change.
_BY_NAME: dict[str, Any] = {s.name: s for s in SOURCES if not isinstance(s, PrivateSource)}


#: Module that a source waits for -> what tells whether it has brought the generators.
LIBRARIES = {"numpy.random": numpy_random, "torch": torch_module}


#: What ``present`` found last among all sources, and what makes it old: another length of
#: torch's namespaces, or one of the libraries that were missing.
_kept: tuple[Any, ...] = ((), (), -1, (), -1, ())


def present(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return those of the sources that are there now.

    Every entry of a scope asks, so the answer for all sources is kept. In a forked child it
    may hold accelerators that cannot be used there.
    """
    if sources is not SOURCES:
        return tuple([source for source in sources if source.is_present()])
    found, names, length, more_names, more_length, missing = _kept
    if len(names) == length and len(more_names) == more_length:
        for library in missing:
            if library in sys.modules:
                break
        else:
            return found  # type: ignore[no-any-return]
    return _find_present()


def _find_present() -> tuple[Source, ...]:
    """Look at every source, and keep the answer if it will last."""
    global _kept
    missing = tuple(library for library in LIBRARIES if library not in sys.modules)
    # What is just being imported becomes present without a sign.
    is_settled = all(n in missing or find() is not None for n, find in LIBRARIES.items())
    names: dict[str, Any] = {}
    more_names: dict[str, Any] = {}
    if is_settled and "torch" not in missing:
        torch = sys.modules["torch"]
        names, more_names = torch.__dict__, core_names(torch)
        is_settled = bool(more_names)
    lengths = len(names), len(more_names)
    found = tuple(source for source in SOURCES if source.is_present())
    # So does a private backend that is registered and has not started.
    if is_settled and (_PRIVATE.name not in names or _PRIVATE in found):
        _kept = (found, names, lengths[0], more_names, lengths[1], missing)
    return found


def load_what_is_lazy(sources: Iterable[Source]) -> None:
    """Have imported libraries bring their generators, where they put that off.

    Entering a scope imports nothing: there, what appears later is taken in then.
    """
    if any(source.name == "numpy" for source in sources):
        load_numpy_random()


def choose(
    sources: Iterable[str] | None,
    devices: Iterable[Any] | None,
    generators: Iterable[Any] = (),
    deterministic: bool = False,
) -> tuple[Source, ...]:
    """Return the sources that these arguments name, after checking all of them.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown source, or a device that cannot be.
    """
    # Compared only if it is a tuple: an array of generators has an == of its own.
    is_plain = type(generators) is tuple and generators == () and deterministic is False
    if is_plain and sources is None and devices is None:
        return SOURCES
    chosen = _on_devices(_by_name(sources), devices)
    if is_plain:
        return tuple(chosen)
    if isinstance(generators, (str, bytes)) or not hasattr(generators, "__iter__"):
        raise TypeError(f"generators must be a list of RNG objects, not {short_repr(generators)}")
    mine: list[Any] = []
    for generator in generators:
        # The same object twice is one RNG: the first place counts.
        if not any(generator is other.generator for other in mine):
            mine.append(GeneratorSource(generator, len(mine)))
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be True or False, not {deterministic!r}")
    return (*chosen, *mine, *((DeterminismSource(),) if deterministic else ()))


def _by_name(sources: Iterable[str] | None) -> list[Any]:
    if sources is None:
        return list(SOURCES)
    if isinstance(sources, str):
        raise TypeError(f"sources must be a list of names, not a str; write sources=[{sources!r}]")
    try:
        names = list(sources)
    except TypeError:
        raise TypeError(f"sources must be a list of names, not {short_repr(sources)}") from None
    known = _BY_NAME
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"sources must be a list of names, but one of them is {short_repr(name)}"
            )
        if name not in known:
            # The one name that can change.
            known = {source.name: source for source in SOURCES}
            if name not in known:
                # The best known first.
                choices = ", ".join(map(repr, [*list(known)[-3:], *list(known)[:-3]]))
                raise ValueError(f"unknown source {name!r}; choose from {choices}")
    return [source for name, source in known.items() if name in names]


def _on_devices(chosen: list[Any], devices: Iterable[Any] | None) -> list[Any]:
    if devices is None:
        return chosen
    if isinstance(devices, (str, bytes, int)) or not hasattr(devices, "__iter__"):
        raise TypeError(
            f"devices must be a list of ints or torch.device, not {short_repr(devices)}"
        )
    torch_device = getattr(sys.modules.get("torch"), "device", None)
    wanted: list[tuple[str | None, int | None]] = []
    for device in devices:
        if torch_device is not None and isinstance(device, torch_device):
            if device.type not in {s.name for s in chosen if isinstance(s, AcceleratorSource)}:
                raise ValueError(f"device {str(device)!r} is no accelerator that this scope covers")
            wanted.append((device.type, device.index))
            continue
        if isinstance(device, bool) or not hasattr(device, "__index__"):
            raise TypeError(
                f"devices must hold non-negative ints or torch.device, not {short_repr(device)}; "
                f"write 0 or torch.device('cuda', 0)"
            )
        if (index := device.__index__()) < 0:
            raise ValueError(f"device {index!r} is negative; devices are counted from 0")
        wanted.append((None, index))
    limited: list[Any] = []
    for source in chosen:
        if isinstance(source, AcceleratorSource):
            indices = tuple(dict.fromkeys(i for kind, i in wanted if kind in (None, source.name)))
            if indices:
                limited.append(source.limited_to(indices))
        else:
            limited.append(source)
    return limited
