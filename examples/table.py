"""
A table from end to end
=======================

From a CSV file to a trained model, its test score and predictions for new rows: what
``portable-bp train`` and ``portable-bp predict`` do, in Python.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine

import portable_bp
from portable_bp import datasets, tabular
from portable_bp.display import ConfusionDisplay

folder = Path(tempfile.mkdtemp())
wine = load_wine(as_frame=True)
frame = wine.frame.assign(cultivar=[wine.target_names[t] for t in wine.target])
frame.drop(columns="target").to_csv(folder / "wine.csv", index=False)

# %%
# Read, and prepare: columns are scaled with the statistics of the training rows, labels become
# numbers, and rows are split by the seed, each class in the same shares.

table = datasets.load(folder / "wine.csv")
prepared = tabular.prepare(table, "cultivar", seed=0)
print(f"{prepared.preparation.task} into {prepared.preparation.classes}")

# %%
# Train, watching the validation rows.

net = prepared.network([32], dropout=0.2)
X, y = prepared.part(prepared.parts.train)
model = portable_bp.fit(
    net,
    X,
    y,
    epochs=80,
    batch_size=16,
    learning_rate=5e-3,
    early_stopping=15,
    validation=prepared.part(prepared.parts.validation),
)
model.plot_history()

# %%
# The test rows have had no say in any of this.

X_test, y_test = prepared.part(prepared.parts.test)
print(f"test accuracy {model.score(X_test, y_test):.3f}")
ConfusionDisplay.from_predictions(
    y_test.ravel(),
    model.predict(X_test),
    labels=range(len(prepared.preparation.classes)),
    display_labels=prepared.preparation.classes,
)

# %%
# One file keeps the columns, their scales, the labels and the network. It predicts a table as it
# is.

tabular.TabularModel(prepared.preparation, model).save(folder / "wine.safetensors")
again = tabular.load(folder / "wine.safetensors")
print("predicted", again.predict(table)[:5])

plt.show()
