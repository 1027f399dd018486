"""A trained network as an ONNX file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.export.program import (
    Program,
    RawCategory,
    RawNumber,
    angular,
    is_category,
    program_of,
)
from portable_bp.export.tape import Value
from portable_bp.persistence import atomic

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The version of ONNX's operators that is written: ONNX Runtime 1.14 and newer read it."""

_IR_VERSION = 8

_ML = "ai.onnx.ml"
"""The operators beside the usual ones: text is looked up with one of them."""

_TAKEN = frozenset({"label", "probabilities", "prediction"})

_OPERATORS = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max",
    "minimum": "Min", "pow": "Pow", "greater": "Greater", "greater_equal": "GreaterOrEqual",
    "less": "Less", "less_equal": "LessOrEqual", "equal": "Equal", "negative": "Neg", "abs": "Abs",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "sin": "Sin", "cos": "Cos",
    "where": "Where", "matmul": "MatMul",
}  # fmt: skip


def to_onnx(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a trained network as an ONNX file.

    The input ``X`` has the shape (n, inputs): the model's dtype, or float64 for a model of a table,
    whose columns are taken as they stand in the table and in the order of the file's property
    ``features``. Where one of the columns is text, each column is an input of its own of the shape
    (n, 1) and by its own name: strings for categories ("" is missing), float64 for the rest. There a
    date is its seconds since 1970 and a truth value 0 or 1; NaN is missing. Outputs: ``label`` and
    ``probabilities`` for a classification loss, else ``prediction``. The operators are of opset
    :data:`OPSET`.

    Parameters
    ----------
    model : Model or TabularModel
        A trained network.
    path : path
        The file to write; it holds its old contents or the whole new ones at every instant.

    Raises
    ------
    ImportError
        When the package ``onnx`` is missing: ``pip install 'portable-bp[onnx]'``.
    ValueError
        When an activation of the user's own uses what ONNX cannot express.
    OSError
        When the file could not be written.
    """
    atomic.write(path, onnx_model(program_of(model)).SerializeToString())


def onnx_model(program: Program) -> onnx.ModelProto:
    """The ONNX model of a program, checked by ONNX's own checker."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "export to ONNX needs the onnx package: pip install 'portable-bp[onnx]'", name="onnx"
        ) from error
    graph = _Graph(program)
    graph.build()
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "portable_bp", graph.inputs, graph.outputs, graph.constants
        ),
        opset_imports=[
            onnx.helper.make_opsetid("", OPSET),
            *([onnx.helper.make_opsetid(_ML, 2)] if program.has_text else []),
        ],
        producer_name="portable_bp",
        ir_version=_IR_VERSION,
    )
    model.doc_string = program.network
    notes = {"features": program.features, "target": program.target}
    for key, value in notes.items():
        if value is not None:
            text = value if isinstance(value, str) else "\n".join(value)
            model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes of an ONNX graph while they are put together."""

    def __init__(self, program: Program) -> None:
        import onnx

        self.onnx, self.program = onnx, program
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[Any] = []
        self.inputs: list[Any] = []
        self._names: dict[bytes, str] = {}

    def build(self) -> None:
        names = {self.program.tape.input.number: self._prepared()}
        for value in self.program.tape.values():
            if value.operation != "input":
                names[value.number] = self._value(value, [names[v.number] for v in value.operands])
        self._decide(names[self.program.tape.output.number])

    # Pieces of ONNX

    def _described(self, name: str, dtype: str, columns: int | None) -> Any:
        elements = {"int64": self.onnx.TensorProto.INT64, "bool": self.onnx.TensorProto.BOOL,
                    "float32": self.onnx.TensorProto.FLOAT, "float64": self.onnx.TensorProto.DOUBLE,
                    "text": self.onnx.TensorProto.STRING}  # fmt: skip
        shape = ["n"] if columns is None else ["n", columns]
        return self.onnx.helper.make_tensor_value_info(name, elements[dtype], shape)

    def _node(
        self, operator: str, *operands: str, result: str | None = None, **attributes: Any
    ) -> str:
        name = result or f"/v{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, operands, [name], **attributes))
        return name

    def _constant(self, numbers: Any, dtype: str | None = None) -> str:
        array = np.asarray(numbers, dtype)
        numbers = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        key = f"{array.dtype}{array.shape}".encode() + numbers
        if key not in self._names:
            self._names[key] = name = f"/c{len(self._names)}"
            self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return self._names[key]

    def _cast(self, name: str, dtype: str) -> str:
        element = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._node("Cast", name, to=element)

    # The program

    def _prepared(self) -> str:
        program = self.program
        if program.columns:
            raw = self._encoded()
        else:
            dtype = program.dtype if program.mean is None else "float64"
            raw = self._input("X", dtype, program.inputs)
        if program.mean is None:
            return raw
        centred = self._node("Sub", raw, self._constant(program.mean, "float64"))
        scaled = self._node("Div", centred, self._constant(program.scale, "float64"))
        return scaled if program.dtype == "float64" else self._cast(scaled, program.dtype)

    def _input(self, name: str, dtype: str, columns: int) -> str:
        self.inputs.append(self._described(name, dtype, columns))
        return name

    def _encoded(self) -> str:
        """The raw columns as inputs of the network."""
        columns = self.program.columns
        parts: list[str] = []
        if not self.program.has_text:
            X = self._input("X", "float64", len(columns))
            for j, column in enumerate(columns):
                place = self._constant([j], "int64")
                parts += self._number_column(column, self._node("Gather", X, place, axis=1))
        else:
            for column in columns:
                dtype = "text" if is_category(column) else "float64"
                taken = column.name in _TAKEN or column.name.startswith("/")
                name = f"{column.name} (column)" if taken else column.name
                x = self._input(name, dtype, 1)
                if is_category(column):
                    parts.append(self._category_column(column, x))
                else:
                    parts += self._number_column(column, x)
        return self._node("Concat", *parts, axis=1)

    def _number_column(self, column: RawNumber, x: str) -> list[str]:
        missing = self._node("IsNaN", x)
        filled = self._node("Where", missing, self._constant(column.fill, "float64"), x)
        parts = [filled]
        for period in column.periods:
            angle = self._node("Mul", filled, self._constant(angular(period), "float64"))
            parts += [self._node("Sin", angle), self._node("Cos", angle)]
        return [*parts, *([self._cast(missing, "float64")] if column.is_marked else [])]

    def _category_column(self, column: RawCategory, x: str) -> str:
        """Text is looked up, and its number takes a row of the codes."""
        n = len(column.values)
        row = self._node(
            "LabelEncoder", x, domain=_ML, keys_strings=[*column.values, *column.absent],
            values_int64s=[*range(n), *[n] * len(column.absent)], default_int64=n + 1,
        )  # fmt: skip
        flat = self._node("Squeeze", row, self._constant([1], "int64"))
        return self._node("Gather", self._constant(column.codes, "float64"), flat)

    def _value(self, value: Value, operands: list[str]) -> str:
        operation = value.operation
        if operation == "constant":
            assert value.array is not None
            return self._constant(value.array)
        if operation in _OPERATORS:
            return self._node(_OPERATORS[operation], *operands)
        if operation == "astype":
            return self._cast(operands[0], value.dtype)
        if operation == "max":
            return self._node("ReduceMax", operands[0], self._constant([1], "int64"), keepdims=1)
        if operation == "sum":
            return self._node("ReduceSum", operands[0], self._constant([1], "int64"), keepdims=1)
        if operation == "square":
            return self._node("Mul", operands[0], operands[0])
        if operation == "not_equal":
            return self._node("Not", self._node("Equal", *operands))
        return self._log1p(operands[0]) if operation == "log1p" else self._expm1(operands[0])

    def _number(self, number: float) -> str:
        return self._constant(number, self.program.dtype)

    def _log1p(self, x: str) -> str:
        # ln(1 + x) = x ln u / (u - 1) with u = 1 + x as rounded, and x where u is 1: the error of the
        # sum cancels (Kahan; Goldberg 1991, theorem 4). ONNX has no Log1p.
        one = self._number(1.0)
        u = self._node("Add", one, x)
        is_one = self._node("Equal", u, one)
        gap = self._node("Where", is_one, one, self._node("Sub", u, one))
        ratio = self._node("Div", self._node("Mul", x, self._node("Log", u)), gap)
        return self._node("Where", is_one, x, ratio)

    def _expm1(self, x: str) -> str:
        # e^x - 1 = 2 t / (1 - t) with t = tanh(x / 2), exact to rounding below 1; the plain
        # difference loses nothing above. ONNX has no Expm1.
        one, two = self._number(1.0), self._number(2.0)
        small = self._node("Min", x, one)
        t = self._node("Tanh", self._node("Div", small, two))
        near = self._node("Div", self._node("Mul", two, t), self._node("Sub", one, t))
        far = self._node("Sub", self._node("Exp", x), one)
        return self._node("Where", self._node("Less", x, one), near, far)

    def _decide(self, out: str) -> None:
        program = self.program
        if program.kind == "value":
            self._quantity(out)
            return
        one = program.outputs == 1
        if program.kind == "class":
            codes = self._node("ArgMax", out, axis=1, keepdims=0)
        else:
            codes = self._cast(self._node("Greater", out, self._number(0.5)), "int64")
            if one:
                codes = self._node("Squeeze", codes, self._constant([1], "int64"))
                none = self._node("Sub", self._number(1.0), out)
                out = self._node("Concat", none, out, axis=1)
        self._label(codes, None if program.kind == "class" or one else program.outputs)
        columns = 2 if one else program.outputs
        self._node("Identity", out, result="probabilities")
        self.outputs.append(self._described("probabilities", program.dtype, columns))

    def _label(self, codes: str, columns: int | None) -> None:
        labels = self.program.labels
        if labels is None:
            self._node("Identity", codes, result="label")
            self.outputs.append(self._described("label", "int64", columns))
            return
        table, dtype = _onnx_labels(labels)
        self._node("Gather", self._constant(table), codes, result="label")
        self.outputs.append(self._described("label", dtype, columns))

    def _quantity(self, out: str) -> None:
        program = self.program
        dtype = program.dtype
        if program.is_scaled:
            dtype = "float64"
            wide = out if program.dtype == dtype else self._cast(out, dtype)
            scaled = self._node("Mul", wide, self._constant(program.unit, dtype))
            out = self._node("Add", scaled, self._constant(program.shift, dtype))
        columns = None if program.outputs == 1 else program.outputs
        if columns is None:
            self._node("Squeeze", out, self._constant([1], "int64"), result="prediction")
        else:
            self._node("Identity", out, result="prediction")
        self.outputs.append(self._described("prediction", dtype, columns))


def _onnx_labels(labels: HostArray) -> tuple[HostArray, str]:
    """Labels as an array that ONNX has, and its element type."""
    if labels.dtype.kind in "biuf":
        dtype = {"b": "bool", "f": "float64"}.get(labels.dtype.kind, "int64")
        return labels.astype(dtype), dtype
    return np.asarray([str(label) for label in labels.tolist()], dtype=object), "text"
