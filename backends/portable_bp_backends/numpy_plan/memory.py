"""Where each value of a plan lies: views, lifetimes, donation, and a pool of blocks to reuse.

Every value has an *owner*, the node whose memory it lies in: itself, or for a view (a transpose, a
reshape, a slice) the node that it looks at. An owner's memory is free after the last call that reads
it through any view. From this follow

- operations in place: a result goes over an operand that nobody reads again;
- donation: a new state goes over the old one, as soon as nobody reads the old one again;
- reuse: any other result takes the smallest free block that holds it;
- joins for nothing: values that are wanted side by side are made side by side.

Long element-wise expressions loop tile by tile, all calls on one tile before the next tile, so
that a tile stays in the cache. A value that is only needed inside such a *loop* has memory for one
tile. Two rules keep the tiles of a loop apart: memory that is read otherwise than tile by tile
stays as it is until the loop ends, and no block changes its owner before that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor, inf
from typing import Any

import numpy as np

from portable_bp_backends.numpy_plan.fusion import Lanes, rows_of_memory
from portable_bp_backends.numpy_plan.graph import Graph, Node, an_input
from portable_bp_backends.numpy_plan.options import PlanOptions

_CACHE_LINE = 64


class Pool:
    """Blocks of bytes, to take and to give back."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._free: list[Any] = []

    def take(self, nbytes: int) -> Any:
        fitting = [i for i, block in enumerate(self._free) if block.nbytes >= nbytes]
        if fitting:
            return self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
        raw = np.empty(nbytes + _CACHE_LINE, np.uint8)
        self.nbytes += raw.nbytes
        start = -raw.ctypes.data % _CACHE_LINE
        return raw[start : start + nbytes]

    def give(self, block: Any) -> None:
        self._free.append(block)


class State:
    """Private copies of arrays, side by side in their order: one buffer for each dtype."""

    def __init__(self, leaves: Sequence[Any]) -> None:
        self.arrays: list[Any] = list(leaves)
        self._buffer: dict[str, Any] = {}
        self._start: list[int] = [0] * len(leaves)
        for row in rows_of_memory(leaves):
            buffer = np.concatenate([leaves[i].reshape(-1) for i in row])
            self._buffer[buffer.dtype.str] = buffer
            start = 0
            for i in row:
                self._start[i] = start
                start += leaves[i].size
                self.arrays[i] = buffer[self._start[i] : start].reshape(leaves[i].shape)

    def stretch(self, first: int, last: int) -> Any:
        """The memory from leaf ``first`` to leaf ``last``, both of one dtype, as one flat array."""
        end = self._start[last] + self.arrays[last].size
        return self._buffer[self.arrays[first].dtype.str][self._start[first] : end]


@dataclass(eq=False)
class FusedLoop:
    """Element-wise operations of one shape at the positions start .. stop, ``rows`` at a time."""

    start: int
    stop: int
    shape: tuple[int, ...]
    rows: int
    free: list[Any] = field(default_factory=list)
    """Blocks for one tile that the loop has taken and needs no more."""

    @property
    def tile(self) -> tuple[int, ...]:
        return (self.rows, *self.shape[1:])


