"""Tables to learn from: the digits of scikit-learn, files of many kinds, and databases.

This is the public import path; the code is in :mod:`portable_bp.tables`. A file is data and nothing
else: it is never unpickled, and the memory that it would take is bounded before it is taken. Anything
wrong with it raises a :class:`DataError` of one line that says where.
"""

from portable_bp.tables.load import digits, load
from portable_bp.tables.table import DataError, Table

__all__ = ["DataError", "Table", "digits", "load"]
