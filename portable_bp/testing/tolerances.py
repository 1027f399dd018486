"""How far two backends may differ, and why: one number for each kind of quantity.

All are in units of the roundoff u of the arithmetic. Two backends that compute the same formula
differ because they add in another order, fuse a product into a sum, or have another ``exp``; each of
these is a relative error of a few u in some intermediate number. What reaches the result was
measured on this package's own code (``tools/measure_constants.py`` writes the table into
``docs/equivalence.md``, a test holds the table to these constants); each tolerance is that with room
to spare, and far below what a wrong formula does: an error of 1e-5 is 168 u in float32, and one of
1e-14 is 90 u in float64, where the same cases run.
"""

from __future__ import annotations

import math

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "tf32": 2.0**-11}
"""u: half the spacing of the numbers next to 1. TF32 keeps 10 bits of each factor of a product."""

ELEMENTWISE = 32.0
"""Per entry, relative to ``max(1, |f|) (1 + |z|)``. A formula of ten or so operations and a library
function or two, each good to 5 u (the worst seen in ``exp``, ``tanh`` and ``log1p``). What 1 + tanh
or 1 - tanh^2 cancels, z multiplies: hence 1 + |z|, for the tanh form of GELU 1 + |z u'(z)|."""

LOSS = 32.0
"""|E - E'| / max(1, |E|): pairwise or longer sums of terms that are good to a few u."""

GRADIENT = 32.0
"""||g - g'|| / ||g||, all tensors together, at parameters as they come from an initialiser; deltas and
outputs in the same way. The roundings of a sum are independent, so that the proven bounds, K u for
sums of K terms, are far too large: they would hide a wrong formula. See :func:`generic`."""

PER_LAYER = 12.0
"""Each layer passes on what the one before has lost, and adds some 2 u to it."""

TRAINED = 128.0
"""The same part of the way to a minimum: the gradient is then a small sum of numbers that nearly
cancel (o - y, and the examples among themselves) and keeps the roundings of the large ones. At the
minimum itself, where ||g|| is 0, no relative error means anything."""

UPDATE = 8.0
"""One step of an optimiser, per entry, relative to the largest of its inputs and results."""

TF32 = 8.0
"""||g - g'|| / ||g|| in units of 2^-11, smooth activations: the factors of each product are rounded
to 11 bits, and the roundings average out as above. With a kink (relu) units flip: none is asserted."""


def generic(layers: int) -> float:
    """``max(32, 12 layers)``: :data:`GRADIENT` for a network of this many layers.

    >>> generic(2), generic(9)
    (32.0, 108.0)
    """
    return max(GRADIENT, PER_LAYER * layers)


def trajectory(steps: int) -> float:
    """``4 sqrt(k + 1)``: ||w - w'|| / ||w|| after k steps with smooth activations.

    Each step rounds the parameters once, an independent error of about 0.4 u; k of them add up to
    ``0.4 u sqrt(k)`` as long as a step does not stretch distances, which holds for a rate at which
    training is stable. Ten times that is asserted. With relu two runs part at the first unit whose
    net input is closer to 0 than its error; no tolerance holds after that, so none is asserted.

    >>> trajectory(99)
    40.0
    """
    return 4.0 * math.sqrt(steps + 1)
