"""From a table as it comes to what :func:`portable_bp.fit` takes: kinds are inferred, and told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.tables import spellings
from portable_bp.tables.columns import CategoryColumn, Column, learn
from portable_bp.tables.kinds import KINDS, Kind, Survey, survey
from portable_bp.tables.prepare import (
    Preparation,
    Prepared,
    Task,
    Treatment,
    check_not_spoilt,
    check_task,
    encode_labels,
    features_of,
    infer_task,
    prepare,
    standardised_target,
)
from portable_bp.tables.raw import cells_of
from portable_bp.tables.split import split_rows
from portable_bp.tables.table import Table, is_missing, plain_name, shown, some
from portable_bp.tables.units import moments, rounding_of


def prepare_inferred(
    table: Table,
    target: str | None = None,
    task: Task | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    drop: Collection[str] = (),
    test_share: float = 0.2,
    seed: int = 0,
) -> Prepared:
    """Infer what each column is, choose the task, turn everything into numbers, and hold out rows.

    :func:`~portable_bp.tabular.prepare` refuses what is not numbers; this reads it, and
    ``report`` of the result says how. Numbers may have currency and percent signs, separators of
    thousands and decimal commas where a column agrees; missing ones get the median, and a mark.
    Categories get an input each, or the share of their rows where they are many. Dates get the time and
    its cycles. Constants, identifiers and text are left out, and so are rows without a target.

    Parameters
    ----------
    table : Table
        The rows.
    target : str or None
        The column to learn; None for the table's own.
    task : str or None
        ``"classification"`` or ``"regression"``; None infers it.
    kinds : mapping of str to str or None
        What columns are, where the inference is wrong: ``"number"``, ``"category"``, ``"date"``,
        ``"boolean"`` or ``"drop"``.
    drop : collection of str
        Columns to leave out.
    test_share : float
        The share of the rows to test on.
    seed : int
        It chooses the rows of each part.

    Returns
    -------
    Prepared
        Inputs, targets, which rows are for what, and what was done with each column.

    Raises
    ------
    DataError
        When the table cannot be learnt from: no such column, infinite values, a target that is no
        number here and there, a single class, too few rows, nothing to learn from.

    Examples
    --------
    >>> pets = {
    ...     "price": np.asarray(["$1,200", "$80", "?", "$60"] * 5, dtype=object),
    ...     "kind": np.asarray(["dog", "cat", "dog", "cat"] * 5, dtype=object),
    ... }
    >>> for column in prepare_inferred(Table("pets", pets), "kind").report:
    ...     print(column.name, column.kind, column.missing, column.done, sep=" | ")
    kind | target | 0.0 | 2 classes
    price | number | 0.25 | separators of thousands, currency $; missing: median 80, marked
    """
    target = plain_name(target or table.default_target or "")
    if not target:
        raise DataError(f"{table.source}: name the column to learn (target)")
    check_task(task)
    chosen_kinds = _checked_kinds(table, target, kinds or {})
    if table.same_unit and not chosen_kinds:
        return prepare(table, target, task, drop=drop, test_share=test_share, seed=seed)
    left_out = {drop} if isinstance(drop, str) else {*drop}
    known = _with_target(table, target, task)
    table = known.table
    names = features_of(table, target, {*map(plain_name, left_out)})
    values = table.column(target)
    chosen, why = task, "as asked"
    if chosen is None:
        check_not_spoilt(table, target, values)
        chosen, why = infer_task(values)
    classes, y = (
        encode_labels(table, target, values)
        if chosen == "classification"
        else ((), table.numbers([target])[:, 0])
    )
    parts = split_rows(table.source, y if classes else np.zeros(len(y), np.int64), test_share, seed)
    learnt = learn_columns(table, names, chosen_kinds, parts.train, target)
    shift, unit, y = (0.0, 1.0, y) if classes else standardised_target(table, target, y, parts)
    preparation = Preparation(
        learnt.features,
        learnt.mean,
        learnt.scale,
        target,
        chosen,
        classes,
        shift,
        unit,
        learnt.columns,
    )
    done = f"{len(classes)} classes" if classes else "; ".join(["a quantity", *known.words])
    if known.left_out:
        rows = "row" if known.left_out == 1 else "rows"
        done += f"; {known.left_out:,} {rows} without it left out"
    share = known.left_out / (known.left_out + table.rows)
    report = (Treatment(target, "target", share, done), *learnt.report)
    X = preparation.scaled(learnt.x, table)
    return Prepared(preparation, X, y, parts, why, report, known.left_out)


class Learnt(NamedTuple):
    """What was learnt of the columns of a table, and what they become.

    Attributes
    ----------
    columns : tuple of Column
        Those that are learnt from.
    x : array of shape (n, inputs)
        Their inputs, unscaled.
    mean, scale : array of shape (inputs,)
        The units of the inputs in the training rows.
    report : tuple of Treatment
        What was done with each column.
    """

    columns: tuple[Column, ...]
    x: HostArray
    mean: HostArray
    scale: HostArray
    report: tuple[Treatment, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(feature for column in self.columns for feature in column.features)


def learn_columns(
    table: Table, names: Sequence[str], kinds: Mapping[str, Kind], rows: HostArray, target: str
) -> Learnt:
    """Infer what columns are, and learn how they become inputs from some of the rows.

    Parameters
    ----------
    table : Table
        All rows: the kinds follow from them.
    names : sequence of str
        The columns.
    kinds : mapping of str to str
        The kinds that are set.
    rows : array of shape (k,)
        The training rows.
    target : str
        What messages call the target.

    Returns
    -------
    Learnt
        Columns, inputs and their units.

    Raises
    ------
    DataError
        A column cannot be read, or none is left to learn from.
    """
    surveys = survey(table, names, kinds)
    learnt = {s.name: learn(s, rows) for s in surveys if s.is_kept}
    _check_any(table, target, surveys)
    x = np.concatenate([learnt[s.name].encode(s.values) for s in surveys if s.is_kept], axis=1)
    mean, scale = _units(table, [*learnt.values()], x[rows])
    report = tuple(_treatment(s, learnt.get(s.name)) for s in surveys)
    return Learnt(tuple(learnt.values()), x, mean, scale, report)


def _checked_kinds(table: Table, target: str, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Kinds by the plain names of columns that are there."""
    named = {plain_name(name): kind for name, kind in kinds.items()}
    for name, kind in named.items():
        if kind not in KINDS:
            raise ValueError(
                f"the kind of column {shown(name)} must be one of {', '.join(map(repr, KINDS))}, not "
                f"{kind!r}"
            )
        if name == target:
            raise ValueError(f"column {shown(name)} is the target: set the task, not its kind")
        if name not in table.columns:
            table.column(name)  # says that there is no such column
    return named


