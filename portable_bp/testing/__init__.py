"""Checks that users can run on their own activations, losses and machines."""

from __future__ import annotations

from portable_bp.testing.gradcheck import check_gradients

__all__ = ["check_gradients"]
