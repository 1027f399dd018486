"""The rows that ``fit`` is given: checked, split, and brought to the device or near it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from portable_bp import rng
from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend
from portable_bp.inputs import checks, examples, labels
from portable_bp.inputs.examples import Rows
from portable_bp.inputs.spec import NetSpec
from portable_bp.mlp import MLP
from portable_bp.training.data import (
    ONE_HOT_ENTRIES,
    DataSource,
    data_source,
    held_features,
    must_stream,
    select,
)
from portable_bp.training.options import FitOptions
from portable_bp.training.policy import ValidationSet


class PreparedRows(NamedTuple):
    """Rows to train on and to judge by."""

    data: DataSource
    weights: HostArray | None
    targets: HostArray
    """Of the rows to train on, on the host: (n, k), or class labels (n,)."""
    held: ValidationSet | None


def prepare(
    net: MLP,
    spec: NetSpec,
    backend: Backend,
    options: FitOptions,
    rows: Rows,
    validation: Any,
) -> PreparedRows:
    """Check everything, hold out rows, and bring the rest to the device, or near it.

    Parameters
    ----------
    net : MLP
    spec : NetSpec
        With the labels and the names of columns that ``fit`` has learnt.
    backend : Backend
    options : FitOptions
    rows : Rows
        X, y and sample_weight as the user hands them in.
    validation : float, tuple or None
        As :func:`portable_bp.fit` takes it.

    Returns
    -------
    PreparedRows
    """
    sets = [rows]
    if isinstance(validation, tuple | list):
        if len(validation) not in (2, 3):
            raise ValueError(
                "validation must be a share, (X, y) or (X, y, sample_weight); got "
                f"{len(validation)} entries"
            )
        sets.append(Rows(*validation))
    elif validation is not None:
        _check_share(validation)
    dtype = options.dtype
    rows, *apart = examples.check(spec, backend, dtype, *sets, sparse=True)
    labels.warn_if_classes(spec, rows.y)
    if validation is not None and not apart:
        rows, *apart = _split(rows, validation, options.seed)
        for part, which in ((apart[0], "held-out rows"), (rows, "rows that are left")):
            checks.some_weight(part.w, which, f"validation={validation}")
    x, y, w = rows
    streamed = must_stream(backend, x, dtype) if isinstance(x, np.ndarray) else False
    targets = _targets(net, get_backend("numpy") if streamed else backend, y, dtype)
    data = data_source(backend, dtype, x, targets, w, shuffle=options.shuffle)
    held = _held(net, backend, apart[0], dtype) if apart else None
    return PreparedRows(data, w, y, held)


def _check_share(share: Any) -> None:
    if not isinstance(share, Real):
        raise TypeError(
            "validation must be a share of the rows in (0, 1), (X, y) or (X, y, sample_weight); "
            f"got {checks.shown(share)}"
        )
    checks.real("validation", share, low=0, high=1, open_low=True, open_high=True)


def _targets(net: MLP, backend: Backend, y: HostArray, dtype: str) -> Array:
    """Targets on the device: (n, k), or labels (n,) where one-hot rows would be too many."""
    if y.ndim == 1 and len(y) * net.sizes[-1] > ONE_HOT_ENTRIES:
        return backend.asarray(y, backend.index_dtype)
    return examples.place_targets(net.spec, backend, y, dtype)


def _held(net: MLP, backend: Backend, rows: Rows, dtype: str) -> ValidationSet:
    """Held-out features on the device where they fit; the rest in float64 on the host."""
    t = examples.place_targets(net.spec, get_backend("numpy"), rows.y, "float64")
    return ValidationSet(held_features(backend, dtype, rows.x), np.asarray(t), rows.w)


def _split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows to train on, and the share of them that is held out."""
    x, y, w = rows
    n = x.shape[0]
    held = math.ceil(share * n)
    if held >= n:
        raise ValueError(f"validation={share} of {n} row(s) leaves none to train on")
    order = rng.permutation(n, seed, rng.SPLIT)

    def part(rows: HostArray) -> Rows:
        return Rows(select(x, rows), y[rows], None if w is None else w[rows])

    return part(np.sort(order[held:])), part(np.sort(order[:held]))
