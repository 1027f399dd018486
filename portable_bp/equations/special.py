"""The complementary error function, which no version of the Array API standard has."""

from __future__ import annotations

from portable_bp._typing import Array, Namespace
from portable_bp.equations._elementwise import elementwise

# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969),
# 631-637: numerators and denominators from the highest power down. The denominators are monic.
_SMALL = (
    (0.185777706184603153, 3.16112374387056560, 113.864154151050156, 377.485237685302021,
     3209.37758913846947),
    (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062),
)  # fmt: skip
_MIDDLE = (
    (2.15311535474403846e-8, 0.564188496988670089, 8.88314979438837594, 66.1191906371416295,
     298.635138197400131, 881.952221241769090, 1712.04761263407058, 2051.07837782607147,
     1230.33935479799725),
    (1.0, 15.7449261107098347, 117.693950891312499, 537.181101862009858, 1621.38957456669019,
     3290.79923573345963, 4362.61909014324716, 3439.36767414372164, 1230.33935480374942),
)  # fmt: skip
_LARGE = (
    (1.63153871373020978e-2, 0.305326634961232344, 0.360344899949804439, 0.125781726111229246,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 0.527905102951428412, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip
_ONE_OVER_SQRT_PI = 0.56418958354775628695


def _ratio(t: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """p(t) / q(t) by Horner's rule."""
    p, q = coefficients
    numerator = t * p[0] + p[1]
    for c in p[2:]:
        numerator = numerator * t + c
    denominator = t * q[0] + q[1]
    for c in q[2:]:
        denominator = denominator * t + c
    return numerator / denominator


@elementwise
def erfc(x: Array, *, xp: Namespace) -> Array:
    """``erfc(x) = 2/sqrt(pi) * integral from x to infinity of exp(-t^2) dt``, element by element.

    Three rational approximations after Cody (1969): ``1 - x R(x^2)`` up to 0.46875,
    ``exp(-x^2) R(x)`` up to 4, ``exp(-x^2)/x (1/sqrt(pi) - R(1/x^2)/x^2)`` beyond; for negative x,
    ``2 - erfc(-x)``.
    """
    one = xp.ones_like(x)
    y = xp.minimum(xp.abs(x), 30 * one)  # erfc(30) is 0 in float64; y * y never overflows
    # Each piece is evaluated everywhere, so its argument is kept inside its own range.
    small = xp.where(y < 0.5, y, 0.5 * one)
    middle = xp.where(y < 0.46875, one, xp.where(y < 4.0, y, 4 * one))
    large = xp.where(y < 4.0, 4 * one, y)
    tail = xp.exp(-(y * y))
    inverse = 1 / (large * large)
    near = 1 - small * _ratio(small * small, _SMALL)
    between = tail * _ratio(middle, _MIDDLE)
    beyond = tail * (_ONE_OVER_SQRT_PI - inverse * _ratio(inverse, _LARGE)) / large
    right = xp.where(y <= 0.46875, near, xp.where(y <= 4.0, between, beyond))
    return xp.where(x < 0, 2 - right, right)
