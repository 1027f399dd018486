"""Tracing: run a pure function once on example arrays and write down what it calls.

The function gets a :class:`TracingNamespace` in place of the real one and :class:`Traced` arrays in
place of real ones. Each call on them is carried out at once, so that shapes, dtypes and errors are
those of the eager run, and noted as a :class:`Node`. What does not depend on a traced array is
carried out and not noted: Python itself folds the constants.

A graph knows values, not memory, so nothing in it may be written over. Calls therefore see arrays
that are read-only, constants as private copies; a function that writes into an argument, by
whatever way, is refused, and so is one that looks at numbers or whose shapes depend on them. Last,
the function runs eagerly on the same numbers: one that answers otherwise has a state of its own.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any, NoReturn

import numpy as np

from portable_bp._tree import leaves, map_leaves
from portable_bp._typing import Namespace, Tree
from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.numpy_plan.arguments import as_constant, key, nodes_among
from portable_bp_backends.numpy_plan.graph import Graph, Node, an_input
from portable_bp_backends.numpy_plan.rewrites import native, shrink, simplify
from portable_bp_backends.numpy_plan.traced import Traced, TracingNamespace

_OF_SHAPE = ("zeros_like", "ones_like", "full_like", "empty_like")
"""The result depends on the first argument's shape and dtype only, not on its numbers."""

_FIXED_SHAPE = {
    "T", "mT", "matmul", "sum", "max", "min", "mean", "argmax", "reshape", "astype", "asarray",
    "concat", "stack", "expand_dims", "permute_dims", "broadcast_to", "squeeze", "take",
    "sum_over_processes",
}  # fmt: skip
"""Functions whose result has a shape that never depends on numbers: the others are tried out."""


class StateError(TypeError):
    """What a step returns has another form than the next step needs."""


def trace_step(xp: Namespace, step: Any, state: Tree, rows: Tree, numbers: Tree) -> Graph:
    """The graph of ``step(xp, state, (*rows, numbers))``; the results are those of the loss.

    Raises :class:`CannotReplayError` where no graph can stand for the step, :class:`StateError`
    where it could not run twice.
    """
    trace = Trace(xp)
    graph = trace.graph
    traced = trace.inputs(graph.state, "state", state)
    batch = (
        *trace.inputs(graph.inputs, "input", rows),
        trace.inputs(graph.numbers, "number", numbers),
    )
    new, loss = trace.run(step, traced, batch)
    if _form(new) != _form(state):
        raise StateError("a step must return its state in the form in which it got it")
    graph.new_state = [_noted(leaf) for leaf in leaves(new)]
    for i, (old, leaf) in enumerate(zip(graph.state, graph.new_state, strict=True)):
        if (old.shape, old.dtype) != (leaf.shape, leaf.dtype):
            raise StateError(
                "a step must keep the shape and dtype of its state: "
                f"leaf {i} was {old.dtype}{list(old.shape)}, the step made it "
                f"{leaf.dtype}{list(leaf.shape)}; is there an array of another dtype in a function "
                "of yours?"
            )
    _keep_results(graph, loss)
    if len(graph.results) > 1:
        raise StateError(f"the loss of a step must be one array or (), got {len(graph.results)}")
    check_pure(step, xp, (state, (*rows, numbers)), (new, loss))
    return graph


def trace_function(xp: Namespace, f: Any, trees: tuple[Tree, ...]) -> Graph:
    """The graph of ``f(xp, *trees)``."""
    trace = Trace(xp)
    traced = trace.inputs(trace.graph.inputs, "input", trees)
    _keep_results(trace.graph, trace.run(f, *traced))
    return trace.graph


