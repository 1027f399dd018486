"""A tape of the forward pass: the equations run on stand-ins, and what they compute is noted.

Everything on a tape has the shape (n, columns) for any number n of rows, or is a constant. A row of a
result depends on the same row of its operands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp._typing import HostArray

UNARY = (
    "negative", "abs", "exp", "expm1", "log", "log1p", "sqrt", "square", "tanh", "sin", "cos",
)  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "pow",
)  # fmt: skip
COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
REDUCTIONS = ("max", "sum")


@dataclass(frozen=True, eq=False)
class Value:
    """One entry of a tape, which the equations take for an array.

    Attributes
    ----------
    tape : Tape
    number : its place on the tape
    operation : ``"input"``, ``"constant"``, ``"matmul"``, ``"where"``, ``"astype"``, or a name of
        :data:`UNARY`, :data:`BINARY`, :data:`COMPARISONS` or :data:`REDUCTIONS`
    operands : the values that it is computed from
    columns : how many numbers it has in a row
    dtype : ``"float32"``, ``"float64"`` or ``"bool"``
    array : the numbers of a constant, of shape (), (columns,) or (rows, columns)
    """

    tape: Tape
    number: int
    operation: str
    operands: tuple[Value, ...]
    columns: int
    dtype: str
    array: HostArray | None = None

    @property
    def ndim(self) -> int:
        return 2 if self.array is None else self.array.ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        return (None, self.columns) if self.array is None else self.array.shape

    @property
    def is_elementwise(self) -> bool:
        """Whether each of its numbers depends on one number of each operand."""
        return self.operation not in ("input", "constant", "matmul", *REDUCTIONS)

    # Python asks the left operand first, and the right one when the left is a plain number.
    def __neg__(self) -> Value:
        return self.tape.note("negative", self)

    def __add__(self, other: Any) -> Value:
        return self.tape.note("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.tape.note("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self.tape.note("subtract", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.tape.note("subtract", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.tape.note("multiply", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.tape.note("multiply", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.tape.note("divide", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.tape.note("divide", other, self)

    def __pow__(self, other: Any) -> Value:
        return self.tape.note("pow", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.tape.note("greater", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.tape.note("greater_equal", self, other)

    def __lt__(self, other: Any) -> Value:
        return self.tape.note("less", self, other)

    def __le__(self, other: Any) -> Value:
        return self.tape.note("less_equal", self, other)

    def __bool__(self) -> bool:
        raise TypeError("a branch on the numbers of an array cannot be exported: use xp.where")

    __iter__ = None
    __array__ = None
    __array_ufunc__ = None


class Tape:
    """The operations between one input and one output.

    Parameters
    ----------
    columns : int
        The numbers in a row of the input.
    dtype : str
        ``"float32"`` or ``"float64"``.

    Examples
    --------
    >>> tape = Tape(2, "float32")
    >>> xp = TapeNamespace(tape)
    >>> tape.output = xp.maximum(tape.input, xp.zeros_like(tape.input))
    >>> [value.operation for value in tape.values()]
    ['input', 'constant', 'maximum']
    """

    def __init__(self, columns: int, dtype: str) -> None:
        self.dtype = dtype
        self._values: list[Value] = []
        self._noted: dict[Any, Value] = {}
        self.input = self._append("input", (), columns, dtype)
        self.output = self.input

    def values(self) -> list[Value]:
        """Everything that the output needs, each after its operands."""
        needed = {self.output.number}
        for value in reversed(self._values):
            if value.number in needed:
                needed.update(operand.number for operand in value.operands)
        return [value for value in self._values if value.number in needed]

    def constant(self, numbers: Any) -> Value:
        """A value with the same numbers for every row, in the dtype of the tape."""
        if isinstance(numbers, Value):
            return numbers
        array = np.asarray(numbers, self.dtype)
        key = ("constant", array.shape, array.tobytes())
        if key not in self._noted:
            columns = array.shape[-1] if array.ndim else 1
            self._noted[key] = self._append("constant", (), columns, self.dtype, array)
        return self._noted[key]

    def note(self, operation: str, *operands: Any, dtype: str | None = None) -> Value:
        """The result of an operation; the same one of the same operands is noted once."""
        inputs = tuple(self.constant(operand) for operand in operands)
        key = (operation, dtype, *(operand.number for operand in inputs))
        if key not in self._noted:
            if operation in REDUCTIONS:
                columns = 1
            elif operation == "matmul":
                columns = inputs[1].columns
            else:
                columns = max(operand.columns for operand in inputs)
            kind = dtype or ("bool" if operation in COMPARISONS else self.dtype)
            self._noted[key] = self._append(operation, inputs, columns, kind)
        return self._noted[key]

    def _append(
        self,
        operation: str,
        operands: tuple[Value, ...],
        columns: int,
        dtype: str,
        array: HostArray | None = None,
    ) -> Value:
        value = Value(self, len(self._values), operation, operands, columns, dtype, array)
        self._values.append(value)
        return value


class TapeNamespace:
    """The part of the Array API that a forward pass can use and every writer can express."""

    float32, float64 = "float32", "float64"

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if name in (*UNARY, *BINARY, *COMPARISONS):
            return lambda *operands: self._tape.note(name, *operands)
        if name.startswith(("_", "portable_bp")):
            raise AttributeError(name)
        known = sorted((*UNARY, *BINARY, *COMPARISONS, "where", "max", "sum", "matmul"))
        raise ValueError(
            f"the network cannot be exported: it uses xp.{name}; what can be is {', '.join(known)}"
        )

    def matmul(self, a: Value, b: Value) -> Value:
        return self._tape.note("matmul", a, b)

    def where(self, condition: Value, a: Any, b: Any) -> Value:
        return self._tape.note("where", condition, a, b)

    def max(self, x: Value, *, axis: int, keepdims: bool = False) -> Value:
        return self._reduced("max", x, axis, keepdims)

    def sum(self, x: Value, *, axis: int, keepdims: bool = False, dtype: Any = None) -> Value:
        return self._reduced("sum", x, axis, keepdims)

    def _reduced(self, name: str, x: Value, axis: int, keepdims: bool) -> Value:
        if axis not in (1, -1) or not keepdims:
            raise ValueError(
                f"the network cannot be exported: xp.{name} has to go over a row and keep its axis "
                "(axis=1, keepdims=True)"
            )
        return self._tape.note(name, x)

    def astype(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self._tape.note("astype", x, dtype=dtype)

    def zeros_like(self, x: Value, *, dtype: Any = None) -> Value:
        return self._tape.constant(0.0)

    def ones_like(self, x: Value, *, dtype: Any = None) -> Value:
        return self._tape.constant(1.0)

    def full_like(self, x: Value, fill_value: float, *, dtype: Any = None) -> Value:
        return self._tape.constant(fill_value)

    def asarray(self, numbers: Any, *, dtype: Any = None, device: Any = None) -> Value:
        return self._tape.constant(numbers)


def record(
    params: Sequence[tuple[HostArray, HostArray]], forward: Callable[..., Any], dtype: str
) -> Tape:
    """The tape of ``forward(params, x, xp)`` for parameters on the host.

    Parameters
    ----------
    params : pairs (W, b)
        The parameters, which become constants.
    forward : function
        From parameters, input and namespace to the output.
    dtype : str
        ``"float32"`` or ``"float64"``.

    Returns
    -------
    Tape
        With its output set.

    Raises
    ------
    ValueError
        When ``forward`` uses what cannot be exported.
    """
    tape = Tape(params[0][0].shape[0], dtype)
    constants = tuple((tape.constant(W), tape.constant(b)) for W, b in params)
    output = forward(constants, tape.input, TapeNamespace(tape))
    tape.output = tape.constant(output)
    if tape.input not in tape.values():
        raise ValueError("the network cannot be exported: its output does not come from its input")
    return tape
