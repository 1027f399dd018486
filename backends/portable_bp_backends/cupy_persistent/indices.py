"""Indices of entries as text: which entries of its operands an entry of a node comes from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.numpy_plan.graph import Node

Index = tuple[str, ...]
Shape = tuple[int, ...]

VIEWS = {
    "T", "mT", "matrix_transpose", "transpose", "reshape", "expand_dims", "squeeze", "broadcast_to",
    "getitem",
}  # fmt: skip
REDUCTIONS = ("sum", "max", "min")
PARTIAL = "partial"
"""Entry ``i`` of ``n`` is the sum (maximum, minimum) of the entries ``i``, ``i + n``, ... of all."""


def is_pointwise(node: Node) -> bool:
    """Whether each entry comes from the same entries, broadcast, of the arguments."""
    return node.elementwise or node.name in ("kernel erfc", "pow")


def is_contraction(node: Node) -> bool:
    """Whether an entry comes from many entries of the arguments."""
    return node.call is np.matmul or node.name in (*REDUCTIONS, PARTIAL)


def flat(index: Index, shape: Shape) -> str:
    """The place of an entry of a C-ordered array.

    >>> flat(("i", "k", "0"), (4, 3, 1)), flat((), ())
    ('i * 3 + k', '0')
    """
    terms, stride = [], 1
    for i, size in zip(reversed(index), reversed(shape), strict=True):
        if size > 1:
            part = i if i.isalnum() else f"({i})"
            terms.append(i if stride == 1 else f"{part} * {stride}")
        stride *= size
    return " + ".join(reversed(terms)) or "0"


def unflat(place: str, shape: Shape) -> Index:
    """The index of the entry at a place.

    >>> unflat("i", (4, 3)), unflat("i", (1, 5)), unflat("i + 1", (2, 3))
    (('i / 3', 'i % 3'), ('0', 'i'), ('(i + 1) / 3', '(i + 1) % 3'))
    """
    index, stride, rest = [], 1, math.prod(shape)
    atom = place if place.isalnum() else f"({place})"
    for size in reversed(shape):
        part = place if stride == 1 and size == rest else atom
        part = part if stride == 1 else f"{atom} / {stride}"
        index.append("0" if size == 1 else part if size == rest else f"{part} % {size}")
        stride *= size
        rest //= size
    return tuple(reversed(index))


def broadcast(index: Index, shape: Shape) -> Index:
    """The index of an operand of this shape, for an entry of the result."""
    last = index[len(index) - len(shape) :]
    return tuple("0" if size == 1 else i for i, size in zip(last, shape, strict=True))


def seen(node: Node, index: Index) -> Index:
    """Which entry of its source a view shows at ``index``."""
    shape, rest = node.args[0].shape, (*node.args[1:], *node.kwargs.values())
    if node.name == "transpose" and rest:  # what permute_dims comes down to
        return tuple(index[list(rest[0]).index(axis)] for axis in range(len(shape)))
    if node.name in ("T", "mT", "matrix_transpose", "transpose") and len(shape) < 3:
        return index[::-1]
    if node.name in ("reshape", "expand_dims", "squeeze") and "order" not in node.kwargs:
        return unflat(flat(index, node.shape), shape)
    if node.name == "broadcast_to":
        return broadcast(index, shape)
    if node.name == "getitem":
        return _chosen(node, index, shape)
    raise CannotReplayError(f"a kernel has no words for {node}")


def _chosen(node: Node, index: Index, shape: Shape) -> Index:
    """The entry that ``x[key]`` shows, for a key of numbers, slices, None and an ellipsis."""
    key = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    given = sum(type(k) in (int, slice) for k in key)
    at = next((i for i, k in enumerate(key) if k is ...), len(key))
    key = (*key[:at], *[slice(None)] * (len(shape) - given), *key[at + 1 :])
    entries, sizes = iter(index), iter(shape)
    chosen = []
    for k in key:
        if k is None:
            next(entries)
        elif type(k) is int:
            chosen.append(str(k % next(sizes)))
        elif isinstance(k, slice):
            start, _, stride = k.indices(next(sizes))
            entry = next(entries)
            chosen.append(entry if (start, stride) == (0, 1) else f"{start} + ({entry}) * {stride}")
        else:
            raise CannotReplayError(f"a kernel has no words for {node} by an array of indices")
    return tuple(chosen)


def length(node: Node) -> int:
    """How many entries of an operand an entry of a contraction comes from."""
    x = node.args[0]
    return int(x.shape[-1] if node.call is np.matmul else -(-x.size // max(1, node.size)))


def contracted(node: Node, index: Index, k: str) -> tuple[list[str], list[tuple[Any, Index]]]:
    """The loops (over ``k``, or ``k0``, ``k1``, ...) that make an entry, and what they read.

    >>> from portable_bp_backends.numpy_plan.graph import an_input
    >>> a, b = (Node("input", an_input, shape=s, dtype="f4") for s in ((4, 3), (3, 2)))
    >>> contracted(Node("matmul", np.matmul, (a, b), shape=(4, 2), dtype="f4"), ("i", "j"), "k")
    (['int k = 0; k < 3; ++k'], [(input float32[4, 3], ('i', 'k')), (input float32[3, 2], ('k', 'j'))])
    """
    x, loop = node.args[0], f"int {k} = 0; {k} < {length(node)}; ++{k}"
    if node.call is np.matmul:
        y = node.args[1]
        column = index[-1:] if len(y.shape) > 1 else ()
        rows = index[: len(index) - len(column)]  # and what leads them: several products
        return [loop], [(x, (*rows, k)), (y, (*rows[: len(y.shape) - 2], k, *column))]
    if node.name == PARTIAL:
        loop = f"int {k} = {index[0]}; {k} < {x.size}; {k} += {node.size}"
        return [loop], [(x, unflat(k, x.shape))]
    if len(node.args) > 1 or not set(node.kwargs) <= {"axis", "dtype", "keepdims"}:
        raise CannotReplayError(f"a kernel has no words for {node} with such arguments")
    axis, dimensions = node.kwargs.get("axis"), len(x.shape)
    given = range(dimensions) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(d % dimensions for d in given)
    keepdims = node.kwargs.get("keepdims")
    kept = iter(i for d, i in enumerate(index) if not (keepdims and d in axes))
    entry = tuple(f"{k}{d}" if d in axes else next(kept) for d in range(dimensions))
    loops = [f"int {k}{d} = 0; {k}{d} < {x.shape[d]}; ++{k}{d}" for d in axes]
    return loops, [(x, entry)]


def sources(node: Node, index: Index) -> list[tuple[Any, Index]]:
    """What an entry of a node is made of, and the entries that broadcasting finds there."""
    if is_pointwise(node):
        return [(a, index) for a in node.sources]
    if node.name in VIEWS:
        return [(node.args[0], seen(node, index))]
    if is_contraction(node):
        return contracted(node, index, "k")[1]
    return [(a, ("anywhere",) * len(a.shape)) for a in node.sources]
