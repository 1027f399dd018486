"""What a trained model says of itself, and probabilities."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Backend, Model


def trained(loss: str = "squared_error", outputs: int = 1, **settings: Any) -> Model:
    X = np.random.default_rng(0).normal(size=(12, 3))
    y = (
        np.arange(12) % max(outputs, 2)
        if loss == "softmax_cross_entropy"
        else np.ones((12, outputs))
    )
    return portable_bp.fit(MLP([3, 4, outputs], loss=loss), X, y, epochs=3, **settings)


def test_a_model_is_one_line_without_its_numbers() -> None:
    model = trained(validation=0.25)
    text = repr(model)
    assert re.fullmatch(
        r"Model\(MLP\(\[3, 4, 1\], .*\), backend='numpy', epochs=3, loss=[\d.e-]+, "
        r"validation_loss=[\d.e-]+, validation_r2=\S+, stopped='finished'\)", text
    )  # fmt: skip
    assert repr(Model(model.net, model.params, model.backend)).endswith(
        "epochs=0, stopped='finished')"
    )


def test_the_summary_counts_the_parameters() -> None:
    model = trained()
    text = model.summary()
    assert repr(text) == str(text)  # a prompt shows lines, not backslashes
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["layer", "units", "activation", "parameters"]
    assert rows[2:4] == [["hidden", "1", "4", "relu", "16"], ["output", "1", "identity", "5"]]
    assert "21 parameters, loss squared_error" in text
    assert re.search(r"epochs=3, loss=\S+, finished, on numpy$", text)
    assert text.startswith(model.net.summary())


def test_a_model_is_called_as_a_function() -> None:
    model = trained()
    X = np.ones((2, 3))
    np.testing.assert_array_equal(model(X), model.forward(X))


class Tags(HTMLParser):
    """Every tag that is opened is closed, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_for_light_and_dark_pages() -> None:
    """Well formed, escaped, with no colour of its own, and every number that the text has."""
    model = trained()
    odd = portable_bp.Activation(lambda z, xp: z, lambda z, a, xp: xp.ones_like(z), "<b>&")
    for thing in (model, model.net, model.history, portable_bp.History(), MLP([2, 3, 1], odd)):
        html = thing._repr_html_()
        Tags(html)
        assert not re.search(r"#[0-9a-f]{3}|rgb|black|white|background(?!: transparent)", html)
    assert "<b>&" in Tags(MLP([2, 3, 1], odd)._repr_html_()).text
    assert {"hidden 1", "relu", "16"} <= set(Tags(model._repr_html_()).text)
    long = portable_bp.History([{"loss": 1 / (i + 1)} for i in range(1000)])
    text = Tags(long._repr_html_()).text
    assert "History, 1000 epochs" in text
    assert {"1", "5", "...", "996", "1000"} <= set(text)
    assert "500" not in text


@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict"])
def test_probabilities(where: Backend, spec: str) -> None:
    X = np.ones((5, 3), dtype="float32")
    three = trained("softmax_cross_entropy", 3, backend=where)
    np.testing.assert_array_equal(three.predict_proba(X), three.forward(X))
    two = trained("log_loss", 1, backend=where)
    p = two.predict_proba(X)
    assert p.shape == (5, 2)
    np.testing.assert_array_equal(p[:, 1:], two.forward(X))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)  # two roundings
    there = two.predict_proba(where.asarray(X))
    np.testing.assert_array_equal(where.to_numpy(there), p)
    several = trained("log_loss", 4, backend=where)
    np.testing.assert_array_equal(several.predict_proba(X), several.forward(X))


def test_no_probabilities_of_a_regression() -> None:
    with pytest.raises(
        AttributeError, match=r"predict_proba needs a class.*squared_error: use pred"
    ):
        trained().predict_proba(np.ones((2, 3)))


def test_a_network_without_parameters_says_to_fit() -> None:
    net = MLP([3, 4, 1])
    for method in (net.predict, net.forward):
        with pytest.raises(TypeError, match=r"portable_bp\.fit\(net, X, y\)"):
            method(np.ones((2, 3)))  # type: ignore[call-overload]
    for name in ("fit", "score", "predict_proba"):
        with pytest.raises(AttributeError, match=r"portable_bp\.fit\(net, X, y\) trains it"):
            getattr(net, name)
    with pytest.raises(AttributeError, match="'MLP' object has no attribute 'sice'"):
        _ = net.sice  # type: ignore[attr-defined]
    params = net.init()
    np.testing.assert_array_equal(
        net.predict(x=np.ones((2, 3)), params=params), net.predict(params, np.ones((2, 3)))
    )
