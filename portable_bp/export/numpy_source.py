"""A trained network as one Python file that needs NumPy and nothing else."""

from __future__ import annotations

import base64
import os
import textwrap
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.export.program import Program, angular, is_category, program_of
from portable_bp.export.tape import Value
from portable_bp.persistence import atomic

_OPERATORS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "**", "greater": ">",
    "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!=",
}  # fmt: skip


def to_numpy(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a trained network as one Python file that imports NumPy alone.

    The file has ``forward(X)``, ``predict(X)`` and, for a classification loss,
    ``predict_proba(X)``; run as a program it reads rows of numbers, separated by commas, from
    standard input and prints predictions. For a model of a table whose columns were inferred, X is
    rows of cells in the order of ``FEATURES``: numbers or text, None or "" where missing. Its
    operations are those of an eager forward pass on NumPy, in the same order.

    Parameters
    ----------
    model : Model or TabularModel
        A trained network.
    path : path
        The file to write; it holds its old contents or the whole new ones at every instant.

    Raises
    ------
    ValueError
        When an activation of the user's own uses what cannot be exported.
    OSError
        When the file could not be written.
    """
    atomic.write(path, source(program_of(model)).encode())


def source(program: Program) -> str:
    """The text of the file."""
    arrays: dict[str, HostArray | None] = {
        f"C{value.number}": value.array
        for value in program.tape.values()
        if value.array is not None
    }
    if program.mean is not None:
        arrays |= {"MEAN": program.mean, "SCALE": program.scale}
    categories = {j: c for j, c in enumerate(program.columns) if is_category(c)}
    arrays |= {f"CODES{j}": column.codes for j, column in categories.items()}
    rows = 'np.loadtxt(sys.stdin, delimiter=",", ndmin=2)'
    rows = "[*csv.reader(sys.stdin)]" if program.columns else rows
    lines = [
        f'"""{_comment(program.network)}',
        "",
        "Written by portable_bp; needs NumPy and nothing else.",
        '"""',
        "",
        "import base64",
        *(["import csv"] if program.columns else []),
        "import sys",
        "",
        "import numpy as np",
        "",
        f"FEATURES = {list(program.features) if program.features is not None else None!r}",
        f"CLASSES = {_labels(program)}",
        "",
        "",
        "def _array(dtype, shape, text):",
        "    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)",
        "",
        "",
        *(line for name, array in arrays.items() for line in _literal(name, array)),
        "",
        *(_encode(program) if program.columns else []),
        *_forward(program),
        "",
        *_predict(program),
        "",
        "",
        'if __name__ == "__main__":',
        f"    for row in predict({rows}).tolist():",
        "        print(row)",
    ]
    return "\n".join(lines) + "\n"


_READING = '''
def _number(cell):
    """A number; a date (2020-01-31, or a moment) in seconds since 1970; NaN if missing."""
    if cell is None or (isinstance(cell, str) and cell.strip() in _MISSING):
        return np.nan
    word = cell.strip().lower() if isinstance(cell, str) else cell
    if word in ("true", "yes", "false", "no"):
        return float(word in ("true", "yes"))
    try:
        return float(cell)
    except (TypeError, ValueError):
        moment = np.datetime64(cell, "us")
        return np.nan if np.isnat(moment) else moment.astype(np.int64) / 1e6


def _numbers(cells, fill, is_marked, *angles):
    x = np.array([_number(cell) for cell in cells], dtype="float64")
    missing = np.isnan(x)
    x = np.where(missing, fill, x)
    parts = [x]
    for angle in angles:
        parts += [np.sin(x * angle), np.cos(x * angle)]
    return np.stack(parts + [missing.astype("float64")] * is_marked, axis=1)


def _codes(cells, values, codes):
    rows = {value: row for row, value in enumerate(values)}
    texts = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    n = len(values)
    missing = lambda text: text is None or text in _MISSING or text != text
    return codes[[rows.get(t, n if missing(t) else n + 1) for t in texts]]
'''


