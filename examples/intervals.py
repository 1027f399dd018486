"""
Regression with intervals
=========================

The quantile loss teaches a network the 10 %, the 50 % and the 90 % quantile at once. Between the
outer two lie about eight of ten targets, wide where the data are noisy and narrow where they are
not.
"""

import matplotlib.pyplot as plt
import numpy as np

from portable_bp.estimators import MLPRegressor

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, size=(600, 1))
noise = 0.05 + 0.3 * (X[:, 0] > 0) * X[:, 0]
y = np.sin(4 * X[:, 0]) + rng.normal(size=600) * noise

regressor = MLPRegressor(
    "quantile",
    (32,),
    quantile=[0.1, 0.5, 0.9],
    learning_rate_init=0.01,
    tol=1e-5,
    n_iter_no_change=30,
    max_iter=2000,
    random_state=0,
)
regressor.fit(X, y)

# %%
# How many targets lie inside, on new rows.

X_new = rng.uniform(-1, 1, size=(2000, 1))
noise = 0.05 + 0.3 * (X_new[:, 0] > 0) * X_new[:, 0]
y_new = np.sin(4 * X_new[:, 0]) + rng.normal(size=2000) * noise
low, high = regressor.predict_interval(X_new).T
print(f"inside the interval: {np.mean((low <= y_new) & (y_new <= high)):.2f} of new rows")

# %%
# The quantiles never cross.

grid = np.linspace(-1, 1, 200)[:, None]
quantiles = regressor.predict_quantiles(grid)
print("never crossing:", bool(np.all(np.diff(quantiles, axis=1) >= 0)))
plt.figure(figsize=(7, 3.5), layout="constrained")
plt.scatter(X[:, 0], y, s=6, color="gray", alpha=0.6)
plt.plot(grid, quantiles[:, 1], color="tab:blue", label="median")
plt.fill_between(grid[:, 0], quantiles[:, 0], quantiles[:, 2], alpha=0.25, label="10 % to 90 %")
plt.legend()
plt.show()
