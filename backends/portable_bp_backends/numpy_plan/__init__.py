"""NumPy, near its limit: a pure function is traced once and replayed into memory that stays."""

from portable_bp_backends.numpy_plan.runner import PlanFunction, PlanRunner
from portable_bp_backends.numpy_plan.switches import Switches

__all__ = ["PlanFunction", "PlanRunner", "Switches"]
