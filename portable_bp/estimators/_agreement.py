"""What the estimators of several processes have to agree on before they train one network."""

from __future__ import annotations

from typing import Any

from portable_bp.backend.registry import owner
from portable_bp.processes import Processes
from portable_bp.training.agreement import digest, versions


def compare_fits(est: Any, processes: Processes, X: Any, y: Any, weights: Any) -> None:
    """Raise on all processes unless parameters, data and start are the same on each of them.

    Parameters
    ----------
    est : estimator
        With its start parameters.
    processes : Processes
    X, y, weights : arrays or None
        As training takes them.
    """
    if est.solver == "lbfgs":
        processes.raise_everywhere(
            ValueError(
                "solver='lbfgs' sees all rows in one process and cannot run in "
                "portable_bp.distributed; use a solver such as 'adam'"
            )
        )
    parameters = est.get_params(deep=False)
    seed = parameters["random_state"]
    if seed is None:
        processes.raise_everywhere(
            ValueError(
                "random_state must be an integer in portable_bp.distributed, so that all processes "
                "draw the same; got None"
            )
        )
    # A generator has the address of its memory in its repr: what it draws is compared.
    shown = {k: v for k, v in parameters.items() if isinstance(v, str | int | float | tuple | list)}
    arrays = [a for a in (X, y, weights) if hasattr(a, "nbytes") and owner(a) is None]
    same = {
        "data": digest(None, *arrays),
        "start parameters": digest(None, *(W for W in est.coefs_ if owner(W) is None)),
    }
    processes.compare(versions() | shown | same)
