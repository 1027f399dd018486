"""Graph recording without a device: what is recorded is the function, and a launch calls it again."""

from contextlib import nullcontext

import numpy as np

from portable_bp.backend import map_leaves


class HostRecorder:
    """The seam between graphs and a library, in NumPy: everything but the capture itself is real."""

    def inside(self):
        return nullcontext()

    def outside(self):
        return nullcontext()

    def synchronize(self):
        return

    def send(self, values):
        return np.array(values)

    def empty(self, shape, like):
        return np.full(shape, 77, like.dtype)

    def copied(self, tree):
        return map_leaves(np.copy, tree)

    def assign(self, target, source):
        target[...] = source

    def assign_all(self, pairs):
        for target, source in pairs:
            target[...] = source

    def gather(self, source, rows):
        return np.take(source, rows, axis=0)

    def scatter(self, target, rows, sources):
        target[rows] = np.stack(sources)

    def overlap(self, a, b):
        return np.may_share_memory(a, b)

    def same_bits(self, pairs):
        return all(
            a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
            for a, b in pairs
        )

    def record(self, body):
        body()
        return body
