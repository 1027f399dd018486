"""Backpropagation against central differences, and after a training."""

from __future__ import annotations

import math
from collections.abc import Iterator

from portable_bp.backend import Backend
from portable_bp.equations import (
    activations,
    losses,
)
from portable_bp.testing import tolerances
from portable_bp.testing.equivalence.gradients import activation_net, loss_net
from portable_bp.testing.gradcheck import check_gradients
from portable_bp.testing.problems import make_problem
from portable_bp.testing.report import Row


def difference_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """The oracle itself: its gradients against central differences of its loss."""
    nets = {name: activation_net(name) for name in sorted(activations.ACTIVATIONS)}
    nets |= {name: loss_net(name) for name in sorted(losses.LOSSES)}
    u, tolerance = tolerances.ROUNDOFF["float64"], 1e-7
    for name, net in nets.items():
        p = make_problem(net, 5, "float64", weighted=True)
        error, note = math.inf, ""
        try:
            error = check_gradients(
                net,
                p.params,
                p.x,
                p.y,
                p.weights,
                entries=5,
                tolerance=tolerance,
            )
        except AssertionError as failure:
            note = str(failure)
        yield Row("central differences", name, "float64", "", error / u, tolerance / u, note)
