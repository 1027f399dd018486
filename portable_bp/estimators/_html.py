"""The layers of an estimator as a table below scikit-learn's HTML representation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from portable_bp._summary import LAYER_HEAD, LayerRow, html_block, html_table, layer_rows
from portable_bp.equations import activations
from portable_bp.estimators import _input


def layers_html(est: Any, html: str) -> str:
    """``html`` followed by a table of the layers, unless the parameters make no network."""
    try:
        rows = _layers(est)
    except (TypeError, ValueError):
        return html
    return html + html_block("Layers", html_table(LAYER_HEAD, rows), opened=False)


def _layers(est: Any) -> list[LayerRow]:
    """The rows of the table; "?" for what is known only after the fit."""
    units: list[int | str]
    counts: list[int | str]
    if hasattr(est, "coefs_"):
        sizes = [est.coefs_[0].shape[0], *(W.shape[1] for W in est.coefs_)]
        units, output = [*sizes], est.out_activation_
        counts = [i * o + o for i, o in pairwise(sizes)]
    else:
        hidden = _input.layer_sizes(est.hidden_layer_sizes)
        units, output = ["?", *hidden, "?"], "?"
        counts = ["?"] * (len(hidden) + 1)
    functions = [activations.get(a).name for a in est._hidden_activations(len(units) - 2)]
    return layer_rows(units, [*functions, output], counts)
