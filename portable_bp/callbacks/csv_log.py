"""The numbers of each epoch as a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portable_bp.callbacks.base import EpochLog, Row
from portable_bp.inputs import checks


class CSVLog(EpochLog):
    """Write the numbers of each epoch into a CSV file, one line each.

    Parameters
    ----------
    file : str or path
        The file. The first training begins it anew; the lines of further ones (a search, a
        cross-validation) are added, and the column ``run`` counts them.
    append : bool, default False
        Keep the lines of earlier trainings that stand in the file.

    Notes
    -----
    A line is in the file when its epoch has ended. In another process (a search with ``n_jobs``) the
    number of the process is added to the name of the file, so that no two write into one.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import portable_bp
    >>> from portable_bp.callbacks import CSVLog
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> net = portable_bp.MLP([1, 1])
    >>> model = portable_bp.fit(net, [[0.0], [1.0]], [1.0, 3.0], epochs=2, callbacks=[CSVLog(file)])
    >>> file.read_text().splitlines()[0]
    'run,epoch,loss,learning_rate,seconds'
    """

    def __init__(self, file: str | os.PathLike[str], *, append: bool = False) -> None:
        super().__init__()
        self.file, self.append = Path(file), checks.boolean("append", append)
        if not self.file.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"the folder of {str(self.file)!r} does not exist: make it first"
            )
        self._process = os.getpid()
        self._begun = append

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_begun": True}  # a copy never wipes out the file

    @property
    def path(self) -> Path:
        """The file that is written in this process."""
        here = os.getpid()
        stem, suffix = self.file.stem, self.file.suffix
        return self.file if here == self._process else self.file.with_name(f"{stem}-{here}{suffix}")

    def _open(self, settings: Mapping[str, Any]) -> _CSVRun:
        run = _CSVRun(self.path, anew=not self._begun)
        self._begun = True
        return run


class _CSVRun:
    """The lines of one training."""

    def __init__(self, path: Path, *, anew: bool) -> None:
        self._path = path
        lines: list[list[str]] = []
        if path.exists() and not anew:
            with path.open(encoding="utf-8", newline="") as file:
                lines = [line for line in csv.reader(file) if line]
        self._columns = lines[0] if lines else []
        self._run = max((int(line[0]) for line in lines[1:]), default=0) + 1

    def log(self, epoch: int, row: Row) -> None:
        columns = ["run", "epoch", *row]
        if not self._columns:
            self._columns = columns
            self._write(columns, "w")
        if columns != self._columns:
            raise ValueError(
                f"{self._path} has the columns {', '.join(self._columns)}, and this training records "
                f"{', '.join(row)}: give it a CSVLog of its own"
            )
        self._write([self._run, epoch, *(float(value) for value in row.values())], "a")

    def _write(self, line: list[Any], mode: str) -> None:
        with self._path.open(mode, encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(line)

    def close(self, failed: bool) -> None:
        """Every line is in the file already."""
