"""From X to the outputs of the network, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.utils.validation import check_is_fitted

from portable_bp._typing import Params
from portable_bp.backend import Backend
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import owner
from portable_bp.equations import activations
from portable_bp.equations.activations import Activation
from portable_bp.estimators import _input
from portable_bp.estimators._place import Place
from portable_bp.inputs.transfer import dtype_name
from portable_bp.training import blocks


class Predicting:
    """What an estimator does with X after the fit."""

    device: str | None
    dtype: str | None
    coefs_: list[Any]
    intercepts_: list[Any]
    _all_activations: Callable[[], list[str | Activation]]
    _same_home: Callable[..., None]

    def _features(self, X: Any, home: Backend) -> Any:
        """X for a prediction, checked."""
        if owner(X) is None:
            return _input.host_features(self, X, reset=False)
        return _input.device_features(self, X, home, reset=False)

    def _outputs(self, X: Any, method: str) -> Any:
        """The outputs of the network for each row, where X lives."""
        place, outputs = self._blocks(X, method, self._all_activations)
        return place.to_home(blocks.join(place.work, [a for _, a in outputs]))

    def _blocks(
        self, X: Any, method: str, layers: Callable[[], list[str | Activation]]
    ) -> tuple[Place, list[tuple[Any, Any]]]:
        """``(z, a)`` of the last of these layers for blocks of rows, where the equations run."""
        check_is_fitted(self)
        place = Place.of(X, self.device)
        self._same_home(X, place.home, method)
        X = self._features(X, place.home)
        name = self.dtype or max(_input.float_dtype(X, place.work), dtype_name(self.coefs_[0]))
        functions = [activations.get(a) for a in layers()]
        params = self._params_read(place, name)[: len(functions)]
        outputs = translate_oom(
            place.work,
            lambda: list(blocks.forward(place.work, functions, params, X)),
            lambda: f"predicting {X.shape[0]:,} rows",
            "the number of rows handed in at a time",
        )
        return place, outputs

    def _params_read(self, place: Place, name: str) -> Params:
        """The parameters where the equations run, as they are when they are there already."""
        if place.home is place.work and dtype_name(self.coefs_[0]) == name:
            return tuple(zip(self.coefs_, self.intercepts_, strict=True))
        return self._params_on(place, name)

    def _params_on(self, place: Place, name: str) -> Params:
        return tuple(
            (place.to_work(W, name), place.to_work(b, name))
            for W, b in zip(self.coefs_, self.intercepts_, strict=True)
        )

    @property
    def _n_features_out(self) -> int:
        return int(self.coefs_[-1].shape[0])
