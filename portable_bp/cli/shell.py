"""What all commands share: errors in one line, exit codes, signals, output, options."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from portable_bp.errors import DivergenceError
from portable_bp.persistence import atomic

if TYPE_CHECKING:
    from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes; the last two are 128 and the number of the signal."""


class Failure(Exception):
    """The command was tried and failed; it ends with :data:`FAILED`."""


class Terminated(BaseException):
    """SIGTERM came: end without writing anything."""


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr."""
    with warnings.catch_warnings(), _listening(), _escaping():
        warnings.showwarning = _show_warning
        try:
            code = command.main(
                None if arguments is None else [*arguments], "portable-bp", standalone_mode=False
            )
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except BrokenPipeError:  # whoever reads our output has closed it, as head does
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
    """Print one line on stderr."""
    print(f"portable-bp: {printable(' '.join(message.split()))}", file=sys.stderr)


def printable(text: str) -> str:
    r"""``text`` with control characters escaped.

    >>> printable("cl\x1b[2Jear")
    'cl\\x1b[2Jear'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _words(error: Exception) -> str:
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "rich":
        return "the command line needs rich: pip install 'portable-bp[cli]'"
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


@contextmanager
def _escaping() -> Iterator[None]:
    """Escape what the encoding of a terminal or pipe cannot express, rather than fail."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # closed meanwhile
                stream.reconfigure(errors=errors)


def console(silent: bool) -> Console:
    """Where a command prints what it does."""
    from rich.console import Console

    return Console(quiet=silent, markup=False, emoji=False, highlight=False, soft_wrap=True)


def check_target(path: Path | None, *others: str | Path) -> None:
    """Raise now, rather than after the work, unless ``path`` can be written.

    ``others`` are what the command reads or writes besides.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory; name a file", str(path))
    for other in others:
        if path.resolve() == Path(other).resolve():
            raise ValueError(
                f"{path} is read by this command and would be overwritten; name another file"
            )
    try:
        atomic.check_writable(path.resolve().parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(to_json(value))


def to_json(value: Any, **options: Any) -> str:
    """JSON that every reader takes: infinity and NaN, which JSON has not, become null.

    >>> to_json({"rmse": float("inf"), "losses": (0.5, float("nan"))})
    '{"rmse": null, "losses": [0.5, null]}'
    """
    return json.dumps(finite(value), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """A value of JSON with null in place of infinity and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a :class:`Failure` to write ``path``."""
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


test_share_option = click.option(
    "--test-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    help="Share of the rows held out for the test.",
)

quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


def complete_source(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What a shell offers for a table: files, and the table that has a name."""
    named = [CompletionItem("digits")] if "digits".startswith(incomplete) else []
    return [*named, CompletionItem(incomplete, type="file")]


query_option = click.option(
    "--query", metavar="SQL", help="What to read from a database, as 'SELECT * FROM table'."
)

header_option = click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first line of a CSV file or sheet has the names of the columns.  [default: guess]",
)
