"""
The same numbers on every backend
=================================

The gradient of one network on each library, in float32, compared with float64 NumPy. The unit is
the roundoff of float32, 2^-24: an error of a few units is what adding in another order costs, and
no formula is wrong by so little.
"""

import matplotlib.pyplot as plt
import numpy as np

import portable_bp

ROUNDOFF = 2.0**-24
DEPTHS = (1, 2, 4, 8)

rng = np.random.default_rng(0)
X = rng.normal(size=(64, 16)).astype("float32")
y = rng.integers(0, 4, 64)
specs = [s for s in ("numpy", "torch", "jax") if s in portable_bp.available_backends()]


def gradients(net, spec, dtype):
    """All gradients as one long vector of the host."""
    backend = portable_bp.get_backend(spec)
    with backend.scope():
        params = tuple(
            tuple(backend.asarray(np.asarray(p, "float32"), dtype) for p in pair)
            for pair in net.init(seed=0, backend="numpy")
        )
        _, grads = net.loss_and_gradients(params, backend.asarray(X, dtype), y)
        return np.concatenate([backend.to_numpy(g).ravel() for pair in grads for g in pair])


figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for i, spec in enumerate(specs):
    errors = []
    for depth in DEPTHS:
        net = portable_bp.MLP([16, *[32] * depth, 4], "tanh", "softmax_cross_entropy")
        exact = gradients(net, "numpy", "float64")
        error = np.linalg.norm(gradients(net, spec, "float32") - exact) / np.linalg.norm(exact)
        errors.append(error / ROUNDOFF)
    print(f"{spec}: " + ", ".join(f"{e:.1f}" for e in errors) + " roundoffs")
    ax.bar(np.arange(len(DEPTHS)) + 0.26 * (i - 1), errors, 0.24, label=spec)
ax.set_xticks(range(len(DEPTHS)), [f"{d} hidden" for d in DEPTHS])
ax.set_ylabel("relative error / roundoff")
ax.legend()

# %%
# Whole training runs, from the same seed: the same batches, and losses that agree as far as
# float32 goes.

net = portable_bp.MLP([16, 32, 4], "tanh", "softmax_cross_entropy")
for spec in specs:
    model = portable_bp.fit(net, X, y, epochs=20, backend=spec)
    print(f"{spec}: loss after 20 epochs {model.history['loss'][-1]:.6f}")

# %%
# ``portable-bp check`` compares every activation, loss and optimiser in this way, on your own
# machine.

plt.show()
