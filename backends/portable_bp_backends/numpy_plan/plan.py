"""A plan: a graph with the memory for its values, and the straight-line Python that fills it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from portable_bp_backends.numpy_plan.arguments import equal_entries
from portable_bp_backends.numpy_plan.fusion import schedule
from portable_bp_backends.numpy_plan.graph import Graph, Node
from portable_bp_backends.numpy_plan.lowering import Lowering
from portable_bp_backends.numpy_plan.memory import Memory, State
from portable_bp_backends.numpy_plan.options import PlanOptions
from portable_bp_backends.numpy_plan.source import Call, Operand, Source


class Plan:
    """A graph, ready to loop.

    Attributes
    ----------
    replay : ``replay(*bind(arrays), *numbers(table)[i])`` runs the graph, leaves the new state in the
        place of the old, and returns the results: one array or a tuple, good until the next replay
    source : the Python of ``replay``
    results : shapes and dtypes of the results; ``form`` is their tree, with positions for leaves
    nbytes : the size of the memory that the plan owns, besides the state
    """

    def __init__(self, graph: Graph, state: State, options: PlanOptions) -> None:
        order, lanes = schedule(graph, options.fusion)
        memory = Memory(graph, order, lanes, state, options)
        source = Source()
        for array in state.arrays:
            source.name(array, "s")
        lowering = Lowering(memory, source, options)
        _write(order, memory, lowering, source)
        returned = _write_end(graph, state, memory, lowering, source)
        self._inputs, self._numbers = graph.inputs, graph.numbers
        self._views = [node for node in order if node in memory.external]
        self._arguments, self._columns = tuple(lowering.inputs), tuple(lowering.numbers)
        parameters = (*lowering.inputs.values(), *lowering.numbers.values())
        self.source, self.replay = source.compile(parameters, returned)
        self.results, self.form, self.nbytes = graph.results, graph.form, memory.pool.nbytes

    def bind(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The given arrays, and views of them, as ``replay`` takes them."""
        known = dict(zip(self._inputs, arrays, strict=True))
        for node in self._views:
            known[node] = node.call(known[node.args[0]], *node.args[1:], **node.kwargs)
        return tuple(map(known.__getitem__, self._arguments))

    def numbers(self, table: Sequence[Any]) -> list[tuple[Any, ...]]:
        """For each step the 0-d arrays that ``replay`` takes, from arrays of one entry per step."""
        steps = len(table[0])
        known = dict(zip(self._numbers, table, strict=True))
        columns = []
        for column in map(known.__getitem__, self._columns):
            same = equal_entries(column)
            columns.append([column[0 if same else i, ...] for i in range(1 if same else steps)])
            columns[-1] *= steps if same else 1
        return list(zip(*columns, strict=True)) if columns else [()] * steps


def _write(order: list[Node], memory: Memory, lowering: Lowering, source: Source) -> None:
    """The calls of all nodes in their order; those of a loop when it is complete."""
    position = {node: i for i, node in enumerate(order)}
    pending: list[Call] = []
    after: list[Node] = []  # views of a loop's values that turned out to be copies
    for i, node in enumerate(order):
        loop = memory.loops.get(i)
        if node in memory.stretches:
            memory.look_at_state(node)
            source.name(memory.arrays[node], "s")
        elif node in memory.views:
            if not memory.look(node):
                seen = position.get(memory.seen_through(node), -1)
                if loop is not None and loop.start <= seen:
                    after.append(node)
                else:
                    source.write([lowering.fill(node, memory.arrays[node])], node)
        elif memory.is_called(node):
            made = lowering.make(i, node)
            if loop is None:
                source.write(made, node)
            else:
                pending += made
                if i == loop.stop:
                    source.write_loop(loop, pending)
                    for view in after:
                        source.write([lowering.fill(view, memory.arrays[view])], view)
                    pending, after = [], []
            memory.release(i)


def _write_end(
    graph: Graph, state: State, memory: Memory, lowering: Lowering, source: Source
) -> str:
    """Copies of what could not be made in its place; answers with what ``replay`` returns.

    An old value of the state that is wanted elsewhere is copied before anything is written over it.
    """

    def saved(wanted: Any) -> Any:
        value = lowering.value(wanted)
        if isinstance(wanted, Node) and not set(memory.owners(wanted)).isdisjoint(graph.state):
            copy = np.empty(wanted.shape, wanted.dtype)
            source.write([Call("{0}[...] = {1}", (Operand(copy), Operand(value)))])
            return copy
        return value

    results = [saved(wanted) for wanted in graph.results]
    copies = [
        (place, saved(new))
        for place, new in zip(state.arrays, graph.new_state, strict=True)
        if source.name(lowering.value(new)) != source.name(place)
    ]
    for place, value in copies:
        source.write([Call("{0}[...] = {1}", (Operand(place), Operand(value)))], "new state")
    names = [source.name(value) for value in results]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"
