"""Names that people type: spellings and synonyms, and what to suggest for any other."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from portable_bp._scalars import shown

F = TypeVar("F", bound=Callable[..., Any])


def squeezed(name: str) -> str:
    """A name without case, spaces, hyphens and underscores: how spellings are compared.

    >>> squeezed("Leaky-ReLU") == squeezed("leaky_relu")
    True
    """
    return "".join(c for c in name.lower() if c not in " -_")


def canonical(name: Any, known: Iterable[str], synonyms: Mapping[str, str]) -> str | None:
    """The name in ``known`` that ``name`` spells or is a synonym for, or None.

    >>> canonical("LeakyReLU", ["leaky_relu"], {}), canonical("swish", ["silu"], {"swish": "silu"})
    ('leaky_relu', 'silu')
    """
    if not isinstance(name, str):
        return None
    if name in (known := list(known)):  # what nearly everybody writes
        return name
    spellings = {squeezed(k): k for k in known} | {squeezed(k): v for k, v in synonyms.items()}
    return spellings.get(squeezed(name))


def unknown(
    argument: str,
    value: Any,
    known: Iterable[str],
    alternative: str,
    *,
    synonyms: Mapping[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
) -> ValueError:
    """The error for a value that is not one of the names: what is allowed, and what was meant.

    Parameters
    ----------
    argument : str
        The name of the argument.
    value : object
        What was given: a class or an object of another library goes by its own name.
    known : iterable of str
        The names that exist.
    alternative : str
        What may be given instead of a name: ``"a Loss(value, gradient)"``.
    synonyms : mapping of str to str, optional
        Other names that are accepted.
    hints : mapping of str to str, optional
        For names of other libraries that mean almost the same: what to write here.

    Returns
    -------
    ValueError
        To be raised by the caller.
    """
    names, synonyms, hints = list(known), synonyms or {}, hints or {}
    word = value if isinstance(value, str) else _own_name(value)
    meant = {squeezed(k): v for k, v in hints.items()}.get(squeezed(word))
    if meant is None:
        spellings = {squeezed(k): k for k in names} | {squeezed(k): v for k, v in synonyms.items()}
        near = difflib.get_close_matches(squeezed(word), spellings, n=1, cutoff=0.7)
        meant = repr(spellings[near[0]]) if near else None
    return ValueError(
        f"{argument} must be one of {', '.join(sorted(names))}, or {alternative}; got {shown(value)}"
        + (f". Did you mean {meant}?" if meant else "")
    )


def _own_name(value: Any) -> str:
    """How a class, a function or an object of another library is called there."""
    return str(getattr(value, "__name__", type(value).__name__))


TYPED_ELSEWHERE: Mapping[str, str] = {
    "lr": "learning_rate",
    "learning_rate_init": "learning_rate",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "nb_epoch": "epochs",
    "max_epochs": "epochs",
    "max_iter": "epochs",
    "verbose": "progress=True",
    "validation_data": "validation=(X, y)",
    "validation_split": "validation=0.1",
    "validation_fraction": "validation=0.1",
    "eval_set": "validation=(X, y)",
    "device": "backend",
    "random_state": "seed",
    "random_seed": "seed",
    "patience": "early_stopping=10",
    "n_iter_no_change": "early_stopping=10",
    "sample_weights": "sample_weight",
    "weights": "sample_weight, or params for start parameters",
    "bs": "batch_size",
    "solver": "optimizer",
    "optim": "optimizer",
    "opt": "optimizer",
    "callback": "callbacks=[...]",
    "scheduler": "learning_rate, such as learning_rate=schedules.Cosine(1e-3)",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_value",
    "max_grad_norm": "clip_norm",
    "gradient_clip": "clip_norm",
    "warm_start": "params=model.params",
    "initial_params": "params",
    "hidden_layer_sizes": "the argument sizes of MLP",
    "hidden_sizes": "sizes",
    "layers": "sizes",
    "units": "sizes",
    "activation": "hidden",
    "activations": "hidden",
    "hidden_activation": "hidden",
    "out_activation": "output",
    "output_activation": "output",
    "criterion": "loss",
    "alpha": "l2",
    "weight_decay": "l2, or optimizer=optimizers.AdamW(weight_decay=...) in fit",
    "reg_lambda": "l2",
    "dropout_rate": "dropout",
    "init": "initializer",
    "kernel_initializer": "initializer",
}
"""Arguments as other libraries name them, and what is written here."""

BY_ESTIMATOR: Mapping[str, str] = {
    "lr": "learning_rate_init",
    "epochs": "max_iter",
    "n_epochs": "max_iter",
    "max_epochs": "max_iter",
    "optimizer": "solver",
    "optim": "solver",
    "seed": "random_state",
    "backend": "device",
    "hidden": "activation",
    "sizes": "hidden_layer_sizes",
    "hidden_sizes": "hidden_layer_sizes",
    "layers": "hidden_layer_sizes",
    "l2": "alpha",
    "patience": "n_iter_no_change",
    "validation_split": "validation_fraction",
    "progress": "verbose",
    "betas": "beta_1 and beta_2",
    "eps": "epsilon",
    "bs": "batch_size",
}
"""The same for the estimators, whose names are scikit-learn's."""


def suggests(elsewhere: Mapping[str, str] = TYPED_ELSEWHERE) -> Callable[[F], F]:
    """A decorator: an unknown keyword argument is answered with the name that it has here.

    >>> @suggests()
    ... def fit(X, *, learning_rate=0.1):
    ...     pass
    >>> fit([], lr=0.2)
    Traceback (most recent call last):
    TypeError: fit() has no argument 'lr'; did you mean learning_rate?
    """

    def decorate(function: F) -> F:
        parameters = [p for p in inspect.signature(function).parameters if p != "self"]

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for key in kwargs:
                if key not in parameters:
                    raise _no_argument(function, key, parameters, elsewhere)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate


def _no_argument(
    function: Callable[..., Any], key: str, parameters: list[str], elsewhere: Mapping[str, str]
) -> TypeError:
    name = function.__qualname__.removesuffix(".__init__")
    meant = elsewhere.get(key)
    if meant is None or meant.split("=")[0].split(",")[0].split(" ")[0] not in {*parameters, "the"}:
        near = difflib.get_close_matches(key, parameters, n=1, cutoff=0.7)
        meant = near[0] if near else None
    hint = f"did you mean {meant}?" if meant else f"it takes {', '.join(parameters)}"
    return TypeError(f"{name}() has no argument {key!r}; {hint}")
