"""Figures, drawn by the program whose numbers they show: SVG that takes the colours of the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import numbers_of_the_example
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import portable_bp
from portable_bp import worked_example
from portable_bp.equations import activations, losses, optimizers

FORTH, BACK = "tab:blue", "tab:orange"


def as_markdown(name: str, caption: str) -> str:
    """The figure of that name with its caption, as a block of a Markdown page."""
    svg = globals()[f"draw_{name}"]()
    return (
        f'```{{raw}} html\n<figure class="drawn" id="figure-{name.replace("_", "-")}">\n{svg}\n'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n```"
    )


def _plot(width: float, height: float, draw: Callable[[Figure], None], label: str) -> str:
    """A Matplotlib figure as SVG; what is black in it takes the colour of the text."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.patch.set_alpha(0)
        for ax in figure.axes:
            ax.patch.set_alpha(0)
            if legend := ax.get_legend():
                legend.get_frame().set_alpha(0)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\1{label}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _line(x1: float, y1: float, x2: float, y2: float, cls: str = "", extra: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}" '
        f'stroke="currentColor" {extra}/>'
    )


def _text(x: float, y: float, text: str, cls: str = "", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" dominant-baseline="central" '
        f'font-size="{size}" class="{cls}">{html.escape(text)}</text>'
    )


def _svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}" xmlns="http://www.w3.org/2000/svg" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


@cache
def draw_network() -> str:
    """The worked example: its weights on the edges, its outputs in the units."""
    trace = worked_example.yehoshua()
    columns = [trace.example.x, *trace.a]
    xs, rows = [80, 250, 420, 590], {2: [70, 200], 1: [135]}
    parts = []
    for l, (W, _) in enumerate(trace.example.params):
        for (i, j), w in np.ndenumerate(W):
            x1, y1 = xs[l], rows[W.shape[0]][i]
            x2, y2 = xs[l + 1], rows[W.shape[1]][j]
            parts.append(_line(x1 + 30, y1, x2 - 30, y2, "soft"))
            at = 0.3 if i != j and W.shape[1] > 1 else 0.5
            x, y = x1 + at * (x2 - x1), y1 + at * (y2 - y1)
            parts.append(_text(x, y - 10, f"{w:g}", "forth", 12))
    for l, values in enumerate(columns):
        letter = "x" if l == 0 else "a" if l < len(columns) - 1 else "o"
        for j, value in enumerate(values[0]):
            x, y = xs[l], rows[values.shape[1]][j]
            parts.append(f'<circle cx="{x}" cy="{y}" r="30" fill="none" stroke="currentColor"/>')
            parts.append(_text(x, y - 8, f"{letter}{j + 1 if values.shape[1] > 1 else ''}", "", 12))
            parts.append(_text(x, y + 9, f"{value:.4g}", "", 13))
    for l, name in enumerate(("inputs", "layer 1", "layer 2", "layer 3 = L")):
        parts.append(_text(xs[l], 255, name, "soft", 12))
    return _svg(
        670, 275, "A network with two inputs, two hidden layers of two units, one output", parts
    )


@cache
def draw_flow() -> str:
    """Forward pass from left to right, error from right to left."""
    trace = worked_example.yehoshua()
    xs, width = [90, 290, 490], 130
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="context-stroke"/></marker></defs>'
    ]
    tip = 'stroke-width="1.8" marker-end="url(#tip)"'
    for l, x in enumerate(xs, 1):
        parts.append(
            f'<rect x="{x - width / 2 + 5}" y="45" width="{width - 10}" height="130" rx="8" fill="none" '
            'stroke="currentColor"/>'
        )
        parts.append(_text(x, 28, f"layer {l}", "soft", 12))
        parts.append(_text(x, 68, "z = a W + b", "forth", 13))
        parts.append(_text(x, 90, "a = f(z)", "forth", 13))
        rule = "(δ Wᵀ) · f′(z)" if l < 3 else "o − y"
        parts.append(_text(x, 128, f"δ = {rule}", "back", 13))
        size = trace.delta_sizes[l - 1]
        parts.append(_text(x, 152, f"mean |δ| = {size:.4f}", "back", 12))
    for left, right in pairwise([0, *xs, 640]):
        a = left + (60 if left else 5)
        b = right - (60 if right != 640 else 50)
        if b - a < 15:
            a, b = 2, right - 62
        parts.append(_line(a, 80, b, 80, "forth", tip))
        if left:
            parts.append(_line(b, 138, a, 138, "back", tip))
    parts += [
        _text(14, 62, "x", "forth"),
        _text(618, 80, "o", "forth"),
        _text(620, 138, "E(o, y)", "back"),
    ]
    for x in xs:
        parts.append(_line(x, 177, x, 203, "back", tip))
        parts.append(_text(x, 217, "dE/dW = aᵀ δ", "back", 12))
    return _svg(660, 232, "Values flow forward through the layers, deltas flow back", parts)


