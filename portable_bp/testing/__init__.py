"""Checks that users can run on their own activations, losses and machines."""

from __future__ import annotations

from portable_bp.testing.equivalence import check_backend
from portable_bp.testing.gradcheck import check_gradients
from portable_bp.testing.report import Report, Row

__all__ = ["Report", "Row", "check_backend", "check_gradients"]
