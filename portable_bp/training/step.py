"""One training step, a pure function: what stands in the door between equations and backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_bp._typing import Array, Namespace, Step, Tree
from portable_bp.backend import Backend
from portable_bp.backend.cache import cached_plan
from portable_bp.equations import losses, network, optimizers, regularizers
from portable_bp.equations.network import Equations
from portable_bp.equations.optimizers import Optimizer


@dataclass(frozen=True)
class StepPlan:
    """What one step does.

    ``counters`` and ``classes`` are constants on the device: 0, 1, 2, ... for the random words of
    dropout, and the class labels 0 .. k-1 when the targets of a batch are integers.
    """

    equations: Equations
    optimizer: Optimizer
    dropout: tuple[float, ...] = ()
    seed: int = 0
    counters: Any = None
    classes: Any = None
    weighted: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None
    report: bool = True
    l2_each_step: bool = False
    """The coefficient of the L2 penalty comes with each step, as the last of its numbers."""


def make_step(plan: StepPlan) -> Step:
    """``step(xp, state, batch) -> (state, loss)``.

    ``state = (params, slots)``. ``batch = (x, y, now)``, or ``(x, y, weights, now)`` when weighted;
    ``now = (number, *coefficients)``: the number of the step, which keys the random bits, and the
    optimiser's coefficients; with ``l2_each_step`` that of the L2 penalty comes last. The loss is
    ``()`` when the plan does not report it.
    """
    eq, optimizer = plan.equations, plan.optimizer

    def masks(x: Array, params: Tree, number: Array, xp: Namespace) -> list[Array | None]:
        by_layer: list[Array | None] = [None]  # the input is not dropped out
        for l, rate in enumerate(plan.dropout, start=1):
            shape = (x.shape[0], params[l - 1][1].shape[0])
            by_layer.append(
                regularizers.dropout_mask(
                    shape, x.dtype, rate, plan.counters,
                    seed=plan.seed, layer=l, step=number, xp=xp,
                ) if rate else None
            )  # fmt: skip
        return by_layer

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        params, slots = state
        x, y, *weights, (number, *coefficients) = batch
        penalised = eq
        if plan.l2_each_step:
            *coefficients, l2 = coefficients
            penalised = replace(eq, l2=l2)
        if y.ndim == 1:
            y = losses.one_hot(y, plan.classes, x.dtype, xp=xp)
        loss, grads = network.loss_and_gradients(
            penalised,
            params,
            x,
            y,
            xp=xp,
            weights=weights[0] if plan.weighted else None,
            masks=masks(x, params, number, xp) if any(plan.dropout) else (),
            report=plan.report,
        )
        if plan.clip_value is not None:
            grads = optimizers.clip_by_value(grads, plan.clip_value, xp=xp)
        if plan.clip_norm is not None:
            grads = optimizers.clip_by_global_norm(grads, plan.clip_norm, xp=xp)
        params, slots = optimizers.apply(
            optimizer, grads, slots, params, tuple(coefficients), xp=xp
        )
        return (params, slots), loss

    return step


def step_for(
    backend: Backend, plan: StepPlan, sizes: Sequence[int], batch_size: int, *, labels: bool
) -> Step:
    """The step of a plan, with its constants on the device: the same function for an equal plan.

    Parameters
    ----------
    backend : Backend
    plan : StepPlan
        Without ``counters`` and ``classes``.
    sizes : sequence of int
        Units of each layer, inputs first.
    batch_size : int
        The most rows of a step.
    labels : bool
        Whether targets come as class labels.
    """
    n_counters = 0
    if any(plan.dropout):
        widest = max(s for s, d in zip(sizes[1:], plan.dropout, strict=False) if d)
        n_counters = -(-batch_size * widest // 4)
    else:
        plan = replace(plan, seed=0)  # nothing is drawn
    n_classes = sizes[-1] if labels else 0

    def made() -> Step:
        with backend.scope():
            counters, classes = (
                backend.asarray(np.arange(n), dtype) if n else None
                for n, dtype in ((n_counters, backend.word_dtype), (n_classes, backend.index_dtype))
            )
        return make_step(replace(plan, counters=counters, classes=classes))

    return cached_plan(backend, (step_for, plan, n_counters, n_classes), made)
