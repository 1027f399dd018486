"""Backpropagation by hand: two small networks with every number on the way.

Both are published elsewhere with their results, so that each number here can be checked with paper
and pencil. Run ``portable-bp explain`` to see them on every library of this machine.

:func:`yehoshua` is the example of Roi Yehoshua, "Backpropagation: Step-By-Step Derivation": two
binary inputs, two hidden layers, one output, sigmoid everywhere, no biases. The article gives its
weights in a figure that its text does not repeat; **the weights here are our reconstruction**, which
gives both outputs that it prints, 0.6718 before and 0.6981 after a step of rate 0.5.

:func:`mazur` is Matt Mazur, "A Step by Step Backpropagation Example". The post prints 0.291027924 for
the error after the step, from rounded intermediate values; in exact arithmetic it is 0.29102777.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import adapters, get_backend
from portable_bp.equations import network
from portable_bp.mlp import MLP

Pairs = tuple[tuple[HostArray, HostArray], ...]
"""``(W, b)`` for every layer, in the host's memory."""


@dataclass(frozen=True)
class Example:
    """One step of gradient descent from given weights on one example; biases are kept.

    Weights are stored as everywhere here, ``(fan_in, fan_out)``.
    """

    title: str
    net: MLP
    params: Pairs
    x: HostArray
    y: HostArray
    rate: float
    note: str


