"""Tables to learn from: the digits of scikit-learn, and CSV, Parquet, ``.npy`` and ``.npz`` files.

A file is data and nothing else: it is never unpickled, and what its header promises is compared with
its size before memory is taken. Whatever is wrong with it ends in a :class:`DataError` of one line
that says where.
"""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from portable_bp._typing import HostArray

SEPARATORS = ",;\t|"
"""What may stand between the cells of a CSV file; the header says which it is."""

GROWTH, GROWTH_BYTES = 100, 2**30
"""A compressed file may grow more than 100-fold in memory, or beyond 1 GiB, but not both."""


class DataError(ValueError):
    """A file or table cannot be learnt from; the message says what and where."""


@dataclass(frozen=True)
class Table:
    """Named columns of one length.

    Attributes
    ----------
    source : str
        What messages call it.
    columns : mapping from name to array of shape (n,)
        Numbers, text (objects: str, or None where missing), or what cannot be learnt from.
    default_target : str or None
        The column that is learnt unless another is named.
    same_unit : bool
        Whether all features share one unit, as pixels do: they are then scaled by one number.
    note : str
        What was found out about the file, for the reader.

    Examples
    --------
    >>> kinds = np.asarray(["cat", "dog"], dtype=object)
    >>> table = Table("pets", {"weight": np.asarray([4.0, 30.0]), "kind": kinds})
    >>> table.rows, table.numbers(["weight"]).tolist()
    (2, [[4.0], [30.0]])
    >>> table.numbers(["kind"])
    Traceback (most recent call last):
    portable_bp.datasets.DataError: pets, row 0: 'cat' in column 'kind' is not a number; turn ...
    """

    source: str
    columns: Mapping[str, HostArray]
    default_target: str | None = None
    same_unit: bool = False
    note: str = ""
    place: Callable[[int], str] = field(default="row {}".format, repr=False)
    """From a row, counted from 0, to how a reader finds it."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> HostArray:
        """The column of that name, without missing values."""
        if name not in self.columns:
            raise DataError(f"{self.source} has no column {name!r}; it has {_some(self.columns)}")
        values = self.columns[name]
        if values.dtype.kind in "mMV":
            raise DataError(
                f"{self.source}: column {name!r} holds neither numbers nor text (dates, lists, ...); "
                "turn it into numbers, or leave it out"
            )
        missing = _missing(values)
        if missing.any():
            raise DataError(
                f"{self.source}, {self.place(int(np.argmax(missing)))}: column {name!r} has a "
                f"missing value (NaN or empty), {missing.sum()} in all; fill or drop such rows"
            )
        return values

    def numbers(self, names: Sequence[str]) -> HostArray:
        """The columns side by side, float64 of shape (n, len(names)): finite numbers, or an error."""
        absent = [name for name in names if name not in self.columns]
        if absent:
            raise DataError(
                f"{self.source} lacks {len(absent)} of the {len(names)} columns needed: "
                f"{_some(absent)}; it has {_some(self.columns)}"
            )
        matrix = np.empty((self.rows, len(names)))
        for j, name in enumerate(names):
            matrix[:, j] = self._number(name)
        return matrix

    def _number(self, name: str) -> HostArray:
        values = self.column(name)
        if values.dtype.kind == "O":
            for row, cell in enumerate(values):
                if not _NUMBER.fullmatch(cell):
                    raise DataError(
                        f"{self.source}, {self.place(row)}: {cell!r} in column {name!r} is not a "
                        "number; turn the column into numbers, or leave it out"
                    )
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float64)
        if np.isinf(numbers).any():
            row = int(np.argmax(np.isinf(numbers)))
            raise DataError(
                f"{self.source}, {self.place(row)}: column {name!r} has an infinite value"
            )
        return numbers


def _missing(values: HostArray) -> HostArray:
    """Which cells are NaN, None or blank."""
    if values.dtype.kind == "O":
        return np.asarray([cell is None or not cell.strip() for cell in values], dtype=bool)
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.zeros(len(values), dtype=bool)


_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def load(source: str) -> Table:
    """The digits for ``"digits"``, else the file of that name; its suffix says what it is.

    Raises
    ------
    DataError
        When the file is missing, unreadable, damaged, empty or no table.
    """
    if source == "digits":
        return digits()
    path = Path(source)
    readers: dict[str, Callable[[Path], Table]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".pq": _parquet,
        ".npy": _npy,
        ".npz": _npz,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{source} is neither 'digits' nor a file that ends with {', '.join(readers)}"
        )
    try:
        if not path.is_file():
            raise DataError(f"{source}: " + ("not a file" if path.exists() else "no such file"))
        if path.stat().st_size == 0:
            raise DataError(f"{source} is empty")
        table = reader(path)
    except OSError as error:
        raise DataError(
            f"{source} cannot be read: {error.strerror or _first_line(error)}"
        ) from error
    if not table.columns or table.rows == 0:
        raise DataError(f"{source} has no rows")
    return table


def digits() -> Table:
    """1,797 handwritten digits of 8 x 8 pixels from 0 to 16, from scikit-learn.

    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository (1998).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn: pip install 'portable-bp[cli]'"
        ) from error
    bunch = load_digits()
    columns = dict(zip(bunch.feature_names, bunch.data.T, strict=True))
    return Table("digits", {**columns, "digit": bunch.target}, "digit", same_unit=True)


