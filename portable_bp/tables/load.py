"""One door to every kind of table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from portable_bp.tables.csv_file import STANDARD_INPUT, CsvFile
from portable_bp.tables.read_arrow import read_parquet
from portable_bp.tables.read_csv import read_csv
from portable_bp.tables.read_numpy import read_npy, read_npz
from portable_bp.tables.table import DataError, Table, first_line

CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".npy": read_npy,
    ".npz": read_npz,
}


def load(source: str | os.PathLike[str], header: bool | None = None) -> Table:
    """Read a table from a file.

    Parameters
    ----------
    source : str or path
        ``"digits"`` for the digits of scikit-learn; a ``.csv``, ``.tsv`` (also with ``.gz``),
        ``.parquet``, ``.pq``, ``.npy`` or ``.npz`` file; ``"-"`` for CSV from standard input.
    header : bool or None
        Whether the first line of a CSV file names the columns; None guesses, and the note of the
        table says what was assumed.

    Returns
    -------
    Table
        Its columns, in the order of the file.

    Raises
    ------
    DataError
        When the file is missing, unreadable, damaged, empty or no table.
    """
    name = os.fspath(source)
    try:
        table = _read(name, header)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
    if not table.columns or table.rows == 0:
        raise DataError(f"{table.source} has no rows")
    return table


def _read(name: str, header: bool | None) -> Table:
    if name in STANDARD_INPUT:
        return read_csv(CsvFile.standard_input(), header)
    path = Path(name)
    reader = READERS.get(path.suffix.lower())
    is_csv = name.lower().endswith(CSV)
    if name != "digits" and reader is None and not is_csv:
        raise DataError(
            f"{name} is neither 'digits' nor '-' (CSV from standard input) nor a file that ends with "
            f"{', '.join([*CSV, *READERS])}; convert or unpack other files, or pipe CSV to '-'"
        )
    if header is not None and not is_csv:
        raise DataError(f"{name}: header is an option for CSV files only; leave it out")
    if name == "digits":
        return digits()
    if not path.is_file():
        raise DataError(f"{name}: " + ("not a file" if path.exists() else "no such file"))
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty")
    if reader is not None:
        return reader(path)
    return read_csv(CsvFile.of(path), header)


def digits() -> Table:
    """1,797 handwritten digits of 8 x 8 pixels from 0 to 16, from scikit-learn.

    Returns
    -------
    Table
        The pixels and the column ``digit``.

    References
    ----------
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
