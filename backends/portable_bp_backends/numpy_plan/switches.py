"""What a plan may do; each can be switched off to see what it is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Switches:
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
    exact : none of these rewrites: the same bits as the function as written
    neighbours : element-wise expressions over all tensors as one over the memory they share
    reuse : results in place of operands, and in memory that is free again
    donate : new state over old
    piece : bytes of an array at a time in long element-wise runs (0: whole arrays)
    ahead : bytes of mini-batches gathered at a time (0: one mini-batch)

    Examples
    --------
    >>> Switches(exact=True, piece=0)
    Switches(exact=True, neighbours=True, reuse=True, donate=True, piece=0, ahead=131072)
    """

    exact: bool = False
    neighbours: bool = True
    reuse: bool = True
    donate: bool = True
    piece: int = 1 << 16
    ahead: int = 1 << 17
