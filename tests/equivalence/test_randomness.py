"""The same seed, the same bits: against Philox written out from the paper in Python's integers.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011); the
answers are those that the authors publish with their Random123 library (``kat_vectors``).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import portable_bp
from portable_bp import Backend, EpochEnd, rng
from portable_bp.equations import random, regularizers
from portable_bp.testing.compare import kind_errors

CONSTANTS = {
    32: ((0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)),
    64: (
        (0xD2E7470EE14C6C93, 0xCA5A826395121157),
        (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B),
    ),
}
SEED, LAYER = 0xFEDCBA9876543210, 3


def philox(bits: int, counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Ten rounds of S-boxes and a permutation on four words of 32 or 64 bits."""
    multipliers, weyl = CONSTANTS[bits]
    word = 2**bits - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        products = [multipliers[0] * c[0], multipliers[1] * c[2]]
        c = [
            (products[1] >> bits) ^ c[1] ^ k[0],
            products[1] & word,
            (products[0] >> bits) ^ c[3] ^ k[1],
            products[0] & word,
        ]
        k = [(part + w) & word for part, w in zip(k, weyl, strict=True)]
    return c


def reference_words(n: int, seed: int, layer: int, step: int) -> list[int]:
    """What :func:`portable_bp.equations.random.words` says it gives."""
    q = -(-n // 4)
    blocks = [philox(32, (i, step, layer, 0), (seed & 0xFFFFFFFF, seed >> 32)) for i in range(q)]
    return [blocks[i % q][i // q] for i in range(n)]


def reference_mask(shape: tuple[int, int], rate: float, **names: int) -> np.ndarray:
    """Which units stay: the top 24 bits of a word, as an integer, against the rate."""
    words = np.asarray(reference_words(shape[0] * shape[1], **names))
    return (words >> 8 >= round(rate * 2**24)).reshape(shape)


ANSWERS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS, ids=["zeros", "ones", "pi"])
def test_the_published_answers_on_every_backend(
    where: Backend, counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    assert tuple(philox(32, counter, key)) == answer
    with where.scope():
        *first, last = (np.asarray(c, dtype=where.word_dtype) for c in counter)
        words = tuple(where.asarray(c[None], where.word_dtype) for c in first)
        found = random.philox((*words, where.asarray(last, where.word_dtype)), key)
        assert [int(where.to_numpy(w)[0]) for w in found] == list(answer)


@pytest.mark.parametrize("step", [0, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize("n", [1, 4, 103])
def test_words_equal_the_reference(where: Backend, n: int, step: int) -> None:
    with where.scope():
        index = where.asarray(np.arange(30), where.word_dtype)
        number = where.asarray(np.asarray(step), where.word_dtype)
        found = random.words(n, index, seed=SEED, layer=LAYER, step=number, xp=where.xp)
        assert list(kind_errors(where, found, np.zeros(n), where.word_dtype)) == []
        assert where.to_numpy(found).tolist() == reference_words(n, SEED, LAYER, step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict:device1", "strict:no_x64"])
def test_masks_equal_the_reference_and_are_made_on_the_device(where: Backend, dtype: str) -> None:
    """Nothing but the counters is handed in: on strict:device1 a way over the host would raise."""
    shape, rate = (13, 7), 0.3
    with where.scope():
        index = where.asarray(np.arange(23), where.word_dtype)
        step = where.asarray(np.asarray(5), where.word_dtype)
        mask = regularizers.dropout_mask(
            shape, where.dtype(dtype), rate, index, seed=SEED, layer=2, step=step, xp=where.xp
        )
        assert list(kind_errors(where, mask, np.zeros(shape), dtype)) == []
        found = where.to_numpy(mask)
    kept = reference_mask(shape, rate, seed=SEED, layer=2, step=5)
    np.testing.assert_array_equal(found != 0, kept)
    assert set(np.unique(found)) == {0, np.dtype(dtype).type(1 / (1 - rate))}


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict:device1", "strict:no_float64"])
def test_a_run_drops_the_units_that_seed_layer_and_step_name(where: Backend, compile: bool) -> None:
    """A weight behind a unit that was left out does not move: the changes show every mask."""
    units, rate, seed = 40, 0.5, 12345
    start = ((np.ones((1, units)), np.zeros(units)), (np.zeros((units, 1)), np.zeros(1)))
    net = portable_bp.MLP([1, units, 1], "identity", dropout=rate)
    kept: list[np.ndarray] = [np.zeros(units)]

    def look(end: EpochEnd) -> None:
        with where.scope():
            kept.append(where.to_numpy(end.params()[1][0])[:, 0])

    portable_bp.fit(
        net, [[1.0]], [1.0], params=start, optimizer="sgd", learning_rate=1e-3, batch_size=1,
        epochs=4, seed=seed, backend=where, compile=compile, callbacks=[look],
    )  # fmt: skip
    moved = [after != before for before, after in pairwise(kept)]
    for step, found in enumerate(moved):
        wanted = reference_mask((1, units), rate, seed=seed, layer=1, step=step)[0]
        np.testing.assert_array_equal(found, wanted)


def test_the_hosts_words_are_those_of_the_paper() -> None:
    """NumPy's Philox4x64-10, counted from 1, under the key that NumPy's SeedSequence makes."""
    assert philox(64, (0,) * 4, (0, 0)) == [
        0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B,
    ]  # fmt: skip
    key = np.random.SeedSequence(7, spawn_key=(rng.INIT, 2)).generate_state(2, np.uint64)
    blocks = [philox(64, (i, 0, 0, 0), tuple(map(int, key))) for i in (1, 2, 3)]
    found = rng.raw_words(10, 7, rng.INIT, 2)
    assert found.tolist() == [word for block in blocks for word in block][:10]


def test_a_seed_means_the_same_for_ever() -> None:
    """Known answers: whoever changes what a seed gives breaks what users have published."""
    assert rng.permutation(10, 0, rng.SHUFFLE, 1).tolist() == [6, 9, 3, 1, 2, 7, 5, 8, 0, 4]
    W = portable_bp.MLP([2, 2], initializer="glorot_uniform").init(0, dtype="float64")[0][0]
    assert [float(w).hex() for w in np.asarray(W).ravel()] == [
        "0x1.d6b02ad1fca34p-1", "0x1.9289a197c75a2p-1",
        "0x1.56add68c21f3bp-2", "-0x1.3f0b0d9a9f5e3p-2",
    ]  # fmt: skip


def test_streams_differ_in_every_part_of_their_name() -> None:
    names = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (0, 1), (2**32, 1, 0), (0, 1, 1, 0)]
    streams = {tuple(rng.raw_words(4, *name).tolist()) for name in names}
    assert len(streams) == len(names)
    parts = [(0, 1, 0), (1, 1, 0), (2**32, 1, 0), (0, 2, 0), (0, 1, 1)]
    streams = {tuple(reference_words(8, *part)) for part in parts}
    assert len(streams) == len(parts)
