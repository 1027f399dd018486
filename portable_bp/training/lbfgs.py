"""L-BFGS: SciPy's driver on the host; the data, the loss and its gradient where X lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray, Namespace, Params, Tree
from portable_bp.backend import Backend
from portable_bp.backend.cache import cached_plan
from portable_bp.equations import losses, network
from portable_bp.equations.network import Equations
from portable_bp.mlp import MLP
from portable_bp.training.blocks import block_rows
from portable_bp.training.data import DataSource

STOPPED = 99
"""SciPy's status of a run that its callback has ended."""


def _loss_and_gradients(backend: Backend, equations: Equations) -> Callable[..., Tree]:
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

    key = (_loss_and_gradients, equations)
    return cached_plan(backend, key, lambda: backend.compile_function(f))


class Objective:
    """``E(w)`` and its gradient for a packed vector ``w``: all weights, then all biases.

    Parameters
    ----------
    net : MLP
    backend : Backend
    dtype : str
    data : DataSource
        The rows, all of which every evaluation sees; in blocks where they are not on the device.
    weights : array of shape (n,), optional
        Those of the rows, in float64 on the host.
    l2 : float
        The coefficient of the penalty ``l2/2 sum W^2``.
    """

    def __init__(
        self,
        net: MLP,
        backend: Backend,
        dtype: str,
        data: DataSource,
        weights: HostArray | None,
        l2: float,
    ) -> None:
        self._backend, self._dtype, self._data, self._weights = backend, dtype, data, weights
        self._shapes = [s for s, _ in net.shapes] + [s for _, s in net.shapes]
        self._total = data.n if weights is None else float(weights.sum())
        with backend.scope():
            self._l2 = backend.asarray(np.asarray(l2), dtype)
            self._classes = backend.asarray(np.arange(net.sizes[-1]), backend.index_dtype)
        self._f = _loss_and_gradients(backend, replace(net.equations, l2=0.0))

    def pack(self, params: Params) -> HostArray:
        """Parameters as one vector in float64 on the host."""
        to_numpy = self._backend.to_numpy
        parts = [to_numpy(W) for W, _ in params] + [to_numpy(b) for _, b in params]
        return np.concatenate([p.astype(np.float64).reshape(-1) for p in parts])

    def unpack(self, w: HostArray) -> Params:
        """The inverse of :meth:`pack`, where the equations run."""
        arrays, start = [], 0
        with self._backend.scope():
            for shape in self._shapes:
                size = int(np.prod(shape))
                part = w[start : start + size].reshape(shape)
                arrays.append(self._backend.asarray(part, self._dtype))
                start += size
        layers = len(arrays) // 2
        return tuple(zip(arrays[:layers], arrays[layers:], strict=True))

    def __call__(self, w: HostArray) -> tuple[float, HostArray]:
        with self._backend.scope(), np.errstate(over="ignore", invalid="ignore"):
            params = self.unpack(w)
            loss, gradient, start = 0.0, np.zeros(0), 0
            for arrays in self._data.blocks(block_rows(params)):
                l, g = self._f(params, self._l2, self._classes, *arrays)
                l, g = float(self._backend.to_numpy(l)), self.pack(g)
                stop = start + arrays[0].shape[0]
                if stop - start == self._data.n:
                    return l, g
                # A mean over blocks of rows, by their share of the total.
                share = self._weight(start, stop) / self._total
                if share:
                    loss += l * share
                    gradient = g * share if not gradient.size else gradient + g * share
                start = stop
            return loss, gradient

    def _weight(self, start: int, stop: int) -> float:
        weights = self._weights
        return float(stop - start if weights is None else weights[start:stop].sum())


@dataclass(frozen=True)
class Minimum:
    """How a run of L-BFGS ended.

    Attributes
    ----------
    params : pairs (W, b)
    loss : float
    iterations : int
    failure : str or None
        SciPy's words where it did not converge.
    status : int
        SciPy's number for that.
    stopped : str
        ``"converged"``, ``"finished"`` (after the last iteration or evaluation that was allowed),
        what ``after_iteration`` said, ``"interrupted"``, or ``"failed"`` in a line search.
    """

    params: Params
    loss: float
    iterations: int
    failure: str | None
    status: int
    stopped: str


def minimise(
    objective: Objective,
    params: Params,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    after_iteration: Callable[[int, float, Callable[[], Params]], str | None],
) -> Minimum:
    """Train with L-BFGS.

    Parameters
    ----------
    objective : Objective
    params : pairs (W, b)
        Where to start.
    max_iter, max_fun : int
        Iterations, and evaluations of the objective.
    tol : float
        No entry of the gradient is larger at a minimum.
    after_iteration : function of the iteration's number, the loss and a getter of the parameters
        Answers why to stop, or None.

    Returns
    -------
    Minimum
    """
    minimize = _driver()
    latest: Any = None
    done, reason = 0, "finished"

    def iteration_ends(intermediate_result: Any) -> None:
        nonlocal latest, done, reason
        latest, done = intermediate_result, done + 1
        w = latest.x.copy()
        answer = after_iteration(done, float(latest.fun), lambda: objective.unpack(w))
        if answer is not None:
            reason = answer
            raise StopIteration

    try:
        result = minimize(
            objective,
            objective.pack(params),
            method="L-BFGS-B",
            jac=True,
            callback=iteration_ends,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    except KeyboardInterrupt:
        if latest is None:
            return Minimum(params, float("nan"), 0, None, 0, "interrupted")
        return Minimum(objective.unpack(latest.x), float(latest.fun), done, None, 0, "interrupted")
    ended = {0: "converged", 1: "finished", STOPPED: reason}.get(result.status, "failed")
    failure = None if result.status in (0, STOPPED) else str(result.message)
    return Minimum(
        objective.unpack(result.x),
        float(result.fun),
        int(result.nit),
        failure,
        result.status,
        ended,
    )


def _driver() -> Callable[..., Any]:
    """SciPy's minimiser, which is imported when it is used."""
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError(
            "L-BFGS needs SciPy: pip install scipy, or choose another optimizer, such as 'adam'"
        ) from error
    driver: Callable[..., Any] = minimize
    return driver
