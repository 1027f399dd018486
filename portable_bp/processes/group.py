"""The processes of a run as training sees them: sums, votes, and errors that are everybody's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from portable_bp._typing import HostArray
from portable_bp.errors import RemoteError
from portable_bp.processes.engine import Engine, Single

T = TypeVar("T")

NO_ANSWER = 75
"""The exit code when another process has not answered in time: EX_TEMPFAIL, worth another try."""

INTERRUPTED, TERMINATED = "interrupted", "terminated"


def _no_wish() -> str | None:
    return None


class Processes:
    """The processes that train together.

    Parameters
    ----------
    engine : Engine
    timeout : float
        Seconds that this process waits for another one before it ends all of them.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    local_rank, local_size : int
        The same among the processes of this machine.
    """

    def __init__(self, engine: Engine, timeout: float = 600.0) -> None:
        self._engine, self._timeout = engine, timeout
        self.rank, self.size = engine.rank, engine.size
        self.local_rank, self.local_size = engine.local_rank, engine.local_size
        self._agreed: BaseException | None = None
        self._since: float | None = None
        self._stop: str | None = None
        self._wish: Callable[[], str | None] = _no_wish
        self._closed = threading.Event()
        if self.size > 1:
            threading.Thread(target=self._watch, name="portable_bp-watch", daemon=True).start()

    def __repr__(self) -> str:
        return f"<process {self.rank} of {self.size}>"

    # Waiting

    def _watch(self) -> None:
        """End all processes when one has waited too long for another."""
        while not self._closed.wait(min(self._timeout / 4, 1.0)):
            since = self._since
            if since is not None and time.monotonic() - since > self._timeout:
                self._say(
                    f"another process has not answered for {self._timeout:g} s: it is stopped, cut "
                    "off or far slower. All processes end; pass a larger timeout if that was too short"
                )
                self._engine.abort(NO_ANSWER)

    def _say(self, message: str) -> None:
        print(f"portable_bp, process {self.rank} of {self.size}: {message}", file=sys.stderr)
        sys.stderr.flush()

    def _wait(self, call: Callable[..., T], *args: Any) -> T:
        """``call(*args)``, under the eyes of the watch."""
        self._since = time.monotonic()
        try:
            return call(*args)
        finally:
            self._since = None

    # Numbers

    def sum(self, flat: HostArray, *, ordered: bool = False) -> HostArray:
        """The sum over the processes, whose last entry carries their wishes to stop.

        Parameters
        ----------
        flat : array of shape (n,)
            The last entry is written over.
        ordered : bool
            Add along a binary tree: the bits do not depend on how 2^k processes share the work.

        Returns
        -------
        array of shape (n,)
            A new one, with the same bits on all processes.
        """
        if self.size == 1:
            return flat.copy()
        if not (flat.flags.c_contiguous and flat.flags.writeable):
            flat = flat.copy()
        # So many that one Ctrl-C is told from any number of other signals.
        wish = self._wish()
        flat[-1] = 0 if wish is None else self.size + 1 if wish == INTERRUPTED else 1
        total = self._wait(self._in_order if ordered else self._engine.sum, flat)
        votes = total[-1]
        if votes:  # NaN, too, is no vote
            self._stop = INTERRUPTED if votes > self.size else TERMINATED
        return total

    def _in_order(self, flat: HostArray) -> HostArray:
        distance = 1
        while distance < self.size:
            # a + b has the bits of b + a: both partners go on with the same.
            flat = flat + self._engine.exchange(flat, self.rank ^ distance)
            distance *= 2
        return flat

    def gather(self, item: T) -> list[T]:
        """What each process hands in, by rank.

        Parameters
        ----------
        item : object
            One that can be pickled.

        Returns
        -------
        list
        """
        return self._wait(self._engine.gather, item)

    # Decisions

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return flag if self.size == 1 else True in self.gather(flag)

    def first(self, value: T) -> T:
        """What it is on process 0."""
        if self.size == 1:
            return value
        shared: T = self._wait(self._engine.broadcast, value)
        return shared

    @contextmanager
    def voting(self, wish: Callable[[], str | None]) -> Iterator[None]:
        """Within the block each sum carries this process's wish to stop.

        Parameters
        ----------
        wish : function
            Answers with ``"interrupted"``, ``"terminated"`` or None.
        """
        self._wish, self._stop = wish, None
        try:
            yield
        finally:
            self._wish = _no_wish

    def stop(self) -> str | None:
        """Why to stop: the wish of any process when it took part in the last sums."""
        return self._wish() if self.size == 1 else self._stop

    # Errors

    def agree(self, error: BaseException | None) -> None:
        """Raise on all processes when there is an error on one; collective.

        Parameters
        ----------
        error : exception or None
            Of this process.

        Raises
        ------
        RemoteError
            Where this process has none: it names the process that has one. Else its own is raised.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        words = None if error is None else f"{type(error).__name__}: {error}"
        by_rank = self.gather(words)
        if error is not None:
            self._agreed = error
            raise error
        for rank, text in enumerate(by_rank):
            if text is not None:
                self.raise_everywhere(
                    RemoteError(f"on process {rank} of {self.size}: {text}", rank, text)
                )

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """An error within the block is everybody's at its end; no messages within it."""
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as e:
            error = e
        self.agree(error)

    def raise_everywhere(self, error: BaseException) -> NoReturn:
        """Raise an error that all processes raise at the same point."""
        self._agreed = error
        raise error

    def agreed_on(self, error: BaseException | None) -> bool:
        """Whether all processes know of this error, or of one that it comes from."""
        while error is not None:
            if error is self._agreed:
                return True
            error = error.__cause__ or error.__context__
        return False

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work()`` gives on process 0, on all of them; its error is everybody's."""
        if self.size == 1:
            return work()
        answer: T | None = None
        with self.agreeing():
            if self.rank == 0:
                answer = work()
        shared: Any = self.first(answer)
        done: T = shared
        return done

    def compare(self, what: Mapping[str, Any]) -> None:
        """Raise the same ValueError on all processes unless all of them hand in the same.

        Parameters
        ----------
        what : dict
            From names to values with a ``repr``.
        """
        if self.size == 1:
            return
        by_rank = self.gather({name: repr(value) for name, value in what.items()})
        for rank, other in enumerate(by_rank):
            for name, value in by_rank[0].items():
                if other.get(name) != value:
                    self.raise_everywhere(
                        ValueError(
                            f"process {rank} has another {name} than process 0: "
                            f"{_short(other.get(name))}, not {_short(value)}. All processes need the "
                            "same arguments, data and versions"
                        )
                    )

    # The end

    def end(self, error: BaseException | None) -> None:
        """Leave together; an error that only this process knows of ends all."""
        if self.size > 1 and not (error is not None and self.agreed_on(error)):
            code = 0 if error is None else _exit_code(error)
            if code != 0:
                self._say(f"{type(error).__name__} on this process alone: all processes end")
                self._engine.abort(code)
            self.gather(None)
        self._closed.set()

    def close(self) -> None:
        """Let the connections go."""
        self._engine.close()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1


def _short(text: str | None) -> str:
    text = text or "none"
    return text if len(text) <= 100 else f"{text[:97]}..."


ALONE = Processes(Single())
