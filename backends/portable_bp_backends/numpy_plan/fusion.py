"""Neighbours: one element-wise expression over all tensors instead of one for each.

An optimiser runs the same dozen operations over every weight matrix and every bias. For a small
network most of its time goes into the calls, not into the numbers. The plan keeps the state's arrays
side by side in one buffer, in the order of the leaves, so that the operations over neighbours can be
one operation over the flat stretch of memory that they share.

This is superword-level parallelism (Larsen and Amarasinghe, PLDI 2000) with tensors for lanes: start
where neighbours are stored (the new state), and follow both expressions back for as long as they
make the same calls. Where they part, the operands of the lanes are *joined*: laid side by side in a
buffer as well, which costs nothing for neighbours in the state, nor for gradients that are written
there in the first place. Each lane's own value is a window on the joint result.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from portable_bp_backends.numpy_plan.arguments import key
from portable_bp_backends.numpy_plan.graph import Graph, Node, an_input

Lanes = tuple[Node, ...]


def rows_of_memory(state: Iterable[Node]) -> list[list[int]]:
    """Which leaves of the state stand in one buffer, in order: those of one dtype."""
    rows: dict[str, list[int]] = {}
    for i, leaf in enumerate(state):
        rows.setdefault(leaf.dtype.str, []).append(i)
    return list(rows.values())


def join(parts: Lanes) -> Node:
    """The parts, flattened, one after the other."""
    size = sum(p.size for p in parts)
    return Node("join", _join, parts, shape=(size,), dtype=parts[0].dtype)


def _join(*parts: Any) -> Any:
    return np.concatenate([p.reshape(-1) for p in parts])


def _lane(joint: Any, start: int, stop: int, shape: tuple[int, ...]) -> Any:
    return joint[start:stop].reshape(shape)


def schedule(graph: Graph, neighbours: bool = True) -> tuple[list[Node], dict[Node, Lanes]]:
    """The operations that the results need, in an order to run them in, and the joint ones' lanes."""
    if not neighbours:
        return _ordered(graph), {}
    packs = _Packs()
    for row in rows_of_memory(graph.state):
        for stretch in _akin(graph, row):
            packs.pack(stretch)
    try:
        return _ordered(graph, packs.lanes), packs.lanes
    except _Cycle:  # one lane waits for another: leave them as they were
        packs.undo()
        return _ordered(graph), {}


def _akin(graph: Graph, row: list[int]) -> Iterator[Lanes]:
    """The longest stretches of neighbours whose new values come from mostly the same calls."""
    stretch: list[Node] = []
    for i in row:
        new = graph.new_state[i]
        if not isinstance(new, Node) or not new.elementwise or not new.shape or new in stretch:
            new = None
        if stretch and (new is None or not _mostly_same(stretch[-1], new)):
            yield tuple(stretch)
            stretch = []
        if new is not None:
            stretch.append(new)
    yield tuple(stretch)


def _mostly_same(a: Node, b: Node) -> bool:
    pairs: set[tuple[Node, Node]] = set()

    def follow(a: Node, b: Node) -> None:
        if (a, b) not in pairs and _same_call((a, b)):
            pairs.add((a, b))
            for x, y in zip(a.args, b.args, strict=True):
                if not _shared((x, y)):
                    follow(x, y)

    follow(a, b)
    return 2 * len(pairs) >= min(len(_expression(a)), len(_expression(b)))


def _expression(a: Node) -> set[Node]:
    """The element-wise operations of a's shape that a is made of."""
    expression: set[Node] = set()
    todo = [a]
    while todo:
        node = todo.pop()
        if node.elementwise and node.shape == a.shape and node not in expression:
            expression.add(node)
            todo += node.sources
    return expression


def _same_call(lanes: Lanes) -> bool:
    """Whether the lanes make one element-wise call, on numbers they share and arrays they fill."""
    first = lanes[0]
    if len(set(lanes)) < len(lanes) or not all(
        node.elementwise
        and (node.name, node.call, node.dtype) == (first.name, first.call, first.dtype)
        and key(node.kwargs) == key(first.kwargs)
        for node in lanes
    ):
        return False
    return all(
        _shared(same) or _filled(same, lanes)
        for same in zip(*(node.args for node in lanes), strict=True)
    )


def _shared(args: tuple[Any, ...]) -> bool:
    """Whether all lanes have the same number here."""
    if isinstance(args[0], Node | np.ndarray) and args[0].shape:
        return False
    return all(key(a) == key(args[0]) for a in args)


def _filled(args: tuple[Any, ...], lanes: Lanes) -> bool:
    return all(
        isinstance(a, Node) and a.shape == node.shape and a.dtype == args[0].dtype
        for a, node in zip(args, lanes, strict=True)
    )


class _Packs:
    """Joint operations, and the operations that they stand for."""

    def __init__(self) -> None:
        self.lanes: dict[Node, Lanes] = {}
        self._joint: dict[Lanes, Node] = {}
        self._before: dict[Node, tuple[Any, ...]] = {}

    def pack(self, lanes: Lanes) -> None:
        if len(lanes) > 1 and not any(node in self._before for node in lanes):
            self._pack(lanes)

    def _pack(self, lanes: Lanes) -> Node:
        if lanes in self._joint:
            return self._joint[lanes]
        if any(node in self._before for node in lanes) or not _same_call(lanes):
            return self._joint.setdefault(lanes, join(lanes))
        first = lanes[0]
        args = tuple(
            same[0] if _shared(same) else self._pack(same)
            for same in zip(*(node.args for node in lanes), strict=True)
        )
        size = sum(node.size for node in lanes)
        joint = Node(first.name, first.call, args, first.kwargs, shape=(size,), dtype=first.dtype)
        self._joint[lanes] = joint
        self.lanes[joint] = lanes
        start = 0
        for node in lanes:
            self._before[node] = node.name, node.call, node.args, node.kwargs, node.view
            node.name, node.call, node.kwargs, node.view = "lane", _lane, {}, True
            node.args = (joint, start, start + node.size, node.shape)
            start += node.size
        return joint

    def undo(self) -> None:
        for node, before in self._before.items():
            node.name, node.call, node.args, node.kwargs, node.view = before


class _Cycle(Exception):
    pass


def _ordered(graph: Graph, lanes: dict[Node, Lanes] | None = None) -> list[Node]:
    """What the results need, each after its sources, else in the order of the trace."""
    rank = {node: i for i, node in enumerate(graph.nodes)}
    for joint, packed in (lanes or {}).items():
        rank[joint] = max(rank[node] for node in packed)
    waits: dict[Node, int] = {}
    users: dict[Node, list[Node]] = {}
    todo = [n for n in (*graph.new_state, *graph.results) if isinstance(n, Node)]
    while todo:
        node = todo.pop()
        if node not in waits:
            sources = set(node.sources)
            waits[node] = len(sources)
            for source in sources:
                users.setdefault(source, []).append(node)
            todo += sources
    ready = [(rank.get(node, -1), i, node) for i, node in enumerate(waits) if not waits[node]]
    heapq.heapify(ready)
    number = len(waits)
    order = []
    while ready:
        _, _, node = heapq.heappop(ready)
        order.append(node)
        for user in users.get(node, ()):
            waits[user] -= 1
            if not waits[user]:
                number += 1
                heapq.heappush(ready, (rank.get(user, -1), number, user))
    if len(order) < len(waits):
        raise _Cycle
    return [node for node in order if node.call is not an_input]
