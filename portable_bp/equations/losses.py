"""Loss functions, each beside its gradient, and the output deltas that follow from them.

Conventions, for all of them. ``o``: outputs of the network, shape (n, k). ``y``: targets of the same
shape. A loss has a term ``l_ij`` for each example i and output j; the reported number is the **sum
over outputs** and the **mean over examples**, weighted by the sample weights ``s`` if there are any::

    E = sum_i s_i sum_j l(o_ij, y_ij) / sum_i s_i            (s_i = 1 without weights)

and the gradients are those of exactly this E.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from portable_bp._names import canonical, unknown
from portable_bp._scalars import real, shown
from portable_bp._typing import Array, Namespace
from portable_bp.equations import activations
from portable_bp.equations._axes import OF_MATRIX
from portable_bp.equations._elementwise import Bound, elementwise, replaceable
from portable_bp.equations._named import ByName
from portable_bp.equations._named import describe as describe
from portable_bp.equations.activations import Activation

TARGETS = ("real", "binary", "class", "count")

Term = Callable[[Array, Array, Namespace], Array]


@dataclass(frozen=True)
class Loss(ByName):
    """A loss as a function of the outputs, and its gradient; a user's own is as good as ours.

    Parameters
    ----------
    value : function
        ``value(o, y, xp) -> l``, of shape (n, k) like ``o`` and ``y``: we sum over outputs and average
        over examples.
    gradient : function
        ``gradient(o, y, xp) -> dl/do``, of shape (n, k).
    name : str
        Shown in summaries; a model with a name that is not in :data:`LOSSES` cannot be saved.
    output : str
        The activation of the last layer unless the user gives one.
    from_logits : ``from_logits(z, y, xp) -> l``, optional
        ``value(f(z), y)`` in a form that does not overflow, for the matching output activation. The
        output delta of that pair has to be ``o - y`` (true of a canonical link).
    target : "real", "binary", "class" or "count"
        What ``y`` may hold: any number; numbers in [0, 1]; class labels or one-hot rows;
        numbers that are not negative.

    Examples
    --------
    >>> import numpy as np
    >>> quartic = Loss(lambda o, y, xp: (o - y) ** 4, lambda o, y, xp: 4 * (o - y) ** 3, "quartic")
    >>> quartic.value(np.asarray([[3.0]]), np.asarray([[1.0]]), np)
    array([[16.]])
    """

    value: Term
    gradient: Term
    name: str = "custom"
    output: str = "identity"
    from_logits: Term | None = None
    target: str = "real"
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def _table(cls) -> Mapping[str, Callable[..., Loss]]:
        return LOSSES

    def __post_init__(self) -> None:
        for part in ("value", "gradient"):
            if not callable(getattr(self, part)):
                raise TypeError(
                    f"{part} must be a function {part}(o, y, xp) -> array, got "
                    f"{shown(getattr(self, part))}"
                )
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {self.target!r}")
        activations.get(self.output, "output")

    def matches(self, activation: Activation) -> bool:
        """Whether ``activation`` on the output gives the canonical delta ``o - y``."""
        return self.from_logits is not None and activation == activations.get(self.output)

    @property
    def classes(self) -> bool:
        """Whether the outputs are probabilities of classes."""
        return self.target in ("binary", "class")


def elementwise_loss(
    loss: Loss, activation: Activation, z: Array, o: Array, y: Array, xp: Namespace
) -> Array:
    """``l_ij`` of shape (n, k), from the net inputs ``z`` where that is the safe form."""
    if loss.matches(activation):
        assert loss.from_logits is not None
        return loss.from_logits(z, y, xp)
    return loss.value(o, y, xp)


def general_delta(
    loss: Loss, activation: Activation, z: Array, o: Array, y: Array, xp: Namespace
) -> Array:
    """``dl/dz = dl/do * f'(z)``, the output delta of any pair (Jacobian product for softmax)."""
    return activation.vjp(loss.gradient(o, y, xp), z, o, xp)


