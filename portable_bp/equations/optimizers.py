"""Gradient descent and its kin: pure updates of one tensor, and of a tree of them.

Notation: ``p`` a parameter, ``g = dE/dp``, ``eta`` the learning rate of this step, ``t = 1, 2, ...``
the number of this step. An optimiser keeps ``slots`` for each parameter, arrays of its shape that
start at zero. ``update`` maps ``(g, slots, p)`` to ``(p', slots')`` and touches nothing.

Whatever changes from step to step is computed on the host in double precision by ``coefficients``
and handed in as 0-d arrays: the same numbers on every backend, and nothing for a compiled step to
bake in.

Of m networks at once, parameters and slots have an axis of length m in front; coefficients, and the
numbers of the optimiser itself, are one for all or arrays of shape (m,): see :func:`with_numbers`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, ClassVar

from portable_bp._names import canonical, unknown
from portable_bp._scalars import check_hyperparameters, hyperparameter
from portable_bp._typing import Array, Namespace, Params
from portable_bp.equations._axes import per_network
from portable_bp.equations._elementwise import each_tensor, elementwise

Slots = tuple[Array, ...]
Coefficients = tuple[Array, ...]


@elementwise
def _descend(g: Array, p: Array, eta: Array, xp: Namespace) -> Array:
    return p - eta * g


@dataclass(frozen=True)
class Optimizer:
    """Plain gradient descent, and the base of all others: ``p' = p - eta g``.

    A subclass declares each of its numbers with the range that it may have:

    >>> @dataclass(frozen=True)
    ... class Sign(Optimizer):
    ...     name: ClassVar[str] = "sign"
    ...     momentum: float = hyperparameter(0.9, low=0, high=1, open_high=True)
    >>> Sign(momentum=7)
    Traceback (most recent call last):
    ValueError: momentum must be a number in [0, 1), got 7
    """

    name: ClassVar[str] = "sgd"
    slots: ClassVar[int] = 0
    """How many arrays of a parameter's shape the optimiser keeps for it."""

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def coefficients(self, t: Any, eta: Any) -> tuple[Any, ...]:
        """The numbers that step ``t`` (from 1) with rate ``eta`` needs, in double precision.

        ``t`` and ``eta``: Python numbers, or host arrays of one shape for many steps at once.
        """
        return (eta,)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        """One tensor: ``(g, slots, p)`` to ``(p', slots')``; ``c`` are the coefficients as arrays."""
        (eta,) = c
        return _descend(g, p, eta, xp), ()


@elementwise
def _momentum(
    g: Array, v: Array, p: Array, eta: Array, mu: float, xp: Namespace
) -> tuple[Array, Array]:
    v = mu * v - eta * g
    return p + v, v


@dataclass(frozen=True)
class Momentum(Optimizer):
    """``v' = mu v - eta g``, ``p' = p + v'`` (Polyak, 1964; form of Sutskever et al., ICML 2013).

    With a constant rate the parameters are those of ``torch.optim.SGD(momentum=mu)``, which applies
    the rate to the velocity instead.
    """

    name: ClassVar[str] = "momentum"
    slots: ClassVar[int] = 1
    mu: float = hyperparameter(0.9, low=0, high=1, open_high=True)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (eta,) = c
        p, v = _momentum(g, slots[0], p, eta, self.mu, xp)
        return p, (v,)


@elementwise
def _nesterov(
    g: Array, v: Array, p: Array, eta: Array, mu: float, xp: Namespace
) -> tuple[Array, Array]:
    d = eta * g
    v = mu * v - d
    return p + (mu * v - d), v


@dataclass(frozen=True)
class Nesterov(Optimizer):
    """``v' = mu v - eta g``, ``p' = p + mu v' - eta g`` (Nesterov, 1983; Sutskever et al., 2013)."""

    name: ClassVar[str] = "nesterov"
    slots: ClassVar[int] = 1
    mu: float = hyperparameter(0.9, low=0, high=1, open_high=True)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (eta,) = c
        p, v = _nesterov(g, slots[0], p, eta, self.mu, xp)
        return p, (v,)


@elementwise
def _adagrad(
    g: Array, s: Array, p: Array, eta: Array, eps: float, xp: Namespace
) -> tuple[Array, Array]:
    s = s + g * g
    return p - eta * (g / (xp.sqrt(s) + eps)), s


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """``s' = s + g^2``, ``p' = p - eta g / (sqrt(s') + eps)`` (Duchi et al., JMLR 12, 2011)."""

    name: ClassVar[str] = "adagrad"
    slots: ClassVar[int] = 1
    eps: float = hyperparameter(1e-10, low=0, open_low=True)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (eta,) = c
        p, s = _adagrad(g, slots[0], p, eta, self.eps, xp)
        return p, (s,)


