"""A pytest plugin for the project's own tests, which move the global RNGs on purpose.

Each runs in a scope of its own, so that ``--rng-leaks=error`` shows whether anything gets out.
"""

import pytest

from rngscope import rng_scope
from rngscope._life import LifeOfProcess


class ScopeAroundATest(rng_scope):
    """It is around the threads of the test as well, so that theirs do not overlap with it."""

    _life_type = LifeOfProcess

    __slots__ = ()


@pytest.fixture(autouse=True)
def scope_around_the_test():
    with ScopeAroundATest():
        yield