@elementwise
def _shared_residual(o: Array, y: Array, share: Array | float, xp: Namespace) -> Array:
    return (o - y) * share


def canonical_delta(o: Array, y: Array) -> Array:
    """``dl/dz = o - y``: identity with squared error, sigmoid with log loss, softmax with
    cross-entropy, exp with Poisson deviance."""
    return o - y


def output_delta(
    loss: Loss, activation: Activation, z: Array, o: Array, y: Array, xp: Namespace
) -> Array:
    """``dl/dz`` of shape (n, k): the canonical one where the pair has it, else the general one."""
    if loss.matches(activation):
        return canonical_delta(o, y)
    return general_delta(loss, activation, z, o, y, xp)


def shared_delta(
    loss: Loss,
    activation: Activation,
    z: Array,
    o: Array,
    y: Array,
    share: Array | float,
    xp: Namespace,
) -> Array:
    """``s dl/dz``: the output delta times the share of each example."""
    if loss.matches(activation):
        return _shared_residual(o, y, share, xp)
    return general_delta(loss, activation, z, o, y, xp) * share


@replaceable
def shared_loss(
    loss: Loss,
    activation: Activation,
    z: Array,
    o: Array,
    y: Array,
    share: Array | float,
    *,
    xp: Namespace,
) -> Array:
    """``sum_i s_i sum_j l_ij``: one number for each network."""
    l = elementwise_loss(loss, activation, z, o, y, xp)
    return xp.sum(l * share, axis=OF_MATRIX, dtype=l.dtype)


def one_hot(labels: Array, classes: Array, dtype: Any, *, xp: Namespace) -> Array:
    """Rows of the identity matrix, shape (..., n, k), for integer ``labels`` of shape (..., n).

    ``classes``: the integers 0 .. k-1 on the same device. A label outside of them gives a row of
    zeros: labels are checked on the host, before.
    """
    same = xp.expand_dims(labels, axis=-1) == xp.expand_dims(classes, axis=0)
    return xp.astype(same, dtype)


def _tiny(o: Array, xp: Namespace) -> Array:
    """The smallest normal number: keeps a probability of zero out of a logarithm and a quotient."""
    info: Any = xp.finfo(o.dtype)
    return xp.full_like(o, float(info.smallest_normal))


@elementwise
def _half_square(o: Array, y: Array, xp: Namespace) -> Array:
    r = o - y
    return 0.5 * (r * r)


def _residual(o: Array, y: Array, xp: Namespace) -> Array:
    return o - y


def squared_error() -> Loss:
    """``l = (o - y)^2 / 2``: **half** the squared error, as in the literature of backpropagation."""
    return Loss(_half_square, _residual, "squared_error", "identity", from_logits=_half_square)


@elementwise
def _log_loss(o: Array, y: Array, xp: Namespace) -> Array:
    tiny = _tiny(o, xp)
    hit, miss = xp.log(xp.maximum(o, tiny)), xp.log(xp.maximum(1 - o, tiny))
    return -(y * hit) - (1 - y) * miss


@elementwise
def _d_log_loss(o: Array, y: Array, xp: Namespace) -> Array:
    tiny = _tiny(o, xp)
    return (1 - y) / xp.maximum(1 - o, tiny) - y / xp.maximum(o, tiny)


@elementwise
def _log_loss_logits(z: Array, y: Array, xp: Namespace) -> Array:
    # -y ln s(z) - (1-y) ln(1 - s(z)) = max(z, 0) - z y + ln(1 + e^-|z|): nothing overflows.
    softplus = xp.maximum(z, xp.zeros_like(z)) + xp.log1p(xp.exp(-xp.abs(z)))
    return softplus - z * y


def log_loss() -> Loss:
    """``l = -y ln o - (1 - y) ln(1 - o)``, binary cross-entropy; y in [0, 1]."""
    return Loss(
        _log_loss,
        _d_log_loss,
        "log_loss",
        "sigmoid",
        from_logits=_log_loss_logits,
        target="binary",
    )


