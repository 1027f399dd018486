"""The regressor."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Self

from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from portable_bp._names import BY_ESTIMATOR, suggests
from portable_bp.equations.activations import Activation
from portable_bp.equations.losses import Loss
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.estimators import _input, _interop
from portable_bp.estimators._base import BaseMLP, stochastic_only
from portable_bp.estimators._callbacks import with_callbacks
from portable_bp.estimators._place import home_of
from portable_bp.estimators._saving import Saving
from portable_bp.estimators._targets import RegressionTargets
from portable_bp.inputs.transfer import to_host


def _has_quantiles(est: MLPRegressor) -> bool:
    if est.loss != "quantile":
        raise AttributeError(f"quantiles are predicted with loss='quantile', not {est.loss!r}")
    return True


class MLPRegressor(RegressorMixin, RegressionTargets, BaseMLP):
    """scikit-learn's ``MLPRegressor`` on the arrays you have.

    The same parameters, defaults, attributes and methods; with the same ``random_state`` the same
    numbers on NumPy, to rounding, but for one thing. With several outputs the loss is the **sum**
    over outputs of half the squared error, the function whose gradient is used; scikit-learn reports
    their mean beside the gradient of the sum (scikit-learn#8349). So ``loss_`` and ``loss_curve_``
    are ``n_outputs`` times as large, ``tol`` counts accordingly, and lbfgs goes another way; the
    steps of 'sgd' and 'adam' are the same.

    Parameters
    ----------
    loss : str or Loss, default='squared_error'
        ``'squared_error'`` (half of it) and ``'poisson'`` (half the deviance) as in scikit-learn;
        ``'absolute_error'``, ``'huber'``, ``'quantile'``, or a :class:`portable_bp.Loss` such as
        ``portable_bp.losses.huber(delta=2)``.
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer; ``()`` is linear regression.
    activation : str, Activation or sequence of them, default='relu'
        Of the hidden layers: ``'identity'``, ``'logistic'``, ``'tanh'``, ``'relu'`` as in
        scikit-learn, any other name of :data:`portable_bp.activations.ACTIVATIONS`, or a
        :class:`portable_bp.Activation` of your own. A sequence has one entry per hidden layer.
    solver : {'lbfgs', 'sgd', 'adam', 'adamw'} or Optimizer, default='adam'
        ``'adamw'`` is Adam with decoupled ``weight_decay``; or an optimiser such as
        ``portable_bp.optimizers.RMSprop()``.
    alpha : float, default=0.0001
        Strength of the L2 penalty ``alpha/2 sum W^2 / m``, m the rows of the mini-batch (the sum of
        their weights).
    batch_size : int or 'auto', default='auto'
        ``'auto'`` is ``min(200, n_samples)``. lbfgs always takes all rows.
    learning_rate : {'constant', 'invscaling', 'adaptive'} or Schedule, default='constant'
        The names as in scikit-learn, where ``solver='adam'`` is always constant. A schedule such as
        ``portable_bp.schedules.Cosine(1e-2)`` has its own rate and goes with every solver that works
        in mini-batches.
    learning_rate_init : float, default=0.001
        The rate of the first step.
    power_t : float, default=0.5
        For 'invscaling': ``learning_rate_init / (t + 1)**power_t`` after t samples.
    max_iter : int, default=200
        Epochs; for lbfgs iterations.
    shuffle : bool, default=True
        A new order of the rows each epoch.
    random_state : int, RandomState instance or None, default=None
        All random numbers are drawn on the host from it, in scikit-learn's order.
    tol : float, default=1e-4
        Less progress than this for ``n_iter_no_change`` epochs ends the training.
    verbose : bool, default=False
        Print the loss of each epoch.
    warm_start : bool, default=False
        Let ``fit`` go on from the parameters that are there.
    momentum : float, default=0.9
        Of 'sgd'.
    nesterovs_momentum : bool, default=True
        Whether 'sgd' looks ahead (Nesterov, 1983).
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, stop when their score no longer grows, and give
        back the parameters of the best epoch.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping holds out.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of Adam.
    n_iter_no_change : int, default=10
        How many epochs may pass without progress.
    max_fun : int, default=15000
        Evaluations of the loss by lbfgs.
    quantile : float or sequence of float, default=0.5
        For ``loss='quantile'``: the level, or several levels that are learnt together, which give
        prediction intervals.
    weight_decay : float, default=0.01
        Of 'adamw'.
    dropout : float or sequence of float, default=0.0
        The probability that a hidden unit is left out of a step; a sequence has one entry per hidden
        layer.
    clip_value, clip_norm : float or None, default=None
        Bring each entry of the gradient into [-clip_value, clip_value]; scale the gradient to a norm
        of at most clip_norm.
    scoring : str, callable or None, default=None
        What early stopping watches: any scorer of scikit-learn's instead of R squared. It is
        called on the host.
    max_time : float or None, default=None
        Seconds after which no further epoch starts.
    device : str or None, default=None
        Where to compute, for example ``'torch:cuda:0'`` or ``'auto'``. None follows X; for X in the
        host's memory the rules of :func:`portable_bp.get_backend` hold. Results and fitted arrays
        live where X does.
    dtype : {'float32', 'float64'} or None, default=None
        Of the parameters; None keeps that of X.

    Attributes
    ----------
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_,
    validation_loss_curve_, t_, n_iter_, n_layers_, n_outputs_, out_activation_, n_features_in_,
    feature_names_in_, coefs_, intercepts_
        As in :class:`MLPClassifier`.

    Raises
    ------
    DivergenceError
        A ValueError, when the loss or a parameter is no longer finite; it says when and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> from portable_bp.estimators import MLPRegressor
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = np.sin(3 * X[:, 0])
    >>> reg = MLPRegressor(hidden_layer_sizes=(10,), activation="tanh", solver="lbfgs",
    ...                    random_state=0)
    >>> round(reg.fit(X, y).score(X, y), 2)
    1.0

    With three quantiles, an interval around the median:

    >>> levels = MLPRegressor("quantile", (10,), quantile=[0.1, 0.5, 0.9], max_iter=1000,
    ...                       learning_rate_init=0.01, random_state=0)
    >>> levels.fit(X, y).predict_interval(X).shape
    (50, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [
            StrOptions({"squared_error", "poisson", "absolute_error", "huber", "quantile"}),
            Loss,
        ],
        "quantile": [Interval(Real, 0, 1, closed="neither"), list, tuple],
    }

    @suggests(BY_ESTIMATOR)
    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        quantile: float | Sequence[float] = 0.5,
        weight_decay: float = 0.01,
        dropout: float | Sequence[float] = 0.0,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        scoring: Any = None,
        max_time: float | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.quantile = quantile
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.clip_value = clip_value
        self.clip_norm = clip_norm
        self.scoring = scoring
        self.max_time = max_time
        self.device = device
        self.dtype = dtype

    # --- fitting ----------------------------------------------------------------------------------

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation_data: Any = None,
        checkpoint: Any = None,
        checkpoint_every: int | None = None,
        checkpoint_keep: int = 3,
        resume: bool = False,
    ) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or Source
            Of a source, such as :func:`portable_bp.sources.open` makes, two windows of rows are in
            memory at a time.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), left out for a source
            The values to predict.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.
        validation_data : (X, y), (X, y, sample_weight) or Source, default=None
            Rows to judge each epoch by: their loss is recorded in ``validation_loss_curve_``, and
            early stopping watches them instead of a fraction of X.
        checkpoint : str or path, default=None
            A directory to save the run in, which may be killed at any moment; see ``resume``. Not
            for lbfgs.
        checkpoint_every : int, default=None
            Steps between two checkpoints; by default one at the end of each epoch.
        checkpoint_keep : int, default=3
            How many checkpoints stay, the newest ones.
        resume : bool, default=False
            Go on from the newest checkpoint in the directory, if there is one, to the same bits as
            those of a run that was never interrupted.

        Returns
        -------
        self
        """
        saving = Saving.of(checkpoint, checkpoint_every, checkpoint_keep, resume)
        return self._fit(X, y, sample_weight, validation_data=validation_data, saving=saving)

    @available_if(stochastic_only)
    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One more epoch over the given rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)

    # --- predicting -------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """The predicted values; with several quantiles, those of the level nearest to the median.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            In the library and on the device of X.
        """
        out = self._outputs(X, "predict")
        levels = len(self._levels())
        if levels > 1:
            out = out[:, self._middle :: levels]
        return out[:, 0] if out.shape[1] == 1 else out

    @available_if(_has_quantiles)
    def predict_quantiles(self, X: Any) -> Any:
        """The quantiles at the levels ``quantile``, in rising order: they never cross.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_levels), or (n_samples, n_targets, n_levels)
        """
        out = self._outputs(X, "predict_quantiles")
        home, levels = home_of(out), len(self._levels())
        with home.scope():
            xp = home.xp
            out = xp.sort(xp.reshape(out, (out.shape[0], -1, levels)), axis=2)
            return out[:, 0, :] if out.shape[1] == 1 else out

    @available_if(_has_quantiles)
    def predict_interval(self, X: Any) -> Any:
        """The lowest and the highest of :meth:`predict_quantiles`: a prediction interval.

        With ``quantile=[0.05, 0.5, 0.95]`` about nine of ten targets lie in it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, 2), or (n_samples, n_targets, 2)
        """
        levels = self.predict_quantiles(X)
        home = home_of(levels)
        with home.scope():
            return home.xp.stack([levels[..., 0], levels[..., -1]], axis=-1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R squared of the predictions, the mean over outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            From where the model lives.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The true values.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        float
            At most 1.
        """
        predicted = to_host(self.predict(X))
        weights = _input.sample_weights(sample_weight, predicted.shape[0])
        true = _input.targets(y, numeric=True)
        return float(r2_score(true, predicted, sample_weight=weights))

    # --- scikit-learn's own -----------------------------------------------------------------------

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Self:
        """The same model as a ``sklearn.neural_network.MLPRegressor``, fitted or not.

        Predictions, and further training with ``partial_fit``, go on with the same numbers.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPRegressor
            It is not changed.

        Returns
        -------
        MLPRegressor
            With private parameters, in NumPy.
        """
        return _interop.from_sklearn(cls, estimator)

    def as_sklearn(self) -> Any:
        """This model as a ``sklearn.neural_network.MLPRegressor``, fitted or not, in NumPy.

        Returns
        -------
        sklearn.neural_network.MLPRegressor
            With private parameters.

        Raises
        ------
        ValueError
            When the model has something that scikit-learn's has not.
        """
        return _interop.as_sklearn(self)
