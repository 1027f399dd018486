"""Which backend trains a network quickest here: a race of training steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from portable_bp._cache import Recent
from portable_bp._scalars import shown
from portable_bp.backend import EagerRunner
from portable_bp.backend.registry import adapters, get_backend
from portable_bp.equations import optimizers
from portable_bp.equations.optimizers import Optimizer
from portable_bp.errors import BackendError
from portable_bp.mlp import MLP
from portable_bp.processes import current
from portable_bp.training.step import StepPlan, step_for

FASTEST = "fastest"
"""What ``backend`` of ``fit`` is for the winner of a race."""
SECONDS = 3.0
"""How long the race for ``backend="fastest"`` takes, beside getting each backend ready."""
ROUNDS = 3
"""Each runner is timed so often at least."""
CALL_SECONDS, CALL_STEPS = 0.02, 64
"""A call of a runner is to take so long, with so many steps at most."""
HOPELESS = 3.0
"""A runner that takes so many times as long as the best one is not timed again."""
MAX_ROWS = 2**16
"""Larger batches are timed by so many rows of them."""

_log = logging.getLogger("portable_bp")
winners: Recent[Timing] = Recent(64)
"""What :func:`fastest` has found in this process."""


@dataclass(frozen=True)
class Timing:
    """How quick a backend is with a network.

    Attributes
    ----------
    spec : str
        The backend.
    compile : bool
        Whether the step was compiled.
    step : float
        Seconds of a training step, the median of all calls; infinite where it failed.
    ready : float
        Seconds until the first step was done: the library's start, and compiling.
    failure : str
        Why it does not run.
    """

    spec: str
    compile: bool
    step: float
    ready: float
    failure: str = ""


@dataclass(frozen=True)
class Work:
    """What is timed: the steps of a network on rows that are drawn.

    Attributes
    ----------
    net : MLP
    optimizer : Optimizer
    batch_size : int
    dtype : str
    """

    net: MLP
    optimizer: Optimizer
    batch_size: int
    dtype: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for work of equal speed."""
        net = self.net
        layers = [activation.name for activation in net.activations]
        dropped = tuple(rate > 0 for rate in net.dropout)
        penalties = (net.l1 > 0, net.l2 > 0)
        return (
            tuple(net.sizes), *layers, net.loss.name, dropped, penalties,
            type(self.optimizer), self.batch_size, self.dtype,
        )  # fmt: skip


Run = Callable[[int], None]
"""Does so many steps, and returns when the device is done."""
Entrants = Sequence[tuple[str, bool]]
"""Specs of backends, and whether to compile."""


def entrants(*, eager: bool = True, compiled: bool = True) -> list[tuple[str, bool]]:
    """Every usable backend, with and without compiling: of alike accelerators the first."""
    specs = []
    for adapter in adapters().values():
        if not adapter.referee:
            usable, alike = adapter.devices(), adapter.accelerators()[1:]
            specs += [spec for spec in usable if spec not in alike]
    kinds = [True] * compiled + [False] * eager
    return [(spec, kind) for spec in specs for kind in kinds]


def starter(work: Work) -> Callable[[str, bool], Run]:
    """What gets a backend ready to run the steps of this work."""
    net, rows = work.net, work.batch_size
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, net.sizes[0]))
    y = rng.random((rows, net.sizes[-1]))
    labels = net.loss.target == "class" and net.sizes[-1] > 1
    if net.loss.target == "class":
        y = y.argmax(1) if labels else np.round(y)

    def start(spec: str, compile: bool) -> Run:
        backend = get_backend(spec)
        plan = StepPlan(net.equations, work.optimizer, net.dropout)
        step = step_for(backend, plan, net.sizes, rows, labels=labels)
        with backend.scope():
            params = net.init(0, backend, work.dtype)
            state = (params, optimizers.init(work.optimizer, params, xp=backend.xp))
            data = (
                backend.asarray(X, work.dtype),
                backend.asarray(y, backend.index_dtype if labels else work.dtype),
            )
            runner = backend.compile(step, state) if compile else EagerRunner(backend, step, state)

        def run(steps: int) -> None:
            numbers = np.arange(steps)
            coefficients = work.optimizer.coefficients(numbers + 1, np.full(steps, 1e-3))
            columns = (
                np.broadcast_to(np.asarray(c, dtype=work.dtype), numbers.shape)
                for c in coefficients
            )
            order = np.stack([rng.permutation(rows) for _ in range(steps)])
            with backend.scope():
                losses = runner.run(data, order, (numbers.astype(backend.word_dtype), *columns))
                backend.to_numpy(losses)  # waits for the steps, as JAX's synchronize does not
            backend.synchronize()

        return run

    return start


