"""From a table to what :func:`portable_bp.fit` takes: task, units, labels, held-out rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.mlp import MLP
from portable_bp.tables.cells import NUMBER, advice, amount
from portable_bp.tables.columns import Column, encode
from portable_bp.tables.split import Parts, split_rows
from portable_bp.tables.table import DataError, Table, plain_name, shown
from portable_bp.tables.units import moments, rounding_of
from portable_bp.training.model import Model

Task: TypeAlias = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

Label: TypeAlias = "str | int | float | bool"

FEW = 20
"""Integers of at most this many values, five rows each, are taken for classes."""

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
        The inputs of the network, in order: the columns that are learnt from, or what ``columns``
        make of them.
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
    columns : tuple of Column
        How the columns of a table become the inputs; empty where each column is one of them.
    """

    features: tuple[str, ...]
    mean: HostArray
    scale: HostArray
    target: str
    task: Task
    classes: tuple[Label, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0
    columns: tuple[Column, ...] = ()

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
        return self.scaled(
            encode(self.columns, table) if self.columns else table.numbers(self.features), table
        )

    def scaled(self, x: HostArray, table: Table) -> HostArray:
        """The inputs in their units, around 0.

        Parameters
        ----------
        x : array of shape (n, features)
            The inputs of the rows of a table.
        table : Table
            The rows.

        Returns
        -------
        array of shape (n, features)
            Numbers around 0.

        Raises
        ------
        DataError
            A number is beyond those that networks compute with.
        """
        with np.errstate(over="ignore"):
            x = (x - self.mean) / self.scale
        far = ~(np.abs(x) <= np.finfo(np.float32).max)  # of no dtype that networks have
        if far.any():
            row, column = (int(i) for i in np.argwhere(far)[0])
            raise DataError(
                f"{table.source}, {table.place(row)}: column {shown(self.features[column])} is too far "
                "from the training data"
            )
        return x

    def network(self, layers: Sequence[int], **options: Any) -> MLP:
        """A network between the inputs and outputs.

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
        sizes = [len(self.mean), *layers, len(self.classes) or 1]
        loss = "softmax_cross_entropy" if self.classes else "squared_error"
        return MLP(sizes, loss=loss, **options)

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


class Treatment(NamedTuple):
    """What was done with a column.

    Parameters
    ----------
    name : str
        The column.
    kind : str
        What it is: ``"target"``, ``"number"``, ``"category"``, ``"date"``, ``"boolean"``, or why it is
        left out: ``"constant"``, ``"identifier"``, ``"text"``, ``"unusable"``, ``"drop"``.
    missing : float
        The share of the rows without a value.
    done : str
        In words.
    """

    name: str
    kind: str
    missing: float
    done: str


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
    report : tuple of Treatment
        What was done with each column, where that was inferred.
    left_out : int
        How many rows had no target.
    """

    preparation: Preparation
    X: HostArray
    y: HostArray
    parts: Parts
    why: str
    report: tuple[Treatment, ...] = ()
    left_out: int = 0

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
        return self.preparation.network(layers, **options)

    def training_data(self) -> tuple[tuple[Any, ...], Any]:
        """What :func:`portable_bp.fit` takes as X and y, and as ``validation``.

        Returns
        -------
        tuple
            X and y of the training rows.
        tuple or None
            X and y of the validation rows, if there are any.
        """
        parts = self.parts
        held = self.part(parts.validation) if len(parts.validation) else None
        return self.part(parts.train), held

    def tested(self, model: Model) -> tuple[HostArray, HostArray]:
        """What is true of the test rows, and what a model predicts.

        Parameters
        ----------
        model : Model
            One that was trained on the training rows.

        Returns
        -------
        array of shape (k,)
            Class numbers, or quantities around 0.
        array of shape (k,)
            The same, predicted.
        """
        X, y = self.part(self.parts.test)
        return y.reshape(-1), np.asarray(model.predict(X)).reshape(-1)


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
    check_task(task)
    target = plain_name(target)
    values = table.column(target)
    left_out = {drop} if isinstance(drop, str) else {*drop}
    features = features_of(table, target, {*map(plain_name, left_out)})
    chosen, why = task, "as asked"
    if chosen is None:
        check_not_spoilt(table, target, values)
        chosen, why = infer_task(values)
    classes: tuple[Label, ...] = ()
    if chosen == "classification":
        classes, y = encode_labels(table, target, values)
    else:
        y = table.numbers([target])[:, 0]
    parts = split_rows(table.source, y if classes else np.zeros(len(y), np.int64), test_share, seed)
    X = table.numbers(features)
    rounding = np.asarray([rounding_of(table.columns[name]) for name in features])
    axis = None if table.same_unit else 0
    mean, scale = moments(X[parts.train], axis, rounding.max() if table.same_unit else rounding)
    mean, scale = (np.broadcast_to(m, X.shape[1:]).copy() for m in (mean, scale))
    shift, unit = 0.0, 1.0
    if not classes:
        shift, unit, y = standardised_target(table, target, y, parts)
    preparation = Preparation(features, mean, scale, target, chosen, classes, shift, unit)
    return Prepared(preparation, preparation.inputs(table), y, parts, why)


def check_task(task: Task | None) -> None:
    """Raise unless it is a task, or None."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, not {task!r}")


def standardised_target(
    table: Table, target: str, y: HostArray, parts: Parts
) -> tuple[float, float, HostArray]:
    """Mean and deviation of a quantity in the training rows, and the quantity around 0."""
    mean, scale = moments(y[parts.train], None, rounding_of(table.columns[target]))
    shift, unit = float(mean), float(scale)
    with np.errstate(over="ignore"):
        y = (y - shift) / unit
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise DataError(
            f"{table.source}, {table.place(row)}: column {shown(target)} is too far from the training "
            "data"
        )
    return shift, unit, y


def features_of(table: Table, target: str, drop: set[str]) -> tuple[str, ...]:
    """The columns to learn from."""
    for name in sorted(drop - {*table.columns}):
        table.column(name)  # says that there is no such column
    features = tuple(name for name in table.columns if name != target and name not in drop)
    if not features:
        raise DataError(f"{table.source} has no column to learn from beside {shown(target)}")
    return features


def check_not_spoilt(table: Table, target: str, values: HostArray) -> None:
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


def encode_labels(
    table: Table, target: str, values: HostArray
) -> tuple[tuple[Label, ...], HostArray]:
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
