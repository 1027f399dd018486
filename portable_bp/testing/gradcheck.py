"""Are the gradients those of the loss? Backpropagation against differences of the reported number."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray, Params
from portable_bp.backend.registry import get_backend, use_backend
from portable_bp.inputs import arrays, checks
from portable_bp.inputs.transfer import to_host
from portable_bp.mlp import MLP

STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
"""Balances the two errors of a central difference, h^2/6 E''' and (rounding of E) / h."""

_MOVE = 1e-3
_PICK, _SHIFT = 101, 102  # purposes of random draws, apart from those of training


class _Worst(NamedTuple):
    """The entry with the largest error: its name, both numbers, the error and the step."""

    name: str
    backprop: float
    difference: float
    error: float
    step: float


def check_gradients(
    net: MLP,
    params: Params,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    tolerance: float = 1e-6,
    entries: int | None = 100,
    seed: int = 0,
) -> float:
    """Check ``net.loss_and_gradients`` and ``net.input_gradient`` against central differences.

    For entries ``p`` of each ``W``, each ``b`` and of ``x``, in float64 on NumPy::

        dE/dp  ~  (E(p + h) - E(p - h)) / 2h          h = 6e-6 max(1, |p|)

    where E is the very loss that ``net.loss_and_gradients`` reports, penalties included. This is how
    to test an :class:`~portable_bp.Activation` or a :class:`~portable_bp.Loss` of your own.

    Parameters
    ----------
    net : MLP
        The network with the activation or loss to check.
    params : pairs (W, b)
        Of any backend and dtype; use generic ones, as from ``net.init(seed)``.
    x : array of shape (n, sizes[0])
        The examples.
    y : array of shape (n,) or (n, k)
        The targets, as ``net.loss_and_gradients`` takes them.
    sample_weight : array of shape (n,), optional
        Not negative.
    tolerance : float
        The largest error that passes, relative to the largest entry of the same tensor's gradient.
    entries : int or None
        How many entries of each tensor to check, chosen by ``seed``; None checks them all.
    seed : int
        Chooses the entries.

    Returns
    -------
    float
        The largest relative error found.

    Raises
    ------
    AssertionError
        When an entry disagrees; it names the entry, both numbers and the error.

    Notes
    -----
    Near a kink (relu at 0) a difference straddles two slopes: an entry that disagrees is tried with
    smaller steps, and when one still does, all are checked again at parameters moved by up to 1e-3,
    since a unit may sit exactly on its kink (relu, a zero bias and a zero row of x). An error of the
    formula stays at every step and every point.

    A difference resolves gradients down to about ``1e-16 |E| / h``; what is below that passes.

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> net = portable_bp.MLP([3, 4, 2], hidden="tanh", loss="softmax_cross_entropy")
    >>> x = np.linspace(-1, 1, 15).reshape(5, 3)
    >>> check_gradients(net, net.init(seed=0), x, [0, 1, 1, 0, 1]) < 1e-8
    True
    """
    tolerance = checks.real("tolerance", tolerance, low=0, open_low=True)
    if entries is not None:
        entries = checks.positive_int("entries", entries)
    seed = rng.as_seed(seed)
    start = [[_host(p) for p in pair] for pair in params]
    x = _host(arrays.numbers("x", to_host(x)))
    problem = _Problem(net, y, sample_weight, entries, seed, tolerance)
    with use_backend("numpy"):
        worst = problem.worst(start, x)
        if not worst.error <= tolerance:
            worst = problem.worst(
                [[_moved(p, seed, l) for p in pair] for l, pair in enumerate(start)], x
            )
    if not worst.error <= tolerance:
        raise AssertionError(
            f"the gradient does not belong to the loss: for {worst.name} of {net!r}, "
            f"backpropagation says {worst.backprop:.10g} and central differences of the loss say "
            f"{worst.difference:.10g} (step {worst.step:.1e}); the relative error {worst.error:.1e} "
            f"exceeds the tolerance {tolerance:.1e}. Check the derivative of each activation and the "
            "gradient of the loss against the function it belongs to"
        )
    return worst.error


class _Problem:
    """One check: what stays the same while the parameters move."""

    def __init__(
        self, net: MLP, y: Any, weights: Any, entries: int | None, seed: int, tolerance: float
    ) -> None:
        self.net, self.y, self.weights = net, to_host(y), to_host(weights)
        self.entries, self.seed, self.tolerance = entries, seed, tolerance

    def loss(self, params: list[list[HostArray]], x: HostArray) -> float:
        loss, _ = self.net.loss_and_gradients(_as_params(params), x, self.y, self.weights)
        return float(loss)  # type: ignore[arg-type]

    def worst(self, params: list[list[HostArray]], x: HostArray) -> _Worst:
        pairs = _as_params(params)
        loss, grads = self.net.loss_and_gradients(pairs, x, self.y, self.weights)
        value = float(loss)  # type: ignore[arg-type]
        if not np.isfinite(value):
            raise AssertionError(f"the loss is {value} at these parameters; nothing to compare")
        dx = self.net.input_gradient(pairs, x, self.y, self.weights)
        witnesses = [
            self.tensor(f"{letter}[{l}]", p, np.asarray(g), value, params, x)
            for l, (pair, dpair) in enumerate(zip(params, grads, strict=True))
            for letter, p, g in zip("Wb", pair, dpair, strict=True)
        ]
        witnesses.append(self.tensor("x", x, np.asarray(dx), value, params, x))
        return max(witnesses, key=lambda w: np.inf if np.isnan(w.error) else w.error)

    def tensor(
        self,
        name: str,
        p: HostArray,
        g: HostArray,
        loss: float,
        params: list[list[HostArray]],
        x: HostArray,
    ) -> _Worst:
        """The worst entry of one tensor: ``p`` is changed in place, and restored."""
        chosen = rng.permutation(p.size, self.seed, _PICK)[: self.entries]
        noise = 8 * np.finfo(np.float64).eps * (1 + abs(loss)) / STEP
        scale = max(float(np.max(np.abs(g))), noise / self.tolerance)
        worst = _Worst(name, 0.0, 0.0, 0.0, STEP)
        for flat in chosen:
            i = np.unravel_index(flat, p.shape)
            original, backprop = p[i], float(g[i])
            best: _Worst | None = None
            for factor in (1.0, 1e-1, 1e-2):
                h = STEP * factor * max(1.0, abs(original))
                p[i] = original + h
                above, up = self.loss(params, x), p[i]
                p[i] = original - h
                below, down = self.loss(params, x), p[i]
                p[i] = original
                slope = (above - below) / float(up - down)
                error = abs(backprop - slope) / max(scale, abs(slope))
                place = f"{name}[{', '.join(str(int(k)) for k in i)}]"
                if best is None or error < best.error:
                    best = _Worst(place, backprop, slope, error, h)
                if error <= self.tolerance:
                    break
            assert best is not None
            if not best.error <= worst.error:
                worst = best
        return worst


def _host(p: Any) -> HostArray:
    """A private copy in float64."""
    copy: HostArray = get_backend("numpy").asarray(to_host(p), "float64")  # type: ignore[assignment]
    return copy


def _as_params(params: list[list[HostArray]]) -> Params:
    return tuple((W, b) for W, b in params)  # type: ignore[misc]


def _moved(p: HostArray, seed: int, layer: int) -> HostArray:
    """``p`` plus a uniform draw from (-1e-3, 1e-3): generic, the same each time."""
    draw = rng.uniform(rng.raw_words(p.size, seed, _SHIFT, layer, p.ndim))
    moved: HostArray = p + _MOVE * (2 * draw - 1).reshape(p.shape)
    return moved
