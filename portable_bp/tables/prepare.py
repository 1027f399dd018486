"""From a table to what :func:`portable_bp.fit` takes: task, units, labels, held-out rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray
from portable_bp.mlp import MLP
from portable_bp.tables.cells import NUMBER, advice, amount
from portable_bp.tables.table import DataError, Table, plain_name, shown

Task: TypeAlias = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

Label: TypeAlias = "str | int | float | bool"

FEW = 20
"""Integers of at most this many values, five rows each, are taken for classes."""

VALIDATION_SHARE = 0.1
"""The share of the training rows that is held out for validation."""

NUMBERS_SHARE = 0.05
"""Text is taken for a quantity with errors in it when at least this share of its cells are numbers."""

FEWEST = 5
"""So few cells that are not numbers, among numbers, are taken for errors rather than classes."""


def infer_task(values: HostArray) -> tuple[Task, str]:
    """What a target column asks for, and why.

    Text and booleans are classes. So are integers of two values, or of at most :data:`FEW` values
    with at least five rows each on average. Anything else is a quantity.

    Parameters
    ----------
    values : array of shape (n,)
        The column.

    Returns
    -------
    str
        ``"classification"`` or ``"regression"``.
    str
        The reason, for people.

    Examples
    --------
    >>> import numpy as np
    >>> infer_task(np.asarray([0.0, 1.0, 1.0]))
    ('classification', 'target has 2 distinct integers')
    >>> infer_task(np.asarray([0.5, 1.0, 2.0]))
    ('regression', 'target has numbers')
    """
    if values.dtype.kind == "O":
        return "classification", "target is text"
    if values.dtype.kind == "b":
        return "classification", "target is true or false"
    distinct = np.unique(values)
    count = len(distinct)
    if (distinct == np.round(distinct)).all() and np.isfinite(distinct).all():
        few = count <= 2 or (count <= FEW and 5 * count <= len(values))
        return "classification" if few else "regression", f"target has {count:,} distinct integers"
    return "regression", "target has numbers"


@dataclass(frozen=True, eq=False)
class Preparation:
    """How a table becomes numbers around 0, and outputs become labels or quantities.

    Parameters
    ----------
    features : tuple of str
        The columns that are learnt from, in order.
    mean, scale : array of shape (features,)
        A feature x enters the network as ``(x - mean) / scale``; scale is 1 for a constant one.
    target : str
        The column that is learnt.
    task : str
        ``"classification"`` or ``"regression"``.
    classes : tuple
        The labels, one for each output; empty for a quantity.
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
        """What the network gets for each row.

        Parameters
        ----------
        table : Table
            The rows; it has the columns that are learnt from, in any order.

        Returns
        -------
        array of shape (n, features)
            Numbers around 0.

        Raises
        ------
        DataError
            When a column is missing, or holds anything but finite numbers.
        """
        x = table.numbers(self.features)
        with np.errstate(over="ignore"):
            x -= self.mean
            x /= self.scale
        far = ~(np.abs(x) <= np.finfo(np.float32).max)  # of no dtype that networks have
        if far.any():
            row, column = (int(i) for i in np.argwhere(far)[0])
            raise DataError(
                f"{table.source}, {table.place(row)}: column {shown(self.features[column])} is too far "
                "from the training data"
            )
        return x

    def labels(self, codes: HostArray) -> list[Label]:
        """The labels of classes.

        Parameters
        ----------
        codes : array of shape (n,)
            The numbers of the classes.

        Returns
        -------
        list
            Their labels.
        """
        return [self.classes[code] for code in codes.tolist()]

    def quantities(self, outputs: HostArray) -> HostArray:
        """Outputs in the unit of the target.

        Parameters
        ----------
        outputs : array of shape (n,)
            What the network computes.

        Returns
        -------
        array of shape (n,)
            What it stands for, float64.
        """
        with np.errstate(over="ignore"):  # a prediction beyond all numbers is infinite
            values: HostArray = outputs.astype(np.float64) * self.target_scale + self.target_mean
        return values


