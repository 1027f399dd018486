"""One process per candidate, so that no thread pool or allocator disturbs another's."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
import traceback
from typing import Any

SETTLE = 0.05
"""Seconds between two timed runs: OpenBLAS and OpenMP threads spin for a while after their work."""

_context = multiprocessing.get_context("spawn")


class Failed(RuntimeError):
    """A worker's exception, with its traceback."""

    def refused(self) -> dict[str, str]:
        """What the record says of it; the rest goes to the console."""
        print(self, file=sys.stderr)
        return {"refused": str(self).splitlines()[-1]}


class Worker:
    """A process that builds candidates, proves them and times them, one call at a time."""

    def __init__(self, kind: str, name: str) -> None:
        self.name = name
        self._here, there = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(there, kind, name), daemon=True)
        self._process.start()
        there.close()

    def begin_build(self, case: Any, expected: Any) -> None:
        """Start to make the candidate ready for a case; several workers may do so at once."""
        self._here.send(("build", case, expected))

    def built(self) -> dict[str, Any]:
        """What came of it: how far it is from float64 (``error``), or ``why_not``."""
        return self._answer()  # type: ignore[no-any-return]

    def time(self) -> float:
        """Seconds per step of one timed run."""
        seconds: float = self.call("time")
        time.sleep(SETTLE)
        return seconds

    def call(self, method: str, *args: Any) -> Any:
        """A method of :class:`Served`, or a function of a module, called there."""
        self._here.send((method, *args))
        return self._answer()

    def close(self) -> None:
        if self._process.is_alive():
            self._here.send(None)
        self._process.join()

    def _answer(self) -> Any:
        try:
            good, answer = self._here.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise Failed(f"its process ended with code {self._process.exitcode}") from None
        if not good:
            raise Failed(answer)
        return answer


def _serve(there: Any, kind: str, name: str) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    served = Served(kind, name)
    while (message := there.recv()) is not None:
        try:
            there.send((True, getattr(served, message[0])(*message[1:])))
        except Exception:
            there.send((False, traceback.format_exc()))


class Served:
    """The other side of a :class:`Worker`."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        self.candidate: Any = None

    def build(self, case: Any, expected: Any) -> dict[str, Any]:
        """Make the candidate and prove it: nothing is timed whose numbers are not right."""
        from benchmarks.peers import KINDS

        make = KINDS[self.kind][self.name]
        reason = make.why_not(case)
        if reason is not None:
            return {"why_not": reason}
        self.candidate = None  # the memory of the last case goes first
        start = time.perf_counter()
        candidate = make(case)
        error = candidate.error(expected)
        if not error <= candidate.tolerance:
            raise ValueError(f"{error:.2g} away from float64, over {candidate.tolerance:g}")
        self._seconds(candidate, 1)  # what compiles for the shapes of a whole round does it now
        self.candidate = candidate
        ready = time.perf_counter() - start
        return {"error": error, "tolerance": candidate.tolerance, "ready_s": ready}

    def time(self) -> float:
        """Seconds per step: the lower quartile of short stretches, which nobody interrupted."""
        candidate = self.candidate
        once = self._seconds(candidate, 1)  # back into the caches, after the others
        rounds = math.ceil(candidate.stretch / once)
        stretches = math.ceil(candidate.seconds / (rounds * once))
        if rounds * stretches > 1:
            times = sorted(self._seconds(candidate, rounds) for _ in range(stretches))
            once = times[stretches // 4] / rounds
        steps: int = candidate.steps
        return once / steps

    def blas(self) -> list[dict[str, Any]]:
        """The thread pools that are loaded, and which kernels they chose for this processor."""
        from threadpoolctl import threadpool_info

        keys = ("user_api", "internal_api", "version", "architecture", "num_threads")
        return [{k: pool[k] for k in keys if k in pool} for pool in threadpool_info()]

    def apply(self, function: Any, *args: Any) -> Any:
        """A function of a module, called here."""
        return function(*args)

    @staticmethod
    def _seconds(candidate: Any, rounds: int) -> float:
        start = time.perf_counter()
        last = candidate.run(rounds)
        seconds = time.perf_counter() - start
        if not math.isfinite(last):
            raise ValueError(f"the last number is {last}")
        return seconds
