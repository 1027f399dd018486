"""Models in the hands of others: skops' files, and model cards for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from huggingface_hub import ModelCard, ModelCardData
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import card
from skops.io.exceptions import UntrustedTypesFoundException

import portable_bp
from portable_bp import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
CLASSES = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0}


def through_skops(model: Any) -> Any:
    data = skops.io.dumps(model)
    unknown = skops.io.get_untrusted_types(data=data)
    assert unknown
    assert all(name.startswith("portable_bp.") for name in unknown)
    with pytest.raises(UntrustedTypesFoundException, match="portable_bp"):
        skops.io.loads(data)
    return skops.io.loads(data, trusted=unknown)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_an_estimator_goes_through_skops_and_trains_on(solver: str) -> None:
    est = MLPClassifier(**SETTINGS, solver=solver).fit(X, CLASSES)
    again = through_skops(est)
    assert np.array_equal(again.predict_proba(X), est.predict_proba(X))
    assert again.get_params() == est.get_params()
    if solver != "lbfgs":
        for model in (est, again):
            model.partial_fit(X, CLASSES)
        assert np.array_equal(again.coefs_[0], est.coefs_[0])


def test_a_pipeline_goes_through_skops() -> None:
    pipeline = make_pipeline(StandardScaler(), MLPRegressor("huber", **SETTINGS)).fit(X, X[:, :2])
    assert np.array_equal(through_skops(pipeline).predict(X), pipeline.predict(X))


def test_an_estimator_of_tensors_goes_through_skops_as_arrays() -> None:
    est = MLPClassifier(**SETTINGS).fit(torch.tensor(X), CLASSES)
    again = through_skops(est.to("numpy"))
    np.testing.assert_allclose(
        again.predict_proba(X), est.predict_proba(torch.tensor(X)).numpy(), rtol=1e-12
    )


def test_a_model_goes_through_skops() -> None:
    net = portable_bp.MLP([4, 5, 2], hidden="tanh", loss="softmax_cross_entropy")
    model = portable_bp.fit(net, X, CLASSES, epochs=2)
    again = through_skops(model)
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.history == model.history


def test_a_model_card_beside_the_model(tmp_path: Path) -> None:
    """What is uploaded: one folder with the file and a card that the Hub's own library reads."""
    est = MLPClassifier(**SETTINGS).fit(X, CLASSES)
    skops.io.dump(est, tmp_path / "model.skops")
    data = ModelCardData(library_name="portable-bp", license="bsd-3-clause", tags=["tabular"])
    written = card.Card(est, model_diagram=False)
    written.add_metrics(accuracy=0.875)
    written.add(**{"Model description": "A small network."})
    ModelCard(f"---\n{data.to_yaml()}\n---\n{written.render()}").save(tmp_path / "README.md")
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.library_name == "portable-bp"
    assert "A small network." in read.text
    assert "hidden_layer_sizes" in read.text
    assert "0.875" in read.text


def test_a_model_card_for_a_model_file(tmp_path: Path) -> None:
    net = portable_bp.MLP([4, 5, 2], loss="softmax_cross_entropy")
    model = portable_bp.fit(net, X, CLASSES, epochs=2, validation=0.2)
    model.save(tmp_path / "model.safetensors")
    data = ModelCardData(library_name="portable-bp", license="bsd-3-clause")
    text = f"---\n{data.to_yaml()}\n---\n\n# Yes or no\n\n```text\n{model.summary()}\n```\n"
    ModelCard(text).save(tmp_path / "README.md")
    read = ModelCard.load(tmp_path / "README.md")
    assert str(model.summary()) in read.text
    again = portable_bp.load(tmp_path / "model.safetensors")
    assert np.array_equal(again.predict(X), model.predict(X))
