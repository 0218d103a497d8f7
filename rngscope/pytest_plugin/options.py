"""The flags, their defaults in the ini file, and what they may say."""

from __future__ import annotations

import os

import pytest

from rngscope._seeds import check_seed
from rngscope._sources import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Under this name what works is registered with pytest.
NAME = "rngscope run"


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("rngscope", "reproducible random numbers (rngscope)")
    group.addoption(
        "--rng-seed",
        metavar="N",
        help="Seed every test with a seed of its own, derived from N and its node id, and "
        "restore the global RNGs after it; 'random' draws N.",
    )
    group.addoption(
        "--rng-leaks",
        metavar="MODE",
        help="Report tests and fixtures that move a global RNG outside a scope: 'warn' lists "
        "them, 'error' also fails the test.",
    )
    parser.addini("rng_seed", "Default of --rng-seed.", default="")
    parser.addini("rng_leaks", "Default of --rng-leaks.", default="")
    parser.addini("rng_leaks_allow", "Sources that every test may move.", "args", default=[])


def _option(config: pytest.Config, name: str) -> tuple[str, str | None]:
    """Return how the user names an option, and its text; None if it is not set."""
    text = config.getoption(name)
    if text is not None:
        return "--" + name.replace("_", "-"), text
    return f"{name} in {config.inipath and config.inipath.name}", config.getini(name) or None


def seed_of(config: pytest.Config) -> int | None:
    # xdist: the controller has drawn it, or read it.
    from_controller: dict[str, Any] = getattr(config, "workerinput", {})
    if NAME in from_controller:
        return int(from_controller[NAME])
    where, text = _option(config, "rng_seed")
    if text is None:
        return None
    if text == "random":
        return int.from_bytes(os.urandom(4), "little")
    try:
        return check_seed(int(text))
    except ValueError:
        raise pytest.UsageError(
            f"{where} must be an integer in [0, 2**64) or 'random', not {text!r}"
        ) from None


def leaks_of(config: pytest.Config) -> str:
    where, text = _option(config, "rng_leaks")
    if text not in (None, "warn", "error"):
        raise pytest.UsageError(f"{where} must be 'warn' or 'error', not {text!r}")
    return text or ""


def allowed_of(config: pytest.Config) -> list[str]:
    allowed: list[str] = config.getini("rng_leaks_allow")
    try:
        choose(allowed, None)
    except ValueError as error:
        raise pytest.UsageError(f"rng_leaks_allow: {error}") from None
    return allowed
