"""From a table to what :func:`portable_bp.fit` takes: task, units, labels, held-out rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray
from portable_bp.mlp import MLP
from portable_bp.tables.table import DataError, Table

Task: TypeAlias = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

Label: TypeAlias = "str | int | float | bool"

FEW = 20
"""Whole numbers of at most this many values, five rows each, are taken for classes."""

VALIDATION_SHARE = 0.1
"""The share of the training rows that is held out to watch the training."""


def infer_task(values: HostArray) -> tuple[Task, str]:
    """What a target column asks for, and why.

    Text and yes/no are classes. So are whole numbers of two values, or of at most :data:`FEW` values
    with at least five rows each on average. Anything else is a quantity.

    >>> import numpy as np
    >>> infer_task(np.asarray([0.0, 1.0, 1.0]))
    ('classification', 'it holds 2 whole numbers')
    >>> infer_task(np.asarray([0.5, 1.0, 2.0]))
    ('regression', 'it holds numbers')
    """
    if values.dtype.kind == "O":
        return "classification", "it holds text"
    if values.dtype.kind == "b":
        return "classification", "it holds yes and no"
    distinct = np.unique(values)
    count = len(distinct)
    if (distinct == np.round(distinct)).all() and np.isfinite(distinct).all():
        if count <= 2 or (count <= FEW and 5 * count <= len(values)):
            return "classification", f"it holds {count} whole numbers"
        return "regression", f"it holds {count} different whole numbers"
    return "regression", "it holds numbers"


@dataclass(frozen=True, eq=False)
class Preparation:
    """How a table becomes numbers around 0, and outputs become labels or quantities.

    Attributes
    ----------
    features : the columns that are learnt from, in order
    mean, scale : (len(features),) float64
        A feature x enters the network as ``(x - mean) / scale``; scale is 1 for a constant one.
    target : the column that is learnt
    task : ``"classification"`` or ``"regression"``
    classes : the labels, one for each output; empty for a quantity
    target_mean, target_scale : float
        An output o of the network stands for the quantity ``o target_scale + target_mean``.
    """

    features: tuple[str, ...]
    mean: HostArray
    scale: HostArray
    target: str
    task: Task
    classes: tuple[Label, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0

    def inputs(self, table: Table) -> HostArray:
        """What the network is fed for each row, shape (n, len(features)).

        Raises
        ------
        DataError
            When a column is missing, or holds anything but finite numbers.
        """
        x = table.numbers(self.features)
        with np.errstate(over="ignore"):
            x -= self.mean
            x /= self.scale
        if not np.isfinite(x).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise DataError(
                f"{table.source}, {table.place(row)}: column {self.features[column]!r} is too far "
                "from what was trained on"
            )
        return x

    def labels(self, codes: HostArray) -> list[Label]:
        """Labels for the numbers of classes."""
        return [self.classes[code] for code in codes.tolist()]

    def quantities(self, outputs: HostArray) -> HostArray:
        """Outputs in the unit of the target."""
        values: HostArray = outputs.astype(np.float64) * self.target_scale + self.target_mean
        return values


class Parts(NamedTuple):
    """Which rows are trained on, watched during the training, and tested on."""

    train: HostArray
    validation: HostArray
    test: HostArray


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table that is ready to train on.

    Attributes
    ----------
    preparation : Preparation
    X : (n, features), around 0
    y : (n,), the numbers of classes, or quantities around 0
    parts : Parts
    why : str
        Why the task is what it is.
    """

    preparation: Preparation
    X: HostArray
    y: HostArray
    parts: Parts
    why: str

    def part(self, rows: HostArray) -> tuple[HostArray, HostArray]:
        """``(X, y)`` of some rows."""
        return self.X[rows], self.y[rows]

    def network(self, layers: Sequence[int], **options: Any) -> MLP:
        """A network with hidden layers of these widths between the table's inputs and outputs."""
        classes = len(self.preparation.classes)
        sizes = [self.X.shape[1], *layers, classes or 1]
        loss = "softmax_cross_entropy" if classes else "squared_error"
        return MLP(sizes, loss=loss, **options)


