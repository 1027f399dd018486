"""Random networks and runs: compiled against eager, backend against backend, and against autograd.

Each run follows from its number alone. Run ``i`` is compared on NumPy and PyTorch; every fifth with
PyTorch's own ``autograd`` and ``optim`` as well, every 25th on array-api-strict, every 50th on JAX.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import portable_bp
from portable_bp import MLP, DivergenceError, Model, rng
from portable_bp._tree import leaves
from portable_bp.equations import activations, losses, optimizers, schedules

QUICK, RUNS, CHUNK = 25, 1500, 50
WIDTHS = (1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 32, 64, 97, 128, 211, 256, 300)

TORCH_ACTIVATIONS = {
    "identity": lambda z: z, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
    "leaky_relu": F.leaky_relu, "elu": F.elu, "selu": F.selu, "softplus": F.softplus,
    "gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"), "silu": F.silu,
    "mish": F.mish, "softmax": lambda z: torch.softmax(z, 1), "exp": torch.exp,
}  # fmt: skip
TORCH_LOSSES = {
    "squared_error": lambda z, o, y: 0.5 * (o - y) ** 2,
    "log_loss": lambda z, o, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
    "softmax_cross_entropy": lambda z, o, y: -y * torch.log_softmax(z, 1),
    "poisson": lambda z, o, y: torch.special.xlogy(y, y) - y * z - y + o,
    "absolute_error": lambda z, o, y: abs(o - y),
    "huber": lambda z, o, y: F.huber_loss(o, y, reduction="none"),
    "quantile": lambda z, o, y: abs(o - y) / 2,
}
TORCH_OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr),
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr),
}


@dataclass
class Run:
    """A network, its data, and the arguments of ``fit``."""

    net: MLP
    x: Any
    y: Any
    weights: Any
    options: dict[str, Any] = field(default_factory=dict)

    def fit(self, backend: str, **options: Any) -> Model:
        return portable_bp.fit(
            self.net, self.x, self.y, sample_weight=self.weights, backend=backend,
            **{**self.options, **options},
        )  # fmt: skip


def drawn(number: int, *, of_torch: bool = False) -> Run:
    """The run of that number; ``of_torch``: without what only we have."""
    r = np.random.default_rng([7, number])
    maybe = lambda p, value: value if r.random() < p else None  # noqa: E731
    depth = int(r.integers(0, 7))
    sizes = [int(r.choice(WIDTHS[:14])), *map(int, r.choice(WIDTHS, depth))]
    if depth > 3:  # what is deep is narrow: it would only take time
        sizes = [min(s, 32) for s in sizes]
    loss = str(r.choice(sorted(losses.LOSSES)))
    k = (
        max(2, int(r.choice(WIDTHS[:8])))
        if loss == "softmax_cross_entropy"
        else int(r.choice(WIDTHS[:8]))
    )
    hidden = tuple(
        str(r.choice(sorted(set(activations.ACTIVATIONS) - {"exp"}))) for _ in range(depth)
    )
    net = MLP(
        [*sizes, k], hidden, loss, l1=maybe(0.3, 1e-3) or 0.0, l2=maybe(0.3, 1e-2) or 0.0,
        dropout=0.0 if of_torch else maybe(0.3, 0.3) or 0.0,
    )  # fmt: skip
    n = int(r.integers(1, 41))
    x, y = r.standard_normal((n, sizes[0])), r.random((n, k))
    if net.loss.target == "class":
        y = np.eye(k)[r.integers(0, k, n)]
    elif net.loss.target == "binary":
        y = (y > 0.5).astype(float)
    weights = maybe(0.3, r.uniform(0.5, 2, n) * (r.random(n) > 0.2))
    if weights is not None and not weights.any():
        weights[0] = 1
    rate = 10.0 ** r.uniform(-4, -2)
    rule = str(r.choice(sorted(schedules.SCHEDULES)))
    stepped = rule in ("step", "linear_warmup")
    options = {
        "epochs": int(r.integers(1, 4)),
        "batch_size": maybe(0.85, int(r.integers(1, n + 2))),
        "seed": number,
        "optimizer": str(r.choice(sorted(optimizers.OPTIMIZERS))),
        "dtype": "float64" if of_torch else str(r.choice(["float32", "float64"])),
        "learning_rate": rate if of_torch or stepped else schedules.SCHEDULES[rule](rate),
        "clip_value": None if of_torch else maybe(0.2, 0.01),
        "clip_norm": None if of_torch else maybe(0.2, 0.1),
    }
    if weights is not None:  # a batch whose rows all weigh nothing has no gradient
        options["batch_size"] = None
    return Run(net, x, y, weights, options)


def agree(run: Run, model: Model, other: Model) -> None:
    """Losses and parameters, to what rounding may become in some steps of these rates.

    Gradients that are nothing but rounding are made as large as others by Adam and its like, in
    float32; and at a corner of relu or of a loss one rounding chooses another slope.
    """
    small = run.options["dtype"] == "float32"
    for key in ("loss",):
        a, b = (np.asarray(m.history[key]) for m in (model, other))
        np.testing.assert_allclose(a, b, rtol=2e-3 if small else 1e-7, err_msg=key)
    for p, q in zip(leaves(model.params), leaves(other.params), strict=True):
        a, b = model.backend.to_numpy(p), other.backend.to_numpy(q)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=(2e-2 if small else 1e-6) * scale)


def torch_alone(run: Run) -> tuple[list[Any], list[float]]:
    """Parameters and losses of the epochs by ``torch.autograd`` and ``torch.optim``."""
    net, n = run.net, len(run.x)
    start = net.init(run.options["seed"], dtype="float64")
    tensors = [torch.nn.Parameter(torch.tensor(np.asarray(p))) for p in leaves(start)]
    names = [a.name for a in net.activations]
    descent = TORCH_OPTIMIZERS[run.options["optimizer"]](tensors, run.options["learning_rate"])
    x, y = torch.tensor(run.x), torch.tensor(run.y)
    w = torch.ones(n, dtype=torch.float64) if run.weights is None else torch.tensor(run.weights)
    history = []
    for epoch in range(run.options["epochs"]):
        order = torch.tensor(rng.permutation(n, run.options["seed"], rng.SHUFFLE, epoch))
        total = 0.0
        for rows in order.split(run.options["batch_size"] or n):
            a = x[rows]
            for W, b, name in zip(tensors[::2], tensors[1::2], names, strict=True):
                z = a @ W + b
                a = TORCH_ACTIVATIONS[name](z)
            terms = TORCH_LOSSES[net.loss.name](z, a, y[rows]).sum(1)
            loss = (terms * w[rows]).sum() / w[rows].sum()
            for W in tensors[::2]:
                loss = loss + net.l1 * W.abs().sum() + net.l2 / 2 * (W**2).sum()
            descent.zero_grad()
            loss.backward()
            descent.step()
            total += loss.item() * w[rows].sum().item()
        history.append(total / w.sum().item())
    return [t.detach().numpy() for t in tensors], history


def fitted(run: Run) -> Model | None:
    """The model; None where the run diverges, as with outputs exp(z): then it does so eagerly, too."""
    try:
        return run.fit("numpy")
    except DivergenceError as error:
        with pytest.raises(DivergenceError, match=re.escape(str(error)[:40])):
            run.fit("numpy", compile=False)
        return None


def check(number: int) -> None:
    """All comparisons of one run."""
    run = drawn(number)
    model = fitted(run)
    if model is None or not all(map(math.isfinite, model.history["loss"])):
        return
    agree(run, model, run.fit("numpy", compile=False))
    agree(run, model, run.fit("torch"))
    if number % 25 == 0:
        agree(run, model, run.fit("strict"))
    if number % 50 == 0:
        agree(run, model, run.fit("jax"))
    if number % 5 == 0:
        run = drawn(number, of_torch=True)
        model = fitted(run)
        if model is None:
            return
        params, history = torch_alone(run)
        for own in (model, run.fit("torch")):
            np.testing.assert_allclose(own.history["loss"], history, rtol=1e-7)
            for p, q in zip(leaves(own.params), params, strict=True):
                np.testing.assert_allclose(own.backend.to_numpy(p), q, rtol=0, atol=1e-6)


def check_all(numbers: range) -> None:
    """All runs, and what went wrong with those that failed, by number."""
    failed = {}
    for number in numbers:
        try:
            check(number)
        except Exception as error:
            failed[number] = f"{type(error).__name__}: {error}"[:600]
    assert not failed, "\n".join(f"{k}: {v}" for k, v in failed.items())


def test_random_runs() -> None:
    check_all(range(1, 1 + QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, RUNS, CHUNK))
def test_many_random_runs(first: int) -> None:
    check_all(range(first, first + CHUNK))
