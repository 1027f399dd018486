"""Several runs as one: the networks side by side, and one step for all of them.

A run is data + step + policy. Runs whose steps make the same calls share the step, whose arrays get an
axis in front, and the data, of which each gathers rows of its own. Each keeps its own policy and
trainer: its order of rows, its rates, what it records, and what ends it are those of the run alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from portable_bp._typing import HostArray, Tree
from portable_bp.backend import EagerRunner, Runner, map_leaves
from portable_bp.training import together_groups
from portable_bp.training.data import shared_rows
from portable_bp.training.together_groups import Group, Job
from portable_bp.training.trainer import NotFiniteError, Trainer, Turn


def train_together(jobs: Sequence[Job]) -> list[str]:
    """Train all of these, as many as possible in one step; why each ended.

    Parameters
    ----------
    jobs : sequence of Job
        They end with the numbers that ``job.trainer.train()`` gives.

    Returns
    -------
    list of str
        What ``Trainer.train`` returns.
    """
    for group in together_groups.groups(jobs):
        if len(group.jobs) > 1:
            _Batch(group).train()
            continue
        for job in group.jobs:
            job.trainer.train()
            job.trainer.release()
        if any(job.trainer.stopped == "interrupted" for job in group.jobs):
            for job in jobs:
                job.trainer.stopped = job.trainer.stopped or "interrupted"
            break
    return [job.trainer.stopped or "finished" for job in jobs]


class _Segment(NamedTuple):
    """Steps of an epoch in which the same networks take part, with equally many rows each."""

    members: HostArray
    """Their places in the batch."""
    starts: HostArray
    """The first of these steps in the epoch of each."""
    steps: int
    rows: int


def _segments(lengths: HostArray, batch: int) -> Iterator[_Segment]:
    """The steps of an epoch of networks with so many rows each.

    The steps of one network are in their order; those of different ones know nothing of each other.
    """
    whole, rest = lengths // batch, lengths % batch
    first = 0
    for last in sorted({*whole.tolist()} - {0}):
        members = np.flatnonzero(whole >= last)
        yield _Segment(members, np.full(len(members), first), last - first, batch)
        first = last
    for rows in sorted({*rest.tolist()} - {0}):
        members = np.flatnonzero(rest == rows)
        yield _Segment(members, whole[members], 1, rows)


@dataclass(frozen=True)
class _Share(Runner):
    """One network of a batch, as its trainer sees it."""

    batch: _Batch
    place: int

    @property
    def state(self) -> Tree:
        return self.batch.state_of(self.place)

    def run(self, data: Any, order: Any, table: Any) -> Tree:
        raise RuntimeError("the batch runs the steps")


class _Batch:
    """Trainers that share their steps.

    A network that has ended stays where it is, and does what the first that has not does, unseen;
    when half of them have ended, the others move together.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        first = group.jobs[0].trainer
        self._backend, self._dtype, self._compile = first.backend, first.dtype, first.compile
        self._size = first.batch_size
        self._trainers = [job.trainer for job in group.jobs]
        with self._backend.scope():
            self._arrays, self._rows = shared_rows(self._backend, group.data)
            states = [t.last_snapshot() for t in self._trainers]
            stacked = map_leaves(lambda *same: self._backend.xp.stack(same), *states)
            settings = group.settings(self._backend, self._dtype)
        self._differ: set[int] = set()
        self._in_a_step = False
        self._start((*stacked, settings))

    def _start(self, state: Tree) -> None:
        """Run these networks from here on."""
        backend, step = self._backend, self._group.step
        with backend.scope():
            self._runner: Runner = (
                backend.compile(step, state) if self._compile else EagerRunner(backend, step, state)
            )
        self._copied: Tree | None = None
        for place, trainer in enumerate(self._trainers):
            trainer.attach(_Share(self, place))
        self._plan()

    def _plan(self) -> None:
        """Who takes part in which steps."""
        live = [place for place, trainer in enumerate(self._trainers) if trainer.goes_on]
        self._live = live
        if live:
            self._sources = [p if t.goes_on else live[0] for p, t in enumerate(self._trainers)]
            lengths = np.array([self._trainers[s].data.n for s in self._sources])
            self._segments = [*_segments(lengths, self._size)]

    def state_of(self, place: int) -> Tree:
        """A private copy of the state of one network."""
        with self._backend.scope():
            if self._copied is None:
                self._copied = self._runner.state[:2]
            return map_leaves(lambda a: self._backend.copy(a[place, ...]), self._copied)

    def train(self) -> None:
        """Run all trainers to their ends."""
        try:
            while self._live:
                self._turn()
        except KeyboardInterrupt:
            for place in self._live:
                trainer = self._trainers[place]
                trainer.stopped = "interrupted"
                if not self._in_a_step:
                    with suppress(NotFiniteError):
                        trainer.snapshot()

        finally:
            for job in self._group.jobs:
                job.trainer.release()

    def _turn(self) -> None:
        live = [self._trainers[place] for place in self._live]
        epochs = min(min(t.policy.lookahead(), t.policy.epochs - t.epoch) for t in live)
        turns = {p: self._trainers[p].begin_turn(epochs) for p in self._live}
        with self._backend.scope():
            losses = self._run(turns, epochs)
        for place in self._live:
            trainer = self._trainers[place]
            trainer.losses = losses[place]
            trainer.steps += epochs * trainer.per_epoch
            _end(trainer, turns[place])
        if not all(self._trainers[place].goes_on for place in self._live):
            self._regroup()

    def _run(self, turns: dict[int, Turn], epochs: int) -> dict[int, list[HostArray]]:
        """The steps of a turn; the losses of each network."""
        sources = [turns[s] for s in self._sources]
        # One call for all epochs where all make the same steps in each of them.
        alike = len(self._segments) == 1 and len(self._segments[0].members) == len(sources)
        calls = [(0, epochs)] if alike else [(e, e + 1) for e in range(epochs)]
        device = [
            (segment, span, self._advance(segment, span, sources))
            for span in calls
            for segment in self._segments
        ]
        host = [
            (segment, span, self._backend.to_numpy(values))
            for segment, span, values in device
            if not isinstance(values, tuple)
        ]
        return {place: self._losses_of(place, epochs, host) for place in turns}

    def _losses_of(self, place: int, epochs: int, host: list[Any]) -> list[HostArray]:
        if not host:
            return []
        losses = np.empty((epochs, self._trainers[place].per_epoch))
        for segment, (first, last), values in host:
            for member in np.flatnonzero(segment.members == place):
                steps = slice(segment.starts[member], segment.starts[member] + segment.steps)
                losses[first:last, steps] = values[:, place].reshape(last - first, -1)
        return [losses.reshape(-1)]

    def _advance(self, segment: _Segment, span: tuple[int, int], sources: list[Turn]) -> Tree:
        """Run the steps of a segment in some epochs."""
        orders, inputs = [], []
        for place, start in zip(segment.members, segment.starts, strict=True):
            turn, rows = sources[place], self._rows[self._sources[place]]
            first = start * self._size
            own = [
                order[first : first + segment.steps * segment.rows]
                for order in turn.orders[slice(*span)]
            ]
            orders.append(rows[np.concatenate(own)].reshape(-1, segment.rows))
            per_epoch = len(turn.inputs[0]) // len(turn.orders)
            now = slice(
                span[0] * per_epoch + start, (span[1] - 1) * per_epoch + start + segment.steps
            )
            inputs.append([column[now] for column in turn.inputs])
        table = [self._column(c, same) for c, same in enumerate(zip(*inputs, strict=True))]
        if len(segment.members) < len(sources):
            table += self._part(segment, len(sources), len(table[0]))
        self._in_a_step = True
        losses = self._runner.run(self._arrays, np.stack(orders, axis=1), tuple(table))
        self._copied = None
        self._in_a_step = False
        return losses

    def _column(self, number: int, columns: Sequence[HostArray]) -> HostArray:
        """The numbers of some steps: one for all networks, as long as that was never otherwise."""
        if number not in self._differ:
            if all(c is columns[0] or np.array_equal(c, columns[0]) for c in columns[1:]):
                return columns[0]
            self._differ.add(number)
        return np.stack(columns, axis=1)

    def _part(self, segment: _Segment, count: int, steps: int) -> list[HostArray]:
        """What a step of some of the networks is told beside: see :func:`together_groups.step_of`."""
        places, included = np.zeros(count, np.int64), np.zeros(count, np.int64)
        places[segment.members] = np.arange(len(segment.members))
        included[segment.members] = 1
        columns = (segment.members, places, included)
        index = self._backend.index_dtype
        return [np.broadcast_to(c.astype(index), (steps, len(c))) for c in columns]

    def _regroup(self) -> None:
        """After some have ended."""
        live = [place for place in self._live if self._trainers[place].goes_on]
        if not live or 2 * len(live) > len(self._trainers):
            self._plan()
            return
        backend = self._backend
        with backend.scope():
            index = backend.asarray(np.array(live), backend.index_dtype)
            state = map_leaves(lambda a: backend.xp.take(a, index, axis=0), self._runner.state)
        self._trainers = [self._trainers[place] for place in live]
        self._rows = [self._rows[place] for place in live]
        self._start(state)


def _end(trainer: Trainer, turn: Turn) -> None:
    """The end of a turn, and of the run where it was the last."""
    try:
        trainer.end_turn(turn)
        if not trainer.goes_on:
            trainer.snapshot()
    except NotFiniteError:
        trainer.stopped = "diverged"