def _encode(program: Program) -> list[str]:
    """The columns of a table, numbers and text, as inputs."""
    absent = sorted({word for column in program.columns for word in column.absent})
    lines = [
        "",
        f"_MISSING = {{{', '.join(map(repr, absent))}}}",
        "",
        *_READING.splitlines(),
        "",
        "",
        "def _encoded(X):",
        "    columns = [*zip(*X)] if len(X) else [()] * len(FEATURES)",
        "    if len(columns) != len(FEATURES):",
        '        raise ValueError(f"each row of X must have {len(FEATURES)} values: {FEATURES}")',
        "    parts = [",
    ]
    for j, column in enumerate(program.columns):
        if is_category(column):
            lines.append(f"        _codes(columns[{j}], {column.values!r}, CODES{j}),")
        else:
            angles = "".join(f", {angular(period)!r}" for period in column.periods)
            lines.append(
                f"        _numbers(columns[{j}], {column.fill!r}, {column.is_marked}{angles}),"
            )
    return [*lines, "    ]", "    return np.concatenate(parts, axis=1)", ""]


def _comment(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _labels(program: Program) -> str:
    return "None" if program.labels is None else f"np.array({program.labels.tolist()!r})"


def _literal(name: str, array: HostArray | None) -> list[str]:
    assert array is not None
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = textwrap.wrap(base64.b64encode(little.tobytes()).decode(), 88)
    return [
        f'{name} = _array("{little.dtype.str}", {array.shape}, (',
        *(f'    "{part}"' for part in text),
        "))",
    ]


def _forward(program: Program) -> list[str]:
    rows = f'np.asarray(X, "{program.dtype if program.mean is None else "float64"}")'
    lines = ["", "def forward(X):"]
    if program.columns:
        lines += [
            '    """The outputs of the network for rows X of values of FEATURES, shape (n, outputs)."""',
            "    x = _encoded(X)",
        ]
    else:
        lines += [
            '    """The outputs of the network for rows X, shape (n, outputs)."""',
            f"    x = {rows}",
            f"    if x.ndim != 2 or x.shape[1] != {program.inputs}:",
            f'        raise ValueError(f"X must have the shape (n, {program.inputs}), got {{x.shape}}")',
        ]
    if program.mean is not None:
        lines.append(f'    x = ((x - MEAN) / SCALE).astype("{program.dtype}")')
    for value in program.tape.values():
        if value.operation not in ("input", "constant"):
            lines.append(f"    {_name(value)} = {_expression(value)}")
    return [*lines, f"    return {_name(program.tape.output)}", ""]


def _name(value: Value) -> str:
    if value.operation == "input":
        return "x"
    return f"C{value.number}" if value.array is not None else f"v{value.number}"


def _expression(value: Value) -> str:
    operands = [_name(operand) for operand in value.operands]
    if value.operation in _OPERATORS:
        return f" {_OPERATORS[value.operation]} ".join(operands)
    if value.operation == "astype":
        return f'{operands[0]}.astype("{value.dtype}")'
    if value.operation in ("max", "sum"):
        return f"np.{value.operation}({operands[0]}, axis=1, keepdims=True)"
    return f"np.{value.operation}({', '.join(operands)})"


def _predict(program: Program) -> list[str]:
    lines = ["", "def predict(X):"]
    if program.kind == "value":
        scaled = f" * {program.unit!r} + {program.shift!r}" if program.is_scaled else ""
        wide = '.astype("float64")' if program.is_scaled else ""
        column = "[:, 0]" if program.outputs == 1 else ""
        return [
            *lines,
            '    """The prediction for each row."""',
            f"    return forward(X){column}{wide}{scaled}",
        ]
    single = program.kind == "binary" and program.outputs == 1
    decide = "np.argmax(forward(X), axis=1)"
    if program.kind == "binary":
        decide = f'(forward(X){"[:, 0]" if single else ""} > 0.5).astype("int64")'
    probabilities = "np.concatenate([1 - a, a], axis=1)" if single else "a"
    return [
        *lines,
        '    """The label of each row."""',
        f"    codes = {decide}",
        "    return codes if CLASSES is None else CLASSES[codes]",
        "",
        "",
        "def predict_proba(X):",
        '    """The probability of each class for each row."""',
        "    a = forward(X)",
        f"    return {probabilities}",
    ]
