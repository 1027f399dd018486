"""Training steps recorded once and launched again: what CUDA graphs of every library share.

A step of a small network is some forty kernels of a microsecond or two; handing each to the device
takes longer than running it. A graph holds the kernels of many steps and is handed over at once.
What it may not do is ask the host: so the data, the order of the rows and the numbers of all steps
lie on the device, a counter there says which step is next, and the state lives in buffers that the
last kernels of the graph overwrite.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, EagerRunner, leaves, map_leaves
from portable_bp_backends._runs import CannotReplayError, ReplayRunner

UNROLL = 16
"""Steps in one graph. Between the steps inside it nothing is copied; what is left over is launched
one by one."""

GATHERED = 16 * 2**20
"""Bytes: the rows of all steps in a graph are gathered at once where they take no more; they stay in
the cache of a large GPU until they are read."""

WINDOW = 1024
"""Of so many steps at most the order and the numbers lie on the device at a time."""

PROGRAMS = 8
"""Combinations of shapes whose graphs are kept, the latest."""


class Recorder(Protocol):
    """What a library offers for recording: a stream of our own, and a few kernels."""

    def inside(self) -> AbstractContextManager[Any]:
        """Work goes to our stream: after the caller's so far, and before what the caller does next."""

    def outside(self) -> AbstractContextManager[Any]:
        """Work goes to the caller's stream: after ours so far, and before what we do next."""

    def synchronize(self) -> None:
        """Wait for our stream."""

    def send(self, values: HostArray) -> Array:
        """A private copy of host values; the host goes on at once."""

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """Memory of the dtype of ``like``."""

    def copied(self, tree: Tree) -> Tree:
        """A copy of a tree of arrays, laid out as suits the kernels."""

    def assign(self, target: Array, source: Array) -> None:
        """``target[...] = source``."""

    def assign_all(self, pairs: list[tuple[Array, Array]]) -> None:
        """The same for each pair; no target shares memory with a source."""

    def gather(self, source: Array, rows: Array) -> Array:
        """``source[rows, ...]``."""

    def scatter(self, target: Array, rows: Array, sources: list[Array]) -> None:
        """``target[rows[i], ...] = sources[i]`` for each of them."""

    def overlap(self, a: Array, b: Array) -> bool:
        """Whether two arrays may share memory."""

    def same_bits(self, pairs: list[tuple[Array, Array]]) -> bool:
        """Whether each pair agrees in type, shape and every bit."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Run ``body`` once, then record what it does; the answer does it again, at once.

        Raises :class:`CannotReplayError`.
        """


@dataclass
class _Program:
    """The graphs for one combination of shapes, and the memory that they read and write.

    Attributes
    ----------
    data : what the rows are gathered from: the caller's arrays, or copies that are ours
    owned : whether they are ours
    order, table : the rows and the numbers of the steps in the window
    at : where in the window the next step is, a 0-d array
    ahead : 0, 1, 2, ...
    losses : of the steps in the window
    graphs : number of steps to what launches them
    """

    data: tuple[Array, ...]
    owned: bool
    order: Array | None
    table: tuple[Array, ...]
    at: Array
    ahead: Array
    losses: Tree
    graphs: dict[int, Callable[[], None]] = field(default_factory=dict)

    @property
    def window(self) -> int:
        return int(self.table[0].shape[0])


class RecordedRunner(ReplayRunner):
    """One whose state and programs lie on the device of a recorder."""

    _recorder: Recorder
    _state: Tree
    _programs: Any

    def _copied(self) -> Tree:
        with self._backend.scope(), self._recorder.outside():
            return map_leaves(self._backend.copy, self._state)

    def _forget(self) -> None:
        self._recorder.synchronize()
        self._programs.clear()


