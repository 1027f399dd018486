"""Writing a plan down as Python: names for arrays and functions, lines, and loops over tiles."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from portable_bp_backends.numpy_plan.memory import FusedLoop

_OURS = re.compile(r"[a-z]\d+|loop\d+|tiles?\d*|replay")


class Name(str):
    """The name of a parameter of ``replay``."""

    __slots__ = ()


class Operand(NamedTuple):
    """An array, or the :class:`Name` of a parameter, and how a loop cuts it."""

    value: Any
    cut: str = ""
    """``""``: not at all; ``"rows"``: to the rows of a tile; ``"tile"``: to a tile's length."""


class Call(NamedTuple):
    """A line of Python with ``{0}``, ``{1}``, ... in the place of operands."""

    line: str
    operands: tuple[Operand, ...] = ()


class Source:
    """Straight-line Python in which every array and function is a global name.

    Names say what an array is: ``s`` of the state, ``v`` a value, ``c`` a constant; ``x`` and ``n``
    are what :meth:`Plan.bind` and :meth:`Plan.numbers` hand in, ``p`` is cut to a tile of a loop.
    """

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._objects: dict[str, Any] = {}
        self._count: dict[str, int] = {}
        self._functions: list[str] = []
        self._lines: list[str] = []

    def name(self, x: Any, stem: str = "v") -> str:
        """The name of an array, with one name for all views of the same entries, or of anything
        else."""
        if isinstance(x, Name):
            return x
        if isinstance(x, np.ndarray):
            key: Any = x.ctypes.data, x.shape, x.strides, x.dtype.str
        else:
            key, stem = id(x), getattr(x, "__name__", "f")
        if key not in self._names:
            self._names[key] = self._new_name(stem)
            self._objects[self._names[key]] = x  # it stays alive, and its key its own
        return self._names[key]

    def _new_name(self, stem: str) -> str:
        if not stem.isidentifier() or keyword.iskeyword(stem) or _OURS.fullmatch(stem):
            stem = "f"
        number = self._count[stem] = self._count.get(stem, -1) + 1
        return f"{stem}{number}" if len(stem) == 1 or number else stem

    def reduction(self, ufunc: Any) -> str:
        """The name of ``ufunc.reduce``."""
        name = f"{ufunc.__name__}_reduce"
        self._objects[name] = ufunc.reduce
        return name

    def text(self, x: Any) -> str:
        """Python for an argument: arrays and other objects by name, in nested arguments too."""
        if isinstance(x, dict):
            return f"{self.name(dict)}({self.text(list(x.items()))})"
        if isinstance(x, tuple):
            kind = self.name(type(x)) if hasattr(x, "_fields") else ""
            return f"{kind}({''.join(self.text(a) + ', ' for a in x)})"
        if isinstance(x, list):
            return f"[{', '.join(map(self.text, x))}]"
        return repr(x) if x is None or type(x) in (bool, int) else self.name(x)

    def write(self, calls: Sequence[Call], comment: Any = None) -> None:
        note = "" if comment is None else f"  # {comment}"
        for call in calls:
            names = (self.name(o.value) for o in call.operands)
            self._lines.append(call.line.format(*names) + note)

    def write_loop(self, loop: FusedLoop, calls: Sequence[Call]) -> None:
        """A function of one tile, and a loop that calls it with every tile."""
        arguments: dict[str, None] = {}
        tiles: dict[tuple[str, str], tuple[str, Operand]] = {}

        def name(operand: Operand) -> str:
            whole = self.name(operand.value)
            if operand.cut:
                return tiles.setdefault((whole, operand.cut), (f"p{len(tiles)}", operand))[0]
            if isinstance(operand.value, Name):
                arguments[whole] = None
            return whole

        lines = [f"    {call.line.format(*map(name, call.operands))}" for call in calls]
        number = len(self._functions)
        parameters = ", ".join((*arguments, *(p for p, _ in tiles.values())))
        self._functions.append("\n".join([f"def loop{number}({parameters}):", *lines, ""]))
        self._objects[f"tiles{number}"] = [
            tuple(_cut(operand, start, min(start + loop.rows, loop.shape[0]))
                  for _, operand in tiles.values())
            for start in range(0, loop.shape[0], loop.rows)
        ]  # fmt: skip
        passed = "".join(f"{a}, " for a in arguments)
        self._lines.append(f"for tile in tiles{number}: loop{number}({passed}*tile)")

    def compile(self, parameters: Sequence[str], returned: str) -> tuple[str, Callable[..., Any]]:
        """The source of the whole, and the function ``replay`` that it defines."""
        body = "".join(f"    {line}\n" for line in (*self._lines, f"return {returned}"))
        functions = "".join(f"{f}\n" for f in self._functions)
        source = f"{functions}def replay({', '.join(parameters)}):\n{body}"
        exec(compile(source, "<plan>", "exec"), self._objects)
        return source, self._objects["replay"]


def _cut(operand: Operand, start: int, stop: int) -> Any:
    return operand.value[start:stop] if operand.cut == "rows" else operand.value[: stop - start]
