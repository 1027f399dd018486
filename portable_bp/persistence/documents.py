"""What the metadata and the arrays of each kind of file are: declared here, checked as a whole.

Four kinds of file stand in one container: a trained network (``model``), several of them
(``models``), one with the preparation of its table (``tabular``), and the state of a run
(``checkpoint``). Whoever reads one has it checked
here first, so that nothing later has to ask whether a file holds what it should.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from portable_bp._scalars import shown
from portable_bp._typing import HostArray
from portable_bp.equations import losses
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container
from portable_bp.persistence.schema import (
    anything,
    choice,
    integer,
    listing,
    mapping,
    nullable,
    number,
    record,
    row,
    text,
)

DTYPE = choice("float32", "float64")

_ROW = {name: number() for name in ("loss", "learning_rate", "seconds")}


def history(place: str, value: Any) -> None:
    """Rows of numbers, all with the same columns.

    Training ends when its loss is not finite; a loss on held-out rows may overflow all the same.
    """
    listing(_history_row)(place, value)
    for i, entry in enumerate(value):
        if entry.keys() != value[0].keys():
            raise ValueError(
                f"{place}[{i}] has the columns {shown(sorted(entry))}, the first row has "
                f"{shown(sorted(value[0]))}"
            )


def _history_row(place: str, value: Any) -> None:
    mapping(number(finite=False))(place, value)
    for name in _ROW.keys() & value.keys():
        _ROW[name](f"{place}[{name!r}]", value[name])


PART = mapping(number(), name=text)
"""An activation or a loss: its name and its parameters."""

NETWORK = record(
    {
        "sizes": listing(integer(1, 2**40), minimum=2),
        "hidden": listing(PART),
        "output": PART,
        "loss": PART,
        "l1": number(0),
        "l2": number(0),
        "dropout": listing(number(0, 1)),
        "initializer": text,
    }
)

STOPPED = choice(
    "finished", "callback", "time", "interrupted", "terminated", "diverged", "converged", "failed"
)

MODEL = record(
    {
        "kind": choice("model"),
        "network": NETWORK,
        "backend": text,
        "dtype": DTYPE,
        "history": history,
        "stopped": STOPPED,
        "best_epoch": nullable(integer(1)),
    },
    {"classes": listing(anything, minimum=2), "feature_names": listing(text, minimum=1)},
)


MODELS = record(
    {
        "kind": choice("models"),
        "models": listing(MODEL, minimum=1),
        "errors": listing(row(integer(), text)),
    }
)


def label(place: str, value: Any) -> None:
    """A class: text, a truth value or a number."""
    if type(value) is str:
        text(place, value)
    elif type(value) is not bool:
        number()(place, value)


NOTATIONS = ("point", "comma", "day first", "month first", "")
"""How the text of a column of numbers or dates may be written."""

_COLUMNS = {
    "category": record(
        {
            "name": text,
            "kind": choice("category"),
            "values": listing(text),
            "features": listing(text, minimum=1),
        }
    )
} | {
    kind: record(
        {
            "name": text,
            "kind": choice(kind),
            "notation": choice(*NOTATIONS),
            "fill": number(),
            "is_marked": choice(False, True),
            "periods": listing(number(1e-6)),
        }
    )
    for kind in ("number", "boolean", "date")
}


def column(place: str, value: Any) -> None:
    """What was learnt of one column of a table."""
    mapping(anything, kind=choice(*_COLUMNS))(place, value)
    _COLUMNS[value["kind"]](place, value)


TABULAR = record(
    {
        "kind": choice("tabular"),
        "model": MODEL,
        "features": listing(text, minimum=1),
        "target": text,
        "task": choice("classification", "regression"),
        "classes": listing(label),
    },
    {
        "columns": listing(column, minimum=1),
        "facts": record(
            {},
            {
                "source": text,
                "rows": mapping(integer()),
                "scores": mapping(nullable(number(finite=False))),
            },
        ),
    },
)
"""The facts are for people: what it was trained on, and how well; nothing is computed from them."""

ESTIMATOR = record(
    {
        "progress": record(
            {
                "loss_": nullable(number(finite=False)),
                "loss_curve_": listing(number()),
                "best_loss_": nullable(number(finite=False)),
                "n_iter_": integer(),
                "t_": integer(high=2**63 - 1),
                "validation_scores_": nullable(listing(number(finite=False))),
                "best_validation_score_": nullable(number(finite=False)),
                "validation_loss_curve_": nullable(listing(number(finite=False))),
                "_no_improvement_count": integer(),
            }
        ),
        "learning_rate": number(0),
        "random_state": row(
            listing(integer(0, 2**32 - 1), minimum=624), integer(0, 624), integer(0, 1), number()
        ),
    }
)
"""What a scikit-learn estimator keeps beside: its fitted attributes, and its generator's start."""

CHECKPOINT = record(
    {
        "kind": choice("checkpoint"),
        "status": choice("running", "complete"),
        "stopped": STOPPED,
        "run": mapping(anything, dtype=DTYPE),
        "backend": text,
        "epochs": integer(1),
        "epoch": integer(),
        "in_epoch": integer(),
        "steps": integer(),
        "plateau": row(number(0), nullable(number()), integer()),
        "best": nullable(row(number(finite=False), integer(1))),
        "history": history,
        "watchers": listing(anything),
    },
    {"estimator": ESTIMATOR},
)

