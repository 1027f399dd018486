"""Tracing: run a pure function once on example arrays and write down what it calls.

The function gets a :class:`TracingNamespace` in place of the real one and :class:`Traced` arrays in
place of real ones. Each call on them is carried out at once, so that shapes, dtypes and errors are
those of the plain run, and noted as a :class:`Node`. What does not depend on a traced array is
carried out and not noted: Python itself folds the constants.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from portable_bp._typing import Namespace, Tree
from portable_bp.backend import leaves, map_leaves


class Node:
    """One operation: what it calls, on what, and the shape and dtype of the result.

    Attributes
    ----------
    name : the function's name; ``"state"``, ``"given"`` or ``"number"`` for an input
    call : what the plain run calls, as ``call(*args, **kwargs)``
    args, kwargs : nodes, constant arrays and Python values, also in nested tuples and lists
    view : whether the result is a window on the memory of ``args[0]``
    """

    __slots__ = ("args", "call", "dtype", "kwargs", "name", "shape", "size", "view")

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        shape: tuple[int, ...],
        dtype: Any,
        view: bool = False,
    ) -> None:
        self.name, self.call, self.args, self.kwargs = name, call, args, kwargs or {}
        self.shape, self.view = shape, view
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.size = int(np.prod(shape, dtype=np.int64))

    @property
    def ufunc(self) -> Any:
        """The element-wise NumPy function that this is a plain call of, or None."""
        f: Any = self.call
        plain = isinstance(f, np.ufunc) and not self.kwargs and len(self.args) == f.nin
        return f if plain and f.signature is None and f.nout == 1 else None

    @property
    def elementwise(self) -> bool:
        """Whether entry i of the result depends on the entries i of the arguments alone."""
        select = self.name == "where" and len(self.args) == 3
        return self.ufunc is not None or self.name == "astype" or select

    @property
    def sources(self) -> Iterator[Node]:
        """The nodes among the arguments."""
        return (a for a in walk((self.args, self.kwargs)) if isinstance(a, Node))

    @property
    def parts(self) -> tuple[Node, ...]:
        """The arrays that this lays side by side in one flat array; empty for other operations."""
        parts = self.args if self.name == "join" else ()
        if self.call is np.concatenate and self.kwargs.get("axis", 0) == 0 and len(self.args) == 1:
            parts = tuple(self.args[0])
        flat = all(isinstance(p, Node) and p.dtype == self.dtype for p in parts)
        return parts if flat and len(self.shape) == 1 else ()

    def __repr__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Graph:
    """What was noted.

    Attributes
    ----------
    state, given, numbers : the inputs, in the order of the leaves: what one run hands to the next,
        other arrays, and 0-d arrays that change from run to run
    nodes : the operations, in the order in which they were called
    new_state : for each of ``state``, the node (or constant array) that takes its place
    results : nodes or constant arrays; ``form`` is their tree, with positions for leaves
    """

    def __init__(self) -> None:
        self.state: list[Node] = []
        self.given: list[Node] = []
        self.numbers: list[Node] = []
        self.nodes: list[Node] = []
        self.new_state: list[Any] = []
        self.results: list[Any] = []
        self.form: Tree = ()


def trace_step(xp: Namespace, step: Any, state: Tree, rows: Tree, numbers: Tree) -> Graph:
    """The graph of ``step(xp, state, (*rows, numbers))``; the results are those of the loss."""
    trace = Trace(xp)
    graph = trace.graph
    traced = trace.inputs(graph.state, "state", state)
    batch = (
        *trace.inputs(graph.given, "given", rows),
        trace.inputs(graph.numbers, "number", numbers),
    )
    new, loss = trace.run(step, traced, batch)
    if _form(new) != _form(state):
        raise TypeError("a compiled step must return its state in the form in which it got it")
    graph.new_state = [_noted(leaf) for leaf in leaves(new)]
    for i, (old, leaf) in enumerate(zip(graph.state, graph.new_state, strict=True)):
        if (old.shape, old.dtype) != (leaf.shape, leaf.dtype):
            raise TypeError(
                "a compiled step must keep the shape and dtype of its state: "
                f"leaf {i} was {old.dtype}{list(old.shape)}, the step made it "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
    _keep_results(graph, loss)
    if len(graph.results) > 1:
        raise TypeError(f"the loss of a step must be one array or (), got {len(graph.results)}")
    return graph


def trace_function(xp: Namespace, f: Any, trees: tuple[Tree, ...]) -> Graph:
    """The graph of ``f(xp, *trees)``."""
    trace = Trace(xp)
    traced = trace.inputs(trace.graph.given, "given", trees)
    _keep_results(trace.graph, trace.run(f, *traced))
    return trace.graph


def _keep_results(graph: Graph, found: Tree) -> None:
    graph.results = [_noted(leaf) for leaf in leaves(found)]
    position = iter(range(len(graph.results)))
    graph.form = map_leaves(lambda leaf: next(position), found)


def _noted(leaf: Any) -> Any:
    return leaf.node if isinstance(leaf, Traced) else np.asarray(leaf)


def _form(tree: Tree) -> Any:
    return tuple(map(_form, tree)) if isinstance(tree, tuple) else None


class Trace:
    """Notes in :attr:`graph` what is called through :attr:`namespace` and on traced arrays."""

    def __init__(self, xp: Namespace) -> None:
        self.graph = Graph()
        self.namespace = TracingNamespace(xp, self)
        self._known: dict[Any, Any] = {}

    def inputs(self, into: list[Node], name: str, tree: Tree) -> Tree:
        """The tree with traced arrays for leaves, their nodes appended to ``into``."""

        def traced(value: Any) -> Traced:
            into.append(Node(name, an_input, shape=value.shape, dtype=value.dtype))
            return Traced(self, into[-1], value)

        return map_leaves(traced, tree)

    def run(self, f: Any, *args: Any) -> Any:
        """``f(namespace, *args)``, noted."""
        with np.errstate(all="ignore"):  # the replay, on the same numbers, warns
            return f(self.namespace, *args)

    def record(self, name: str, call: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``call(*args, **kwargs)``, noted when there is a traced array among the arguments."""
        if not _any_traced((args, kwargs)):
            return call(*args, **kwargs)
        name, call, args = _native(name, call, args, kwargs)
        known = _simplify(name, args, kwargs)
        if known is not None:
            return known
        values, options = map_tree(_value, (args, kwargs))
        if name in _OF_SHAPE and not _any_traced((args[1:], kwargs)):
            return call(*values, **options)
        result = call(*values, **options)
        nodes = map_tree(_node, (args, kwargs))
        seen = (name, call, key(nodes))
        if seen not in self._known:  # the same call on the same arguments is noted once
            noted = self._note(name, call, nodes, values, result)
            self._known[seen] = noted, nodes  # the nodes stay alive, and their ids taken
        results = walk(result)
        # Numbers live as long as in the plain run: nobody but the step holds them.
        return map_tree(lambda node: self._traced(node, next(results)), self._known[seen][0])

    def _traced(self, node: Any, result: Any) -> Any:
        return Traced(self, node, np.asarray(result)) if isinstance(node, Node) else result

    def _note(self, name: str, call: Any, nodes: Any, values: Any, result: Any) -> Any:
        """The node of a result; nodes in the form of the result when there are several."""
        args, kwargs = nodes
        if isinstance(result, tuple | list | dict):
            several = Node(name, call, args, kwargs, shape=(len([*walk(result)]),), dtype=object)
            self.graph.nodes.append(several)
            items = ((several, position) for position in itertools.count())
            return map_tree(
                lambda r: self._note("item", operator.getitem, (next(items), {}), (), r), result
            )
        if not isinstance(result, np.ndarray | np.generic):
            if isinstance(result, bool | int | float | complex):
                raise TypeError(f"{name}() makes a Python number of a traced array: {_NO_VALUE}")
            return result  # a dtype or the like, which shapes and dtypes alone decide
        value = np.asarray(result)
        view = (
            bool(values)
            and isinstance(args[0], Node)
            and np.may_share_memory(value, values[0])
            and not any(isinstance(a, Node) for a in walk((args[1:], kwargs)))
        )
        node = Node(name, call, args, kwargs, shape=value.shape, dtype=value.dtype, view=view)
        if node.elementwise:
            node.args = tuple(_shrink(node, a) for a in args)
        self.graph.nodes.append(node)
        return node


