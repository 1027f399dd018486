"""Element-wise groups of the equations as one CuPy kernel each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any

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
    dtype of a number among them. So numbers are part of the kernel, and of its key here.
    """
    import cupy

    inside = traceable(cupy, plain, native)

    @cache
    def kernel(formula: Callable[..., Any]) -> Callable[..., Any]:
        if formula.__name__ in native:
            return native[formula.__name__]
        made: dict[Any, Callable[..., Any]] = {}

        def fused(*arguments: Any) -> Any:
            numbers = tuple((type(a), a) if type(a) in _NUMBERS else None for a in arguments)
            arrays = [a for a, number in zip(arguments, numbers, strict=True) if number is None]
            if not all(isinstance(a, cupy.ndarray) for a in arrays):
                return formula(*arguments, xp=plain)
            if numbers not in made:
                made[numbers] = cupy.fuse(kernel_name=f"portable_bp_{formula.__name__}")(
                    _with_numbers(formula, numbers, inside)
                )
            return made[numbers](*arrays)

        return fused

    return kernel


def _with_numbers(
    formula: Callable[..., Any], numbers: tuple[Any, ...], xp: Namespace
) -> Callable[..., Any]:
    """``formula`` as a function of its arrays, with the numbers where they belong."""

    def of_arrays(*arrays: Any) -> Any:
        remaining = iter(arrays)
        return formula(*(next(remaining) if n is None else n[1] for n in numbers), xp=xp)

    return of_arrays


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