_KINDS = {"model": MODEL, "models": MODELS, "tabular": TABULAR, "checkpoint": CHECKPOINT}

_READ_BY = {
    "model": "a network by itself: portable_bp.load reads it",
    "models": "several networks: portable_bp.load_many reads it",
    "tabular": "a network with the preparation of its table: portable_bp.tabular.load reads it",
    "checkpoint": "the checkpoint of a run: go on with portable_bp.fit(..., resume=True)",
}


def read(path: str | os.PathLike[str], kind: str | None = None) -> container.Contents:
    """The contents of a file of this kind, once all of them are right.

    Parameters
    ----------
    path : path
        The file.
    kind : str or None
        ``"model"``, ``"models"``, ``"tabular"`` or ``"checkpoint"``; None for any of them.

    Returns
    -------
    arrays : dict
        NumPy arrays by name.
    metadata : dict
        As the schema of the kind says.

    Raises
    ------
    CheckpointError
        The file is damaged, of another kind, or holds what it should not.
    OSError
        The file is missing or cannot be read.
    """
    arrays, metadata = container.read(path)
    name = metadata.get("kind")
    if name != kind and (kind is not None or name not in [*_KINDS]):
        known = _READ_BY.get(name) if isinstance(name, str) else None
        other = f"no {kind or 'file'} of portable_bp"
        raise CheckpointError(f"{os.fspath(path)} is {known or other}")
    try:
        check(arrays, metadata)
    except ValueError as error:
        raise CheckpointError(f"{os.fspath(path)}: contents: {error}") from error
    return arrays, metadata


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, HostArray], metadata: dict[str, Any]
) -> None:
    """Save contents that :func:`read` will take.

    Parameters
    ----------
    path : path
        Where to save.
    arrays : mapping of str to array
        NumPy arrays by name.
    metadata : dict
        With the kind under ``"kind"``.

    Raises
    ------
    ValueError
        :func:`read` would refuse them; nothing is written.
    OSError
        The file could not be written. What was at ``path`` before is untouched.
    """
    check(arrays, json.loads(json.dumps(metadata)))  # as read will see it
    container.check_finite(arrays)
    container.write(path, arrays, metadata)