class Memory:
    """Decides position by position in ``order`` where the values lie.

    Attributes
    ----------
    arrays : from a node to its array
    external : inputs and views of them, whose memory is not ours
    numbers : 0-d inputs that change from step to step
    views : nodes that only look at memory of ours
    placed : from a node to the join that it is made in, and its start there
    loops : from a position to the loop that it is in
    local : nodes that nobody outside of their loop reads: they have memory for one tile
    """

    def __init__(
        self,
        graph: Graph,
        order: list[Node],
        lanes: dict[Node, Lanes],
        state: State,
        options: PlanOptions,
    ) -> None:
        self._graph, self._order, self._state, self._options = graph, order, state, options
        self._leaf = {node: i for i, node in enumerate(graph.state)}
        self.pool = Pool()
        self.arrays: dict[Node, Any] = dict(zip(graph.state, state.arrays, strict=True))
        self._block: dict[Node, Any] = {}
        self._temporary: list[Any] = []
        self._sort()
        self._find_targets(lanes)
        self._place_joins()
        self._find_loops()
        self._find_lifetimes()

    # --- what kind of value each node is ----------------------------------------------------------

    def _sort(self) -> None:
        self.external = set(self._graph.inputs)
        self.numbers = set(self._graph.numbers)
        self.views: set[Node] = set()
        for node in self._order:
            if node.view and node.args[0] in self.external:
                self.external.add(node)
            elif node.view and node.args[0] not in self.numbers:
                self.views.add(node)

    def is_called(self, node: Node) -> bool:
        """Whether a call makes this value, each time the plan runs."""
        looks = node in self.views or node in self.external or node in self.stretches
        return not (looks or node.name == "item" or node.call is an_input)

    def _find_targets(self, lanes: dict[Node, Lanes]) -> None:
        """Which leaves of the state a new value is for."""
        leaf_of: dict[Node, int] = {}
        for i, new in enumerate(self._graph.new_state):
            if isinstance(new, Node):
                leaf_of.setdefault(new, i)
        self._targets: dict[Node, list[int]] = {new: [i] for new, i in leaf_of.items()}
        self._after = {a: b for row in rows_of_memory(self._graph.state) for a, b in pairwise(row)}
        for joint, packed in lanes.items():
            places = [leaf_of.get(node, -1) for node in packed]
            if self._adjacent(places):
                self._targets[joint] = places

    def _adjacent(self, leaves: Sequence[int]) -> bool:
        return -1 not in leaves and all(self._after.get(a) == b for a, b in pairwise(leaves))

    def _place_joins(self) -> None:
        """What is wanted side by side stands so in the state, or is made so."""
        self.stretches: dict[Node, list[int]] = {}
        self.placed: dict[Node, tuple[Node, int]] = {}
        for node in self._order:
            parts = node.parts
            places = [self._leaf.get(part, -1) for part in parts]
            if parts and self._adjacent(places):
                self.stretches[node] = places
                continue
            start = 0
            for part in parts:
                made = self._made_as(part)
                if made is not None and made not in self.placed:
                    self.placed[made] = node, start
                start += part.size

    def is_placed(self, part: Node, joint: Node, start: int) -> bool:
        """Whether ``part`` is made in its place in ``joint``, so that no copy is needed."""
        return self.placed.get(self.seen_through(part)) == (joint, start)

    def _made_as(self, part: Node) -> Node | None:
        """The called node whose entries, in the order of memory, are those of ``part``."""
        views = []
        while part in self.views:
            views.append(part)
            part = part.args[0]
        if part.parts or part in self._targets or not self.is_called(part):
            return None
        array = like = np.empty(part.shape, part.dtype)
        for view in reversed(views):
            array = view.call(array, *view.args[1:], **view.kwargs)
        same = array.size == like.size and array.dtype == like.dtype and array.flags.c_contiguous
        return part if same and array.ctypes.data == like.ctypes.data else None

    def seen_through(self, node: Node) -> Node:
        """The node that a view looks at; any other node itself."""
        while node in self.views:
            node = node.args[0]
        return node

    def owners(self, node: Node) -> tuple[Node, ...]:
        """The nodes whose memory ``node`` lies in: several for a stretch of the state."""
        node = self.seen_through(node)
        if node in self.external or node in self.numbers:
            return ()
        if node in self.stretches:
            return tuple(self._graph.state[i] for i in self.stretches[node])
        return (self.placed[node][0] if node in self.placed else node,)

    # --- loops -------------------------------------------------------------------------------------

    def _find_loops(self) -> None:
        self.loops: dict[int, FusedLoop] = {}
        members: dict[Node, int] = {}

        def close() -> None:
            if len(members) > 1:
                start, *_, stop = members.values()
                shape = self._order[start].shape
                row = max(map(_widest, members)) * self._order[start].size // shape[0]
                loop = FusedLoop(start, stop, shape, max(1, self._options.tile // row))
                self.loops.update(dict.fromkeys(range(start, stop + 1), loop))
            members.clear()

        for i, node in enumerate(self._order):
            if self.is_called(node):
                fits = self._can_be_cut(node) and node.shape == next(iter(members), node).shape
                if not fits or any(
                    s in self.views and self.seen_through(s) in members for s in node.sources
                ):
                    close()
                if self._can_be_cut(node):
                    members[node] = i
        close()
        users = defaultdict(set)
        for i, node in enumerate(self._order):
            for source in node.sources:
                users[source].add(self.loops.get(i) if self.is_called(node) else None)
        wanted = {n for n in (*self._graph.new_state, *self._graph.results) if isinstance(n, Node)}
        self.local = {
            node
            for i, node in enumerate(self._order)
            if self.is_called(node)
            and i in self.loops
            and users[node] == {self.loops[i]}
            and node not in wanted
            and node not in self.placed
        }

    def _can_be_cut(self, node: Node) -> bool:
        if not self._options.tile or not node.elementwise or not node.shape:
            return False
        whole = any(s in self.external and len(s.shape) == len(node.shape) for s in node.sources)
        big = node.size * _widest(node) >= 2 * self._options.tile
        return big and node.shape[0] > 1 and not whole

    # --- lifetimes --------------------------------------------------------------------------------

    def _find_lifetimes(self) -> None:
        self._last: dict[Node, float] = {}
        for i, node in enumerate(self._order):
            if not self.is_called(node):
                continue
            for source in node.sources:
                tilewise = source.shape == node.shape and source not in self.views
                read = i if tilewise or i not in self.loops else self.loops[i].stop + 0.5
                for owner in self.owners(source):
                    self._last[owner] = max(self._last.get(owner, -1), read)
        for wanted in (*self._graph.new_state, *self._graph.results):
            if isinstance(wanted, Node):
                self._last.update(dict.fromkeys(self.owners(wanted), inf))
        self._ends: dict[int, list[Node]] = defaultdict(list)
        for owner, last in self._last.items():
            if last < inf:
                loop = self.loops.get(floor(last))
                late = loop is not None and owner not in self.local
                self._ends[loop.stop if loop and late else floor(last)].append(owner)

    def items(self, several: Node) -> list[Node]:
        """The wanted results of a call that has several."""
        return [n for n in self._order if n.name == "item" and n.args[0] is several]

    # --- who gets which memory --------------------------------------------------------------------

    def assign(self, i: int, node: Node) -> Any:
        """The array that the call at position i writes its value to."""
        if node in self.placed:
            joint, start = self.placed[node]
            flat = self.assign(i, joint)
            self.arrays[node] = flat[start : start + node.size].reshape(node.shape)
        elif node not in self.arrays:  # a join is, from its first part on
            operand = self._dying_operand(i, node)
            if self._may_replace_state(i, node):
                leaves = self._targets[node]
                self.arrays[node] = self._state.stretch(leaves[0], leaves[-1]).reshape(node.shape)
            elif operand is not None:
                self.arrays[node] = self.arrays[operand]
                self._block[node] = self._block.pop(operand)
            else:
                self._block[node] = self._take(i, node)
                self.arrays[node] = _shaped(self._block[node], self._shape(i, node), node.dtype)
        return self.arrays[node]

    def look(self, node: Node) -> bool:
        """Give a view its array; False when it has to be filled by a call after all."""
        memory = self.arrays[node.args[0]]
        array = node.call(memory, *node.args[1:], **node.kwargs)
        shares = isinstance(array, np.ndarray) and np.may_share_memory(array, memory)
        if not shares:
            array = np.empty(node.shape, node.dtype)
        self.arrays[node] = array
        return shares

    def look_at_state(self, node: Node) -> None:
        """Give a join of leaves that stand side by side its array."""
        leaves = self.stretches[node]
        self.arrays[node] = self._state.stretch(leaves[0], leaves[-1])

    def temporary(self, i: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory for the calls of position i alone."""
        block = self._take_block(i, shape, dtype)
        self._temporary.append(block)
        return _shaped(block, shape, dtype)

    def release(self, i: int) -> None:
        """Take back what the call at position i was the last to read."""
        loop = self.loops.get(i)
        if not self._options.reuse:
            return
        for owner in self._ends.get(i, ()):
            if owner in self._block:
                block = self._block.pop(owner)
                (loop.free.append if loop and owner in self.local else self.pool.give)(block)
        for block in self._temporary:
            (loop.free.append if loop else self.pool.give)(block)
        self._temporary.clear()
        if loop and loop.stop == i:
            for block in loop.free:
                self.pool.give(block)
            loop.free.clear()

    def _shape(self, i: int, node: Node) -> tuple[int, ...]:
        return self.loops[i].tile if node in self.local else node.shape

    def _take(self, i: int, node: Node) -> Any:
        if node in self.local:
            return self._take_block(i, self._shape(i, node), node.dtype)
        return self.pool.take(node.size * node.dtype.itemsize)

    def _take_block(self, i: int, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        free = self.loops[i].free if i in self.loops else []
        for k, block in enumerate(free):
            if block.nbytes >= nbytes:
                return free.pop(k)
        return self.pool.take(nbytes)

    def _dying_operand(self, i: int, node: Node) -> Node | None:
        """An operand that this call may write its result over."""
        if not self._options.reuse:
            return None
        for operand in node.sources:
            if (
                operand in self._block
                and self._last.get(operand) == i
                and operand.dtype == node.dtype
                and (operand in self.local) == (node in self.local)
                and self._reads_in_place(node, operand, {operand})
            ):
                return operand
        return None

    def _may_replace_state(self, i: int, node: Node) -> bool:
        if not self._options.donate or node not in self._targets:
            return False
        old = {self._graph.state[k] for k in self._targets[node]}
        last = max(self._last.get(leaf, -1) for leaf in old)
        if last < i:
            return True
        readers = [s for s in node.sources if old.intersection(self.owners(s))]
        in_place = all(self._reads_in_place(node, operand, old) for operand in readers)
        return last == i and bool(readers) and in_place

    def _reads_in_place(self, node: Node, operand: Node, owners: set[Node]) -> bool:
        """Whether ``node`` reads the memory of ``owners`` through ``operand`` alone, entry by entry,
        and no entry after it has been written."""
        return (
            node.elementwise
            and operand.shape == node.shape
            and operand not in self.views
            and set(self.owners(operand)) == owners
            and all(s is operand or not owners.intersection(self.owners(s)) for s in node.sources)
            # where(c, a, b) is several calls: the first of them reads a for the last time
            and (node.name != "where" or [a is operand for a in node.args] == [False, True, False])
        )


def _widest(node: Node) -> int:
    """Bytes of the widest entry that the operation touches."""
    return max(n.dtype.itemsize for n in (node, *node.sources))


def _shaped(block: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The first bytes of a block as an array."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return block[:nbytes].view(dtype).reshape(shape)
