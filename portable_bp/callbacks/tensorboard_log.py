"""The numbers of each epoch as TensorBoard's event files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from portable_bp.callbacks.base import EpochLog, Row


class TensorBoard(EpochLog):
    """Write the numbers of each epoch as scalars that TensorBoard draws.

    Parameters
    ----------
    directory : str or path
        Hand it to ``tensorboard --logdir``. Each training has a folder in it.
    name : str, optional
        The name of that folder, and of the run in TensorBoard; by default ``run_1``, or the next number
        that is free. Of further trainings with one name: ``name_2``, ...

    Raises
    ------
    ImportError
        Where TensorBoard is missing: ``pip install 'portable-bp[tensorboard]'``.

    Examples
    --------
    >>> import portable_bp
    >>> from portable_bp.callbacks import TensorBoard
    >>> log = TensorBoard("logs", name="baseline")
    >>> model = portable_bp.fit(net, X, y, callbacks=[log])  # doctest: +SKIP
    """

    def __init__(self, directory: str | os.PathLike[str], *, name: str | None = None) -> None:
        super().__init__()
        _writer()
        self.directory, self.name = Path(directory), name

    def _open(self, settings: Mapping[str, Any]) -> _TensorBoardRun:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in self._names():
            folder = self.directory / name
            try:
                folder.mkdir()  # fails where another process has just made it
            except FileExistsError:
                continue
            return _TensorBoardRun(folder)
        raise AssertionError

    def _names(self) -> Iterator[str]:
        if self.name is not None:
            yield self.name
        yield from (f"{self.name or 'run'}_{i}" for i in count(2 if self.name else 1))


class _TensorBoardRun:
    """The event files of one training."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open_writer: Any = None

    def log(self, epoch: int, row: Row) -> None:
        if self._open_writer is None:
            self._open_writer = _writer()(str(self._folder))
        for name, value in row.items():
            self._open_writer.add_scalar(name, value, epoch)
        self._open_writer.flush()

    def close(self, failed: bool) -> None:
        if self._open_writer is not None:
            self._open_writer.close()
            self._open_writer = None


def _writer() -> Any:
    """TensorBoard's own writer, which needs no other framework."""
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise ImportError(
            "the callback TensorBoard needs tensorboard: pip install 'portable-bp[tensorboard]'"
        ) from error
    return Writer
