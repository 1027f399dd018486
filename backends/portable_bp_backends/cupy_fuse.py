"""Element-wise groups of the equations as one CuPy kernel each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any

import array_api_compat.numpy as numpy_namespace
import numpy as np

from portable_bp._typing import Namespace

_NUMBERS = (bool, int, float)
"""Exactly these types: NumPy's scalars have a dtype of their own, which decides that of results."""


def sign(library: Any, x: Any) -> Any:
    """The standard's sign, NaN for NaN: array_api_compat's writes through a mask, whose entries the
    host has to count."""
    return library.where(x == x, library.sign(x), x)


def traceable(
    library: Any, plain: Namespace, native: Mapping[str, Callable[..., Any]]
) -> Namespace:
    """The namespace that a formula sees while it is traced.

    ``library``: CuPy, whose own functions stand here instead of those of array-api-compat
    (``plain``), some of which look at the array; numbers stand for arrays filled with them.
    """
    namespace = ModuleType("portable_bp_traceable")
    namespace.__dict__.update(vars(library))
    namespace.__dict__.update(
        zeros_like=lambda x: 0.0,
        ones_like=lambda x: 1.0,
        full_like=lambda x, value: value,
        astype=lambda x, dtype: x.astype(dtype),
        finfo=plain.finfo,
        sign=partial(sign, library),
        portable_bp_kernel=lambda formula: native.get(formula.__name__),
    )
    return namespace


def fuser(
    native: Mapping[str, Callable[..., Any]], plain: Namespace
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What answers ``portable_bp_kernel(formula)``: a function of the same arrays, one launch.

    ``native``: functions by the name of the group that they stand for. ``plain``: the namespace for
    arguments that cannot be fused.

    ``cupy.fuse`` keys its kernels by the types of the arguments alone, and may widen a result to the
    dtype of a number among them. A float that only meets arrays is handed to the kernel in their
    dtype: one kernel serves all its values. Any other number is part of the kernel, and of its key.
    """
    import cupy

    inside = traceable(cupy, plain, native)

    @cache
    def kernel(formula: Callable[..., Any]) -> Callable[..., Any]:
        if formula.__name__ in native:
            return native[formula.__name__]
        made: dict[Any, Callable[..., Any]] = {}

        def fused(*arguments: Any) -> Any:
            kinds = tuple(type(a) if type(a) in _NUMBERS else None for a in arguments)
            arrays = [a for a, kind in zip(arguments, kinds, strict=True) if kind is None]
            if not all(isinstance(a, cupy.ndarray) for a in arrays):
                return formula(*arguments, xp=plain)
            if float in kinds and only_meets_arrays(formula, kinds):
                dtype = np.result_type(*(a.dtype for a in arrays if a.dtype.kind == "f")).type
                arguments = tuple(dtype(a) if type(a) is float else a for a in arguments)
            numbers = tuple(a if type(a) in _NUMBERS else None for a in arguments)
            key = tuple(map(_key, numbers))
            if key not in made:
                made[key] = cupy.fuse(kernel_name=f"portable_bp_{formula.__name__}")(
                    _with_numbers(formula, numbers, inside)
                )
            return made[key](*(a for a, n in zip(arguments, numbers, strict=True) if n is None))

        return fused

    return kernel


def _key(number: Any) -> tuple[type, str]:
    """A number, told apart from its like: 0.0 equals -0.0, and NaN is not equal to itself."""
    return type(number), number.hex() if type(number) is float else repr(number)


def _with_numbers(
    formula: Callable[..., Any], numbers: tuple[Any, ...], xp: Namespace
) -> Callable[..., Any]:
    """``formula`` as a function of its other arguments, with the numbers where they belong."""

    def of_others(*others: Any) -> Any:
        remaining = iter(others)
        return formula(*(next(remaining) if n is None else n for n in numbers), xp=xp)

    return of_others


class _ComputedError(Exception):
    """A formula computes with its numbers before they meet an array."""


class _Number(float):
    """A float that may only meet arrays: ``1 - beta`` in float32 has other digits than in float64."""

    def _meets(self, *others: Any) -> Any:
        if all(isinstance(other, np.ndarray) for other in others) and others:
            return NotImplemented  # the array computes
        raise _ComputedError

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _meets
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __abs__ = _meets
    __lt__ = __le__ = __gt__ = __ge__ = _meets


@cache
def only_meets_arrays(formula: Callable[..., Any], kinds: tuple[type | None, ...]) -> bool:
    """Whether a formula computes with its floats only where an array is the other operand.

    ``kinds``: the type of each number among its arguments, None for each array.
    """
    array = np.ones((1, 1), np.float32)
    samples: dict[type | None, Any] = {None: array, float: _Number(0.5), int: 1, bool: True}
    try:
        with np.errstate(all="ignore"):
            formula(*(samples[kind] for kind in kinds), xp=traceable(np, numpy_namespace, {}))
    except _ComputedError:
        return False
    return True


PHILOX = """
unsigned int x0 = c0, x1 = c1, x2 = c2, x3 = c3, key0 = k0, key1 = k1;
for (int round = 0; round < 10; ++round) {
    unsigned int high0 = __umulhi(0xD2511F53u, x0), low0 = 0xD2511F53u * x0;
    unsigned int high1 = __umulhi(0xCD9E8D57u, x2), low1 = 0xCD9E8D57u * x2;
    x0 = high1 ^ x1 ^ key0;
    x1 = low1;
    x2 = high0 ^ x3 ^ key1;
    x3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
}
o0 = x0; o1 = x1; o2 = x2; o3 = x3;
"""
"""The random words of dropout, in 32-bit arithmetic with a native high product."""


def philox() -> Callable[..., Any]:
    """The native kernel for the group ``philox4x32``: four words of counter, two of key."""
    import cupy

    kernel: Callable[..., Any] = cupy.ElementwiseKernel(
        ", ".join(f"uint32 {name}" for name in ("c0", "c1", "c2", "c3", "k0", "k1")),
        ", ".join(f"uint32 o{i}" for i in range(4)),
        PHILOX,
        "portable_bp_philox4x32",
    )
    return kernel
