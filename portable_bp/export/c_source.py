"""A trained network as C99 that allocates nothing, for microcontrollers and other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.export.program import Program, RawColumn, angular, is_category, program_of
from portable_bp.export.tape import Value
from portable_bp.persistence import atomic

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "greater": ">",
    "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!=",
}  # fmt: skip
_FUNCTIONS = {"abs": "fabs", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p",
              "sqrt": "sqrt", "tanh": "tanh", "sin": "sin", "cos": "cos", "pow": "pow"}  # fmt: skip


def to_c(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a trained network as a C99 source file, and its header beside it.

    ``NAME_forward(x, out)`` computes the outputs of one row; ``NAME_predict(x)`` gives the number of
    the class (``NAME_labels`` has its label) or the quantity. Nothing is allocated: the numbers of a
    row lie on the stack, the parameters in constant arrays. The standard library's ``math.h`` is all
    that is needed. For a model of a table whose columns were inferred, x has one number for each
    column; the header says what it is: for a category the index of its text in ``NAME_valuesJ``.

    Parameters
    ----------
    model : Model or TabularModel
        A trained network.
    path : path
        The source file, ending with ``.c``; its name, in letters, digits and underscores, is that of
        the functions. Each file holds its old contents or the whole new ones at every instant.

    Raises
    ------
    ValueError
        When the path does not end with ``.c``, or an activation of the user's own uses what cannot
        be exported.
    OSError
        When a file could not be written.
    """
    target = Path(path)
    if target.suffix != ".c":
        raise ValueError(f"path must end with .c (its header is written beside it), got {target}")
    name = re.sub(r"\W", "_", target.stem, flags=re.ASCII)
    name = name if re.match(r"[A-Za-z]", name) else f"net_{name}"
    program = program_of(model)
    header = target.with_suffix(".h")
    atomic.write(header, _header(program, name).encode())
    atomic.write(target, _source(program, name, header.name).encode())


def _numeric(program: Program) -> str:
    return "float" if program.dtype == "float32" else "double"


def _raw(program: Program) -> str:
    return _numeric(program) if program.mean is None else "double"


def _taken(program: Program) -> int:
    """How many numbers a row has: one for each column of a table."""
    return len(program.columns) or program.inputs


def _signatures(program: Program, name: str) -> dict[str, str]:
    inputs, number = f"const {_raw(program)} x[{_taken(program)}]", _numeric(program)
    signatures = {"forward": f"void {name}_forward({inputs}, {number} out[{program.outputs}])"}
    if program.kind == "class" or (program.kind == "binary" and program.outputs == 1):
        signatures["predict"] = f"int {name}_predict({inputs})"
    elif program.kind == "value" and program.outputs == 1:
        signatures["predict"] = f"double {name}_predict({inputs})"
    return signatures