class Parts(NamedTuple):
    """The rows to train on, to validate with during the training, and to test on."""

    train: HostArray
    validation: HostArray
    test: HostArray


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table that is ready to train on.

    Parameters
    ----------
    preparation : Preparation
        How its columns became numbers.
    X : array of shape (n, features)
        Numbers around 0.
    y : array of shape (n,)
        The numbers of classes, or quantities around 0.
    parts : Parts
        Which rows are for what.
    why : str
        Why the task is what it is.
    """

    preparation: Preparation
    X: HostArray
    y: HostArray
    parts: Parts
    why: str

    def part(self, rows: HostArray) -> tuple[HostArray, HostArray]:
        """Inputs and targets of some rows.

        Parameters
        ----------
        rows : array of shape (k,)
            Their numbers.

        Returns
        -------
        array of shape (k, features)
            Inputs.
        array of shape (k,)
            Targets.
        """
        return self.X[rows], self.y[rows]

    def network(self, layers: Sequence[int], **options: Any) -> MLP:
        """A network between the inputs and outputs of the table.

        Parameters
        ----------
        layers : sequence of int
            The widths of its hidden layers.
        **options : any
            What :class:`~portable_bp.MLP` takes besides.

        Returns
        -------
        MLP
            The network.
        """
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
        The rows.
    target : str or None
        The column to learn; None for the table's own (``digit`` of the digits, ``y`` of an ``.npz``
        file, the last of an ``.npy`` file).
    task : str or None
        ``"classification"`` or ``"regression"``; None for what :func:`infer_task` says.
    drop : collection of str
        Columns to leave out.
    test_share : float
        The share of the rows to test on, between 0 and 1; :data:`VALIDATION_SHARE` of the rest is
        held out as well. Each class is split in these shares.
    seed : int
        It chooses the rows of each part.

    Returns
    -------
    Prepared
        Inputs, targets, and which rows are for what.

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
    ('classification', 'target has 10 distinct integers', [1294, 144, 359])
    """
    target = target or table.default_target
    if target is None:
        raise DataError(f"{table.source}: name the column to learn (target)")
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, not {task!r}")
    target = plain_name(target)
    values = table.column(target)
    left_out = {drop} if isinstance(drop, str) else {*drop}
    features = _features(table, target, {*map(plain_name, left_out)})
    chosen, why = task, "as asked"
    if chosen is None:
        _check_not_spoilt(table, target, values)
        chosen, why = infer_task(values)
    classes: tuple[Label, ...] = ()
    if chosen == "classification":
        classes, y = _encode(table, target, values)
    else:
        y = table.numbers([target])[:, 0]
    parts = _split(table.source, y if classes else np.zeros(len(y), np.int64), test_share, seed)
    X = table.numbers(features)
    rounding = np.asarray([_rounding(table.columns[name]) for name in features])
    axis = None if table.same_unit else 0
    mean, scale = _moments(X[parts.train], axis, rounding.max() if table.same_unit else rounding)
    mean, scale = (np.broadcast_to(m, X.shape[1:]).copy() for m in (mean, scale))
    shift, unit = 0.0, 1.0
    if not classes:
        m, s = _moments(y[parts.train], None, _rounding(table.columns[target]))
        shift, unit = float(m), float(s)
        y = _standardised(table, target, y, shift, unit)
    preparation = Preparation(features, mean, scale, target, chosen, classes, shift, unit)
    return Prepared(preparation, preparation.inputs(table), y, parts, why)


def _standardised(table: Table, target: str, y: HostArray, shift: float, unit: float) -> HostArray:
    """A quantity around 0."""
    with np.errstate(over="ignore"):
        y = (y - shift) / unit
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise DataError(
            f"{table.source}, {table.place(row)}: column {shown(target)} is too far from the training "
            "data"
        )
    return y


