"""The hook that rngscope adds to pytest's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import pytest


def pytest_rng_generators(config: pytest.Config) -> Iterable[Any] | None:
    """Return RNG objects that are to be seeded for each test, and put back after it.

    Asked once, when the tests are collected, of every plugin and conftest file. An object
    in a module that may be imported later is better named in the ini file, under
    ``rng_generators``.

    Args:
        config: the configuration of the run.

    Returns:
        Objects of the kinds that ``generators=`` of ``rng_scope`` takes: ``random.Random``,
        ``numpy.random.Generator``, ``numpy.random.RandomState``, ``torch.Generator``.

    Example, in a conftest file that also works without rngscope:
        >>> import random, pytest
        >>> RNG = random.Random()
        >>> @pytest.hookimpl(optionalhook=True)
        ... def pytest_rng_generators():
        ...     return [RNG]
    """
