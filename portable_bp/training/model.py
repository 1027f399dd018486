"""A trained network: parameters, history and predictions, on the backend where it was trained."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from portable_bp._params import decide
from portable_bp._typing import Array, HostArray, HostData, Params
from portable_bp.backend import Backend, map_leaves
from portable_bp.backend.memory import Result, translate_oom
from portable_bp.backend.registry import get_backend, owner, resolve
from portable_bp.errors import BackendError, CheckpointError
from portable_bp.inputs import checks, examples, names
from portable_bp.inputs import labels as labels_of
from portable_bp.inputs.spec import NetSpec
from portable_bp.inputs.transfer import dtype_name
from portable_bp.mlp import MLP
from portable_bp.persistence import documents, model_file
from portable_bp.persistence.model_file import HostParams
from portable_bp.sources.protocol import Described, is_source
from portable_bp.training import blocks, source_rows
from portable_bp.training.history import History
from portable_bp.training.metrics import metric
from portable_bp.training.model_displays import ModelDisplays

if TYPE_CHECKING:
    pass


@dataclass(eq=False, repr=False)
class Model(ModelDisplays):
    """A trained network.

    Parameters
    ----------
    net : MLP
        What is computed.
    params : pairs (W, b)
        The parameters, on ``backend``.
    backend : Backend
        Where they live, and where predictions are computed.
    history : History
        One entry per epoch: ``history["loss"]``, ``history["validation_loss"]``, ...
    stopped : str
        Why training ended: ``"finished"``, ``"callback"``, ``"time"``, ``"interrupted"``,
        ``"terminated"`` (by SIGTERM or SIGUSR1) or ``"diverged"``; with L-BFGS also ``"converged"``
        or ``"failed"`` (in a line search, which a warning says).
    best_epoch : int or None
        The epoch (from 1) that the parameters are of, when the best ones were restored.
    classes : array of shape (n_classes,) or None
        The labels that :meth:`predict` gives back, where ``fit`` was handed text or booleans.
    feature_names : tuple of str or None
        The columns of the data frame that ``fit`` was handed; later ones must have the same.
    """

    net: MLP
    params: Params
    backend: Backend
    history: History = field(default_factory=History)
    stopped: str = "finished"
    best_epoch: int | None = None
    classes: HostArray | None = None
    feature_names: tuple[str, ...] | None = None

    @overload
    def __call__(self, X: HostData) -> HostArray: ...
    @overload
    def __call__(self, X: Any) -> Any: ...
    def __call__(self, X: Any) -> Any:
        """The same as :meth:`forward`."""
        return self.forward(X)

    @overload
    def forward(self, X: HostData) -> HostArray: ...
    @overload
    def forward(self, X: Any) -> Any: ...
    def forward(self, X: Any) -> Any:
        """The outputs for each row, block by block.

        A memory map is read block by block: more rows than fit in memory can be predicted.

        Parameters
        ----------
        X : array of shape (n, inputs), or Source
            Of any library, on the host or on the model's device.

        Returns
        -------
        array of shape (n, outputs)
            In the library and on the device of X; host data give NumPy.

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
        backend, layers = self.backend, self.net.activations
        if isinstance(X, Described):
            parts = source_rows.features(X, self.net.spec, self._dtype)
            return np.concatenate([self._joined(part) for part in parts])  # type: ignore[return-value]
        if owner(X) is None:
            outs = blocks.forward(backend, layers, self.params, X, _check_block)
            host = [backend.to_numpy(o) for _, o in outs]
            return host[0] if len(host) == 1 else np.concatenate(host)  # type: ignore[return-value]
        with backend.scope():
            examples.finite_features(backend, self._dtype, X)
        return blocks.join(backend, [o for _, o in blocks.forward(backend, layers, self.params, X)])

    @overload
    def predict_proba(self, X: HostData) -> HostArray: ...
    @overload
    def predict_proba(self, X: Any) -> Any: ...
    def predict_proba(self, X: Any) -> Any:
        """The probability of each class for each row.

        Parameters
        ----------
        X : array of shape (n, inputs)
            As :meth:`forward` takes it.

        Returns
        -------
        array of shape (n, classes)
            In the library and on the device of X. For ``log_loss`` with one output the two columns
            are those of the classes 0 and 1; with several outputs there is a column for each, the
            probability that it is 1.

        Raises
        ------
        AttributeError
            When the loss is not one of classification.
        """
        if not self.net.loss.classes:
            raise AttributeError(
                f"predict_proba needs a classification loss, log_loss or softmax_cross_entropy; "
                f"this network has {self.net.loss.name}: use predict"
            )
        out = self.forward(X)
        if self.net.loss.target == "class" or self.net.sizes[-1] > 1:
            return out
        backend = resolve(None, out) if owner(out) is not None else get_backend("numpy")
        with backend.scope():
            return backend.xp.concat([1 - out, out], axis=1)

    @overload
    def predict(self, X: HostData) -> HostArray: ...
    @overload
    def predict(self, X: Any) -> Any: ...
    def predict(self, X: Any) -> Any:
        """Class labels or values for each row, as :meth:`portable_bp.MLP.predict` gives them.

        Parameters
        ----------
        X : array of shape (n, inputs)
            Of any library, on the host or on the model's device.

        Returns
        -------
        array of shape (n,) or (n, outputs)
            The labels are those that ``fit`` was handed; text comes in NumPy, wherever X lives.
        """
        out = self.forward(X)
        backend = resolve(None, out) if owner(out) is not None else get_backend("numpy")
        with backend.scope():
            return labels_of.named(self.spec, backend, decide(self.net, backend, out))

    @property
    def spec(self) -> NetSpec:
        """What the network asks of its examples, with the labels and names that it has learnt."""
        return replace(self.net.spec, classes=self.classes, features=self.feature_names)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy for a classification loss, else R squared.

        Parameters
        ----------
        X : array of shape (n, inputs), or Source
            Of any library, on the host or on the model's device.
        y : array of shape (n,) or (n, outputs), left out for a source
            The targets, as ``fit`` takes them.
        sample_weight : array of shape (n,), optional
            Not negative.

        Returns
        -------
        float
            At most 1.
        """
        return self.evaluate(X, y, sample_weight)[1]

    def evaluate(self, X: Any, y: Any = None, sample_weight: Any = None) -> tuple[float, float]:
        """The loss and the score.

        Parameters
        ----------
        X : array of shape (n, inputs), or Source
            Of any library, on the host or on the model's device.
        y : array of shape (n,) or (n, outputs), left out for a source
            The targets, as ``fit`` takes them.
        sample_weight : array of shape (n,), optional
            Not negative.

        Returns
        -------
        loss : float
            The mean data term, without penalties.
        score : float
            As :meth:`score` gives it.
        """
        X = self._admitted(X)
        if isinstance(X, Described):
            return self._guarded(X, lambda: self._judged(X, y, sample_weight))

        def evaluated() -> tuple[float, float]:
            with self.backend.scope():
                unchecked = examples.Rows(X, y, sample_weight)
                unnamed = replace(self.spec, features=None)  # X has no names any more
                (rows,) = examples.check(unnamed, self.backend, self._dtype, unchecked, sparse=True)
            t = examples.place_targets(self.net.spec, get_backend("numpy"), rows.y, "float64")
            by_row, outputs = blocks.losses_and_outputs(
                self.backend, self.net.equations, self.params, rows.x, np.asarray(t)
            )
            score = metric(self.net.loss, outputs, np.asarray(t), rows.w)
            return blocks.mean_loss(by_row, rows.w), score

        return self._guarded(X, evaluated)

    def _judged(self, source: Described, y: Any, sample_weight: Any) -> tuple[float, float]:
        """The loss and the score on the rows of a source."""
        if y is not None:
            raise TypeError("y must be left out for a source, which has its targets itself")
        source_rows.check(self.net.spec, source, "X")
        source_rows.check_labels(self.spec, source)
        weights = None
        if sample_weight is not None:
            weights = examples.sample_weight(sample_weight, source.n)
        held = source_rows.HeldSource.of(self.net.spec, self._dtype, source, weights)
        judged = held.judged(self.backend, self.net.equations, self.params, 0)
        return judged.loss, judged.score

    def _admitted(self, X: Any) -> Any:
        """X as an array of the right shape, of the host or of the model's own device; or a source."""
        if is_source(X):
            source = Described.of(X, "X")
            checks.matrix("X", source.shape, self.net.sizes[0])
            if source.feature_names is not None and self.feature_names is not None:
                names.compare(self.feature_names, source.feature_names)
            return source
        foreign = owner(X)
        if foreign is not None and foreign.spec_of(X) != self.backend.spec:
            raise ValueError(
                f"X lives on {foreign.spec_of(X)}, the model on {self.backend.spec}: move one of them, "
                f"for example model.to({foreign.spec_of(X)!r})"
            )
        return examples.features(self.spec, X, sparse=True)

    def _guarded(self, X: Any, work: Callable[[], Result]) -> Result:
        def task() -> str:
            rows = blocks.block_rows(self.params)
            return f"over {X.shape[0]:,} rows in blocks of {rows:,} by {self.net!r}"

        return translate_oom(
            self.backend, work, task, "the layer sizes, or hand in fewer rows at a time"
        )

    @property
    def _dtype(self) -> str:
        return dtype_name(self.params[0][0])

    def __getstate__(self) -> dict[str, Any]:
        # Parameters as NumPy arrays beside the name of their backend, so that a model from a GPU can
        # be opened where there is none.
        return {
            **self.__dict__,
            "params": self._host_params(),
            "backend": self.backend.spec,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = get_backend("numpy")
        try:
            backend = get_backend(state["backend"])
            params = _placed(state["params"], backend)
        except (BackendError, TypeError, ValueError) as error:
            warnings.warn(
                f"the model was on {state['backend']}, which cannot be used here ({error}); it was "
                "loaded to NumPy",
                UserWarning,
                stacklevel=2,
            )
            backend = get_backend("numpy")
            params = _placed(state["params"], backend)
        self.__dict__.update(state, params=params, backend=backend)

    def __copy__(self) -> Model:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        with self.backend.scope():
            params: Any = map_leaves(self.backend.copy, self.params)
        rest = {name: deepcopy(value, memo) for name, value in self.__dict__.items()
                if name not in ("params", "backend")}  # fmt: skip
        return replace(self, params=params, **rest)

    def _host_params(self) -> HostParams:
        with self.backend.scope():
            host: HostParams = map_leaves(self.backend.to_numpy, self.params)
            return host

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file; :func:`portable_bp.load` reads it on any backend.

        At every instant ``path`` holds the old file or the new one, whole; see
        :func:`portable_bp.persistence.container.write`.

        Parameters
        ----------
        path : str or path-like
            The file; one that is there is replaced.

        Raises
        ------
        ValueError
            The network has an activation or a loss of your own, or the model holds what a file
            cannot, such as NaN; nothing is written.
        OSError
            The file could not be written. What was at ``path`` before is untouched.
        """
        documents.write(path, *pack_model(self))

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX file.

        Parameters
        ----------
        path : path
            The file; see :func:`portable_bp.export.to_onnx`.
        """
        from portable_bp.export import to_onnx

        to_onnx(self, path)

    def to(self, backend: str | Backend) -> Model:
        """The same model on another backend.

        Parameters
        ----------
        backend : str or Backend
            As :func:`portable_bp.get_backend` takes it.

        Returns
        -------
        Model
            With private parameters; this one stays as it is.
        """
        there = get_backend(backend)
        return replace(self, params=_placed(self._host_params(), there), backend=there)


def _placed(params: HostParams, backend: Backend) -> Params:
    with backend.scope():
        placed: Params = map_leaves(backend.asarray, params)
        return placed


def _check_block(block: HostArray, first: int) -> None:
    """Check the values of a block of host rows whose first is row ``first``."""
    checks.finite("X", block, first)


def pack_model(model: Model) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """The arrays and the metadata of a model's file.

    Raises
    ------
    ValueError
        The network has an activation or a loss of the user's own.
    """
    return model_file.pack(
        model.net.describe(),
        model._host_params(),
        backend=model.backend.spec,
        history=model.history.epochs,
        stopped=model.stopped,
        best_epoch=model.best_epoch,
        classes=model.classes,
        feature_names=model.feature_names,
    )


def unpack_model(
    path: str | os.PathLike[str],
    arrays: Mapping[str, HostArray],
    metadata: Mapping[str, Any],
    backend: Backend,
) -> Model:
    """The inverse of :func:`pack_model`, for checked contents; ``path`` is only named in errors."""
    try:
        net = MLP.from_description(metadata["network"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: contents: network: {error}") from error
    params = _placed(model_file.params_of(arrays, metadata), backend)
    history = History([{k: float(v) for k, v in row.items()} for row in metadata["history"]])
    classes, names = metadata.get("classes"), metadata.get("feature_names")
    return Model(
        net, params, backend, history, metadata["stopped"], metadata["best_epoch"],
        None if classes is None else np.asarray(classes), None if names is None else tuple(names),
    )  # fmt: skip


def load(path: str | os.PathLike[str], backend: str | Backend | None = None) -> Model:
    """A model that :meth:`portable_bp.Model.save` wrote, wherever it was trained.

    Parameters
    ----------
    path : path
        The file.
    backend : str, Backend or None
        Where to put it; see :func:`portable_bp.get_backend`. The parameters have the same bits on
        each.

    Returns
    -------
    Model
        The network with its parameters and its history.

    Raises
    ------
    CheckpointError
        The file is damaged, is no model, or was written by a newer version.
    OSError
        The file is missing or cannot be read.
    TypeError
        The backend has no numbers of the model's dtype (float64 in JAX without JAX_ENABLE_X64=1).

    Examples
    --------
    >>> import tempfile, portable_bp
    >>> net = portable_bp.MLP([2, 3, 1])
    >>> model = portable_bp.fit(net, [[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0], epochs=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder + "/net.safetensors")
    ...     again = portable_bp.load(folder + "/net.safetensors")
    >>> again.net, again.history == model.history
    (MLP([2, 3, 1], hidden=[relu], loss='squared_error', output='identity'), True)
    """
    resolved = resolve(backend)
    return unpack_model(path, *documents.read(path, "model"), resolved)