def _features(table: Table, target: str, drop: set[str]) -> tuple[str, ...]:
    """The columns to learn from."""
    for name in sorted(drop - {*table.columns}):
        table.column(name)  # says that there is no such column
    features = tuple(name for name in table.columns if name != target and name not in drop)
    if not features:
        raise DataError(f"{table.source} has no column to learn from beside {shown(target)}")
    return features


def _check_not_spoilt(table: Table, target: str, values: HostArray) -> None:
    """Raise when a target of text is a quantity with cells that are not numbers."""
    if values.dtype.kind != "O":
        return
    amounts = [amount(cell) for cell in values]
    known = np.asarray([a for a in amounts if a is not None])
    n, odd = len(values), len(values) - len(known)
    if len(known) < NUMBERS_SHARE * n:
        return
    if infer_task(known)[0] == "classification" and not 0 < odd < FEWEST:
        return  # codes, such as 0, 1, 2 and 3+
    is_number = np.asarray([bool(NUMBER.fullmatch(cell)) for cell in values])
    choose = "set the task to classification (task=, --task) if these are classes"
    if is_number.all():
        raise DataError(
            f"{table.source}: column {shown(target)} has numbers that are stored as text; store "
            f"numbers to learn a quantity, or {choose}"
        )
    row = int(np.argmin(is_number))
    raise DataError(
        f"{table.source}, {table.place(row)}: {shown(values[row])} in column {shown(target)} is not a "
        f"number{advice(values[row])}; {is_number.sum():,} of {n:,} cells are. Correct the column to "
        f"learn a quantity, or {choose}"
    )


def _encode(table: Table, target: str, values: HostArray) -> tuple[tuple[Label, ...], HostArray]:
    """The classes in order, and for each row the number of its class."""
    if (
        values.dtype.kind == "f"
        and (values == np.round(values)).all()
        and (abs(values) < 2**53).all()
    ):
        values = values.astype(np.int64)  # 3.0 is the label 3
    text = table.text(target)
    if text is not None and not _is_spelled_plainly(values, text):
        values = text  # 007 and 07, 1e5 and 100000 are different labels
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"{table.source}: every row has the class {shown(classes.tolist()[0])} in column "
            f"{shown(target)}; at least two classes are needed"
        )
    if len(classes) == len(values) > 2:
        raise DataError(
            f"{table.source}: every row of column {shown(target)} has a different class, so there is "
            "nothing to learn"
        )
    return tuple(classes.tolist()), codes.astype(np.int64)


def _is_spelled_plainly(values: HostArray, text: HostArray) -> bool:
    """Whether every cell is written as its number is printed, as 3 is, and 03, 3E0 and 3.0 are not."""
    row = {cell: i for i, cell in enumerate(text.tolist())}
    labels = values.tolist()
    return all(str(labels[i]) == cell for cell, i in row.items())


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


def _rounding(values: HostArray) -> float:
    """The relative differences that come from rounding alone, after a few dozen operations."""
    if values.dtype.kind == "O":
        return float(np.finfo(np.float64).eps ** 0.8)
    # float64: 3e-13, float32: 3e-6, float16: 4e-3
    if values.dtype.kind != "f":
        return 0.0
    return float(max(np.finfo(values.dtype).eps, np.finfo(np.float64).eps) ** 0.8)


def _moments(
    x: HostArray, axis: int | None, rounding: float | HostArray
) -> tuple[HostArray, HostArray]:
    """Mean and standard deviation along an axis; the deviation of what is constant is 1.

    Constant is what varies by no more than ``rounding`` of its size: divided by such a deviation, a
    later value that differs a little would be astronomically large.
    """
    peak = np.max(np.abs(x), axis=axis)
    peak = np.where(peak > 0, peak, 1.0)
    shares = x / peak  # in [-1, 1]: no square overflows or vanishes
    mean, scale = np.mean(shares, axis=axis) * peak, np.std(shares, axis=axis) * peak
    constant = (np.max(shares, axis=axis) - np.min(shares, axis=axis) <= rounding) | (scale == 0)
    return np.where(constant, np.take(x, 0, axis=axis), mean), np.where(constant, 1.0, scale)
