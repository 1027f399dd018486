"""One checkpoint directory for all processes of a run: process 0 locks, reads and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from portable_bp._typing import HostArray
from portable_bp.persistence.checkpoints import Checkpoint, CheckpointDirectory
from portable_bp.persistence.container import JSON
from portable_bp.processes import Processes

T = TypeVar("T")


class Directory(Protocol):
    """What a run asks of its checkpoint directory."""

    @property
    def path(self) -> Any:
        """Where it is."""

    def steps(self) -> tuple[int, ...]:
        """After how many steps there are checkpoints."""

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint."""

    def save(
        self,
        step: int,
        arrays: Mapping[str, HostArray],
        metadata: Mapping[str, JSON],
        *,
        final: bool = False,
    ) -> bool:
        """Write a checkpoint; whether that could be done."""


class SharedDirectory:
    """A :class:`CheckpointDirectory` of process 0, for all of them; its errors are everybody's.

    It need not be on a disk that the others see.

    Parameters
    ----------
    processes : Processes
    path : str or path
    keep : int
        How many checkpoints stay.
    """

    def __init__(self, processes: Processes, path: str | os.PathLike[str], keep: int) -> None:
        self.path = path
        self._processes, self._keep = processes, keep
        self._stack = ExitStack()
        self._directory: CheckpointDirectory | None = None

    def __enter__(self) -> SharedDirectory:
        def locked() -> None:
            directory = CheckpointDirectory(self.path, self._keep)
            self._directory = self._stack.enter_context(directory)

        self._processes.on_first(locked)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _on_first(self, work: Callable[[CheckpointDirectory], T]) -> T:
        def done() -> T:
            assert self._directory is not None
            return work(self._directory)

        return self._processes.on_first(done)

    def steps(self) -> tuple[int, ...]:
        return self._on_first(lambda directory: directory.steps())

    def latest(self) -> Checkpoint | None:
        return self._on_first(lambda directory: directory.latest())

    def save(
        self,
        step: int,
        arrays: Mapping[str, HostArray],
        metadata: Mapping[str, JSON],
        *,
        final: bool = False,
    ) -> bool:
        return self._on_first(lambda directory: directory.save(step, arrays, metadata, final=final))
