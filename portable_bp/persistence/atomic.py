"""Files that are written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` in the file ``path``: at every instant it holds the old contents or the new.

    The bytes go to a temporary file in the same directory and to the disk, then a rename puts them
    in place, then the directory goes to the disk. A symbolic link stays and its target is replaced.
    A new file gets the permissions of the umask, a replaced one passes on its own.

    Parameters
    ----------
    path : path
        The file. Its directory has to exist.
    data : bytes
        The contents.

    Raises
    ------
    OSError
        The file could not be written. What was at ``path`` before is untouched.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/x.txt", b"all or nothing")
    ...     pathlib.Path(folder, "x.txt").read_bytes()
    b'all or nothing'
    """
    target, mode = _target(path)
    temporary = os.path.join(os.path.dirname(target), temporary_name(os.path.basename(target)))
    try:
        # "x" never follows or reuses what someone else put there.
        with open(temporary, "xb") as file:
            if mode is not None and mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
                os.chmod(temporary, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror or error}, while saving {len(data)} bytes beside the old file, "
            f"which is untouched",
            os.fspath(path),
        ) from error
    _sync_directory(os.path.dirname(target))


def check_writable(directory: str | os.PathLike[str], name: str = "probe") -> None:
    """Fail now where :func:`write` would fail later, by writing an empty file and removing it.

    Parameters
    ----------
    directory : path
        Where files are to be written.
    name : str
        Part of the name of the empty file, for whoever finds it after a crash.

    Raises
    ------
    OSError
        No file can be written there.
    """
    probe = os.path.join(directory, temporary_name(name))
    try:
        with open(probe, "xb"):
            pass
        os.unlink(probe)
    except BaseException:
        with suppress(OSError):
            os.unlink(probe)
        raise


def temporary_name(name: str) -> str:
    """A fresh name for the file that is to become ``name``, short enough for any file system."""
    return f".{name[:50]}.{secrets.token_hex(8)}.tmp"


def _target(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    """The file behind ``path``, links followed, and the permissions it has if it exists."""
    target = os.path.realpath(os.fspath(path))
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "cannot save, this is a directory", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "cannot save, this is not a regular file", os.fspath(path))
    return target, stat.S_IMODE(mode)


def _sync_directory(path: str) -> None:
    """Make a rename in the directory survive a loss of power."""
    if os.name != "posix":  # elsewhere a directory cannot be opened
        return
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such call
            raise
    finally:
        os.close(directory)
