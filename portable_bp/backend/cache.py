"""One bounded cache: what was made for a network before, a backend may have compiled already."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from portable_bp.backend.base import Backend

T = TypeVar("T")

MAX_ENTRIES = 16


class Recent(Generic[T]):
    """The entries used last, by key; safe to use from several threads."""

    def __init__(self, size: int = MAX_ENTRIES) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """The entry of this key, which becomes the latest; None where there is none."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, entry: T) -> T:
        """Add the entry unless there is one under the same key; the one that is there."""
        with self._lock:
            entry = self._entries.setdefault(key, entry)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return entry

    def entries(self) -> list[T]:
        """All entries, the latest last."""
        with self._lock:
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


_plans: Recent[Any] = Recent()


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
