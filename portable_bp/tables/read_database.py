"""Tables from databases: what a query gives, by ADBC's drivers as batches of Arrow."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from portable_bp.tables.arrow_columns import ArrowColumns
from portable_bp.tables.limits import COLUMN_BYTES, allowed
from portable_bp.tables.table import DataError, Table, first_line

DRIVERS = {
    "sqlite": "adbc_driver_sqlite",
    "postgresql": "adbc_driver_postgresql",
    "snowflake": "adbc_driver_snowflake",
}
"""From the scheme of a URI to the package of the driver."""

MOST_BYTES = 2**31
"""What may come from a server."""


def is_database(source: str) -> bool:
    """Whether a source is a database rather than a file.

    >>> is_database("sqlite:///flowers.db"), is_database("flowers.csv")
    (True, False)
    """
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.isalnum()


def read_database(uri: str, query: str | None) -> Table:
    """The table that a query gives.

    Parameters
    ----------
    uri : str
        ``sqlite:///file.db`` (``sqlite:////absolute/file.db``), or the URI of a server, such as
        ``postgresql://user:password@host/database``.
    query : str or None
        In SQL; None raises an error that says that it is needed.

    Returns
    -------
    Table
        Numbers, booleans, decimals, text and dates; other columns cannot be learnt from.
    """
    scheme, _, rest = uri.partition("://")
    name = f"{scheme}://{rest.rpartition('@')[2]}"  # without a password
    if scheme not in DRIVERS:
        raise DataError(f"{name}: unknown kind of database; use one of {', '.join(DRIVERS)}")
    if query is None or not query.strip():
        raise DataError(
            f"{name} is a database: say what to read, as --query 'SELECT * FROM table' (in Python, "
            "query=)"
        )
    refuse = partial(_refuse_bytes, name, MOST_BYTES)
    if scheme == "sqlite":
        path = Path(rest.removeprefix("/"))
        if not path.is_file():
            raise DataError(f"{name}: " + ("not a file" if path.exists() else "no such file"))
        # Only to read: a query cannot change it, and a wrong name makes no new one.
        uri = f"file:{quote(str(path))}?mode=ro"
        refuse = partial(_refuse_bytes, name, allowed(path.stat().st_size))
    driver = _driver(DRIVERS[scheme])
    try:
        with driver.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            batches = cursor.fetch_record_batch()
            refuse(COLUMN_BYTES * len(batches.schema))
            columns = ArrowColumns(name, batches.schema, refuse)
            for batch in batches:
                columns.add(batch)
    except (driver.Error, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: {first_line(error)}") from error
    return columns.table()


def _driver(package: str) -> Any:
    try:
        return import_module(f"{package}.dbapi")
    except ImportError as error:
        name = package.replace("_", "-")
        raise DataError(f"this database needs {name}: pip install {name} pyarrow") from error


def _refuse_bytes(source: str, most: int, decoded: int) -> None:
    if decoded > most:
        raise DataError(f"{source}: the query gives more than {most:,} bytes; select less")
