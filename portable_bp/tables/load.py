"""One door to every kind of table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from portable_bp.tables.read_arrow import read_parquet
from portable_bp.tables.read_csv import read_csv
from portable_bp.tables.read_numpy import read_npy, read_npz
from portable_bp.tables.table import DataError, Table, first_line


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
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
        ".pq": read_parquet,
        ".npy": read_npy,
        ".npz": read_npz,
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
            f"{source} cannot be read: {error.strerror or first_line(error)}"
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
