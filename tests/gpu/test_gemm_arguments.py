"""What cuBLAS is told about matrices: read back, entry by entry, as it would read them."""

import itertools

import numpy as np
import pytest

from portable_bp_backends.cupy_cublas import arguments, operand

LAYOUTS = {
    "by rows": lambda r, c: np.empty((r, c)),
    "by columns": lambda r, c: np.empty((c, r)).T,
    "rows of a wider matrix": lambda r, c: np.empty((r, c + 3))[:, :c],
    "columns of a taller matrix": lambda r, c: np.empty((r + 2, c))[1:-1],
    "transposed part": lambda r, c: np.empty((c, r + 5))[:, 2:-3].T,
    "every other row": lambda r, c: np.empty((2 * r, c))[::2],
    "every other column": lambda r, c: np.empty((r, 2 * c))[:, ::2],
    "one row, repeated": lambda r, c: np.broadcast_to(np.empty((1, c)), (r, c)),
    "rows backwards": lambda r, c: np.empty((r, c))[::-1],
}


def blas(operations, leading, a, b, c):
    """GemmEx by its definition, on flat memory that is counted by columns."""
    (op_a, op_b, m, n, k), (ld_a, ld_b, ld_c) = operations, leading
    assert ld_a >= (k if op_a else m)
    assert ld_b >= (n if op_b else k)
    assert ld_c >= m
    for i, j in itertools.product(range(m), range(n)):
        c[i + j * ld_c] = sum(
            a[p + i * ld_a if op_a else i + p * ld_a] * b[j + p * ld_b if op_b else p + j * ld_b]
            for p in range(k)
        )


def flat(array):
    """The memory that starts at the array's first entry."""
    entries = 1 + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) // 8
    return np.lib.stride_tricks.as_strided(array, (entries,), (8,))


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
def test_blas_reads_what_we_mean(a_layout, b_layout):
    rng = np.random.default_rng(0)
    for m, n, k in [(2, 3, 4), (4, 3, 2), (1, 3, 2), (3, 1, 2), (3, 2, 1), (1, 1, 4), (1, 1, 1)]:
        readable = []
        for shape, layout in [((m, k), a_layout), ((k, n), b_layout)]:
            array = LAYOUTS[layout](*shape)
            values = rng.integers(-4, 5, size=shape).astype(float)
            if layout.startswith("one row"):
                array = np.broadcast_to(values[:1], shape)
            else:
                array[...] = values
            how = operand(shape, tuple(s // 8 for s in array.strides))
            if how is None:
                array, how = np.ascontiguousarray(array), (False, shape[1])
            readable.append((array, how))
        (a, how_a), (b, how_b) = readable
        c = np.full(m * n, np.nan)
        blas(*arguments(m, n, k, how_a, how_b), flat(b), flat(a), c)
        np.testing.assert_array_equal(c.reshape(m, n), a @ b)


def test_only_what_must_be_is_copied():
    shape = (3, 4)
    fits = {
        name: operand(shape, tuple(s // 8 for s in make(*shape).strides)) is not None
        for name, make in LAYOUTS.items()
    }
    assert [name for name, good in fits.items() if not good] == [
        "every other column",
        "one row, repeated",
        "rows backwards",
    ]
