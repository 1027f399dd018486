"""What was made for a network before, a backend may have compiled already."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def remembered(f: Callable[P, T]) -> Callable[P, T]:
    """``f``, which gives the same object for equal arguments; without a hash they are always new.

    >>> parts = remembered(lambda *names: list(names))
    >>> parts("a") is parts("a"), parts(["a"]) is parts(["a"])
    (True, False)
    """
    known = lru_cache(maxsize=16)(f)

    @wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            hash((args, tuple(kwargs.items())))
        except TypeError:
            return f(*args, **kwargs)
        return known(*args, **kwargs)  # type: ignore[arg-type]

    return call
