"""The classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import scipy.sparse
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from portable_bp._names import BY_ESTIMATOR, suggests
from portable_bp.backend import Backend
from portable_bp.equations import losses
from portable_bp.equations.activations import Activation
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.estimators import _input, _interop
from portable_bp.estimators._base import BaseMLP, stochastic_only
from portable_bp.estimators._callbacks import with_callbacks
from portable_bp.estimators._labels import MULTILABEL, ClassLabels
from portable_bp.estimators._place import home_of
from portable_bp.estimators._saving import Saving
from portable_bp.inputs.transfer import to_host
from portable_bp.training import blocks


class MLPClassifier(ClassifierMixin, ClassLabels, BaseMLP):
    """scikit-learn's ``MLPClassifier`` on the arrays you have.

    The same parameters, defaults, attributes and methods; with the same ``random_state`` the same
    numbers on NumPy, to rounding. With arrays of PyTorch, CuPy, JAX or another library that follows
    the Array API standard, training and prediction stay in that library and on that device.

    Parameters
    ----------
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer; ``()`` is logistic regression.
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
    class_weight : dict, 'balanced' or None, default=None
        Weights ``{class: weight}``, or those that make all classes weigh the same. For several
        labels per row: 'balanced', or one dictionary per label.
    weight_decay : float, default=0.01
        Of 'adamw'.
    dropout : float or sequence of float, default=0.0
        The probability that a hidden unit is left out of a step; a sequence has one entry per hidden
        layer.
    clip_value, clip_norm : float or None, default=None
        Bring each entry of the gradient into [-clip_value, clip_value]; scale the gradient to a norm
        of at most clip_norm.
    scoring : str, callable or None, default=None
        What early stopping watches: any scorer of scikit-learn's instead of the accuracy. It is
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
    classes_ : array of shape (n_classes,)
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_
        As in scikit-learn. ``loss_curve_`` has one float per epoch.
    validation_loss_curve_ : list of float or None
        The loss on the rows held out, without the penalty, when there are any.
    t_, n_iter_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.
    coefs_, intercepts_ : lists of arrays
        Weights of shape (fan_in, fan_out) and biases, one per layer, where X lives.

    Raises
    ------
    DivergenceError
        A ValueError, when the loss or a parameter is no longer finite; it says when and what to do.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from portable_bp.estimators import MLPClassifier
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> clf = MLPClassifier(solver="lbfgs", hidden_layer_sizes=(5,), random_state=1).fit(X, y)
    >>> clf.score(X, y)
    1.0
    >>> clf.predict_proba(X[:2]).shape
    (2, 2)
    """

    loss = "log_loss"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [None, dict, list, StrOptions({"balanced"})],
    }

    @suggests(BY_ESTIMATOR)
    def __init__(
        self,
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
        class_weight: Mapping[Any, float] | Sequence[Mapping[Any, float]] | str | None = None,
        weight_decay: float = 0.01,
        dropout: float | Sequence[float] = 0.0,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        scoring: Any = None,
        max_time: float | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
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
        self.class_weight = class_weight
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
        y : array-like of shape (n_samples,) or (n_samples, n_labels), left out for a source
            Classes, or one column of 0 and 1 for each label.
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
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """One more epoch over the given rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call, unless y has one column for
            each label.

        Returns
        -------
        self
        """
        self._validate_params()
        if classes is not None or not hasattr(self, "classes_"):
            known = (
                None if classes is None else _input.targets(classes, numeric=False, name="classes")
            )
            self._check_classes(_input.targets(y, numeric=False), known, home_of(X))
        return self._fit(X, y, sample_weight, incremental=True)

    # --- predicting -------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """The most probable class of each row; for several labels a column of 0 and 1 for each.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_labels)
            In the library and on the device of X; labels that are text come in NumPy.
        """
        return self._decided(self._outputs(X, "predict"))

    def from_probabilities(self, p: Any) -> Any:
        """Labels from probabilities that :meth:`predict_proba` could have given.

        Parameters
        ----------
        p : array of shape (n_samples, n_classes)
            Of several models, say, the mean.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_labels)
            As :meth:`predict` gives them.
        """
        several = self.n_outputs_ > 1 or self._y_type == MULTILABEL
        return self._decided(p if several else p[:, -1:])

    def _decided(self, out: Any) -> Any:
        """From the outputs of the network to labels."""
        home = home_of(out)
        classes = self.classes_
        with home.scope():
            xp = home.xp
            if self._y_type == MULTILABEL:
                labels = xp.astype(out > 0.5, home.dtype(home.index_dtype))
                return scipy.sparse.csr_array(labels) if self._sparse_y else labels
            if self.n_outputs_ > 1:
                number = xp.argmax(out, axis=1)
            else:
                number = xp.astype(out[:, 0] > 0.5, home.dtype(home.index_dtype))
                if classes.shape[0] == 1:
                    number = xp.zeros_like(number)
            if home_of(classes) is home:
                return xp.take(classes, number, axis=0)
            return classes[home.to_numpy(number)]

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, in the order of ``classes_``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        p : array of shape (n_samples, n_classes)
            In the library and on the device of X. For several labels, the probability of each.
        """
        out = self._outputs(X, "predict_proba")
        home = home_of(out)
        with home.scope():
            return self._columns(home.xp, out)

    def _columns(self, xp: Any, p: Any) -> Any:
        """From the outputs of the network to one column per class."""
        if self.n_outputs_ > 1 or self._y_type == MULTILABEL:
            return p
        if self.classes_.shape[0] == 1:
            return xp.ones_like(p)
        return xp.concat([1 - p, p], axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of :meth:`predict_proba`, finite also where that is rounded to zero.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_p : array of shape (n_samples, n_classes)
        """
        place, outputs = self._blocks(X, "predict_log_proba", self._all_activations)
        columns = [self._log_columns(place.work, z, p) for z, p in outputs]
        return place.to_home(blocks.join(place.work, columns))

    def _log_columns(self, work: Backend, z: Any, p: Any) -> Any:
        xp = work.xp
        with work.scope():
            p = self._columns(xp, p)
            exact = losses.log_loss().from_logits
            if self._y_type == "multiclass":
                exact = losses.softmax_cross_entropy().from_logits
            assert exact is not None
            stable = -exact(z, xp.ones_like(z), xp)
            if p.shape[1] == 2 and self.n_outputs_ == 1:
                stable = xp.concat([-exact(z, xp.zeros_like(z), xp), stable], axis=1)
            some = p > 0
            return xp.where(some, xp.log(xp.where(some, p, xp.ones_like(p))), stable)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows that are predicted right (for several labels: all of them right).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            From where the model lives.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The true labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        float
            At most 1.
        """
        predicted = to_host(self.predict(X))
        weights = _input.sample_weights(sample_weight, predicted.shape[0])
        true = _input.targets(y, numeric=False)
        return float(accuracy_score(true, predicted, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- scikit-learn's own -----------------------------------------------------------------------

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Self:
        """The same model as a ``sklearn.neural_network.MLPClassifier``, fitted or not.

        Predictions, and further training with ``partial_fit``, go on with the same numbers.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier
            It is not changed.

        Returns
        -------
        MLPClassifier
            With private parameters, in NumPy.
        """
        return _interop.from_sklearn(cls, estimator)

    def as_sklearn(self) -> Any:
        """This model as a ``sklearn.neural_network.MLPClassifier``, fitted or not, in NumPy.

        Returns
        -------
        sklearn.neural_network.MLPClassifier
            With private parameters.

        Raises
        ------
        ValueError
            When the model has something that scikit-learn's has not.
        """
        return _interop.as_sklearn(self)
