"""Activation functions, each beside its derivative.

An activation maps a layer's net input ``z`` to its output ``a = f(z)``, element by element (softmax:
row by row). ``df`` gives ``f'(z)`` and may use ``a``, which the forward pass has at hand.

Where a formula has several algebraic forms, the one written here does not overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from portable_bp._names import canonical, unknown
from portable_bp._scalars import real, shown
from portable_bp._typing import Array, Namespace
from portable_bp.equations._elementwise import Bound, elementwise, replaceable
from portable_bp.equations._named import ByName
from portable_bp.equations._named import describe as describe
from portable_bp.equations.special import erfc

Function = Callable[[Array, Namespace], Array]
Derivative = Callable[[Array, Array, Namespace], Array]
Pullback = Callable[[Array, Array, Array, Namespace], Array]


@dataclass(frozen=True)
class Activation(ByName):
    """An activation function ``f`` and its derivative ``df``; a user's own is as good as ours.

    Parameters
    ----------
    f : ``f(z, xp) -> a``
        ``z`` of shape (n, o), the result of the same shape and dtype. ``xp`` is the Array API
        namespace of ``z``: write ``xp.sin(z)`` and it runs on every backend.
    df : ``df(z, a, xp) -> f'(z)``
        The derivative, element by element, with ``a = f(z, xp)`` given. None for an activation that
        is not element-wise; then ``pullback`` is needed.
    name : str
        Shown in summaries; a model with a name that is not in :data:`ACTIVATIONS` cannot be saved.
    pullback : ``pullback(g, z, a, xp) -> dE/dz``, optional
        From ``g = dE/da``. The default is ``g * f'(z)``.

    Examples
    --------
    >>> import numpy as np
    >>> sine = Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), name="sine")
    >>> z = np.asarray([[0.0, 1.0]])
    >>> sine.vjp(np.ones((1, 2)), z, sine.f(z, np), np).round(4)
    array([[1.    , 0.5403]])
    """

    f: Function
    df: Derivative | None = None
    name: str = "custom"
    pullback: Pullback | None = None
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def _table(cls) -> Mapping[str, Callable[..., Activation]]:
        return ACTIVATIONS

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise TypeError(f"f must be a function f(z, xp) -> a, got {shown(self.f)}")
        if self.df is None and self.pullback is None:
            raise TypeError("an Activation needs df(z, a, xp), or pullback(g, z, a, xp)")

    def vjp(self, g: Array, z: Array, a: Array, xp: Namespace) -> Array:
        """``dE/dz`` from ``g = dE/da``: ``g * f'(z)``, or the Jacobian product."""
        if self.pullback is not None:
            return self.pullback(g, z, a, xp)
        return scaled_by_derivative(g, z, a, self, xp=xp)


@replaceable
def scaled_by_derivative(
    g: Array, z: Array, a: Array, activation: Activation, *, xp: Namespace
) -> Array:
    """``g * f'(z)``."""
    assert activation.df is not None
    return g * activation.df(z, a, xp)


def identity(z: Array, xp: Namespace) -> Array:
    """``f(z) = z``."""
    return z


