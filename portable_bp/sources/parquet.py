"""Rows of Parquet files, row group by row group."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from portable_bp._scalars import shown
from portable_bp._typing import HostArray
from portable_bp.errors import DataError

CACHED_ROWS = 4096
"""So many rows are put together at a time: few enough that columns become rows within the cache."""

BATCH_BYTES = 2**25
"""About what is decoded at a time: a row group as a whole, unless it is large."""

TARGET_ROWS = 2**16
"""Rows of the targets alone that are decoded at a time."""

OPEN_FILES = 16
"""So many files of a data set are open at a time."""


def arrow(name: str = "") -> ModuleType:
    """pyarrow, or a module of it; an ImportError that says how to install it."""
    try:
        return import_module(f"pyarrow.{name}" if name else "pyarrow")
    except ImportError as error:
        raise ImportError(
            "a Parquet source needs pyarrow: pip install 'portable-bp[cli]'"
        ) from error


def pandas_index(metadata: Mapping[bytes, bytes], names: Sequence[str]) -> set[str]:
    """The columns that hold an index that pandas stored."""
    index = {name for name in names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        stored = json.loads(metadata.get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return index  # written by something else
    if isinstance(stored, list):
        index |= {name for name in stored if isinstance(name, str)} & {*names}
    return index


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns, without an index that pandas stored."""
    with explained(path), arrow("parquet").ParquetFile(path) as file:
        schema = file.schema_arrow
    index = pandas_index(schema.metadata or {}, schema.names)
    return [name for name in schema.names if name not in index]


@dataclass(frozen=True)
class Column:
    """A column of the files, and where its numbers stand in a row of X."""

    name: str
    kind: Any
    width: int
    """1, or the length of its lists."""
    first: int = 0

    @property
    def is_list(self) -> bool:
        types = arrow("types")
        return bool(
            types.is_fixed_size_list(self.kind)
            or types.is_list(self.kind)
            or types.is_large_list(self.kind)
        )

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """What NumPy holds its numbers in; None for a column of anything else."""
        types, kind = arrow("types"), self.kind.value_type if self.is_list else self.kind
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_boolean(kind):
            return np.dtype("uint8")
        if types.is_integer(kind) or types.is_floating(kind):
            dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
            return dtype
        return np.dtype("float64") if types.is_decimal(kind) else None

    @property
    def is_label(self) -> bool:
        """Whether it holds text or booleans, which only a target may."""
        types, kind = arrow("types"), self.kind
        if types.is_dictionary(kind):
            kind = kind.value_type
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        return bool(text or types.is_boolean(kind))


