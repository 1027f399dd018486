"""What the classifier and the regressor share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from copy import copy
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from portable_bp._params import check_memory
from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import owner
from portable_bp.equations.activations import ACTIVATIONS, Activation
from portable_bp.equations.losses import Loss
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.errors import DivergenceError, OutOfMemoryError
from portable_bp.estimators import _input, _solvers
from portable_bp.estimators._agreement import compare_fits
from portable_bp.estimators._callbacks import CallbackSupportMixin, Watch
from portable_bp.estimators._html import layers_html
from portable_bp.estimators._moving import Movable
from portable_bp.estimators._place import Place, home_of
from portable_bp.estimators._policy import Progress
from portable_bp.estimators._predicting import Predicting
from portable_bp.estimators._saving import Saving
from portable_bp.estimators._settings import check_layers, check_settings
from portable_bp.estimators._solvers import Outcome, Task, TrainingRows, report
from portable_bp.estimators._validation import hold_out
from portable_bp.inputs.transfer import dtype_name, to_host
from portable_bp.mlp import MLP
from portable_bp.processes import current, joined
from portable_bp.sources.protocol import Described, is_source
from portable_bp.training import blocks, source_rows
from portable_bp.training.together_groups import Job

STOCHASTIC = ("sgd", "adam", "adamw")

_PROGRESS = (
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_",
    "validation_loss_curve_", "_no_improvement_count",
)  # fmt: skip


class BaseMLP(
    CallbackSupportMixin,
    Movable,
    Predicting,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """The multilayer perceptron behind scikit-learn's interface."""

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
    def _source_input(self, source: Described, *, reset: bool) -> tuple[Described, Any]:
        """The same for a source; y, as class numbers, only where there are weights of classes."""

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
        saving: Saving | None = None,
    ) -> Self:
        with joined().agreeing():
            self._validate_params()
            hidden = check_settings(self, incremental, validation_data, saving is not None)
            place = Place.of(X, self.device)
        before = {k: copy(v) if isinstance(v, list) else v for k, v in self.__dict__.items()}

        def fitted() -> None:
            with ExitStack() as stack:
                if saving is not None:
                    saving.open(stack)
                for job in self._fit_at(
                    place, hidden, X, y, sample_weight, incremental, validation_data, saving
                ):
                    job.trainer.train()

        try:
            translate_oom(
                place.work,
                fitted,
                lambda: f"training layers of {hidden} hidden units on {_length(X):,} rows",
                "batch_size or hidden_layer_sizes",
            )
        except OutOfMemoryError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def fit_jobs(self, X: Any, y: Any, sample_weight: Any = None) -> Generator[Job, None, None]:
        """``fit``, whose run somebody else trains, beside others: see :mod:`._together`."""
        self._validate_params()
        hidden = check_settings(self, False, None, False)
        place = Place.of(X, self.device)
        yield from self._fit_at(place, hidden, X, y, sample_weight, False, None, None)

    def _fit_at(
        self,
        place: Place,
        hidden: list[int],
        raw_X: Any,
        raw_y: Any,
        sample_weight: Any,
        incremental: bool,
        validation_data: Any,
        saving: Saving | None,
    ) -> Generator[Job, None, None]:
        """Fit, but for the training of the run that comes out."""
        processes = current()
        with processes.agreeing():
            first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
            if not first:
                self._same_home(raw_X, place.home, "partial_fit" if incremental else "fit")
            X, y = self._checked_input(raw_X, raw_y, place, incremental, reset=first)
            weights = self._all_weights(y, sample_weight, X.shape[0], incremental)
            if self.scoring is None and source_rows.too_large(X):
                X, y = source_rows.of_map(X, y), None
            net = self._network(X.shape[1], hidden)
        self._random_state = (
            check_random_state(self.random_state)
            if saving is None
            else saving.random_state(self.random_state)
        )
        if first:
            dtype = self.dtype or _input.float_dtype(X, place.work)
            self._initialize(net, place, dtype)
        else:
            check_layers(self, net)
            dtype = dtype_name(self.coefs_[0])
        if processes.size > 1:
            compare_fits(self, processes, X, y, weights)
        epochs = 1 if incremental else self.max_iter
        with Watch(self, raw_X, raw_y, sample_weight, place, epochs) as watch:
            rows, params = TrainingRows(X, y, weights), self._params_on(place, dtype)
            task = Task(net, place, dtype, rows, params, watch.hooks)
            if self.solver == "lbfgs":
                outcome = self._by_lbfgs(task)
            else:
                outcome = yield from self._by_steps(
                    task, raw_y, incremental, validation_data, saving
                )
            self.coefs_ = [place.to_home(W) for W, _ in outcome.params]
            self.intercepts_ = [place.to_home(b) for _, b in outcome.params]
            if outcome.diverged is not None:
                try:
                    report(self, outcome.diverged, task, outcome.params)
                except DivergenceError as error:
                    processes.raise_everywhere(error)

    def _checked_input(
        self, X: Any, y: Any, place: Place, incremental: bool, reset: bool
    ) -> tuple[Any, Any]:
        if is_source(X):
            if incremental or y is not None:
                raise TypeError("a source goes to fit alone, without y: fit(source)")
            return self._source_input(Described.of(X), reset=reset)
        if owner(X) is None:
            return self._host_input(X, to_host(y), incremental=incremental, reset=reset)
        return self._device_input(X, y, place.home, incremental=incremental, reset=reset)

    def _network(self, width: int, hidden: list[int]) -> MLP:
        """What the network computes; the attributes that say how it is built."""
        net = MLP(
            [width, *hidden, self.n_outputs_],
            list(self._hidden_activations(len(hidden))),
            self._loss(),
            dropout=self.dropout,
        )
        self.n_layers_ = len(net.sizes)
        last = net.activations[-1].name
        self.out_activation_ = "logistic" if last == "sigmoid" else last
        return net

    def _by_lbfgs(self, task: Task) -> Outcome:
        def publish(n_iter: int, loss: float) -> None:
            self.n_iter_, self.loss_ = n_iter, loss

        self.n_iter_ = 0
        outcome = _solvers.by_lbfgs(self, task, publish)
        publish(outcome.n_iter, outcome.loss)
        return outcome

    def _by_steps(
        self,
        task: Task,
        raw_y: Any,
        incremental: bool,
        validation_data: Any,
        saving: Saving | None,
    ) -> Generator[Job, None, Outcome]:
        place = task.place
        with current().agreeing():
            judge, rows = hold_out(
                self, place, task.net.spec, task.dtype, task.rows, raw_y, validation_data
            )
        task = Task(task.net, place, task.dtype, rows, task.params, task.hooks)
        state = getattr(self, "_optimizer", None)
        if state is None or not incremental:
            state = _solvers.fresh_state(self, task.params, place)
        else:
            state = state.converted(lambda a: place.to_work(a, task.dtype))
        progress = Progress.of(vars(self), self.early_stopping, judge is not None)

        def publish() -> None:
            shown = vars(progress)
            self.__dict__.update({k: v for k, v in shown.items() if k != "loss_" or v is not None})

        publish()
        outcome = yield from _solvers.by_steps(
            self, task, state, judge, progress, publish, incremental=incremental, saving=saving
        )
        self._optimizer = state.converted(place.to_home)
        return outcome

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

    # --- predicting -------------------------------------------------------------------------------

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
        place, outputs = self._blocks(X, "transform", lambda: self._all_activations()[:-1])
        return place.to_home(blocks.join(place.work, [a for _, a in outputs]))

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

    def _html_repr(self) -> str:
        return layers_html(self, super()._html_repr())


def stochastic_only(est: BaseMLP) -> bool:
    """For ``available_if``: partial_fit is there unless the solver is lbfgs."""
    return est._check_solver()


def _length(X: Any) -> int:
    if is_source(X):
        return int(X.n)
    """How many rows, whatever holds them."""
    return int(X.shape[0] if hasattr(X, "shape") else len(X))