def _some(names: Iterable[str], most: int = 8) -> str:
    """The first names, in quotes, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_bomb(path: Path, unpacked: int) -> None:
    """Raise when the file would grow beyond all measure."""
    if unpacked > GROWTH_BYTES and unpacked > GROWTH * path.stat().st_size:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes and would take {unpacked:,} in memory, more "
            f"than {GROWTH} times as many; store it uncompressed if that is meant"
        )


# ----------------------------------------------------------------------------- CSV and Parquet


def _csv(path: Path) -> Table:
    arrow, reader = _arrow("pyarrow"), _arrow("pyarrow.csv")
    lines = _Lines(path)
    try:
        table = reader.read_csv(
            path,
            reader.ReadOptions(
                column_names=lines.names,
                skip_rows=lines.before,
                # One block, so that types are inferred from all rows.
                block_size=min(path.stat().st_size + 1, 2**31 - 1),
            ),
            reader.ParseOptions(delimiter=lines.separator, newlines_in_values=True),
        )
    except arrow.ArrowException as error:
        raise lines.explain(error) from error
    if any(arrow.types.is_binary(column.type) for column in table.columns):
        raise lines.not_text()
    notes = []
    if not lines.header:
        notes.append("no header: columns are called 0, 1, ...")
    if lines.separator != ",":
        notes.append(f"cells are separated by {lines.separator!r}")
    return Table(str(path), _columns(arrow, table), note="; ".join(notes), place=lines.place)


def _parquet(path: Path) -> Table:
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            stored = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            _refuse_bomb(path, max(stored, 8 * meta.num_rows * meta.num_columns))
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or damaged: {_first_line(error)}") from error
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise DataError(f"{path}: two columns are called {name!r}; rename one")
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    note = "the index that pandas stored is left out" if index else ""
    return Table(str(path), _columns(arrow, table.drop_columns(index)), note=note)


def _columns(arrow: ModuleType, table: Any) -> dict[str, HostArray]:
    return {name: _to_numpy(arrow, table[name]) for name in table.column_names}


def _to_numpy(arrow: ModuleType, column: Any) -> HostArray:
    """An Arrow column as :class:`Table` holds it; a null is NaN, or None in text."""
    types = arrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_boolean(kind) and column.null_count:
        column = column.cast(arrow.int8())
    elif types.is_decimal(kind) or types.is_null(kind):
        column = column.cast(arrow.float64())
    elif not (
        types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    ):
        return np.zeros(len(column), "V1")
    values: HostArray = column.to_numpy()
    return values


def _arrow(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(
            "CSV and Parquet files need pyarrow: pip install 'portable-bp[cli]'"
        ) from error


class _Lines:
    """A CSV file line by line: its header, and where the trouble is when there is some."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._open() as file:
                before, line = next(
                    ((i, line) for i, line in enumerate(file) if line.strip()), (0, "")
                )
            if "\0" in line:
                raise self.not_text()
            if not line:
                raise DataError(f"{path} is empty")
            self.separator = max(
                SEPARATORS, key=lambda s: (len(next(csv.reader([line], delimiter=s))), s == ",")
            )
            first, names = next(self.records())
            second = next((start for start, _ in self.records() if start > first), None)
        except UnicodeDecodeError as error:
            raise self.not_text() from error
        except csv.Error as error:
            raise self._not_csv(error) from error
        self.header = not all(_NUMBER.fullmatch(cell) for cell in names)
        self.names = (
            [name.strip() for name in names] if self.header else [str(i) for i in range(len(names))]
        )
        self.before = before
        """Lines above the first row."""
        if self.header:
            if second is None:
                raise DataError(f"{path} has a header and no rows")
            self.before = second - 1
        for i, name in enumerate(self.names):
            if not name:
                raise DataError(
                    f"{path}: column {i + 1} has no name (an index that pandas wrote?); name it or "
                    f"write the file without it"
                )
            if name in self.names[:i]:
                raise DataError(f"{path}: two columns are called {name!r}; rename one")

    def _open(self) -> IO[str]:
        return open(self.path, encoding="utf-8-sig", newline="")  # a byte order mark is skipped

    def not_text(self) -> DataError:
        """What to say about bytes that are none."""
        return DataError(f"{self.path} is not text in UTF-8; save it as CSV UTF-8")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the first line and cells of every record that is not blank."""
        with self._open() as file:
            reader = csv.reader(file, delimiter=self.separator)
            start = 1
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield start, cells
                start = reader.line_num + 1

    def place(self, row: int) -> str:
        """Where the reader finds a row, counted from 0."""
        with suppress(csv.Error):  # a cell that is too large for Python's own reader
            for i, (start, _) in enumerate(self.records(), start=-1 if self.header else 0):
                if i == row:
                    return f"line {start}"
        return f"row {row}"

    def explain(self, error: Exception) -> DataError:
        """What is wrong with the file, once a reader has given it up."""
        try:
            ragged = next((r for r in self.records() if len(r[1]) != len(self.names)), None)
        except UnicodeDecodeError:
            return self.not_text()
        except csv.Error:
            ragged = None
        if ragged is not None:
            return DataError(
                f"{self.path}, line {ragged[0]}: {len(ragged[1])} cells, where the first line has "
                f"{len(self.names)}"
            )
        return self._not_csv(error)

    def _not_csv(self, error: Exception) -> DataError:
        return DataError(f"{self.path} cannot be read as CSV: {_first_line(error)}")


# ------------------------------------------------------------------------- arrays of NumPy's


def _npy(path: Path) -> Table:
    with open(path, "rb") as file:
        array = _array(file, path.stat().st_size, str(path))
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; a table has the shape (rows, columns)"
        )
    columns = _numbered(array)
    note = f"columns are called 0 to {len(columns) - 1}"
    return Table(str(path), columns, [*columns][-1], array.dtype == np.uint8, note)


def _npz(path: Path) -> Table:
    arrays: dict[str, HostArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _refuse_bomb(path, sum(member.file_size for member in members))
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    arrays[name] = _array(stream, member.file_size, f"{path}, array {name!r}")
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise DataError(f"{path} is no .npz file, or damaged: {_first_line(error)}") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    X, y = arrays.get("X"), arrays.get("y")
    if X is not None and X.ndim == 2 and (y is None or y.shape in ((len(X),), (len(X), 1))):
        others = sorted(arrays.keys() - {"X", "y"})
        note = f"arrays that are left out: {_some(others)}" if others else ""
        columns = _numbered(X)
        if y is None:
            return Table(str(path), columns, None, X.dtype == np.uint8, note)
        target = {"y": y.reshape(-1)}
        return Table(str(path), columns | target, "y", X.dtype == np.uint8, note)
    if {array.ndim for array in arrays.values()} != {1} or len(set(shapes.values())) > 1:
        raise DataError(
            f"{path} holds arrays of the shapes {shapes}; needed are X (rows, columns) and y "
            "(rows,), or one array for each column, all of one length"
        )
    return Table(str(path), arrays)


def _numbered(matrix: HostArray) -> dict[str, HostArray]:
    return {str(j): matrix[:, j] for j in range(matrix.shape[1])}


def _array(stream: IO[bytes], size: int, what: str) -> HostArray:
    """The array in ``.npy`` form that fills ``size`` bytes, checked before memory is taken."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, _, dtype = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # whatever a header may raise when it is parsed
        raise DataError(f"{what} is not in the .npy format, or damaged") from error
    if dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects, and reading them could run code; save numbers or text"
        )
    if dtype.kind not in "biufU":
        raise DataError(f"{what} holds {dtype}, neither numbers nor text")
    promised, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or promised != there:
        raise DataError(
            f"{what}: its header promises the shape {shape}, {promised:,} bytes, and {there:,} are "
            "there; it is cut short or damaged"
        )
    stream.seek(0)
    array: HostArray = npy.read_array(stream, allow_pickle=False)
    return array.astype(object) if dtype.kind == "U" else array
