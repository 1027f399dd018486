"""The text of a kernel: values of nodes at indices as C, and the loops around them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.cupy_fuse import PHILOX
from portable_bp_backends.cupy_persistent.indices import (
    VIEWS,
    Index,
    Shape,
    broadcast,
    contracted,
    flat,
    is_contraction,
    seen,
    unflat,
)
from portable_bp_backends.cupy_persistent.phases import (
    LOSSES,
    WORDS,
    Phases,
    Root,
    loop_index,
    words_shape,
)
from portable_bp_backends.numpy_plan.graph import Graph, Node

MOST_THREADS = 1024
NAME = "portable_bp_steps"

_TYPES = {
    "float32": "float", "float64": "double", "bool": "bool", "int8": "signed char",
    "uint8": "unsigned char", "int16": "short", "uint16": "unsigned short", "int32": "int",
    "uint32": "unsigned", "int64": "long long", "uint64": "unsigned long long",
}  # fmt: skip

_OPERATIONS = {
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "negative": "-{0}",
    "positive": "{0}", "square": "{0} * {0}", "greater": "{0} > {1}", "less": "{0} < {1}",
    "greater_equal": "{0} >= {1}", "less_equal": "{0} <= {1}", "equal": "{0} == {1}",
    "not_equal": "{0} != {1}", "logical_and": "{0} && {1}", "logical_or": "{0} || {1}",
    "logical_not": "!{0}", "where": "{0} ? {1} : {2}", "astype": "{0}",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",  # NaN goes through, as everywhere
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
}  # fmt: skip
_OF_INTEGERS = {
    "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}",
    "right_shift": "{0} >> {1}", "left_shift": "{0} << {1}",
}  # fmt: skip
_OF_FLOATS = {
    "divide": "{0} / {1}", "absolute": "fabs({0})", "pow": "pow({0}, {1})", "power": "pow({0}, {1})",
    "sign": "{0} != {0} ? {0} : ({0} > 0) - ({0} < 0)", "reciprocal": "1 / {0}",
    "kernel erfc": "erfc({0})", "isfinite": "isfinite({0})", "isnan": "isnan({0})",
    **{f: f + "({0})" for f in (
        "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sin", "cos", "floor", "ceil", "rint",
    )},
}  # fmt: skip


class Constants:
    """Every number of the formulas in one buffer: another penalty is no other text.

    Equal numbers have one name where they play the same role, lest two that differ in the next run
    make another text there.
    """

    def __init__(self) -> None:
        self.values = bytearray()
        self.lines: list[str] = []
        self._names: dict[Any, str] = {}

    def name(self, value: Any, dtype: Any, role: Any) -> str:
        array = np.array(value, dtype, order="C")  # an integer that does not fit is an error
        key = array.tobytes(), array.dtype.str, array.shape, role
        if key not in self._names:
            self.values += bytes(-len(self.values) % 8)
            name, kind = f"c{len(self._names)}", c_type(array.dtype)
            place = f"(const {kind} *)(constants + {len(self.values)})"
            star, text = ("*", place) if array.shape else ("", f"*{place}")
            self.lines.append(f"const {kind} {star}{name} = {text};")
            self._names[key] = name
            self.values += key[0]
        return self._names[key]


def c_type(dtype: Any) -> str:
    name = np.dtype(dtype).name
    if name not in _TYPES:
        raise CannotReplayError(f"a kernel has no word for the dtype {name}")
    return _TYPES[name]


class Writer:
    """Values of nodes at indices, as C.

    Attributes
    ----------
    memory : the names of arrays in the block's memory
    data, numbers : of what is handed in; ``used``: the numbers that are read
    """

    def __init__(
        self, memory: dict[Node, str], graph: Graph, constants: Constants, width: int
    ) -> None:
        self.memory, self.constants, self._width = memory, constants, width
        self.data = {node: f"d{k}" for k, node in enumerate(graph.inputs)}
        self.numbers = {node: f"n{k}" for k, node in enumerate(graph.numbers)}
        self.used: set[Node] = set()
        self.lines: list[str] = []
        self._names = itertools.count()

    def write_loop(self, shape: Shape, roots: Sequence[Root]) -> None:
        """The loop over the entries of these roots: all of an entry are computed, then stored."""
        self._here = {root.node for root in roots if root.target is None}
        self._blocks: list[dict[Any, str]] = [{}]
        self._shape, self._index = shape, loop_index(shape)
        self._line(f"for (int i = threadIdx.x; i < {math.prod(shape)}; i += blockDim.x) {{")
        for name, text in zip(self._index, unflat("i", shape), strict=True):
            if name not in ("0", "i"):
                self._line(f"  const int {name} = {text};")
        stores = [store for root in roots for store in self._stores(root)]
        for store in stores:
            self._line(f"  {store};")
        self._line("}")

    def _stores(self, root: Root) -> list[str]:
        """Compute the entry of a root; the assignments that keep it."""
        if root.target is None and root.node.name == WORDS:
            place, q = self.memory[root.node], math.prod(root.shape)
            return [f"{place}[i + {k * q}] = {w}" for k, w in enumerate(self._words(root.node))]
        target = root.node if root.target is None else root.target
        dtype = root.node.dtype if target == LOSSES else target.dtype
        value = self.value(root.node, self._index, dtype)
        if target == LOSSES:
            size = math.prod(root.shape)
            return [f"losses[{'step' if size == 1 else f'step * {size} + i'}] = {value}"]
        return [f"{self.memory[target]}[i] = {value}"] if target in self.memory else []

    def _line(self, text: str) -> None:
        self.lines.append("  " * (len(self._blocks) + 1) + text)

    def _declare(self, dtype: Any, text: str, note: Any = "") -> str:
        name = f"v{next(self._names)}"
        self._line(f"  const {c_type(dtype)} {name} = {text};" + (f"  // {note}" if note else ""))
        return name

    def value(self, a: Any, index: Index, dtype: Any, role: Any = None) -> str:
        """The name of the entry of ``a`` that broadcasting finds at ``index``, in ``dtype``."""
        if not isinstance(a, Node):
            name, shape = self.constants.name(a, dtype, role), np.shape(a)
            return f"{name}[{flat(broadcast(index, shape), shape)}]" if shape else name
        index = broadcast(index, a.shape)
        name = next((b[a, index] for b in reversed(self._blocks) if (a, index) in b), "")
        if not name:
            name = self._blocks[-1][a, index] = self._entry(a, index)
        return name if a.dtype == dtype else f"({c_type(dtype)}){name}"

    def _entry(self, a: Node, index: Index) -> str:
        place = "i" if (a.shape, index) == (self._shape, self._index) else flat(index, a.shape)
        if a in self.numbers:
            self.used.add(a)
            return self.numbers[a]
        if a in self.memory and a not in self._here:
            return self._declare(a.dtype, f"{self.memory[a]}[{place}]")
        if a in self.data:
            if self._width:
                row = f"(size_t)order[step * {self._width} + {index[0]}]"
                columns = math.prod(a.shape[1:])
                place = f"{row} * {columns} + {flat(index[1:], a.shape[1:])}"
            return self._declare(a.dtype, f"{self.data[a]}[{place}]")
        if a.name in VIEWS:
            return self.value(a.args[0], seen(a, index), a.dtype)
        if a.name == "concat":
            words, (*lead, word) = random_words(a), index
            shape = words_shape(words)
            q, size = shape[-1], math.prod(shape)  # of one of the four results of one call
            rest = flat((*lead, f"({word}) % {q}"), shape)
            place = word if size == q else f"({word}) / {q} * {size} + {rest}"
            return self._declare(a.dtype, f"{self.memory[words]}[{place}]")
        if is_contraction(a):
            return self._contracted(a, index)
        return self._declare(a.dtype, self._formula(a, index), a)

    def _formula(self, a: Node, index: Index) -> str:
        """A line for an element-wise operation."""
        dtypes = operand_dtypes(a)
        name = a.name if a.ufunc is None else a.ufunc.__name__
        kinds = {d.kind for d in dtypes}
        floats, integers = kinds == {"f"}, "f" not in kinds
        known = _OPERATIONS | (_OF_FLOATS if floats else {}) | (_OF_INTEGERS if integers else {})
        if name not in known:
            raise CannotReplayError(f"a kernel has no words for {a}")
        operands = enumerate(zip(a.args, dtypes, strict=False))
        return known[name].format(*(self.value(x, index, d, (name, k)) for k, (x, d) in operands))

    def _words(self, a: Node) -> list[str]:
        """Four random words from the counter and the key."""
        given = [self.value(x, self._index, np.uint32, (WORDS, k)) for k, x in enumerate(a.args)]
        words = [f"w{next(self._names)}" for _ in range(4)]
        self._line(f"  unsigned {', '.join(words)};")
        self._line(f"  philox4x32({', '.join(given + words)});")
        return words

    def _contracted(self, a: Node, index: Index) -> str:
        """A loop for a product, a sum or a maximum."""
        loops, reads = contracted(a, index, f"k{next(self._names)}")
        name, kind = f"v{next(self._names)}", a.kwargs.get("of", a.name)
        start = {"max": -math.inf, "min": math.inf}.get(kind, 0)
        self._line(
            f"  {c_type(a.dtype)} {name} = {self.constants.name(start, a.dtype, kind)};  // {a}"
        )
        self._line(f"  {' '.join(f'for ({loop})' for loop in loops)} {{")
        self._blocks.append({})
        entries = [self.value(node, entry, a.dtype) for node, entry in reads]
        new = _OPERATIONS["maximum" if kind == "max" else "minimum"].format(entries[0], name)
        sums = kind in ("sum", "matmul")
        self._line(f"  {name} {'+=' if sums else '='} {' * '.join(entries) if sums else new};")
        del self._blocks[-1]
        self._line("  }")
        return name


def operand_dtypes(a: Node) -> list[Any]:
    """The dtypes in which an element-wise operation takes its arguments."""
    if a.ufunc is not None:
        kinds = [
            getattr(x, "dtype", np.dtype(bool) if type(x) is bool else type(x)) for x in a.args
        ]
        return list(a.ufunc.resolve_dtypes((*kinds, None))[:-1])
    if a.name == "where":
        return [np.dtype(bool), a.dtype, a.dtype]
    return [a.args[0].dtype] if a.name == "astype" else [a.dtype] * len(a.args)


def random_words(a: Node) -> Node:
    """What the words of dropout come from: the four results of one call, side by side."""
    parts = a.args[0]
    words: Node = parts[0].args[0] if parts[0].name == "item" else parts[0]
    ours = words.name == WORDS and [p.args for p in parts] == [(words, k) for k in range(4)]
    if not ours or a.kwargs.get("axis", 0) not in (-1, len(a.shape) - 1):
        raise CannotReplayError(f"a kernel has no words for {a}")
    return words


@dataclass(frozen=True)
class Kernel:
    """A text, and what it is launched with: one block of ``threads``, ``shared`` bytes of memory.

    Its arguments: the number of steps; the rows of each step, if listed; the state; the losses, if
    reported; ``constants``; the data; the numbers of each step.
    """

    text: str
    constants: bytes
    shared: int
    threads: int
    products: int
    barriers: int


class _Step:
    """The loops and barriers of a step, and what they need."""

    def __init__(self, graph: Graph, constants: Constants, width: int) -> None:
        phases = Phases(graph)
        self.levels, self.products = phases.by_level(), phases.products
        memory, declared, self.shared = _memory(graph, phases)
        writer = Writer(memory, graph, constants, width)
        for number, level in enumerate(self.levels):
            writer.lines.append(f"    // level {number}")
            for shape, roots in level.items():
                writer.write_loop(shape, roots)
            writer.lines.append("    __syncthreads();")
        self.lines = [*(f"    {line}" for line in declared), *writer.lines]
        self.data, self.numbers = writer.data, writer.numbers
        self.used = {writer.numbers[number] for number in writer.used}


def kernel(graphs: Sequence[Graph], *, width: int) -> Kernel:
    """The kernel for steps on mini-batches of one size, or of two.

    Parameters
    ----------
    graphs : sequence of Graph
        Of a step on a mini-batch; of one on a smaller mini-batch, if there are such.
    width : int
        So many rows are listed for each step, those that a smaller mini-batch lacks as -1; 0 where
        each step sees all the data.

    Returns
    -------
    Kernel
        Its text, and what it is launched with.

    Raises
    ------
    CannotReplayError
        For what it has no words for.
    """
    kinds = {leaf.dtype for graph in graphs for leaf in graph.state}
    if len(kinds) != 1 or any(number.shape for number in graphs[0].numbers):
        raise CannotReplayError("a kernel needs a state of one dtype, and single numbers")
    constants = Constants()
    whole, *smaller = steps = [_Step(graph, constants, width) for graph in graphs]
    body = whole.lines
    if smaller:
        body = [f"    if (order[step * {width} + {width - 1}] < 0) {{", *smaller[0].lines,
                "    } else {", *whole.lines, "    }"]  # fmt: skip
    real, size = c_type(kinds.pop()), sum(leaf.size for leaf in graphs[0].state)
    each = f"for (int i = threadIdx.x; i < {size}; i += blockDim.x)"
    used = {name for step in steps for name in step.used}
    threads = max(_threads(step.levels) for step in steps)
    lines = [
        *_head(graphs[0], whole, width, threads, words=any("philox4x32(" in line for line in body)),
        "  extern __shared__ __align__(16) char memory[];",
        f"  SHARED({real}) const s = (SHARED({real}))(memory);",
        *(f"  {line}" for line in constants.lines),
        f"  {each} s[i] = state[i];",
        "  __syncthreads();",
        "  for (int step = 0; step < steps; ++step) {",
        *(f"    const {c_type(n.dtype)} {name} = t{name[1:]}[step];"
          for n, name in whole.numbers.items() if name in used),
        *body,
        "  }",
        f"  {each} state[i] = s[i];",
        "}",
    ]  # fmt: skip
    text, shared = "\n".join(lines) + "\n", max(step.shared for step in steps)
    return Kernel(text, bytes(constants.values), shared, threads, whole.products, len(whole.levels))


def _head(graph: Graph, step: _Step, width: int, threads: int, *, words: bool) -> list[str]:
    arguments = [
        "const int steps",
        *(["const int *__restrict__ order"] if width else []),
        f"{c_type(graph.state[0].dtype)} *state",
        *(f"{c_type(r.dtype)} *losses" for r in graph.results),
        "const char *__restrict__ constants",
        *(f"const {c_type(n.dtype)} *__restrict__ {name}" for n, name in step.data.items()),
        *(f"const {c_type(n.dtype)} *__restrict__ t{name[1:]}" for n, name in step.numbers.items()),
    ]
    given = ", ".join([f"unsigned {w}" for w in ("c0", "c1", "c2", "c3", "k0", "k1")]
                      + [f"unsigned &o{k}" for k in range(4)])  # fmt: skip
    return [
        "#ifndef SHARED",
        "#define SHARED(type) type *",
        "#endif",
        *([f"static __device__ void philox4x32({given}) {{{PHILOX}}}"] if words else []),
        f'extern "C" __global__ void __launch_bounds__({threads}) {NAME}(',
        "    " + ",\n    ".join(arguments) + ") {",
    ]


def _threads(levels: list[dict[Shape, list[Root]]]) -> int:
    """One for each entry of the largest loop, in whole warps."""
    largest = max((math.prod(shape) for level in levels for shape in level), default=1)
    return min(MOST_THREADS, -(-largest // 32) * 32)


def _memory(graph: Graph, phases: Phases) -> tuple[dict[Node, str], list[str], int]:
    """Names for the state and what is stored, their declarations, and bytes in all."""
    names, lines, end = {}, [], 0

    def declare(name: str, dtype: Any, place: int) -> str:
        kind = c_type(dtype)
        lines.append(f"SHARED({kind}) const {name} = (SHARED({kind}))(memory + {place});")
        return name

    for k, leaf in enumerate(graph.state):
        names[leaf] = declare(f"s{k}", leaf.dtype, end)
        end += leaf.size * leaf.dtype.itemsize
    base = end = _aligned(end)
    lives: list[tuple[int, int, int, int]] = []
    for k, root in enumerate(r for r in phases.roots if r.node in phases.stored and not r.target):
        words = root.node.name == WORDS
        dtype, size = (np.dtype("uint32"), 4 * math.prod(root.shape)) if words else (
            root.node.dtype, root.node.size)  # fmt: skip
        life = root.level, phases.stored[root.node]
        place = _free(lives, _aligned(size * dtype.itemsize), *life, base)
        lives.append((place, place + _aligned(size * dtype.itemsize), *life))
        end = max(end, lives[-1][1])
        names[root.node] = declare(f"b{k}", dtype, place)
    return names, lines, end


def _aligned(size: int) -> int:
    return -(-size // 16) * 16


def _free(
    lives: list[tuple[int, int, int, int]], size: int, first: int, last: int, base: int
) -> int:
    """The first place for ``size`` bytes that nothing has which lives at these levels."""
    for begin, end, born, dies in sorted(lives):
        if born <= last and first <= dies:
            if begin - base >= size:
                break
            base = max(base, end)
    return base
