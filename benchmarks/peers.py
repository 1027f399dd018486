"""The peers, each written as its own documentation would have it, and the list of all candidates."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from benchmarks.ablation import ABLATION
from benchmarks.candidates import (
    Candidate,
    GemmFloor,
    Inference,
    OursModel,
    Training,
    missing,
    ours,
    ours_forward,
)
from benchmarks.cases import PROOF_STEPS, Case, HostArray, distance, flat, start


def _estimator(case: Case, d: Any) -> Any:
    """scikit-learn's classifier with our start parameters, before its first update."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        case.sizes[1:-1],
        solver=case.optimizer,
        alpha=0.0,
        batch_size=case.batch,
        learning_rate_init=case.rate,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        tol=0.0,
        n_iter_no_change=2**31,
    )
    classes = np.unique(d.labels)
    # The first call makes the arrays; its update is undone with them.
    model.partial_fit(d.x[: case.batch], d.labels[: case.batch], classes=classes)
    del model._optimizer
    begin = start(_same_outputs(case))
    model.coefs_ = [W.copy() for W, _ in begin]
    model.intercepts_ = [b.copy() for _, b in begin]
    return model


def _same_outputs(case: Case) -> Case:
    """The case as scikit-learn computes it."""
    return case.logistic() if case.sizes[-1] == 2 else case


class SklearnTraining(Training):
    """``MLPClassifier.fit``: the time of a step is that of the call, divided by its steps.

    Two classes are one logistic output there: a little less work, and a reference of its own.
    """

    seconds, stretch = 0.12, 0.03  # so that what a call does before its first step hardly counts

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.steps = case.rows // case.batch
        self.model = _estimator(case, self.data)

    @classmethod
    def expects(cls, case: Case) -> Case:
        return _same_outputs(case)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("sklearn")

    def epoch(self, order: HostArray) -> float:
        for rows in order:
            self.model.partial_fit(self.data.x[rows], self.data.labels[rows])
        return float(self.model.loss_)

    def error(self, expected: HostArray) -> float:
        self.epoch(self.data.orders[0][:PROOF_STEPS])
        found = distance(flat(self.params()) - flat(start(_same_outputs(self.case))), expected)
        self.model.set_params(shuffle=True, warm_start=True)  # go on from here, as fit shuffles
        return found

    def params(self) -> Any:
        return list(zip(self.model.coefs_, self.model.intercepts_, strict=True))

    def run(self, rounds: int) -> float:
        self.model.max_iter = rounds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that training could go on
            self.model.fit(self.data.x, self.data.labels)
        return float(self.model.loss_)


