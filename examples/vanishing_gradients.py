"""
Vanishing gradients
===================

How the deltas shrink on their way to the input: sigmoid against relu, at several depths.

The delta rule multiplies by the transposed weights and by f'(z) in every layer. The sigmoid's
derivative is at most 1/4, so with its usual start each layer takes a factor; relu with He's start
keeps the size level.
"""

import matplotlib.pyplot as plt
import numpy as np

import portable_bp

DEPTHS = (2, 5, 10, 20)


def delta_norms(hidden: str, depth: int) -> list[float]:
    """Root mean square of each layer's delta at the start of training, relative to the last."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(256, 20)), rng.integers(0, 2, 256)
    net = portable_bp.MLP([20, *[64] * depth, 2], hidden=hidden, loss="softmax_cross_entropy")
    deltas = net.deltas(net.init(seed=0, dtype="float64"), x, y)
    sizes = [float(np.sqrt(np.mean(np.asarray(d) ** 2))) for d in deltas]
    return [size / sizes[-1] for size in sizes]


figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for ax, hidden in zip(axes, ("sigmoid", "relu"), strict=True):
    print(f"{hidden}: size of delta in the first layer relative to the last")
    for depth in DEPTHS:
        norms = delta_norms(hidden, depth)
        print(f"  {depth:2d} hidden layers: {norms[0]:.1e}")
        ax.semilogy(range(1, len(norms) + 1), norms, marker="o", ms=3, label=f"{depth} hidden")
    ax.set(title=hidden, xlabel="layer (1 is next to the input)")
    ax.grid(alpha=0.3)
axes[0].set_ylabel("size of delta, relative to the last layer")
axes[1].legend()

# %%
# For a trained network of your own, it is one call.

rng = np.random.default_rng(0)
X, y = rng.normal(size=(300, 20)), rng.integers(0, 2, 300)
net = portable_bp.MLP([20, *[32] * 6, 2], hidden="sigmoid", loss="softmax_cross_entropy")
portable_bp.fit(net, X, y, epochs=3).plot_deltas(X, y)

plt.show()
