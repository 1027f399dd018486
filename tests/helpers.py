"""What several test files need."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from portable_bp._tree import leaves


def jax_64_bits(on: bool) -> AbstractContextManager[Any]:
    """Within the block JAX has 64-bit numbers, or has none; by the name that this version has for it."""
    import jax
    import jax.experimental

    switch: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    context: AbstractContextManager[Any] = switch(on)
    return context


def same_bits(a: Any, b: Any) -> None:
    """Two trees of arrays are the same to the last bit: signs of zero and NaNs as well."""
    ours, theirs = list(leaves(a)), list(leaves(b))
    assert len(ours) == len(theirs)
    for x, y in zip(map(np.asarray, ours), map(np.asarray, theirs), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()
