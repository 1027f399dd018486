"""The process group of torch.distributed: what torchrun and those that set its environment start."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.processes import Engine

GRACE = 60.0
"""Seconds that gloo waits longer than the caller, whose message is the better one."""


class TorchEngine(Engine):
    """All processes of a process group: the one that is there, or a new one over gloo.

    Parameters
    ----------
    timeout : float
        Seconds to wait for another process.
    """

    def __init__(self, timeout: float) -> None:
        try:
            import torch
            import torch.distributed as dist
        except ImportError as error:
            raise ImportError(
                "distributed('torch') needs PyTorch: pip install 'portable-bp[torch]'", name="torch"
            ) from error
        if not dist.is_available():
            raise ImportError("this build of PyTorch has no torch.distributed", name="torch")
        self._torch, self._dist = torch, dist
        limit = timedelta(seconds=timeout + GRACE)
        self._made = not dist.is_initialized()
        if self._made:
            alone = {} if "WORLD_SIZE" in os.environ else _alone(dist)
            dist.init_process_group("gloo", timeout=limit, **alone)
        # Sums may run on a thread of a compiler's: they have a group of their own.
        self._sums, self._words = (dist.new_group(backend="gloo", timeout=limit) for _ in range(2))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def sum(self, flat: HostArray) -> HostArray:
        total = flat.copy()
        self._dist.all_reduce(self._torch.from_numpy(total), group=self._sums)
        return total

    def exchange(self, flat: HostArray, partner: int) -> HostArray:
        dist, other = self._dist, np.empty_like(flat)
        sent = dist.isend(self._torch.from_numpy(flat), partner, group=self._sums)
        received = dist.irecv(self._torch.from_numpy(other), partner, group=self._sums)
        sent.wait()
        received.wait()
        return other

    def gather(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.size
        self._dist.all_gather_object(items, item, group=self._words)
        return items

    def broadcast(self, item: Any) -> Any:
        box = [item]
        self._dist.broadcast_object_list(box, 0, group=self._words)
        return box[0]

    def abort(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the others lose the connection, and torchrun ends them

    def close(self) -> None:
        if self._made:
            self._dist.destroy_process_group()


def _alone(dist: Any) -> dict[str, Any]:
    """Without a launcher there is one process."""
    return {"store": dist.HashStore(), "rank": 0, "world_size": 1}
