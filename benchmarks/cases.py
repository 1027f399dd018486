"""What is measured: networks, batches, data and the numbers that every candidate has to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import portable_bp
from portable_bp.backend import EagerRunner, map_leaves
from portable_bp.equations import optimizers
from portable_bp.rng import permutation
from portable_bp.training.step import StepPlan, make_step

HostArray = Any

RATES = {"adam": 1e-5, "sgd": 1e-2}
"""So small that thousands of timed steps stay in the regime of the first ones: a network that has
learnt its data by heart computes with zeros and denormals, at another speed."""

PROOF_STEPS = 4
"""Steps after which a candidate's parameters are compared with float64."""

TOLERANCES = {"adam": 2e-2, "sgd": 2e-3}
"""How far ``||change of the parameters - that in float64|| / ||that in float64||`` may be from 0.

Plain gradient descent sees float32's rounding alone. Adam divides each gradient by its own size:
the few that rounding turns round, or a ReLU that rounding opens, move a whole step the wrong way."""

EPOCHS = 4
"""Different orders of the rows that the timed epochs go through in turn."""


@dataclass(frozen=True)
class Case:
    """A network, a batch size and an optimiser.

    ``rows``: of the table; a multiple of the batch. ``loss``: of scikit-learn's two-class network.
    """

    sizes: tuple[int, ...]
    batch: int
    rows: int
    optimizer: str = "adam"
    loss: str = "softmax_cross_entropy"

    @property
    def network(self) -> str:
        return "-".join(map(str, self.sizes))

    @property
    def full(self) -> bool:
        """Every step sees all rows: nothing is gathered."""
        return self.batch == self.rows

    @property
    def shape(self) -> str:
        return f"{self.network} {'full batch' if self.full else 'B'}{' ' * self.full}{self.batch}"

    @property
    def name(self) -> str:
        return f"{self.shape} {self.optimizer}"

    @property
    def steps(self) -> int:
        """Of an epoch; a full batch is repeated, as a scan over it would."""
        return 8 if self.full else self.rows // self.batch

    @property
    def rate(self) -> float:
        return RATES[self.optimizer]

    @property
    def net(self) -> portable_bp.MLP:
        return portable_bp.MLP(self.sizes, hidden="relu", loss=self.loss)

    def logistic(self) -> Case:
        """scikit-learn's network for two classes: one logistic output instead of two."""
        return replace(self, sizes=(*self.sizes[:-1], 1), loss="log_loss")


SHAPES = (
    Case((8, 16, 2), 1, 512),
    Case((8, 16, 2), 32, 2048),
    Case((30, 64, 32, 2), 32, 2048),
    Case((64, 100, 10), 200, 2000),
    Case((64, 100, 10), 1797, 1797),
    Case((784, 100, 10), 200, 2000),
    Case((784, 256, 128, 10), 128, 2048),
    Case((784, 512, 512, 10), 256, 2048),
    Case((784, 2048, 2048, 10), 512, 2048),
)

CASES = tuple(replace(shape, optimizer=o) for shape in SHAPES for o in RATES)


@dataclass(frozen=True)
class Data:
    """``x`` (rows, inputs) float32, ``labels`` (rows,), ``onehot`` (rows, outputs), and orders.

    The labels are random: no network finds a rule in them, and the gradient does not vanish.
    """

    x: HostArray
    labels: HostArray
    onehot: HostArray
    orders: Sequence[HostArray]


def data(case: Case) -> Data:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((case.rows, case.sizes[0]), dtype=np.float32)
    classes = max(2, case.sizes[-1])
    labels = np.arange(case.rows) % classes
    rng.shuffle(labels)
    onehot = np.eye(classes, dtype=np.float32)[labels][:, -case.sizes[-1] :]
    orders = [np.tile(np.arange(case.rows), (case.steps, 1))]
    if not case.full:
        orders = [permutation(case.rows, 5, 2, i).reshape(-1, case.batch) for i in range(EPOCHS)]
    return Data(x, labels, onehot, orders)


def start(case: Case) -> tuple[tuple[HostArray, HostArray], ...]:
    """The start parameters in float32, the same for every candidate."""
    net: Any = case.net
    return net.init(0, "numpy", "float32")  # type: ignore[no-any-return]


def flat(arrays: Any) -> HostArray:
    """Parameters ``(W1, b1), (W2, b2), ...`` as one float64 vector."""
    return np.concatenate([np.asarray(a, np.float64).ravel() for pair in arrays for a in pair])


def step_and_state(
    case: Case, backend: Any, dtype: str = "float32", report: bool = True
) -> tuple[Any, Any]:
    """What portable_bp trains with, on a backend: the pure step, and the state it starts from."""
    optimizer = optimizers.get(case.optimizer)
    params = map_leaves(lambda p: backend.asarray(p, dtype), start(case))
    with backend.scope():
        state = (params, optimizers.init(optimizer, params, xp=backend.xp))
    return make_step(StepPlan(case.net.equations, optimizer, report=report)), state


def table(case: Case, first: int, last: int, dtype: str, word: str) -> tuple[HostArray, ...]:
    """The numbers of steps ``first`` .. ``last - 1``, as the training loop makes them."""
    t = np.arange(first + 1.0, last + 1.0)
    coefficients = optimizers.get(case.optimizer).coefficients(t, np.full(len(t), case.rate))
    numbers = np.arange(first, last).astype(word)
    return numbers, *(np.asarray(c).astype(dtype) for c in coefficients)


def reference(case: Case) -> HostArray:
    """How the parameters change in the first steps, computed in float64 as the equations stand.

    Three libraries that differentiate by themselves are held against it too: a slip in our own
    equations would show as a wrong peer.
    """
    backend = portable_bp.get_backend("numpy")
    d = data(case)
    step, state = step_and_state(case, backend, "float64")
    runner = EagerRunner(backend, step, state)
    arrays = tuple(a.astype("float64") for a in (d.x, d.onehot))
    order = d.orders[0][:PROOF_STEPS]
    with backend.scope():
        runner.run(arrays, order, table(case, 0, len(order), "float64", backend.word_dtype))
    return flat(runner.state[0]) - flat(start(case))


def outputs(case: Case) -> HostArray:
    """The network's outputs for the first batch, in float64."""
    net, d = case.net, data(case)
    params: Any = tuple((W.astype("float64"), b.astype("float64")) for W, b in start(case))
    return np.asarray(net.forward(params, d.x[: case.batch].astype("float64")))


def distance(found: HostArray, expected: HostArray) -> float:
    """``||found - expected|| / ||expected||``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
