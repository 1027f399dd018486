"""Estimators elsewhere: moved to another device, copied, pickled."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend, owner
from portable_bp.errors import BackendError
from portable_bp.estimators._place import as_classes, home_of
from portable_bp.inputs.transfer import to_host


class Movable(BaseEstimator):
    """What an estimator with arrays of any library does when it moves."""

    device: str | None
    coefs_: list[Any]
    intercepts_: list[Any]

    def to(self, device: str | Backend) -> Self:
        """A copy of the fitted estimator whose arrays live on another device.

        Parameters
        ----------
        device : str or Backend
            ``"numpy"``, ``"torch"``, ``"torch:cuda:0"``, ``"cupy"``, ``"jax"``, ...: what
            :func:`portable_bp.get_backend` takes.

        Returns
        -------
        The copy, which takes X from there; the estimator itself stays as it is.
        """
        check_is_fitted(self)
        there = get_backend(device)

        def move(array: Any) -> Any:
            host = np.asarray(to_host(array))
            with there.scope():
                return there.asarray(host)

        moved = self._twin(there)
        if hasattr(self, "feature_names_in_"):
            moved.feature_names_in_ = self.feature_names_in_
        moved.coefs_ = [move(W) for W in self.coefs_]
        moved.intercepts_ = [move(b) for b in self.intercepts_]
        if hasattr(self, "_optimizer"):
            moved._optimizer = self._optimizer.converted(move)
        return moved

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # A device array is kept as a NumPy one beside the name of its place, so that a model that
        # was trained on a GPU can be loaded where there is none.
        coefs = vars(self).get("coefs_")
        if not coefs or owner(coefs[0]) is None:
            state: dict[str, Any] = super().__getstate__()
            return dict(state)
        spec = home_of(coefs[0]).spec
        host = self.to("numpy")
        host.device = self.device
        return {**super(Movable, host).__getstate__(), "_saved_from": spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        spec = state.pop("_saved_from", None)
        super().__setstate__(state)
        if spec is None:
            return
        device = self.device
        try:
            self.__dict__.update(vars(self.to(spec)))
        except (BackendError, TypeError, ValueError) as error:
            warn(
                f"the model was on {spec}, which cannot be used here ({error}); it was loaded to "
                "NumPy",
            )
        self.device = device

    def _twin(self, home: Backend) -> Self:
        """A copy of the estimator for arrays that live elsewhere, without their parameters."""
        twin = copy(self)
        twin.device = None
        twin.__dict__.pop("feature_names_in_", None)
        if hasattr(self, "classes_"):
            twin.classes_ = as_classes(np.asarray(to_host(self.classes_)), home)
        return twin

    def _same_home(
        self, X: Any, there: Backend, method: str, home: Backend | None = None, what: str = "X"
    ) -> None:
        home = home_of(self.coefs_[0]) if home is None else home
        check_home(self, home, there, method, what)


def check_home(est: Any, home: Backend, there: Backend, method: str, what: str = "X") -> None:
    """Raise unless what an estimator is handed lives where the estimator does."""
    if there.spec != home.spec:
        raise ValueError(
            f"Inputs passed to {type(est).__name__}.{method}() must use the same namespace and the "
            f"same device as those passed to fit(): the model is on {home.spec}, {what} on "
            f"{there.spec}. Move {what}, or the model: estimator.to({there.spec!r})"
        )
