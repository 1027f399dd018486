"""To the device and back: exact, and a private copy each way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.testing.compare import kind_errors, same_bits
from portable_bp.testing.report import Row


def odd_inputs() -> dict[str, HostArray]:
    """NumPy arrays as users have them: every stride and byte order."""
    base = np.arange(24.0).reshape(6, 4) - 7.5
    read_only = base.copy()
    read_only.setflags(write=False)
    return {
        "C order": base.copy(),
        "Fortran order": np.asfortranarray(base),
        "transposed": base.copy().T,
        "every other column": base.copy()[:, ::2],
        "negative strides": base.copy()[::-1, ::-1],
        "zero strides": np.broadcast_to(base[:1], (3, 4)),
        "big endian": base.astype(">f8"),
        "read-only": read_only,
        "no rows": base[:0],
    }


def transfer_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """To the device and back: exact, and a private copy each way."""
    for case, values in odd_inputs().items():
        original = values.astype(values.dtype.newbyteorder("=")).astype(dtype)
        row = partial(same_bits, dtype=dtype)
        with backend.scope():
            array = backend.asarray(values, dtype)
            wrong = next(kind_errors(backend, array, original, dtype), "")
            back = backend.to_numpy(array)
            yield replace(row("transfer", case, [back], [original]), note=wrong)
            if values.flags.writeable:
                values[...] = 99.0
                after = backend.to_numpy(array)
                yield row("private copy", f"{case}, to the device", [after], [original])
            back[...] = 99.0
            after = backend.to_numpy(array)
            yield row("private copy", f"{case}, to the host", [after], [original])
