"""The multilayer perceptron: what a network computes, and its equations on the arrays you have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from portable_bp import rng
from portable_bp._names import suggests
from portable_bp._typing import Array, HostArray, Params
from portable_bp.backend import Backend, leaves, memory
from portable_bp.backend.registry import owner, resolve
from portable_bp.equations import activations, initializers, losses, network
from portable_bp.equations._named import is_builtin, make
from portable_bp.equations.activations import Activation
from portable_bp.equations.losses import Loss
from portable_bp.errors import OutOfMemoryError
from portable_bp.inputs import checks, examples
from portable_bp.inputs.transfer import dtype_name, float_name, to_backend, to_host


class MLP:
    """A multilayer perceptron of any depth, with any activation and any loss.

    The network itself holds no numbers: it says what is computed. Parameters are a tuple of pairs
    ``(W, b)`` that you get from :meth:`init` (or bring), and every method is a pure function of
    them. It runs where the arrays live.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer, inputs first and outputs last: ``[784, 128, 10]``. ``[4, 1]`` is a
        linear model.
    hidden : str, Activation, or a sequence of them, default "relu"
        The activation of the hidden layers; a sequence has one entry per hidden layer. Case, hyphens
        and underscores do not matter; ``logistic``, ``linear`` and ``swish`` are other names of
        ``sigmoid``, ``identity`` and ``silu``.
    loss : str or Loss, default "squared_error"
        ``squared_error`` (half the squared error), ``log_loss``, ``softmax_cross_entropy`` (or
        ``cross_entropy``, ``categorical_crossentropy``), ``poisson``, ``absolute_error``, ``huber``,
        ``quantile``, or a :class:`~portable_bp.Loss`. The sum over outputs, the mean over examples.
    output : str or Activation, optional
        The activation of the last layer; by default the one that belongs to the loss.
    l1, l2 : float, default 0
        Penalties ``l1 sum |W| + l2/2 sum W^2`` on the weights; biases are not penalised.
    dropout : float or sequence of float, default 0
        The probability in [0, 1) that a hidden unit is left out of a training step; a sequence has
        one entry per hidden layer.
    initializer : str or parameters, default "auto"
        ``glorot_uniform``, ``glorot_normal``, ``he_uniform``, ``he_normal``, ``lecun_uniform``,
        ``lecun_normal``, ``zeros`` (``xavier_*`` is ``glorot_*``, ``kaiming_*`` is ``he_*``), or
        given pairs ``(W, b)``. ``"auto"`` takes for each layer what
        suits its activation.

    Examples
    --------
    >>> import portable_bp
    >>> net = portable_bp.MLP([2, 3, 1], hidden="tanh", loss="log_loss")
    >>> params = net.init(seed=0, dtype="float64")
    >>> [W.shape for W, b in params]
    [(2, 3), (3, 1)]
    >>> loss, grads = net.loss_and_gradients(params, [[0.0, 1.0]], [1])
    >>> len(grads), grads[0][0].shape
    (2, (2, 3))
    """

    @suggests()
    def __init__(
        self,
        sizes: Sequence[int],
        hidden: str | Activation | Sequence[str | Activation] = "relu",
        loss: str | Loss = "squared_error",
        *,
        output: str | Activation | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        dropout: float | Sequence[float] = 0.0,
        initializer: str | Params = "auto",
    ) -> None:
        if isinstance(sizes, str) or not hasattr(sizes, "__len__"):
            raise TypeError(
                f"sizes must be a sequence of integers, inputs first; got {checks.shown(sizes)}"
            )
        if len(sizes) < 2:
            raise ValueError(f"sizes needs at least inputs and outputs, got {checks.shown(sizes)}")
        self.sizes = tuple(checks.positive_int(f"sizes[{i}]", s) for i, s in enumerate(sizes))
        self.loss = losses.get(loss)
        last = activations.get(self.loss.output if output is None else output, "output")
        self.hidden = tuple(
            activations.get(a, "hidden") for a in self._per_hidden_layer("hidden", hidden)
        )
        self.activations = (*self.hidden, last)
        self.l1 = checks.real("l1", l1, low=0)
        self.l2 = checks.real("l2", l2, low=0)
        self.dropout = tuple(
            checks.real("dropout", d, low=0, high=1, open_high=True)
            for d in self._per_hidden_layer("dropout", dropout)
        )
        if self.loss.target == "class" and self.sizes[-1] < 2:
            raise ValueError(
                f"{self.loss.name} needs one output per class, at least 2; sizes ends with "
                f"{self.sizes[-1]} (for two classes and one output use loss='log_loss')"
            )
        self.initializer: str | tuple[tuple[HostArray, HostArray], ...] = (
            initializers.name_of(initializer)
            if isinstance(initializer, str)
            else checked_params(self, initializer, "initializer")
        )

    def _per_hidden_layer(self, name: str, value: Any) -> tuple[Any, ...]:
        count = len(self.sizes) - 2
        if isinstance(value, str | Activation) or not isinstance(value, Sequence):
            return (value,) * count
        if len(value) != count:
            raise ValueError(
                f"{name} has {len(value)} entries, but sizes {list(self.sizes)} has {count} hidden "
                "layer(s)"
            )
        return tuple(value)

    @property
    def shapes(self) -> list[tuple[tuple[int, int], tuple[int]]]:
        """Shapes of ``(W, b)`` for every layer: ``(fan_in, fan_out)`` and ``(fan_out,)``."""
        return [((i, o), (o,)) for i, o in zip(self.sizes, self.sizes[1:], strict=False)]

    @property
    def n_parameters(self) -> int:
        """How many numbers are learnt.

        >>> MLP([784, 128, 10]).n_parameters
        101770
        """
        return sum(math.prod(w) + math.prod(b) for w, b in self.shapes)

    @property
    def spec(self) -> examples.NetSpec:
        """What the network asks of its examples."""
        return examples.NetSpec(self.sizes[0], self.sizes[-1], self.loss.target, self.loss.name)

    @property
    def equations(self) -> network.Equations:
        """What the pure functions of :mod:`portable_bp.equations.network` take."""
        return network.Equations(self.activations, self.loss, self.l1, self.l2)

    def __repr__(self) -> str:
        hidden = ", ".join(a.name for a in self.hidden)
        parts = [
            f"{list(self.sizes)}",
            *([f"hidden=[{hidden}]"] if hidden else []),
            f"loss={self.loss.name!r}",
            f"output={self.activations[-1].name!r}",
            *(f"{n}={getattr(self, n):g}" for n in ("l1", "l2") if getattr(self, n)),
            *([f"dropout={list(self.dropout)}"] if any(self.dropout) else []),
        ]
        return f"MLP({', '.join(parts)})"

    def describe(self) -> dict[str, Any]:
        """What :meth:`from_description` rebuilds the network from: plain JSON, names and numbers.

        Raises
        ------
        ValueError
            For an activation or a loss of the user's own, which a file cannot hold.

        >>> MLP.from_description(MLP([2, 3, 1], "tanh").describe())
        MLP([2, 3, 1], hidden=[tanh], loss='squared_error', output='identity')
        """
        tables: list[tuple[Activation | Loss, Mapping[str, Any]]] = [
            *((a, activations.ACTIVATIONS) for a in self.activations),
            (self.loss, losses.LOSSES),
        ]
        for part, table in tables:
            if not is_builtin(part, table):
                raise ValueError(
                    f"{part.name!r} is not one of portable_bp's own ({', '.join(sorted(table))}): "
                    "a file keeps names, not functions"
                )
        return {
            "sizes": list(self.sizes),
            "hidden": [activations.describe(a) for a in self.hidden],
            "output": activations.describe(self.activations[-1]),
            "loss": losses.describe(self.loss),
            "l1": self.l1,
            "l2": self.l2,
            "dropout": list(self.dropout),
            "initializer": self.initializer if isinstance(self.initializer, str) else "auto",
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> MLP:
        """The inverse of :meth:`describe`; names are looked up in fixed tables."""
        d = dict(description)
        d["hidden"] = [make(activations.ACTIVATIONS, a) for a in d["hidden"]]
        d["output"] = make(activations.ACTIVATIONS, d["output"])
        d["loss"] = make(losses.LOSSES, d["loss"])
        return cls(**d)

    def init(
        self,
        seed: int = 0,
        backend: str | Backend | None = None,
        dtype: str = "float32",
    ) -> Params:
        """Start parameters: the same numbers on every backend for the same seed.

        Weights are drawn on the host in float64 from NumPy's Philox generator, then cast and moved.

        Parameters
        ----------
        seed : int, 0 <= seed < 2^64
        backend : str, Backend or None
            Where to put them; see :func:`portable_bp.get_backend`.
        dtype : "float32" or "float64"

        Raises
        ------
        OutOfMemoryError
            Before anything is allocated, when the machine cannot hold the parameters.
        """
        place = resolve(backend)
        name = float_name(dtype)
        seed = rng.as_seed(seed)
        if isinstance(self.initializer, str):
            check_memory(self)
            drawn = tuple(
                (rng.draw(self._scale(l), shape, seed, l), np.zeros(bias))
                for l, (shape, bias) in enumerate(self.shapes)
            )
        else:
            drawn = self.initializer
        return place_params(drawn, place, name)

    def _scale(self, l: int) -> initializers.Scale:
        assert isinstance(self.initializer, str)
        rule = self.initializer
        if rule == "auto":
            rule = initializers.default_for(self.activations[l])
        return initializers.get(rule)(self.sizes[l], self.sizes[l + 1])

    def forward(self, params: Params, x: Any) -> Array:
        """The outputs ``a^L`` for each row of x: probabilities for a classification loss.

        Parameters
        ----------
        params : pairs (W, b), as from :meth:`init`
        x : (n, sizes[0]), any library; comes back as the same library on the same device

        Returns
        -------
        (n, sizes[-1])
        """
        backend, name, params = self._place(params, x)
        with backend.scope():
            features = examples.features(self.spec, x)
            examples.finite_features(backend, name, features)
            a = to_backend(backend, features, name, "X")
            out = network.forward(params, a, self.activations, xp=backend.xp).outputs[-1]
            return out if owner(x) is not None else backend.to_numpy(out)  # type: ignore[return-value]

    def predict(self, params: Params, x: Any) -> Array:
        """Class labels for a classification loss, else the outputs.

        ``softmax_cross_entropy`` gives the most probable class, integers of shape (n,); ``log_loss``
        gives 0 or 1 for each output (1 where the probability exceeds one half). A single output
        comes back with the shape (n,), several with (n, k).
        """
        out = self.forward(params, x)
        backend = resolve(None, out)
        with backend.scope():
            return decide(self, backend, out)

    def loss_and_gradients(
        self, params: Params, x: Any, y: Any, sample_weight: Any = None
    ) -> tuple[Array, Params]:
        """The loss E and ``dE/d(params)``: the sum over outputs, the mean over examples.

        Parameters
        ----------
        params : pairs (W, b)
        x : (n, sizes[0])
        y : (n, k), or (n,) for one output; class labels may be integers (n,) or one-hot rows
        sample_weight : (n,), not negative, optional
            Turns the mean into ``sum_i s_i l_i / sum_i s_i``.

        Returns
        -------
        loss : 0-d array, penalties included
        grads : shaped like ``params``
        """
        backend, params, a, t, w = self._batch(params, x, y, sample_weight)
        with backend.scope():
            loss, grads = network.loss_and_gradients(
                self.equations, params, a, t, xp=backend.xp, weights=w
            )
            return loss, grads  # type: ignore[return-value]

    def deltas(
        self, params: Params, x: Any, y: Any, sample_weight: Any = None
    ) -> tuple[Array, ...]:
        """``delta^l = dE/dz^l`` for every layer l = 1 .. L, shape (n, o) each."""
        backend, params, a, t, w = self._batch(params, x, y, sample_weight)
        xp, eq = backend.xp, self.equations
        with backend.scope():
            cache = network.forward(params, a, self.activations, xp=xp)
            return network.deltas(eq, params, cache, t, network.example_weights(a, w, xp=xp), xp=xp)

    def input_gradient(self, params: Params, x: Any, y: Any, sample_weight: Any = None) -> Array:
        """``dE/dx``, shape (n, sizes[0]): how the loss changes with the input."""
        backend, params, a, t, w = self._batch(params, x, y, sample_weight)
        xp, eq = backend.xp, self.equations
        with backend.scope():
            cache = network.forward(params, a, self.activations, xp=xp)
            delta = network.deltas(
                eq, params, cache, t, network.example_weights(a, w, xp=xp), xp=xp
            )
            return network.input_gradient(params, delta, xp=xp)

    def _batch(
        self, params: Params, x: Any, y: Any, sample_weight: Any
    ) -> tuple[Backend, Params, Array, Array, Array | None]:
        backend, name, params = self._place(params, x, y, sample_weight)
        with backend.scope():
            given = examples.Rows(x, y, sample_weight)
            (rows,) = examples.check(self.spec, backend, name, given)
            a = to_backend(backend, rows.x, name, "X")
            t = examples.place_targets(
                self.spec, backend, y if owner(y) is not None else rows.y, name
            )
            w = None
            if sample_weight is not None:
                w = sample_weight if owner(sample_weight) is not None else rows.w
                w = to_backend(backend, w, name, "sample_weight")
        return backend, params, a, t, w

    def _place(self, params: Params, *data: Any) -> tuple[Backend, str, Params]:
        """The backend of parameters and data, the parameters' dtype, and the parameters there."""
        params = tuple(
            tuple(np.asarray(p) if owner(p) is None else p for p in pair)  # type: ignore[misc]
            for pair in as_pairs(params)
        )
        _check_shapes(self, params, "params")
        found = list(leaves(params))
        backend = resolve(None, *found, *data)
        words = {dtype_name(p) for p in found}
        if words not in ({"float32"}, {"float64"}):
            raise ValueError(
                f"params must be all float32 or all float64, got {', '.join(sorted(words))}"
            )
        name = words.pop()
        if any(owner(p) is None for p in found):
            with backend.scope():
                params = tuple(
                    tuple(to_backend(backend, p, name) for p in pair)  # type: ignore[misc]
                    for pair in params
                )
        return backend, name, params


