"""NumPy near its limit: a pure function is traced once and replayed into memory that stays.

What NumPy computes, it computes fast. What costs a small network is everything between two such
computations: Python numbers that become arrays, namespaces, a new array for each result. What costs
a large one is memory that the system hands out anew, page by page, for every temporary. None of that
changes from step to step. So the step runs once under a tracer, and from then on a step is a list of
NumPy calls whose every operand and result is an array that is already there.

>>> import numpy as np
>>> from portable_bp import get_backend
>>> def step(xp, state, batch):  # least squares by gradient descent, one batch
...     (w,), (x, y, (rate,)) = state, batch
...     error = xp.matmul(x, w) - y
...     return (w - rate * xp.matmul(x.T, error),), xp.sum(error * error)
>>> x, y, rates = np.eye(3), np.asarray([1.0, 2.0, 3.0]), np.asarray([0.5, 0.5, 0.25])
>>> runner = PlanRunner(get_backend("numpy"), step, (np.zeros(3),), PlanOptions())
>>> runner.run((x, y), None, (rates,))  # three steps, and their losses
array([14.   ,  3.5  ,  0.875])
>>> runner.state
(array([0.8125, 1.625 , 2.4375]),)

This is what ran. ``s0`` is the state, ``v0`` .. ``v2`` are values, ``x`` and ``n`` what a step is
handed, its rows and its numbers:

>>> print(runner.plan((x, y), (rates,)).source)
def replay(x0, x1, x2, n0):
    dot(x0, s0, v0)  # matmul float64[3]
    subtract(v0, x1, v0)  # subtract float64[3]
    dot(x2, v0, v1)  # matmul float64[3]
    multiply(n0, v1, v1)  # multiply float64[3]
    subtract(s0, v1, s0)  # subtract float64[3]
    multiply(v0, v0, v0)  # multiply float64[3]
    add_reduce(v0, None, None, v2, False)  # sum float64[]
    return v2
<BLANKLINE>

The way there, one module for each stage:

``trace``
    The function gets arrays and a namespace that note each call and carry it out. The notes are a
    graph. What does not depend on the inputs is no node in it: Python has folded the constants.
``traced``, ``arguments``, ``rewrites``
    The stand-ins for arrays; what may stand in a graph, and when two calls are the same; what a call
    comes down to.
``fusion``
    An optimiser says the same dozen operations of every tensor. The state's arrays lie side by side
    in one buffer, so that each of these operations is one call for all tensors together.
``memory``
    Who is read last by whom, and therefore: ``v0 - y`` may go over ``v0``, the new ``s0`` over the
    old, any result into memory that is free again. A transpose or a reshape is a view, made once
    (``x2`` is ``x.T``). Long element-wise expressions run tile by tile, to stay in the cache.
``lowering``
    The quickest NumPy calls that give a value. A function that is not known is simply called, and
    its result copied to its place: a plan never needs to know everything to be right.
``source``, ``plan``
    The calls as Python, compiled once: a step costs no look-up and no decision.
``runner``
    Mini-batches are gathered into buffers of the plan, many ahead; steps run; losses are collected.

The numbers are those of the eager function. With ``PlanOptions(exact=True)`` they are the
same to the last bit; without it the rewrites that :class:`PlanOptions` states may round otherwise.
"""

from portable_bp_backends.numpy_plan.options import PlanOptions
from portable_bp_backends.numpy_plan.runner import PlanFunction, PlanRunner

__all__ = ["PlanFunction", "PlanOptions", "PlanRunner"]
