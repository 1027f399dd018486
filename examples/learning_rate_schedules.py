"""
Learning-rate schedules
=======================

The same network, the same start and the same batches under four schedules: what the rate does,
and what the loss does.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import portable_bp
from portable_bp import schedules

X, y = load_digits(return_X_y=True)
X = X / 16
net = portable_bp.MLP([64, 64, 10], loss="softmax_cross_entropy")

rate, epochs = 0.5, 25
tried = {
    "constant": schedules.Constant(rate),
    "exponential": schedules.Exponential(rate, gamma=0.997),
    "cosine": schedules.Cosine(rate),
    "one cycle": schedules.OneCycle(rate),
}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, schedule in tried.items():
    model = portable_bp.fit(
        net,
        X,
        y,
        optimizer="sgd",
        learning_rate=schedule,
        epochs=epochs,
        batch_size=64,
        validation=0.2,
    )
    loss = model.history["validation_loss"]
    print(f"{name:12} validation loss {min(loss):.4f}, last {loss[-1]:.4f}")
    left.plot(model.history["learning_rate"], label=name)
    right.semilogy(loss, label=name)
left.set(xlabel="epoch", ylabel="learning rate")
right.set(xlabel="epoch", ylabel="validation loss")
right.legend()
plt.show()
