"""Who is timed: the form of a candidate, and ours. The peers stand in ``peers.py``.

Nothing here imports an array library before a candidate is made: each lives in a process of its own.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

import portable_bp
from benchmarks.cases import (
    PROOF_STEPS,
    TOLERANCES,
    Case,
    HostArray,
    data,
    distance,
    flat,
    start,
    step_and_state,
    table,
)
from portable_bp.backend import EagerRunner, map_leaves
from portable_bp.backend.registry import adapters
from portable_bp.inputs.transfer import to_backend
from portable_bp.training.blocks import last_layer
from portable_bp.training.model import Model


class Candidate(ABC):
    """One way to do the work of a case, ready to run."""

    seconds: ClassVar[float] = 0.04
    """About how long a turn of the candidate takes at least."""

    stretch: ClassVar[float] = 0.001
    """About how long the stretches are into which a turn is divided."""

    tolerance: float
    """What :meth:`error` may be."""

    steps: int
    """Steps (or forward passes) of one round of :meth:`run`."""

    def __init__(self, case: Case) -> None:
        self.case, self.steps = case, case.steps

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        """Why the candidate cannot take part in a case; None when it can."""
        return None

    @classmethod
    def expects(cls, case: Case) -> Case:
        """The case whose float64 numbers the candidate is held against."""
        return case

    @abstractmethod
    def error(self, expected: HostArray) -> float:
        """How far the candidate is from float64."""

    @abstractmethod
    def run(self, rounds: int) -> float:
        """Do all steps ``rounds`` times, wait until they are done, and give back a number of them."""


class Training(Candidate):
    """Mini-batches gathered by a shuffled order, gradients, updates; the loss read once an epoch."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.tolerance = TOLERANCES[case.optimizer]
        self.data, self.epochs = data(case), 0

    @abstractmethod
    def epoch(self, order: HostArray) -> float:
        """Train on the rows ``order``, shape (steps, batch); the loss of the last step."""

    @abstractmethod
    def params(self) -> Any:
        """Pairs ``(W, b)`` on the host, ``W`` of shape (inputs, outputs)."""

    def run(self, rounds: int) -> float:
        loss = 0.0
        for _ in range(rounds):
            loss = self.epoch(self.data.orders[self.epochs % len(self.data.orders)])
            self.epochs += 1
        return loss

    def error(self, expected: HostArray) -> float:
        self.epoch(self.data.orders[0][:PROOF_STEPS])
        return distance(flat(self.params()) - flat(start(self.case)), expected)


class Ours(Training):
    """portable_bp's step on one backend, as ``portable_bp.fit`` runs it."""

    spec: ClassVar[str]
    compiled: ClassVar[bool] = True
    dtype: ClassVar[str] = "float32"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.backend = backend = portable_bp.get_backend(self.spec)
        rows = self.data.x, self.data.onehot
        self.arrays: Any = tuple(to_backend(backend, a, self.dtype) for a in rows)
        self.done = 0
        with backend.scope():
            self.runner = self.ready(*self.work())

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return _unusable(cls.spec)

    def work(self) -> tuple[Any, Any]:
        """The step and the state it starts from."""
        return step_and_state(self.case, self.backend, self.dtype)

    def ready(self, step: Any, state: Any) -> Any:
        """The runner of the step."""
        if self.compiled:
            return self.backend.compile(step, state)
        return EagerRunner(self.backend, step, state)

    def epoch(self, order: HostArray) -> float:
        first, self.done = self.done, self.done + len(order)
        numbers = table(self.case, first, self.done, self.dtype, self.backend.word_dtype)
        with self.backend.scope():
            losses = self.runner.run(self.arrays, None if self.case.full else order, numbers)
            return 0.0 if isinstance(losses, tuple) else float(self.backend.to_numpy(losses)[-1])

    def params(self) -> Any:
        return map_leaves(self.backend.to_numpy, self.runner.state[0])


def ours(library: str, eager: bool = False) -> type[Ours]:
    name = f"Ours_{library}{'_eager' * eager}"
    return type(name, (Ours,), {"spec": library, "compiled": not eager})


class GemmFloor(Training):
    """The products of matrices alone, into buffers that are there: z, dW, and the deltas of hidden
    layers. No step that uses the same BLAS can be faster."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        rng = np.random.default_rng(1)

        def random(*shape: int) -> HostArray:
            return rng.standard_normal(shape, dtype=np.float32)

        self.products = []
        for l, (i, o) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
            a, W, delta = random(case.batch, i), random(i, o), random(case.batch, o)
            self.products += [(a, W, np.empty_like(delta)), (a.T, delta, np.empty_like(W))]
            if l:
                self.products.append((delta, W.T, np.empty_like(a)))
        self.tolerance = 1e-5

    def error(self, expected: HostArray) -> float:
        self.run(1)
        exact = [np.dot(a.astype("float64"), b.astype("float64")) for a, b, _ in self.products]
        return max(distance(c, e) for (_, _, c), e in zip(self.products, exact, strict=True))

    def epoch(self, order: HostArray) -> float:
        dot = np.dot
        for _ in order:
            for a, b, out in self.products:
                dot(a, b, out)
        return float(self.products[0][2][0, 0])

    def params(self) -> Any:
        raise NotImplementedError("the floor trains nothing")


class Inference(Candidate):
    """The outputs of one batch, from host memory where the library's own arrays are host memory."""

    rounds: ClassVar[int] = 16

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.steps, self.tolerance = self.rounds, 1e-5
        self.x = data(case).x[: case.batch]

    @abstractmethod
    def forward(self) -> Any:
        """The outputs, computed when it returns."""

    def error(self, expected: HostArray) -> float:
        for _ in range(3):  # what is compiled on a later call is proved as well
            found = distance(np.asarray(self.forward(), np.float64), expected)
        return found

    def run(self, rounds: int) -> float:
        forward = self.forward
        for _ in range(rounds * self.steps):
            out = forward()
        return float(out[0, 0])


class OursForward(Inference):
    """The compiled forward pass on the arrays of a backend."""

    spec: ClassVar[str]

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.backend = backend = portable_bp.get_backend(self.spec)
        self.params: Any = map_leaves(backend.asarray, start(case))
        self.there = backend.asarray(self.x)
        self.compiled = last_layer(backend, case.net.activations)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return _unusable(cls.spec)

    def forward(self) -> Any:
        with self.backend.scope():
            return self.backend.to_numpy(self.compiled(self.params, self.there)[1])


class OursModel(OursForward):
    """``Model.forward``, with its checks: what a user calls."""

    spec = "numpy"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.model = Model(case.net, self.params, self.backend)

    def forward(self) -> Any:
        return self.model.forward(self.x)


def ours_forward(library: str) -> type[OursForward]:
    return type(f"OursForward_{library}", (OursForward,), {"spec": library})


def _unusable(spec: str) -> str | None:
    if spec in portable_bp.available_backends():
        return None
    adapter = adapters()[spec]
    return adapter.unavailable_reason() or f"{spec} finds no device"


def missing(module: str) -> str | None:
    return None if importlib.util.find_spec(module) else f"{module} is not installed"
