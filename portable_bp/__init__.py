"""Backpropagation written once against the Array API standard.

Multilayer perceptrons of any depth, with any activation and any loss, that train where their arrays
live: NumPy, CuPy, PyTorch, JAX.

>>> import portable_bp
>>> net = portable_bp.MLP([64, 32, 10], hidden="relu", loss="softmax_cross_entropy")
>>> net.n_parameters
2410

Importing this package loads no array library: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from portable_bp._version import __version__ as __version__

if TYPE_CHECKING:
    from portable_bp import callbacks, sources, testing
    from portable_bp.backend import Backend
    from portable_bp.backend.registry import available_backends, get_backend, use_backend
    from portable_bp.equations import (
        activations,
        initializers,
        losses,
        optimizers,
        schedules,
    )
    from portable_bp.equations.activations import Activation
    from portable_bp.equations.losses import Loss
    from portable_bp.errors import (
        BackendError,
        BackendNotInstalledError,
        BackendUnavailableError,
        CheckpointError,
        CheckpointWarning,
        DivergenceError,
        MixedBackendError,
        OutOfMemoryError,
        RemoteError,
    )
    from portable_bp.estimators import (  # noqa: F401  # in no import *
        MLPClassifier,
        MLPEnsembleClassifier,
        MLPEnsembleRegressor,
        MLPRegressor,
        MLPSearchCV,
    )
    from portable_bp.mlp import MLP
    from portable_bp.processes import distributed
    from portable_bp.training.callbacks import EarlyStopping, EpochEnd
    from portable_bp.training.fit import fit
    from portable_bp.training.fit_many import fit_many
    from portable_bp.training.history import History
    from portable_bp.training.model import Model, load
    from portable_bp.training.models import Models, load_many


_HOME = {
    "MLP": "mlp",
    "fit": "training.fit",
    "fit_many": "training.fit_many",
    "load": "training.model",
    "Model": "training.model",
    "Models": "training.models",
    "load_many": "training.models",
    "History": "training.history",
    "EarlyStopping": "training.callbacks",
    "EpochEnd": "training.callbacks",
    "Activation": "equations.activations",
    "Loss": "equations.losses",
    "Backend": "backend",
    "get_backend": "backend.registry",
    "use_backend": "backend.registry",
    "available_backends": "backend.registry",
    "BackendError": "errors",
    "BackendNotInstalledError": "errors",
    "BackendUnavailableError": "errors",
    "MixedBackendError": "errors",
    "DivergenceError": "errors",
    "OutOfMemoryError": "errors",
    "RemoteError": "errors",
    "distributed": "processes",
    "CheckpointError": "errors",
    "CheckpointWarning": "errors",
    "activations": "equations",
    "initializers": "equations",
    "losses": "equations",
    "optimizers": "equations",
    "schedules": "equations",
    "callbacks": "",
    "sources": "",
    "testing": "",
}
"""Public name to the module it lives in."""

_ON_REQUEST = {
    "MLPClassifier": "estimators",
    "MLPEnsembleClassifier": "estimators",
    "MLPEnsembleRegressor": "estimators",
    "MLPRegressor": "estimators",
    "MLPSearchCV": "estimators",
}
"""Names that need scikit-learn: loaded when they are asked for, and in no ``import *``."""

__all__ = [
    "MLP",
    "Activation",
    "Backend",
    "BackendError",
    "BackendNotInstalledError",
    "BackendUnavailableError",
    "CheckpointError",
    "CheckpointWarning",
    "DivergenceError",
    "EarlyStopping",
    "EpochEnd",
    "History",
    "Loss",
    "MixedBackendError",
    "Model",
    "Models",
    "OutOfMemoryError",
    "RemoteError",
    "activations",
    "available_backends",
    "callbacks",
    "distributed",
    "fit",
    "fit_many",
    "get_backend",
    "initializers",
    "load",
    "load_many",
    "losses",
    "optimizers",
    "schedules",
    "sources",
    "testing",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name, _ON_REQUEST.get(name))
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home in ("", "equations"):  # the name is a module itself
        value: Any = import_module(".".join(part for part in (__name__, home, name) if part))
    else:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ON_REQUEST})