def d_identity(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = 1``."""
    return xp.ones_like(z)


@elementwise
def sigmoid(z: Array, xp: Namespace) -> Array:
    """``f(z) = 1 / (1 + e^-z)``, the logistic function."""
    # exp of a negative number only: it cannot overflow, and both tails keep their relative accuracy.
    e = xp.exp(-xp.abs(z))
    return xp.where(z < 0, e, xp.ones_like(z)) / (1 + e)


@elementwise
def d_sigmoid(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = a (1 - a)``."""
    return a * (1 - a)


def tanh(z: Array, xp: Namespace) -> Array:
    """``f(z) = tanh z``."""
    return xp.tanh(z)


@elementwise
def d_tanh(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = 1 - a^2``."""
    return 1 - a * a


@elementwise
def relu(z: Array, xp: Namespace) -> Array:
    """``f(z) = max(z, 0)``."""
    return xp.maximum(z, xp.zeros_like(z))


@elementwise
def d_relu(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = 1 where z > 0, else 0`` (at the kink: 0). ``a > 0`` says the same."""
    return xp.astype(a > 0, a.dtype)


def exp(z: Array, xp: Namespace) -> Array:
    """``f(z) = e^z``, the mean of a Poisson variable with log-mean z."""
    return xp.exp(z)


def d_exp(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = a``."""
    return a


@elementwise
def softplus(z: Array, xp: Namespace) -> Array:
    """``f(z) = ln(1 + e^z)``."""
    # ln(1 + e^z) = max(z, 0) + ln(1 + e^-|z|): no overflow for large z.
    return xp.maximum(z, xp.zeros_like(z)) + xp.log1p(xp.exp(-xp.abs(z)))


def d_softplus(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = sigmoid(z)``."""
    return sigmoid(z, xp)


def _normal_cdf(z: Array, xp: Namespace) -> Array:
    # Through erfc, not 1 + erf: the left tail keeps its relative accuracy.
    return 0.5 * erfc(z * -math.sqrt(0.5), xp=xp)


@elementwise
def gelu(z: Array, xp: Namespace) -> Array:
    """``f(z) = z Phi(z)``, Phi the standard normal distribution (Hendrycks and Gimpel, 2016)."""
    return z * _normal_cdf(z, xp)


@elementwise
def d_gelu(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = Phi(z) + z phi(z)``, phi the standard normal density."""
    density = xp.exp(z * z * -0.5) * (1 / math.sqrt(2 * math.pi))
    return _normal_cdf(z, xp) + z * density


_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


@elementwise
def gelu_tanh(z: Array, xp: Namespace) -> Array:
    """``f(z) = z (1 + tanh u) / 2`` with ``u = sqrt(2/pi) (z + 0.044715 z^3)``, GELU's tanh form."""
    inner = _GELU_SCALE * (z + _GELU_CUBIC * (z * z * z))
    return 0.5 * z * (1 + xp.tanh(inner))


@elementwise
def d_gelu_tanh(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = (1 + tanh u) / 2 + z (1 - tanh^2 u) u' / 2``."""
    t = xp.tanh(_GELU_SCALE * (z + _GELU_CUBIC * (z * z * z)))
    # z u' (1 - t^2) from the side that vanishes: z^2 may be infinite where 1 - t^2 is 0.
    w = z * (1 - t * t)
    return 0.5 * (1 + t) + (0.5 * _GELU_SCALE) * (w + (3 * _GELU_CUBIC) * (w * z * z))


@elementwise
def silu(z: Array, xp: Namespace) -> Array:
    """``f(z) = z sigmoid(z)``, also called swish."""
    return z * sigmoid(z, xp)


@elementwise
def d_silu(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = s (1 + z (1 - s))`` with ``s = sigmoid(z)``."""
    s = sigmoid(z, xp)
    return s * (1 + z * (1 - s))


@elementwise
def mish(z: Array, xp: Namespace) -> Array:
    """``f(z) = z tanh(softplus(z))`` (Misra, 2019)."""
    return z * xp.tanh(softplus(z, xp))


@elementwise
def d_mish(z: Array, a: Array, xp: Namespace) -> Array:
    """``f'(z) = t + z (1 - t^2) sigmoid(z)`` with ``t = tanh(softplus(z))``."""
    t = xp.tanh(softplus(z, xp))
    return t + z * (1 - t * t) * sigmoid(z, xp)


@elementwise
def exp_shifted(z: Array, top: Array, xp: Namespace) -> tuple[Array, Array]:
    """``s = z - top`` and ``e^s``: no overflow when ``top`` is the maximum of the row."""
    s = z - top
    return s, xp.exp(s)


def softmax(z: Array, xp: Namespace) -> Array:
    """``f(z)_j = e^{z_j} / sum_k e^{z_k}``, row by row.

    The row's maximum is taken off first: the quotient is unchanged and no exponential overflows.
    """
    _, e = exp_shifted(z, xp.max(z, axis=-1, keepdims=True), xp)
    return e / xp.sum(e, axis=-1, keepdims=True, dtype=e.dtype)


def softmax_pullback(g: Array, z: Array, a: Array, xp: Namespace) -> Array:
    """``dE/dz_i = sum_j g_j a_j (1[i = j] - a_i) = a_i (g_i - sum_j g_j a_j)``, the full Jacobian."""
    return a * (g - xp.sum(g * a, axis=-1, keepdims=True, dtype=a.dtype))


@elementwise
def _leaky_relu(z: Array, slope: float, xp: Namespace) -> Array:
    return xp.where(z > 0, z, slope * z)


@elementwise
def _d_leaky_relu(z: Array, slope: float, xp: Namespace) -> Array:
    gate: Array = xp.astype(z > 0, z.dtype)
    return gate * (1 - slope) + slope


def _leaky_relu_value(z: Array, xp: Namespace, slope: float) -> Array:
    return _leaky_relu(z, slope, xp)


def _leaky_relu_derivative(z: Array, a: Array, xp: Namespace, slope: float) -> Array:
    return _d_leaky_relu(z, slope, xp)


def leaky_relu(slope: float = 0.01) -> Activation:
    """``f(z) = z where z > 0, else slope z``."""
    slope = real("slope", slope)
    f, df = Bound(_leaky_relu_value, (slope,)), Bound(_leaky_relu_derivative, (slope,))
    return Activation(f, df, "leaky_relu", parameters={"slope": slope})


@elementwise
def _elu(z: Array, scale: float, alpha: float, xp: Namespace) -> Array:
    zero = xp.zeros_like(z)
    # expm1 sees no positive number: it cannot overflow in the branch that is not taken.
    below = alpha * xp.expm1(xp.minimum(z, zero))
    return scale * (xp.maximum(z, zero) + below)


@elementwise
def _d_elu(z: Array, scale: float, alpha: float, xp: Namespace) -> Array:
    below = scale * alpha * xp.exp(xp.minimum(z, xp.zeros_like(z)))
    return xp.where(z > 0, scale * xp.ones_like(z), below)


def _elu_value(z: Array, xp: Namespace, scale: float, alpha: float) -> Array:
    return _elu(z, scale, alpha, xp)


def _elu_derivative(z: Array, a: Array, xp: Namespace, scale: float, alpha: float) -> Array:
    return _d_elu(z, scale, alpha, xp)


def _scaled_elu(
    name: str, scale: float, alpha: float, parameters: Mapping[str, float]
) -> Activation:
    f, df = Bound(_elu_value, (scale, alpha)), Bound(_elu_derivative, (scale, alpha))
    return Activation(f, df, name, parameters=parameters)


def elu(alpha: float = 1.0) -> Activation:
    """``f(z) = z where z > 0, else alpha (e^z - 1)`` (Clevert et al., 2015)."""
    alpha = real("alpha", alpha)
    return _scaled_elu("elu", 1.0, alpha, {"alpha": alpha})


def selu() -> Activation:
    """``f(z) = 1.0507 elu(z, 1.6733)``: keeps mean 0 and variance 1 (Klambauer et al., 2017)."""
    return _scaled_elu("selu", 1.0507009873554805, 1.6732632423543772, {})


def _plain(name: str, f: Function, df: Derivative) -> Callable[[], Activation]:
    activation = Activation(f, df, name)
    return lambda: activation


_softmax = Activation(softmax, None, "softmax", softmax_pullback)

ACTIVATIONS: Mapping[str, Callable[..., Activation]] = {
    "identity": _plain("identity", identity, d_identity),
    "sigmoid": _plain("sigmoid", sigmoid, d_sigmoid),
    "tanh": _plain("tanh", tanh, d_tanh),
    "relu": _plain("relu", relu, d_relu),
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "softplus": _plain("softplus", softplus, d_softplus),
    "gelu": _plain("gelu", gelu, d_gelu),
    "gelu_tanh": _plain("gelu_tanh", gelu_tanh, d_gelu_tanh),
    "silu": _plain("silu", silu, d_silu),
    "mish": _plain("mish", mish, d_mish),
    "softmax": lambda: _softmax,
    "exp": _plain("exp", exp, d_exp),
}
"""Name to a function that makes the activation: ``ACTIVATIONS["leaky_relu"](slope=0.2)``."""

SYNONYMS: Mapping[str, str] = {
    "logistic": "sigmoid",
    "linear": "identity",
    "swish": "silu",
    "exponential": "exp",
    "gelu_new": "gelu_tanh",
}
"""Other names of the same functions."""

_HINTS = {
    "lrelu": "'leaky_relu'",
    "prelu": "'leaky_relu', whose slope is not learnt",
    "relu6": "'relu'",
    "hard_sigmoid": "'sigmoid'",
    "hardsigmoid": "'sigmoid'",
    "hardtanh": "'tanh'",
    "hardswish": "'silu'",
    "quick_gelu": "'gelu_tanh'",
    "log_softmax": "'softmax'",
    "none": "'identity'",
    "NoneType": "'identity'",
}


def get(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of that name; an :class:`Activation` is returned as it is.

    Case, hyphens and underscores do not matter, and :data:`SYNONYMS` are understood.

    >>> get("logistic").name, get("LeakyReLU").name
    ('sigmoid', 'leaky_relu')
    >>> get("relo")
    Traceback (most recent call last):
    ValueError: activation must be one of ...; got 'relo'. Did you mean 'relu'?
    """
    if isinstance(activation, Activation):
        return activation
    name = canonical(activation, ACTIVATIONS, SYNONYMS)
    if name is None:
        alternative = "an Activation(f, df)"
        raise unknown(
            argument, activation, ACTIVATIONS, alternative, synonyms=SYNONYMS, hints=_HINTS
        )
    return ACTIVATIONS[name]()
