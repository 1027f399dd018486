"""Start parameters: scale rules for numbers that are drawn on the host.

``fan_in`` and ``fan_out`` are the inputs and outputs of a layer. Each rule gives the half-width of a
uniform distribution around 0, or the standard deviation of a normal one; biases start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from portable_bp._names import canonical, unknown
from portable_bp.equations.activations import Activation


class Scale(NamedTuple):
    """A distribution around 0: ``uniform`` in (-width, width), or ``normal`` with std width."""

    distribution: str
    width: float


def _glorot(fan_in: int, fan_out: int) -> float:
    return 2 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int) -> float:
    return 2 / fan_in


def _lecun(fan_in: int, fan_out: int) -> float:
    return 1 / fan_in


def _uniform(variance: Callable[[int, int], float]) -> Callable[[int, int], Scale]:
    # A uniform distribution on (-w, w) has the variance w^2 / 3.
    return lambda fan_in, fan_out: Scale("uniform", math.sqrt(3 * variance(fan_in, fan_out)))


def _normal(variance: Callable[[int, int], float]) -> Callable[[int, int], Scale]:
    return lambda fan_in, fan_out: Scale("normal", math.sqrt(variance(fan_in, fan_out)))


INITIALIZERS: Mapping[str, Callable[[int, int], Scale]] = {
    "glorot_uniform": _uniform(_glorot),
    "glorot_normal": _normal(_glorot),
    "he_uniform": _uniform(_he),
    "he_normal": _normal(_he),
    "lecun_uniform": _uniform(_lecun),
    "lecun_normal": _normal(_lecun),
    "zeros": lambda fan_in, fan_out: Scale("uniform", 0.0),
}
"""Weight variance 2/(fan_in + fan_out) (Glorot and Bengio, AISTATS 2010), 2/fan_in (He et al., ICCV
2015), 1/fan_in (LeCun et al., "Efficient BackProp", 1998)."""

_RECTIFIERS = {"relu", "leaky_relu", "elu", "softplus", "gelu", "gelu_tanh", "silu", "mish"}


def default_for(activation: Activation) -> str:
    """The rule that keeps the variance of signals level under this activation.

    >>> from portable_bp.equations import activations
    >>> default_for(activations.get("relu")), default_for(activations.get("tanh"))
    ('he_uniform', 'glorot_uniform')
    """
    if activation.name in _RECTIFIERS:
        return "he_uniform"
    return "lecun_normal" if activation.name == "selu" else "glorot_uniform"


SYNONYMS: Mapping[str, str] = {
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
}
"""Other names of the same rules."""

_HINTS = {
    "glorot": "'glorot_uniform'",
    "xavier": "'glorot_uniform'",
    "he": "'he_uniform'",
    "kaiming": "'he_uniform'",
    "lecun": "'lecun_normal'",
    "uniform": "'glorot_uniform'",
    "normal": "'glorot_normal'",
}


def name_of(initializer: str) -> str:
    """The name of a rule, spelt as in :data:`INITIALIZERS`; ``"auto"`` is no rule of its own.

    >>> name_of("Xavier-Uniform"), name_of("auto")
    ('glorot_uniform', 'auto')
    """
    name = canonical(initializer, ["auto", *INITIALIZERS], SYNONYMS)
    if name is None:
        raise unknown(
            "initializer", initializer, ["auto", *INITIALIZERS],
            "the parameters themselves as pairs (W, b)", synonyms=SYNONYMS, hints=_HINTS,
        )  # fmt: skip
    return name


def get(initializer: str) -> Callable[[int, int], Scale]:
    """The scale rule of that name.

    >>> get("lecun_normal")(100, 10)
    Scale(distribution='normal', width=0.1)
    """
    return INITIALIZERS[name_of(initializer)]
