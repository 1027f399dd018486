"""Where the arrays of an estimator live, and where its equations run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend, owner, resolve
from portable_bp.inputs.transfer import to_host


def home_of(X: Any) -> Backend:
    """The backend that the arrays of ``X`` belong to: NumPy for anything in the host's memory."""
    adapter = owner(X)
    return get_backend("numpy" if adapter is None else adapter.spec_of(X))


@dataclass(frozen=True)
class Place:
    """``home``: where X lives, and with it fitted arrays and results; ``work``: where they are
    computed. The same, unless ``device`` says otherwise."""

    home: Backend
    work: Backend

    @classmethod
    def of(cls, X: Any, device: str | Backend | None) -> Place:
        """The place for this X. Host data go where the rules of selection say."""
        home = home_of(X)
        if device is None and home.name != "numpy":
            return cls(home, home)
        return cls(home, resolve(device))

    def to_work(self, array: Any, name: str) -> Array:
        """A copy of an array from anywhere in the dtype ``name``, where the equations run."""
        with self.work.scope():
            return self.work.asarray(_readable(array, self.work), name)

    def to_home(self, array: Any) -> Any:
        """An array from ``work`` where X lives."""
        if self.home is self.work:
            return array
        host = np.asarray(to_host(array))
        with self.home.scope():
            return host if self.home.name == "numpy" else self.home.asarray(host)


def _readable(array: Any, backend: Backend) -> Any:
    """``array`` as the backend's ``asarray`` takes it: of its own library, or NumPy."""
    adapter = owner(array)
    return array if adapter is None or adapter is type(backend) else to_host(array)


def as_classes(classes: HostArray, home: Backend) -> Any:
    """Class labels where X lives; text and the like stay in NumPy."""
    if home.name == "numpy" or classes.dtype.kind not in "biuf":
        return classes
    # Not every library indexes arrays of unsigned integers, and not every device has 64 bits.
    if classes.dtype.kind in "iu":
        name = home.index_dtype
    elif classes.dtype.kind == "f":
        name = home.widest_float
    else:
        name = "bool"
    with home.scope():
        return home.asarray(classes.astype(name), name)