def as_pairs(params: Any, name: str = "params") -> Params:
    """``params`` as a tuple of pairs; its arrays are left as they are."""
    try:
        pairs = tuple((W, b) for W, b in params)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a pair (W, b) for each layer, got {checks.shown(params)}; get some from "
            "net.init()"
        ) from None
    return pairs


def checked_params(
    net: MLP, params: Any, name: str = "params"
) -> tuple[tuple[HostArray, HostArray], ...]:
    """Parameters from a user as private host arrays: of the right shapes, and finite."""
    pairs = tuple(
        tuple(
            np.array(checks.host_array(f"{letter}[{l}] of {name}", to_host(p)))
            for letter, p in zip("Wb", pair, strict=True)
        )
        for l, pair in enumerate(as_pairs(params, name))
    )
    _check_shapes(net, pairs, name)
    for l, (W, b) in enumerate(pairs):
        checks.finite(f"W[{l}] of {name}", W)
        checks.finite(f"b[{l}] of {name}", b)
    return pairs  # type: ignore[return-value]


def _check_shapes(net: MLP, params: Any, name: str) -> None:
    shapes = [tuple(tuple(p.shape) for p in pair) for pair in params]
    if shapes != net.shapes:
        raise ValueError(
            f"{name} has the shapes {shapes}, but {net!r} needs {net.shapes}; get some from "
            "net.init()"
        )


def place_params(
    params: Sequence[tuple[HostArray, HostArray]], backend: Backend, dtype: str
) -> Params:
    """Parameters from the host as private arrays on ``backend``."""
    with backend.scope():
        return tuple((backend.asarray(W, dtype), backend.asarray(b, dtype)) for W, b in params)


def check_memory(net: MLP) -> None:
    """Raise an OutOfMemoryError when this machine could not hold the parameters."""
    needed, there = 8 * net.n_parameters, memory.physical_memory()
    if there is not None and needed > there:
        raise OutOfMemoryError(
            f"sizes {list(net.sizes)} has {net.n_parameters:,} parameters: drawing them needs "
            f"{needed:,} bytes, and this machine has {there:,}; use smaller layers"
        )


def decide(net: MLP, backend: Backend, out: Array) -> Array:
    """From outputs (n, k) on ``backend`` to predictions, as :meth:`MLP.predict` gives them."""
    xp = backend.xp
    if net.loss.target == "class":
        labels: Array = xp.argmax(out, axis=1)
        return labels
    if net.loss.target == "binary":
        out = xp.astype(out > 0.5, backend.dtype(backend.index_dtype))
    return out[:, 0] if net.sizes[-1] == 1 else out
