"""From a path, or a pattern, to a source."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portable_bp._scalars import positive_int, shown
from portable_bp.errors import DataError
from portable_bp.sources.npy import Matrix, Npy
from portable_bp.sources.parquet import Parquet

PARQUET = (".parquet", ".pq")
SUFFIXES = (".npy", *PARQUET)


def open(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: Any = None,
    columns: Sequence[Any] | None = None,
    *,
    block_rows: int | None = None,
    window_rows: int | None = None,
) -> Npy | Parquet:
    """Rows of files as what :func:`portable_bp.fit` takes in place of X and y.

    Nothing but headers is read (and, where the target of Parquet files is text, that column): the
    rows are read while a network is trained, and are never all in memory.

    Parameters
    ----------
    path : path, pattern, or sequence of paths
        ``.npy`` or ``.parquet`` (``.pq``) files with the same columns, one under the other: a file, a
        folder of them, or a pattern such as ``"part-*.parquet"``; in the order of their names.
    target : str, int, path or sequence of str, optional
        What is learnt. For Parquet, the name of a column, or the names of several. For ``.npy``, the
        number of a column (-1 is the last), or the ``.npy`` file of y: a path, or a pattern with as
        many files. Without a target a source can be predicted from, not learnt.
    columns : sequence of str or int, optional
        The columns of X, by name (Parquet) or number (``.npy``); by default all but the target, and
        without an index that pandas stored. A column of Parquet may hold lists of equal length.
    block_rows : int, optional
        For ``.npy``: rows of a block, which is read at once; by default as many as take 256 KiB. For
        Parquet the row groups are the blocks.
    window_rows : int, optional
        How many rows are mixed with each other; by default as many as take 64 MiB. Two windows are
        in memory at a time.

    Returns
    -------
    Source
        Closed by itself when nobody uses it any more.

    Raises
    ------
    DataError
        For a file that is missing, damaged, empty, no table of numbers, or unlike the others.
    ValueError, TypeError
        For arguments that do not go together.
    ImportError
        For Parquet without pyarrow.

    Examples
    --------
    >>> import tempfile, numpy as np, portable_bp
    >>> from portable_bp import sources
    >>> rows = np.random.default_rng(0).standard_normal((1000, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/rows.npy", rows)
    ...     source = sources.open(folder + "/rows.npy", target=-1)
    ...     model = portable_bp.fit(portable_bp.MLP([2, 4, 1]), source, epochs=2)
    >>> source.n, source.row_shape, model.predict(rows[:5, :2]).shape
    (1000, (2,), (5,))
    """
    paths = paths_of("path", path)
    window_rows = None if window_rows is None else positive_int("window_rows", window_rows)
    suffixes = {p.suffix.lower() for p in paths}
    if suffixes <= {*PARQUET}:
        if block_rows is not None:
            raise ValueError(
                "block_rows is for .npy files; the blocks of Parquet are its row groups"
            )
        if isinstance(target, os.PathLike | int):
            raise TypeError(f"target must be the name of a column, got {shown(target)}")
        return Parquet(paths, target, columns, window_rows)
    if suffixes != {".npy"}:
        raise DataError(
            f"{paths[0]}: a source is of .npy or of .parquet files, got {', '.join(sorted(suffixes))}; "
            "convert the others, or write a source of your own"
        )
    block_rows = None if block_rows is None else positive_int("block_rows", block_rows)
    return _npy(paths, target, columns, block_rows, window_rows)


def paths_of(name: str, path: Any) -> list[Path]:
    """The files that a path, a pattern or a sequence of paths stands for."""
    if not isinstance(path, str | os.PathLike):
        if not isinstance(path, Sequence) or not path:
            raise TypeError(
                f"{name} must be a path, a pattern or a list of paths, got {shown(path)}"
            )
        return [p for one in path for p in paths_of(name, one)]
    whole = Path(path)
    if whole.is_dir():
        inside = sorted(p for p in whole.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise DataError(f"{whole} is a folder without .npy or .parquet files")
        return inside
    if not whole.exists() and glob.has_magic(os.fspath(path)):
        matches = sorted(Path(p) for p in glob.glob(os.fspath(path), recursive=True))
        if not matches:
            raise DataError(f"{os.fspath(path)} stands for no file")
        return matches
    if not whole.exists():
        raise DataError(f"{whole} cannot be opened: no such file")
    return [whole]


def _npy(
    paths: list[Path],
    target: Any,
    columns: Sequence[Any] | None,
    block_rows: int | None,
    window_rows: int | None,
) -> Npy:
    files = [Matrix.of(path) for path in paths]
    stored = files[0].shape[1] if len(files[0].shape) == 2 else 1
    for file in files:
        if file.shape[1:] != files[0].shape[1:] or file.dtype != files[0].dtype:
            raise DataError(
                f"{file.path} holds {file.dtype} of shape {file.shape}, {files[0].path} "
                f"{files[0].dtype} of shape {files[0].shape}: the columns must be the same"
            )
    number, targets = None, None
    if isinstance(target, int) and not isinstance(target, bool):
        number = _column("target", target, stored)
    elif target is not None:
        if not isinstance(target, str | os.PathLike | list | tuple):
            raise TypeError(
                "target must be the number of a column, or the path of an .npy file, got "
                f"{shown(target)}"
            )
        targets = [Matrix.of(p) for p in paths_of("target", target)]
        _check_targets(files, targets)
    if columns is not None:
        columns = [_column("columns", c, stored) for c in columns]
        if len({*columns}) < len(columns) or number in columns:
            raise ValueError("columns and target name a column twice; name it once")
    elif stored == 1 and number is not None:
        raise DataError(f"{paths[0]} has no column to learn from beside the target")
    return Npy(
        files, targets, target=number, columns=columns, block_rows=block_rows, window_rows=window_rows,
        learnt=target is not None,
    )  # fmt: skip


def _column(name: str, value: Any, stored: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name} must be the number of a column of the .npy file, got {shown(value)}"
        )
    if not -stored <= value < stored:
        raise ValueError(f"{name} must be a column from 0 to {stored - 1}, got {value}")
    return value % stored


def _check_targets(files: list[Matrix], targets: list[Matrix]) -> None:
    if len(files) != len(targets):
        raise DataError(
            f"{len(files)} file(s) of X and {len(targets)} of y: one is needed for each"
        )
    first = targets[0]
    for x, y in zip(files, targets, strict=True):
        if y.shape[0] != x.shape[0]:
            raise DataError(f"{y.path} has {y.shape[0]:,} row(s), but {x.path} has {x.shape[0]:,}")
        if y.shape[1:] != first.shape[1:] or y.dtype != first.dtype:
            raise DataError(
                f"{y.path} holds {y.dtype} of shape {y.shape}, {first.path} {first.dtype} of shape "
                f"{first.shape}: the columns must be the same"
            )
