"""How quickly a run goes on, and how long it will take: what lines of progress show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

LEAST_SECONDS = 0.2
"""Within an epoch, a line is not shown more often."""


@dataclass
class Pace:
    """Rows per second, and the time left.

    Parameters
    ----------
    epochs : int
        How many are planned.
    clock : function
        Seconds.

    Examples
    --------
    >>> seconds = iter([0.0, 1.0, 2.0])
    >>> pace = Pace(10, lambda: next(seconds))
    >>> pace.within(5000, 20000)
    (0.25, '5,000 rows/s  0:00:39 left')
    >>> pace.epoch_ended(1, 20000)
    (1.0, '10,000 rows/s  0:00:18 left')
    """

    epochs: int
    clock: Callable[[], float] = time.perf_counter
    _done: int = field(default=0, init=False)
    _first: float = field(default=0.0, init=False)
    """Epochs that were done when the run began: more than none when it goes on."""

    def __post_init__(self) -> None:
        self._began = self._epoch_began = self._shown = self.clock()

    def within(self, rows: int, total: int) -> tuple[float, str] | None:
        """Epochs done, with the part of the present one, and words; None so soon after the last.

        Parameters
        ----------
        rows, total : int
            How many rows of the present epoch are done, and how many it has.
        """
        now = self.clock()
        if now - self._shown < LEAST_SECONDS:
            return None
        self._shown = now
        done = self._done + rows / total
        return done, self._words(done, rows / max(now - self._epoch_began, 1e-9), now)

    def epoch_ended(self, epoch: int, rows: int) -> tuple[float, str]:
        """The same at the end of an epoch.

        Parameters
        ----------
        epoch : int
            Its number, from 1.
        rows : int
            How many it has.
        """
        now = self.clock()
        if epoch > self._done + 1:  # a run that goes on
            self._first = epoch - 1.0
        rate = rows / max(now - self._epoch_began, 1e-9)
        self._done, self._epoch_began, self._shown = epoch, now, now
        return float(epoch), self._words(epoch, rate, now)

    def _words(self, done: float, rate: float, now: float) -> str:
        left = (self.epochs - done) * (now - self._began) / max(done - self._first, 1e-9)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{rate:,.0f} rows/s  {hours}:{minutes:02}:{seconds:02} left"