class GraphRunner(RecordedRunner):
    """Runs steps from graphs, see :class:`portable_bp.backend.Runner`.

    Before a graph is used its replay is compared with the eager step, bit for bit. A step
    that cannot be recorded, or whose replay differs, runs eagerly, with a warning that says
    why.
    """

    recording = "graph"
    unroll = UNROLL

    def __init__(self, backend: Backend, step: Step, state: Tree, recorder: Recorder) -> None:
        super().__init__(backend, step)
        self._recorder = recorder
        with backend.scope(), recorder.inside():
            self._state = recorder.copied(state)
        self._programs: OrderedDict[Any, _Program] = OrderedDict()

    # How a run goes

    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        recorder = self._recorder
        with recorder.inside():
            program = self._program(steps, data, order, table)
            # All graphs of the run first: once a step is done there is no way back to eager.
            windows = self._windows(steps, program)
            lengths = {length for size in windows for length in _launches(size, self.unroll)}
            for length in sorted(lengths - program.graphs.keys()):
                self._record(program, length, order, table)
            losses = map_leaves(lambda l: recorder.empty((steps, *l.shape[1:]), l), program.losses)
            first = 0
            for size in windows:
                now = slice(first, first + size)
                self._fill(program, now, order, table)
                for length, times in _launches(size, self.unroll).items():
                    for _ in range(times):
                        program.graphs[length]()
                map_leaves(
                    lambda to, l, now=now, size=size: recorder.assign(to[now], l[:size]),
                    losses,
                    program.losses,
                )
                first += size
        with recorder.outside():
            return map_leaves(self._backend.copy, losses)

    def _windows(self, steps: int, program: _Program) -> list[int]:
        """How many steps go into each filling of the window."""
        whole, rest = divmod(steps, program.window)
        return [program.window] * whole + [rest] * (rest > 0)

    def _fill(
        self,
        program: _Program,
        now: slice,
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> None:
        """Bring the order and the numbers of these steps to the device, and start at the first."""
        assign, send = self._recorder.assign, self._recorder.send
        size = now.stop - now.start
        for column, values in zip(program.table, table, strict=True):
            assign(column[:size, ...], send(values[now]))
        if program.order is not None:
            assert order is not None
            rows = order[now].astype(self._backend.index_dtype)
            assign(program.order[:size, ...], send(rows))
        assign(program.at, program.ahead[0])

    # What a graph is

    def _program(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> _Program:
        """The program for these shapes, bound to these data."""
        batch = None if order is None else order.shape[1:]
        forms = tuple((str(d.dtype), d.shape[1:] if order is not None else d.shape) for d in data)
        key = (batch, forms, tuple((t.dtype.str, t.shape[1:]) for t in table))
        program = self._programs.pop(key, None)
        if (
            program is not None
            and program.window >= min(steps, WINDOW)
            and self._bind(program, data)
        ):
            self._programs[key] = program
            return program
        self._recorder.synchronize()  # a graph in flight keeps its memory until it is done
        # Data that come anew each time are copied to where the graphs look for them.
        owned = program is not None and any(
            mine is not array for mine, array in zip(program.data, data, strict=True)
        )
        del program
        while len(self._programs) >= PROGRAMS:
            self._programs.popitem(last=False)
        self._programs[key] = self._prepared(steps, data, order, table, owned)
        return self._programs[key]

    def _bind(self, program: _Program, data: tuple[Array, ...]) -> bool:
        """Whether the graphs of the program see these data now."""
        if not program.owned:
            return all(mine is array for mine, array in zip(program.data, data, strict=True))
        rows = data[0].shape[0] if data else 0
        if any(rows > mine.shape[0] for mine in program.data):
            return False
        for mine, array in zip(program.data, data, strict=True):
            self._recorder.assign(mine[:rows, ...], array)
        return True

    def _prepared(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
        owned: bool,
    ) -> _Program:
        """Memory for the graphs of these shapes, and no graph yet."""
        backend, empty = self._backend, self._recorder.empty
        window = min(WINDOW, 1 << (steps - 1).bit_length())
        index = backend.asarray(range(window), backend.index_dtype)
        # What the step reports is known once it has run: eagerly, its result forgotten.
        with self._unchanged(() if order is not None else data):
            _, loss = self._run_eagerly(1, data, order, table)
        return _Program(
            data=tuple(map(backend.copy, data)) if owned else data,
            owned=owned,
            order=None if order is None else empty((window, *order.shape[1:]), index),
            table=tuple(empty((window, *t.shape[1:]), backend.asarray(t[:1])) for t in table),
            at=backend.copy(index[0]),
            ahead=index,
            losses=map_leaves(lambda l: empty((window, *l.shape[1:]), l), loss),
        )

    def _run_eagerly(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> tuple[Tree, Tree]:
        """State and losses after the first steps of a run, as the step is written."""
        eager = EagerRunner(self._backend, self._step, self._state)
        first = slice(0, steps)
        losses = eager.run(data, None if order is None else order[first], _cut(table, first))
        return eager.state, losses

    def _record(
        self,
        program: _Program,
        length: int,
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> None:
        """The graph of ``length`` steps, proved on the first steps of a run; the state stays."""
        recorder, first = self._recorder, slice(0, length)
        # Without an order the step is handed the data themselves, and may write into them.
        data = program.data if program.order is None else ()
        before = map_leaves(self._backend.copy, self._state)
        with self._unchanged(data) as restore:
            try:
                expected = self._run_eagerly(length, program.data, order, table)
                restore()
                self._fill(program, first, order, table)
                launch = recorder.record(self._body(program, length))
                restore()
                map_leaves(recorder.assign, self._state, before)
                self._fill(program, first, order, table)
                launch()
                replayed = (self._state, map_leaves(lambda l: l[first, ...], program.losses))
                pairs = list(zip(leaves(replayed), leaves(expected), strict=True))
                if not recorder.same_bits(pairs):
                    raise CannotReplayError("its replay gives other bits than the step itself")
            finally:
                map_leaves(recorder.assign, self._state, before)
        program.graphs[length] = launch

    @contextmanager
    def _unchanged(self, data: tuple[Array, ...]) -> Iterator[Callable[[], None]]:
        """``restore()``, and the end, undo what a step has written into the data."""
        before = tuple(map(self._backend.copy, data))

        def restore() -> None:
            for pair in zip(data, before, strict=True):
                if not self._recorder.same_bits([pair]):  # the caller's: not written without need
                    self._recorder.assign(*pair)

        try:
            yield restore
        finally:
            restore()

    def _body(self, program: _Program, length: int) -> Callable[[], None]:
        """What a graph holds: ``length`` steps from the counter on, and the counter's move."""
        recorder, step, xp = self._recorder, self._step, self._backend.xp
        held = tuple(leaves(self._state))

        def body() -> None:
            at = program.at + program.ahead[:length]
            columns = [recorder.gather(t, at) for t in program.table]
            batches = self._batches(program, at, length)
            state, losses = self._state, []
            for i in range(length):
                now = tuple(c[i, ...] for c in columns)
                state, loss = step(xp, state, (*(batch(i) for batch in batches), now))
                losses.append(loss)
            map_leaves(lambda to, *l: recorder.scatter(to, at, list(l)), program.losses, *losses)
            # A result that lies in another buffer of the state must be read before that is written.
            after = map_leaves(
                lambda mine, new: (
                    new
                    if new is mine or not any(recorder.overlap(new, h) for h in held)
                    else self._backend.copy(new)
                ),
                self._state,
                state,
            )
            pairs = zip(leaves(self._state), leaves(after), strict=True)
            recorder.assign_all([(mine, new) for mine, new in pairs if new is not mine])
            recorder.assign(program.at, program.at + length)

        return body

    def _batches(self, program: _Program, at: Array, length: int) -> list[Callable[[int], Array]]:
        """For each of the data: what gives the rows of step ``i`` of ``length`` steps."""
        gather = self._recorder.gather
        if program.order is None:
            return [partial(_same, d) for d in program.data]
        rows = gather(program.order, at)

        def batch(d: Any) -> Callable[[int], Array]:
            row = d.nbytes // max(d.shape[0], 1)
            if row * math.prod(rows.shape) <= GATHERED:
                all_steps = gather(d, rows)
                return lambda i: all_steps[i, ...]
            return lambda i: gather(d, rows[i, ...])

        return [batch(d) for d in program.data]


def _same(array: Array, _: int) -> Array:
    return array


def _launches(steps: int, unroll: int) -> dict[int, int]:
    """Which graphs, by their number of steps, are launched how often.

    >>> _launches(40, 16), _launches(32, 16), _launches(3, 16), _launches(3, 1)
    ({16: 2, 1: 8}, {16: 2}, {1: 3}, {1: 3})
    """
    whole, rest = divmod(steps, unroll)
    return {l: n for l, n in ((unroll, whole), (1, rest)) if n}


def _cut(table: tuple[HostArray, ...], now: slice) -> tuple[HostArray, ...]:
    return tuple(t[now] for t in table)