_NO_VALUE = (
    "it has no value yet. Keep Python control flow and host reads out of a compiled step, or run "
    "it with compile=False"
)


_T, _MT = operator.attrgetter("T"), operator.attrgetter("mT")


class Traced:
    """An array whose numbers are not there yet, with a shape and a dtype."""

    __slots__ = ("_trace", "node", "value")
    __hash__ = None  # type: ignore[assignment]
    __iter__ = None

    def __init__(self, trace: Trace, node: Node, value: Any) -> None:
        self._trace, self.node, self.value = trace, node, value

    shape = property(lambda self: self.node.shape)
    dtype = property(lambda self: self.node.dtype)
    ndim = property(lambda self: len(self.node.shape))
    size = property(lambda self: self.node.size)
    device = property(lambda self: "cpu")
    T = property(lambda self: self._trace.record("T", _T, self))
    mT = property(lambda self: self._trace.record("mT", _MT, self))

    def __len__(self) -> int:
        return int(self.node.shape[0])

    def __array_namespace__(self, api_version: str | None = None) -> TracingNamespace:
        return self._trace.namespace

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """What NumPy asks when one of its own functions meets a traced array."""
        if "out" in kwargs:
            self._refuse()
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        return self._trace.record(ufunc.__name__, call, *args, **kwargs)

    def __array_function__(self, f: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._trace.record(f.__name__, f, *args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._trace.record("getitem", operator.getitem, self, key)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"a traced array was asked for its numbers: {_NO_VALUE}")

    __bool__ = __int__ = __float__ = __complex__ = __index__ = __array__ = _refuse
    item = tolist = __setitem__ = _refuse

    def __repr__(self) -> str:
        return f"Traced({self.node})"


def _add_operators() -> None:
    binary = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
        "floordiv": np.floor_divide, "mod": np.remainder, "pow": operator.pow, "matmul": np.matmul,
        "lshift": np.left_shift, "rshift": np.right_shift,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }  # fmt: skip
    compared = {
        "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
        "eq": np.equal, "ne": np.not_equal,
    }  # fmt: skip
    unary = {"neg": np.negative, "abs": np.absolute, "invert": np.invert, "pos": np.positive}
    for name, f in {**binary, **compared, **unary}.items():

        def direct(self: Traced, *other: Any, f: Any = f) -> Any:
            return self._trace.record(f.__name__, f, self, *other)

        def reflected(self: Traced, other: Any, f: Any = f) -> Any:
            return self._trace.record(f.__name__, f, other, self)

        setattr(Traced, f"__{name}__", direct)
        if name in binary:
            setattr(Traced, f"__r{name}__", reflected)


