"""From files larger than memory to what :func:`portable_bp.fit` takes: the same units, in one pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.sources.moments import moments
from portable_bp.sources.npy import Matrix
from portable_bp.sources.opening import open, paths_of
from portable_bp.sources.parquet import arrow, columns_of, explained
from portable_bp.sources.protocol import Described
from portable_bp.sources.views import Encoded, Scaled, split
from portable_bp.tables.prepare import FEW, Label, Preparation, Task, Treatment, check_task
from portable_bp.tables.split import VALIDATION_SHARE
from portable_bp.tables.table import plain_name, shown
from portable_bp.training.model import Model


class SourceFacts(NamedTuple):
    """What is said of files that stay where they are.

    Parameters
    ----------
    source : str
        What messages call them.
    rows : int
    note : str
        How they are read.
    """

    source: str
    rows: int
    note: str


class SourceParts(NamedTuple):
    """How many rows there are to train on, to validate with, and to test on."""

    train: range
    validation: range
    test: range


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """Files that are ready to train on, as :class:`~portable_bp.tabular.Prepared` is a table.

    Parameters
    ----------
    preparation : Preparation
        How their columns become numbers.
    train, validation, test : Described
        The rows for each purpose, as numbers around 0.
    why : str
        Why the task is what it is.
    """

    preparation: Preparation
    train: Described
    validation: Described
    test: Described
    why: str

    report: tuple[Treatment, ...] = ()
    left_out: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.train.n + self.validation.n + self.test.n

    @property
    def parts(self) -> SourceParts:
        """The rows for each purpose."""
        return SourceParts(*(range(s.n) for s in (self.train, self.validation, self.test)))

    def training_data(self) -> tuple[tuple[Any, ...], Any]:
        """What :func:`portable_bp.fit` takes as X, and as ``validation``.

        Returns
        -------
        tuple
            The source of the training rows.
        Source
            That of the validation rows.
        """
        return (self.train.source,), self.validation.source

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
        true = [self.test.read_targets(block) for block in range(len(self.test.sizes))]
        return np.concatenate(true), np.asarray(model.predict(self.test.source)).reshape(-1)


def prepare_source(
    path: str,
    target: str | None = None,
    task: Task | None = None,
    *,
    drop: Collection[str] = (),
    test_share: float = 0.2,
    seed: int = 0,
) -> PreparedSource:
    """Choose the task, find the units of the columns by one pass, and hold out rows.

    Parameters
    ----------
    path : str
        ``.parquet`` or ``.npy`` files: a path, a folder or a pattern.
    target : str or None
        The column to learn; None for the last of ``.npy`` files.
    task : str or None
        ``"classification"`` or ``"regression"``; None for what
        :func:`~portable_bp.tabular.infer_task` would say.
    drop : collection of str
        Columns to leave out; all others are numbers, without missing values.
    test_share : float
        The share to test on, between 0 and 1; a tenth of the rest is held out as well. Shares are of
        blocks, as :func:`portable_bp.fit` holds them out.
    seed : int
        It chooses the rows of each part.

    Returns
    -------
    PreparedSource

    Raises
    ------
    DataError
        When the files cannot be learnt from.
    """
    check_task(task)
    source, features, name = _opened(path, target, {*map(plain_name, drop)})
    classes, chosen, why = _task(source, task, name)
    if classes is not None and source.classes is None:
        source = Described.of(Encoded(source, classes))
    rest, test = (Described.of(part) for part in split(source, test_share, seed, "test_share"))
    train, held = (Described.of(p) for p in split(rest, VALIDATION_SHARE, seed, "validation"))
    found = moments(train, same_unit=source.dtype == np.uint8)
    shift, unit = (None, 1.0) if classes is not None else (found.target_mean, found.target_scale)
    labels: tuple[Label, ...] = () if classes is None else tuple(classes.tolist())
    preparation = Preparation(
        features, found.mean, found.scale, name, chosen, labels, shift or 0.0, unit
    )

    def scaled(part: Described) -> Described:
        return Described.of(Scaled(part, found.mean, found.scale, shift, unit))

    return PreparedSource(preparation, scaled(train), scaled(held), scaled(test), why)


def _opened(
    path: str, target: str | None, drop: set[str]
) -> tuple[Described, tuple[str, ...], str]:
    """The source, the names of its columns, and that of its target."""
    first = paths_of("source", path)[0]
    if first.suffix.lower() == ".npy":
        stored = (*Matrix.of(first).shape, 1)[1]
        names = [str(j) for j in range(stored)]
        target = names[-1] if target is None else target
    elif target is None:
        raise DataError(f"{path}: name the column to learn (target)")
    else:
        names = columns_of(first)
    for name in (target, *sorted(drop)):
        if name not in names:
            raise DataError(f"{path} has no column {shown(name)}; it has {shown(names)}")
    features = tuple(n for n in names if n != target and n not in drop)
    if not features:
        raise DataError(f"{path} has no column to learn from beside {shown(target)}")
    if first.suffix.lower() == ".npy":
        source: Any = open(path, int(target), [int(n) for n in features])
    else:
        source = open(path, target, features)
    return Described.of(source), features, target


def _task(source: Described, task: Task | None, target: str) -> tuple[HostArray | None, Task, str]:
    """The labels, if they are classes; the task, and the reason for it."""
    classes = source.classes
    if classes is not None:
        if task == "regression":
            raise DataError(f"column {shown(target)} holds labels, no quantities")
        chosen, why = "as asked", "target is text"
        return _several(classes, target), "classification", chosen if task else why
    if task == "regression":
        return None, "regression", "as asked"
    found = _distinct(source, None if task else FEW)
    if found is None:
        return None, "regression", f"target has numbers, or more than {FEW} distinct integers"
    if task is None and not (len(found) <= 2 or 5 * len(found) <= source.n):
        return None, "regression", f"target has {len(found):,} distinct integers"
    why = "as asked" if task else f"target has {len(found):,} distinct integers"
    return _several(found, target), "classification", why


def _several(classes: HostArray, target: str) -> HostArray:
    if len(classes) < 2:
        raise DataError(
            f"every row has the class {shown(classes.tolist()[0])} in column {shown(target)}; at least "
            "two classes are needed"
        )
    return classes


def _distinct(source: Described, most: int | None) -> HostArray | None:
    """The distinct values of the target; None for more than ``most`` of them, or fractions."""
    found: HostArray = np.zeros(0, source.target_dtype)
    for block in range(len(source.sizes)):
        y = source.read_targets(block)
        finite = np.isfinite(y)
        if not finite.all():
            raise DataError(f"{source.place(block, int(np.argmin(finite)))}: the target is missing")
        found = np.union1d(found, y)
        if most is not None and (len(found) > most or (found != np.round(found)).any()):
            return None
    whole = found.dtype.kind == "f" and (found == np.round(found)).all()
    return found.astype(np.int64) if whole else found


def cells_of(path: Path) -> int:
    """How many cells a ``.parquet`` or ``.npy`` file holds, by its header alone."""
    if path.suffix.lower() == ".npy":
        return int(np.prod(Matrix.of(path).shape, dtype=np.int64))
    with explained(path), arrow("parquet").ParquetFile(path) as file:
        return int(file.metadata.num_rows * file.metadata.num_columns)
