"""Names that people type, and arguments as other libraries call them."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, optimizers, schedules
from portable_bp.equations import activations, initializers, losses


@pytest.mark.parametrize(
    ("look_up", "typed", "name"),
    [
        *((activations.get, typed, "relu") for typed in ("relu", "ReLU", "RELU", "re_lu")),
        *((activations.get, typed, "leaky_relu") for typed in ("LeakyReLU", "leaky-relu")),
        *((activations.get, typed, "sigmoid") for typed in ("Sigmoid", "logistic")),
        *((activations.get, typed, "tanh") for typed in ("Tanh", "TANH")),
        *((activations.get, typed, "identity") for typed in ("linear", "Identity")),
        *((activations.get, typed, "silu") for typed in ("swish", "SiLU")),
        *((losses.get, typed, "softmax_cross_entropy") for typed in
          ("cross_entropy", "CrossEntropyLoss", "crossentropy", "categorical_crossentropy",
           "sparse_categorical_crossentropy")),
        (losses.get, "LogLoss", "log_loss"),
        (losses.get, "Huber", "huber"),
        *((optimizers.get, typed, "adam") for typed in ("adam", "Adam", "ADAM")),
        *((optimizers.get, typed, typed.lower()) for typed in ("SGD", "AdamW", "RMSprop", "Adagrad")),
    ],
)  # fmt: skip
def test_spellings_and_synonyms(look_up: Callable[[str], Any], typed: str, name: str) -> None:
    assert look_up(typed).name == name
    assert look_up(typed) == look_up(name)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_can_be_pickled(name: str) -> None:
    mine = activations.get(name)
    assert pickle.loads(pickle.dumps(mine)) == mine == copy.deepcopy(activations.get(name))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_can_be_pickled(name: str) -> None:
    mine = losses.get(name)
    assert pickle.loads(pickle.dumps(mine)) == mine == copy.deepcopy(losses.get(name))


@pytest.mark.parametrize("rule", ["xavier_uniform", "Kaiming_Normal"])
def test_initializers_of_pytorch(rule: str) -> None:
    """The same start as under our name, which is the one that a file keeps."""
    ours = rule.lower().replace("xavier", "glorot").replace("kaiming", "he")
    net = MLP([3, 2], initializer=rule)
    assert net.initializer == ours
    np.testing.assert_array_equal(net.init()[0][0], MLP([3, 2], initializer=ours).init()[0][0])


class ReLU:
    """As torch.nn has one."""


@pytest.mark.parametrize(
    ("look_up", "typed", "meant"),
    [
        (losses.get, "mse", "squared_error', which is half the squared error"),
        (losses.get, "MSELoss", "squared_error', which is half the squared error"),
        (losses.get, "mae", "absolute_error'"),
        (losses.get, "bce", "log_loss'"),
        (losses.get, "binary_crossentropy", "log_loss'"),
        (losses.get, "nll", "softmax_cross_entropy'"),
        (losses.get, "squared_eror", "squared_error'"),
        (losses.get, "crossentropi", "softmax_cross_entropy'"),
        (activations.get, "relo", "relu'"),
        (activations.get, ReLU, "relu'"),
        (activations.get, ReLU(), "relu'"),
        (activations.get, "sigmod", "sigmoid'"),
        (activations.get, None, "identity'"),
        (optimizers.get, "adamm", "adam'"),
        (optimizers.get, optimizers.Adam, "adam'"),
        (optimizers.get, "nag", "nesterov'"),
        (initializers.get, "glorot", "glorot_uniform'"),
        (initializers.get, "zeroes", "zeros'"),
    ],
)
def test_what_was_meant(look_up: Callable[[Any], Any], typed: Any, meant: str) -> None:
    with pytest.raises(ValueError, match=f"must be one of .*Did you mean '{meant}") as error:
        look_up(typed)
    assert str(error.value).endswith("?")


@pytest.mark.parametrize("typed", ["", "x", 7, "hinge"])
def test_nothing_is_suggested_where_nothing_is_near(typed: Any) -> None:
    with pytest.raises(ValueError, match=r"loss must be one of .*got") as error:
        losses.get(typed)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("typed", "made"),
    [("cosine", "Cosine"), ("OneCycleLR", "OneCycle"), (schedules.StepDecay, "StepDecay")],
)
def test_a_schedule_by_name_or_class(typed: Any, made: str) -> None:
    with pytest.raises(TypeError, match=rf"Did you mean portable_bp.schedules.{made}\(1e-3\)\?"):
        schedules.get(typed)


FIT: dict[str, str] = {
    "lr": "learning_rate",
    "n_epochs": "epochs",
    "max_iter": "epochs",
    "verbose": "progress=True",
    "validation_data": r"validation=\(X, y\)",
    "validation_split": "validation=0.1",
    "device": "backend",
    "random_state": "seed",
    "patience": "early_stopping=10",
    "epoch": "epochs",
    "batchsize": "batch_size",
    "verbosity": "?",
}


@pytest.mark.parametrize(("typed", "meant"), FIT.items())
def test_arguments_of_fit(typed: str, meant: str) -> None:
    match = f"did you mean {meant}" if meant != "?" else "it takes net, X, y, optimizer"
    with pytest.raises(TypeError, match=rf"fit\(\) has no argument '{typed}'; {match}"):
        portable_bp.fit(MLP([1, 1]), [[1.0]], [1.0], **{typed: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("activation", "hidden"), ("layers", "sizes"), ("alpha", "l2"), ("droput", "dropout")],
)
def test_arguments_of_a_network(typed: str, meant: str) -> None:
    with pytest.raises(
        TypeError, match=rf"MLP\(\) has no argument '{typed}'; did you mean {meant}"
    ):
        MLP([1, 1], **{typed: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lr", "learning_rate_init"), ("epochs", "max_iter"), ("optimizer", "solver"),
     ("seed", "random_state"), ("hidden_layer_size", "hidden_layer_sizes")],
)  # fmt: skip
def test_arguments_of_the_estimators(typed: str, meant: str) -> None:
    from portable_bp.estimators import MLPClassifier, MLPRegressor

    for kind in (MLPClassifier, MLPRegressor):
        match = rf"{kind.__name__}\(\) has no argument '{typed}'; did you mean {meant}"
        with pytest.raises(TypeError, match=match):
            kind(**{typed: 1})


def test_every_suggestion_is_an_argument_that_exists() -> None:
    """A table that names what is gone would be worse than none."""
    from portable_bp._names import BY_ESTIMATOR, TYPED_ELSEWHERE
    from portable_bp.estimators import MLPClassifier

    ours = {*inspect.signature(portable_bp.fit).parameters, *inspect.signature(MLP).parameters}
    for typed, meant in TYPED_ELSEWHERE.items():
        assert typed not in ours, typed
        assert meant.split("=")[0].split(",")[0].split()[0] in ours | {"the"}, meant
    estimator = inspect.signature(MLPClassifier).parameters
    for typed, meant in BY_ESTIMATOR.items():
        assert typed not in estimator, typed
        assert meant.split()[0] in estimator, meant
