"""The multilayer perceptron: what a network computes, and its equations on the arrays you have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from portable_bp import rng
from portable_bp._names import F, suggests
from portable_bp._params import (
    as_pairs,
    check_memory,
    check_shapes,
    checked_params,
    decide,
    place_params,
)
from portable_bp._summary import (
    LAYER_HEAD,
    LayerRow,
    Summary,
    html_block,
    html_table,
    layer_rows,
    text_table,
)
from portable_bp._typing import Array, HostArray, HostData, Params
from portable_bp.backend import Backend, leaves
from portable_bp.backend.registry import owner, resolve
from portable_bp.equations import activations, initializers, losses, network
from portable_bp.equations._named import is_builtin, make
from portable_bp.equations.activations import Activation
from portable_bp.equations.losses import Loss
from portable_bp.inputs import checks, examples
from portable_bp.inputs.spec import NetSpec
from portable_bp.inputs.transfer import dtype_name, float_name, to_backend


def _with_params(method: F) -> F:
    """A method of parameters and data: called with the data alone, it says where the rest is from."""

    @wraps(method)
    def call(self: MLP, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and "params" not in kwargs and "x" not in kwargs:
            raise TypeError(
                f"MLP.{method.__name__} takes parameters before the data, since a network holds no "
                f"numbers of its own: train it with model = portable_bp.fit(net, X, y) and call the "
                f"model's methods, or pass params (net.init() draws some)"
            )
        return method(self, *args, **kwargs)

    return cast(F, call)


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
    def spec(self) -> NetSpec:
        """What the network asks of its examples."""
        return NetSpec(self.sizes[0], self.sizes[-1], self.loss.target, self.loss.name)

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

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("fit", "train", "score", "evaluate", "save", "predict_proba"):
                raise AttributeError(
                    f"an MLP has no {name!r}: it says what is computed and holds no numbers; "
                    "model = portable_bp.fit(net, X, y) trains it and gives a Model"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _layer_rows(self) -> list[LayerRow]:
        counts = [i * o + o for i, o in pairwise(self.sizes)]
        return layer_rows(self.sizes, [a.name for a in self.activations], counts)

    def summary(self) -> str:
        """A table of the layers with the number of parameters of each.

        Returns
        -------
        str
            Some lines of text; a prompt shows them as they are.

        Examples
        --------
        >>> print(MLP([4, 8, 1]).summary())
        layer     units  activation  parameters
        input         4
        hidden 1      8        relu          40
        output        1    identity           9
        49 parameters, loss squared_error
        """
        total = f"{self.n_parameters:,} parameters, loss {self.loss.name}"
        return Summary(f"{text_table(LAYER_HEAD, self._layer_rows())}\n{total}")

    def _repr_html_(self) -> str:
        title = f"MLP, {self.n_parameters:,} parameters, loss {self.loss.name}"
        return html_block(title, html_table(LAYER_HEAD, self._layer_rows()))

    def describe(self) -> dict[str, Any]:
        """What :meth:`from_description` rebuilds the network from: plain JSON, names and numbers.

        Returns
        -------
        dict
            Sizes, names of activations and loss, penalties, dropout and initialiser.

        Raises
        ------
        ValueError
            For an activation or a loss of your own, which a file cannot hold.

        Examples
        --------
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
        """The inverse of :meth:`describe`; names are looked up in fixed tables.

        Parameters
        ----------
        description : mapping
            What :meth:`describe` returns.

        Returns
        -------
        MLP
            The same network.
        """
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
        seed : int
            At least 0 and below 2^64.
        backend : str, Backend or None
            Where to put them; see :func:`portable_bp.get_backend`.
        dtype : {"float32", "float64"}
            Their type; a training with them runs in it.

        Returns
        -------
        tuple of pairs (W, b)
            Arrays of the backend, in the shapes :attr:`shapes`.

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

    @overload
    def forward(self, params: Params, x: HostData) -> HostArray: ...
    @overload
    def forward(self, params: Params, x: Any) -> Any: ...
    @_with_params
    def forward(self, params: Params, x: Any) -> Any:
        """The outputs ``a^L`` for each row of x: probabilities for a classification loss.

        Parameters
        ----------
        params : pairs (W, b)
            The parameters, as from :meth:`init` or ``model.params``.
        x : array of shape (n, sizes[0])
            The examples, of any library.

        Returns
        -------
        array of shape (n, sizes[-1])
            In the library and on the device of ``x``; host data give NumPy.
        """
        backend, name, params = self._place(params, x)
        with backend.scope():
            features = examples.features(self.spec, x)
            examples.finite_features(backend, name, features)
            a = to_backend(backend, features, name, "X")
            out = network.forward(params, a, self.activations, xp=backend.xp).outputs[-1]
            return out if owner(x) is not None else backend.to_numpy(out)

    @overload
    def predict(self, params: Params, x: HostData) -> HostArray: ...
    @overload
    def predict(self, params: Params, x: Any) -> Any: ...
    @_with_params
    def predict(self, params: Params, x: Any) -> Any:
        """Class labels for a classification loss, else the outputs.

        Parameters
        ----------
        params : pairs (W, b)
            The parameters, as from :meth:`init` or ``model.params``.
        x : array of shape (n, sizes[0])
            The examples, of any library.

        Returns
        -------
        array of shape (n,) or (n, k)
            ``softmax_cross_entropy`` gives the most probable class, integers of shape (n,);
            ``log_loss`` gives 0 or 1 for each output (1 where the probability exceeds one half). A
            single output comes back with the shape (n,), several with (n, k).
        """
        out = self.forward(params, x)
        backend = resolve(None, out)
        with backend.scope():
            return decide(self, backend, out)

    @_with_params
    def loss_and_gradients(
        self, params: Params, x: Any, y: Any, sample_weight: Any = None
    ) -> tuple[Array, Params]:
        """The loss E and ``dE/d(params)``: the sum over outputs, the mean over examples.

        Parameters
        ----------
        params : pairs (W, b)
            The parameters, as from :meth:`init` or ``model.params``.
        x : array of shape (n, sizes[0])
            The examples, of any library.
        y : array of shape (n, k) or (n,)
            The targets; (n,) for one output. Class labels may be integers (n,) or one-hot rows.
        sample_weight : array of shape (n,), optional
            Not negative. Turns the mean into ``sum_i s_i l_i / sum_i s_i``.

        Returns
        -------
        loss : array of shape ()
            E, penalties included.
        grads : pairs (dW, db)
            Shaped like ``params``.
        """
        backend, params, a, t, w = self._batch(params, x, y, sample_weight)
        with backend.scope():
            loss, grads = network.loss_and_gradients(
                self.equations, params, a, t, xp=backend.xp, weights=w
            )
            return loss, grads  # type: ignore[return-value]

    @_with_params
    def deltas(
        self, params: Params, x: Any, y: Any, sample_weight: Any = None
    ) -> tuple[Array, ...]:
        """``delta^l = dE/dz^l`` for every layer l = 1 .. L.

        Parameters
        ----------
        params : pairs (W, b)
            The parameters, as from :meth:`init` or ``model.params``.
        x : array of shape (n, sizes[0])
            The examples, of any library.
        y : array of shape (n, k) or (n,)
            The targets; (n,) for one output. Class labels may be integers (n,) or one-hot rows.
        sample_weight : array of shape (n,), optional
            Not negative. Turns the mean into ``sum_i s_i l_i / sum_i s_i``.

        Returns
        -------
        tuple of arrays
            One of shape (n, o) for each layer.
        """
        backend, params, a, t, w = self._batch(params, x, y, sample_weight)
        xp, eq = backend.xp, self.equations
        with backend.scope():
            cache = network.forward(params, a, self.activations, xp=xp)
            return network.deltas(eq, params, cache, t, network.example_weights(a, w, xp=xp), xp=xp)

    @_with_params
    def input_gradient(self, params: Params, x: Any, y: Any, sample_weight: Any = None) -> Array:
        """``dE/dx``: how the loss changes with the input.

        Parameters
        ----------
        params : pairs (W, b)
            The parameters, as from :meth:`init` or ``model.params``.
        x : array of shape (n, sizes[0])
            The examples, of any library.
        y : array of shape (n, k) or (n,)
            The targets; (n,) for one output. Class labels may be integers (n,) or one-hot rows.
        sample_weight : array of shape (n,), optional
            Not negative. Turns the mean into ``sum_i s_i l_i / sum_i s_i``.

        Returns
        -------
        array of shape (n, sizes[0])
            One number for each entry of ``x``.
        """
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
            unchecked = examples.Rows(x, y, sample_weight)
            (rows,) = examples.check(self.spec, backend, name, unchecked)
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
        check_shapes(self, params, "params")
        arrays = list(leaves(params))
        backend = resolve(None, *arrays, *data)
        words = {dtype_name(p) for p in arrays}
        if words not in ({"float32"}, {"float64"}):
            raise ValueError(
                f"params must be all float32 or all float64, got {', '.join(sorted(words))}"
            )
        name = words.pop()
        if any(owner(p) is None for p in arrays):
            with backend.scope():
                params = tuple(
                    tuple(to_backend(backend, p, name) for p in pair)  # type: ignore[misc]
                    for pair in params
                )
        return backend, name, params
