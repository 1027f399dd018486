"""Why a training run is no longer finite: the first step and layer that overflowed, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portable_bp._typing import Array, Params, Tree
from portable_bp.backend import Backend, EagerRunner
from portable_bp.equations import network
from portable_bp.mlp import MLP
from portable_bp.training.data import Chunk
from portable_bp.training.trainer import ReplayedStep, Trainer

LARGE = 100.0
"""Inputs or targets beyond this are called large: standardised data stay below 10."""


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a run that diverged.

    Attributes
    ----------
    when : str
        ``"in epoch 1, step 3 of 8 (the outputs of layer 2 overflowed first)"``.
    advice : str
        What to do about it, a sentence.
    state : (params, slots)
        The last finite ones.
    """

    when: str
    advice: str
    state: Tree


def diagnose(
    net: MLP, trainer: Trainer, *, clipped: bool, rate: str = "learning_rate"
) -> Diagnosis:
    """Find the step where a run diverged, by a replay from its last snapshot.

    Parameters
    ----------
    net : MLP
    trainer : Trainer
    clipped : bool
        Whether the norm of the gradient was bounded.
    rate : str
        What the user calls the learning rate.

    Returns
    -------
    Diagnosis
    """
    backend, before = trainer.backend, trainer.last_snapshot()
    with backend.scope(), np.errstate(over="ignore", invalid="ignore"):
        replay = EagerRunner(backend, trainer.step, before)
        slower = _slower(rate, trainer.last_rate, clipped)
        for step in trainer.replay():
            loss = replay.run(step.chunk.arrays, step.chunk.order, step.inputs)
            after = replay.state
            if not backend.all_finite((loss, after[0])):
                slower = _slower(rate, step.rate, clipped)
                overflow = first_overflow(
                    net, backend, before[0], after[0], _batch(backend, step.batch)[0]
                )
                when = (
                    f"in epoch {step.epoch + 1}, step {step.in_epoch + 1} of {trainer.per_epoch} "
                    f"({overflow})"
                )
                return Diagnosis(when, advice(net, backend, step, before[0], slower), before)
            before = after
    return Diagnosis(f"after epoch {trainer.epoch}", _capitalised(slower), before)


def _slower(name: str, rate: float, clipped: bool) -> str:
    return f"lower {name} (now {rate:g})" + ("" if clipped else ", or set clip_norm=1")


def first_overflow(net: MLP, backend: Backend, before: Params, after: Params, x: Array) -> str:
    """Where the step from ``before`` to ``after`` on the rows ``x`` overflowed first, in words."""
    layer = overflowing_layer(net, backend, before, x)
    if layer is not None:
        return f"the outputs of layer {layer} overflowed first"
    # Deltas travel from the last layer to the first.
    for l in range(len(after), 0, -1):
        if not backend.all_finite(after[l - 1]):
            return f"the forward pass was finite; the update of layer {l} overflowed first"
    return (
        f"the outputs and the update of all {len(after)} layer(s) were finite; the loss overflowed"
    )


def overflowing_layer(net: MLP, backend: Backend, params: Params, x: Array) -> int | None:
    """The first layer (from 1) whose outputs on ``x`` are not finite; None if all are."""
    cache = network.forward(params, x, net.activations, xp=backend.xp)
    for l, (z, a) in enumerate(zip(cache.z, cache.outputs, strict=True), start=1):
        if not backend.all_finite((z, a)):
            return l
    return None


def advice(net: MLP, backend: Backend, step: ReplayedStep, before: Params, slower: str) -> str:
    """What to do about the step that diverged, by what looks unusual.

    Parameters
    ----------
    net : MLP
    backend : Backend
    step : ReplayedStep
    before : pairs (W, b)
        The parameters before it.
    slower : str
        The advice that fits where nothing looks unusual.
    """
    x, y = _batch(backend, step.batch)
    named = {"X": x} | ({"y": y} if net.loss.target == "real" else {})
    for name, array in named.items():
        largest = float(np.abs(backend.to_numpy(array).astype(np.float64)).max())
        if largest > LARGE:
            return (
                f"{name} reaches {largest:.3g}: scale it to mean 0 and deviation 1 (scikit-learn has "
                f"StandardScaler), or {slower}"
            )
    if step.inputs[0][0] == 0 and overflowing_layer(net, backend, before, x) is not None:
        return "Nothing was learnt yet: look at the start parameters, the activations and the loss"
    return _capitalised(slower)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _batch(backend: Backend, chunk: Chunk) -> tuple[Array, Array]:
    """``(x, y)`` of the first step of a chunk."""
    x, y = chunk.arrays[:2]
    if chunk.order is None:
        return x, y
    index = backend.asarray(chunk.order[0], backend.index_dtype)
    return backend.xp.take(x, index, axis=0), backend.xp.take(y, index, axis=0)
