"""L-BFGS: SciPy's driver on the host; the data, the loss and its gradient where X lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from portable_bp._typing import Array, HostArray, Namespace, Params, Tree
from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.equations import losses, network
from portable_bp.equations.network import Equations
from portable_bp.estimators._place import Place
from portable_bp.estimators._remembered import remembered
from portable_bp.estimators._rows import Rows
from portable_bp.mlp import MLP
from portable_bp.training.blocks import block_rows

if TYPE_CHECKING:
    from portable_bp.estimators._base import BaseMLP


@remembered
def compiled(backend: Backend, equations: Equations) -> Callable[..., Tree]:
    """``(params, l2, classes, x, y, weights) -> (loss, gradients)``; the weights are optional.

    ``l2`` is a 0-d array, ``classes`` the numbers 0 .. k-1 for a y of class labels.
    """

    def f(
        xp: Namespace,
        params: Params,
        l2: Array,
        classes: Array,
        x: Array,
        y: Array,
        *weights: Array,
    ) -> Tree:
        if y.ndim == 1:
            y = losses.one_hot(y, classes, x.dtype, xp=xp)
        w = weights[0] if weights else None
        penalised = replace(equations, l2=l2)
        return network.loss_and_gradients(penalised, params, x, y, xp=xp, weights=w)

    return backend.compile_function(f)


class Objective:
    """``E(w)`` and its gradient for a packed vector ``w``: all weights, then all biases.

    Parameters
    ----------
    net : what the network computes
    place : where
    rows : the rows, all of which every evaluation sees; sparse ones in blocks
    alpha : of the penalty ``alpha/2 sum W^2 / total``, total the rows or the sum of their weights
    """

    def __init__(self, net: MLP, place: Place, rows: Rows, alpha: float) -> None:
        self.place, self.rows = place, rows
        self.shapes = [s for s, _ in net.shapes] + [s for _, s in net.shapes]
        self.total = rows.n if rows.weights is None else float(rows.weights.sum())
        work = place.work
        with work.scope():
            self.l2 = work.asarray(np.asarray(alpha / self.total), rows.name)
            self.classes = work.asarray(np.arange(net.sizes[-1]), work.index_dtype)
        self.f = compiled(work, net.equations)

    def pack(self, params: Params) -> HostArray:
        """Parameters as one vector in float64 on the host."""
        to_numpy = self.place.work.to_numpy
        parts = [to_numpy(W) for W, _ in params] + [to_numpy(b) for _, b in params]
        return np.concatenate([p.astype(np.float64).reshape(-1) for p in parts])

    def unpack(self, w: HostArray) -> Params:
        """The inverse of :meth:`pack`, where the equations run."""
        work, found, start = self.place.work, [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            part = w[start : start + size].reshape(shape)
            found.append(work.asarray(part, self.rows.name))
            start += size
        layers = len(found) // 2
        return tuple(zip(found[:layers], found[layers:], strict=True))

    def __call__(self, w: HostArray) -> tuple[float, HostArray]:
        work = self.place.work
        with work.scope(), np.errstate(over="ignore", invalid="ignore"):
            params = self.unpack(w)
            if not self.rows.sparse:
                loss, grads = self.f(params, self.l2, self.classes, *self.rows.arrays())
                return float(work.to_numpy(loss)), self.pack(grads)
            return self._in_blocks(params)

    def _in_blocks(self, params: Params) -> tuple[float, HostArray]:
        """The same as a mean over blocks of rows, by their share of the total."""
        loss, gradient = 0.0, np.zeros(sum(int(np.prod(s)) for s in self.shapes))
        for block in self.rows.blocks(block_rows(params)):
            share = block.n if block.weights is None else float(block.weights.sum())
            if share:
                l, g = self.f(params, self.l2, self.classes, *block.arrays())
                loss += float(self.place.work.to_numpy(l)) * share / self.total
                gradient += self.pack(g) * (share / self.total)
        return loss, gradient


def minimise(
    est: BaseMLP,
    net: MLP,
    place: Place,
    rows: Rows,
    params: Params,
    hooks: Sequence[Callable[[Params], bool]],
) -> Params:
    """Train with L-BFGS: the best parameters; ``n_iter_`` and ``loss_`` of the estimator are set."""
    objective = Objective(net, place, rows, est.alpha)
    started, done = time.perf_counter(), 0
    latest: scipy.optimize.OptimizeResult | None = None

    def iteration_ends(intermediate_result: Any) -> None:
        nonlocal latest, done
        latest, done = intermediate_result, done + 1
        if est.verbose:
            print(f"Iteration {done}, loss = {latest.fun:.8f}")
        if hooks:
            now = objective.unpack(latest.x)
            asked = [hook(now) for hook in hooks]
            if any(asked):
                raise StopIteration
        if est.max_time is not None and time.perf_counter() - started >= est.max_time:
            raise StopIteration

    try:
        result = scipy.optimize.minimize(
            objective,
            objective.pack(params),
            method="L-BFGS-B",
            jac=True,
            callback=iteration_ends,
            options={"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol},
        )
    except KeyboardInterrupt:
        warn("Training interrupted by user.")
        if latest is None:
            return params
        result = latest
        result.update(nit=done, status=0)
    est.n_iter_ = min(int(result.nit), est.max_iter)
    est.loss_ = float(result.fun)
    if result.status not in (0, 99):  # 99: stopped by what we call after each iteration
        _say_why(est, result)
    with place.work.scope():
        return objective.unpack(result.x)


def _say_why(est: BaseMLP, result: Any) -> None:
    message = (
        f"lbfgs failed to converge after {est.n_iter_} iteration(s) (status={result.status}):\n"
        f"{result.message}\n"
    )
    if est.n_iter_ == est.max_iter:
        message += (
            "\nIncrease the number of iterations to improve the convergence "
            f"(max_iter={est.max_iter})."
        )
    message += (
        "\nYou might also want to scale the data, for example with "
        "sklearn.preprocessing.StandardScaler."
    )
    warn(message, ConvergenceWarning)