class _Known(NamedTuple):
    """The rows that have a target, which is numbers where all of its text is.

    Attributes
    ----------
    table : Table
    left_out : how many rows have none
    words : how its text was read
    """

    table: Table
    left_out: int
    words: list[str]


def _with_target(table: Table, target: str, task: Task | None) -> _Known:
    if target not in table.columns:
        table.column(target)  # says that there is no such column
    cells = cells_of(table, target)
    if cells.type in ("date", "other"):
        table.column(target)  # says that it holds neither numbers nor text
    values = table.columns[target]
    if cells.type == "text":
        missing = np.fromiter((cell is None for cell in cells.text()), bool, len(values))
    elif values.dtype.kind == "O":
        missing = np.fromiter((is_missing(cell) for cell in values), bool, len(values))
    else:
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    rows = np.flatnonzero(~missing)
    if not len(rows):
        raise DataError(f"{table.source}: column {shown(target)} has no value in any row")
    kept = table.take(rows) if missing.any() else table
    count = int(missing.sum())
    if cells.type == "text":
        return _numbers_of_text(kept, target, cells.text()[rows], count)
    if kept.columns[target].dtype.kind == "f" and missing.any():
        kept = _truths(kept, target)
    return _Known(kept, count, [])


def _numbers_of_text(table: Table, target: str, text: HostArray, left_out: int) -> _Known:
    """A target of text as numbers, where all of its cells are."""
    counts = dict.fromkeys(text, 1)
    reading = spellings.read_numbers(counts)
    if reading is None or spellings.share_read(reading, counts) < 1:
        return _Known(table, left_out, [])
    numbers = spellings.mapped(text, reading.values)
    if (numbers == np.rint(numbers)).all() and (np.abs(numbers) < 2**53).all():
        numbers = numbers.astype(np.int64)
    return _Known(
        replace(
            table,
            columns={**table.columns, target: numbers},
            text=partial(_text, table.text, target, text),
        ),
        left_out,
        [reading.words] if reading.words else [],
    )


def _text(
    others: Callable[[str], HostArray | None], target: str, text: HostArray | None, name: str
) -> HostArray | None:
    """The text of a column, where that of the target has become another."""
    return text if name == target else others(name)


def _truths(table: Table, target: str) -> Table:
    """True and false again, which were numbers beside the missing values."""
    text = table.text(target)
    if text is None or not {cell.lower() for cell in {*text}} <= {"true", "false"}:
        return table
    return replace(
        table, columns={**table.columns, target: table.columns[target].astype(bool)},
        text=partial(_text, table.text, target, None),
    )  # fmt: skip


def _check_any(table: Table, target: str, surveys: Sequence[Survey]) -> None:
    """Raise where no column is left to learn from."""
    if any(s.is_kept for s in surveys):
        return
    reasons = some((f"{s.name} ({s.kind}: {s.words})" for s in surveys), 4).replace('"', "")
    raise DataError(
        f"{table.source} has no column to learn from beside {shown(target)}; left out: {reasons}. Set "
        "the kind of a column (kinds=, --kind), or give more columns"
    )


def _units(table: Table, columns: Sequence[Column], x: HostArray) -> tuple[HostArray, HostArray]:
    """Mean and deviation of each input; codes of 0 and 1 are only moved to the mean 0."""
    rounding, scaled = [], []
    for column in columns:
        flags = column.is_scaled
        scaled += flags
        of_first = rounding_of(table.columns[column.name]) if column.kind == "number" else 0.0
        rounding += [of_first] + [0.0] * (len(flags) - 1)
    mean, scale = moments(x, 0, np.asarray(rounding))
    return mean, np.where(scaled, scale, 1.0)


def _treatment(found: Survey, column: Column | None) -> Treatment:
    """What was done with a column, for people."""
    share = float(np.mean(found.missing)) if len(found.values) else 0.0
    if column is None:
        return Treatment(found.name, found.kind, share, f"left out: {found.words}")
    words = [found.words] if found.words else []
    if isinstance(column, CategoryColumn):
        words.append(_category_words(column))
    else:
        if column.kind == "date":
            cycles = len(column.periods)
            words.append(f"the time, and {cycles} cycle{'s' * (cycles != 1)}")
        if column.is_marked:
            words.append(f"missing: median {column.fill:g}, marked")
    return Treatment(found.name, found.kind, share, "; ".join(words) or "as it is")


def _category_words(column: CategoryColumn) -> str:
    if column.is_share:
        return f"{len(column.values):,} values, the share of the rows with each"
    other = ", rare ones together" if column.codes[-1].any() else ""
    return f"{len(column.values)} values, one input each{other}"
