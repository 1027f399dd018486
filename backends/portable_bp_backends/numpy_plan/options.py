"""What a plan may do; each can be switched off to see what it is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanOptions:
    """The optimisations of a plan.

    Without ``exact``, two rewrites may add up the same terms in another order; over n terms every
    order stays within ``n eps sum |terms|`` of the true sum:

    - the sum of a matrix over its rows or its columns, or of all of a small one, is its product with
      a vector of ones;
    - a product of matrices goes through ``np.dot``, which may choose another routine of BLAS than
      ``np.matmul``.

    With and without it the maxima (minima) of many short rows are taken column by column: the same
    numbers, but where both zeros are the greatest, either 0.0 or -0.0, as in NumPy's own.

    Parameters
    ----------
    exact : none of these rewrites: the bits of the eager function
    fusion : element-wise expressions over all tensors as one over the memory they share
    reuse : results in place of operands, and in memory that is free again
    donate : new state over old
    tile : bytes of an array at a time in long element-wise loops (0: whole arrays)
    prefetch_bytes : bytes of mini-batches gathered at a time (0: one mini-batch)

    Examples
    --------
    >>> PlanOptions(exact=True, tile=0)
    PlanOptions(exact=True, fusion=True, reuse=True, donate=True, tile=0, prefetch_bytes=131072)
    """

    exact: bool = False
    fusion: bool = True
    reuse: bool = True
    donate: bool = True
    tile: int = 1 << 16
    prefetch_bytes: int = 1 << 17
