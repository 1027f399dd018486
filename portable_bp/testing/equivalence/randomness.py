"""Random bits: batches, words and dropout masks are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray, Namespace, Tree
from portable_bp.backend import Backend, leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    initializers,
    random,
    regularizers,
)
from portable_bp.mlp import MLP
from portable_bp.testing.compare import same_bits
from portable_bp.testing.equivalence.evaluation import runner
from portable_bp.testing.report import Row


def random_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Start parameters, batch order, random words and dropout masks: the same bits."""
    numpy = get_backend("numpy")
    for name in sorted(initializers.INITIALIZERS):
        net = MLP((5, 7, 3), initializer=name)
        with backend.scope():
            got = [backend.to_numpy(p) for p in leaves(net.init(11, backend, dtype))]
        want = [numpy.to_numpy(p) for p in leaves(net.init(11, numpy, dtype))]
        yield same_bits("start parameters", name, _bits(got), _bits(want), dtype=dtype)
    for what, case, draw in (
        ("batches", "order of the rows", _batches),
        ("random words", "Philox4x32-10", _words),
        ("dropout masks", "Philox4x32-10", _masks),
    ):
        draws = [draw(w, m, dtype) for w, m in ((backend, mode), (numpy, "eager"))]
        yield same_bits(what, case, *draws, dtype=dtype, mode=mode)


def _bits(arrays: Sequence[HostArray]) -> list[HostArray]:
    return [a.view(f"u{a.dtype.itemsize}") for a in arrays]


def _batches(backend: Backend, mode: str, dtype: str) -> list[HostArray]:
    """Which rows each step saw: their numbers as the digits of the loss, an integer below 2^24."""
    n, size = 96, 3
    order = rng.permutation(n, 7, rng.SHUFFLE, 1).reshape(-1, size)

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        rows, (digits,) = batch[0], state
        return state, xp.sum(rows * digits, dtype=rows.dtype)

    with backend.scope():
        rows = backend.asarray(np.arange(n), dtype)
        digits = backend.asarray(np.asarray([1.0, n, n * n]), dtype)
        run = runner(backend, mode, step, (digits,))
        table = (np.zeros(len(order), dtype=backend.word_dtype),)
        return [backend.to_numpy(run.run((rows,), order, table)).astype(np.int64)]


def _words(backend: Backend, mode: str, dtype: str) -> list[HostArray]:
    """Words of three steps, their numbers on both sides of 2^31."""
    n, steps, seed = 1001, 3, 0xFEDCBA9876543210
    with backend.scope():
        index = backend.asarray(np.arange(n), backend.word_dtype)

        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
            w = random.words(n, index, seed=seed, layer=2, step=batch[-1][0], xp=xp)
            return (state[1], state[2], w), ()

        run = runner(backend, mode, step, (backend.xp.zeros_like(index),) * steps)
        numbers = np.arange(2**31 - 1, 2**31 - 1 + steps, dtype=backend.word_dtype)
        run.run((index,), None, (numbers,))
        return [backend.to_numpy(w).astype(np.int64) for w in run.state]


def _masks(backend: Backend, mode: str, dtype: str) -> list[HostArray]:
    shape, steps, rates = (13, 21), 2, (0.1, 0.5, 0.9)
    with backend.scope():
        index = backend.asarray(np.arange(shape[0] * shape[1]), backend.word_dtype)
        blank = backend.xp.zeros(shape, dtype=backend.dtype(dtype), device=backend.device)

        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
            draws = tuple(
                regularizers.dropout_mask(
                    shape, blank.dtype, rate, index, seed=9, layer=l, step=batch[-1][0], xp=xp
                )
                for l, rate in enumerate(rates, start=1)
            )
            return (*state[len(rates) :], *draws), ()

        run = runner(backend, mode, step, (blank,) * (steps * len(rates)))
        run.run((blank,), None, (np.arange(steps, dtype=backend.word_dtype),))
        return [(backend.to_numpy(m) != 0).astype(np.int64) for m in run.state]
