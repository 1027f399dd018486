"""The arguments of a traced call: what may stand in a graph, and when two of them are the same."""

from __future__ import annotations

import enum
import struct
from typing import Any

import numpy as np

from portable_bp._tree import leaves
from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.numpy_plan.graph import Node

_PLAIN = (bool, int, str, bytes, range, type(None), type(...))
_KINDS = (type, np.dtype, np.ufunc, enum.Enum)


def as_constant(a: Any) -> Any:
    """``a`` as a graph holds it: an array as a private copy that nobody can write to.

    Raises :class:`CannotReplayError` for an object that may change later without a trace.
    """
    if isinstance(a, np.ndarray | np.generic):
        if type(a) not in (np.ndarray, np.memmap) and isinstance(a, np.ndarray):
            raise CannotReplayError(f"it computes with a {type(a).__name__}, not a plain array")
        copy = np.array(a, order="K")
        if copy.dtype.hasobject:
            raise CannotReplayError("it computes with an array of Python objects")
        copy.flags.writeable = False
        return copy
    if isinstance(a, slice):
        parts = (a.start, a.stop, a.step)
        plain = all(p is None or isinstance(p, int | np.integer) for p in parts)
    else:
        plain = type(a) in (*_PLAIN, float, complex) or isinstance(a, _KINDS)
    if not plain:
        raise CannotReplayError(
            f"it hands an object of type {type(a).__name__} to a function, and what is in that may "
            "change without a trace"
        )
    return a


def key(x: Any) -> Any:
    """Equal for arguments that are the same: nodes by identity, constants by type and bits."""
    if isinstance(x, tuple | list):
        return type(x), tuple(map(key, x))
    if isinstance(x, dict):
        return dict, tuple((key(k), key(v)) for k, v in x.items())
    if isinstance(x, np.ndarray):
        same = equal_entries(x)
        bits = x.flat[0:1].tobytes() if same else x.tobytes("A")
        return np.ndarray, x.shape, None if same else x.strides, x.dtype.str, bits
    if type(x) is float:
        return float, struct.pack("d", x)
    if type(x) is complex:
        return complex, struct.pack("dd", x.real, x.imag)
    if isinstance(x, slice):
        return slice, tuple(None if p is None else int(p) for p in (x.start, x.stop, x.step))
    if type(x) in _PLAIN or isinstance(x, np.dtype):
        return type(x), repr(x)
    return type(x), id(x)


def equal_entries(a: Any) -> bool:
    """Whether all entries of an array are the same, bit for bit."""
    if not a.size or a.dtype.hasobject:
        return False
    bits = np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(a.size, -1)
    return bool((bits == bits[0]).all())


def nodes_among(x: Any) -> bool:
    """Whether there is a node among nested arguments."""
    return any(isinstance(a, Node) for a in leaves(x))