def _both(ax: Any, net: portable_bp.MLP, X: Any, y: Any, w: Any, b: Any) -> Any:
    """The loss of a network with two parameters over a grid of both."""
    grid = np.asarray([
        [float(net.loss_and_gradients(((np.asarray([[v]]), np.asarray([c])),), X, y)[0]) for v in w]
        for c in b
    ])  # fmt: skip
    ax.contour(w, b, grid, levels=18, cmap="viridis", linewidths=0.8, alpha=0.8)
    return grid


def _descend(
    net: portable_bp.MLP, params: Any, X: Any, y: Any, size: int, steps: int, rate: float
) -> Any:
    rng, path, order = np.random.default_rng(3), [], []
    for _ in range(steps):
        path.append([float(p.ravel()[0]) for p in params[0]])
        if len(order) < size:
            order = [*order, *rng.permutation(len(X))]
        rows, order = order[:size], order[size:]
        _, grads = net.loss_and_gradients(params, X[rows], y[rows])
        params = tuple(
            (W - rate * dW, c - rate * db) for (W, c), (dW, db) in zip(params, grads, strict=True)
        )
    return np.asarray(path)


@cache
def draw_surface() -> str:
    """The loss over the two parameters of one unit, and three ways down."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 1))
    y = (X[:, :1] + 0.7 * rng.normal(size=(40, 1)) > 0.3).astype(float)
    net = portable_bp.MLP([1, 1], loss="log_loss")
    start = ((np.asarray([[-2.0]]), np.asarray([2.5])),)
    ways = (("all 40 rows a step", 40), ("8 rows a step", 8), ("1 row a step", 1))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (title, size) in zip(axes, ways, strict=True):
            _both(ax, net, X, y, np.linspace(-3, 5, 33), np.linspace(-3, 3.5, 27))
            path = _descend(net, start, X, y, size, 40, 0.9)
            ax.plot(path[:, 0], path[:, 1], "-o", ms=2.5, lw=1, color=BACK)
            ax.set(title=title, xlabel="weight w")
        axes[0].set_ylabel("bias b")

    return _plot(8.4, 3.1, draw, "loss surface and three modes of gradient descent")


@cache
def draw_optimizers() -> str:
    """A narrow valley, and the ways of three optimisers through it."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2)) * np.asarray([0.35, 1.6])
    y = X @ np.asarray([[2.0], [-1.0]])
    net = portable_bp.MLP([2, 1])

    def loss(u: float, v: float) -> float:
        return float(net.loss_and_gradients(((np.asarray([[u], [v]]), np.zeros(1)),), X, y)[0])

    ways = (
        ("gradient descent", "sgd", 0.6),
        ("momentum", "momentum", 0.15),
        ("Adam", "adam", 0.15),
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3, sharey=True)
        u, v = np.linspace(-1.6, 3.2, 40), np.linspace(-3.2, 1.4, 40)
        grid = np.log10(np.asarray([[loss(p, q) for p in u] for q in v]) + 1e-3)
        for ax, (title, name, rate) in zip(axes, ways, strict=True):
            ax.contour(u, v, grid, levels=14, cmap="viridis", linewidths=0.8, alpha=0.8)
            optimizer = optimizers.get(name)
            params: Any = ((np.asarray([[-1.2], [0.9]]), np.zeros(1)),)
            slots, path = optimizers.init(optimizer, params, xp=np), []
            for t in range(1, 36):
                path.append(params[0][0][:, 0].copy())
                _, grads = net.loss_and_gradients(params, X, y)
                grads = ((grads[0][0], 0 * grads[0][1]),)
                c = tuple(np.asarray(k) for k in optimizer.coefficients(t, rate))
                params, slots = optimizers.apply(optimizer, grads, slots, params, c, xp=np)
            walked = np.asarray(path)
            ax.plot(walked[:, 0], walked[:, 1], "-o", ms=2.5, lw=1, color=BACK)
            ax.set(title=f"{title}, rate {rate:g}", xlabel="weight 1")
        axes[0].set_ylabel("weight 2")

    return _plot(8.4, 3.1, draw, "three optimisers in a narrow valley")


@cache
def draw_losses() -> str:
    """Value and output delta of two losses behind a sigmoid, for a target of 1."""
    z = np.linspace(-8, 5, 200)[:, None]
    y, sigmoid = np.ones_like(z), activations.get("sigmoid")
    o = sigmoid.f(z, np)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for name, label, colour in (
            ("squared_error", "half squared error", BACK), ("log_loss", "log loss", FORTH),
        ):  # fmt: skip
            loss = losses.get(name)
            left.plot(
                z, losses.elementwise_loss(loss, sigmoid, z, o, y, np), color=colour, label=label
            )
            right.plot(
                z, losses.output_delta(loss, sigmoid, z, o, y, np), color=colour, label=label
            )
        left.set(xlabel="net input z", title="loss")
        right.set(xlabel="net input z", title="output delta dE/dz")
        left.legend()

    return _plot(7.4, 2.9, draw, "squared error and log loss behind a sigmoid")


