"""Which backend: names to adapters, and the rules of selection.

The order is: explicit argument > device arrays handed in (all must agree) > :func:`use_backend` >
the environment variable ``PORTABLE_BP_BACKEND`` > numpy. NumPy arrays, lists and data frames are
host data: they never decide.
"""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from portable_bp.backend import Backend
from portable_bp.errors import (
    BackendError,
    BackendNotInstalledError,
    BackendUnavailableError,
    MixedBackendError,
)

GROUP = "portable_bp.backends"
VARIABLE = "PORTABLE_BP_BACKEND"

_log = logging.getLogger("portable_bp")
_current: ContextVar[Backend | None] = ContextVar("portable_bp_backend", default=None)


@cache
def adapters() -> dict[str, type[Backend]]:
    """Name to adapter class, from the entry points; a plug-in that does not load is left out."""
    found: dict[str, type[Backend]] = {}
    for entry in entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            warnings.warn(
                f"the backend plug-in {entry.name!r} ({entry.value}) does not load: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    return found


def available_backends() -> tuple[str, ...]:
    """The specs that :func:`get_backend` would take here: every usable device of every library.

    >>> "numpy" in available_backends()
    True
    """
    return tuple(spec for adapter in adapters().values() for spec in adapter.devices())


def choose_auto() -> tuple[str, str]:
    """The spec that ``auto`` means here, and why: the first usable accelerator, else NumPy."""
    reasons = []
    for adapter in sorted(adapters().values(), key=lambda a: -a.priority):
        if adapter.priority <= 0:
            continue
        found = adapter.accelerators()
        if found:
            return found[0], f"{found[0]} is the first usable accelerator"
        reasons.append(adapter.unavailable_reason() or f"{adapter.name} finds no accelerator")
    return "numpy", "no usable accelerator: " + "; ".join(reasons or ["no adapter for one"])


@cache
def _load(spec: str) -> Backend:
    name, _, device = spec.partition(":")
    known = adapters()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "auto"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise BackendError(
            f"unknown backend {spec!r}{hint} Known: {', '.join(sorted([*known, 'auto']))}. "
            f"Third-party backends register the entry point group {GROUP!r}."
        )
    adapter = known[name]
    reason = adapter.unavailable_reason()
    if reason:
        kind = BackendNotInstalledError if "not installed" in reason else BackendUnavailableError
        raise kind(f"backend {spec!r} cannot be used: {reason}. {_usable()}")
    try:
        return adapter.from_device(device)
    except ValueError as error:
        raise BackendUnavailableError(
            f"backend {spec!r} cannot be used: {error}. {_usable()}"
        ) from None


def _usable() -> str:
    return f"Usable here: {', '.join(available_backends())}."


def get_backend(spec: str | Backend) -> Backend:
    """The backend for a name such as ``"numpy"``, ``"cupy:1"``, ``"torch:cuda:0"`` or ``"auto"``.

    Parameters
    ----------
    spec : str or Backend
        ``library[:device]``; ``"auto"`` takes the first usable accelerator, else NumPy, and logs
        the choice to the logger ``portable_bp``. A Backend is returned as it is.

    Raises
    ------
    BackendError
        For an unknown name; :class:`BackendNotInstalledError` when the library is missing,
        :class:`BackendUnavailableError` when the device or driver is. The message says what to do.

    Examples
    --------
    >>> get_backend("numpy")
    <portable_bp backend numpy>
    """
    if isinstance(spec, Backend):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"backend must be a string such as 'numpy' or 'cupy:0', got {spec!r}")
    if spec == "auto":
        spec, why = choose_auto()
        _log.info("backend auto: %s", why)
    return _load(spec)


@contextmanager
def use_backend(spec: str | Backend) -> Iterator[Backend]:
    """Within the block, host data go to this backend unless an argument says otherwise.

    A new thread starts without it (as with every ``contextvars`` variable).

    >>> with use_backend("numpy") as backend:
    ...     backend.spec
    'numpy'
    """
    backend = get_backend(spec)
    token = _current.set(backend)
    try:
        yield backend
    finally:
        _current.reset(token)


def owner(array: Any) -> type[Backend] | None:
    """The adapter whose library made ``array``; None for host data. Imports no library."""
    package = type(array).__module__.partition(".")[0]
    if package in ("builtins", "numpy"):
        return None
    for adapter in adapters().values():
        if package in adapter.modules:
            return None if adapter.name == "numpy" else adapter
    if hasattr(array, "__array_namespace__") and not hasattr(array, "__array__"):
        raise BackendError(
            f"no backend knows arrays of type {type(array).__module__}.{type(array).__name__}; "
            f"a third-party backend registers the entry point group {GROUP!r}"
        )
    return None


def backend_of(*arrays: Any) -> Backend | None:
    """The backend on which the device arrays among ``arrays`` live; None if there are none."""
    specs: dict[str, None] = {}  # an ordered set
    for array in arrays:
        adapter = owner(array)
        if adapter is not None:
            specs[adapter.spec_of(array)] = None
    if len(specs) > 1:
        raise MixedBackendError(
            f"inputs live on different backends ({', '.join(specs)}); move them to one place, or "
            f"say backend={next(iter(specs))!r}"
        )
    return _load(next(iter(specs))) if specs else None


def resolve(backend: str | Backend | None, *arrays: Any) -> Backend:
    """The backend for these inputs by the rules of selection."""
    if backend is not None:
        return get_backend(backend)
    found = backend_of(*arrays) or _current.get()
    if found is not None:
        return found
    return get_backend(os.environ.get(VARIABLE) or "numpy")
