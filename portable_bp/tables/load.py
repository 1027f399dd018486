"""One door to every kind of table."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from portable_bp.tables.read_csv import read_csv
from portable_bp.tables.read_database import is_database, read_database
from portable_bp.tables.read_excel import read_excel
from portable_bp.tables.read_ipc import read_ipc
from portable_bp.tables.read_json import read_json
from portable_bp.tables.read_numpy import read_npy, read_npz
from portable_bp.tables.read_parquet import read_parquet
from portable_bp.tables.table import DataError, Table, first_line
from portable_bp.tables.text_file import STANDARD_INPUT, TextFile
from portable_bp.tables.unpack import PACKED

CSV, JSON = (".csv", ".tsv"), (".jsonl", ".ndjson")

READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".feather": read_ipc,
    ".arrow": read_ipc,
    ".ipc": read_ipc,
    ".npy": read_npy,
    ".npz": read_npz,
}


def load(
    source: str | os.PathLike[str], header: bool | None = None, *, query: str | None = None
) -> Table:
    """Read a table from a file or a database.

    Parameters
    ----------
    source : str or path
        ``"digits"`` for the digits of scikit-learn; a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``
        file (each also with ``.gz`` or ``.zst``); a ``.parquet``, ``.pq``, ``.feather``, ``.arrow``,
        ``.ipc``, ``.xlsx``, ``.npy`` or ``.npz`` file; ``"-"`` for CSV from standard input;
        ``"sqlite:///file.db"`` or the URI of a server for a database.
    header : bool or None
        Whether the first line of a CSV file or sheet names the columns; None guesses, and the note of
        the table says what was assumed.
    query : str or None
        What to read from a database, in SQL.

    Returns
    -------
    Table
        Its columns, in the order of the file.

    Raises
    ------
    DataError
        When the file is missing, unreadable, damaged, empty or no table; the message lists the first
        problems with their places.
    """
    name = os.fspath(source)
    try:
        table = _read(name, header, query)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
    if not table.columns or table.rows == 0:
        raise DataError(f"{table.source} has no rows")
    return table


def _read(name: str, header: bool | None, query: str | None) -> Table:
    if is_database(name):
        _leave_out(name, header=header)
        return read_database(name, query)
    _leave_out(name, query=query)
    if name in STANDARD_INPUT:
        return read_csv(TextFile.standard_input(), header)
    path = Path(name)
    kind = _kind(path)
    if kind not in (*CSV, ".xlsx"):
        _leave_out(name, header=header)
    if kind == "digits":
        return digits()
    if not path.is_file():
        raise DataError(f"{name}: " + ("not a file" if path.exists() else "no such file"))
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty")
    if kind == ".xlsx":
        return read_excel(path, header)
    if kind in READERS:
        return READERS[kind](path)
    text = TextFile.of(path)
    return read_json(text) if kind in JSON else read_csv(text, header)


def _kind(path: Path) -> str:
    """``digits``, or the suffix that tells how to read a file, without that of packed files."""
    if str(path) == "digits":
        return "digits"
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1].lstrip(".") in PACKED:
        suffixes.pop()
        kinds: tuple[str, ...] = (*CSV, *JSON)
    else:
        kinds = (*CSV, *JSON, ".xlsx", *READERS)
    if suffixes and suffixes[-1] in kinds:
        return suffixes[-1]
    raise DataError(
        f"{path} is neither 'digits' nor '-' (CSV from standard input) nor a database "
        f"(sqlite:///FILE) nor a file that ends with {', '.join([*CSV, *JSON])} (these also with "
        f".{', .'.join(PACKED)}), .xlsx, {', '.join(READERS)}; convert or unpack other files, or pipe "
        "CSV to '-'"
    )


def _leave_out(name: str, header: bool | None = None, query: str | None = None) -> None:
    """Refuse options that mean nothing here."""
    if header is not None:
        raise DataError(
            f"{name}: header is an option for CSV files and Excel sheets only; leave it out"
        )
    if query is not None:
        raise DataError(f"{name}: query is an option for databases only; leave it out")


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
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataError("the digits come with scikit-learn: pip install 'portable-bp[cli]'")
    # Its own loader imports all of scikit-learn, which takes longer than to train on the digits.
    path = Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    data = np.loadtxt(path, delimiter=",")
    columns = {f"pixel_{i // 8}_{i % 8}": data[:, i] for i in range(64)}
    return Table(
        "digits", {**columns, "digit": data[:, 64].astype(np.int64)}, "digit", same_unit=True
    )
