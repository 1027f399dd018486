"""What a user may write without a cast: checked by mypy and pyright, never run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import portable_bp
from portable_bp import MLP, Activation, EpochEnd, Model, optimizers, schedules


def report(end: EpochEnd) -> None:
    print(end.epoch, end.row["loss"])


X: npt.NDArray[np.float64] = np.zeros((8, 3))
targets = np.zeros(8)

net = MLP([3, 4, 1], ["tanh"], l2=1e-4)
model: Model = portable_bp.fit(
    net, X, targets,
    optimizer=optimizers.Adam(beta1=0.8), learning_rate=schedules.Cosine(1e-3, eta_min=1e-5),
    callbacks=[report], validation=(X, targets),
)  # fmt: skip

y: np.ndarray = model.predict(X)
z: np.ndarray = model(X)
p: npt.NDArray[np.float32] = model.predict_proba(X)
from_lists: np.ndarray = model.predict([[1.0, 2.0, 3.0]])
outputs: np.ndarray = net.forward(model.params, X)
labels: np.ndarray = net.predict(model.params, X)
mean: float = float(np.mean(model.predict(X)))
loss, score = model.evaluate(X, targets)
both: float = loss + score
losses: list[float] = model.history["loss"]
text: str = model.summary()
again: Model = portable_bp.load("model.safetensors")
sine = Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), name="sine")
backend: portable_bp.Backend = portable_bp.get_backend("cpu")
