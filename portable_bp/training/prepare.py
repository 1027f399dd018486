"""The rows that ``fit`` is given: checked, split, and brought to the device or near it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from portable_bp.inputs.transfer import to_host
from portable_bp.mlp import MLP
from portable_bp.sources.protocol import Described, is_source
from portable_bp.training import source_rows
from portable_bp.training.data import (
    ONE_HOT_ENTRIES,
    DataSource,
    Order,
    data_source,
    held_features,
    must_stream,
    select,
)
from portable_bp.training.judging import Held, ValidationSet
from portable_bp.training.options import FitOptions
from portable_bp.training.source_rows import HeldSource


class PreparedRows(NamedTuple):
    """Rows to train on and to judge by."""

    data: DataSource
    weights: HostArray | None
    held: Held | None
    digest: Callable[[], str]
    """Tells another data set, not every other one."""
    windows: Callable[[int], Order] | None = None
    """The order of an epoch, where the rows come in windows."""


def learn(spec: NetSpec, X: Any, y: Any) -> NetSpec:
    """``spec`` with the labels and the names of features that stand in these rows."""
    if not is_source(X):
        return examples.learn(spec, X, y)
    if y is not None:
        raise TypeError("y must be left out for a source, which has its targets itself")
    return source_rows.learn(spec, Described.of(X))


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
        With the labels and the names of columns that :func:`learn` has learnt.
    backend : Backend
    options : FitOptions
    rows : Rows
        X, y and sample_weight as the user hands them in; X may be a source.
    validation : float, tuple, source or None
        As :func:`portable_bp.fit` takes it.

    Returns
    -------
    PreparedRows
    """
    given = given_rows(validation)
    if is_source(rows.x):
        source = Described.of(rows.x)
        source_rows.check(spec, source)
        if source.n > source_rows.window_rows(source, spec, options.dtype):
            labels.warn_if_classes(spec, source.read_targets(0))
            w = None if rows.w is None else examples.sample_weight(rows.w, source.n)
            held = None if given is None else _held(net, spec, backend, options.dtype, given)
            return _windows(net, spec, backend, options, source, w, held, validation)
        rows = source_rows.whole(source, spec, rows.w)
        spec = replace(spec, features=None)  # X has no names any more
    elif source_rows.too_large(rows.x):
        return _of_map(net, spec, backend, options, rows, given, validation)
    return _in_memory(net, spec, backend, options, rows, given, validation)


def given_rows(validation: Any) -> Rows | None:
    """The rows that the user hands in to judge by; None for a share, or without any."""
    if is_source(validation):
        return Rows(validation, None, None)
    if isinstance(validation, tuple | list):
        if len(validation) not in (2, 3):
            raise ValueError(
                "validation must be a share, (X, y) or (X, y, sample_weight); got "
                f"{len(validation)} entries"
            )
        return Rows(*validation)
    if validation is not None:
        _check_share(validation)
    return None


def _in_memory(
    net: MLP,
    spec: NetSpec,
    backend: Backend,
    options: FitOptions,
    rows: Rows,
    given: Rows | None,
    validation: Any,
) -> PreparedRows:
    """Rows that are arrays, all of them on the device where they fit."""
    dtype = options.dtype
    apart: Rows | None = None
    if given is None or is_source(given.x):
        (rows,) = examples.check(spec, backend, dtype, rows, sparse=True)
    else:
        rows, apart = examples.check(spec, backend, dtype, rows, given, sparse=True)
    labels.warn_if_classes(spec, rows.y)
    if validation is not None and given is None:
        rows, apart = _split(rows, validation, options.seed)
        for part, which in ((apart, "held-out rows"), (rows, "rows that are left")):
            checks.some_weight(part.w, which, f"validation={validation}")
    x, y, w = rows
    streamed = must_stream(backend, x, dtype) if isinstance(x, np.ndarray) else False
    targets = device_targets(net, get_backend("numpy") if streamed else backend, y, dtype)
    data = data_source(backend, dtype, x, targets, w)
    held: Held | None = None
    if apart is not None:
        held = held_arrays(net, backend, apart, dtype)
    elif given is not None:
        held = _held(net, spec, backend, dtype, given)
    digest = partial(source_rows.fingerprint, backend, dtype, (data.arrays[0], y, w), held)
    return PreparedRows(data, w, held, digest)


def _of_map(
    net: MLP,
    spec: NetSpec,
    backend: Backend,
    options: FitOptions,
    rows: Rows,
    given: Rows | None,
    validation: Any,
) -> PreparedRows:
    """A memory map that does not fit in memory: its rows come in windows."""
    x = examples.features(spec, rows.x)
    y = examples.targets(spec, to_host(rows.y), x.shape[0], options.dtype)
    labels.warn_if_classes(spec, y)
    w = None if rows.w is None else examples.sample_weight(rows.w, x.shape[0])
    held = None if given is None else _held(net, spec, backend, options.dtype, given)
    source = source_rows.of_map(x, y)
    return _windows(net, spec, backend, options, source, w, held, validation)


def _windows(
    net: MLP,
    spec: NetSpec,
    backend: Backend,
    options: FitOptions,
    source: Described,
    weights: HostArray | None,
    held: Held | None,
    validation: Any,
) -> PreparedRows:
    """Rows of a source, read in windows."""
    dtype = options.dtype
    if options.optimizer is not None:
        source_rows.refuse_whole_batch(source, options.batch_size)
    if validation is not None and held is None:
        (source, weights), apart = source_rows.held_out(source, weights, validation, options.seed)
        held = HeldSource.of(spec, dtype, *apart)
    watchers = [c.on_rows for c in options.callbacks if hasattr(c, "on_rows")]

    def watch(done: int, total: int) -> None:
        for watcher in watchers:
            watcher(done, total)

    data = source_rows.windows(
        backend, spec, dtype, source, weights, batch_size=options.batch_size, seed=options.seed,
        shuffle=options.shuffle, watch=watch if watchers else None,
    )  # fmt: skip
    digest = partial(source_rows.fingerprint, backend, dtype, (source, weights), held)
    return PreparedRows(data, weights, held, digest, data.order)


def _held(net: MLP, spec: NetSpec, backend: Backend, dtype: str, given: Rows) -> Held:
    """Rows to judge by that the user hands in."""
    if is_source(given.x):
        source = Described.of(given.x, "validation")
        source_rows.check(spec, source, "validation")
        source_rows.check_labels(spec, source)
        return HeldSource.of(spec, dtype, source, None)
    (rows,) = examples.check(spec, backend, dtype, given, sparse=True, prefixes=examples.NAMES[1:])
    return held_arrays(net, backend, rows, dtype)


def _check_share(share: Any) -> None:
    if not isinstance(share, Real):
        raise TypeError(
            "validation must be a share of the rows in (0, 1), (X, y), (X, y, sample_weight) or a "
            f"source; got {checks.shown(share)}"
        )
    checks.real("validation", share, low=0, high=1, open_low=True, open_high=True)


def device_targets(net: MLP, backend: Backend, y: HostArray, dtype: str) -> Array:
    """Targets on the device: (n, k), or labels (n,) where one-hot rows would be too many."""
    if y.ndim == 1 and len(y) * net.sizes[-1] > ONE_HOT_ENTRIES:
        return backend.asarray(y, backend.index_dtype)
    return examples.place_targets(net.spec, backend, y, dtype)


def held_arrays(net: MLP, backend: Backend, rows: Rows, dtype: str) -> ValidationSet:
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