def _header(program: Program, name: str) -> str:
    guard = f"{name.upper()}_H"
    features = "" if program.features is None else f"\n   inputs: {', '.join(program.features)}"
    values = _values(program, name)
    labels = _c_labels(program)
    lines = [
        f"/* {_comment(program.network + features)}",
        *(_comment(f"   {_meaning(column, name, j)}") for j, column in enumerate(program.columns)),
        "   Written by portable_bp. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "enum {",
        f"  {name.upper()}_INPUTS = {_taken(program)},",
        f"  {name.upper()}_OUTPUTS = {program.outputs}",
        "};",
        "",
        *(f"{signature};" for signature in _signatures(program, name).values()),
        *([f"extern const char *const {name}_labels[{len(labels)}];"] if labels else []),
        *(f"extern const char *const {array}[{len(texts)}];" for array, texts in values.items()),
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _meaning(column: RawColumn, name: str, j: int) -> str:
    """What the number of a column is, in words."""
    what = {
        "category": f"the index of its value in {name}_values{j}, -1 for any other",
        "date": "seconds since 1970-01-01, UTC",
        "boolean": "0 or 1",
    }
    return f"x[{j}], {column.name}: {what.get(column.kind, 'a number')}; NAN if missing"


def _values(program: Program, name: str) -> dict[str, tuple[str, ...]]:
    """The texts of categories, by the name of their array."""
    columns = enumerate(program.columns)
    return {
        f"{name}_values{j}": column.values or ("",) for j, column in columns if is_category(column)
    }


def _comment(text: str) -> str:
    return text.replace("*/", "* /").replace("\\", "\\\\")


def _c_labels(program: Program) -> list[str]:
    if program.labels is None or "predict" not in _signatures(program, ""):
        return []
    return [_quoted(str(label)) for label in program.labels.tolist()]


def _quoted(text: str) -> str:
    """A C string literal; three octal digits each, so that no digit after them is swallowed."""
    plain = {*range(0x20, 0x7F)} - {*b'"\\?'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _source(program: Program, name: str, header: str) -> str:
    writer = _Writer(program)
    signatures, labels = _signatures(program, name), _c_labels(program)
    arrays = {f"{name}_labels": labels} if labels else {}
    for array, values in _values(program, name).items():
        arrays[array] = [_quoted(value) for value in values]
    lines = [
        f'#include "{header}"',
        "",
        "#include <math.h>",
        "",
        *writer.constants(),
        *(
            f"const char *const {array}[{len(texts)}] = {{{', '.join(texts)}}};\n"
            for array, texts in arrays.items()
        ),
        signatures["forward"] + " {",
        *(f"  {line}" for line in writer.body()),
        "}",
    ]
    if "predict" in signatures:
        decide = [f"  {line}" for line in _decide(program, name)]
        lines += ["", signatures["predict"] + " {", *decide, "}"]
    return "\n".join(lines) + "\n"


def _decide(program: Program, name: str) -> list[str]:
    number = _numeric(program)
    lines = [f"{number} out[{program.outputs}];"]
    if program.kind == "class":
        return [
            "int k, best = 0;", *lines, f"{name}_forward(x, out);",
            f"for (k = 1; k < {program.outputs}; k++)", "  if (out[k] > out[best]) best = k;",
            "return best;",
        ]  # fmt: skip
    lines.append(f"{name}_forward(x, out);")
    if program.kind == "binary":
        return [*lines, f"return out[0] > {_literal(0.5, number)};"]
    if not program.is_scaled:
        return [*lines, "return (double)out[0];"]
    unit, shift = _literal(program.unit, "double"), _literal(program.shift, "double")
    return [*lines, f"return (double)out[0] * {unit} + {shift};"]


def _literal(number: float, kind: str) -> str:
    """A number as C writes it, exactly."""
    if number != number or number in (float("inf"), float("-inf")):
        return "NAN" if number != number else ("-INFINITY" if number < 0 else "INFINITY")
    return float(number).hex() + ("f" if kind == "float" else "")


class _Writer:
    """The body of ``forward``: element-wise operations of one width share a loop."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = _numeric(program)
        self.values = program.tape.values()
        self.groups = [*self._grouped()]

    def _grouped(self) -> Iterator[list[Value]]:
        group: list[Value] = []
        for value in self.values:
            if value.operation in ("input", "constant"):
                continue
            if group and not (
                value.is_elementwise
                and group[0].is_elementwise
                and value.columns == group[0].columns
            ):
                yield group
                group = []
            group.append(value)
        if group:
            yield group

    def constants(self) -> Iterator[str]:
        arrays = {
            f"c{v.number}": v.array for v in self.values if v.array is not None and v.array.ndim
        }
        for name, array in arrays.items():
            yield from self._table(name, array, self.number)
        if self.program.mean is not None:
            yield from self._table("mean", self.program.mean, "double")
            yield from self._table("scale", self.program.scale, "double")
        for j, column in enumerate(self.program.columns):
            if is_category(column):
                yield from self._table(f"codes{j}", column.codes, "double")

    @staticmethod
    def _table(name: str, array: HostArray | None, kind: str) -> Iterator[str]:
        assert array is not None
        numbers = [_literal(float(number), kind) for number in np.ravel(array)]
        yield f"static const {kind} {name}[{len(numbers)}] = {{"
        for start in range(0, len(numbers), 4):
            yield "  " + ", ".join(numbers[start : start + 4]) + ","
        yield "};"
        yield ""

    def body(self) -> Iterator[str]:
        stored = self._stored()
        yield "int j, k;"
        if self.program.mean is not None:
            yield f"{self.number} v{self.program.tape.input.number}[{self.program.inputs}];"
        for value in self.values:
            if value.number in stored:
                kind = "int" if value.dtype == "bool" else self.number
                yield f"{kind} v{value.number}[{value.columns}];"
        raw = "x"
        if self.program.columns:
            raw = "raw"
            yield f"double raw[{self.program.inputs}];"
        yield "(void)j;"
        yield from self._encoded()
        if self.program.mean is not None:
            yield f"for (k = 0; k < {self.program.inputs}; k++)"
            yield (f"  v{self.program.tape.input.number}[k] = ({self.number})(({raw}[k] - mean[k]) / "
                   "scale[k]);")  # fmt: skip
        for group in self.groups:
            yield from self._group(group, stored)
        yield f"for (k = 0; k < {self.program.outputs}; k++)"
        yield f"  out[k] = {self._read(self.program.tape.output, {*()}, 'k')};"

    def _encoded(self) -> Iterator[str]:
        """The inputs that the columns of a table become."""
        i = 0
        for j, column in enumerate(self.program.columns):
            if is_category(column):
                n, width = len(column.values), len(column.features)
                yield f"k = x[{j}] != x[{j}] ? {n} : {n + 1};"
                yield f"if (x[{j}] >= 0 && x[{j}] < {n}) k = (int)x[{j}];"
                yield f"for (j = 0; j < {width}; j++)"
                yield f"  raw[{i} + j] = codes{j}[k * {width} + j];"
            else:
                fill = _literal(column.fill, "double")
                yield f"raw[{i}] = x[{j}] != x[{j}] ? {fill} : x[{j}];"
                for p, period in enumerate(column.periods):
                    angle = _literal(angular(period), "double")
                    yield f"raw[{i + 1 + 2 * p}] = sin(raw[{i}] * {angle});"
                    yield f"raw[{i + 2 + 2 * p}] = cos(raw[{i}] * {angle});"
                if column.is_marked:
                    yield f"raw[{i + len(column.features) - 1}] = x[{j}] != x[{j}] ? 1.0 : 0.0;"
            i += len(column.features)

    def _stored(self) -> set[int]:
        """The values that are read outside of the loop that computes them."""
        home = {value.number: i for i, group in enumerate(self.groups) for value in group}
        stored = {
            value.number for value in self.values if value.operation in ("matmul", "max", "sum")
        }
        for value in self.values:
            for operand in value.operands:
                if operand.number in home and home[operand.number] != home[value.number]:
                    stored.add(operand.number)
        output = self.program.tape.output
        return stored | ({output.number} if output.number in home else set())

    def _group(self, group: list[Value], stored: set[int]) -> Iterator[str]:
        first = group[0]
        if not first.is_elementwise:
            yield from (self._matmul(first) if first.operation == "matmul" else self._reduce(first))
            return
        local: set[int] = set()
        yield f"for (k = 0; k < {first.columns}; k++) {{"
        for value in group:
            kind = "int" if value.dtype == "bool" else self.number
            yield f"  const {kind} t{value.number} = {self._expression(value, local)};"
            local.add(value.number)
        for value in group:
            if value.number in stored:
                yield f"  v{value.number}[k] = t{value.number};"
        yield "}"

    def _read(self, value: Value, local: set[int], index: str) -> str:
        if value.number in local:
            return f"t{value.number}"
        if value.array is not None:
            if value.array.ndim == 0:
                return _literal(float(value.array), self.number)
            return f"c{value.number}[{index if value.columns > 1 else '0'}]"
        if value.operation == "input" and self.program.mean is None:
            return f"x[{index if value.columns > 1 else '0'}]"
        return f"v{value.number}[{index if value.columns > 1 else '0'}]"

    def _expression(self, value: Value, local: set[int]) -> str:
        a, *rest = (self._read(operand, local, "k") for operand in value.operands)
        operation = value.operation
        if operation in _INFIX:
            return f"{a} {_INFIX[operation]} {rest[0]}"
        if operation in ("maximum", "minimum"):
            # As NumPy's: a NaN on either side stays.
            sign = ">" if operation == "maximum" else "<"
            return f"({a} {sign} {rest[0]} || {a} != {a}) ? {a} : {rest[0]}"
        if operation == "where":
            return f"{a} ? {rest[0]} : {rest[1]}"
        if operation == "negative":
            return f"-{a}"
        if operation == "square":
            return f"{a} * {a}"
        if operation == "astype":
            return f"({self.number}){a}" if value.dtype != "bool" else f"{a} != 0"
        suffix = "f" if self.number == "float" else ""
        return f"{_FUNCTIONS[operation]}{suffix}({', '.join([a, *rest])})"

    def _matmul(self, value: Value) -> Iterator[str]:
        a, W = value.operands
        assert W.array is not None
        rows, columns = W.array.shape
        left = self._read(a, set(), "j")
        yield f"for (k = 0; k < {columns}; k++) {{"
        yield f"  {self.number} sum = {_literal(0.0, self.number)};"
        yield f"  for (j = 0; j < {rows}; j++)"
        yield f"    sum += {left} * c{W.number}[j * {columns} + k];"
        yield f"  v{value.number}[k] = sum;"
        yield "}"

    def _reduce(self, value: Value) -> Iterator[str]:
        operand = value.operands[0]
        target, entry = f"v{value.number}[0]", self._read(operand, set(), "k")
        yield f"{target} = {self._read(operand, set(), '0')};"
        yield f"for (k = 1; k < {operand.columns}; k++)"
        if value.operation == "sum":
            yield f"  {target} += {entry};"
        else:
            yield f"  if ({entry} > {target} || {entry} != {entry}) {target} = {entry};"
