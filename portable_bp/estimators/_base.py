"""What the classifier and the regressor share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from portable_bp._params import check_memory
from portable_bp._typing import HostArray, Params
from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import get_backend, owner
from portable_bp.equations import activations
from portable_bp.equations.activations import ACTIVATIONS, Activation
from portable_bp.equations.losses import Loss
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.errors import BackendError, DivergenceError, OutOfMemoryError
from portable_bp.estimators import _input, _lbfgs, _stochastic
from portable_bp.estimators._callbacks import CallbackSupportMixin, Watch
from portable_bp.estimators._html import layers_html
from portable_bp.estimators._place import Place, as_classes, home_of
from portable_bp.estimators._rows import Rows
from portable_bp.estimators._stochastic import Held, StochasticRun
from portable_bp.inputs import checks
from portable_bp.inputs.transfer import dtype_name, to_host
from portable_bp.mlp import MLP
from portable_bp.training import blocks

STOCHASTIC = ("sgd", "adam", "adamw")

_PROGRESS = (
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_",
    "validation_loss_curve_", "_no_improvement_count",
)  # fmt: skip


class BaseMLP(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """The multilayer perceptron behind scikit-learn's interface."""

    device: str | None
    coefs_: list[Any]
    intercepts_: list[Any]
    n_outputs_: int
    validation_scores_: Any
    validation_loss_curve_: Any

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({*ACTIVATIONS, "logistic"}), Activation, list, tuple],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC}), Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "clip_value": [None, Interval(Real, 0, None, closed="neither")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "scoring": [None, str, callable],
        "max_time": [None, Interval(Real, 0, None, closed="neither")],
        "device": [None, str],
        "dtype": [None, StrOptions({"float32", "float64"})],
    }

    # --- what the two kinds of estimator say for themselves ---------------------------------------

    @abstractmethod
    def _loss(self) -> Loss:
        """The loss, for the present targets."""

    @abstractmethod
    def _host_input(
        self, X: Any, y: Any, *, incremental: bool, reset: bool
    ) -> tuple[Any, HostArray]:
        """X and y from the host's memory; y as training takes it: (n, k), or labels (n,)."""

    @abstractmethod
    def _device_input(
        self, X: Any, y: Any, home: Backend, *, incremental: bool, reset: bool
    ) -> tuple[Any, Any]:
        """The same for an X that lives on a device."""

    @abstractmethod
    def _held_targets(self, y: Any, n: int) -> HostArray:
        """Targets of validation data, as training takes them."""

    @abstractmethod
    def _metric(self, out: HostArray, y: HostArray, weights: HostArray | None) -> float:
        """The default score of outputs."""

    def _stratify(self, y: Any) -> Any:
        """What the split for early stopping keeps the proportions of."""
        return None

    def _class_weights(self, y: Any, *, incremental: bool) -> HostArray | None:
        """Weights by class, (n,), if there are any."""
        return None

    # --- fitting ----------------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        incremental: bool = False,
        validation_data: Any = None,
    ) -> Self:
        self._validate_params()
        hidden = self._checked_settings(incremental, validation_data)
        place = Place.of(X, self.device)
        before = {k: copy(v) if isinstance(v, list) else v for k, v in self.__dict__.items()}
        try:
            translate_oom(
                place.work,
                lambda: self._fit_at(
                    place, hidden, X, y, sample_weight, incremental, validation_data
                ),
                lambda: f"training layers of {hidden} hidden units on {_length(X):,} rows",
                "batch_size or hidden_layer_sizes",
            )
        except OutOfMemoryError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _fit_at(
        self,
        place: Place,
        hidden: list[int],
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        validation_data: Any,
    ) -> None:
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if not first:
            self._same_home(X, place.home, "partial_fit" if incremental else "fit")
        raw_X, raw_y = X, y
        if owner(X) is None:
            X, y = self._host_input(X, to_host(y), incremental=incremental, reset=first)
        else:
            X, y = self._device_input(X, y, place.home, incremental=incremental, reset=first)
        n, width = X.shape
        weights = self._all_weights(y, sample_weight, n, incremental)
        net = MLP(
            [width, *hidden, self.n_outputs_],
            list(self._hidden_activations(len(hidden))),
            self._loss(),
            dropout=self.dropout,
        )
        self._random_state = check_random_state(self.random_state)
        self.n_layers_ = len(net.sizes)
        last = net.activations[-1].name
        self.out_activation_ = "logistic" if last == "sigmoid" else last
        if first:
            name = self.dtype or _input.float_dtype(X, place.work)
            self._initialize(net, place, name)
        else:
            self._check_layers(net)
            name = dtype_name(self.coefs_[0])
        params = self._params_on(place, name)
        rows = Rows.of(place.work, name, X, y, weights)
        epochs = 1 if incremental else self.max_iter
        with Watch(self, raw_X, raw_y, sample_weight, place, epochs) as watch:
            if self.solver == "lbfgs":
                found = _lbfgs.minimise(self, net, place, rows, params, watch.hooks)
                diverged = not (math.isfinite(self.loss_) and place.finite(found))
                params = params if diverged else found
            else:
                held, rows = self._hold_out(place, rows, raw_y, y, validation_data)
                params, diverged = self._train(
                    net, place, rows, params, held, watch.hooks, incremental
                )
            self.coefs_ = [place.to_home(W) for W, _ in params]
            self.intercepts_ = [place.to_home(b) for _, b in params]
            if diverged:
                self._say_why(place, X)

    def _train(
        self,
        net: MLP,
        place: Place,
        rows: Rows,
        params: Params,
        held: Held | None,
        hooks: Sequence[Callable[[Params], bool]],
        incremental: bool,
    ) -> tuple[Params, bool]:
        """Epochs with a stochastic solver: the parameters to keep, and whether it diverged."""
        state = getattr(self, "_optimizer", None)
        if state is None or not incremental:
            state = _stochastic.fresh_state(self, params, place)
        else:
            state = state.converted(lambda a: place.to_work(a, rows.name))
        self._begin_progress(held)
        seed = 0
        if any(net.dropout):
            seed = int(self._random_state.randint(np.iinfo(np.int32).max))
        run = StochasticRun(
            self, net, place, rows, _input.batch_rows(self.batch_size, rows.n), params, state,
            self._random_state, seed=seed, incremental=incremental, held=held, hooks=hooks,
        )  # fmt: skip
        outcome = run.train()
        state.slots = outcome.slots
        self._optimizer = state.converted(place.to_home)
        return outcome.params, outcome.reason == "diverged"

    def _params_on(self, place: Place, name: str) -> Params:
        return tuple(
            (place.to_work(W, name), place.to_work(b, name))
            for W, b in zip(self.coefs_, self.intercepts_, strict=True)
        )

    def _all_weights(
        self, y: Any, sample_weight: Any, n: int, incremental: bool
    ) -> HostArray | None:
        """The weights handed in times those of the classes."""
        weights = _input.sample_weights(sample_weight, n)
        by_class = self._class_weights(y, incremental=incremental)
        if by_class is None or weights is None:
            return weights if by_class is None else by_class
        if not (weights * by_class).any():
            raise ValueError(
                "sample_weight and class_weight together are zero for every row: nothing could be "
                "learnt"
            )
        return weights * by_class

    def _checked_settings(self, incremental: bool, validation_data: Any) -> list[int]:
        """What no range of a parameter can say; the sizes of the hidden layers."""
        if isinstance(self.batch_size, bool):
            raise TypeError(f"batch_size must be 'auto' or an integer, got {self.batch_size!r}")
        hidden = _input.layer_sizes(self.hidden_layer_sizes)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.scoring is not None and not self.early_stopping:
            raise ValueError("scoring is what early stopping watches: set early_stopping=True")
        if self.solver == "lbfgs":
            extras = {name: getattr(self, name) for name in ("dropout", "clip_value", "clip_norm")}
            extras["scoring"] = self.scoring
            extras["learning_rate"] = isinstance(self.learning_rate, Schedule)
            extras["validation_data"] = validation_data is not None
            for name, value in extras.items():
                if np.any(value):
                    raise ValueError(
                        f"{name} needs a solver that works in epochs of mini-batches, such as "
                        "'adam'; got solver='lbfgs'"
                    )
        return hidden

    def _hidden_activations(self, layers: int) -> Sequence[str | Activation]:
        if isinstance(self.activation, list | tuple):
            if len(self.activation) != layers:
                raise ValueError(
                    f"activation has {len(self.activation)} entries for {layers} hidden layer(s)"
                )
            return list(self.activation)
        return [self.activation] * layers

    def _all_activations(self) -> list[str | Activation]:
        """One activation per layer, as the fitted network has them."""
        return [*self._hidden_activations(len(self.coefs_) - 1), str(self.out_activation_)]

    def _initialize(self, net: MLP, place: Place, name: str) -> None:
        """Start parameters and fitted attributes, drawn in scikit-learn's order."""
        check_memory(net)
        for name_ in (*_PROGRESS, "_optimizer"):
            self.__dict__.pop(name_, None)
        self.n_iter_ = 0
        self.t_ = 0
        self.coefs_, self.intercepts_ = [], []
        for l, (fan_in, fan_out) in enumerate(zip(net.sizes, net.sizes[1:], strict=False)):
            # The last layer starts as the hidden ones do, by their activation.
            last = net.hidden[-1].name if net.hidden else str(self.activation)
            rule = net.hidden[l].name if l < len(net.hidden) else last
            bound = np.sqrt((2.0 if rule in ("sigmoid", "logistic") else 6.0) / (fan_in + fan_out))
            W = self._random_state.uniform(-bound, bound, (fan_in, fan_out))
            b = self._random_state.uniform(-bound, bound, fan_out)
            self.coefs_.append(place.to_home(place.to_work(W, name)))
            self.intercepts_.append(place.to_home(place.to_work(b, name)))

    def _begin_progress(self, held: Held | None) -> None:
        """The attributes that the epochs write to; ``warm_start`` and ``partial_fit`` go on."""
        early = self.early_stopping
        started = {"loss_curve_": [], "_no_improvement_count": 0, "t_": 0}
        judged: dict[str, Any] = {
            "best_loss_": None if early else np.inf,
            "validation_scores_": [] if early else None,
            "best_validation_score_": -np.inf if early else None,
        }
        for name, value in started.items():
            if not hasattr(self, name):
                setattr(self, name, value)
        if not hasattr(self, "best_loss_") or (self.best_loss_ is None) != early:
            self.__dict__.update(judged)
        if held is None:
            self.validation_loss_curve_ = None
        elif getattr(self, "validation_loss_curve_", None) is None:
            self.validation_loss_curve_ = []

    def _hold_out(
        self, place: Place, rows: Rows, raw_y: Any, y: Any, validation_data: Any
    ) -> tuple[Held | None, Rows]:
        """The rows to judge epochs by, and those that are left to train on."""
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
                raise ValueError(
                    "validation_data must be (X, y) or (X, y, sample_weight), got "
                    f"{type(validation_data).__name__}"
                )
            X_val, y_val, *w_val = validation_data
            self._same_home(X_val, home_of(X_val), "fit", place.home, "validation_data")
            X_val = self._features(X_val, place.home)
            targets = self._held_targets(to_host(y_val), X_val.shape[0])
            weights = _input.sample_weights(w_val[0] if w_val else None, X_val.shape[0])
            held_rows = Rows.of(place.work, rows.name, X_val, targets, weights)
            return self._held(held_rows, lambda: to_host(y_val)), rows
        if not self.early_stopping:
            return None, rows
        train, val = train_test_split(
            np.arange(rows.n),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(y),
        )
        if len(val) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        held_rows, left = rows.take(val), rows.take(train)
        for part, which in ((held_rows, "held-out rows"), (left, "rows that are left")):
            checks.some_weight(
                part.weights, which, f"validation_fraction={self.validation_fraction}"
            )
        return self._held(held_rows, lambda: _take(to_host(raw_y), val)), left

    def _held(self, rows: Rows, raw_y: Callable[[], Any]) -> Held:
        if self.scoring is not None:
            return Held(rows, self._scorer(rows, raw_y()))
        y = rows.y if rows.sparse else rows.backend.to_numpy(rows.y)
        return Held(rows, lambda out, params: self._metric(out, y, rows.weights))

    def _scorer(self, rows: Rows, y: Any) -> Callable[[HostArray, Params], float]:
        """The user's scorer, on the host: any scorer of scikit-learn's runs there."""
        from sklearn.metrics import check_scoring, get_scorer

        scorer = get_scorer(self.scoring) if isinstance(self.scoring, str) else self.scoring
        scorer = check_scoring(self, scorer)
        X = rows.X if rows.sparse else rows.backend.to_numpy(rows.X)
        extra = {} if rows.weights is None else {"sample_weight": rows.weights}
        numpy = get_backend("numpy")

        def score(out: HostArray, params: Params) -> float:
            host = self._twin(numpy)
            host.coefs_ = [rows.backend.to_numpy(W) for W, _ in params]
            host.intercepts_ = [rows.backend.to_numpy(b) for _, b in params]
            return float(scorer(host, X, y, **extra))

        return score

    def _twin(self, home: Backend) -> Self:
        """A copy of the estimator for arrays that live elsewhere, without their parameters."""
        twin = copy(self)
        twin.device = None
        twin.__dict__.pop("feature_names_in_", None)
        if hasattr(self, "classes_"):
            twin.classes_ = as_classes(np.asarray(to_host(self.classes_)), home)
        return twin

    # --- honest errors ----------------------------------------------------------------------------

    def _say_why(self, place: Place, X: Any) -> None:
        """Raise for a run that diverged; with early stopping there are good parameters: warn."""
        when = "in the line search" if self.solver == "lbfgs" else f"in epoch {self.n_iter_}"
        what = f"Training diverged {when}: the loss or a parameter was no longer finite"
        if self.early_stopping and self.solver != "lbfgs":
            warn(
                f"{what}. The parameters with the best validation score were kept. "
                f"{self._advice(place, X)}",
                ConvergenceWarning,
            )
            return
        raise DivergenceError(
            "Solver produced non-finite parameter weights. The input data may contain large values "
            f"and need to be preprocessed. {what}; coefs_ and intercepts_ hold the last finite "
            f"ones. {self._advice(place, X)}"
        )

    def _advice(self, place: Place, X: Any) -> str:
        if hasattr(X, "toarray"):
            largest = float(np.abs(X.data).max()) if X.nnz else 0.0
        else:
            with place.home.scope():
                xp = place.home.xp
                largest = float(place.home.to_numpy(xp.max(xp.abs(X))))
        if largest > 100:
            return f"X reaches {largest:.3g}: scale it, for example with StandardScaler."
        return (
            f"Lower learning_rate_init (now {self.learning_rate_init:g}), scale y, or set "
            "clip_norm=1."
        )

    def _check_layers(self, net: MLP) -> None:
        """Going on from fitted parameters needs the layers that they have."""
        have = [self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_)]
        if have != list(net.sizes):
            raise ValueError(
                f"the fitted network has layers of {have} units, but hidden_layer_sizes="
                f"{self.hidden_layer_sizes!r} and the data ask for {list(net.sizes)}: fit with "
                "warm_start=False, or make a new estimator"
            )

    def _same_home(
        self, X: Any, there: Backend, method: str, home: Backend | None = None, what: str = "X"
    ) -> None:
        home = home_of(self.coefs_[0]) if home is None else home
        if there.spec == home.spec:
            return
        raise ValueError(
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the "
            f"same device as those passed to fit(): the model is on {home.spec}, {what} on "
            f"{there.spec}. Move {what}, or the model: estimator.to({there.spec!r})"
        )

    # --- predicting -------------------------------------------------------------------------------

    def _features(self, X: Any, home: Backend) -> Any:
        """X for a prediction, checked."""
        if owner(X) is None:
            return _input.host_features(self, X, reset=False)
        return _input.device_features(self, X, home, reset=False)

    def _outputs(self, X: Any, method: str) -> Any:
        """The outputs of the network for each row, where X lives."""
        place, found = self._blocks(X, method, self._all_activations)
        return place.to_home(blocks.join(place.work, [a for _, a in found]))

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
        found = translate_oom(
            place.work,
            lambda: list(blocks.forward(place.work, functions, params, X)),
            lambda: f"predicting {X.shape[0]:,} rows",
            "the number of rows handed in at a time",
        )
        return place, found

    def _params_read(self, place: Place, name: str) -> Params:
        """The parameters where the equations run, as they are when they are there already."""
        if place.home is place.work and dtype_name(self.coefs_[0]) == name:
            return tuple(zip(self.coefs_, self.intercepts_, strict=True))
        return self._params_on(place, name)

    def transform(self, X: Any) -> Any:
        """The activations of the last hidden layer: what the network makes of its input.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        X_new : array of shape (n_samples, units of the last hidden layer)
            In the library and on the device of X. Without a hidden layer, the input itself.
        """
        check_is_fitted(self)
        if len(self.coefs_) == 1:
            home = home_of(X)
            self._same_home(X, home, "transform")
            X = self._features(X, home)
            return X.toarray() if hasattr(X, "toarray") else X
        place, found = self._blocks(X, "transform", lambda: self._all_activations()[:-1])
        return place.to_home(blocks.join(place.work, [a for _, a in found]))

    @property
    def _n_features_out(self) -> int:
        return int(self.coefs_[-1].shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    # --- moving and keeping -----------------------------------------------------------------------

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
        return {**super(BaseMLP, host).__getstate__(), "_saved_from": spec}

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

    def _html_repr(self) -> str:
        return layers_html(self, super()._html_repr())


def stochastic_only(est: BaseMLP) -> bool:
    """For ``available_if``: partial_fit is there unless the solver is lbfgs."""
    return est._check_solver()


def _length(X: Any) -> int:
    """How many rows, whatever holds them."""
    return int(X.shape[0] if hasattr(X, "shape") else len(X))


def _take(y: Any, index: HostArray) -> Any:
    """Rows of targets, whatever holds them."""
    return y[index] if hasattr(y, "tocsr") else np.asarray(y)[index]
