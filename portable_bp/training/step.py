"""One training step, a pure function: what stands in the door between equations and backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_bp._typing import Array, Namespace, Params, Step, Tree
from portable_bp.backend import Backend
from portable_bp.backend.cache import cached_plan
from portable_bp.equations import losses, network, optimizers, parallel, regularizers
from portable_bp.equations.network import Equations
from portable_bp.equations.optimizers import Limit, Optimizer
from portable_bp.equations.random import Seed
from portable_bp.equations.regularizers import Rate
from portable_bp.training.shares import Parts

Gradients = Callable[[Namespace, Tree, Tree], tuple[Tree, Params, list[Array]]]
"""Of a batch: the loss, the gradients, and the optimiser's coefficients."""


@dataclass(frozen=True)
class StepPlan:
    """What one step does.

    ``counters``, ``classes`` and ``positions`` are constants on the device: 0, 1, 2, ... for the random
    words of dropout, the class labels 0 .. k-1 when the targets of a batch are integers, and the
    positions of the rows in a part that may be short. A step of several networks side by side has
    arrays with one entry for each in the place of a number.
    """

    equations: Equations
    optimizer: Optimizer
    dropout: tuple[Rate, ...] = ()
    seed: Seed = 0
    counters: Any = None
    classes: Any = None
    weighted: bool = False
    clip_value: Limit | None = None
    clip_norm: Limit | None = None
    report: bool = True
    l2_each_step: bool = False
    """The coefficient of the L2 penalty comes with each step, after those of the optimiser."""
    parts: Parts | None = None
    """What this process computes of each batch; None for all of it at once."""
    positions: Any = None


def make_step(plan: StepPlan) -> Step:
    """``step(xp, state, batch) -> (state, loss)``.

    ``state = (params, slots)``. ``batch = (x, y, now)``, or ``(x, y, weights, now)`` when weighted;
    ``now = (number, *coefficients)``: the number of the step, which keys the random bits, and the
    optimiser's coefficients; with ``l2_each_step`` that of the L2 penalty; with ``parts`` the shares of
    the parts of this process, and the rows of each where they may be short. The loss is ``()`` when
    the plan does not report it.

    ``step.moved(to)`` is the same step with each of its constants ``c`` as ``to(c)``: on another
    device, say.
    """
    optimizer = plan.optimizer
    gradients = _whole(plan) if plan.parts is None else _by_parts(plan, plan.parts)

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        params, slots = state
        loss, grads, coefficients = gradients(xp, params, batch)
        if plan.clip_value is not None:
            grads = optimizers.clip_by_value(grads, plan.clip_value, xp=xp)
        if plan.clip_norm is not None:
            grads = optimizers.clip_by_global_norm(grads, plan.clip_norm, xp=xp)
        params, slots = optimizers.apply(
            optimizer, grads, slots, params, tuple(coefficients), xp=xp
        )
        return (params, slots), loss

    def moved(to: Callable[[Array], Array]) -> Step:
        counters, classes, positions = (
            c if c is None else to(c) for c in (plan.counters, plan.classes, plan.positions)
        )
        return make_step(replace(plan, counters=counters, classes=classes, positions=positions))

    step.__dict__["moved"] = moved
    return step


def _equations(plan: StepPlan, coefficients: list[Array]) -> Equations:
    """Those of the plan; takes the coefficient of the L2 penalty from the end of the list."""
    return replace(plan.equations, l2=coefficients.pop()) if plan.l2_each_step else plan.equations


def _targets(plan: StepPlan, x: Array, y: Array, xp: Namespace) -> Array:
    return losses.one_hot(y, plan.classes, x.dtype, xp=xp) if y.ndim < x.ndim else y


def _masks(
    plan: StepPlan, x: Array, params: Tree, number: Array, part: int, xp: Namespace
) -> list[Array | None]:
    """The dropout masks of a part of a batch; none where nothing is dropped out."""
    if not any(plan.dropout):
        return []
    by_layer: list[Array | None] = [None]  # the input is not dropped out
    for l, rate in enumerate(plan.dropout, start=1):
        shape = (*x.shape[:-1], params[l - 1][1].shape[-1])
        by_layer.append(
            regularizers.dropout_mask(
                shape, x.dtype, rate, plan.counters,
                seed=plan.seed, layer=l, step=number, part=part, xp=xp,
            ) if rate else None
        )  # fmt: skip
    return by_layer


