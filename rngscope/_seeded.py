"""placeholder"""
from __future__ import annotations
from typing import Any
import functools
from rngscope._open_scopes import OpenScope
def seeded_like(scope: Any, function: Any) -> Any: ...
def checked_by(check: Any, function: Any) -> Any: ...
def seeded(seed=None, **kw):
    from rngscope._scope import rng_scope
    return rng_scope(seed, **kw)
