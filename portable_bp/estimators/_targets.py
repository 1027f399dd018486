"""Targets of a regression: from y to what training takes, for one quantile or several."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner
from portable_bp.equations import losses
from portable_bp.equations.losses import Loss
from portable_bp.errors import DataError
from portable_bp.estimators import _input, _sources
from portable_bp.estimators._losses import quantiles
from portable_bp.estimators._place import home_of
from portable_bp.inputs import checks
from portable_bp.inputs.transfer import to_host
from portable_bp.sources.protocol import Described
from portable_bp.training.metrics import metric


class RegressionTargets(BaseEstimator):
    """What a regressor makes of y."""

    loss: Any
    quantile: Any
    warm_start: bool
    n_outputs_: int

    def _levels(self) -> list[float]:
        """The quantile levels; one for any other loss."""
        if self.loss != "quantile":
            return [0.5]
        levels = self.quantile if isinstance(self.quantile, list | tuple) else [self.quantile]
        if not levels:
            raise ValueError("quantile needs at least one level")
        return [
            checks.real("quantile", q, low=0, high=1, open_low=True, open_high=True) for q in levels
        ]

    def _loss(self) -> Loss:
        if self.loss == "quantile":
            return quantiles(tuple(self._levels()))
        return losses.get(self.loss)

    def _host_input(
        self, X: Any, y: Any, *, incremental: bool, reset: bool
    ) -> tuple[Any, HostArray]:
        X, y = _input.host_features_and_targets(self, X, y, reset=reset, numeric=True)
        return X, self._targets(y, home_of(y))

    def _device_input(
        self, X: Any, y: Any, home: Backend, *, incremental: bool, reset: bool
    ) -> tuple[Any, Any]:
        X = _input.device_features(self, X, home, reset=reset)
        if owner(y) is not None and home_of(y) is home:
            return X, self._targets(_input.device_targets(y, X.shape[0], home), home)
        y = _input.host_targets(self, to_host(y), X.shape[0], numeric=True)
        return X, self._targets(y, home_of(y))

    def _source_input(self, source: Described, *, reset: bool) -> tuple[Described, Any]:
        _sources.features(self, source, reset=reset)
        self._held_source(source)
        outputs = int(np.prod(source.target_shape, dtype=np.int64))
        if not reset and outputs != self.n_outputs_:
            raise ValueError(f"y has {outputs} output(s), but the network has {self.n_outputs_}")
        self.n_outputs_ = outputs
        return source, None

    def _held_source(self, source: Described) -> Described:
        if source.classes is not None:
            raise DataError("the target holds labels; a regressor learns numbers")
        if len(self._levels()) > 1:
            raise ValueError(
                "of a source one quantile is learnt at a time: pass quantile as a float"
            )
        return source

    def _held_targets(self, y: Any, n: int) -> HostArray:
        y = _input.host_targets(self, y, n, numeric=True, name="validation y")
        targets: HostArray = self._targets(y, home_of(y))
        return targets

    def _targets(self, y: Any, home: Backend) -> Any:
        """y as (n, targets), each target once for every quantile level."""
        xp, levels = home.xp, len(self._levels())
        with home.scope():
            if y.ndim == 1:
                y = xp.expand_dims(y, axis=1)
            if self._loss().target == "count" and float(home.to_numpy(xp.min(y))) < 0:
                raise ValueError(f"y must not be negative for loss={self._loss().name!r}")
            if levels > 1:
                y = xp.reshape(xp.stack([y] * levels, axis=2), (y.shape[0], -1))
        fitted = getattr(self, "coefs_", None) and hasattr(self, "n_outputs_")
        if fitted and self.warm_start and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} output(s), but the network has {self.n_outputs_}")
        self.n_outputs_ = y.shape[1]
        return y

    def _metric(self, out: HostArray, y: HostArray, weights: HostArray | None) -> float:
        if not np.isfinite(out).all():
            return float("nan")
        pick = slice(self._middle, None, len(self._levels()))
        with np.errstate(over="ignore"):
            return metric(self._loss(), out[:, pick], y[:, pick], weights)

    @property
    def _middle(self) -> int:
        """The level that :meth:`predict` gives: the one nearest to the median."""
        return int(np.argmin(np.abs(np.array(self._levels()) - 0.5)))