def check(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> None:
    """Raise a ValueError unless the contents are right for the kind that they name."""
    kind = metadata["kind"]
    _KINDS[kind]("metadata", metadata)
    if kind == "checkpoint":
        _check_checkpoint(arrays, metadata)
        return
    if kind == "models":
        _check_models(arrays, metadata)
        return
    model = metadata if kind == "model" else metadata["model"]
    needed = _model_arrays(model)
    if kind == "tabular":
        needed |= _preparation_arrays(arrays, metadata)
    _check_arrays(arrays, needed)


Layout = dict[str, tuple[tuple[int, ...], str]]
"""Shapes and dtypes of arrays by name."""


def _check_arrays(arrays: Mapping[str, HostArray], needed: Layout) -> None:
    if arrays.keys() != needed.keys():
        missing, extra = sorted(needed.keys() - arrays), sorted(arrays.keys() - needed)
        raise ValueError(f"the arrays {shown(missing)} are missing, {shown(extra)} are unknown")
    for name, (shape, dtype) in needed.items():
        a = arrays[name]
        if a.shape != shape or a.dtype.name != dtype:
            raise ValueError(
                f"array {name!r} must be {dtype} of shape {shape}, is {a.dtype} of {a.shape}"
            )


def _check_models(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> None:
    models = metadata["models"]
    needed: Layout = {}
    for i, model in enumerate(models):
        own = _model_arrays(model)
        needed |= {f"{i}/{name}": layout for name, layout in own.items()}
    _check_arrays(arrays, needed)
    of_errors = [entry[0] for entry in metadata["errors"]]
    if len({*of_errors}) < len(of_errors) or max(of_errors, default=0) >= len(models):
        raise ValueError(f"errors names the networks {shown(of_errors)} of {len(models)}")


def parts(arrays: Mapping[str, HostArray], count: int) -> list[dict[str, HostArray]]:
    """The arrays of each of ``count`` networks, from those of their file."""
    own: list[dict[str, HostArray]] = [{} for _ in range(count)]
    for name, array in arrays.items():
        number, _, rest = name.partition("/")
        own[int(number)][rest] = array
    return own


def _model_arrays(model: Mapping[str, Any]) -> Layout:
    network = model["network"]
    sizes, layers = network["sizes"], len(network["sizes"]) - 1
    for name in ("hidden", "dropout"):
        if len(network[name]) != layers - 1:
            raise ValueError(
                f"{name} has {len(network[name])} entries for {layers - 1} hidden layers"
            )
    best, epochs = model["best_epoch"], len(model["history"])
    if best is not None and best > epochs:
        raise ValueError(f"best_epoch is {best}, and the history has {epochs} epochs")
    _check_labels_and_names(model)
    needed: Layout = {}
    for l, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        needed[f"W{l}"] = ((fan_in, fan_out), model["dtype"])
        needed[f"b{l}"] = ((fan_out,), model["dtype"])
    return needed


def _check_labels_and_names(model: Mapping[str, Any]) -> None:
    """What ``fit`` has learnt of its data: labels for each class, names for each input."""
    sizes = model["network"]["sizes"]
    classes, names = model.get("classes"), model.get("feature_names")
    if names is not None and len(names) != sizes[0]:
        raise ValueError(f"{len(names)} feature_names for {sizes[0]} inputs")
    if classes is None:
        return
    if {type(c) for c in classes} not in ({str}, {bool}) or classes != sorted(set(classes)):
        raise ValueError(
            f"classes must be text, or truth values, sorted and distinct: {shown(classes)}"
        )
    target = _target(model["network"])
    if target != "class" and (target != "binary" or sizes[-1] > 1):
        raise ValueError(
            f"classes for the loss {model['network']['loss']['name']!r}, which has none"
        )
    if len(classes) != max(2, sizes[-1]):
        raise ValueError(f"{len(classes)} classes for {sizes[-1]} output(s)")


def _target(network: Mapping[str, Any]) -> str | None:
    """What the loss of a network takes; None for an unknown loss: rebuilding it will say so."""
    name = network["loss"]["name"]
    return losses.LOSSES[name]().target if name in losses.LOSSES else None


def _preparation_arrays(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> Layout:
    features, classes = metadata["features"], metadata["classes"]
    sizes = metadata["model"]["network"]["sizes"]
    for name in ("classes", "feature_names"):
        if name in metadata["model"]:
            raise ValueError(f"the network of a table has no {name} of its own")
    learnt = metadata.get("columns", [])
    columns = [*(entry["name"] for entry in learnt), metadata["target"]]
    columns = columns if learnt else [*features, *columns]
    if len(set(columns)) < len(columns):
        raise ValueError("columns and target: a column comes twice")
    if len({(type(c), c) for c in classes}) < len(classes):
        raise ValueError("classes: a class comes twice")
    if (metadata["task"] == "classification") != (len(classes) > 1):
        raise ValueError(f"the task {metadata['task']!r} with {len(classes)} classes")
    loss = metadata["model"]["network"]["loss"]["name"]
    if classes and _target(metadata["model"]["network"]) != "class":
        raise ValueError(f"the task {metadata['task']!r} with the loss {loss!r}")
    if (sizes[0], sizes[-1]) != (len(features), len(classes) or 1):
        raise ValueError(
            f"{len(features)} features and {len(classes) or 1} outputs do not fit a network of {sizes}"
        )
    for name in ("feature_scale", "target_scale"):
        if name in arrays and not (arrays[name] > 0).all():
            raise ValueError(f"array {name!r} has a scale that is not positive")
    columns_shape, one = (len(features),), ()
    return _columns_arrays(learnt, features) | {
        "feature_mean": (columns_shape, "float64"),
        "feature_scale": (columns_shape, "float64"),
        "target_mean": (one, "float64"),
        "target_scale": (one, "float64"),
    }


def _columns_arrays(columns: Sequence[Mapping[str, Any]], features: Sequence[str]) -> Layout:
    """The tables of categories; what is wrong between columns and inputs."""
    needed: Layout = {}
    inputs = 0
    for i, entry in enumerate(columns):
        if entry["kind"] == "category":
            values, width = entry["values"], len(entry["features"])
            if len(set(values)) < len(values):
                raise ValueError(f"columns[{i}]: a value comes twice")
            needed[f"codes{i}"] = ((len(values) + 2, width), "float64")
        else:
            width = 1 + 2 * len(entry["periods"]) + entry["is_marked"]
        inputs += width
    if columns and inputs != len(features):
        raise ValueError(
            f"the columns have {inputs} inputs, and {len(features)} features are named"
        )
    return needed


def _check_checkpoint(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> None:
    """Numbers against each other; what only the run can tell (its arrays) it checks itself."""
    epoch, in_epoch, best = (metadata[name] for name in ("epoch", "in_epoch", "best"))
    if len(metadata["history"]) != epoch:
        raise ValueError(f"the history has {len(metadata['history'])} epochs, after {epoch}")
    if best is not None and (best[1] > epoch or best[0] != best[0]):
        raise ValueError(f"best is {shown(best)} after {epoch} epochs")
    estimator = metadata.get("estimator")
    if estimator is not None and len(estimator["random_state"][0]) != 624:
        raise ValueError("the state of the random generator has too many words")
    of_steps = arrays.get("losses")
    if of_steps is None or of_steps.dtype != "float64" or of_steps.shape not in ((0,), (in_epoch,)):
        raise ValueError(f"array 'losses' must hold the losses of {in_epoch} steps in float64")
    for name in arrays:
        if name != "losses" and not name.startswith(("state/", "best/")):
            raise ValueError(f"unknown array {shown(name)}")
    if (best is not None) != any(name.startswith("best/") for name in arrays):
        raise ValueError("best and the arrays of the best parameters do not belong together")
