"""Manners at the shell: one line for an error, exit codes, signals, files that are whole or absent."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from portable_bp.errors import DivergenceError
from portable_bp.persistence import atomic

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes: 128 and the number of the signal for the last two."""


class Failure(Exception):
    """Something was tried and failed; ends the command with :data:`FAILED`."""


class Terminated(BaseException):
    """SIGTERM, raised where it comes: nothing is left half done, and nothing more is done."""


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """The exit code of a command; whatever it raises on bad input becomes a line on stderr."""
    with warnings.catch_warnings(), _listening():
        warnings.showwarning = _show_warning
        try:
            code = command.main(
                None if arguments is None else [*arguments], "portable-bp", standalone_mode=False
            )
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except BrokenPipeError:  # the reader of our output has left, as head does
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            return INTERRUPTED
        except Terminated:
            say("terminated")
            return TERMINATED
        except (Failure, DivergenceError, MemoryError) as error:
            say(f"error: {error or 'out of memory'}")
            return FAILED
        except click.ClickException as error:
            say(f"error: {error.format_message()}")
            return BAD_INPUT
        # What the library raises on bad input: files, tables, models, backends, numbers.
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            say(f"error: {_words(error)}")
            return BAD_INPUT


def say(message: str) -> None:
    """One line on stderr."""
    click.echo(f"portable-bp: {printable(' '.join(message.split()))}", err=True)


def printable(text: str) -> str:
    r"""``text`` with an escape for every character that a terminal would obey.

    >>> printable("cl\x1b[2Jear")
    'cl\\x1b[2Jear'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _show_warning(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
    context = click.get_current_context(silent=True)
    if issubclass(category, UserWarning) and not (context and context.params.get("quiet")):
        say(f"warning: {message}")


@contextmanager
def _listening() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` instead of ending the process on the spot."""

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread listen
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def console(silent: bool) -> Console:
    """Where a command tells people what it does."""
    return Console(quiet=silent, markup=False, emoji=False, highlight=False, soft_wrap=True)


def check_target(path: Path | None, *others: str | Path) -> None:
    """Raise unless a file can be written to ``path``: now, rather than after the work.

    ``others``: what this command reads or writes besides.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "a file is to be written, this is a directory", str(path)
        )
    for other in others:
        if path.resolve() == Path(other).resolve():
            raise ValueError(f"{path} would be overwritten, and is needed; name another file")
    try:
        atomic.check_writable(path.resolve().parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error


def write(path: Path, content: bytes) -> None:
    """Put ``content`` in the file ``path``, all or nothing.

    Raises
    ------
    Failure
        When the disk refuses; what was at ``path`` is untouched.
    """
    with failing(path):
        atomic.write(path, content)


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """An OSError within the block is a :class:`Failure` to write ``path``."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{path} could not be written: {error.strerror or error}") from error


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def backend_option(help: str) -> Decorator:
    """The option that chooses a backend."""
    return click.option(
        "--backend", default="auto", envvar="PORTABLE_BP_BACKEND", show_envvar=True, help=help
    )


quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
