"""Which backend: names to adapters, and the rules of selection.

The order is: explicit argument > device arrays handed in (all must agree) > :func:`use_backend` >
the environment variable ``PORTABLE_BP_BACKEND`` > numpy. NumPy arrays, lists and data frames are
host data: they never decide.
"""

from __future__ import annotations

import copyreg
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
from portable_bp.processes import current

GROUP = "portable_bp.backends"
VARIABLE = "PORTABLE_BP_BACKEND"
ANY_LIBRARY = ("cpu", "cuda", "gpu")
"""Names of devices that stand for a library as well: NumPy, or the first that has a usable GPU."""
SPELLINGS = {
    "np": "numpy",
    "host": "cpu",
    "pytorch": "torch",
    "jnp": "jax",
    "cp": "cupy",
    "nvidia": "cuda",
    "array_api_strict": "strict",
}
"""What is suggested for other names."""

_log = logging.getLogger("portable_bp")
_current: ContextVar[Backend | None] = ContextVar("portable_bp_backend", default=None)


@cache
def adapters() -> dict[str, type[Backend]]:
    """Name to adapter class, from the entry points; a plug-in that does not load is left out."""
    loaded: dict[str, type[Backend]] = {}
    for entry in entry_points(group=GROUP):
        try:
            loaded[entry.name] = entry.load()
        except Exception as error:
            warnings.warn(
                f"the backend plug-in {entry.name!r} ({entry.value}) does not load: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    return loaded


def available_backends() -> tuple[str, ...]:
    """The specs that :func:`get_backend` would take here: every usable device of every library.

    Returns
    -------
    tuple of str
        Such as ``("numpy", "torch:cuda:0", "torch")``.

    Examples
    --------
    >>> "numpy" in available_backends()
    True
    """
    return tuple(spec for adapter in adapters().values() for spec in adapter.devices())


def _by_priority() -> list[type[Backend]]:
    """The adapters that may have an accelerator, in the order in which they are asked."""
    return sorted((a for a in adapters().values() if a.priority > 0), key=lambda a: -a.priority)


def _reasons() -> str:
    """Why no adapter has an accelerator here."""
    reasons = [a.unavailable_reason() or f"{a.name} finds no accelerator" for a in _by_priority()]
    return "; ".join(reasons or ["no adapter for one"])


def choose_auto() -> tuple[str, str]:
    """The spec that ``auto`` means here, and why: the first usable accelerator, else NumPy."""
    for adapter in _by_priority():
        specs = adapter.accelerators()
        if specs:
            spec = specs[current().local_rank % len(specs)]
            return spec, f"{spec} is the first usable accelerator"
    return "numpy", f"no usable accelerator: {_reasons()}"


def _any_library(alias: str) -> str:
    """The spec that ``cuda``, ``gpu``, ``cuda:1``, ``cpu`` ... means here."""
    device, _, index = alias.partition(":")
    if device == "cpu":
        if index not in ("", "0"):
            raise BackendUnavailableError(f"backend {alias!r} cannot be used: there is one CPU")
        return "numpy"
    by_library = [adapter.accelerators() for adapter in _by_priority()]
    specs = [spec for library in by_library for spec in library]
    if specs and not index:
        first = next(filter(None, by_library))
        return first[current().local_rank % len(first)]
    for spec in specs:
        if spec.rpartition(":")[2] == index:
            return spec
    if specs:
        raise BackendUnavailableError(
            f"backend {alias!r} cannot be used: the accelerators here are {', '.join(specs)}"
        )
    installed = any(adapter.installed() for adapter in _by_priority())
    kind = BackendUnavailableError if installed else BackendNotInstalledError
    raise kind(f"backend {alias!r} cannot be used: {_reasons()}. {_usable()}")


@cache
def _load(spec: str) -> Backend:
    name, _, device = spec.partition(":")
    if spec == "fastest":
        raise BackendError(
            "backend 'fastest' is found by timing a network: it is for portable_bp.fit. Elsewhere name "
            "the backend that portable-bp bench recommends"
        )
    known = {key.lower(): adapter for key, adapter in adapters().items()}
    if name not in known:
        names = sorted([*known, "auto", *ANY_LIBRARY])
        near = difflib.get_close_matches(SPELLINGS.get(name, name), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise BackendError(
            f"unknown backend {spec!r}{hint} Known: {', '.join(names)}. "
            f"Third-party backends register the entry point group {GROUP!r}."
        )
    adapter = known[name]
    reason = adapter.unavailable_reason()
    if reason:
        kind = BackendUnavailableError if adapter.installed() else BackendNotInstalledError
        raise kind(f"backend {spec!r} cannot be used: {reason}. {_usable()}")
    # A pickle keeps the name; a copy is the backend itself, which has to be one for each device.
    copyreg.pickle(adapter, _reduced)
    try:
        return adapter.from_device(device)
    except ValueError as error:
        raise BackendUnavailableError(
            f"backend {spec!r} cannot be used: {error}. {_usable()}"
        ) from None


def _reduced(backend: Backend) -> tuple[Any, ...]:
    return get_backend, (backend.spec,)


if hasattr(os, "register_at_fork"):  # a device does not survive a fork: a child asks anew
    os.register_at_fork(after_in_child=_load.cache_clear)


def _usable() -> str:
    return f"Usable here: {', '.join(available_backends())}."


def get_backend(spec: str | Backend) -> Backend:
    """The backend for a name such as ``"numpy"``, ``"cupy:1"``, ``"torch:cuda:0"`` or ``"cuda"``.

    Parameters
    ----------
    spec : str or Backend
        ``library[:device]``. ``"cuda"`` and ``"gpu"`` take the first usable GPU of any library,
        ``"cuda:1"`` the second, ``"cpu"`` is NumPy; ``"auto"`` takes the first usable accelerator,
        else NumPy, and logs the choice to the logger ``portable_bp``. Case and blanks do not matter.
        A Backend is returned as it is.

    Returns
    -------
    Backend

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
    spec = "".join(spec.split()).lower()
    if spec == "auto":
        spec, why = choose_auto()
        _log.info("backend auto: %s", why)
    elif spec.partition(":")[0] in ANY_LIBRARY:
        alias, spec = spec, _any_library(spec)
        _log.info("backend %s: %s", alias, spec)
    return _of_this_process(_load(spec), spec)


def _of_this_process(backend: Backend, spec: str) -> Backend:
    """One accelerator for each process of this machine, where the spec has no number."""
    processes = current()
    if processes.size == 1 or spec[-1].isdigit():
        return backend
    specs = type(backend).accelerators()
    if backend.spec not in specs:
        return backend
    return _load(specs[processes.local_rank % len(specs)])


@contextmanager
def use_backend(spec: str | Backend) -> Iterator[Backend]:
    """Within the block, host data go to this backend unless an argument says otherwise.

    A new thread starts without it (as with every ``contextvars`` variable).

    Parameters
    ----------
    spec : str or Backend
        As :func:`get_backend` takes it.

    Yields
    ------
    Backend
        The backend of the block.

    Examples
    --------
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
        if package in adapter.modules and hasattr(array, "shape"):  # no data set, no module
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
    chosen = backend_of(*arrays) or _current.get()
    if chosen is not None:
        return chosen
    spec = os.environ.get(VARIABLE, "").strip()
    try:
        return get_backend(spec or "numpy")
    except BackendError as error:
        error.args = (f"the environment variable {VARIABLE} is {spec!r}: {error}",)
        raise
