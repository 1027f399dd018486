"""The doors for native kernels: element-wise pieces of a formula, and parts of several pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from portable_bp._typing import Array

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


def replaceable(formula: F) -> F:
    """Mark ``formula(*arguments, xp=xp)`` as a part of the equations that an adapter may have whole.

    The namespace may carry ``portable_bp_part(formula)``, which answers with a function of the same
    arguments (without ``xp``), or None. That function may answer ``NotImplemented`` for arguments that
    it does not take; what it computes is what is written here, to rounding.
    """

    @wraps(formula)
    def call(*arguments: Any, xp: Any) -> Any:
        native = getattr(xp, "portable_bp_part", None)
        whole = native(formula) if native is not None else None
        result = NotImplemented if whole is None else whole(*arguments)
        return formula(*arguments, xp=xp) if result is NotImplemented else result

    return cast(F, call)


@replaceable
def each_tensor(f: Callable[..., Any], *tensors: Sequence[Array], xp: Any) -> list[Any]:
    """``f`` of the first of each, of the second of each, ...: its results are tuples of arrays.

    ``f`` is element-wise. For the tensors of one network it does not look at their shapes: an adapter
    that keeps them side by side may call it once for all of them.
    """
    return [f(*same) for same in zip(*tensors, strict=True)]
