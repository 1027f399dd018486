"""A trained network: parameters, history and predictions, on the backend where it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portable_bp import checks
from portable_bp._typing import Array, HostArray, Params
from portable_bp.backend import Backend
from portable_bp.equations import losses, network
from portable_bp.mlp import MLP, dtype_name, to_backend
from portable_bp.registry import get_backend, owner, resolve
from portable_bp.training.history import History
from portable_bp.training.metrics import metric

BLOCK_BYTES = 64 * 2**20


def block_rows(net: MLP, itemsize: int = 8) -> int:
    """Rows per block of a prediction, so that a block's layers stay within some tens of MiB."""
    return max(1, BLOCK_BYTES // (itemsize * sum(net.sizes)))


LastLayer = Callable[[Params, Array], tuple[Array, Array]]


def compile_last_layer(net: MLP, backend: Backend) -> LastLayer:
    """``(params, x) -> (z^L, a^L)``, compiled where that pays."""

    def last_layer(params: Params, x: Array) -> tuple[Array, Array]:
        cache = network.forward(params, x, net.activations, xp=backend.xp)
        return cache.z[-1], cache.outputs[-1]

    return backend.compile_function(last_layer)


@dataclass(eq=False)
class Model:
    """A trained network.

    Attributes
    ----------
    net : MLP
    params : pairs (W, b) on ``backend``
    backend : Backend
    history : History
        One entry per epoch: ``history["loss"]``, ``history["validation_loss"]``, ...
    stopped : str
        Why training ended: ``"finished"``, ``"callback"``, ``"time"`` or ``"interrupted"``.
    best_epoch : int or None
        The epoch (from 1) that the parameters are of, when the best ones were restored.
    """

    net: MLP
    params: Params
    backend: Backend
    history: History = field(default_factory=History)
    stopped: str = "finished"
    best_epoch: int | None = None
    _last_layer: LastLayer | None = field(default=None, repr=False)

    def forward(self, X: Any) -> Array:
        """The outputs for each row, shape (n, k), block by block.

        Results come back in the library and on the device of X; host data give NumPy.
        """
        foreign = owner(X)
        if foreign is not None and foreign.of(X) != self.backend.spec:
            raise ValueError(
                f"X lives on {foreign.of(X)}, the model on {self.backend.spec}: move one of them, "
                f"for example model.to({foreign.of(X)!r})"
            )
        if foreign is None:
            X = checks.host_array("X", X)
        checks.matrix("X", tuple(X.shape), self.net.sizes[0])
        blocks = [
            out if foreign is not None else self.backend.to_numpy(out) for out in self._blocks(X)
        ]
        if len(blocks) == 1:
            return blocks[0]  # type: ignore[return-value]
        with self.backend.scope():
            joined: Array = (
                np.concatenate(blocks) if foreign is None else self.backend.xp.concat(blocks)  # type: ignore[assignment]
            )
        return joined

    def predict(self, X: Any) -> Array:
        """Class labels or values for each row, as :meth:`portable_bp.MLP.predict` gives them."""
        out = self.forward(X)
        where = resolve(None, out) if owner(out) is not None else get_backend("numpy")
        with where.scope():
            return self.net.decide(where, out)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy for a classification loss, else R squared."""
        return self.evaluate(X, y, sample_weight)[1]

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[float, float]:
        """``(loss, metric)``: the mean data term of the loss (no penalties), and :meth:`score`."""
        numpy = get_backend("numpy")
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        y_host = y if owner(y) is None else resolve(None, y).to_numpy(y)
        t = np.asarray(self.net.targets(numpy, y_host, n, "float64"))
        w = None
        if sample_weight is not None:
            w = sample_weight
            w = checks.sample_weight(w if owner(w) is None else resolve(None, w).to_numpy(w), n)
        return self.evaluate_prepared(X, t, w)

    def evaluate_prepared(self, X: Any, t: HostArray, w: HostArray | None) -> tuple[float, float]:
        """:meth:`evaluate` for targets (n, k) and weights that are float64 on the host already."""
        outs, sums, row = [], 0.0, 0
        eq, xp = self.net.equations, self.backend.xp
        for z, o in self._blocks(X, logits=True):
            stop = row + o.shape[0]
            with self.backend.scope():
                y = to_backend(self.backend, t[row:stop], dtype_name(o))
                l = losses.terms(eq.loss, eq.activations[-1], z, o, y, xp)
                per_row = self.backend.to_numpy(xp.sum(l, axis=1, dtype=l.dtype))
            part = per_row.astype(np.float64)
            sums += float(np.sum(part if w is None else part * w[row:stop]))
            outs.append(self.backend.to_numpy(o))
            row = stop
        total = row if w is None else float(np.sum(w))
        return sums / total, metric(self.net.loss, np.concatenate(outs), t, w)

    def _blocks(self, X: Any, logits: bool = False) -> Any:
        """Outputs (or net inputs and outputs of the last layer) for blocks of rows, on the backend."""
        backend, name = self.backend, dtype_name(self.params[0][0])
        if self._last_layer is None:
            self._last_layer = compile_last_layer(self.net, backend)
        rows = block_rows(self.net)
        n = X.shape[0]
        for start in range(0, n, rows):
            with backend.scope():
                x = to_backend(backend, X[start : min(start + rows, n), ...], name, "X")
                z, o = self._last_layer(self.params, x)
            yield (z, o) if logits else o

    def to(self, backend: str | Backend) -> Model:
        """The same model on another backend."""
        there = get_backend(backend)
        with self.backend.scope():
            host = [[self.backend.to_numpy(p) for p in pair] for pair in self.params]
        with there.scope():
            params = tuple((there.asarray(W), there.asarray(b)) for W, b in host)
        return Model(self.net, params, there, self.history, self.stopped, self.best_epoch)
