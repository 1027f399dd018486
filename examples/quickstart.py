"""
Handwritten digits
==================

Train on the digits that come with scikit-learn, look at what was learnt, save the model and load
it again.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import portable_bp

X, y = load_digits(return_X_y=True)
X = X / 16  # pixels to [0, 1]
order = np.random.default_rng(0).permutation(len(X))
train, test = order[:1400], order[1400:]

# %%
# A network says what is computed; ``fit`` trains it, on the GPU if there is one.

net = portable_bp.MLP([64, 100, 10], hidden="relu", loss="softmax_cross_entropy")
print(net, f"with {net.n_parameters:,} parameters")
model = portable_bp.fit(
    net,
    X[train],
    y[train],
    epochs=40,
    batch_size=32,
    validation=0.15,
    early_stopping=8,
    backend="auto",
)
print(f"trained on {model.backend.spec} for {len(model.history['loss'])} epochs")
print(f"test accuracy {model.score(X[test], y[test]):.4f}")

# %%
# What happened, epoch by epoch.

model.plot_history()

# %%
# Which digits are taken for which.

model.plot_confusion(X[test], y[test])

# %%
# The images that the model is least sure about.

probabilities = np.asarray(model.forward(X[test]))
doubtful = np.argsort(probabilities.max(axis=1))[:8]
figure, axes = plt.subplots(1, 8, figsize=(9, 1.6))
for ax, i in zip(axes, doubtful, strict=True):
    ax.imshow(X[test][i].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{y[test][i]} or {probabilities[i].argmax()}?", fontsize=9)
    ax.axis("off")

# %%
# One file holds the model; loading it runs no code.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.safetensors"
    model.save(path)
    again = portable_bp.load(path)
    same = np.array_equal(again.predict(X[test]), model.predict(X[test]))
    print(f"saved and loaded: {path.stat().st_size:,} bytes, same predictions: {same}")

plt.show()
