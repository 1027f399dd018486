"""What can happen between two epochs: watching, stopping early, a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from portable_bp._typing import Params, Tree
from portable_bp.backend import Backend, leaves, map_leaves
from portable_bp.backend.registry import resolve
from portable_bp.inputs import checks
from portable_bp.training.history import History
from portable_bp.training.pace import Pace

if TYPE_CHECKING:
    from portable_bp.mlp import MLP


@dataclass(frozen=True)
class _Kept:
    """Parameters that stay as they were, as :attr:`EpochEnd.params` gives them."""

    params: Tree
    backend: Backend

    def __call__(self) -> Params:
        with self.backend.scope():
            params: Params = map_leaves(self.backend.asarray, self.params)
            return params


@dataclass(frozen=True)
class EpochEnd:
    """What a callback is shown after each epoch."""

    epoch: int
    """The number of this epoch, from 1."""
    epochs: int
    """How many are planned."""
    row: Mapping[str, float]
    """This epoch's numbers: ``loss``, ``learning_rate``, ``validation_loss``, ..."""
    _history: History
    network: MLP
    params: Callable[[], Params]
    """Call it for a private copy of the parameters as they are now."""
    rows: int = 0
    """How many rows an epoch trains on."""

    def __getstate__(self) -> dict[str, Any]:
        # A pickle cannot hold the run: it holds the parameters as they are now.
        params = self.params()
        backend = resolve(None, *leaves(params))
        with backend.scope():
            host = map_leaves(backend.to_numpy, params)
        return {**self.__dict__, "params": _Kept(host, backend)}

    @property
    def history(self) -> History:
        """A copy of what the run has recorded so far, this epoch included."""
        return History([dict(row) for row in self._history.epochs])


class Callback(Protocol):
    """Any function of an :class:`EpochEnd`; True stops the training, None goes on.

    An object may also have ``on_train_begin(net, epochs)`` and ``on_train_end()``, called around the
    run whatever happens in it, ``on_rows(done, total)``, called within an epoch of a source, and
    ``state()`` / ``restore(state)`` (a JSON value) so that a resumed run goes on where it stood.
    """

    def __call__(self, end: EpochEnd, /) -> bool | None: ...


DIRECTIONS = {
    "loss": "min", "validation_loss": "min", "validation_accuracy": "max", "validation_r2": "max",
    "validation_score": "max",
}  # fmt: skip
"""Whether a number that is recorded is better when it falls or when it grows."""


@dataclass
class EarlyStopping:
    """Stop when the watched quantity has not improved for ``patience`` epochs.

    Parameters
    ----------
    patience : int, default 10
        How many epochs to wait for an improvement.
    monitor : str, optional
        A column of the history; by default ``validation_loss``, without validation ``loss``.
    min_delta : float, default 0
        A smaller change is no improvement.
    restore_best : bool, default True
        Give back the parameters of the best epoch instead of the last.
    mode : {"auto", "min", "max"}, default "auto"
        Whether the quantity is to fall or to grow. ``"auto"`` knows that losses are to fall and that
        accuracy and R squared are to grow, and refuses any other quantity.

    Notes
    -----
    An epoch whose quantity is not a finite number is not counted: it is neither the best nor one
    without improvement.
    """

    patience: int = 10
    monitor: str | None = None
    min_delta: float = 0.0
    restore_best: bool = True
    mode: str = "auto"
    best: float = field(default=math.inf, init=False)
    waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        checks.positive_int("patience", self.patience)
        checks.real("min_delta", self.min_delta, low=0)
        checks.boolean("restore_best", self.restore_best)
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {checks.shown(self.mode)}")

    def on_train_begin(self, net: MLP, epochs: int) -> None:
        """Forget an earlier run.

        Parameters
        ----------
        net : MLP
            The network that is trained.
        epochs : int
            How many epochs are planned.
        """
        self.best, self.waited = math.inf, 0

    def score(self, row: Mapping[str, float]) -> float:
        """The watched quantity of an epoch, with the sign that makes smaller better.

        Parameters
        ----------
        row : mapping of str to float
            The numbers of an epoch.

        Returns
        -------
        float
            The quantity, or its negative where it is to grow.
        """
        name = self.monitor or ("validation_loss" if "validation_loss" in row else "loss")
        if name not in row:
            raise ValueError(f"monitor must be one of {', '.join(row)}; got {name!r}")
        mode = DIRECTIONS.get(name, "") if self.mode == "auto" else self.mode
        if not mode:
            raise ValueError(
                f"mode='auto' does not know whether {name!r} is to fall or to grow: pass mode='min' "
                "or mode='max'"
            )
        return -row[name] if mode == "max" else row[name]

    def __call__(self, end: EpochEnd, /) -> bool:
        score = self.score(end.row)
        if not math.isfinite(score):
            return False
        if score < self.best - self.min_delta:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns
        -------
        dict
            As JSON holds it.
        """
        return {"best": self.best if self.best < math.inf else None, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`.

        Parameters
        ----------
        state : mapping
            What :meth:`state` returned.
        """
        best = state["best"]
        self.best = math.inf if best is None else checks.real("best", best)
        self.waited = checks.positive_int("waited", state["waited"], least=0)


def shown_numbers(end: EpochEnd) -> str:
    """The numbers of an epoch that a line of progress has room for."""
    hidden = ("seconds", "learning_rate", "validation_loss")
    shown = (f"{k.replace('_', ' ')} {v:.4g}" for k, v in end.row.items() if k not in hidden)
    return "  ".join(shown)


WIDE = 105
"""Columns of a terminal that has room for a bar beside the numbers."""


class ProgressBar:
    """One line that grows with the epochs and shows their numbers, rows per second and the time left.

    Needs ``rich``.

    ``portable_bp.fit(..., progress=True)`` makes one. ``console``: the ``rich`` console to draw on.
    """

    def __init__(self, console: Any = None) -> None:
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.table import Column
        except ImportError as error:
            raise ImportError(
                "a progress bar needs rich: pip install 'portable-bp[cli]'"
            ) from error
        self._bar = Progress(
            TextColumn("training"),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("{task.fields[pace]}"),
            console=console,
        )
        if self._bar.console.width >= WIDE:
            self._bar.columns = (*self._bar.columns[:1], BarColumn(16), *self._bar.columns[1:])
        self._task: Any = None

    def on_train_begin(self, net: MLP, epochs: int) -> None:
        """Show the empty bar."""
        self._task = self._bar.add_task("training", total=epochs, numbers="", pace="")
        self._pace = Pace(epochs)
        self._bar.start()

    def on_rows(self, done: int, total: int) -> None:
        """Grow within an epoch."""
        shown = self._pace.within(done, total)
        if shown is not None:
            self._bar.update(self._task, completed=shown[0], pace=shown[1])

    def __call__(self, end: EpochEnd, /) -> None:
        done, pace = self._pace.epoch_ended(end.epoch, end.rows)
        self._bar.update(self._task, completed=done, numbers=shown_numbers(end), pace=pace)

    def on_train_end(self) -> None:
        """Leave the last line standing."""
        self._bar.stop()