@elementwise
def _cross_entropy(o: Array, y: Array, xp: Namespace) -> Array:
    return -(y * xp.log(xp.maximum(o, _tiny(o, xp))))


@elementwise
def _d_cross_entropy(o: Array, y: Array, xp: Namespace) -> Array:
    return -(y / xp.maximum(o, _tiny(o, xp)))


@elementwise
def _surprise(y: Array, s: Array, total: Array, xp: Namespace) -> Array:
    return y * (xp.log(total) - s)


def _cross_entropy_logits(z: Array, y: Array, xp: Namespace) -> Array:
    # ln softmax(z) = s - ln(sum e^s) with s = z - max z: no overflow, no logarithm of zero.
    s, e = activations.exp_shifted(z, xp.max(z, axis=-1, keepdims=True), xp)
    return _surprise(y, s, xp.sum(e, axis=-1, keepdims=True, dtype=e.dtype), xp)


def softmax_cross_entropy() -> Loss:
    """``l_j = -y_j ln o_j`` over k classes; each row of y sums to 1 (one-hot, or probabilities)."""
    return Loss(
        _cross_entropy,
        _d_cross_entropy,
        "softmax_cross_entropy",
        "softmax",
        from_logits=_cross_entropy_logits,
        target="class",
    )


def _y_log_y(y: Array, xp: Namespace) -> Array:
    return y * xp.log(xp.maximum(y, _tiny(y, xp)))  # 0 ln 0 = 0


@elementwise
def _poisson(o: Array, y: Array, xp: Namespace) -> Array:
    return _y_log_y(y, xp) - y * xp.log(xp.maximum(o, _tiny(o, xp))) - y + o


@elementwise
def _d_poisson(o: Array, y: Array, xp: Namespace) -> Array:
    return 1 - y / xp.maximum(o, _tiny(o, xp))


@elementwise
def _poisson_logits(z: Array, y: Array, xp: Namespace) -> Array:
    return _y_log_y(y, xp) - y * z - y + xp.exp(z)


def poisson() -> Loss:
    """``l = y ln(y/o) - y + o``: **half** the Poisson deviance; counts y >= 0, means o > 0."""
    return Loss(_poisson, _d_poisson, "poisson", "exp", from_logits=_poisson_logits, target="count")


@elementwise
def _absolute(o: Array, y: Array, xp: Namespace) -> Array:
    return xp.abs(o - y)


@elementwise
def _d_absolute(o: Array, y: Array, xp: Namespace) -> Array:
    return xp.sign(o - y)


def absolute_error() -> Loss:
    """``l = |o - y|``, with derivative 0 where o = y."""
    return Loss(_absolute, _d_absolute, "absolute_error")


@elementwise
def _clipped(r: Array, limit: float, xp: Namespace) -> Array:
    bound = xp.full_like(r, limit)
    return xp.minimum(xp.maximum(r, -bound), bound)


@elementwise
def _huber(o: Array, y: Array, delta: float, xp: Namespace) -> Array:
    r = o - y
    c = _clipped(r, delta, xp)
    return c * (r - 0.5 * c)  # r^2/2 inside, delta |r| - delta^2/2 outside


def _huber_value(o: Array, y: Array, xp: Namespace, delta: float) -> Array:
    return _huber(o, y, delta, xp)


def _huber_gradient(o: Array, y: Array, xp: Namespace, delta: float) -> Array:
    return _clipped(o - y, delta, xp)


def huber(delta: float = 1.0) -> Loss:
    """``l = r^2 / 2 where |r| <= delta, else delta (|r| - delta/2)``, with ``r = o - y``."""
    delta = real("delta", delta, low=0, open_low=True)
    value, gradient = Bound(_huber_value, (delta,)), Bound(_huber_gradient, (delta,))
    return Loss(value, gradient, "huber", parameters={"delta": delta})


@elementwise
def _pinball(o: Array, y: Array, q: float, xp: Namespace) -> Array:
    r = y - o
    return xp.maximum(q * r, (q - 1) * r)


