"""Element-wise functions: named pieces of a formula that an adapter may run as one native kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Bound:
    """``function`` with its last arguments given: what a closure is, but equal to its like, and
    picklable."""

    function: Callable[..., Any]
    last: tuple[float, ...]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments, *self.last)


def elementwise(formula: F) -> F:
    """Mark ``formula(*arrays, xp)`` as element-wise: broadcasting arrays in, arrays out.

    The namespace may carry ``portable_bp_kernel(formula)``, which answers with a native function of
    the same arrays, or None. What it computes is what is written here, to rounding.

    Such a function is one of a module (no lambda, no closure: a kernel is made once) that takes every
    number as an argument, and uses neither ``@`` nor reductions, shapes, ``clip`` or ``if``.
    """

    @wraps(formula)
    def call(*arrays: Any, xp: Any = None) -> Any:
        if xp is None:
            *arrays, xp = arrays  # type: ignore[assignment]
        native = getattr(xp, "portable_bp_kernel", None)
        kernel = native(formula) if native is not None else None
        return formula(*arrays, xp=xp) if kernel is None else kernel(*arrays)

    return cast(F, call)
