"""The errors of portable_bp. Each says what was given, what is wrong with it and what to do."""

from __future__ import annotations

from typing import Any


class BackendError(RuntimeError):
    """A backend was asked for that is unknown or cannot be used."""


class BackendNotInstalledError(BackendError, ImportError):
    """The library of a backend is not installed."""


class BackendUnavailableError(BackendError):
    """The library is installed, but the device or the driver is not there."""


class MixedBackendError(BackendError, TypeError):
    """Inputs live on different backends or devices."""


class DataError(ValueError):
    """A file or table cannot be learnt from; the message says what and where."""


class DivergenceError(ValueError):
    """Training produced a loss or a parameter that is not finite.

    Parameters
    ----------
    message : str
        What happened, and what to do.
    model : Model, optional
        The model with the last finite parameters; an attribute of the error.
    """

    def __init__(self, message: str, model: Any = None) -> None:
        super().__init__(message)
        self.model = model


class OutOfMemoryError(MemoryError):
    """A device or the host has no room for what was asked.

    Raised for any backend's own error. Nothing that was handed in has changed, and what the attempt
    had allocated is free again.
    """


class RemoteError(RuntimeError):
    """Another process of a distributed run has an error, which ends the run on all of them.

    Parameters
    ----------
    message : str
        Where, and what.
    rank : int
        The process that has the error; an attribute of this one, as is ``text``.
    text : str
        The type and the message of that error.
    """

    def __init__(self, message: str, rank: int = 0, text: str = "") -> None:
        super().__init__(message)
        self.rank, self.text = rank, text


class CheckpointError(ValueError):
    """A model or checkpoint file cannot be read as one, or its directory is in use."""


class CheckpointWarning(UserWarning):
    """A checkpoint was not saved, or a damaged one was skipped; training can go on."""
