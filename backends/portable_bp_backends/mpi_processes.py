"""MPI by mpi4py: what mpiexec, srun, PBS and LSF start."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.processes import Engine


class MpiEngine(Engine):
    """All processes of ``MPI.COMM_WORLD``.

    Parameters
    ----------
    timeout : float
        Not used: MPI itself waits for ever, and the caller watches.
    """

    def __init__(self, timeout: float) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library was found
            raise ImportError(
                f"distributed('mpi') needs mpi4py and an MPI ({error}): pip install "
                "'portable-bp[mpi]'; on a cluster, pip install mpi4py beside its own MPI",
                name="mpi4py",
            ) from error
        # Sums may run on a thread of a compiler's: they have a communicator of their own.
        self._sums, self._words = MPI.COMM_WORLD.Dup(), MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._words.rank, self._words.size
        local = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        local.Free()

    def sum(self, flat: HostArray) -> HostArray:
        total = np.empty_like(flat)
        self._sums.Allreduce(flat, total)
        return total

    def exchange(self, flat: HostArray, partner: int) -> HostArray:
        other = np.empty_like(flat)
        self._sums.Sendrecv(flat, partner, 0, other, partner, 0)
        return other

    def gather(self, item: Any) -> list[Any]:
        items: list[Any] = self._words.allgather(item)
        return items

    def broadcast(self, item: Any) -> Any:
        return self._words.bcast(item)

    def abort(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        self._words.Abort(code)
        raise AssertionError("an aborted process goes on")

    def close(self) -> None:
        self._sums.Free()
        self._words.Free()
