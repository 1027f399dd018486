"""What a call comes down to, and what it is known to return: to the last bit, without computing."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from portable_bp_backends.numpy_plan.arguments import equal_entries
from portable_bp_backends.numpy_plan.graph import Node
from portable_bp_backends.numpy_plan.traced import Traced

_OF_SUM = {"axis", "dtype", "keepdims"}


def native(name: str, call: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any]:
    """The NumPy function, and its arguments, that a wrapper or an operator comes down to."""
    if kwargs:
        return name, call, args
    x = args[0]
    if name == "matmul":
        return name, np.matmul, args
    if name == "sign" and isinstance(x, Traced) and x.dtype.kind == "f":
        return name, np.sign, args
    if call is operator.pow and isinstance(x, Traced) and x.dtype.kind == "f" and x.ndim:
        exponent = args[1]
        f = _POWERS.get(exponent) if type(exponent) in (int, float) else None
        return (name, call, args) if f is None else (f.__name__, f, (x,))
    return name, call, args


_POWERS = {2: np.square, 0.5: np.sqrt}
"""What ``array ** exponent`` is to NumPy, for exponents that it knows."""


def simplify(name: str, args: Any, kwargs: Any) -> Any:
    """What the call is known to return without computing anything, to the last bit; or None."""
    x = args[0] if args else None
    if name == "astype" and isinstance(x, Traced) and args[1:] == (x.dtype,):
        return x
    if name in ("multiply", "divide") and len(args) == 2 and not kwargs:
        y = args[1]
        if _is_one(y) and _keeps(x, y):
            return x  # x * 1 = x / 1 = x
        if name == "multiply" and _is_one(x) and _keeps(y, x):
            return y
    if name == "bitwise_and" and isinstance(x, Traced) and x.dtype.kind in "iu" and len(args) == 2:
        return np.zeros(x.shape, x.dtype) if type(args[1]) is int and not args[1] else None
    if name == "sum" and isinstance(x, Traced) and len(args) == 1 and set(kwargs) <= _OF_SUM:
        axis = kwargs.get("axis")
        same_kind = kwargs.get("dtype") in (None, x.dtype) and x.dtype.kind == "f"
        if same_kind and type(axis) is int and x.shape[axis] == 1:  # the sum of one number
            return x if kwargs.get("keepdims") else x[_only(axis % x.ndim)]
    return None


def _only(axis: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, 0)


def _is_one(a: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return a.size > 0 and bool(np.all(a == 1))
    return type(a) in (int, float) and bool(a == 1)


def _keeps(x: Any, one: Any) -> bool:
    """Whether ``x * one`` has the shape and dtype of ``x``."""
    if not isinstance(x, Traced) or x.dtype.kind != "f":
        return False
    if isinstance(one, np.ndarray | np.generic):
        return bool(one.dtype == x.dtype) and np.broadcast_shapes(x.shape, one.shape) == x.shape
    return True


def shrink(node: Node, a: Any) -> Any:
    """A constant array of equal entries as a 0-d array, where broadcasting makes up for it."""
    if not isinstance(a, np.ndarray) or not a.ndim or not equal_entries(a):
        return a
    others = [b.shape for b in node.args if isinstance(b, Node | np.ndarray) and b is not a]
    return a.flat[0:1].reshape(()) if np.broadcast_shapes(*others) == node.shape else a
