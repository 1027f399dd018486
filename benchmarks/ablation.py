"""What each optimisation of the NumPy backend is worth: the same step with one of them left out.

An optimisation whose ratio is 1 everywhere is not worth its lines. Beside them, the same step without
one of its parts, which says where the time goes.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np

from benchmarks.candidates import Candidate, GemmFloor, Ours
from benchmarks.cases import SHAPES, Case, step_and_state, table
from portable_bp._typing import Array, Namespace, Step, Tree
from portable_bp.equations import network, optimizers
from portable_bp_backends.numpy_plan import PlanOptions, PlanRunner

ALL, NOT, FLOOR = "everything on", "not compiled", "floor"
SAME, DESCENT, NO_LOSS = "same rows in every step", "plain gradient descent", "loss not computed"

CASES = tuple(
    s
    for s in SHAPES
    if s.shape
    in (
        "8-16-2 B1",
        "30-64-32-2 B32",
        "64-100-10 B200",
        "784-256-128-10 B128",
        "784-512-512-10 B256",
    )
)


class Planned(Ours):
    """The NumPy backend's plan with some options, for a step that may differ from the usual one."""

    spec = "numpy"
    options: ClassVar[PlanOptions] = PlanOptions()
    report: ClassVar[bool] = True

    def work(self) -> tuple[Step, Tree]:
        return step_and_state(self.case, self.backend, self.dtype, self.report)

    def ready(self, step: Step, state: Tree) -> PlanRunner:
        return PlanRunner(self.backend, step, state, self.options)


class InputDelta(Planned):
    """Goes back as far as the input: a matrix product that a single training step has no use for."""

    def work(self) -> tuple[Step, Tree]:
        _, (params, slots) = super().work()
        optimizer, eq = optimizers.get(self.case.optimizer), self.case.net.equations

        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Array]:
            params, slots, _ = state
            x, y, (_, *coefficients) = batch
            share = network.example_weights(x, None, xp=xp)
            cache = network.forward(params, x, eq.activations, xp=xp)
            delta = network.deltas(eq, params, cache, y, share, xp=xp)
            loss = network.mean_loss(eq, params, cache, y, share, xp=xp)
            grads = network.gradients(eq, params, cache, delta, xp=xp)
            back = network.input_gradient(params, delta, xp=xp)
            numbers = tuple(coefficients)
            params, slots = optimizers.apply(optimizer, grads, slots, params, numbers, xp=xp)
            return (params, slots, back), loss

        return step, (params, slots, self.data.x[: self.case.batch].copy())


class SameRows(Planned):
    """Sees the same mini-batch in every step: nothing is gathered."""

    def run(self, rounds: int) -> float:
        batch = tuple(np.ascontiguousarray(a[: self.case.batch]) for a in self.arrays)
        for _ in range(rounds):
            numbers = table(self.case, 0, self.case.steps, "float32", self.backend.word_dtype)
            losses = self.runner.run(batch, None, numbers)
        return float(losses[-1])


class OneThread(Planned):
    """OpenBLAS kept to one thread."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from threadpoolctl import threadpool_limits

        self.limit = threadpool_limits(1)  # for as long as this process lives


class Float64(Planned):
    """Twice the bytes."""

    dtype = "float64"


class Descent(Planned):
    """Plain gradient descent instead of Adam."""

    def __init__(self, case: Case) -> None:
        super().__init__(self.expects(case))

    @classmethod
    def expects(cls, case: Case) -> Case:
        return replace(case, optimizer="sgd")


def _planned(base: type[Planned] = Planned, report: bool = True, **other: Any) -> type[Planned]:
    return type("Planned", (base,), {"options": PlanOptions(**other), "report": report})


def _flipped() -> dict[str, type[Planned]]:
    """Each option the other way: what is on goes off, a size becomes 0."""
    found = {}
    for field in fields(PlanOptions):
        default: Any = field.default
        other = type(default)(not default)
        found[f"{field.name} {'on' if other else 'off'}"] = _planned(**{field.name: other})
    return found


class NotPlanned(Ours):
    """The eager step."""

    spec = "numpy"
    compiled = False


ABLATION: dict[str, type[Candidate]] = {
    ALL: _planned(),
    **_flipped(),
    **{f"tile {k} KiB": _planned(tile=k * 1024) for k in (16, 256, 1024)},
    **{f"prefetch_bytes {k} KiB": _planned(prefetch_bytes=k * 1024) for k in (16, 1024)},
    "one BLAS thread": OneThread,
    "float64": Float64,
    SAME: SameRows,
    DESCENT: Descent,
    NO_LOSS: _planned(report=False),
    "input delta as well": _planned(InputDelta),
    NOT: NotPlanned,
    FLOOR: GemmFloor,
}
