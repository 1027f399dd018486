"""A trained network as an ONNX file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.export.program import Program, program_of
from portable_bp.export.tape import Value
from portable_bp.persistence import atomic

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The version of ONNX's operators that is written: ONNX Runtime 1.14 and newer read it."""

_IR_VERSION = 8

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
    ``features``. Outputs: ``label`` and ``probabilities`` for a classification loss, else
    ``prediction``. The operators are of opset :data:`OPSET`.

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
            graph.nodes, "portable_bp", [graph.input], graph.outputs, graph.constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
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
        raw = program.dtype if program.mean is None else "float64"
        self.input = self._described("X", raw, program.inputs)
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
        name = result or f"v{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, operands, [name], **attributes))
        return name

    def _constant(self, numbers: Any, dtype: str | None = None) -> str:
        array = np.asarray(numbers, dtype)
        numbers = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        key = f"{array.dtype}{array.shape}".encode() + numbers
        if key not in self._names:
            self._names[key] = name = f"c{len(self._names)}"
            self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return self._names[key]

    def _cast(self, name: str, dtype: str) -> str:
        element = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._node("Cast", name, to=element)

    # The program

    def _prepared(self) -> str:
        program = self.program
        if program.mean is None:
            return "X"
        centred = self._node("Sub", "X", self._constant(program.mean, "float64"))
        scaled = self._node("Div", centred, self._constant(program.scale, "float64"))
        return scaled if program.dtype == "float64" else self._cast(scaled, program.dtype)

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
