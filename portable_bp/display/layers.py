"""How the error flows back through the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from portable_bp.display._axes import axes_or_new


class DeltaDisplay:
    """The size of each layer's delta: whether the error vanishes or explodes on its way back.

    The size is the root mean square of ``delta^l = dE/dz^l`` over the units of the layer and the
    examples, relative to that of the last layer. A line that falls towards layer 1 is a vanishing
    gradient, one that rises an exploding one.

    Parameters
    ----------
    sizes : list of float
        One for each layer, first layer first; any unit.
    activations : list of str
        The activation of each layer.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the sizes were drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    line_ : matplotlib Line2D
        The sizes relative to the last layer.
    """

    def __init__(self, sizes: Sequence[float], activations: Sequence[str]) -> None:
        self.sizes = list(sizes)
        self.activations = list(activations)

    @classmethod
    def from_model(cls, model: Any, X: Any, y: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Compute the deltas of a model on some rows, and plot their sizes.

        Parameters
        ----------
        model : Model
            Or anything with ``net``, ``params`` and ``backend``.
        X : array of shape (n, inputs)
            The rows; some hundred are enough.
        y : array of shape (n,) or (n, outputs)
            Their targets.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.plot``.

        Returns
        -------
        DeltaDisplay
            With the sizes drawn.
        """
        deltas = model.net.deltas(model.params, X, y)
        host = (np.asarray(model.backend.to_numpy(d), dtype=np.float64) for d in deltas)
        sizes = [float(np.sqrt(np.mean(d * d))) for d in host]
        names = [a.name for a in model.net.activations]
        return cls(sizes, names).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the sizes on a logarithmic axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.plot``.

        Returns
        -------
        DeltaDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        layers = range(1, len(self.sizes) + 1)
        last = self.sizes[-1] or 1.0  # all zero: a loss that is at its minimum
        sizes = [size / last for size in self.sizes]
        self.line_ = ax.plot(layers, sizes, **{"marker": "o", **kwargs})[0]
        if any(sizes):
            ax.set_yscale("log")
        names = [f"{l}\n{name}" for l, name in zip(layers, self.activations, strict=True)]
        ax.set_xticks(list(layers), names if len(names) <= 12 else [str(l) for l in layers])
        ax.set(xlabel="Layer (1 is next to the input)", ylabel="Size of delta / last layer's")
        ax.grid(alpha=0.3)
        self.ax_, self.figure_ = ax, ax.figure
        return self
