"""What was made for a network before, a backend may have compiled already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from portable_bp._cache import Recent
from portable_bp.backend.base import Backend

T = TypeVar("T")

MAX_ENTRIES = 16

_plans: Recent[Any] = Recent(MAX_ENTRIES)


def cached_plan(backend: Backend, key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """``make()``, or what it gave for an equal key on the same backend.

    A backend knows a step or a function by its identity: the same object finds what was compiled
    for it before, in the next call of ``partial_fit`` or in the next fold of a cross-validation.
    A key without a hash (an activation that holds an array, say) is always made anew.
    """
    key = (backend, *key)
    try:
        hash(key)
    except TypeError:
        return make()
    plan: T | None = _plans.get(key)
    return _plans.put(key, make()) if plan is None else plan
