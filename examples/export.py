"""
One network in three other languages
====================================

A trained network becomes an ONNX file, one Python file that needs NumPy alone, and C99 for a
microcontroller. All three give the numbers of the network itself.
"""

import runpy
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

import portable_bp
from portable_bp import export

X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
net = portable_bp.MLP([64, 32, 10], hidden="gelu", loss="softmax_cross_entropy")
model = portable_bp.fit(net, X, y, epochs=30, batch_size=32)
expected = model.predict_proba(X)
folder = Path(tempfile.mkdtemp())

# %%
# ONNX, by onnxruntime.

export.to_onnx(model, folder / "digits.onnx")
session = onnxruntime.InferenceSession(folder / "digits.onnx")
labels, probabilities = session.run(None, {"X": X})
print(f"onnx: largest difference {np.abs(probabilities - expected).max():.1e}")
print(f"onnx: same labels: {np.array_equal(labels, model.predict(X))}")

# %%
# One Python file, which imports NumPy and nothing else.

export.to_numpy(model, folder / "digits.py")
file = runpy.run_path(str(folder / "digits.py"))
difference = np.abs(file["predict_proba"](X) - expected).max()
print(
    f"numpy: largest difference {difference:.1e}, {(folder / 'digits.py').stat().st_size:,} bytes"
)

# %%
# C99: constant arrays and loops, without allocation. Any compiler takes it.

export.to_c(model, folder / "digits.c")
print((folder / "digits.h").read_text())