class TorchEager(Training):
    """``nn.Sequential``, autograd, the fused optimiser."""

    compiled: ClassVar[bool] = False

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import torch

        self.torch = torch
        self.model = _sequential(case)
        entropy = torch.nn.CrossEntropyLoss()

        def loss_of(x: Any, y: Any) -> Any:
            return entropy(self.model(x), y)

        self.loss_of = torch.compile(loss_of) if self.compiled else loss_of
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[case.optimizer]
        self.optimizer = make(self.model.parameters(), lr=case.rate, fused=True)
        self.x, self.y = torch.from_numpy(self.data.x), torch.from_numpy(self.data.labels)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("torch")

    def epoch(self, order: HostArray) -> float:
        select, optimizer, loss_of = self.torch.index_select, self.optimizer, self.loss_of
        x, y = self.x, self.y
        for rows in self.torch.from_numpy(order):
            if not self.case.full:
                x, y = select(self.x, 0, rows), select(self.y, 0, rows)
            optimizer.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def params(self) -> Any:
        layers = [m for m in self.model if hasattr(m, "weight")]
        return [(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in layers]


class TorchCompiled(TorchEager):
    """The same with ``torch.compile`` around forward pass and loss."""

    compiled = True


def _sequential(case: Case) -> Any:
    import torch

    layers: list[Any] = []
    for W, b in start(case):
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class TorchFloor(GemmFloor):
    """The same products through the BLAS that PyTorch brings along."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import torch

        self.torch = torch
        tensor = torch.from_numpy
        self.tensors = [(tensor(a), tensor(b), tensor(out)) for a, b, out in self.products]

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("torch")

    def epoch(self, order: HostArray) -> float:
        mm = self.torch.mm
        for _ in order:
            for a, b, out in self.tensors:
                mm(a, b, out=out)
        return float(self.products[0][2][0, 0])


class JaxStep(Training):
    """``jax.jit`` of one step with its state donated; the order lies on the device."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp = jax, jnp
        self.update = _jax_update(case)
        self.x, self.y = jnp.asarray(self.data.x), jnp.asarray(self.data.onehot)
        params = jax.tree.map(jnp.array, start(case))
        zeros = jax.tree.map(jnp.zeros_like, params)
        moments = (zeros, jax.tree.map(jnp.copy, zeros)) if case.optimizer == "adam" else ()
        self.state = (params, moments, jnp.zeros((), "float32"))
        self.call = jax.jit(self.program, donate_argnums=0)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("jax")

    def batch(self, x: Any, y: Any, rows: Any) -> Any:
        # Without "clip", a row out of bounds would have to become NaN: more work.
        take = self.jnp.take
        pair = take(x, rows, axis=0, mode="clip"), take(y, rows, axis=0, mode="clip")
        return (x, y) if self.case.full else pair

    def program(self, state: Any, at: Any, x: Any, y: Any, order: Any) -> Any:
        state, loss = self.update(state, *self.batch(x, y, order[at % order.shape[0]]))
        return state, at + 1, loss

    def epoch(self, order: HostArray) -> float:
        at, rows = self.jnp.zeros((), "int32"), self.jnp.asarray(order, "int32")
        for _ in order:
            self.state, at, loss = self.call(self.state, at, self.x, self.y, rows)
        return float(loss)

    def params(self) -> Any:
        return self.jax.tree.map(np.asarray, self.state[0])


class JaxScan(JaxStep):
    """The same step in one ``lax.scan`` over the epoch."""

    def program(self, state: Any, x: Any, y: Any, order: Any) -> Any:  # type: ignore[override]
        def body(state: Any, rows: Any) -> Any:
            return self.update(state, *self.batch(x, y, rows))

        return self.jax.lax.scan(body, state, order)

    def epoch(self, order: HostArray) -> float:
        rows = self.jnp.asarray(order, "int32")
        self.state, losses = self.call(self.state, self.x, self.y, rows)
        return float(np.asarray(losses)[-1])


def _jax_forward(params: Any, x: Any) -> Any:
    import jax

    for W, b in params[:-1]:
        x = jax.nn.relu(x @ W + b)
    W, b = params[-1]
    return x @ W + b


def _jax_update(case: Case) -> Any:
    import jax
    import jax.numpy as jnp

    eta, beta1, beta2, eps = case.rate, 0.9, 0.999, 1e-8

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        log_p = jax.nn.log_softmax(_jax_forward(params, x))
        return -jnp.mean(jnp.sum(y * log_p, axis=1))

    def update(state: Any, x: Any, y: Any) -> Any:
        params, moments, t = state
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        t = t + 1
        if not moments:
            return (jax.tree.map(lambda p, g: p - eta * g, params, grads), (), t), loss
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments[0], grads)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, moments[1], grads)
        root = jnp.sqrt(1 - beta2**t)
        alpha, small = eta * root / (1 - beta1**t), eps * root
        params = jax.tree.map(lambda p, m, v: p - alpha * m / (jnp.sqrt(v) + small), params, m, v)
        return (params, (m, v), t), loss

    return update