@elementwise
def _d_pinball(o: Array, y: Array, q: float, xp: Namespace) -> Array:
    # -q below the target, 1 - q above it, and 0 on it, between the two one-sided slopes.
    side = xp.sign(o - y)
    return 0.5 * side + (0.5 - q) * (side * side)


def _quantile_value(o: Array, y: Array, xp: Namespace, q: float) -> Array:
    return _pinball(o, y, q, xp)


def _quantile_gradient(o: Array, y: Array, xp: Namespace, q: float) -> Array:
    return _d_pinball(o, y, q, xp)


def quantile(q: float = 0.5) -> Loss:
    """``l = max(q r, (q - 1) r)`` with ``r = y - o``, the pinball loss: o learns the q-quantile."""
    q = real("q", q, low=0, high=1, open_low=True, open_high=True)
    value, gradient = Bound(_quantile_value, (q,)), Bound(_quantile_gradient, (q,))
    return Loss(value, gradient, "quantile", parameters={"q": q})


LOSSES: Mapping[str, Callable[..., Loss]] = {
    "squared_error": squared_error,
    "log_loss": log_loss,
    "softmax_cross_entropy": softmax_cross_entropy,
    "poisson": poisson,
    "absolute_error": absolute_error,
    "huber": huber,
    "quantile": quantile,
}
"""Name to a function that makes the loss: ``LOSSES["quantile"](q=0.9)``."""


SYNONYMS: Mapping[str, str] = {
    "cross_entropy": "softmax_cross_entropy",
    "cross_entropy_loss": "softmax_cross_entropy",
    "categorical_crossentropy": "softmax_cross_entropy",
    "sparse_categorical_crossentropy": "softmax_cross_entropy",
}
"""Other names of the same functions, where the number is exactly the same."""

_HALF = "'squared_error', which is half the squared error, summed over the outputs"
_ABSOLUTE = "'absolute_error', which is summed over the outputs"
_BINARY = "'log_loss', which is summed over the outputs"
_CLASSES = "'softmax_cross_entropy'"
_HINTS = {
    **dict.fromkeys(
        ("mse", "mse_loss", "mean_squared_error", "rmse", "l2", "l2_loss", "squared_loss",
         "half_squared_error", "least_squares", "quadratic"), _HALF,
    ),
    **dict.fromkeys(("mae", "mean_absolute_error", "l1", "l1_loss"), _ABSOLUTE),
    **dict.fromkeys(
        ("bce", "bce_loss", "binary_crossentropy", "binary_cross_entropy", "binary_log_loss",
         "bce_with_logits", "bce_with_logits_loss", "logistic", "sigmoid_cross_entropy"), _BINARY,
    ),
    **dict.fromkeys(("nll", "nll_loss", "multi_log_loss", "softmax", "multinomial", "ce"), _CLASSES),
    **dict.fromkeys(("poisson_nll", "poisson_nll_loss", "poisson_deviance"),
                    "'poisson', which is half the deviance of the mean itself"),
    **dict.fromkeys(("pinball", "pinball_loss", "mean_pinball_loss"), "'quantile'"),
    **dict.fromkeys(("smooth_l1", "smooth_l1_loss"), "'huber'"),
}  # fmt: skip
"""Names of other libraries for a number that differs by a factor, or that takes other outputs."""


def get(loss: str | Loss) -> Loss:
    """The loss of that name; a :class:`Loss` is returned as it is.

    Case, hyphens and underscores do not matter, and :data:`SYNONYMS` are understood.

    >>> get("log_loss").output, get("CrossEntropy").name
    ('sigmoid', 'softmax_cross_entropy')
    >>> get("mae")
    Traceback (most recent call last):
    ValueError: loss ... Did you mean 'absolute_error', which is summed over the outputs?
    """
    if isinstance(loss, Loss):
        return loss
    name = canonical(loss, LOSSES, SYNONYMS)
    if name is None:
        alternative = "a Loss(value, gradient)"
        raise unknown("loss", loss, LOSSES, alternative, synonyms=SYNONYMS, hints=_HINTS)
    return LOSSES[name]()
