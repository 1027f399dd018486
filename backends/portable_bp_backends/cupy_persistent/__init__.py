r"""CUDA for many training steps in one launch: the text, from the graph of one step.

A step of a small network is a chain of products, sums and element-wise formulas over arrays that fit
into the fast memory of one multiprocessor. One block of threads can run it, and the next step, and
the next: what separates two operations is then a barrier of some tens of nanoseconds, not the
microseconds of a launch.

The text is made from the graph that the NumPy plan's tracer notes, one module for each pass.

``indices``
    From which entries of its operands an entry comes: a view changes the index, a product or a sum
    is a loop over one.
``phases``
    Products, sums and maxima, what products read, and the results have a loop over their entries:
    they are the roots. Everything else is written where it is read. The *level* of a root is the
    number of barriers before it: a root that reads another at its own entry alone goes into the same
    loop, any other reader waits for a barrier. The new state takes the place of the old at the level
    where nobody reads the old any more, and the gradients that only it needs are computed there:
    they never lie in memory.
``source``
    Values at indices as C, and the loops, level by level, between a copy of the state into the block's
    memory and one back.
``runner``
    Kernels compiled, proved against the eager steps, and launched.

>>> import numpy as np
>>> from portable_bp_backends.cupy_persistent.source import kernel
>>> from portable_bp_backends.numpy_plan.trace import trace_step
>>> def step(xp, state, batch):  # least squares by gradient descent
...     (w,), (x, y, (rate,)) = state, batch
...     error = xp.matmul(x, w) - y
...     return (w - rate * xp.matmul(x.T, error),), xp.sum(error * error)
>>> x, y, w = np.eye(3), np.ones(3), np.zeros(3)
>>> made = kernel([trace_step(np, step, (w,), (x, y), (np.asarray(0.5),))], width=0)
>>> last_level = made.text.partition("// level 2\n")[2].partition("__sync")[0]
>>> print(last_level)  # doctest: +NORMALIZE_WHITESPACE
for (int i = threadIdx.x; i < 3; i += blockDim.x) {
  double v9 = c0;  // matmul float64[3]
  for (int k8 = 0; k8 < 3; ++k8) {
    const double v10 = b0[k8 * 3 + i];
    const double v11 = b2[k8];
    v9 += v10 * v11;
  }
  const double v12 = s0[i];
  const double v13 = n0 * v9;  // multiply float64[3]
  const double v14 = v12 - v13;  // subtract float64[3]
  s0[i] = v14;
}
for (int i = threadIdx.x; i < 1; i += blockDim.x) {
  double v16 = c1;  // sum float64[]
  for (int k150 = 0; k150 < 3; ++k150) {
    const double v17 = b2[k150];
    const double v18 = v17 * v17;  // multiply float64[3]
    v16 += v18;
  }
  losses[step] = v16;
}
"""
