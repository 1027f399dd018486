"""What several adapters need of the host's NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._typing import HostArray


def native_copy(values: Any, dtype: Any = None) -> HostArray:
    """A private C-contiguous copy in this machine's byte order, free of masks and subclasses.

    >>> native_copy([[1, 2]], "float32")
    array([[1., 2.]], dtype=float32)
    """
    array = np.array(values, dtype=dtype, order="C", copy=True, subok=False)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
