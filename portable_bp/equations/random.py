"""Counter-based random bits: Philox4x32-10, in 32-bit words, as array arithmetic.

The bits are a pure function of a key and a counter, so that they can be made inside a compiled step,
on any device, and are the same everywhere. Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC11 (2011).
"""

from __future__ import annotations

from portable_bp._typing import Array, Namespace
from portable_bp.equations._elementwise import elementwise

Word = int | Array
Seed = int | tuple[Array, Array]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = 0xFFFF
_WORD = 0xFFFFFFFF


def _multiply(x: Array, m: int) -> tuple[Array, Array]:
    """High and low 32-bit words of ``x * m``, from 16-bit halves: no product exceeds 32 bits."""
    m_high, m_low = m >> 16, m & _LOW
    x_high, x_low = x >> 16, x & _LOW
    low = x_low * m_low
    cross = x_high * m_low + (low >> 16)
    middle = x_low * m_high + (cross & _LOW)
    high = x_high * m_high + (cross >> 16) + (middle >> 16)
    return high, ((middle & _LOW) << 16) | (low & _LOW)


def philox(
    counter: tuple[Array, Array, Array, Array], key: tuple[Word, Word]
) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 of a 128-bit counter and a 64-bit key.

    Parameters
    ----------
    counter : four arrays of words that broadcast together; the last has no axis of its own
    key : two Python integers in [0, 2^32), or arrays of words of the shape of the last counter
    """
    c0, c1, c2, c3 = counter
    zero = c3 & 0
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c2 = high1 ^ c1 ^ _word(k0, zero), high0 ^ c3 ^ _word(k1, zero)
        c1, c3 = low1, low0
        k0, k1 = _sum(k0, _WEYL[0], zero), _sum(k1, _WEYL[1], zero)
    return c0, c1, c2, c3


def _sum(k: Word, weyl: int, zero: Array) -> Word:
    """``k + weyl`` modulo 2^32."""
    if isinstance(k, int):
        return (k + weyl) & _WORD
    word: Array = (k + _word(weyl, zero)) & _word(_WORD, zero)
    return word


def _word(c: Word, zero: Array) -> Array:
    """The constant c as an array like ``zero``, built in halves: some libraries take no integer above
    2^31."""
    if not isinstance(c, int):
        return c
    return (zero | (c >> 16)) << 16 | (c & _LOW)


@elementwise
def philox4x32(
    c0: Array, c1: Array, c2: Array, c3: Array, k0: Word, k1: Word, xp: Namespace
) -> tuple[Array, Array, Array, Array]:
    """:func:`philox` under a name that an adapter may have a native kernel for: the same bits."""
    return philox((c0, c1, c2, c3), (k0, k1))


def words(
    n: int, index: Array, *, seed: Seed, layer: int, step: Array, part: int = 0, xp: Namespace
) -> Array:
    """``n`` uniform 32-bit words for one layer at one step, shape (n,); (m, n) for m networks
    that differ in seed or step.

    Word ``i`` is word ``i // q`` of the four that Philox makes of the counter ``(i mod q, step,
    layer, part)`` under the key ``seed``, with ``q = ceil(n / 4)`` counters.

    Parameters
    ----------
    index : the integers 0, 1, 2, ..., at least q of them, in a dtype that holds 32-bit words
    seed : 0 <= seed < 2^64; for m networks their low and high words, two arrays of shape (m,)
    layer : 0 <= layer < 2^15
    step : array of the same dtype, of shape () or (m,)
    part : 0 <= part < 2^15, the part of the batch
    """
    q = -(-n // 4)
    low: Word
    high: Word
    if step.ndim:
        step = xp.expand_dims(step, axis=-1)
    if isinstance(seed, tuple):
        low, high = (xp.expand_dims(half, axis=-1) for half in seed)
    else:
        low, high = seed & _WORD, seed >> 32
    zero = step & 0
    last = zero | part if part else zero
    out = philox4x32(index[:q], step, zero | layer, last, low, high, xp)
    return xp.concat(out, axis=-1)[..., :n]