_add_operators()


class TracingNamespace:
    """The names of an Array API namespace, with functions that note their calls."""

    def __init__(self, xp: Namespace, trace: Trace) -> None:
        self._xp, self._trace = xp, trace

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        if name == "portable_bp_kernel":
            return partial(self._kernel, found)
        if isinstance(found, ModuleType):  # xp.linalg
            return TracingNamespace(found, self._trace)
        if callable(found) and not isinstance(found, type):
            return partial(self._trace.record, name, found)
        return found

    def _kernel(self, kernels: Callable[..., Any], group: Callable[..., Any]) -> Any:
        """A native kernel for an element-wise group is noted as one call."""
        kernel = kernels(group)
        return (
            None
            if kernel is None
            else partial(self._trace.record, f"kernel {group.__name__}", kernel)
        )


# --- what a call is known to be -----------------------------------------------------------------

_OF_SUM = {"axis", "dtype", "keepdims"}
_OF_SHAPE = ("zeros_like", "ones_like", "full_like", "empty_like")
"""The result depends on the first argument's shape and dtype only, not on its numbers."""


def _native(name: str, call: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any]:
    """The NumPy function, and its arguments, that a wrapper or an operator comes down to."""
    if kwargs:
        return name, call, args
    x = args[0]
    if name == "matmul":
        return name, np.matmul, args
    if name == "sign" and isinstance(x, Traced) and x.dtype.kind == "f":
        return name, np.sign, args
    if call is operator.pow and isinstance(x, Traced) and x.dtype.kind == "f" and x.ndim:
        exponent = args[1]
        f = _POWERS.get(exponent) if type(exponent) in (int, float) else None
        return (name, call, args) if f is None else (f.__name__, f, (x,))
    return name, call, args


