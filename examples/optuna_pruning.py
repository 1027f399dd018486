"""
A search that gives up early
============================

Optuna proposes learning rates and widths, and its pruner compares each epoch with those of earlier
trials: what is hopeless ends after a few epochs. The callback is one line.
"""

import matplotlib.pyplot as plt
import optuna
from sklearn.datasets import load_digits

import portable_bp
from portable_bp.callbacks import OptunaPruning

X, y = load_digits(return_X_y=True)
X = X / 16
optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial):
    width = trial.suggest_int("width", 8, 64, log=True)
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    net = portable_bp.MLP([64, width, 10], loss="softmax_cross_entropy")
    model = portable_bp.fit(
        net,
        X,
        y,
        epochs=20,
        learning_rate=rate,
        validation=0.2,
        callbacks=[OptunaPruning(trial)],
    )
    return model.history["validation_loss"][-1]


study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=3),
)
study.optimize(objective, n_trials=15)

# %%
# Most trials have ended before their twentieth epoch.

epochs = [len(trial.intermediate_values) for trial in study.trials]
print(f"{sum(epochs)} epochs in {len(epochs)} trials, instead of {20 * len(epochs)}")
print(f"best: {study.best_params}, validation loss {study.best_value:.3f}")

# %%
# Each line is a trial; the pruned ones stop early.

plt.figure(figsize=(7, 3.5), layout="constrained")
for trial in study.trials:
    values = trial.intermediate_values
    pruned = trial.state.name == "PRUNED"
    plt.plot(list(values), list(values.values()), color="gray" if pruned else "tab:blue", alpha=0.7)
plt.xlabel("epoch")
plt.ylabel("validation loss")
plt.show()
