"""The host's side: seeded draws with NumPy, one stream for each purpose.

Everything random starts here, in the host's memory, from NumPy's Philox bit generator keyed by
``(seed, purpose, ...)``, and is then handed to the backend: the same seed gives the same start
parameters, the same batches and the same splits on every backend. Only what NumPy promises to keep
between its versions is used: the raw words of a bit generator, and ``RandomState``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.equations.initializers import Scale

INIT, SHUFFLE, SPLIT, BLOCKS = 1, 2, 3, 4


def raw_words(n: int, seed: int, purpose: int, *key: int) -> HostArray:
    """``n`` uniform 64-bit words of the stream named by the integers."""
    words: HostArray = _source(seed, purpose, *key).random_raw(n)
    return words


def _source(seed: int, *name: int) -> np.random.Philox:
    # As spawn_key: in one list with the seed, a seed of two words would run into the name.
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=name))


def uniform(words: HostArray) -> HostArray:
    """Words to float64 in [0, 1): the top 53 bits times 2^-53."""
    return (words >> np.uint64(11)) * 2.0**-53


def draw(scale: Scale, shape: tuple[int, ...], seed: int, layer: int) -> HostArray:
    """Start weights of a layer in float64, shape ``shape``, from the scale rule."""
    n = math.prod(shape)
    if scale.width == 0:
        return np.zeros(shape)
    if scale.distribution == "uniform":
        flat = (2 * uniform(raw_words(n, seed, INIT, layer)) - 1) * scale.width
    else:
        # Box and Muller: two uniforms to two normals; 1 - u is never 0.
        half = -(-n // 2)
        u = uniform(raw_words(2 * half, seed, INIT, layer))
        r, angle = np.sqrt(-2 * np.log(1 - u[:half])), 2 * math.pi * u[half:]
        flat = np.concatenate([r * np.cos(angle), r * np.sin(angle)])[:n] * scale.width
    return flat.reshape(shape)


def permutation(n: int, seed: int, purpose: int, *key: int) -> HostArray:
    """A shuffle of 0 .. n-1 (int64).

    By ``RandomState``, the one class whose algorithms NumPy has promised never to change (NEP 19).
    """
    source = np.random.RandomState(_source(seed, purpose, *key))
    return source.permutation(n).astype(np.int64, copy=False)


def as_seed(seed: Any) -> int:
    """A seed as a Python integer in [0, 2^64)."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    return int(seed)
