"""
A data frame as it comes
========================

Numbers as text, missing cells, categories, dates and a column of identifiers:
:class:`~portable_bp.tabular.TabularClassifier` infers what each column is, says what it does with it,
and takes the frame in cross-validations and searches as it takes it in ``fit``.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import cross_val_predict, cross_val_score, train_test_split

from portable_bp.display import ConfusionDisplay
from portable_bp.tabular import TabularClassifier

rng = np.random.default_rng(0)
n = 600
area, rooms = rng.gamma(5, 20, n), rng.integers(1, 7, n)
town = rng.choice(["Bern", "Chur", "Genf"], n)
built = pd.Timestamp("1950-01-01") + pd.to_timedelta(rng.integers(0, 25_000, n), unit="D")
value = area * (1 + 0.6 * (town == "Genf")) + 15 * rooms + (built.year - 1985) / 2
sold = np.where(value + rng.normal(scale=15, size=n) > np.median(value), "fast", "slow")
frame = pd.DataFrame(
    {
        "id": [f"H{i:05}" for i in range(n)],
        "area": [f"{a:.1f}" if a < 200 else "?" for a in area],
        "rooms": np.where(rng.random(n) < 0.1, np.nan, rooms),
        "town": town,
        "built": built.strftime("%Y-%m-%d"),
    }
)
print(frame.head())

# %%
# What is done with each column.

X_train, X_test, y_train, y_test = train_test_split(frame, sold, random_state=0)
classifier = TabularClassifier((32,), max_iter=40, random_state=0).fit(X_train, y_train)
for column in classifier.report_:
    print(f"{column.name:<6} {column.kind:<10} {column.done}")
print(f"test accuracy {classifier.score(X_test, y_test):.3f}")

# %%
# Rows with a town that nobody has seen, and the columns in another order.

new = pd.DataFrame(
    {"town": ["Genf", "Sion"], "built": ["2015-06-01", "1960-01-01"], "id": ["H1", "H2"]}
)
new = new.assign(rooms=[6, None], area=["180.0", "35.0"])
print(f"new rows: {classifier.predict(new).tolist()}")

# %%
# In scikit-learn's tools.

scores = cross_val_score(classifier, frame, sold, cv=3)
print(f"cross-validation {scores.mean():.3f}")
ConfusionDisplay.from_predictions(sold, cross_val_predict(classifier, frame, sold, cv=3))
plt.show()
