"""Tensors that lie side by side in one buffer, so that one launch serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from portable_bp._tree import leaves, map_leaves
from portable_bp._typing import Array, Tree
from portable_bp_backends.cupy_beside import Beside

ALIGNMENT = 256
"""Bytes: where each tensor of a buffer begins. cuBLAS reads aligned matrices faster."""


def buffers(shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Any]:
    """Memory for tensors of these shapes in one buffer: matrices first, then vectors.

    So a penalty, which is of the weights alone, finds them together too.
    """
    import cupy

    places, size = {}, 0
    for i in sorted(range(len(shapes)), key=lambda i: -len(shapes[i])):
        places[i] = size
        entries = _size(shapes[i])
        size += -(-entries * dtype.itemsize // ALIGNMENT) * ALIGNMENT // dtype.itemsize
    whole = cupy.empty(size, dtype)
    return [whole[places[i] : places[i] + _size(s)].reshape(s) for i, s in enumerate(shapes)]


def copied(tree: Tree) -> Tree:
    """A copy of a tree; the tensors of each of its blocks side by side.

    A block is what has the form of the parameters of a network: tuples of arrays in a tuple.
    """
    if type(tree) is not tuple:
        return map_leaves(lambda array: array.copy(), tree)
    pairs = [branch for branch in tree if isinstance(branch, tuple) and branch]
    tensors: list[Any] = list(leaves(tree))
    block = len(pairs) == len(tree) and not any(isinstance(a, tuple) for p in pairs for a in p)
    if not block or len({(t.dtype, t.size > 0) for t in tensors}) != 1 or not tensors[0].size:
        return tuple(copied(branch) for branch in tree)
    import cupy

    places = buffers([t.shape for t in tensors], tensors[0].dtype)
    for place, tensor in zip(places, tensors, strict=True):
        cupy.copyto(place, tensor)
    remaining = iter(places)
    return tuple(tuple(next(remaining) for _ in pair) for pair in tree)


def runs(*rows: Sequence[Any]) -> list[list[int]]:
    """Which tensors follow each other in memory, in the same way in every row."""
    order = sorted(range(len(rows[0])), key=lambda i: rows[0][i].data.ptr)
    found: list[list[int]] = []
    for i in order:
        if found and all(_follows(row[found[-1][-1]], row[i]) for row in rows):
            steps = {row[i].data.ptr - row[found[-1][-1]].data.ptr for row in rows}
            if len(steps) == 1:
                found[-1].append(i)
                continue
        found.append([i])
    return found


def _follows(a: Any, b: Any) -> bool:
    """Whether ``b`` begins in the buffer of ``a``, where that ends."""
    gap = b.data.ptr - (a.data.ptr + a.nbytes)
    return bool(
        a.data.mem is b.data.mem
        and a.dtype == b.dtype
        and a.flags.c_contiguous
        and b.flags.c_contiguous
        and a.size > 0
        and b.size > 0
        and 0 <= gap < ALIGNMENT
        and gap % a.itemsize == 0
    )


def together(row: Sequence[Any], run: Sequence[int]) -> Any:
    """The tensors of a run as one vector, with what lies between them."""
    import cupy

    first, last = row[run[0]], row[run[-1]]
    entries = (last.data.ptr + last.nbytes - first.data.ptr) // first.itemsize
    return cupy.ndarray((entries,), first.dtype, first.data)


def each_tensor(f: Callable[..., Any], *rows: Sequence[Any]) -> Any:
    """The equations' ``each_tensor``, with one call for tensors that lie side by side."""
    import cupy

    if any(not isinstance(t, cupy.ndarray) or t.ndim > 2 for row in rows for t in row):
        return NotImplemented
    results: list[Any] = [None] * len(rows[0])
    for run in runs(*rows):
        if len(run) == 1:
            results[run[0]] = f(*(row[run[0]] for row in rows))
            continue
        flat = f(*(together(row, run) for row in rows))
        start = rows[0][run[0]].data.ptr
        for i in run:
            tensor = rows[0][i]
            at = (tensor.data.ptr - start) // tensor.itemsize
            results[i] = tuple(a[at : at + tensor.size].reshape(tensor.shape) for a in flat)
    return results


def assign(pairs: Sequence[tuple[Any, Any]]) -> None:
    """``target[...] = source`` for each pair, with one copy for those that lie side by side."""
    import cupy

    targets, sources = zip(*pairs, strict=True) if pairs else ((), ())
    for run in runs(targets, sources) if pairs else ():
        if len(run) == 1:
            cupy.copyto(targets[run[0]], sources[run[0]])
        else:
            cupy.copyto(together(targets, run), together(sources, run))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def all_affine_gradients(product: Callable[..., Array], beside: Beside) -> Callable[..., Any]:
    """The equations' part of that name: all gradients in one buffer, beside the chain of deltas.

    ``product(a, b, out)``: the matrix product, written to ``out``.
    """
    import cupy

    def gradients(inputs: Sequence[Any], deltas: Sequence[Any]) -> Any:
        arrays = [*inputs, *deltas]
        if any(not isinstance(a, cupy.ndarray) or a.ndim != 2 or not a.size for a in arrays):
            return NotImplemented
        dtype = arrays[0].dtype
        if dtype.name not in ("float32", "float64") or {a.dtype for a in arrays} != {dtype}:
            return NotImplemented
        shapes = [s for a, d in zip(inputs, deltas, strict=True)
                  for s in ((a.shape[1], d.shape[1]), (d.shape[1],))]  # fmt: skip
        with beside.after(deltas[-1]):
            memory = buffers(shapes, dtype)
        grads = list(zip(memory[::2], memory[1::2], strict=True))
        for (dW, db), a, d in reversed(list(zip(grads, inputs, deltas, strict=True))):
            with beside.after(d):
                product(a.T, d, dW)
                d.sum(axis=0, out=db)
        beside.join()
        return grads

    return gradients
