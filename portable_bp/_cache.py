"""A cache of bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The ``size`` entries used last, by key; safe to use from several threads.

    Parameters
    ----------
    size : int

    Examples
    --------
    >>> cache = Recent(2)
    >>> for key in "aba", "b", "c":
    ...     _ = cache.put(key, key.upper())
    >>> cache.get("aba"), cache.get("b"), len(cache)
    (None, 'B', 2)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Any, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        """The entry under ``key``, which counts as a use; None where there is none."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Any, entry: T) -> T:
        """Keep ``entry``, or the earlier one under the same key; the one that is kept."""
        with self._lock:
            existing = self._entries.setdefault(key, entry)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return existing

    def pop(self, key: Any) -> T | None:
        """Take the entry under ``key`` out; None where there is none."""
        with self._lock:
            return self._entries.pop(key, None)

    def entries(self) -> list[T]:
        """All entries, the one used last at the end."""
        with self._lock:
            return list(self._entries.values())

    def clear(self) -> None:
        """Let all entries go."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
