"""What a run saves while it goes on, and how it goes on from there: the one place of a run on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from portable_bp._tree import leaves
from portable_bp._typing import HostArray, Params, Tree
from portable_bp.errors import CheckpointError
from portable_bp.persistence import documents
from portable_bp.persistence.checkpoints import Checkpoint
from portable_bp.processes import ALONE, Processes
from portable_bp.training import recovery
from portable_bp.training.shared_directory import Directory
from portable_bp.training.trainer import UNLIMITED, NoRecorder, Trainer

SIGNAL_STEPS, SIGNAL_WORK = 500, 10**11
"""With a checkpoint directory, at most so many steps, and at most about so many multiplications and
additions (some seconds of one processor core), run between two looks at the signals."""


class Resumable(Protocol):
    """A policy that a checkpoint can hold."""

    epochs: int

    @property
    def report_loss(self) -> bool:
        """Whether the steps report their losses."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Reasons to stop that mean that the run had come to its end."""

    @property
    def best(self) -> tuple[float, int, Params] | None:
        """Score, epoch and parameters of the best epoch."""

    def set_best(self, best: tuple[float, int, Params]) -> None:
        """Go on with these as the best."""

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the best parameters, as JSON."""

    def restore(self, metadata: Mapping[str, Any], epoch: int, steps: int) -> None:
        """Go on from what a checkpoint keeps, after so many epochs and steps."""


@contextmanager
def _refusing() -> Iterator[None]:
    """A ValueError within the block is a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"the checkpoint does not hold what a run needs: {error}") from error


def newest(directory: Directory) -> Checkpoint | None:
    """The newest checkpoint of a run, once its contents have been checked; None without any."""
    checkpoint = directory.latest()
    if checkpoint is not None:
        if checkpoint.metadata.get("kind") != "checkpoint":
            raise CheckpointError("the file is a model, not the checkpoint of a run")
        with _refusing():
            documents.check(checkpoint.arrays, checkpoint.metadata)
    return checkpoint


class Signalled(NoRecorder):
    """A run that a signal to any of its processes stops after a step, on all of them.

    Parameters
    ----------
    processes : Processes
    work : int
        About how many multiplications and additions a step takes.
    """

    def __init__(self, processes: Processes, work: int) -> None:
        self._processes, self._signals = processes, recovery.Signals()
        self.limit = max(1, min(SIGNAL_STEPS, SIGNAL_WORK // work))

    @contextmanager
    def watch(self) -> Iterator[None]:
        with self._signals, self._processes.voting(self._wish):
            yield

    def _wish(self) -> str | None:
        received = self._signals.received
        return received and ("interrupted" if received == "SIGINT" else "terminated")

    def look(self, trainer: Trainer) -> str | None:
        if self._processes.size > 1:
            trainer.backend.synchronize()  # the votes of steps that still run are not counted
        return self._processes.stop()


class Checkpointing(Signalled):
    """Saves a run in a directory: a :class:`portable_bp.training.trainer.Recorder`.

    Parameters
    ----------
    directory : CheckpointDirectory or SharedDirectory
    every : int or None
        Steps between two checkpoints; None saves at the end of each epoch.
    identity : dict
        What has to be the same for a run to go on: network, data, optimiser, seed, ...
    policy : Resumable
    work : int
        About how many multiplications and additions a step takes.
    processes : Processes
        Those that train together.
    """

    def __init__(
        self,
        directory: Directory,
        every: int | None,
        identity: Mapping[str, Any],
        policy: Resumable,
        work: int,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(processes, work)
        self._directory, self._every = directory, every
        self._identity, self._policy = identity, policy

    def until_due(self, steps: int) -> int:
        return self._every - steps % self._every if self._every else UNLIMITED

    def look(self, trainer: Trainer) -> str | None:
        reason = super().look(trainer)
        if reason is not None:
            return reason
        due = self._every and trainer.steps % self._every == 0
        if due and trainer.in_epoch < trainer.per_epoch:
            self.save(trainer)
        return None

    def epoch_ended(self, trainer: Trainer) -> None:
        if self._every is None or trainer.steps % self._every == 0:
            self.save(trainer)

    def run_ended(self, trainer: Trainer) -> None:
        self.save(trainer, final=True)

    def save(self, trainer: Trainer, final: bool = False) -> None:
        """A checkpoint of the present state."""
        backend, policy = trainer.backend, self._policy
        stopped = trainer.stopped or "finished"
        with backend.scope():
            arrays = recovery.flatten(backend, "state", trainer.snapshot())
            arrays["losses"] = trainer.read_losses()
            if policy.best is not None:
                arrays |= recovery.flatten(backend, "best", policy.best[2])
        metadata: dict[str, Any] = {
            "kind": "checkpoint",
            "status": "complete" if final and stopped in ("finished", *policy.ends) else "running",
            "stopped": stopped,
            "run": dict(self._identity),
            "backend": backend.spec,
            "epochs": policy.epochs,
            "epoch": trainer.epoch,
            "in_epoch": trainer.in_epoch,
            "steps": trainer.steps,
            "best": None if policy.best is None else [*policy.best[:2]],
            **policy.saved(),
        }
        self._directory.save(trainer.steps, arrays, metadata, final=final)

    def go_on(self, trainer: Trainer, state: Tree, resume: bool) -> None:
        """With ``resume``, put the trainer where the newest checkpoint stands, if there is one.

        ``state``: one of the form of the checkpoint's.
        """
        directory = self._directory
        if not resume:
            if directory.steps():
                raise CheckpointError(
                    f"{directory.path} holds the checkpoints of a run already: pass resume=True to "
                    "go on with it, or another directory"
                )
            return
        checkpoint = newest(directory)
        if checkpoint is not None:
            with _refusing():
                self._load(trainer, state, checkpoint.arrays, checkpoint.metadata)

    def _load(
        self,
        trainer: Trainer,
        state: Tree,
        arrays: Mapping[str, HostArray],
        metadata: Mapping[str, Any],
    ) -> None:
        recovery.agree(metadata["run"], self._identity)
        epoch, in_epoch, steps = (metadata[name] for name in ("epoch", "in_epoch", "steps"))
        if steps != epoch * trainer.per_epoch + in_epoch or in_epoch > trainer.per_epoch:
            raise ValueError(
                f"{steps} steps are not {epoch} epochs of {trainer.per_epoch} and {in_epoch} steps"
            )
        self._policy.restore(metadata, epoch, steps)
        losses = arrays["losses"]
        if len(losses) != (in_epoch if self._policy.report_loss else 0):
            raise ValueError(f"it has the losses of {len(losses)} steps after {in_epoch}")
        backend = trainer.backend
        with backend.scope():
            if metadata["best"] is not None:
                score, best_epoch = metadata["best"]
                params = recovery.unflatten(backend, "best", state[0], arrays)
                self._policy.set_best((float(score), best_epoch, params))
            restored = recovery.unflatten(backend, "state", state, arrays)
        best = self._policy.best[2] if metadata["best"] is not None and self._policy.best else ()
        extra = len(arrays) - 1 - len([*leaves((restored, best))])
        if extra:
            raise ValueError(f"{extra} of its arrays are unknown to this run")
        trainer.epoch, trainer.in_epoch, trainer.steps = epoch, in_epoch, steps
        trainer.losses = [losses] if losses.size else []
        trainer.start_from(restored)
        if metadata["stopped"] in self._policy.ends:
            trainer.stopped = metadata["stopped"]