class Files:
    """Parquet files with the same columns, some of them open.

    Parameters
    ----------
    paths : sequence of Path
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: OrderedDict[int, Any] = OrderedDict()
        self.groups: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.first_rows: list[int] = []
        """For each row group: its file and number, its rows, and that of its first row in the file."""
        self.schema: Any = None
        for number, path in enumerate(self.paths):
            meta = self._checked(number).metadata
            row = 0
            for group in range(meta.num_row_groups):
                rows = meta.row_group(group).num_rows
                if rows:
                    self.groups.append((number, group))
                    self.sizes.append(rows)
                    self.first_rows.append(row)
                row += rows
            if row != meta.num_rows:
                raise DataError(
                    f"{path} is not a valid Parquet file: its footer promises {meta.num_rows:,} rows, "
                    f"its row groups {row:,}"
                )
        if not self.sizes:
            raise DataError(f"{self.paths[0]} has no rows")

    def _checked(self, number: int) -> Any:
        """A file, opened, with the columns of the first one."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = self.paths[number]
        with explained(path):
            file = arrow("parquet").ParquetFile(path)
            schema = file.schema_arrow.remove_metadata()
        if self.schema is None:
            self.schema, self.metadata = schema, file.schema_arrow.metadata or {}
        if not schema.equals(self.schema):
            file.close()
            raise DataError(
                f"{path} has other columns than {self.paths[0]}: {self._change(schema)}"
            )
        self._open[number] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def _change(self, schema: Any) -> str:
        """The first difference between two schemas, in words."""
        mine = {f.name: f.type for f in self.schema}
        theirs = {f.name: f.type for f in schema}
        for name, kind in mine.items():
            if name not in theirs:
                return f"it lacks {shown(name)}"
            if theirs[name] != kind:
                return f"{shown(name)} is {theirs[name]}, there it is {kind}"
        return f"it has {shown(next(iter(theirs.keys() - mine.keys()), None))} as well, or another order"

    def batches(self, block: int, names: Sequence[str], rows: int) -> Iterator[tuple[int, Any]]:
        """Some columns of a row group, some rows at a time: (row in the group, batch)."""
        number, group = self.groups[block]
        path, file = self.paths[number], self._checked(number)
        done, wanted = 0, self.sizes[block]
        with explained(path):
            meta = file.metadata
            if group >= meta.num_row_groups or meta.row_group(group).num_rows != wanted:
                raise DataError(f"{path} was replaced while it was read: its row groups are others")
            for batch in file.iter_batches(
                rows, row_groups=[group], columns=list(names), use_threads=False
            ):
                if done + batch.num_rows > wanted:
                    break
                yield done, batch
                done += batch.num_rows
        if done != wanted:
            raise DataError(
                f"{path} is not a valid Parquet file: row group {group} promises {wanted:,} rows, but "
                f"{done:,} are there"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What pyarrow raises within the block becomes a DataError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be opened: no such file") from error
    except (arrow().ArrowException, OSError, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} is not a valid Parquet file: {first}") from error


class Parquet:
    """Rows of Parquet files: a :class:`Source`, each row group a block; :func:`open` makes one.

    Parameters
    ----------
    paths : sequence of paths
        Files with the same columns, one under the other.
    target : str or sequence of str, optional
        The columns of y.
    columns : sequence of str, optional
        The columns of X; by default all but the target.
    window_rows : int, optional
        How many rows are mixed with each other.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        target: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        window_rows: int | None = None,
    ) -> None:
        self.window_rows = window_rows
        self._files = files = Files(paths)
        self.blocks, self.n = files.sizes, sum(files.sizes)
        targets = [] if target is None else [target] if isinstance(target, str) else list(target)
        left_out = pandas_index(files.metadata, files.schema.names)
        if columns is None:
            columns = [c for c in files.schema.names if c not in {*targets, *left_out}]
        self._check_names([*columns, *targets])
        self._features = self._placed(columns)
        self._targets = [self._column(name) for name in targets]
        kinds = [self._numeric(column) for column in self._features]
        self.dtype = np.result_type(*kinds)
        self.row_shape = (sum(column.width for column in self._features),)
        lists = any(column.is_list for column in self._features)
        self.feature_names = None if lists else tuple(columns)
        self.target_shape = () if len(targets) == 1 else (len(targets),)
        self.classes = self._labels() if self._has_labels() else None
        numbers = [] if self.classes is not None else [self._numeric(c) for c in self._targets]
        self.target_dtype = np.result_type(*numbers) if numbers else np.dtype("int64")

    def _check_names(self, names: Sequence[str]) -> None:
        there, path = self._files.schema.names, self._files.paths[0]
        for name in names:
            if there.count(name) != 1:
                what = "two columns" if name in there else "no column"
                raise DataError(
                    f"{path} has {what} {shown(name)}; it has {', '.join(map(shown, there[:8]))}"
                    + (f" and {len(there) - 8:,} more" if len(there) > 8 else "")
                )
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ValueError(f"columns and target name {shown(twice)} twice; name it once")
        if not names:
            raise DataError(f"{path} has no column to learn from beside the target")

    def _column(self, name: str, first: int = 0) -> Column:
        kind = self._files.schema.field(name).type
        column = Column(name, kind, 1, first)
        if not column.is_list:
            return column
        width = getattr(kind, "list_size", None)
        if width is None:  # lists of any length: as many as the first row has
            _, batch = next(self._files.batches(0, [name], 1))
            width = len(batch.column(0)[0].as_py() or ())
        return Column(name, kind, int(width), first)

    def _placed(self, names: Sequence[str]) -> list[Column]:
        columns: list[Column] = []
        for name in names:
            columns.append(self._column(name, sum(c.width for c in columns)))
        return columns

    def _numeric(self, column: Column) -> np.dtype[Any]:
        if column.dtype is None or not column.width:
            raise DataError(
                f"{self._files.paths[0]}: column {shown(column.name)} holds {column.kind}, which is no "
                "number; leave it out (columns=...), or store it as numbers"
            )
        return column.dtype

    def _has_labels(self) -> bool:
        labels = [column.name for column in self._targets if column.is_label]
        if labels and len(self._targets) > 1:
            raise DataError(
                f"{self._files.paths[0]}: column {shown(labels[0])} holds text or booleans; several "
                "targets are numbers"
            )
        return bool(labels)

    def _labels(self) -> HostArray:
        """The distinct labels, sorted, by one pass over the column."""
        column, distinct = self._targets[0], set[Any]()
        for block in range(len(self.blocks)):
            for row, batch in self._files.batches(block, [column.name], TARGET_ROWS):
                values = batch.column(0)
                self._refuse_missing(block, row, column, values)
                distinct.update(values.unique().to_pylist())
        return np.asarray(sorted(distinct))

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_x : array of shape (rows, columns)
        out_y : array of shape (rows,) or (rows, outputs)
        """
        names = [c.name for c in (*self._features, *self._targets)]
        rows = max(CACHED_ROWS, BATCH_BYTES // (self.row_shape[0] * self.dtype.itemsize))
        for row, batch in self._files.batches(block, names, rows):
            index = {name: i for i, name in enumerate(batch.schema.names)}
            columns = [
                (
                    slice(c.first, c.first + c.width),
                    self._values(block, row, c, batch.column(index[c.name])),
                )
                for c in self._features
            ]
            for start in range(0, batch.num_rows, CACHED_ROWS):
                part = slice(start, min(start + CACHED_ROWS, batch.num_rows))
                out = out_x[row + part.start : row + part.stop]
                for place, values in columns:
                    out[:, place] = values[part]
            self._fill_targets(block, row, batch, index, out_y[row : row + batch.num_rows])

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block: no other column is read.

        Parameters
        ----------
        block : int
            Its number.
        out_y : array of shape (rows,) or (rows, outputs)
        """
        names = [c.name for c in self._targets]
        if not names:
            return
        for row, batch in self._files.batches(block, names, TARGET_ROWS):
            index = {name: i for i, name in enumerate(batch.schema.names)}
            self._fill_targets(block, row, batch, index, out_y[row : row + batch.num_rows])

    def _fill_targets(
        self, block: int, row: int, batch: Any, index: Mapping[str, int], out: HostArray
    ) -> None:
        for j, column in enumerate(self._targets):
            values = batch.column(index[column.name])
            place = out if out.ndim == 1 else out[:, j]
            if self.classes is None:
                place[...] = self._values(block, row, column, values)[:, 0]
                continue
            self._refuse_missing(block, row, column, values)
            encoded = values if hasattr(values, "dictionary") else values.dictionary_encode()
            words = np.asarray(encoded.dictionary.to_pylist())
            codes = np.searchsorted(self.classes, words)
            known = np.minimum(codes, len(self.classes) - 1)
            if (self.classes[known] != words).any():
                path = self._files.paths[self._files.groups[block][0]]
                raise DataError(
                    f"{path} was replaced while it was read: it has labels that were not there"
                )
            place[...] = codes[encoded.indices.to_numpy(zero_copy_only=False)]

    def _values(self, block: int, row: int, column: Column, values: Any) -> HostArray:
        """The numbers of a column, (rows, width)."""
        types = arrow("types")
        self._refuse_missing(block, row, column, values)
        if column.is_list:
            if not types.is_fixed_size_list(values.type):
                self._check_lengths(block, row, column, values)
            flat = values.flatten()
            self._refuse_missing(block, row, column, flat)
            return self._values(block, row, Column(column.name, flat.type, 1), flat).reshape(
                len(values), column.width
            )
        if types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if types.is_decimal(values.type):
            values = values.cast(arrow().float64())
        numbers: HostArray = values.to_numpy(zero_copy_only=False)
        return numbers.reshape(len(numbers), 1)

    def _check_lengths(self, block: int, row: int, column: Column, values: Any) -> None:
        lengths = np.diff(values.offsets.to_numpy(zero_copy_only=False))
        wrong = lengths != column.width
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise DataError(
                f"{self._row(block, row + bad)}: the list in column {shown(column.name)} has "
                f"{int(lengths[bad])} numbers, that of the first row has {column.width}"
            )

    def _refuse_missing(self, block: int, row: int, column: Column, values: Any) -> None:
        if values.null_count:
            bad = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(
                f"{self._row(block, row + bad // column.width)}: column {shown(column.name)} has a "
                "missing value; fill or drop such rows"
            )

    def _row(self, block: int, row: int) -> str:
        number, _ = self._files.groups[block]
        return f"{self._files.paths[number]}, row {self._files.first_rows[block] + row}"

    def place(self, block: int, row: int, column: int | None = None) -> str:
        """Words that say where a value is.

        Parameters
        ----------
        block, row : int
            The block, and the row in it.
        column : int, optional
            Of X; without one the value is a target.

        Returns
        -------
        str
            ``"part-3.parquet, row 17, column 'age'"``; rows are counted from 0, in the file.
        """
        columns = self._targets[:1] if column is None else self._features
        name = next((shown(c.name) for c in reversed(columns) if c.first <= (column or 0)), "")
        return f"{self._row(block, row)}, column {name}"

    def __repr__(self) -> str:
        paths = self._files.paths
        files = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
        return f"<Parquet {files}: {self.n:,} rows of {self.row_shape[0]:,} columns>"
