"""Several trained networks, and their file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from portable_bp.backend import Backend
from portable_bp.backend.registry import owner, resolve
from portable_bp.inputs import checks
from portable_bp.persistence import documents
from portable_bp.training.model import Model, pack_model, unpack_model


@dataclass(frozen=True, eq=False, repr=False)
class Models(Sequence[Model]):
    """Networks that :func:`portable_bp.fit_many` has trained, in the order of its settings.

    Parameters
    ----------
    models : tuple of Model
        One for each network, with its own history; ``stopped`` is ``"diverged"`` for one that did,
        whose parameters are the last finite ones.
    errors : dict of int to str
        Why some diverged, by their number, and what to do about it.

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> net = portable_bp.MLP([2, 8, 1], hidden="tanh", loss="log_loss")
    >>> models = portable_bp.fit_many(
    ...     net, X, [0, 1, 1, 0], seeds=[0, 1, 2], learning_rate=0.1, epochs=50, batch_size=None
    ... )
    >>> len(models), models.predict(X).shape, models.best().history["loss"][-1] < 0.1
    (3, (3, 4), True)
    """

    models: tuple[Model, ...]
    errors: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.models)

    @overload
    def __getitem__(self, index: int) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Model, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.models[index]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __repr__(self) -> str:
        ended = f", {len(self.errors)} diverged" if self.errors else ""
        first = repr(self.models[0].net) if self.models else ""
        return f"Models({len(self.models)} x {first}{ended})"

    def forward(self, X: Any) -> Any:
        """The outputs of all networks for each row.

        Parameters
        ----------
        X : array of shape (n, inputs)
            As :meth:`portable_bp.Model.forward` takes it.

        Returns
        -------
        array of shape (networks, n, outputs)
            In the library and on the device of X; host data give NumPy.
        """
        return _stacked([model.forward(X) for model in self.models])

    def predict(self, X: Any) -> Any:
        """The predictions of all networks for each row.

        Parameters
        ----------
        X : array of shape (n, inputs)
            As :meth:`portable_bp.Model.predict` takes it.

        Returns
        -------
        array of shape (networks, n) or (networks, n, outputs)
            As :meth:`portable_bp.Model.predict` gives them.
        """
        return _stacked([model.predict(X) for model in self.models])

    def best(self, by: str | None = None) -> Model:
        """The network that ended best, of those that did not diverge.

        Parameters
        ----------
        by : str, optional
            A column of the history; losses are to fall, accuracy and R squared to grow. By default
            ``validation_loss``, without validation ``loss``. A network with a ``best_epoch`` is judged
            by that epoch, any other by its last.

        Returns
        -------
        Model
            The first of the best.
        """
        return self.models[self.rank(by)[0]]

    def rank(self, by: str | None = None) -> list[int]:
        """The numbers of the networks, the best first; those that diverged stand at the end.

        Parameters
        ----------
        by : str, optional
            As :meth:`best` takes it.

        Returns
        -------
        list of int
            All of them.
        """
        names = next((tuple(m.history) for m in self.models if m.history.epochs), ())
        if by is None:
            by = "validation_loss" if "validation_loss" in names else "loss"
        if by not in names:
            raise ValueError(f"by must be one of {', '.join(names)}; got {checks.shown(by)}")
        sign = -1.0 if by in ("validation_accuracy", "validation_r2") else 1.0

        def score(number: int) -> float:
            model = self.models[number]
            if model.stopped == "diverged" or not model.history.epochs:
                return float("inf")
            value = sign * model.history[by][(model.best_epoch or 0) - 1]
            return value if np.isfinite(value) else float("inf")

        return sorted(range(len(self.models)), key=score)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all networks to one safetensors file; :func:`portable_bp.load_many` reads it.

        Parameters
        ----------
        path : str or path-like
            The file; one that is there is replaced, whole.

        Raises
        ------
        ValueError
            A network has an activation or a loss of your own; nothing is written.
        OSError
            The file could not be written. What was at ``path`` before is untouched.
        """
        arrays, entries = {}, []
        for number, model in enumerate(self.models):
            own, metadata = pack_model(model)
            arrays.update({f"{number}/{name}": array for name, array in own.items()})
            entries.append(metadata)
        errors = [[number, message] for number, message in self.errors.items()]
        metadata = {"kind": "models", "models": entries, "errors": errors}
        documents.write(path, arrays, metadata)


def _stacked(results: list[Any]) -> Any:
    if owner(results[0]) is None:
        return np.stack(results)
    backend = resolve(None, results[0])
    with backend.scope():
        return backend.xp.stack(results)


def load_many(path: str | os.PathLike[str], backend: str | Backend | None = None) -> Models:
    """The networks that :meth:`portable_bp.Models.save` wrote, wherever they were trained.

    Parameters
    ----------
    path : path
        The file.
    backend : str, Backend or None
        Where to put them; see :func:`portable_bp.get_backend`.

    Returns
    -------
    Models
        With their histories.

    Raises
    ------
    CheckpointError
        The file is damaged, holds something else, or was written by a newer version.
    OSError
        The file is missing or cannot be read.

    Examples
    --------
    >>> import tempfile, portable_bp
    >>> net = portable_bp.MLP([2, 3, 1])
    >>> models = portable_bp.fit_many(net, [[0.0, 1.0], [1.0, 0.0]], [0, 1], seeds=[1, 2], epochs=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     models.save(folder + "/nets.safetensors")
    ...     again = portable_bp.load_many(folder + "/nets.safetensors")
    >>> again[1].history == models[1].history
    True
    """
    resolved = resolve(backend)
    arrays, metadata = documents.read(path, "models")
    parts = documents.parts(arrays, len(metadata["models"]))
    models = (
        unpack_model(path, own, entry, resolved)
        for own, entry in zip(parts, metadata["models"], strict=True)
    )
    return Models(tuple(models), dict(metadata["errors"]))
