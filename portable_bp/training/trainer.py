"""The one training loop: a run is data + step + policy.

The data source hands out rows, the step is a pure function of arrays, and the policy says in which
order, at what rates, and when to stop. The loop knows nothing of ``fit``, of scikit-learn or of files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from portable_bp._typing import HostArray, Params, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner
from portable_bp.equations.optimizers import Optimizer
from portable_bp.training.data import Chunk, DataSource, DeviceData, Order
from portable_bp.training.policy import EpochResult, Policy
from portable_bp.training.shares import Share

SNAPSHOT_SECONDS, SNAPSHOT_ROWS = 0.5, 2**22
"""How much training a snapshot of the state may be behind: what an interruption can cost."""

UNLIMITED = 2**62


class NotFiniteError(Exception):
    """A loss or a parameter is no longer finite."""


class Recorder(Protocol):
    """What may look at a run between two steps, and save it."""

    limit: int
    """At most so many steps run between two looks."""

    def watch(self) -> AbstractContextManager[Any]:
        """Entered around the run."""

    def until_due(self, steps: int) -> int:
        """How many steps may run after the first ``steps`` before the next look is due."""

    def look(self, trainer: Trainer) -> str | None:
        """Called after some steps of an epoch; why to stop, or None."""

    def epoch_ended(self, trainer: Trainer) -> None:
        """Called after the policy has seen an epoch."""

    def run_ended(self, trainer: Trainer) -> None:
        """Called when the run is over, unless it was forced to end."""


class NoRecorder:
    """Nobody looks."""

    limit: int = UNLIMITED

    def watch(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def until_due(self, steps: int) -> int:
        return UNLIMITED

    def look(self, trainer: Trainer) -> str | None:
        return None

    def epoch_ended(self, trainer: Trainer) -> None:
        return

    def run_ended(self, trainer: Trainer) -> None:
        return


@dataclass
class Snapshot:
    """A private copy of the state, and when it was taken."""

    state: Tree
    steps: int
    taken: float = field(default_factory=time.perf_counter)


class Turn(NamedTuple):
    """Some epochs that run before the policy looks."""

    epoch: int
    """How many epochs came before."""
    first_step: int
    orders: Sequence[Order]
    inputs: tuple[HostArray, ...]
    """For each step: its number, the optimiser's coefficients, and that of the penalty."""
    rates: HostArray
    began: float
    """When, by ``time.perf_counter``."""


class ReplayedStep(NamedTuple):
    """One step that has run since the last snapshot."""

    epoch: int
    in_epoch: int
    chunk: Chunk
    """Of this process's rows."""
    batch: Chunk
    """Of all of them."""
    inputs: tuple[HostArray, ...]
    rate: float