def check_pure(f: Any, xp: Namespace, args: tuple[Tree, ...], results: Tree) -> None:
    """Refuse ``f`` unless, run eagerly, it answers with these results again."""
    with np.errstate(all="ignore"):
        again = f(xp, *map_leaves(np.copy, args))
    if _form(again) != _form(results) or not all(
        _same(np.asarray(a.value if isinstance(a, Traced) else a), np.asarray(b))
        for a, b in zip(leaves(results), leaves(again), strict=True)
    ):
        raise CannotReplayError(
            "called twice with the same arguments it does not answer the same: it has a state of "
            "its own, draws random numbers, or asks for the type of an array"
        )


def _same(a: Any, b: Any) -> bool:
    """Whether two arrays agree, but for the rounding that a BLAS may vary from call to call."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.tobytes() == b.tobytes():
        return True
    if a.dtype.kind != "f":
        return False
    scale = np.max(np.abs(b), where=np.isfinite(b), initial=0)
    return bool(np.allclose(a, b, 0, 16 * np.finfo(b.dtype).eps * scale, equal_nan=True))


def _keep_results(graph: Graph, results: Tree) -> None:
    graph.results = [_noted(leaf) for leaf in leaves(results)]
    position = iter(range(len(graph.results)))
    graph.form = map_leaves(lambda leaf: next(position), results)


def _noted(leaf: Any) -> Any:
    return leaf.node if isinstance(leaf, Traced) else as_constant(np.asarray(leaf))


def _form(tree: Tree) -> Any:
    return map_leaves(lambda leaf: None, tree)


class Trace:
    """Notes in :attr:`graph` what is called through :attr:`namespace` and on traced arrays."""

    def __init__(self, xp: Namespace) -> None:
        self.graph = Graph()
        self.namespace = TracingNamespace(xp, self)
        self._known: dict[Any, Any] = {}
        self._refusal = ""
        # Constants that a result is a view of, each with the copy that stands for it.
        self._seen_through: list[tuple[Any, Any]] = []

    def inputs(self, into: list[Node], name: str, tree: Tree) -> Tree:
        """The tree with traced arrays for leaves, their nodes appended to ``into``."""

        def traced(value: Any) -> Traced:
            into.append(Node(name, an_input, shape=value.shape, dtype=value.dtype))
            return Traced(self, into[-1], _read_only(value))

        return map_leaves(traced, tree)

    def run(self, f: Any, *args: Any) -> Any:
        """``f(namespace, *args)``, noted."""
        with np.errstate(all="ignore"):  # the replay, on the same numbers, warns
            results = f(self.namespace, *args)
        if self._refusal:  # the function went on without the answer
            raise CannotReplayError(self._refusal)
        if any(original.tobytes() != copy.tobytes() for original, copy in self._seen_through):
            raise CannotReplayError("it writes into an array")
        return results

    def refuse(self, reason: str) -> NoReturn:
        """End the trace, even where the function catches the error."""
        self._refusal = self._refusal or reason
        raise CannotReplayError(reason)

    def record(self, name: str, call: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``call(*args, **kwargs)``, noted when there is a traced array among the arguments."""
        if not _any_traced((args, kwargs)):
            return call(*args, **kwargs)
        if any(array is not None for array in leaves(kwargs.get("out"))):
            self.refuse(f"it writes the result of {name} into an array")
        name, call, args = native(name, call, args, kwargs)
        known = simplify(name, args, kwargs)
        if known is not None:
            return known
        nodes = self._nodes((args, kwargs))
        values, options = map_leaves(_value, (args, kwargs), nodes)
        result = self._called(name, call, values, options)
        if name in _OF_SHAPE and not _any_traced((args[1:], kwargs)):
            return result
        known_as = (name, call, key(nodes))
        if known_as not in self._known:  # the same call on the same arguments is noted once
            self._check_shape(name, call, nodes, values, options, result)
            noted = self._note(name, call, nodes, values, result)
            self._known[known_as] = noted, nodes  # the nodes stay alive, and their ids taken
        self._note_views((args, kwargs), nodes, result)
        results = leaves(result)
        # Numbers live as long as in the eager run: nobody but the step holds them.
        return map_leaves(lambda node: self._traced(node, next(results)), self._known[known_as][0])

    def _nodes(self, args: Any) -> Any:
        """The arguments as a graph holds them."""
        try:
            return map_leaves(lambda a: a.node if isinstance(a, Traced) else as_constant(a), args)
        except CannotReplayError as error:
            self.refuse(str(error))

    def _called(self, name: str, call: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = call(*args, **kwargs)
        except Exception as error:  # above all NumPy's, that an array is read-only
            self.refuse(f"{name}: {error}")
        if result is None:
            self.refuse(f"{name} answers with nothing: it must change an argument")
        return result

    def _check_shape(
        self, name: str, call: Any, nodes: Any, args: Any, kwargs: Any, result: Any
    ) -> None:
        """Refuse a call whose result has another shape when its arguments have other numbers."""
        chosen = name == "getitem" and nodes_among(nodes[0][1:])
        known = name in _FIXED_SHAPE or name == "getitem" or (name == "where" and len(args) == 3)
        if not chosen and (isinstance(call, np.ufunc) or name.startswith("kernel ") or known):
            return
        for number in (0, 1):

            def other(node: Any, value: Any, number: int = number) -> Any:
                return np.full_like(value, number) if isinstance(node, Node) else value

            try:
                trial, options = map_leaves(other, nodes, (args, kwargs))
                shapes = _shapes(call(*trial, **options))
            except Exception:  # such numbers may be out of question: an index, a singular matrix
                continue
            if shapes != _shapes(result):
                self.refuse(f"the shape of the result of {name} depends on numbers")

    def _note_views(self, args: Any, nodes: Any, result: Any) -> None:
        """Remember constants that a result is a view of: they must not change any more."""
        for argument, copy in zip(leaves(args), leaves(nodes), strict=True):
            if isinstance(argument, np.ndarray) and any(
                np.may_share_memory(r, copy) for r in leaves(result) if isinstance(r, np.ndarray)
            ):
                self._seen_through.append((argument, copy))

    def _traced(self, node: Any, result: Any) -> Any:
        if not isinstance(node, Node):
            return result
        return Traced(self, node, _read_only(result), fixed=isinstance(result, np.generic))

    def _note(self, name: str, call: Any, nodes: Any, values: Any, result: Any) -> Any:
        """The node of a result; nodes in the form of the result when there are several."""
        args, kwargs = nodes
        if isinstance(result, tuple | list | dict):
            several = Node(name, call, args, kwargs, shape=(len([*leaves(result)]),), dtype=object)
            self.graph.nodes.append(several)
            items = ((several, position) for position in itertools.count())
            return map_leaves(
                lambda r: self._note("item", operator.getitem, (next(items), {}), (), r), result
            )
        if isinstance(result, np.dtype | type | np.finfo | np.iinfo):
            return result  # dtypes alone decide it
        if type(result) not in (np.ndarray, np.memmap) and not isinstance(result, np.generic):
            self.refuse(f"{name} makes a {type(result).__name__} of a traced array")
        value = np.asarray(result)
        if value.dtype.hasobject:
            self.refuse(f"{name} makes an array of Python objects")
        view = (
            bool(values)
            and isinstance(args[0], Node)
            and np.may_share_memory(value, values[0])
            and not nodes_among((args[1:], kwargs))
        )
        node = Node(name, call, args, kwargs, shape=value.shape, dtype=value.dtype, view=view)
        if node.elementwise:
            node.args = tuple(shrink(node, a) for a in args)
        self.graph.nodes.append(node)
        return node


def _read_only(array: Any) -> Any:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _any_traced(x: Any) -> bool:
    return any(isinstance(a, Traced) for a in leaves(x))


def _value(a: Any, node: Any) -> Any:
    """What a call sees of an argument: of a constant array the copy that the graph holds."""
    if isinstance(a, Traced):
        return a.value
    return node if isinstance(a, np.ndarray) else a


def _shapes(result: Any) -> list[Any]:
    return [np.shape(r) for r in leaves(result)]
