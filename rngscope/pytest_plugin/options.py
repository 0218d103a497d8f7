"""The flags, their defaults in the ini file, and what they may say."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

from rngscope._plan import choose
from rngscope._seeds import check_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Under this name what works is registered with pytest.
NAME = "rngscope run"
_DRAWN = pytest.StashKey[int]()

MARKER = (
    "rng_seed(seed, *, sources=None, devices=None, generators=(), independent=False, "
    "deterministic=False, exclusive=False): run the test with this seed; arguments as "
    "rngscope.rng_scope."
)


class Asked(NamedTuple):
    """What the user has asked for, by flags and in the ini file."""

    seed: int | None = None
    #: "", "warn" or "error".
    leaks: str = ""
    allowed: tuple[str, ...] = ()
    #: Added to the number of each rerun.
    rerun: int = 0
    #: Names of RNG objects, as module:attribute.
    generators: tuple[str, ...] = ()


def add_options(parser: pytest.Parser) -> None:
    """Add the flags and the options of the ini file."""
    group = parser.getgroup("rngscope", "reproducible random numbers (rngscope)")
    group.addoption(
        "--rng-seed",
        metavar="N",
        help="Seed every test with a seed of its own, derived from N and its node id, and "
        "restore the global RNGs after it; so too every import of a module. 'random' draws N.",
    )
    group.addoption(
        "--rng-leaks",
        metavar="MODE",
        help="Report tests, fixtures and imports that change a global RNG outside a scope: 'warn' "
        "lists them, 'error' also fails the test. They 'drew from' it, 're-seeded' it, or 'moved' "
        "it, where the states do not show which of the two it was.",
    )
    group.addoption(
        "--rng-rerun",
        metavar="K",
        help="Seed every test as its K-th rerun is seeded (default: 0, the first run).",
    )
    parser.addini("rng_seed", "Default of --rng-seed.", default="")
    parser.addini("rng_leaks", "Default of --rng-leaks.", default="")
    parser.addini("rng_leaks_allow", "Sources that every test may move.", "args", default=[])
    parser.addini(
        "rng_generators",
        "Further RNG objects to seed for each test, as faker.generator:random; each from when "
        "its module is imported.",
        "args",
        default=[],
    )


def asked_of(config: pytest.Config, flags: Any) -> Asked:
    """Read what was asked for.

    Args:
        config: the configuration of the run, whose ini file has been read.
        flags: the namespace of the flags that have been parsed so far.

    Raises:
        pytest.UsageError: a flag or a value in the ini file is none; it names both.
    """
    return Asked(
        _seed_of(config, *_option(config, flags, "rng_seed")),
        _leaks_of(*_option(config, flags, "rng_leaks")),
        _allowed_of(config),
        _rerun_of(flags.rng_rerun),
        _generators_of(config),
    )


def _option(config: pytest.Config, flags: Any, name: str) -> tuple[str, str | None]:
    """Return how the user names an option, and its text; None if it is not set."""
    text = getattr(flags, name)
    if text is not None:
        return "--" + name.replace("_", "-"), text
    return f"{name} in {config.inipath and config.inipath.name}", config.getini(name) or None


def _list_of(config: pytest.Config, name: str) -> tuple[str, ...]:
    """Return the names in an ini value, whether there are commas between them or not."""
    texts: list[str] = config.getini(name)
    return tuple(name for text in texts for name in text.replace(",", " ").split())


def _seed_of(config: pytest.Config, where: str, text: str | None) -> int | None:
    if text is None:
        return None
    if text == "random":
        # Asked before the conftest files are imported, and once more after that.
        return config.stash.setdefault(_DRAWN, int.from_bytes(os.urandom(4), "little"))
    try:
        return check_seed(int(text))
    except ValueError:
        raise pytest.UsageError(
            f"{where} must be an integer in [0, 2**64) or 'random', not {text!r}"
        ) from None


def _leaks_of(where: str, text: str | None) -> str:
    if text not in (None, "warn", "error"):
        raise pytest.UsageError(f"{where} must be 'warn' or 'error', not {text!r}")
    return text or ""


def _allowed_of(config: pytest.Config) -> tuple[str, ...]:
    allowed = _list_of(config, "rng_leaks_allow")
    try:
        choose(allowed, None)
    except ValueError as error:
        raise pytest.UsageError(f"rng_leaks_allow: {error}") from None
    return allowed


def _rerun_of(text: str | None) -> int:
    try:
        return check_seed(int(text or "0"))
    except ValueError:
        raise pytest.UsageError(
            f"--rng-rerun must be the number of a rerun, 1 or more, not {text!r}"
        ) from None


def _generators_of(config: pytest.Config) -> tuple[str, ...]:
    names = _list_of(config, "rng_generators")
    for name in names:
        module, colon, attribute = name.partition(":") if ":" in name else name.rpartition(".")
        if not (module and attribute and f"{module}.{attribute}".replace(".", "_").isidentifier()):
            raise pytest.UsageError(
                f"rng_generators: {name!r} names no RNG object; write module:attribute, as "
                f"faker.generator:random"
            )
    return names
