"""The explorer: one self-contained HTML page in which a reader steps through backpropagation.

The page needs no network and no library: a small network, every number on its edge, sliders for the
inputs, the rate and the depth, and the gradients checked against finite differences all the while.
``portable-bp explain --html FILE`` writes it.

>>> from portable_bp import explorer
>>> html = explorer.page()
>>> "src=" in html or "href=" in html  # nothing is loaded from elsewhere
False
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from portable_bp import worked_example
from portable_bp.worked_example import Example

__all__ = ["page"]


def page() -> str:
    """The page, with the networks of :mod:`portable_bp.worked_example` to begin with.

    Returns
    -------
    str
        HTML with its style, its program and its numbers in it.
    """
    files = resources.files(__name__)
    html, css, js = (
        files.joinpath(f"explorer.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    examples = [
        _plain("Yehoshua: two hidden layers", worked_example.YEHOSHUA),
        _plain("Mazur: one hidden layer, with biases", worked_example.MAZUR),
    ]
    data = json.dumps(examples).replace("</", r"<\/")
    return html.replace("/*css*/", css).replace("/*js*/", js).replace("/*data*/", data)


def _plain(title: str, example: Example) -> dict[str, Any]:
    return {
        "title": title,
        "hidden": example.net.hidden[0].name,
        "output": example.net.activations[-1].name,
        "loss": example.net.loss.name,
        "params": [{"W": W.tolist(), "b": b.tolist()} for W, b in example.params],
        "x": example.x[0].tolist(),
        "y": example.y[0].tolist(),
        "rate": example.rate,
    }
