"""What the compiled runners share: the way back to eager steps."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, check_run


class CannotReplayError(Exception):
    """The step must run another way; the message says why."""


class NotWorthItError(CannotReplayError):
    """It could be replayed, and runs better another way: nobody has to be told."""


class ReplayRunner(ABC):
    """Runs a step from a recording of it; one that cannot be recorded another way, with a warning.

    See :class:`portable_bp.backend.Runner`.
    """

    recording: ClassVar[str]
    """What the step is replayed from, in a word."""

    ragged: ClassVar[bool] = False

    otherwise: ClassVar[str] = "eagerly"
    """How it runs where it cannot be."""

    def __init__(self, backend: Backend, step: Step) -> None:
        self._backend, self._step = backend, step
        self._other: Runner | None = None

    @property
    def state(self) -> Tree:
        return self._copied() if self._other is None else self._other.state

    def _another(self, state: Tree) -> Runner:
        """What runs the step where it cannot be replayed, from this state on."""
        return EagerRunner(self._backend, self._step, state)

    def _run_otherwise(
        self,
        other: Runner,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        return other.run(data, order, table)

    @abstractmethod
    def _copied(self) -> Tree:
        """A private copy of the state that the recordings work on."""

    @abstractmethod
    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        """A run, or a :class:`CannotReplayError` before its first step."""

    def _replay_in_scope(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        with self._backend.scope():
            return self._replay(steps, data, order, table)

    @abstractmethod
    def _forget(self) -> None:
        """Let all recordings go."""

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        if self._other is not None:
            return self._run_otherwise(self._other, data, order, table)
        steps = check_run(data, order, table, ragged=self.ragged)
        try:
            return self._replay_in_scope(steps, data, order, table)
        except CannotReplayError as error:
            reason = error
        other = self._another(self._copied())
        self._forget()
        self._other = other
        try:
            losses = self._run_otherwise(other, data, order, table)
        except Exception as error:  # the step itself is wrong; or it has kept what it saw before
            if not isinstance(reason, NotWorthItError):
                error.add_note(
                    f"This step cannot run from a {self.recording}: {reason}. If it works eagerly "
                    "(compile=False), a function of yours keeps arrays from one call to the next."
                )
            raise
        if not isinstance(reason, NotWorthItError):
            warnings.warn(
                f"{self._backend.spec} runs this step {self.otherwise}, not from a "
                f"{self.recording}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return losses
