"""The numbers of the worked example, as LaTeX: every one is computed when the site is built."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from portable_bp import worked_example
from portable_bp.equations import losses, network, optimizers
from portable_bp.equations.activations import get as activation

ROOT = Path(__file__).parents[2]
PLACES = 4


def num(value: Any, places: int = PLACES) -> str:
    """A number with a fixed count of decimal places; small ones as a power of ten."""
    value = float(value) + 0.0
    if value and abs(value) < 10**-places:
        mantissa, exponent = f"{value:.1e}".split("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}"
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if float(text) == round(value, 1) else text


def matrix(values: Any, places: int = PLACES) -> str:
    """A row vector or a matrix in round brackets."""
    rows = np.atleast_2d(np.asarray(values))
    body = r" \\ ".join(" & ".join(num(v, places) for v in row) for row in rows)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"


def _checks(trace: worked_example.Trace) -> dict[str, Any]:
    """Differences of the loss, computed from the loss alone: an independent look at one gradient."""
    e = trace.example
    h = 1e-5

    def loss(shift: float) -> float:
        W = e.params[0][0].copy()
        W[0, 0] += shift
        value, _ = e.net.loss_and_gradients(((W, e.params[0][1]), *e.params[1:]), e.x, e.y)
        return float(value)

    return {"h": h, "up": loss(h), "down": loss(-h), "slope": (loss(h) - loss(-h)) / (2 * h)}


def _general(trace: worked_example.Trace) -> dict[str, Any]:
    """The output delta in its two forms, and the two factors of the general one."""
    z, o, y = trace.z[-1], trace.a[-1], trace.example.y
    loss, last = losses.get("log_loss"), activation("sigmoid")
    return {
        "dl": float(loss.gradient(o, y, np)[0, 0]),
        "df": float(last.df(z, o, np)[0, 0]),
        "long": float(losses.general_delta(loss, last, z, o, y, np)[0, 0]),
        "short": float(losses.canonical_delta(o, y)[0, 0]),
    }


def _softmax() -> dict[str, Any]:
    """Three classes: the Jacobian, and both forms of the delta."""
    z, y = np.asarray([[1.0, 2.0, 0.5]]), np.asarray([[0.0, 1.0, 0.0]])
    loss, last = losses.get("softmax_cross_entropy"), activation("softmax")
    o = last.f(z, np)
    jacobian = np.diag(o[0]) - np.outer(o[0], o[0])
    return {
        "z": z, "y": y, "o": o, "jacobian": jacobian,
        "gradient": loss.gradient(o, y, np),
        "long": losses.general_delta(loss, last, z, o, y, np),
        "short": losses.canonical_delta(o, y),
        "loss": float(np.sum(loss.from_logits(z, y, np))),
    }  # fmt: skip


def _batch(trace: worked_example.Trace) -> dict[str, Any]:
    """The four rows of a truth table: the gradient of the mean is the mean of the gradients."""
    net, params = trace.example.net, trace.example.params
    X = np.asarray([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = np.asarray([[0.0], [1], [1], [0]])
    together, grads = net.loss_and_gradients(params, X, y)
    singles = [net.loss_and_gradients(params, X[i : i + 1], y[i : i + 1])[1] for i in range(4)]
    return {
        "X": X, "y": y, "loss": float(together),
        "together": float(grads[-1][0][0, 0]),
        "singles": [float(g[-1][0][0, 0]) for g in singles],
        "mean": float(np.mean([g[-1][0][0, 0] for g in singles])),
    }  # fmt: skip


def _steps(trace: worked_example.Trace) -> dict[str, Any]:
    """Two steps of momentum and of Adam on the weight W^1_11."""
    e = trace.example
    result = {}
    for name in ("momentum", "adam"):
        optimizer = optimizers.get(name)
        params, slots = e.params, optimizers.init(optimizer, e.params, xp=np)
        rows = []
        for t in (1, 2):
            _, grads = e.net.loss_and_gradients(params, e.x, e.y)
            c = tuple(
                np.asarray(v)
                for v in optimizer.coefficients(t, e.rate if name == "momentum" else 0.1)
            )
            params, slots = optimizers.apply(optimizer, grads, slots, params, c, xp=np)
            rows.append({
                "g": float(grads[0][0][0, 0]), "w": float(params[0][0][0, 0]),
                "slots": [float(s[0][0][0, 0]) for s in slots],
            })  # fmt: skip
        result[name] = rows
    return result


def _penalty(trace: worked_example.Trace) -> dict[str, float]:
    """The loss and the gradient of W^1_11 with a penalty l2 = 0.1."""
    e = trace.example
    eq = network.Equations(e.net.activations, e.net.loss, 0.0, 0.1)
    loss, grads = network.loss_and_gradients(eq, e.params, e.x, e.y, xp=np)
    return {"l2": 0.1, "loss": float(loss), "gradient": float(grads[0][0][0, 0])}


def speed() -> dict[str, Any]:
    """The committed record of the benchmarks."""
    return json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())


def names() -> dict[str, Any]:
    """What a computed page may name."""
    trace = worked_example.yehoshua()
    mazur = worked_example.mazur()
    weights = [W for W, _ in trace.example.params]
    return {
        "num": num, "matrix": matrix, "math": math, "np": np,
        "t": trace, "mazur": mazur, "W": weights, "x": trace.example.x, "y": trace.example.y,
        "rate": trace.example.rate, "check": _checks(trace), "general": _general(trace),
        "softmax": _softmax(), "batch": _batch(trace), "steps": _steps(trace),
        "penalty": _penalty(trace), "sizes": trace.delta_sizes,
        "df": [activation("sigmoid").df(z, a, np) for z, a in zip(trace.z, trace.a, strict=True)],
    }  # fmt: skip