@cache
def draw_activations() -> str:
    """Four activations, each with its derivative."""
    z = np.linspace(-4, 4, 201)[:, None]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 4, sharey=True)
        for ax, name in zip(axes, ("sigmoid", "tanh", "relu", "gelu"), strict=True):
            f = activations.get(name)
            a = f.f(z, np)
            ax.plot(z, a, color=FORTH, label="f(z)")
            ax.plot(z, f.df(z, a, np), color=BACK, label="f'(z)")
            ax.set(title=name, xlabel="z", ylim=(-1.3, 2.5))
        axes[0].legend(loc="upper left")

    return _plot(8.4, 2.5, draw, "activations and their derivatives")


@cache
def vanishing() -> dict[str, list[float]]:
    """The size of the delta of each layer at the start of training, relative to the last layer."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 20)), rng.integers(0, 2, 128)
    sizes = {}
    for hidden in ("sigmoid", "tanh", "relu"):
        net = portable_bp.MLP([20, *[50] * 10, 2], hidden=hidden, loss="softmax_cross_entropy")
        deltas = net.deltas(net.init(seed=0, dtype="float64"), x, y)
        norms = [float(np.sqrt(np.mean(np.asarray(d) ** 2))) for d in deltas]
        sizes[hidden] = [n / norms[-1] for n in norms]
    return sizes


@cache
def draw_vanishing() -> str:
    """How the deltas shrink on their way to the input."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for name, sizes in vanishing().items():
            ax.semilogy(range(1, len(sizes) + 1), sizes, "-o", ms=3, label=name)
        ax.set(xlabel="layer (1 is next to the input)", ylabel="size of delta / that of the last")
        ax.legend()

    return _plot(6.2, 3.0, draw, "size of the delta by layer")


@cache
def draw_equivalence() -> str:
    """How far the float32 gradients of each library are from float64 NumPy, in units of roundoff."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 32)), rng.integers(0, 8, 64)
    names = ("sigmoid", "tanh", "relu", "softplus", "gelu", "silu", "mish")
    specs = [s for s in ("numpy", "torch", "jax") if s in portable_bp.available_backends()]
    errors: dict[str, list[float]] = {spec: [] for spec in specs}
    for name in names:
        net = portable_bp.MLP([32, 64, 64, 8], hidden=name, loss="softmax_cross_entropy")
        start = net.init(seed=1)
        wide = tuple((np.asarray(W, "float64"), np.asarray(b, "float64")) for W, b in start)
        exact_x = X.astype("float32").astype("float64")
        _, exact = net.loss_and_gradients(wide, exact_x, y)
        for spec in specs:
            backend = portable_bp.get_backend(spec)
            with backend.scope():
                _, grads = net.loss_and_gradients(
                    net.init(seed=1, backend=spec), backend.asarray(X, "float32"), y
                )
                pairs = [
                    (backend.to_numpy(g).astype("float64"), e)
                    for layer, truth in zip(grads, exact, strict=True)
                    for g, e in zip(layer, truth, strict=True)
                ]
            worst = max(float(np.linalg.norm(g - e) / np.linalg.norm(e)) for g, e in pairs)
            errors[spec].append(worst / 2**-24)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        at = np.arange(len(names))
        for i, (spec, values) in enumerate(errors.items()):
            ax.bar(at + 0.26 * (i - 1), values, 0.24, label=spec)
        ax.set_xticks(at, names)
        ax.set_ylabel("relative error / roundoff")
        ax.legend(ncols=3)

    return _plot(7.6, 2.8, draw, "gradients compared in units of roundoff")


PEERS = {
    "scikit-learn": ("tab:orange", "s"),
    "torch eager": ("tab:red", "s"),
    "torch.compile": ("tab:red", "^"),
    "jax.jit": ("tab:green", "s"),
    "thinc": ("tab:purple", "s"),
}
"""Candidates of the benchmarks that are not ours: colour and mark."""


@cache
def draw_speed() -> str:
    """The committed record of the benchmarks: the time of a step beside that of peers."""
    cases = numbers_of_the_example.speed()["training"]["cases"]
    entries = [e for e in cases if e["case"]["optimizer"] == "adam"]
    labels = [f"{'-'.join(map(str, e['case']['sizes']))} B{e['case']['batch']}" for e in entries]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for name, (colour, mark) in PEERS.items():
            ratios, rows = [], []
            for row, entry in enumerate(entries):
                theirs = entry["candidates"].get(name, {}).get("us")
                if theirs:  # both sides of a ratio are of the same round
                    ours = entry["candidates"]["ours numpy"]["us"]
                    ratios.append(float(np.median(np.divide(theirs, ours))))
                    rows.append(-row)
            ax.plot(ratios, rows, mark, color=colour, label=name, ms=7)
        ax.axvline(1, color=FORTH, lw=1)
        ax.set_xscale("log")
        ticks = (0.5, 1, 2, 5, 10, 20)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_yticks([-row for row in range(len(entries))], labels)
        ax.set_xlabel("time per step / ours on NumPy")
        ax.grid(axis="x", alpha=0.3)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _plot(8.4, 3.6, draw, "time per step beside peers")
