"""Estimators for data frames as they come: text, dates, missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from portable_bp._typing import HostArray
from portable_bp._warnings import warn
from portable_bp.equations.activations import ACTIVATIONS, Activation
from portable_bp.equations.optimizers import OPTIMIZERS, Optimizer
from portable_bp.estimators import _input
from portable_bp.estimators._frames import table_of_frame
from portable_bp.mlp import MLP
from portable_bp.tables.kinds import KINDS, Kind
from portable_bp.tables.model import TabularModel
from portable_bp.tables.prepare import Label, Preparation, Task, Treatment
from portable_bp.tables.table import Table
from portable_bp.tables.units import moments
from portable_bp.tables.untidy import Learnt, learn_columns
from portable_bp.training.fit import fit


class BaseTabular(BaseEstimator):
    """What the classifier and the regressor for tables share."""

    n_features_in_: int
    model_: TabularModel
    report_: tuple[Treatment, ...]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({*ACTIVATIONS}), Activation],
        "kinds": [None, dict],
        "solver": [StrOptions({*OPTIMIZERS}), Optimizer],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "l2": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "dtype": [StrOptions({"float32", "float64"})],
        "device": [None, str],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (128, 64),
        activation: str | Activation = "relu",
        *,
        kinds: Mapping[str, Kind] | None = None,
        solver: str | Optimizer = "adam",
        learning_rate_init: float = 2e-3,
        batch_size: int = 32,
        max_iter: int = 30,
        dropout: float = 0.2,
        l2: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.kinds = kinds
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.dropout = dropout
        self.l2 = l2
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.dtype = dtype
        self.device = device

    def _learnt(self, X: Any) -> tuple[Table, Learnt]:
        """X as a table, and what was learnt of its columns; the attributes that say what X was."""
        self._validate_params()
        table = self._table(X, reset=True)
        unknown = {*(self.kinds or {})} - {*table.columns}
        if unknown:
            raise ValueError(f"kinds names columns that X lacks: {sorted(unknown, key=str)}")
        for name, kind in (self.kinds or {}).items():
            if kind not in KINDS:
                raise ValueError(f"kinds[{name!r}] must be one of {KINDS}, got {kind!r}")
        rows = np.arange(table.rows)
        return table, learn_columns(table, [*table.columns], self.kinds or {}, rows, "y")

    def _trained(
        self, table: Table, learnt: Learnt, y: HostArray, task: Task, classes: Sequence[Label] = ()
    ) -> Self:
        """A network on the columns of a table; y: codes of classes, or a quantity."""
        shift, unit = 0.0, 1.0
        if task == "regression":
            mean, scale = moments(y, None, float(np.finfo(np.float64).eps ** 0.8))
            shift, unit = float(mean), float(scale)
            y = (y - shift) / unit
        target = next(name for name in _target_names() if name not in table.columns)
        preparation = Preparation(
            learnt.features, learnt.mean, learnt.scale, target, task, tuple(classes), shift, unit,
            learnt.columns,
        )  # fmt: skip
        net = MLP(
            [len(learnt.features), *_input.layer_sizes(self.hidden_layer_sizes), len(classes) or 1],
            hidden=self.activation,
            loss="softmax_cross_entropy" if classes else "squared_error",
            dropout=self.dropout,
            l2=self.l2,
        )
        stopping = self.n_iter_no_change if self.early_stopping else None
        model = fit(
            net,
            preparation.scaled(learnt.x, table),
            y,
            optimizer=self.solver,
            learning_rate=self.learning_rate_init,
            batch_size=self.batch_size,
            epochs=self.max_iter,
            validation=self.validation_fraction if self.early_stopping else None,
            early_stopping=stopping,
            backend=self.device,
            dtype=self.dtype,
            seed=int(check_random_state(self.random_state).randint(2**31)),
        )
        self.model_ = TabularModel(preparation, model)
        self.report_ = learnt.report
        self.n_iter_ = len(model.history.epochs)
        return self

    def _table(self, X: Any, *, reset: bool) -> Table:
        """X as a table: a data frame by its names, an array by the places of its columns."""
        table = table_of_frame(X)
        names = None if table is None else np.asarray([*table.columns], dtype=object)
        if table is None:
            table = _table_of_array(self, X)
        n = len(table.columns)
        if table.rows < 1 + reset:
            raise ValueError(
                f"Found a table with {table.rows} sample(s) while a minimum of {1 + reset} is required "
                f"by {type(self).__name__} (n_samples={table.rows})"
            )
        if reset:
            self.n_features_in_ = n
            self.__dict__.pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = names
            return table
        fitted = getattr(self, "feature_names_in_", None)
        name = type(self).__name__
        if fitted is not None and names is not None:
            return table  # its columns are found by name
        if n != self.n_features_in_:
            raise ValueError(
                f"X has {n} features, but {name} is expecting {self.n_features_in_} features as input."
            )
        if (fitted is None) != (names is None):
            state = "with" if fitted is not None else "without"
            has = "does not have valid" if fitted is not None else "has"
            warn(f"X {has} feature names, but {name} was fitted {state} feature names")
        fitted = [f"x{i}" for i in range(n)] if fitted is None else fitted
        columns = dict(zip(fitted, table.columns.values(), strict=True))
        return Table("X", columns)

    def _known(self, X: Any) -> Table:
        check_is_fitted(self)
        return self._table(X, reset=False)

    def save(self, path: Any) -> None:
        """Write the network and what was learnt of the columns to one safetensors file.

        Parameters
        ----------
        path : path
            The file, which :func:`portable_bp.tabular.load` and ``portable-bp predict`` read.
        """
        check_is_fitted(self)
        self.model_.save(path)

    def to_onnx(self, path: Any) -> None:
        """Write it as an ONNX file that takes the columns of X as they are.

        Parameters
        ----------
        path : path
            The file; see :func:`portable_bp.export.to_onnx`.
        """
        check_is_fitted(self)
        self.model_.to_onnx(path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.non_deterministic = False
        return tags


def _target_names() -> Any:
    yield "target"
    i = 0
    while True:
        i += 1
        yield f"target {i}"


def _table_of_array(est: Any, X: Any) -> Table:
    """An array of numbers, or of objects, by columns x0, x1, ..."""
    array = check_array(X, dtype=None, ensure_all_finite="allow-nan", estimator=est, input_name="X")
    if array.dtype.kind == "O":
        for cell in array.ravel():
            if isinstance(cell, dict | list | set | tuple):
                raise TypeError(
                    f"argument must be a string or a number: X holds a {type(cell).__name__}"
                )
    return Table("X", {f"x{i}": array[:, i] for i in range(array.shape[1])})


class TabularClassifier(ClassifierMixin, BaseTabular):
    """A network that classifies the rows of a data frame as it comes.

    What each column is (numbers in any spelling, categories, dates, truth values) is inferred, missing
    values are filled and marked, constants, identifiers and long texts are left out; ``report_`` says
    what was done. This is ``portable-bp train`` behind scikit-learn's interface.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int, default=(128, 64)
        Units of each hidden layer.
    activation : str or Activation, default='relu'
        Of the hidden layers.
    kinds : dict or None, default=None
        What columns are, by name, where the inference is wrong: ``'number'``, ``'category'``,
        ``'date'``, ``'boolean'`` or ``'drop'``.
    solver : str or Optimizer, default='adam'
        As ``optimizer`` of :func:`portable_bp.fit`.
    learning_rate_init : float, default=0.002
        The learning rate.
    batch_size : int, default=32
        Rows of a mini-batch.
    max_iter : int, default=30
        Epochs.
    dropout : float, default=0.2
        The probability that a hidden unit is left out of a step.
    l2 : float, default=0.0
        The penalty ``l2/2 sum W^2``.
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, stop after ``n_iter_no_change`` epochs without a
        lower loss on them, and keep the parameters of the best epoch.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping holds out.
    n_iter_no_change : int, default=10
        How many epochs may pass without progress.
    random_state : int, RandomState instance or None, default=None
        Of the initial weights, the order of the rows and dropout.
    dtype : {'float32', 'float64'}, default='float32'
        What the network computes in.
    device : str or None, default=None
        The backend, as ``'torch:cuda'``; None for the default one.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The labels.
    model_ : TabularModel
        The network with what was learnt of the columns.
    report_ : tuple of Treatment
        What was done with each column.
    n_features_in_ : int
        The columns of X.
    feature_names_in_ : array of shape (columns of X,)
        Their names, where X was a data frame.
    n_iter_ : int
        Epochs that were run.

    Examples
    --------
    >>> import pandas as pd
    >>> from portable_bp.tabular import TabularClassifier
    >>> pets = pd.DataFrame({"weight": ["4,1", "30,5", "3,9", "?"] * 10, "sound": ["meow", "woof"] * 20})
    >>> est = TabularClassifier(random_state=0).fit(pets, ["cat", "dog"] * 20)
    >>> print(est.report_[0].done)
    decimal comma; missing: median 4.1, marked
    >>> est.predict(pd.DataFrame({"sound": ["woof", "meow"], "weight": ["12,5", None]})).tolist()
    ['dog', 'cat']
    """

    classes_: HostArray

    def fit(self, X: Any, y: Any) -> Self:
        """Learn what the columns are, and train.

        Parameters
        ----------
        X : {data frame, array-like} of shape (n_samples, n_features)
            Of pandas, polars, Arrow or NumPy.
        y : array-like of shape (n_samples,)
            The classes.

        Returns
        -------
        self : TabularClassifier
            The fitted estimator.
        """
        table, learnt = self._learnt(X)
        y = _column_of("y", _input.targets(y, numeric=False), table, self)
        _input.classification_labels(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}: two are needed")
        return self._trained(table, learnt, codes, "classification", self.classes_.tolist())

    def predict(self, X: Any) -> HostArray:
        """The class of each row.

        Parameters
        ----------
        X : {data frame, array-like} of shape (n_samples, n_features)
            A data frame may have its columns in another order, and others besides.

        Returns
        -------
        array of shape (n_samples,)
            Labels.
        """
        codes = np.argmax(self.predict_proba(X), axis=1)
        return cast("HostArray", self.classes_[codes])

    def predict_proba(self, X: Any) -> HostArray:
        """The probability of each class for each row.

        Parameters
        ----------
        X : {data frame, array-like} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        array of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        table = self._known(X)
        return self.model_.probabilities(table)


