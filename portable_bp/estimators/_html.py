"""The layers of an estimator as a table below scikit-learn's HTML representation."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from portable_bp.equations import activations
from portable_bp.estimators import _input

if TYPE_CHECKING:
    from portable_bp.estimators._base import BaseMLP


def layers_html(est: BaseMLP, html: str) -> str:
    """``html`` followed by a table of the layers, unless the parameters make no network."""
    try:
        rows = _layers(est)
    except (TypeError, ValueError):
        return html
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = "".join(f"<th>{name}</th>" for name in ("layer", "units", "activation", "parameters"))
    return (
        f"{html}<details class='portable-bp-layers'><summary>Layers</summary>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></details>"
    )


def _layers(est: BaseMLP) -> list[tuple[str, str, str, str]]:
    """Name, units, activation and number of parameters of every layer; "?" before the fit."""
    fitted = hasattr(est, "coefs_")
    if fitted:
        sizes = [est.coefs_[0].shape[0], *(W.shape[1] for W in est.coefs_)]
        hidden, output = sizes[1:-1], est.out_activation_
        ends = [str(sizes[0]), str(sizes[-1])]
        counts = [f"{i * o + o:,}" for i, o in pairwise(sizes)]
    else:
        hidden, output, ends = _input.layer_sizes(est.hidden_layer_sizes), "?", ["?", "?"]
        counts = ["?"] * (len(hidden) + 1)
    functions = [activations.get(a).name for a in est._hidden_activations(len(hidden))]
    names = ["input", *(f"hidden {i}" for i in range(1, len(hidden) + 1)), "output"]
    units = [ends[0], *map(str, hidden), ends[1]]
    return list(zip(names, units, ["", *functions, output], ["", *counts], strict=True))
