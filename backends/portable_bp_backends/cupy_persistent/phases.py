"""Loops and barriers: what of a step has a loop of its own, after which barrier, and what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp_backends.cupy_persistent.indices import (
    PARTIAL,
    REDUCTIONS,
    VIEWS,
    Index,
    Shape,
    broadcast,
    is_contraction,
    is_pointwise,
    length,
    sources,
    unflat,
)
from portable_bp_backends.numpy_plan.fusion import schedule
from portable_bp_backends.numpy_plan.graph import Graph, Node, an_input

LONG = 64
"""A sum over more entries than this, to one number, is a sum of partial sums."""

WORDS = "kernel philox4x32"
LOSSES = "losses"


@dataclass(eq=False)
class Root:
    """What has a loop over its entries.

    Attributes
    ----------
    node : a node, or a constant
    target : the leaf of the state that it replaces, :data:`LOSSES`, or None: a buffer of its own, if
        others read it later
    level : how many barriers come before it in a step
    """

    node: Any
    shape: Shape
    target: Any = None
    level: int = 0


def loop_index(shape: Shape) -> Index:
    """The index of an entry in a loop over ``i``.

    >>> loop_index((4, 1, 3)), loop_index((4, 1))
    (('i0', '0', 'i2'), ('i', '0'))
    """
    if sum(size > 1 for size in shape) < 2:
        return unflat("i", shape)
    return tuple("0" if size == 1 else f"i{d}" for d, size in enumerate(shape))


def words_shape(node: Node) -> Shape:
    """The counters that random words are made of, four of each."""
    return np.broadcast_shapes(*(np.shape(a) for a in node.args))


class Phases:
    """The roots of a step, each with its level.

    Attributes
    ----------
    roots : in an order to compute them in
    stored : from root nodes that others read later, or at other entries, to the last such level
    products : multiplications of matrices, and additions of sums, in a step
    """

    def __init__(self, graph: Graph) -> None:
        self._state = set(graph.state)
        order = _with_partial_sums(schedule(graph, neighbours=False)[0])
        pairs = zip(graph.state, graph.new_state, strict=True)
        updates = [Root(new, old.shape, old) for old, new in pairs if new is not old]
        results = [Root(r, r.shape, LOSSES) for r in graph.results]
        self._nodes = set(graph.inputs) | _heads(order)
        for root in updates:
            # It reads other entries of the old state: they are read before the first one goes.
            if any(q in self._state and not own for q, own in self.reads(root)):
                self._nodes.add(root.node)
        own = [n for n in (*graph.inputs, *order) if n in self._nodes]
        self.roots = [Root(n, words_shape(n) if n.name == WORDS else n.shape) for n in own]
        self._assign_levels(results, updates)
        self.roots += updates + results
        self.stored = self._assign_storage()
        self.products = sum(node.size * length(node) for node in order if is_contraction(node))

    def reads(self, root: Root) -> Iterator[tuple[Node, bool]]:
        """Other roots, and leaves of the state, that a root reads; whether at its own entry."""
        here = loop_index(root.shape)
        done: set[tuple[Node, Index]] = set()
        todo = [(root.node, here)]
        while todo:
            node, index = todo.pop()
            if not isinstance(node, Node):
                continue
            index = broadcast(index, node.shape)
            if (node, index) in done:
                continue
            done.add((node, index))
            other = node is not root.node or root.target is not None
            if node in self._state or (other and node in self._nodes):
                yield node, (node.shape, index) == (root.shape, here)
            elif node.call is not an_input:
                todo += sources(node, index)

    def _assign_levels(self, results: list[Root], updates: list[Root]) -> None:
        """As early as possible; the new state where nobody reads the old one any more."""
        level: dict[Node, int] = {}

        def earliest(root: Root) -> int:
            return max(
                (level[q] + (not own) for q, own in self.reads(root) if q in level), default=0
            )

        for root in self.roots:
            root.level = level[root.node] = earliest(root)
        for root in results:
            root.level = earliest(root)
        late = self._late(results, updates)
        last = max((earliest(root) for root in updates), default=0)
        for root in self.roots + results:
            if root not in late and any(q in self._state for q, _ in self.reads(root)):
                last = max(last, root.level + 1)
        for root in (*late, *updates):
            root.level = last

    def _late(self, results: list[Root], updates: list[Root]) -> set[Root]:
        """What only the new state reads, entry by entry: gradients."""
        early = {q for root in self.roots + results for q, _ in self.reads(root)}
        early |= {q for root in updates for q, own in self.reads(root) if not own}
        return {
            root
            for root in self.roots
            if root.node not in early and not any(q in self._state for q, _ in self.reads(root))
        }

    def _assign_storage(self) -> dict[Node, int]:
        level = {root.node: root.level for root in self.roots if root.target is None}
        stored: dict[Node, int] = {}
        for root in self.roots:
            for q, own in self.reads(root):
                if q in level and not (own and level[q] == root.level):
                    stored[q] = max(stored.get(q, 0), root.level)
        return stored

    def by_level(self) -> list[dict[Shape, list[Root]]]:
        """For each level the roots of each loop."""
        count = 1 + max((root.level for root in self.roots), default=0)
        levels: list[dict[Shape, list[Root]]] = [{} for _ in range(count)]
        for root in self.roots:
            levels[root.level].setdefault(root.shape, []).append(root)
        return levels


def _heads(order: list[Node]) -> set[Node]:
    """The contractions, the random words, and the formulas that products read again and again."""
    heads = {node for node in order if is_contraction(node) or node.name == WORDS}
    for product in order:
        for operand in product.args if product.call is np.matmul else ():
            while isinstance(operand, Node) and operand.name in VIEWS:
                operand = operand.args[0]
            if isinstance(operand, Node) and is_pointwise(operand):
                heads.add(operand)
    return heads


def _with_partial_sums(order: list[Node]) -> list[Node]:
    """The same operations, where a long sum to one number is a sum of partial sums."""
    made = []
    for node in order:
        if node.name in REDUCTIONS and node.size == 1 and node.args[0].size > LONG:
            x, parts = node.args[0], math.isqrt(node.args[0].size)
            partial = Node(
                PARTIAL, node.call, (x,), {"of": node.name}, shape=(parts,), dtype=node.dtype
            )
            node.args, node.kwargs = (partial,), {}
            made.append(partial)
        made.append(node)
    return made