class TabularRegressor(RegressorMixin, BaseTabular):
    """A network that predicts a quantity for the rows of a data frame as it comes.

    The columns are treated as by :class:`TabularClassifier`; the target is scaled to mean 0 and
    deviation 1.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int, default=(128, 64)
        Units of each hidden layer.
    activation : str or Activation, default='relu'
        Of the hidden layers.
    kinds : dict or None, default=None
        What columns are, by name, where the inference is wrong.
    solver : str or Optimizer, default='adam'
        As ``optimizer`` of :func:`portable_bp.fit`.
    learning_rate_init : float, default=0.002
        The learning rate.
    batch_size : int, default=32
        Rows of a mini-batch.
    max_iter : int, default=30
        Epochs.
    dropout : float, default=0.2
        The probability that a hidden unit is left out of a step.
    l2 : float, default=0.0
        The penalty ``l2/2 sum W^2``.
    early_stopping : bool, default=False
        Stop by the loss on ``validation_fraction`` of the rows.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping holds out.
    n_iter_no_change : int, default=10
        How many epochs may pass without progress.
    random_state : int, RandomState instance or None, default=None
        Of the initial weights, the order of the rows and dropout.
    dtype : {'float32', 'float64'}, default='float32'
        What the network computes in.
    device : str or None, default=None
        The backend; None for the default one.

    Attributes
    ----------
    model_ : TabularModel
        The network with what was learnt of the columns.
    report_ : tuple of Treatment
        What was done with each column.
    n_features_in_ : int
        The columns of X.
    feature_names_in_ : array of shape (columns of X,)
        Their names, where X was a data frame.
    n_iter_ : int
        Epochs that were run.

    Examples
    --------
    >>> import pandas as pd
    >>> from portable_bp.tabular import TabularRegressor
    >>> houses = pd.DataFrame({"area": ["50 000", "70 000"] * 20, "town": ["A", "B"] * 20})
    >>> est = TabularRegressor(max_iter=100, random_state=0).fit(houses, [100.0, 200.0] * 20)
    >>> est.predict(houses[:2]).round(-1).tolist()
    [100.0, 200.0]
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Learn what the columns are, and train.

        Parameters
        ----------
        X : {data frame, array-like} of shape (n_samples, n_features)
            Of pandas, polars, Arrow or NumPy.
        y : array-like of shape (n_samples,)
            The quantity.

        Returns
        -------
        self : TabularRegressor
            The fitted estimator.
        """
        table, learnt = self._learnt(X)
        y = _column_of("y", _input.targets(y, numeric=True), table, self)
        return self._trained(table, learnt, y.astype(np.float64), "regression")

    def predict(self, X: Any) -> HostArray:
        """The quantity for each row.

        Parameters
        ----------
        X : {data frame, array-like} of shape (n_samples, n_features)
            A data frame may have its columns in another order, and others besides.

        Returns
        -------
        array of shape (n_samples,)
            In the unit of y, float64.
        """
        table = self._known(X)
        return np.asarray(self.model_.predict(table), dtype=np.float64)


def _column_of(name: str, y: Any, table: Table, est: Any) -> HostArray:
    """Targets of one column, as many as there are rows."""
    if y is None:
        raise ValueError(
            f"This {type(est).__name__} estimator requires {name} to be passed, but the target y is "
            "None."
        )
    y = check_array(
        column_or_1d(y, warn=True), dtype=None, ensure_2d=False, input_name=name, estimator=est
    )
    check_consistent_length([*range(table.rows)], y)
    return cast("HostArray", y)
