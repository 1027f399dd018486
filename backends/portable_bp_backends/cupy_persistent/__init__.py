"""CUDA for many training steps in one launch: the text, from the graph of one step.

A step of a small network is a chain of products, sums and element-wise formulas over arrays that fit
into the fast memory of one multiprocessor. One block of threads can run it, and the next step, and
the next: what separates two operations is then a barrier of some tens of nanoseconds, not the
microseconds of a launch.

The text is made in three passes over the graph that the NumPy plan's tracer notes.

``Phases``
    *Contractions* (products, sums, maxima), what products read, and the results have a loop over
    their entries: they are the roots. Everything else is written where it is read. The *level* of a
    root is the number of barriers before it: a root that reads another at its own entry alone goes
    into the same loop, any other reader waits for a barrier. The new state takes the place of the
    old at the level where nobody reads the old any more, and the gradients that only it needs are
    computed there: they never lie in memory.
``Writer``
    The value of any node at any index as C: a view changes the index, an element-wise operation is a
    line, a contraction a loop.
``kernel``
    The loops, level by level, between a copy of the state into the block's memory and one back.

>>> import numpy as np
>>> from portable_bp_backends.cupy_persistent.source import kernel
>>> from portable_bp_backends.numpy_plan.trace import trace_step
>>> def step(xp, state, batch):  # least squares by gradient descent
...     (w,), (x, y, (rate,)) = state, batch
...     error = xp.matmul(x, w) - y
...     return (w - rate * xp.matmul(x.T, error),), xp.sum(error * error)
>>> x, y, w = np.eye(3), np.ones(3), np.zeros(3)
>>> made = kernel(trace_step(np, step, (w,), (x, y), (np.asarray(0.5),)), gathered=False)
>>> print(made.text.partition("// level 2")[2].partition("__sync")[0])
"""