def _whole(plan: StepPlan) -> Gradients:
    """The loss and the gradients of a batch, all at once."""

    def gradients(xp: Namespace, params: Tree, batch: Tree) -> tuple[Tree, Params, list[Array]]:
        x, y, *weights, (number, *coefficients) = batch
        loss, grads = network.loss_and_gradients(
            _equations(plan, coefficients), params, x, _targets(plan, x, y, xp), xp=xp,
            weights=weights[0] if plan.weighted else None,
            masks=_masks(plan, x, params, number, 0, xp), report=plan.report,
        )  # fmt: skip
        return loss, grads, coefficients

    return gradients


def _by_parts(plan: StepPlan, parts: Parts) -> Gradients:
    """The same of a batch that all processes share, each of them some parts."""

    def gradients(xp: Namespace, params: Tree, batch: Tree) -> tuple[Tree, Params, list[Array]]:
        x, y, *weights, (number, *numbers) = batch
        counts = [numbers.pop() for _ in range(parts.count)][::-1] if parts.short else None
        shares = [numbers.pop() for _ in range(parts.count)][::-1]
        equations, y = _equations(plan, numbers), _targets(plan, x, y, xp)
        rows = x.shape[0] // parts.count
        flat = []
        for k, share in enumerate(shares):
            own = slice(k * rows, (k + 1) * rows)
            x_k, y_k = x[own, ...], y[own, ...]
            w = weights[0][own] if plan.weighted else None
            if counts is not None:
                positions = xp.astype(plan.positions[:rows], x.dtype)
                there = xp.astype(positions < counts[k], x.dtype)
                w = there if w is None else w * there
            loss, grads = network.loss_and_gradients(
                equations, params, x_k, y_k, xp=xp, weights=w,
                masks=_masks(plan, x_k, params, number, parts.first + k, xp),
                report=plan.report,
            )  # fmt: skip
            flat.append(parallel.flatten(loss, grads, share, xp=xp))
        loss, grads = parallel.sum_over_processes(
            flat, params, ordered=parts.ordered, report=plan.report, xp=xp
        )
        return loss, grads, numbers

    return gradients


def step_for(
    backend: Backend, plan: StepPlan, sizes: Sequence[int], batch_size: int, *, labels: bool
) -> Step:
    """The step of a plan, with its constants on the device: the same function for an equal plan.

    Parameters
    ----------
    backend : Backend
    plan : StepPlan
        Without its constants.
    sizes : sequence of int
        Units of each layer, inputs first.
    batch_size : int
        The most rows of a step, or of a part of it.
    labels : bool
        Whether targets come as class labels.
    """
    if not any(plan.dropout):
        plan = replace(plan, seed=0)  # nothing is drawn
    counts = constants_of(plan, sizes, batch_size, labels=labels)

    def made() -> Step:
        return make_step(with_constants(backend, plan, counts))

    return cached_plan(backend, (step_for, plan, counts), made)


def constants_of(
    plan: StepPlan, sizes: Sequence[int], batch_size: int, *, labels: bool
) -> tuple[int, int, int]:
    """How many counters, class labels and positions a step needs on the device."""
    counters = 0
    if any(plan.dropout):
        widest = max(s for s, d in zip(sizes[1:], plan.dropout, strict=False) if d)
        counters = -(-batch_size * widest // 4)
    short = plan.parts is not None and plan.parts.short
    return counters, sizes[-1] if labels else 0, batch_size if short else 0


def with_constants(backend: Backend, plan: StepPlan, counts: tuple[int, int, int]) -> StepPlan:
    """The plan with its constants on the device."""
    dtypes = backend.word_dtype, backend.index_dtype, backend.index_dtype
    with backend.scope():
        counters, classes, positions = (
            backend.asarray(np.arange(n), dtype) if n else None
            for n, dtype in zip(counts, dtypes, strict=True)
        )
    return replace(plan, counters=counters, classes=classes, positions=positions)