_POWERS = {2: np.square, 0.5: np.sqrt}
"""What ``array ** exponent`` is to NumPy, for exponents that it knows."""


def _simplify(name: str, args: Any, kwargs: Any) -> Any:
    """What the call is known to return without computing anything, to the last bit; or None."""
    x = args[0] if args else None
    if name == "astype" and isinstance(x, Traced) and args[1:] == (x.dtype,):
        return x
    if name in ("multiply", "divide") and len(args) == 2:
        y = args[1]
        if _is_one(y) and _keeps(x, y):
            return x  # x * 1 = x / 1 = x
        if name == "multiply" and _is_one(x) and _keeps(y, x):
            return y
    if name == "bitwise_and" and isinstance(x, Traced) and type(args[1]) is int and not args[1]:
        return np.zeros(x.shape, x.dtype)
    if name == "sum" and isinstance(x, Traced) and len(args) == 1 and set(kwargs) <= _OF_SUM:
        axis = kwargs.get("axis")
        kept = kwargs.get("dtype") in (None, x.dtype) and x.dtype.kind == "f"
        if kept and type(axis) is int and x.shape[axis] == 1:  # the sum of one number
            return x if kwargs.get("keepdims") else x[_only(axis % x.ndim)]
    return None


def _only(axis: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, 0)


def _is_one(a: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return a.size > 0 and bool(np.all(a == 1))
    return type(a) in (int, float) and bool(a == 1)


def _keeps(x: Any, one: Any) -> bool:
    """Whether ``x * one`` has the shape and dtype of ``x``."""
    if not isinstance(x, Traced) or x.dtype.kind != "f":
        return False
    if isinstance(one, np.ndarray | np.generic):
        return bool(one.dtype == x.dtype) and np.broadcast_shapes(x.shape, one.shape) == x.shape
    return True


def _shrink(node: Node, a: Any) -> Any:
    """A constant array of equal entries as a 0-d array, where broadcasting makes up for it."""
    if not isinstance(a, np.ndarray) or not a.ndim or not equal_entries(a):
        return a
    others = [b.shape for b in node.args if isinstance(b, Node | np.ndarray) and b is not a]
    return a.flat[0:1].reshape(()) if np.broadcast_shapes(*others) == node.shape else a


def equal_entries(a: Any) -> bool:
    """Whether all entries of an array are the same, bit for bit."""
    if not a.size or a.dtype.hasobject:
        return False
    bits = np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(a.size, -1)
    return bool((bits == bits[0]).all())


# --- nested arguments ---------------------------------------------------------------------------


def walk(x: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and dictionaries."""
    if isinstance(x, tuple | list):
        for a in x:
            yield from walk(a)
    elif isinstance(x, dict):
        yield from walk(tuple(x.values()))
    else:
        yield x


def map_tree(f: Callable[[Any], Any], x: Any) -> Any:
    """Nested tuples, lists and dictionaries with ``f(leaf)`` for each leaf."""
    if isinstance(x, tuple | list):
        mapped = [map_tree(f, a) for a in x]
        return type(x)(*mapped) if hasattr(x, "_fields") else type(x)(mapped)
    if isinstance(x, dict):
        return {k: map_tree(f, a) for k, a in x.items()}
    return f(x)


def _any_traced(x: Any) -> bool:
    return any(isinstance(a, Traced) for a in walk(x))


def _value(a: Any) -> Any:
    return a.value if isinstance(a, Traced) else a


def _node(a: Any) -> Any:
    if isinstance(a, Traced):
        return a.node
    return np.asarray(a) if isinstance(a, np.generic) else a


def key(x: Any) -> Any:
    """Equal for arguments that are the same: nodes by identity, constants by their bits."""
    if isinstance(x, tuple | list):
        return tuple(map(key, x))
    if isinstance(x, dict):
        return tuple((k, key(x[k])) for k in sorted(x))
    if isinstance(x, np.ndarray) and equal_entries(x):
        return x.shape, x.dtype.str, x.flat[0:1].tobytes()
    if isinstance(x, bool | int | float | str | slice | type(None) | type(...) | np.dtype):
        return type(x), repr(x)
    return id(x)


def an_input(*args: Any) -> NoReturn:
    raise AssertionError("an input is handed in, not computed")