def prepare(
    table: Table,
    target: str | None = None,
    task: Task | None = None,
    *,
    drop: Collection[str] = (),
    test_share: float = 0.2,
    seed: int = 0,
) -> Prepared:
    """Choose the task, bring every column to one size, and hold out rows.

    Parameters
    ----------
    table : Table
    target : the column to learn; None for the table's own (``digit`` of the digits, ``y`` of an
        ``.npz`` file, the last of an ``.npy`` file)
    task : ``"classification"`` or ``"regression"``; None for what :func:`infer_task` says
    drop : columns to leave out
    test_share : the share of the rows to test on, in (0, 1); :data:`VALIDATION_SHARE` of the rest is
        held out as well. Each class is split in these shares.
    seed : which rows these are

    Raises
    ------
    DataError
        When the table cannot be learnt from: no such column, missing or infinite values, text among
        the features, a single class, too few rows.

    Examples
    --------
    >>> from portable_bp import datasets
    >>> ready = prepare(datasets.digits())
    >>> ready.preparation.task, ready.why, [len(rows) for rows in ready.parts]
    ('classification', 'it holds 10 whole numbers', [1294, 144, 359])
    """
    target = target or table.default_target
    if target is None:
        raise DataError(f"{table.source}: name the column to learn (target)")
    values = table.column(target)
    for name in drop:
        if name not in table.columns:
            table.column(name)
    features = tuple(name for name in table.columns if name != target and name not in drop)
    if not features:
        raise DataError(f"{table.source} has no column to learn from beside {target!r}")
    found, why = infer_task(values)
    if task is not None:
        found, why = task, "as asked"
    classes: tuple[Label, ...] = ()
    if found == "classification":
        classes, y = _encode(table.source, target, values)
    else:
        y = table.numbers([target])[:, 0]
    parts = _split(table.source, y if classes else np.zeros(len(y), np.int64), test_share, seed)
    X = table.numbers(features)
    mean, scale = _moments(X[parts.train], axis=None if table.same_unit else 0)
    mean, scale = (np.broadcast_to(m, X.shape[1:]).copy() for m in (mean, scale))
    preparation = Preparation(features, mean, scale, target, found, classes)
    if not classes:
        m, s = _moments(y[parts.train], axis=None)
        preparation = Preparation(
            features, mean, scale, target, found, (), target_mean=float(m), target_scale=float(s)
        )
        y = (y - m) / s
    return Prepared(preparation, preparation.inputs(table), y, parts, why)


def _encode(source: str, target: str, values: HostArray) -> tuple[tuple[Label, ...], HostArray]:
    """The classes in order, and for each row the number of its class."""
    if (
        values.dtype.kind == "f"
        and (values == np.round(values)).all()
        and (abs(values) < 2**53).all()
    ):
        values = values.astype(np.int64)  # 3.0 is the label 3
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"{source}: every row has the class {classes.tolist()[0]!r} in column {target!r}; at "
            "least two classes are needed"
        )
    if len(classes) == len(values) > 2:
        raise DataError(
            f"{source}: column {target!r} has another class in every row; there is nothing to learn "
            "from that"
        )
    return tuple(classes.tolist()), codes.astype(np.int64)


def _split(source: str, codes: HostArray, test_share: float, seed: int) -> Parts:
    """Rows of each class in the same shares."""
    n = len(codes)
    rows = rng.permutation(n, seed, rng.SPLIT)
    test, rest = _held_out(codes, rows, test_share)
    validation, train = _held_out(codes, rest, VALIDATION_SHARE)
    if not len(test):
        raise DataError(
            f"{source}: a test share of {test_share:g} of {n} row(s) leaves none to test on; give "
            "more rows, or a larger share"
        )
    return Parts(train, validation, test)


def _held_out(codes: HostArray, rows: HostArray, share: float) -> tuple[HostArray, HostArray]:
    """A share of the rows of each class, and the others; every class keeps one of the others."""
    by_class = rows[np.argsort(codes[rows], kind="stable")]
    counts = np.bincount(codes[rows])
    ends = np.cumsum(counts)
    # Rounded at the ends, so that the shares of many small classes add up to that of all.
    taken = np.diff(np.floor(ends * share + 0.5), prepend=0)
    taken = np.minimum(taken, np.maximum(counts - 1, 0))
    place = np.arange(len(rows)) - np.repeat(ends - counts, counts)
    out = place < np.repeat(taken, counts)
    return np.sort(by_class[out]), np.sort(by_class[~out])


def _moments(x: HostArray, axis: int | None) -> tuple[HostArray, HostArray]:
    """Mean and standard deviation along an axis; the deviation of what is constant is 1."""
    peak = np.max(np.abs(x), axis=axis)
    peak = np.where(peak > 0, peak, 1.0)
    shares = x / peak  # in [-1, 1]: no square overflows or vanishes
    mean, scale = np.mean(shares, axis=axis) * peak, np.std(shares, axis=axis) * peak
    constant = (np.max(x, axis=axis) == np.min(x, axis=axis)) | (scale == 0)
    return np.where(constant, np.take(x, 0, axis=axis), mean), np.where(constant, 1.0, scale)


class ClassScore(NamedTuple):
    """How well one class is found: of those called so, the share that are; of those that are, the
    share that was called so; their harmonic mean; and how many there are."""

    label: Label
    precision: float
    recall: float
    f1: float
    support: int


def class_scores(
    classes: Sequence[Label], truth: HostArray, predicted: HostArray
) -> list[ClassScore]:
    """A :class:`ClassScore` for each class; what would be 0/0 is 0.

    >>> import numpy as np
    >>> class_scores(["a", "b"], np.asarray([0, 0, 1]), np.asarray([0, 1, 1]))[0]
    ClassScore(label='a', precision=1.0, recall=0.5, f1=0.666..., support=2)
    """
    k = len(classes)
    right = np.bincount(truth[truth == predicted], minlength=k)
    called, there = np.bincount(predicted, minlength=k), np.bincount(truth, minlength=k)
    return [
        ClassScore(
            label,
            float(r / max(c, 1)),
            float(r / max(t, 1)),
            float(2 * r / max(c + t, 1)),
            int(t),
        )
        for label, r, c, t in zip(classes, right, called, there, strict=True)
    ]