@elementwise
def _rmsprop(
    g: Array, s: Array, p: Array, eta: Array, rho: float, eps: float, xp: Namespace
) -> tuple[Array, Array]:
    s = rho * s + (1 - rho) * (g * g)
    return p - eta * (g / (xp.sqrt(s) + eps)), s


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """``s' = rho s + (1 - rho) g^2``, ``p' = p - eta g / (sqrt(s') + eps)`` (Hinton, 2012)."""

    name: ClassVar[str] = "rmsprop"
    slots: ClassVar[int] = 1
    rho: float = hyperparameter(0.99, low=0, high=1, open_high=True)
    eps: float = hyperparameter(1e-8, low=0, open_low=True)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (eta,) = c
        p, s = _rmsprop(g, slots[0], p, eta, self.rho, self.eps, xp)
        return p, (s,)


@elementwise
def _adam(
    g: Array,
    m: Array,
    v: Array,
    p: Array,
    alpha: Array,
    eps: Array,
    beta1: float,
    beta2: float,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    return p - alpha * (m / (xp.sqrt(v) + eps)), m, v


@dataclass(frozen=True)
class Adam(Optimizer):
    """``m' = beta1 m + (1 - beta1) g``, ``v' = beta2 v + (1 - beta2) g^2``,
    ``p' = p - eta m^ / (sqrt(v^) + eps)`` with ``m^ = m' / (1 - beta1^t)``, ``v^ = v' / (1 - beta2^t)``
    (Kingma and Ba, ICLR 2015).

    Computed as ``p - alpha m' / (sqrt(v') + eps')`` with ``alpha = eta sqrt(1 - beta2^t) /
    (1 - beta1^t)`` and ``eps' = eps sqrt(1 - beta2^t)``: the same number, the corrections folded into
    two coefficients.
    """

    name: ClassVar[str] = "adam"
    slots: ClassVar[int] = 2
    beta1: float = hyperparameter(0.9, low=0, high=1, open_high=True)
    beta2: float = hyperparameter(0.999, low=0, high=1, open_high=True)
    eps: float = hyperparameter(1e-8, low=0, open_low=True)

    def coefficients(self, t: Any, eta: Any) -> tuple[Any, ...]:
        root = (1 - self.beta2**t) ** 0.5
        return eta * root / (1 - self.beta1**t), self.eps * root

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (m, v), (alpha, eps) = slots, c
        p, m, v = _adam(g, m, v, p, alpha, eps, self.beta1, self.beta2, xp)
        return p, (m, v)


@elementwise
def _adamw(
    g: Array,
    m: Array,
    v: Array,
    p: Array,
    alpha: Array,
    eps: Array,
    decay: Array,
    beta1: float,
    beta2: float,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    return _adam(g, m, v, decay * p, alpha, eps, beta1, beta2, xp)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: first ``p <- (1 - eta weight_decay) p`` (Loshchilov and
    Hutter, 2019).

    As in PyTorch, the decay is of all parameters, biases among them.
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = hyperparameter(0.01, low=0)

    def coefficients(self, t: Any, eta: Any) -> tuple[Any, ...]:
        return (*super().coefficients(t, eta), 1 - eta * self.weight_decay)

    def update(
        self, g: Array, slots: Slots, p: Array, c: Coefficients, *, xp: Namespace
    ) -> tuple[Array, Slots]:
        (m, v), (alpha, eps, decay) = slots, c
        p, m, v = _adamw(g, m, v, p, alpha, eps, decay, self.beta1, self.beta2, xp)
        return p, (m, v)


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    o.name: o for o in (Optimizer, Momentum, Nesterov, Adagrad, RMSprop, Adam, AdamW)
}


_HINTS = {
    "gd": "'sgd' with batch_size=None",
    "gradient_descent": "'sgd' with batch_size=None",
    "sgdm": "'momentum'",
    "sgd_momentum": "'momentum'",
    "heavy_ball": "'momentum'",
    "nag": "'nesterov'",
    "adadelta": "'adagrad'",
    "nadam": "'adam'",
    "radam": "'adam'",
    "adamax": "'adam'",
    "amsgrad": "'adam'",
}


def get(optimizer: str | Optimizer) -> Optimizer:
    """The optimiser of that name with its defaults; an :class:`Optimizer` is returned as it is.

    Case, hyphens and underscores do not matter.

    >>> get("Adam").coefficients(t=1, eta=0.1)
    (0.0316..., 3.16...e-10)
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    name = canonical(optimizer, OPTIMIZERS, {})
    if name is None:
        alternative = "an Optimizer such as portable_bp.optimizers.Adam()"
        raise unknown("optimizer", optimizer, OPTIMIZERS, alternative, hints=_HINTS)
    return OPTIMIZERS[name]()


def modern(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description from a file with the names of today.

    >>> modern({"name": "adamw", "decay": 0.01})
    {'name': 'adamw', 'weight_decay': 0.01}
    """
    return {"weight_decay" if k == "decay" else k: v for k, v in description.items()}


def describe(optimizer: Optimizer) -> dict[str, Any]:
    """Name and parameters, as a file keeps them."""
    return {"name": optimizer.name, **asdict(optimizer)}


def init(optimizer: Optimizer, params: Params, *, xp: Namespace) -> tuple[Any, ...]:
    """Zeros for every slot of every parameter: ``slots[s]`` has the form of ``params``."""
    return tuple(
        tuple((xp.zeros_like(W), xp.zeros_like(b)) for W, b in params)
        for _ in range(optimizer.slots)
    )


def apply(
    optimizer: Optimizer,
    grads: Params,
    slots: tuple[Any, ...],
    params: Params,
    c: Coefficients,
    *,
    xp: Namespace,
) -> tuple[Params, tuple[Any, ...]]:
    """The update of every tensor: ``(grads, slots, params)`` to ``(params', slots')``."""

    def one(g: Array, p: Array, *s: Array) -> tuple[Array, ...]:
        rule = _meeting(optimizer, p, xp)
        of_tensor = tuple(per_network(number, p, xp=xp) for number in c)
        p, s = rule.update(g, s, p, of_tensor, xp=xp)
        return p, *s

    trees = (grads, params, *slots)
    tensors = [[t for layer in tree for t in layer] for tree in trees]
    if type(optimizer) in OPTIMIZERS.values():
        updated = each_tensor(one, *tensors, xp=xp)
    else:  # a user's own need not be element-wise
        updated = [one(*same) for same in zip(*tensors, strict=True)]
    new_params, *new_slots = (
        tuple(zip(flat[::2], flat[1::2], strict=True)) for flat in zip(*updated, strict=True)
    )
    return new_params, tuple(new_slots)


def with_numbers(optimizer: Optimizer, numbers: Mapping[str, Any]) -> Optimizer:
    """The optimiser with arrays of shape (m,) for some of its numbers: one for each network.

    The numbers are not checked: each optimiser that they are of has checked its own.
    """
    if not numbers:
        return optimizer
    stacked = copy(optimizer)
    for name, value in numbers.items():
        object.__setattr__(stacked, name, value)
    return stacked


def _meeting(optimizer: Optimizer, p: Array, xp: Namespace) -> Optimizer:
    """The optimiser with numbers that meet ``p``."""
    arrays = {n: v for n, v in vars(optimizer).items() if hasattr(v, "ndim")}
    return with_numbers(optimizer, {n: per_network(v, p, xp=xp) for n, v in arrays.items()})


Limit = float | Array
"""One for all networks, or an array of shape (m,)."""


@elementwise
def _clip(g: Array, limit: float, xp: Namespace) -> Array:
    bound = xp.full_like(g, limit)
    return xp.minimum(xp.maximum(g, -bound), bound)


@elementwise
def _clip_each(g: Array, bound: Array, xp: Namespace) -> Array:
    return xp.minimum(xp.maximum(g, -bound), bound)


def clip_by_value(grads: Params, limit: Limit, *, xp: Namespace) -> Params:
    """Each entry of each gradient brought into [-limit, limit]."""

    def clip(g: Array) -> tuple[Array]:
        if isinstance(limit, int | float):
            return (_clip(g, limit, xp),)
        return (_clip_each(g, per_network(limit, g, xp=xp), xp),)

    (flat,) = zip(*each_tensor(clip, [g for layer in grads for g in layer], xp=xp), strict=True)
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def global_norm(grads: Params, *, xp: Namespace) -> Array:
    """``||g||``: the square root of the sum of squares over all gradients together: one number for
    each network.

    The entries are divided by the largest of them first: squares neither overflow nor vanish.
    """
    tensors = [
        (g, axes) for layer in grads for g, axes in zip(layer, ((-2, -1), (-1,)), strict=True)
    ]
    # One after the other: CuPy stacks more than eight arrays by way of the host.
    largest = reduce(xp.maximum, [xp.max(xp.abs(g), axis=axes) for g, axes in tensors])
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    squares = []
    for g, axes in tensors:
        scaled = g / per_network(scale, g, xp=xp)
        squares.append(xp.sum(scaled * scaled, axis=axes, dtype=g.dtype))
    return scale * xp.sqrt(reduce(operator.add, squares))


def clip_by_global_norm(grads: Params, limit: Limit, *, xp: Namespace) -> Params:
    """All gradients times ``min(1, limit / ||g||)``: the direction stays (Pascanu et al., 2013)."""
    norm = global_norm(grads, xp=xp)
    bound = xp.full_like(norm, limit) if isinstance(limit, int | float) else limit
    factor = limit / xp.maximum(norm, bound)
    return tuple(
        (dW * per_network(factor, dW, xp=xp), db * per_network(factor, db, xp=xp))
        for dW, db in grads
    )