@dataclass(frozen=True)
class Trace:
    """All numbers of an :class:`Example` as one backend computes them, as NumPy arrays.

    One entry per layer in ``z``, ``a`` and ``deltas``, shapes (1, o); one pair ``(W, b)`` per layer in
    ``gradients`` and ``updated``.
    """

    example: Example
    backend: str
    dtype: str
    z: tuple[HostArray, ...]
    a: tuple[HostArray, ...]
    deltas: tuple[HostArray, ...]
    gradients: Pairs
    updated: Pairs
    loss_before: float
    loss_after: float
    output_before: HostArray
    output_after: HostArray

    @property
    def delta_sizes(self) -> tuple[float, ...]:
        """The mean of ``|delta|`` over the units of each layer, first layer first."""
        return tuple(float(np.mean(np.abs(d))) for d in self.deltas)

    def rows(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Heading, and name and value of each number below it; units are counted from 1."""
        yield (
            "forward pass: z = a W + b, a = f(z)",
            [
                item
                for l, (z, a) in enumerate(zip(self.z, self.a, strict=True), 1)
                for item in (*_units(f"z{l}", z), *_units(f"a{l}", a))
            ],
        )
        yield "loss", [("E", self.loss_before)]
        yield (
            "backward pass: delta = (delta W^T of the next layer) * f'(z)",
            [
                item
                for l in range(len(self.deltas), 0, -1)
                for item in _units(f"delta{l}", self.deltas[l - 1])
            ],
        )
        yield (
            "gradients: dE/dW[i,j] = a[i] delta[j]",
            [
                item
                for l, (dW, _) in enumerate(self.gradients, 1)
                for item in _weights(f"dE/dW{l}", dW)
            ],
        )
        yield (
            f"update: W - {self.example.rate:g} dE/dW",
            [item for l, (W, _) in enumerate(self.updated, 1) for item in _weights(f"W{l}", W)],
        )
        yield "after the step", [*_units("output", self.output_after), ("E", self.loss_after)]

    def as_dict(self) -> dict[str, Any]:
        """The same numbers as plain JSON."""
        return {
            "example": self.example.title,
            "backend": self.backend,
            "dtype": self.dtype,
            "z": [v[0].tolist() for v in self.z],
            "a": [v[0].tolist() for v in self.a],
            "deltas": [v[0].tolist() for v in self.deltas],
            "gradients": [dW.tolist() for dW, _ in self.gradients],
            "updated": [W.tolist() for W, _ in self.updated],
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "output_before": self.output_before[0].tolist(),
            "output_after": self.output_after[0].tolist(),
        }


def _units(name: str, row: HostArray) -> list[tuple[str, float]]:
    return [(f"{name}[{j}]", float(v)) for j, v in enumerate(row[0], 1)]


def _weights(name: str, W: HostArray) -> list[tuple[str, float]]:
    return [(f"{name}[{i + 1},{j + 1}]", float(v)) for (i, j), v in np.ndenumerate(W)]


YEHOSHUA = Example(
    title="Yehoshua: 2-2-2-1, sigmoid, log loss, no biases, rate 0.5, x = (1, 0), y = 1",
    net=MLP([2, 2, 2, 1], hidden="sigmoid", loss="log_loss"),
    params=(
        (np.asarray([[0.7, 0.1], [0.6, -1.0]]), np.zeros(2)),
        (np.asarray([[0.3, 0.3], [0.2, 0.4]]), np.zeros(2)),
        (np.asarray([[0.2], [1.0]]), np.zeros(1)),
    ),
    x=np.asarray([[1.0, 0.0]]),
    y=np.asarray([[1.0]]),
    rate=0.5,
    note="The article prints the outputs 0.6718 and 0.6981; the weights are our reconstruction.",
)

MAZUR = Example(
    title="Mazur: 2-2-2, sigmoid, half squared error, rate 0.5, x = (0.05, 0.10), y = (0.01, 0.99)",
    net=MLP([2, 2, 2], hidden="sigmoid", loss="squared_error", output="sigmoid"),
    params=(
        (np.asarray([[0.15, 0.25], [0.20, 0.30]]), np.full(2, 0.35)),
        (np.asarray([[0.40, 0.50], [0.45, 0.55]]), np.full(2, 0.60)),
    ),
    x=np.asarray([[0.05, 0.10]]),
    y=np.asarray([[0.01, 0.99]]),
    rate=0.5,
    note="The post prints E after the step as 0.291027924, from rounded intermediate values.",
)


def trace(example: Example, backend: str | Backend = "numpy") -> Trace:
    """Every number of ``example`` on ``backend``: in float64 where it has that, else in float32."""
    backend = get_backend(backend)
    net, rate = example.net, example.rate
    with backend.scope():
        dtype = backend.widest_float
        x = backend.asarray(example.x, dtype)
        y = backend.asarray(example.y, dtype)
        params = tuple(
            (backend.asarray(W, dtype), backend.asarray(b, dtype)) for W, b in example.params
        )
        cache = network.forward(params, x, net.activations, xp=backend.xp)
        loss, gradients = net.loss_and_gradients(params, x, y)
        updated = tuple(
            (W - rate * dW, b) for (W, b), (dW, _) in zip(params, gradients, strict=True)
        )
        after, _ = net.loss_and_gradients(updated, x, y)
        host = backend.to_numpy
        return Trace(
            example=example,
            backend=backend.spec,
            dtype=dtype,
            z=tuple(host(z) for z in cache.z),
            a=tuple(host(a) for a in cache.outputs),
            deltas=tuple(host(d) for d in net.deltas(params, x, y)),
            gradients=tuple((host(dW), host(db)) for dW, db in gradients),
            updated=tuple((host(W), host(b)) for W, b in updated),
            loss_before=float(host(loss)),
            loss_after=float(host(after)),
            output_before=host(cache.outputs[-1]),
            output_after=host(net.forward(updated, x)),
        )


def yehoshua(backend: str | Backend = "numpy") -> Trace:
    """The step-by-step derivation's network, weights reconstructed.

    >>> run = yehoshua()
    >>> f"{run.output_before[0, 0]:.4f} -> {run.output_after[0, 0]:.4f}"
    '0.6718 -> 0.6981'
    """
    return trace(YEHOSHUA, backend)


def mazur(backend: str | Backend = "numpy") -> Trace:
    """Mazur's network; w5 .. w8 are the second layer.

    >>> run = mazur()
    >>> f"{run.loss_before:.9f} -> {run.loss_after:.8f}"
    '0.298371109 -> 0.29102777'
    >>> run.updated[1][0].T.round(9).tolist()
    [[0.35891648, 0.408666186], [0.51130127, 0.561370121]]
    """
    return trace(MAZUR, backend)


def usable_backends() -> tuple[str, ...]:
    """One device of every library that can be used here, an accelerator where there is one."""
    specs = [devices[0] for a in adapters().values() if (devices := a.devices())]
    return tuple(sorted(specs, key=lambda spec: (spec != "numpy", spec)))


def report(traces: Sequence[Trace]) -> str:
    """One example on several backends, side by side, as text for a terminal."""
    first = traces[0]
    names = [t.backend for t in traces]
    wide = max(12, *map(len, names))
    lines = [
        first.example.title,
        "",
        " " * 16 + "".join(f"  {name:>{wide}}" for name in names),
        " " * 16 + "".join(f"  {t.dtype:>{wide}}" for t in traces),
    ]
    for parts in zip(*(t.rows() for t in traces), strict=True):
        lines.append(parts[0][0])
        for cells in zip(*(items for _, items in parts), strict=True):
            values = "".join(f"  {value + 0.0:>{wide}.9f}" for _, value in cells)  # no -0
            lines.append(f"  {cells[0][0]:<14}{values}")
    lines.append("the deltas shrink towards the input: mean |delta|")
    sizes = first.delta_sizes
    longest = max(sizes)
    for l in range(len(sizes), 0, -1):
        size = sizes[l - 1]
        share = f"{size / sizes[-1]:6.1%} of the output's"
        bar = "#" * max(1, round(30 * size / longest))
        lines.append(f"  layer {l}  {size:.6f}  {share}  {bar}")
    return "\n".join([*lines, "", first.example.note])
