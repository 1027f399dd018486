"""What a plan may do; each can be switched off to see what it is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Switches:
    """The optimisations of a plan.

    Parameters
    ----------
    exact : no rewrite that changes the order of a sum: the same bits as the plain step
    neighbours : element-wise expressions over all tensors as one over the memory they share
    reuse : results in place of operands, and in memory that is free again
    donate : new state over old
    piece : bytes of an array at a time in long element-wise runs (0: whole arrays)
    ahead : bytes of mini-batches gathered at a time (0: one mini-batch)
    """

    exact: bool = False
    neighbours: bool = True
    reuse: bool = True
    donate: bool = True
    piece: int = 1 << 16
    ahead: int = 1 << 17
