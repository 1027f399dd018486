"""Which NumPy calls make a value: into memory that is there already, as few and as fast as we know."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._tree import leaves, map_leaves
from portable_bp_backends.numpy_plan.graph import Node
from portable_bp_backends.numpy_plan.memory import FusedLoop, Memory
from portable_bp_backends.numpy_plan.options import PlanOptions
from portable_bp_backends.numpy_plan.source import Call, Name, Operand, Source

_REDUCTIONS = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum}
_OF_REDUCTION = {"axis", "dtype", "keepdims"}
_SHORT_ROW = 32
_SHORT_SUM = 1 << 12
_WORDS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


class Lowering:
    """Chooses the calls, and has :class:`Memory` assign their results.

    Attributes
    ----------
    inputs, numbers : from a node that is handed in to the name of the parameter
    """

    def __init__(self, memory: Memory, source: Source, options: PlanOptions) -> None:
        self._memory, self._source, self._options = memory, source, options
        self._constants: dict[Any, Any] = {}
        self.inputs: dict[Node, Name] = {}
        self.numbers: dict[Node, Name] = {}

    def value(self, a: Any) -> Any:
        """The array of a node or a constant, or the name of what is handed in."""
        if not isinstance(a, Node):
            if isinstance(a, np.ndarray):
                self._source.name(a, "c")
            return a
        if a in self._memory.external:
            return self.inputs.setdefault(a, Name(f"x{len(self.inputs)}"))
        if a in self._memory.numbers:
            return self.numbers.setdefault(a, Name(f"n{len(self.numbers)}"))
        return self._memory.arrays[a]

    def make(self, i: int, node: Node) -> list[Call]:
        """The calls for the node at position i."""
        if node.parts:
            return self._join(i, node)
        if node.dtype.hasobject:
            return [self._several(i, node)]
        out = self._memory.assign(i, node)
        if node.elementwise:
            return self._elementwise(i, node, out)
        if node.call is np.matmul:
            return [self._matmul(node, out)]
        if node.call in _REDUCTIONS and len(node.args) == 1 and set(node.kwargs) <= _OF_REDUCTION:
            return self._reduction(i, node, out)
        return [self.fill(node, out)]

    # --- what we know nothing about -------------------------------------------------------------

    def fill(self, node: Node, out: Any) -> Call:
        """The call that the plain step makes, and a copy of its result."""
        fill, text = self._source.name(_fill), self._text
        arguments = [*map(text, node.args), *(f"{k}={text(a)}" for k, a in node.kwargs.items())]
        call = f"{self._source.name(node.call)}({', '.join(arguments)})"
        return Call(f"{fill}({self._source.text(out)}, {call})")

    def _several(self, i: int, node: Node) -> Call:
        """A call with several results, of which some may not be wanted."""
        outs: list[Any] = [None] * node.shape[0]
        for item in self._memory.items(node):
            outs[item.args[1]] = self._memory.assign(i, item)
        return self.fill(node, tuple(outs))

    def _text(self, a: Any) -> str:
        return self._source.text(map_leaves(self.value, a))

    # --- matrices ---------------------------------------------------------------------------------

    def _call(self, f: Any, *values: Any) -> Call:
        places = ", ".join(f"{{{k}}}" for k in range(len(values)))
        operands = (v if isinstance(v, Operand) else Operand(v) for v in values)
        return Call(f"{self._source.name(f)}({places})", tuple(operands))

    def _matmul(self, node: Node, out: Any) -> Call:
        a, b = node.args
        floats = a.dtype == b.dtype == node.dtype and node.dtype.kind == "f"
        plain = floats and max(len(a.shape), len(b.shape)) < 3 and out.flags.c_contiguous
        # Both come down to the same BLAS; np.dot gets there sooner.
        f = np.dot if plain and not self._options.exact else np.matmul
        return self._call(f, self.value(a), self.value(b), out)

    def _join(self, i: int, node: Node) -> list[Call]:
        flat = self._memory.assign(i, node)
        calls, start = [], 0
        for part in node.parts:
            if not self._memory.is_placed(part, node, start):
                place = flat[start : start + part.size].reshape(part.shape)
                calls.append(_copy(place, self.value(part)))
            start += part.size
        return calls

    # --- reductions -------------------------------------------------------------------------------

    def _reduction(self, i: int, node: Node, out: Any) -> list[Call]:
        (x,) = node.args
        f, axis = _REDUCTIONS[node.call], node.kwargs.get("axis")
        if isinstance(axis, tuple) and len(axis) == len(x.shape):
            axis = None  # over all
        if x.dtype == node.dtype and len(x.shape) == 3:
            calls = self._of_networks(i, node, f, axis, out)
            if calls:
                return calls
        if x.dtype == node.dtype and len(x.shape) == 2:
            if f is np.add and x.dtype.kind == "f" and not self._options.exact:
                if type(axis) is int:
                    return [self._sum_as_product(x, axis, out)]
                if axis is None and x.size <= _SHORT_SUM and self._is_flat(x):
                    return [self._sum_of_all_as_product(x, out)]
            if f is not np.add and axis in (1, -1) and self._has_short_rows(x):
                return self._across_columns(i, f, self.value(x), x.shape, out)
        dtype = None if x.dtype == node.dtype else node.dtype
        rest = f"{self._source.text(axis)}, {self._source.text(dtype)}, {{1}}"
        line = f"{self._source.reduction(f)}({{0}}, {rest}, {bool(node.kwargs.get('keepdims'))})"
        return [Call(line, (Operand(self.value(x)), Operand(out)))]

    def _sum_as_product(self, x: Node, axis: int, out: Any) -> Call:
        """Rewrite: the sum over the rows or the columns of a matrix is a product with ones."""
        ones = self._constant(1, x.dtype, (x.shape[axis],))
        factors = (ones, self.value(x)) if axis in (0, -2) else (self.value(x), ones)
        return self._call(np.dot, *factors, out.reshape(-1))

    def _of_networks(self, i: int, node: Node, f: Any, axis: Any, out: Any) -> list[Call]:
        """A reduction in each matrix of a stack, by the same products as in one matrix."""
        (x,) = node.args
        m, rows, columns = x.shape
        if f is np.add and x.dtype.kind == "f" and not self._options.exact:
            if axis in (-1, 2):
                ones = self._constant(1, x.dtype, (columns,))
                return [self._call(np.matmul, self.value(x), ones, out.reshape(m, rows))]
            if axis in (-2, 1):
                ones = self._constant(1, x.dtype, (rows,))
                return [self._call(np.matmul, ones, self.value(x), out.reshape(m, columns))]
            if axis == (-2, -1) and rows * columns <= _SHORT_SUM and self._is_flat(x):
                ones = self._constant(1, x.dtype, (rows * columns,))
                flat = self.value(x).reshape(m, rows * columns)
                return [self._call(np.vecdot, flat, ones, out.reshape(m))]
        short = f is not np.add and axis in (-1, 2) and self._is_flat(x)
        if short and self._short((m * rows, columns)):
            value = self.value(x).reshape(m * rows, columns)
            return self._across_columns(i, f, value, (m * rows, columns), out)
        return []

    def _is_flat(self, x: Node) -> bool:
        value = self.value(x)
        return isinstance(value, np.ndarray) and value.flags.c_contiguous

    def _sum_of_all_as_product(self, x: Node, out: Any) -> Call:
        """Rewrite: so is the sum of all of a small one."""
        ones = self._constant(1, x.dtype, (x.size,))
        return self._call(np.dot, ones, self.value(x).reshape(-1), out.reshape(()))

    def _has_short_rows(self, x: Node) -> bool:
        pair = x.shape[1] == 2 and isinstance(self.value(x), np.ndarray)
        return pair or self._short(x.shape)

    @staticmethod
    def _short(shape: tuple[int, ...]) -> bool:
        rows, columns = shape
        return 1 < columns <= _SHORT_ROW <= rows

    def _across_columns(
        self, i: int, f: Any, value: Any, shape: tuple[int, ...], out: Any
    ) -> list[Call]:
        """The maxima of many short rows are the maximum of few long columns."""
        out = out.reshape(-1)
        if shape[1] == 2 and not isinstance(value, Name):
            return [Call(f"{self._source.name(f)}({{0}}, {{1}}, out={{2}})",
                         tuple(map(Operand, (value[:, 0], value[:, 1], out))))]  # fmt: skip
        columns = self._memory.temporary(i, shape[::-1], out.dtype)
        line = f"{self._source.reduction(f)}({{0}}, 0, None, {{1}})"
        copy = Call("{0}[...] = {1}.T", (Operand(columns), Operand(value)))
        return [copy, Call(line, (Operand(columns), Operand(out)))]

    # --- element-wise operations ------------------------------------------------------------------

    def _elementwise(self, i: int, node: Node, out: Any) -> list[Call]:
        loop = self._memory.loops.get(i)
        result = Operand(out, "" if loop is None else "tile" if self._is_local(node) else "rows")
        if node.name == "where":
            return self._where(i, node, loop, result)
        if node.name == "astype":
            return [_copy(result, self._operand(node.args[0], node, loop))]
        dtypes = _argument_dtypes(node)
        operands = [self._operand(a, node, loop, d) for a, d in zip(node.args, dtypes, strict=True)]
        if node.ufunc in (np.maximum, np.minimum):
            # These have no fast loop for an array and a number, and take `out` by name only.
            a, b = (self._spread(o, node, loop) for o in operands)
            return [
                Call(f"{self._source.name(node.ufunc)}({{0}}, {{1}}, out={{2}})", (a, b, result))
            ]
        if loop is None and len(node.shape) == 2 and node.shape[0] == 1:
            return [self._call(node.ufunc, *_as_vectors([*operands, result]))]
        return [self._call(node.ufunc, *operands, result)]

    def _where(self, i: int, node: Node, loop: FusedLoop | None, out: Operand) -> list[Call]:
        """``where(c, a, b)`` as ``b ^ ((a ^ b) & -c)`` on the bits.

        np.where has no ``out``, and takes a branch for each entry, which is slow where ``c`` follows
        no pattern.
        """
        c = self._operand(node.args[0], node, loop)
        a, b = (self._operand(x, node, loop, node.dtype) for x in node.args[1:])
        ours = all(isinstance(o.value, np.ndarray) and o.value.dtype == node.dtype for o in (a, b))
        word = _WORDS.get(node.dtype.itemsize)
        if not ours or word is None or node.args[0].dtype != bool or not node.shape:
            return [Call(f"{{3}}[...] = {self._source.name(np.where)}({{0}}, {{1}}, {{2}})",
                         (c, a, b, out))]  # fmt: skip
        shape, cut = (node.shape, "") if loop is None else (loop.tile, "tile")
        mask = Operand(self._memory.temporary(i, shape, word), cut)
        a, b, out = (Operand(o.value.view(word), o.cut) for o in (a, b, out))
        return [
            _copy(mask, c),
            self._call(np.negative, mask, mask),
            self._call(np.bitwise_xor, a, b, out),
            self._call(np.bitwise_and, out, mask, out),
            self._call(np.bitwise_xor, out, b, out),
        ]

    def _is_local(self, a: Any) -> bool:
        return isinstance(a, Node) and a in self._memory.local

    def _operand(self, a: Any, node: Node, loop: FusedLoop | None, dtype: Any = None) -> Operand:
        if not isinstance(a, Node | np.ndarray):
            try:
                return Operand(self._constant(a, dtype))
            except OverflowError:  # x > 300 for bytes x: NumPy has an answer
                return Operand(a)
        rows = loop and len(a.shape) == len(node.shape) and a.shape[0] == node.shape[0]
        return Operand(self.value(a), "tile" if self._is_local(a) else "rows" if rows else "")

    def _constant(self, number: Any, dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        """An array of one number; a 0-d array is the fastest form in which a ufunc takes one."""
        number = np.array(number, dtype)
        key = number.tobytes(), number.dtype.str, shape
        if key not in self._constants:
            self._constants[key] = np.full(shape, number)
            self._source.name(self._constants[key], "c")
        return self._constants[key]

    def _spread(self, operand: Operand, node: Node, loop: FusedLoop | None) -> Operand:
        """A constant number as an array of it."""
        number, shape = operand.value, node.shape if loop is None else loop.tile
        if not any(number is c for c in self._constants.values()) or number.shape:
            return operand
        return Operand(self._constant(number, number.dtype, shape), "tile" if loop else "")


def _copy(to: Any, source: Any) -> Call:
    operands = (x if isinstance(x, Operand) else Operand(x) for x in (to, source))
    return Call("{0}[...] = {1}", tuple(operands))


def _fill(out: Any, result: Any) -> None:
    """Copy a result, or each wanted one of several, to where the plan expects it."""
    if isinstance(out, tuple):
        for o, r in zip(out, leaves(result), strict=True):
            _fill(o, r)
    elif out is not None:
        if np.shape(result) != out.shape:
            raise ValueError(
                f"a call gave the shape {np.shape(result)}, and {out.shape} when it was traced: no "
                "shape in a compiled step may depend on the data"
            )
        out[...] = result


def _argument_dtypes(node: Node) -> tuple[Any, ...]:
    """The dtypes in which a ufunc takes its arguments: what a Python number becomes."""
    kinds = [getattr(a, "dtype", np.dtype(bool) if type(a) is bool else type(a)) for a in node.args]
    if all(isinstance(kind, np.dtype) for kind in kinds):
        return tuple(kinds)
    dtypes: tuple[Any, ...] = node.ufunc.resolve_dtypes((*kinds, None))
    return dtypes[:-1]


def _as_vectors(operands: list[Operand]) -> list[Operand]:
    """A matrix of one row as a vector, an array of one entry as a number: spares NumPy the
    broadcasting."""
    arrays = [o.value for o in operands]
    if any(isinstance(a, Name) for a in arrays):
        return operands
    return [Operand(a.reshape(a.shape[-1:] if a.size > 1 else ())) for a in arrays]
