"""
Moving a model between devices
==============================

Train where the data are, predict where the users are: a model moves between libraries and
devices, and so does an estimator. On a machine with a GPU put ``cupy`` or ``torch:cuda`` for one
of the names.
"""

import numpy as np

import portable_bp
from portable_bp.estimators import MLPClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(500, 10)).astype("float32")
y = (X[:, 0] * X[:, 1] > 0).astype(int)

net = portable_bp.MLP([10, 32, 2], "tanh", "softmax_cross_entropy")
model = portable_bp.fit(net, X, y, epochs=60, batch_size=32, learning_rate=5e-3, backend="torch")
print(f"trained on {model.backend.spec}, accuracy {model.score(X, y):.3f}")

# %%
# The parameters are copied, the equations are the same: the outputs agree to rounding.

here = np.asarray(model.forward(X))
for spec in ("numpy", "jax"):
    if spec in portable_bp.available_backends():
        there = model.to(spec)
        error = float(np.max(np.abs(np.asarray(there.forward(X)) - here)))
        print(f"on {there.backend.spec}: largest difference of a probability {error:.1e}")

# %%
# An estimator moves in the same way.

classifier = MLPClassifier((16,), max_iter=500, tol=1e-3, random_state=0)
classifier.fit(X, y)
moved = classifier.to("torch")
print(
    f"fitted in {type(classifier.coefs_[0]).__module__}, moved to {type(moved.coefs_[0]).__module__}"
)
