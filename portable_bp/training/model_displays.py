"""What a model shows of itself: in a prompt, in a notebook, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from portable_bp._summary import Summary, html_block
from portable_bp._typing import Params
from portable_bp.backend import Backend
from portable_bp.inputs import labels as labels_of
from portable_bp.inputs.transfer import to_host
from portable_bp.mlp import MLP
from portable_bp.training.history import History

if TYPE_CHECKING:
    from portable_bp.display import ConfusionDisplay, DeltaDisplay, HistoryDisplay


class ModelDisplays:
    """The displays of a :class:`portable_bp.Model`."""

    net: MLP
    params: Params
    backend: Backend
    history: History
    stopped: str

    def __repr__(self) -> str:
        parts = [f"{self.net!r}", f"backend={self.backend.spec!r}", *self._scores()]
        return f"Model({', '.join(parts)}, stopped={self.stopped!r})"

    def _scores(self) -> list[str]:
        """How many epochs were trained, and the last numbers of the history."""
        rows = self.history.epochs
        last = rows[-1].items() if rows else ()
        hidden = ("seconds", "learning_rate")
        scores = [f"{name}={value:.4g}" for name, value in last if name not in hidden]
        return [f"epochs={len(rows)}", *scores]

    def _repr_html_(self) -> str:
        title = f"Model on {self.backend.spec}: {', '.join(self._scores())}, {self.stopped}"
        return html_block(title, self.net._repr_html_())

    def summary(self) -> str:
        """A table of the layers, and what came of the training.

        Returns
        -------
        str
            Some lines of text; a prompt shows them as they are.
        """
        result = f"{', '.join(self._scores())}, {self.stopped}, on {self.backend.spec}"
        return Summary(f"{self.net.summary()}\n{result}")

    def plot_history(self, figure: Any = None) -> HistoryDisplay:
        """Plot the loss, the scores and the learning rate, epoch by epoch.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw; by default a new one.

        Returns
        -------
        HistoryDisplay
            With ``figure_`` and ``axes_``.
        """
        from portable_bp.display import HistoryDisplay

        return HistoryDisplay.from_model(self, figure=figure)

    def plot_deltas(self, X: Any, y: Any, ax: Any = None) -> DeltaDisplay:
        """Plot the size of each layer's delta: whether the error vanishes on its way back.

        Parameters
        ----------
        X : array of shape (n, inputs)
            Some rows; they are taken to the model's device at once.
        y : array of shape (n,) or (n, outputs)
            Their targets.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        DeltaDisplay
            With ``figure_``, ``ax_`` and ``sizes``.
        """
        from portable_bp.display import DeltaDisplay

        return DeltaDisplay.from_model(self, X, y, ax=ax)

    def plot_confusion(
        self, X: Any, y: Any, labels: Sequence[Any] | None = None, ax: Any = None
    ) -> ConfusionDisplay:
        """Plot how often each class was taken for each other; for a classification loss.

        Parameters
        ----------
        X : array of shape (n, inputs)
            The rows to predict.
        y : array of shape (n,)
            Their classes, as integers or one-hot rows.
        labels : sequence, optional
            The names of the classes 0, 1, ...; by default their numbers.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        ConfusionDisplay
            With ``figure_``, ``ax_`` and ``confusion_matrix``.

        Raises
        ------
        ValueError
            For a loss whose outputs are not one class per row.
        """
        model: Any = self  # the whole model, which this is a part of
        from portable_bp.display import ConfusionDisplay

        outputs = self.net.sizes[-1]
        if not self.net.loss.classes or (self.net.loss.target == "binary" and outputs > 1):
            raise ValueError(
                f"plot_confusion needs one class per row; the loss is {self.net.loss.name!r} with "
                f"{outputs} outputs"
            )
        true, predicted = (
            labels_of.to_numbers(model.spec, "y", to_host(v)) for v in (y, model.predict(X))
        )
        if true.ndim == 2:  # one column, or one-hot rows
            true = np.argmax(true, axis=1) if true.shape[1] > 1 else true[:, 0]
        if labels is None and model.classes is not None:
            labels = [str(label) for label in model.classes]
        classes = range(2 if self.net.loss.target == "binary" else outputs)
        return ConfusionDisplay.from_predictions(
            true, predicted, labels=classes, display_labels=labels, ax=ax
        )