@dataclass
class Trainer:
    """A run: what it does, and how far it has come.

    Order of calls, for each turn: ``policy.lookahead``; ``policy.order`` for each of its epochs;
    ``policy.rates`` and ``policy.penalties``; the steps, chunk by chunk, with ``recorder.look``
    between them; one read of the losses; ``policy.mean_losses``; ``policy.after_epoch`` for each
    epoch; ``recorder.epoch_ended``.

    Attributes
    ----------
    epoch, in_epoch, steps : int
        Whole epochs done; steps done of the one after them; steps done in all.
    stopped : str or None
        Why the run has ended; None while it goes on.
    shares : Share or None
        Which rows of each batch are this process's; None for all.
    """

    backend: Backend
    dtype: str
    step: Step
    state: InitVar[Tree]
    optimizer: Optimizer
    data: DataSource
    batch_size: int
    policy: Policy
    compile: bool = True
    steps: int = 0
    shares: Share | None = None
    recorder: Recorder = field(default_factory=NoRecorder)

    epoch: int = field(default=0, init=False)
    in_epoch: int = field(default=0, init=False)
    losses: list[Any] = field(default_factory=list, init=False)
    """Of the steps of this turn; on the host after a look at them."""
    stopped: str | None = field(default=None, init=False)
    last_rate: float = field(default=float("nan"), init=False)

    def __post_init__(self, state: Tree) -> None:
        self.per_epoch = -(-self.data.n // self.batch_size)
        self.start_from(state)

    def start_from(self, state: Tree) -> None:
        """Go on from this state."""
        self._made: Runner | None = None
        self._snapshot = Snapshot(state, self.steps)
        self._turns: list[Turn] = []
        self._in_a_step = False

    @property
    def _runner(self) -> Runner:
        """What runs the steps; made when it is first needed."""
        if self._made is None:
            backend, state = self.backend, self._snapshot.state
            with backend.scope():
                self._made = (
                    backend.compile(self.step, state)
                    if self.compile
                    else EagerRunner(backend, self.step, state)
                )
        return self._made

    def attach(self, runner: Runner) -> None:
        """Let somebody else run the steps, who has the present state: see :mod:`.together`."""
        self._made = runner

    def release(self) -> None:
        """Let go of what runs the steps, for the next run of an equal step."""
        self._made = None

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to run."""
        return self.stopped is None and self.epoch < self.policy.epochs

    def train(self) -> str:
        """Run to the end: why it ended, ``"finished"`` when all epochs were done."""
        try:
            with self.recorder.watch():
                while self.goes_on:
                    turn = self.begin_turn(self.policy.lookahead())
                    with self.backend.scope():
                        self._run(turn)
                    if self.stopped is None:
                        self.end_turn(turn)
            self.snapshot()
            self.recorder.run_ended(self)
        except KeyboardInterrupt:
            if self._alone:
                self.stopped = "interrupted"
            else:
                raise  # the others go on with their step: only an end of all of them is an end
            if not self._in_a_step:  # in the middle of one only the last snapshot is whole
                with suppress(NotFiniteError):
                    self.snapshot()
        except NotFiniteError:
            self.stopped = "diverged"
        finally:
            self.data.close()
        return self.stopped or "finished"

    def begin_turn(self, epochs: int) -> Turn:
        """Every row ``epochs`` times: in which order, and with which numbers."""
        began = time.perf_counter()
        orders = [self.policy.order(self.epoch + i) for i in range(epochs)]
        first = self.steps - self.in_epoch
        rates = self.policy.rates(range(first, first + epochs * self.per_epoch))
        turn = Turn(
            self.epoch, first, orders, self._step_inputs(first, rates, orders), rates, began
        )
        self._turns.append(turn)
        self.last_rate = float(rates[-1])
        return turn

    def end_turn(self, turn: Turn) -> None:
        """Read the losses, and do whatever the policy does after each epoch."""
        epochs, rates = len(turn.orders), turn.rates
        losses = self.read_losses()
        means: Sequence[float | None] = [None] * epochs
        if losses.size:
            means = self.policy.mean_losses(losses.reshape(epochs, -1), turn.orders)
        self.losses = []
        self.in_epoch = 0
        if self._snapshot_is_old() and all(m is None or math.isfinite(m) for m in means):
            self.snapshot()
        for i, mean in enumerate(means):
            self.epoch += 1
            rate = float(rates[(i + 1) * self.per_epoch - 1])
            result = EpochResult(
                self.epoch, mean, rate, turn.began, epochs, self.params, self.copied_params
            )
            self.stopped = self.policy.after_epoch(result)
            if self.stopped:
                break
        if self.stopped == "diverged":
            raise NotFiniteError
        self.recorder.epoch_ended(self)

    @property
    def _alone(self) -> bool:
        return self.shares is None or self.shares.processes.size == 1

    def _snapshot_is_old(self) -> bool:
        age = time.perf_counter() - self._snapshot.taken
        rows = (self.steps - self._snapshot.steps) * self.batch_size
        # From a snapshot a run that diverged is replayed, by all processes: no clock decides.
        return rows > SNAPSHOT_ROWS or (self._alone and age > SNAPSHOT_SECONDS)

    def _chunks(self, order: Order, limit: int) -> Iterator[Chunk]:
        """The rows of this process in these batches."""
        if self.shares is None:
            yield from self.data.chunks(order, limit)
        elif isinstance(order, np.ndarray):
            yield from self.data.chunks(self.shares.rows(order), limit)
        else:  # windows are the same for all processes
            for arrays, rows, steps in self.data.chunks(order, limit):
                assert rows is not None
                yield Chunk(arrays, self.shares.rows(rows), steps)

    def _run(self, turn: Turn) -> None:
        """The steps of a turn that are not done yet."""
        for rows, first in self._parts(turn.orders):
            step = max(0, self.in_epoch - first)
            while step < len(rows):
                stop = step + min(len(rows) - step, self.recorder.until_due(self.steps))
                for chunk in self._chunks(rows[step:stop], self.recorder.limit):
                    at = slice(first + step, first + step + chunk.steps)
                    inputs = tuple(t[at] for t in turn.inputs)
                    self._in_a_step = True  # until it is counted: what is saved agrees with it
                    self.losses.append(self._runner.run(chunk.arrays, chunk.order, inputs))
                    self.steps += chunk.steps
                    self.in_epoch += chunk.steps
                    self._in_a_step = False
                    step += chunk.steps
                    self.stopped = self.recorder.look(self)
                    if self.stopped:
                        return

    def _parts(self, orders: Sequence[Order]) -> Iterator[tuple[Order, int]]:
        """Mini-batches, shape (steps, batch), and the number of the first of them.

        Each part is of one size of mini-batch, or of all steps for a runner that takes them so.
        """
        n, size = self.data.n, self.batch_size
        if n % size == 0:
            together: Order = orders[0] if len(orders) == 1 else np.concatenate(orders)
            yield together.reshape(-1, size), 0
            return
        if self._runner.ragged and n > size and type(self.data) is DeviceData:
            padded = np.full((len(orders), self.per_epoch * size), -1)
            for row, order in zip(padded, orders, strict=True):
                row[:n] = order
            yield padded.reshape(-1, size), 0
            return
        whole = n // size * size
        for epoch, order in enumerate(orders):
            first = epoch * self.per_epoch
            if whole:
                yield order[:whole].reshape(-1, size), first
            yield order[whole:].reshape(1, -1), first + self.per_epoch - 1

    def _step_inputs(
        self, first: int, rates: HostArray, orders: Sequence[Order]
    ) -> tuple[HostArray, ...]:
        """For each step of a turn: its number, and what its plan asks for."""
        numbers = np.arange(first, first + len(rates))
        coefficients = list(self.optimizer.coefficients(numbers + 1, rates))
        penalties = self.policy.penalties(orders)
        if penalties is not None:
            coefficients.append(penalties)
        if self.shares is not None:
            coefficients += self.shares.columns(orders)
        columns = (
            np.broadcast_to(np.asarray(c, dtype=self.dtype), numbers.shape) for c in coefficients
        )
        return numbers.astype(self.backend.word_dtype), *columns

    def read_losses(self) -> HostArray:
        """The losses of this turn's steps so far, on the host: the one read of the device per turn."""
        device = [l for l in self.losses if not isinstance(l, tuple)]
        if not device:
            return np.zeros(0)
        with self.backend.scope():
            host = [l if type(l) is np.ndarray else self.backend.to_numpy(l) for l in device]
        losses: HostArray = np.concatenate(host).astype(np.float64)
        self.losses = [losses]
        return losses

    def snapshot(self) -> Tree:
        """A copy of the present state, to be read only; NotFiniteError when it is not finite."""
        if self._snapshot.steps != self.steps:
            with self.backend.scope():
                state = self._runner.state
                if not self.backend.all_finite(state[0]):
                    raise NotFiniteError
            self._snapshot = Snapshot(state, self.steps)
            # What is older is never replayed; a turn in the middle of which we are, may be.
            self._turns = self._turns[-1:] if self.in_epoch else []
        return self._snapshot.state

    def last_snapshot(self) -> Tree:
        """The state as it was copied last; it is finite."""
        return self._snapshot.state

    def params(self) -> Params:
        """The present parameters, to be read only; NotFiniteError when they are not finite."""
        params: Params = self.snapshot()[0]
        return params

    def copied_params(self) -> Params:
        """A private copy of the parameters as they are now."""
        with self.backend.scope():
            copy: Params = self._runner.state[0]
        return copy

    def replay(self) -> Iterator[ReplayedStep]:
        """The steps since the last snapshot, one by one, to find the one that went wrong."""
        try:
            yield from self._replayed()
        finally:
            self.data.close()

    def _replayed(self) -> Iterator[ReplayedStep]:
        for turn in self._turns:
            done = max(0, self._snapshot.steps - turn.first_step)
            for i in range(done, min(self.steps - turn.first_step, len(turn.inputs[0]))):
                epoch, in_epoch = divmod(i, self.per_epoch)
                start = in_epoch * self.batch_size
                rows = turn.orders[epoch][start : start + self.batch_size]
                (batch,) = self.data.chunks(rows.reshape(1, -1), 1)
                (chunk,) = (batch,) if self.shares is None else self._chunks(rows.reshape(1, -1), 1)
                inputs = tuple(t[i : i + 1] for t in turn.inputs)
                yield ReplayedStep(
                    turn.epoch + epoch, in_epoch, chunk, batch, inputs, float(turn.rates[i])
                )
