"""A trained network: parameters, history and predictions, on the backend where it was trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray, Namespace, Params
from portable_bp.backend import Backend
from portable_bp.backend.memory import Result, translate_oom
from portable_bp.backend.registry import get_backend, owner, resolve
from portable_bp.equations import losses, network
from portable_bp.inputs import checks, examples
from portable_bp.inputs.transfer import dtype_name, to_backend
from portable_bp.mlp import MLP
from portable_bp.training.history import History
from portable_bp.training.metrics import metric

BLOCK_BYTES = 64 * 2**20


def block_rows(net: MLP, itemsize: int = 8) -> int:
    """Rows per block of a prediction, so that a block's layers stay within some tens of MiB."""
    return max(1, BLOCK_BYTES // (itemsize * sum(net.sizes)))


LastLayer = Callable[[Params, Array], tuple[Array, Array]]


def compile_last_layer(net: MLP, backend: Backend) -> LastLayer:
    """``(params, x) -> (z^L, a^L)``, compiled where that pays."""

    def last_layer(xp: Namespace, params: Params, x: Array) -> tuple[Array, Array]:
        cache = network.forward(params, x, net.activations, xp=xp)
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
        Why training ended: ``"finished"``, ``"callback"``, ``"time"``, ``"interrupted"``,
        ``"terminated"`` (by SIGTERM or SIGUSR1) or ``"diverged"``.
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

        Results come back in the library and on the device of X; host data give NumPy. A memory map
        is read block by block: more rows than fit in memory can be predicted.

        Raises
        ------
        ValueError, TypeError
            For bad input.
        OutOfMemoryError
            When the device cannot hold a block.
        """
        X = self._admitted(X)
        return self._guarded(X, lambda: self._joined(X))

    def _joined(self, X: Any) -> Array:
        if owner(X) is None:
            blocks = [self.backend.to_numpy(o) for o in self._blocks(X, check=True)]
            return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)  # type: ignore[return-value]
        with self.backend.scope():
            examples.finite_features(self.backend, self._dtype, X)
            outs = list(self._blocks(X))
            return outs[0] if len(outs) == 1 else self.backend.xp.concat(outs)

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
        X = self._admitted(X)

        def evaluated() -> tuple[float, float]:
            with self.backend.scope():
                given = examples.Rows(X, y, sample_weight)
                (rows,) = examples.check(self.net.spec, self.backend, self._dtype, given)
            t = examples.place_targets(self.net.spec, get_backend("numpy"), rows.y, "float64")
            return self.evaluate_prepared(rows.x, np.asarray(t), rows.w)

        return self._guarded(X, evaluated)

    def evaluate_prepared(self, X: Any, t: HostArray, w: HostArray | None) -> tuple[float, float]:
        """:meth:`evaluate` for targets (n, k) and weights that are float64 on the host already."""
        outs, sums, row = [], 0.0, 0
        eq, xp = self.net.equations, self.backend.xp
        for z, o in self._blocks(X, logits=True):
            stop = row + o.shape[0]
            with self.backend.scope():
                y = to_backend(self.backend, t[row:stop], dtype_name(o))
                l = losses.elementwise_loss(eq.loss, eq.activations[-1], z, o, y, xp)
                per_row = self.backend.to_numpy(xp.sum(l, axis=1, dtype=l.dtype))
            part = per_row.astype(np.float64)
            sums += float(np.sum(part if w is None else part * w[row:stop]))
            outs.append(self.backend.to_numpy(o))
            row = stop
        total = row if w is None else float(np.sum(w))
        return sums / total, metric(self.net.loss, np.concatenate(outs), t, w)

    def _admitted(self, X: Any) -> Any:
        """X as an array of the right shape, of the host or of the model's own device."""
        foreign = owner(X)
        if foreign is not None and foreign.spec_of(X) != self.backend.spec:
            raise ValueError(
                f"X lives on {foreign.spec_of(X)}, the model on {self.backend.spec}: move one of them, "
                f"for example model.to({foreign.spec_of(X)!r})"
            )
        return examples.features(self.net.spec, X)

    def _guarded(self, X: Any, work: Callable[[], Result]) -> Result:
        def task() -> str:
            return f"over {X.shape[0]:,} rows in blocks of {block_rows(self.net):,} by {self.net!r}"

        return translate_oom(
            self.backend, work, task, "the layer sizes, or hand in fewer rows at a time"
        )

    @property
    def _dtype(self) -> str:
        return dtype_name(self.params[0][0])

    def _blocks(self, X: Any, *, logits: bool = False, check: bool = False) -> Any:
        """Outputs (or net inputs and outputs of the last layer) for blocks of rows, on the backend.

        ``check``: X is the host's, and its values are still to be looked at.
        """
        backend, name = self.backend, self._dtype
        if self._last_layer is None:
            self._last_layer = compile_last_layer(self.net, backend)
        rows = block_rows(self.net)
        n = X.shape[0]
        for start in range(0, n, rows):
            block = X[start : min(start + rows, n), ...]
            if check:
                checks.finite("X", block, start)
            with backend.scope():
                x = to_backend(backend, block, name, "X")
                z, o = self._last_layer(self.params, x)
            yield (z, o) if logits else o

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file; :func:`portable_bp.load` reads it on any backend.

        At every instant ``path`` holds the old file or the new one, whole; see
        :func:`portable_bp.persistence.container.write`.

        Raises
        ------
        ValueError
            The network has an activation or a loss of your own; nothing is written.
        OSError
            The file could not be written. What was at ``path`` before is untouched.
        """
        from portable_bp.training import storage

        storage.save(self, path)

    def to(self, backend: str | Backend) -> Model:
        """The same model on another backend."""
        there = get_backend(backend)
        with self.backend.scope():
            host = [[self.backend.to_numpy(p) for p in pair] for pair in self.params]
        with there.scope():
            params = tuple((there.asarray(W), there.asarray(b)) for W, b in host)
        return Model(self.net, params, there, self.history, self.stopped, self.best_epoch)
