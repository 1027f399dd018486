"""
An activation and a loss of your own
====================================

Written once, checked against finite differences, and trained on every backend of this machine.
The activation is the sine (Sitzmann et al., NeurIPS 2020), the loss ln cosh(o - y): quadratic
near zero and absolute far away.
"""

import math

import matplotlib.pyplot as plt
import numpy as np

import portable_bp
from portable_bp import Activation, Loss
from portable_bp.testing import check_gradients

sine = Activation(
    f=lambda z, xp: xp.sin(3 * z),
    df=lambda z, a, xp: 3 * xp.cos(3 * z),
    name="sine",
)


def log_cosh_value(o, y, xp):
    r = xp.abs(o - y)
    return r + xp.log1p(xp.exp(-2 * r)) - math.log(2)  # ln cosh r without overflow


log_cosh = Loss(
    value=log_cosh_value,
    gradient=lambda o, y, xp: xp.tanh(o - y),
    name="log_cosh",
)

# %%
# A wrong derivative would train, badly. So check it first.

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, size=(400, 1))
y = np.sin(6 * X[:, 0]) * np.exp(-X[:, 0])
net = portable_bp.MLP([1, 16, 16, 1], hidden=sine, loss=log_cosh)
error = check_gradients(net, net.init(seed=1, dtype="float64"), X[:20], y[:20])
print(f"gradient against central differences: worst relative error {error:.1e}")

# %%
# The same two functions on every library.

for spec in ("numpy", "torch", "jax"):
    if spec not in portable_bp.available_backends():
        print(f"{spec}: not installed here")
        continue
    model = portable_bp.fit(net, X, y, epochs=60, batch_size=32, learning_rate=5e-3, backend=spec)
    print(f"{spec}: loss {model.history['loss'][-1]:.5f}, R^2 {model.score(X, y):.4f}")

# %%

grid = np.linspace(-1, 1, 200)[:, None]
plt.figure(figsize=(6, 3), layout="constrained")
plt.scatter(X, y, s=6, color="gray")
plt.plot(grid, model.predict(grid), color="tab:blue")
plt.show()