class Thinc(Training):
    """thinc's layers with their hand-written backward passes, over NumPy and BLIS."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from thinc.api import SGD, Adam, Relu, Softmax, chain

        sizes = list(zip(case.sizes, case.sizes[1:], strict=False))
        self.layers: list[Any] = [Relu(nO=o, nI=i) for i, o in sizes[:-1]]
        self.layers.append(Softmax(nO=sizes[-1][1], nI=sizes[-1][0]))
        self.model: Any = chain(*self.layers)
        self.model.initialize()
        for layer, (W, b) in zip(self.layers, start(case), strict=True):
            layer.set_param("W", np.ascontiguousarray(W.T))
            layer.set_param("b", b.copy())
        plain: dict[str, Any] = {"L2": 0.0, "grad_clip": 0.0, "use_averages": False}
        self.optimizer: Any = {"adam": Adam, "sgd": SGD}[case.optimizer](case.rate, **plain)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("thinc")

    def epoch(self, order: HostArray) -> float:
        x, y = self.data.x, self.data.onehot
        for rows in order:
            if not self.case.full:
                x, y = self.data.x[rows], self.data.onehot[rows]
            o, back = self.model.begin_update(x)
            back((o - y) / np.float32(len(y)))
            self.model.finish_update(self.optimizer)
            self.optimizer.step_schedules()
        return float(-np.log(o[y > 0]).mean())

    def params(self) -> Any:
        return [(layer.get_param("W").T, layer.get_param("b")) for layer in self.layers]


class SklearnForward(Inference):
    """``predict_proba``."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from benchmarks.cases import data

        self.model = _estimator(case, data(case))

    @classmethod
    def expects(cls, case: Case) -> Case:
        return _same_outputs(case)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("sklearn")

    def forward(self) -> Any:
        return self.model.predict_proba(self.x)

    def error(self, expected: HostArray) -> float:
        found = np.asarray(self.forward(), np.float64)
        return distance(found[:, -expected.shape[1] :], expected)


class TorchForward(Inference):
    """``nn.Sequential`` and softmax in ``inference_mode``."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import torch

        self.torch = torch
        self.model = torch.nn.Sequential(_sequential(case), torch.nn.Softmax(dim=1))
        self.there = torch.from_numpy(self.x)

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("torch")

    def forward(self) -> Any:
        with self.torch.inference_mode():
            return self.model(self.there)


class JaxForward(Inference):
    """``jax.jit`` of the forward pass."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import jax
        import jax.numpy as jnp

        self.params = jax.tree.map(jnp.asarray, start(case))
        self.there = jnp.asarray(self.x)
        self.call = jax.jit(lambda params, x: jax.nn.softmax(_jax_forward(params, x)))

    @classmethod
    def why_not(cls, case: Case) -> str | None:
        return missing("jax")

    def forward(self) -> Any:
        return np.asarray(self.call(self.params, self.there))


TRAINING: dict[str, type[Candidate]] = {
    "ours numpy": ours("numpy"),
    "ours numpy, eager": ours("numpy", eager=True),
    "ours torch": ours("torch"),
    "ours torch, eager": ours("torch", eager=True),
    "ours jax": ours("jax"),
    "ours cupy": ours("cupy"),
    "scikit-learn": SklearnTraining,
    "torch eager": TorchEager,
    "torch.compile": TorchCompiled,
    "jax.jit": JaxStep,
    "jax scan": JaxScan,
    "thinc": Thinc,
    "floor": GemmFloor,
    "floor, torch": TorchFloor,
}

INFERENCE: dict[str, type[Candidate]] = {
    "ours numpy": ours_forward("numpy"),
    "ours numpy, Model.forward": OursModel,
    "ours torch": ours_forward("torch"),
    "ours jax": ours_forward("jax"),
    "scikit-learn": SklearnForward,
    "torch eager": TorchForward,
    "jax.jit": JaxForward,
}

KINDS = {"training": TRAINING, "inference": INFERENCE, "ablation": ABLATION}
