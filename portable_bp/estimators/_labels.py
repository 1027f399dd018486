"""Classes and labels: from y to what training takes, and its weights and score."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import type_of_target, unique_labels

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend
from portable_bp.equations import losses
from portable_bp.equations.losses import Loss
from portable_bp.estimators import _class_weight, _input, _sources
from portable_bp.estimators._losses import capped
from portable_bp.estimators._place import as_classes, home_of
from portable_bp.inputs.transfer import to_host
from portable_bp.sources.protocol import Described
from portable_bp.training.data import ONE_HOT_ENTRIES

MULTILABEL = "multilabel-indicator"


class ClassLabels(BaseEstimator):
    """What a classifier makes of y.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    """

    class_weight: Any
    warm_start: bool
    n_outputs_: int
    _y_type: str
    _sparse_y: bool

    def _check_classes(self, y: Any, classes: Any, home: Backend) -> None:
        if hasattr(self, "classes_"):
            known = to_host(self.classes_)
            if not np.array_equal(known, unique_labels(classes)):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                    f"{known!r}"
                )
            return
        multilabel = type_of_target(y).startswith("multilabel")
        if classes is None:
            if not multilabel:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            classes = np.arange(y.shape[1])
        self._set_classes(unique_labels(classes), multilabel, scipy.sparse.issparse(y), home)

    def _set_classes(
        self, classes: HostArray, multilabel: bool, sparse: bool, home: Backend
    ) -> None:
        self.classes_ = as_classes(classes, home)
        few = "binary" if len(classes) <= 2 else "multiclass"
        self._y_type = MULTILABEL if multilabel else few
        self._sparse_y = sparse

    def _host_input(
        self, X: Any, y: Any, *, incremental: bool, reset: bool
    ) -> tuple[Any, HostArray]:
        X, y = _input.host_features_and_targets(self, X, y, reset=reset, numeric=False)
        return X, self._encoded(y, home_of(X), incremental)

    def _device_input(
        self, X: Any, y: Any, home: Backend, *, incremental: bool, reset: bool
    ) -> tuple[Any, Any]:
        X = _input.device_features(self, X, home, reset=reset)
        y = _input.host_targets(self, to_host(y), X.shape[0], numeric=False)
        return X, self._encoded(y, home, incremental)

    def _source_input(self, source: Described, *, reset: bool) -> tuple[Described, Any]:
        _sources.features(self, source, reset=reset)
        classes = _sources.distinct(source)
        if reset:
            self._set_classes(classes, False, False, get_backend("numpy"))
        elif set(classes.tolist()) != set(to_host(self.classes_).tolist()):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call "
                f"to fit. Previously got {self.classes_}, `y` has {classes}"
            )
        labels = len(classes)
        self.n_outputs_ = labels if labels > 2 else 1
        source = _sources.encoded(source, classes)
        return source, None if self.class_weight is None else _sources.codes(source)

    def _held_source(self, source: Described) -> Described:
        return _sources.encoded(source, np.asarray(to_host(self.classes_)))

    def _held_targets(self, y: Any, n: int) -> HostArray:
        y = _input.host_targets(self, y, n, numeric=False, name="validation y")
        self._refuse_unseen(y)
        return self._indicators(y)

    def _encoded(self, y: Any, home: Backend, incremental: bool) -> HostArray:
        """y as training takes it; learns the classes, or checks y against those it knows."""
        _input.classification_labels(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            kind = type_of_target(y)
            if kind == "multiclass-multioutput":
                raise ValueError(
                    "y has several columns of classes; only columns of 0 and 1, one for each label, "
                    "can be learnt together (see sklearn.multioutput.MultiOutputClassifier)"
                )
            multilabel = kind.startswith("multilabel")
            self._set_classes(unique_labels(y), multilabel, scipy.sparse.issparse(y), home)
        elif self.warm_start:
            known, present = to_host(self.classes_), unique_labels(y)
            if set(present) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {known}, `y` has {present}"
                )
        else:
            self._refuse_unseen(y)
        labels = self.classes_.shape[0]
        self.n_outputs_ = labels if self._y_type == MULTILABEL or labels > 2 else 1
        return self._indicators(y)

    def _refuse_unseen(self, y: Any) -> None:
        known = to_host(self.classes_)
        # What unique_labels does for one column, without asking again what kind of target it is.
        present = np.unique(y) if y.ndim == 1 else unique_labels(y)
        if len(np.setdiff1d(present, known, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {known}. 'y' has "
                f"{present}."
            )

    def _indicators(self, y: Any) -> HostArray:
        """True where a row belongs to a class, (n, k); class numbers (n,) where that is too large."""
        columns = y.ndim == 2
        if columns != (self._y_type == MULTILABEL):
            has, needed = ("columns of labels", "classes")
            if not columns:
                has, needed = needed, has
            raise ValueError(f"y has {has}, but the classifier was fitted with {needed}")
        if columns:
            if y.shape[1] != self.n_outputs_:
                raise ValueError(
                    f"y has {y.shape[1]} label(s), but the classifier knows {self.n_outputs_}"
                )
            dense: HostArray = (y.toarray() if scipy.sparse.issparse(y) else y) != 0
            return dense
        number: HostArray = np.searchsorted(to_host(self.classes_), y)
        if self.n_outputs_ == 1:
            return np.asarray(number == 1)[:, None]
        if len(y) * self.n_outputs_ > ONE_HOT_ENTRIES:
            return number
        indicators: HostArray = number[:, None] == np.arange(self.n_outputs_)
        return indicators

    def _loss(self) -> Loss:
        if self._y_type == "multiclass":
            return capped(losses.softmax_cross_entropy())
        return capped(losses.log_loss())

    def _stratify(self, y: HostArray) -> Any:
        # As in scikit-learn, only two classes are split in proportion.
        if self.n_outputs_ != 1:
            return None
        return np.asarray(to_host(self.classes_))[self._numbers(y)]

    def _class_weights(self, y: HostArray, *, incremental: bool) -> HostArray | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all of y: for partial_fit compute the weights with "
                "sklearn.utils.class_weight.compute_class_weight and pass them as a dict"
            )
        if self._y_type == MULTILABEL:
            return _class_weight.of_several_labels(self.class_weight, y)
        classes = np.asarray(to_host(self.classes_))
        return _class_weight.of_one_label(self.class_weight, classes, self._numbers(y))

    def _numbers(self, y: HostArray) -> HostArray:
        """Class numbers (n,) from what training takes."""
        if y.ndim == 1:
            return y.astype(np.int64)
        if y.shape[1] == 1:
            return (y[:, 0] > 0.5).astype(np.int64)
        number: HostArray = np.argmax(y, axis=1)
        return number

    def _metric(self, out: HostArray, y: HostArray, weights: HostArray | None) -> float:
        if self._y_type == MULTILABEL:
            right = np.all((out > 0.5) == (y > 0.5), axis=1)
        else:
            right = self._numbers(out) == self._numbers(y)
        return float(np.average(right, weights=weights))