class _Runner:
    """One entrant in a race."""

    def __init__(self, spec: str, compile: bool, clock: Callable[[], float]) -> None:
        self.spec, self.compile, self._clock = spec, compile, clock
        self.times: list[float] = []
        self.failure, self.ready, self._steps = "", math.inf, 1

    def start(self, start: Callable[[str, bool], Run]) -> None:
        """Get ready, and find out how many steps make a call that can be timed."""
        began = self._clock()
        try:
            self._run = start(self.spec, self.compile)
            self._run(1)
            self.ready = self._clock() - began
            while (took := self._seconds()) < CALL_SECONDS and self._steps < CALL_STEPS:
                wanted = CALL_SECONDS / took if took > 0 else CALL_STEPS
                grown = 2 ** math.ceil(math.log2(max(2, wanted))) * self._steps
                self._steps = min(CALL_STEPS, grown)
                self._run(self._steps)  # a new length may be compiled anew
            self.times.append(took / self._steps)
        except Exception as error:  # each library has its own
            self.failure = (str(error).splitlines() or [type(error).__name__])[0]

    def _seconds(self) -> float:
        began = self._clock()
        self._run(self._steps)
        return self._clock() - began

    def time(self) -> None:
        """One more call."""
        self.times.append(self._seconds() / self._steps)

    @property
    def result(self) -> Timing:
        """What is known so far."""
        step = median(self.times) if self.times else math.inf
        return Timing(self.spec, self.compile, step, self.ready, self.failure)


def race(
    entrants: Entrants,
    start: Callable[[str, bool], Run],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time each entrant in turn, round by round, so that noise meets all of them.

    Parameters
    ----------
    entrants : sequence of (spec, compile)
    start : function of spec and compile
        Gets a backend ready; see :func:`starter`.
    seconds : float
        No round begins later, but for the first :data:`ROUNDS`; getting ready is not counted.
    clock : function
        The time in seconds.

    Returns
    -------
    list of Timing
        The fastest first, those that failed last.
    """
    runners = [_Runner(spec, compile, clock) for spec, compile in entrants]
    for runner in runners:
        runner.start(start)
    running = [runner for runner in runners if not runner.failure]
    began, rounds = clock(), 0
    while running and (rounds < ROUNDS or clock() - began < seconds):
        for runner in running:
            runner.time()
        best = min(min(runner.times) for runner in running)
        running = [runner for runner in running if min(runner.times) <= HOPELESS * best]
        rounds += 1
    return sorted((runner.result for runner in runners), key=lambda result: result.step)


def fastest(
    net: MLP,
    optimizer: Optimizer,
    batch_size: int,
    dtype: str,
    *,
    compile: bool = True,
) -> Timing:
    """The quickest backend for this work; found once in a process, then remembered.

    Parameters
    ----------
    net : MLP
    optimizer : Optimizer
    batch_size : int
    dtype : str
    compile : bool, default True
        Whether steps are compiled. Eager ones are ready sooner, but not quicker.

    Returns
    -------
    Timing
        That of the winner.
    """
    if current().size > 1:
        raise ValueError(
            "backend='fastest' is for one process: several could choose differently. Name the backend "
            "that portable-bp bench recommends"
        )
    work = Work(net, optimizer, min(batch_size, MAX_ROWS), dtype)
    key = (*work.key, compile)
    known = winners.get(key)
    if known is None:
        results = race(entrants(compiled=compile, eager=not compile), starter(work), SECONDS)
        if not results or results[0].failure:
            raise BackendError(
                "backend 'fastest': no backend here runs this network: "
                + "; ".join(f"{r.spec}: {shown(r.failure)}" for r in results)
            )
        known = winners.put(key, results[0])
        _log.info("backend fastest: %s, %.3g s a step", known.spec, known.step)
    return known
