"""A directory of checkpoints: one writer, the last few stay, the newest valid one is read."""

from __future__ import annotations

import errno
import os
import re
import socket
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NamedTuple, Self

from portable_bp._typing import HostArray
from portable_bp.errors import CheckpointError, CheckpointWarning
from portable_bp.persistence import atomic, container

MAX_STEP = 10**10 - 1
"""The largest step that a file name has room for."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks answers."""

_NAME = re.compile(r"ckpt-(\d{10})\.safetensors", re.ASCII)
_LEFTOVER = re.compile(r"\.ckpt-(probe|\d{10}\.safetensors)\.[0-9a-f]{16}\.tmp", re.ASCII)


class Checkpoint(NamedTuple):
    """A checkpoint as it was read."""

    path: Path
    arrays: dict[str, HostArray]
    metadata: dict[str, container.JSON]


class CheckpointDirectory:
    """Saves the state of a run in ``path``, for one run at a time.

    Opening it takes the lock of the directory, removes what an interrupted save left behind and
    writes a probe, so that what would stop a save stops the run before its first step. Closing it,
    or the end of the process however it comes, frees the lock.

    Parameters
    ----------
    path : path
        The directory; created if its parent exists.
    keep : int, default 3
        How many checkpoints stay, the newest ones.

    Raises
    ------
    CheckpointError
        Another run holds the directory.
    OSError
        The directory cannot be made or written to.

    Warns
    -----
    CheckpointWarning
        The file system has no locks: nothing then stops a second run. Files stay whole even so.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder, CheckpointDirectory(folder, keep=2) as runs:
    ...     for step in (10, 20, 30):
    ...         _ = runs.save(step, {"W": np.full(2, step)}, {"step": step})
    ...     runs.steps(), runs.latest().metadata
    ((20, 30), {'step': 30})
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int):
            raise TypeError(f"keep: the number of checkpoints to keep, an integer, got {keep!r}")
        if keep < 1:
            raise ValueError(f"keep: at least one checkpoint has to stay, got {keep}")
        self.path, self.keep = Path(path), keep
        try:
            self.path.mkdir()
        except FileExistsError as error:
            if not self.path.is_dir():
                raise NotADirectoryError(
                    errno.ENOTDIR, "checkpoints need a directory, this is a file", os.fspath(path)
                ) from error
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, "the parent of the checkpoint directory is missing", os.fspath(path)
            ) from error
        self._lock: _Lock | None = _Lock(self.path)
        try:
            self._probe()
            self._sweep()
        except BaseException:
            self.close()
            raise

    def save(
        self,
        step: int,
        arrays: Mapping[str, HostArray],
        metadata: Mapping[str, container.JSON],
        *,
        final: bool = False,
    ) -> bool:
        """Save the state after a step.

        When the disk refuses (it is full, or away), the older checkpoints are untouched, and a run
        does better to go on and try again at its next interval: this warns and returns False.
        With ``final`` there is no next time, and the error is raised.

        Parameters
        ----------
        step : int
            The number of steps done. It only names the file; what a run needs of it belongs in
            ``metadata``, where the digest protects it.
        arrays : mapping of str to array
            As :func:`portable_bp.persistence.container.write` takes them.
        metadata : mapping of str to JSON
            As :func:`portable_bp.persistence.container.write` takes it.
        final : bool, default False
            Raise when the checkpoint cannot be saved.

        Returns
        -------
        bool
            Whether the checkpoint is on the disk.

        Raises
        ------
        OSError
            ``final`` is set and the checkpoint could not be saved.

        Warns
        -----
        CheckpointWarning
            The checkpoint could not be saved, or an old one not removed.
        """
        if self._lock is None:
            raise ValueError("this checkpoint directory is closed; open it again to save")
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError(f"step: the number of steps done, an integer, got {step!r}")
        if not 0 <= step <= MAX_STEP:
            raise ValueError(f"step: from 0 to {MAX_STEP}, got {step}")
        path = self._file(step)
        try:
            container.write(path, arrays, metadata)
        except OSError as error:
            if final:
                raise
            _warn(f"checkpoint not saved, training goes on and tries again later: {error}")
            return False
        # Steps beyond this one are no business of this run: never remove what it did not pass.
        passed = [s for s in self.steps() if s <= step]
        for old in passed[: -self.keep]:
            try:
                self._file(old).unlink(missing_ok=True)
            except OSError as error:
                _warn(f"old checkpoint not removed: {error}")
        return True

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read.

        Returns
        -------
        Checkpoint or None
            None when the directory holds none at all.

        Raises
        ------
        CheckpointError
            There are checkpoints, and not one of them can be read.

        Warns
        -----
        CheckpointWarning
            A newer one was skipped, and why.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self._file(step)
            try:
                return Checkpoint(path, *container.read(path))
            except (CheckpointError, OSError) as error:
                _warn(f"skipping unreadable checkpoint: {error}")
        if steps:
            raise CheckpointError(
                f"{self.path}: none of the {len(steps)} checkpoints can be read (see the "
                f"warnings); move them away to start anew"
            )
        return None

    def steps(self) -> tuple[int, ...]:
        """The steps that have a file, in order."""
        matches = (_NAME.fullmatch(name) for name in os.listdir(self.path))
        return tuple(sorted(int(match[1]) for match in matches if match))

    def close(self) -> None:
        """Free the directory for another run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except KeyboardInterrupt:  # whoever keeps its traceback would keep the lock
            self.close()
            raise

    def _file(self, step: int) -> Path:
        return self.path / f"ckpt-{step:010d}.safetensors"

    def _sweep(self) -> None:
        """Remove what saves that were cut short left behind: under the lock nobody writes it."""
        for name in os.listdir(self.path):
            if _LEFTOVER.fullmatch(name):
                (self.path / name).unlink()

    def _probe(self) -> None:
        """Fail now where a save would fail later."""
        try:
            atomic.check_writable(self.path, "ckpt-probe")
        except OSError as error:
            raise _unwritable(self.path, error) from error


class _Lock:
    """The lock of a directory; the system frees it with the process, however that ends.

    Who holds it stands in a file of its own: on Windows nobody can read a file that is locked.
    """

    def __init__(self, directory: Path) -> None:
        filelock = _require_filelock()
        self._holder = directory / ".lock-holder"
        self._lock = filelock.FileLock(
            directory / ".lock", timeout=0, thread_local=False, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise CheckpointError(
                f"{directory}: another run ({self._holder_words()!r}) saves its checkpoints here; "
                f"wait for it to end or give this run another directory"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise _unwritable(directory, error) from error
            _warn(f"{directory}: no lock ({error.strerror}); see that only one run saves here", 4)
        words = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            with suppress(OSError):  # words for the message above; a full disk may refuse them
                atomic.write(self._holder, words.encode())
        except BaseException:
            self.release()
            raise

    def _holder_words(self) -> str:
        try:
            with open(self._holder, "rb") as file:
                return file.read(200).decode(errors="replace")
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Free the directory for another run."""
        with suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()


def _require_filelock() -> ModuleType:
    """The filelock library; an ImportError that says what to install where it is missing."""
    try:
        import filelock
    except ImportError as error:
        raise ImportError(
            "checkpoints need the filelock library: pip install 'portable-bp[io]'", name="filelock"
        ) from error
    return filelock


def _unwritable(directory: Path, error: OSError) -> OSError:
    return OSError(
        error.errno, f"checkpoints cannot be written here ({error.strerror})", os.fspath(directory)
    )


def _warn(message: str, stacklevel: int = 3) -> None:
    warnings.warn(message, CheckpointWarning, stacklevel=stacklevel)
