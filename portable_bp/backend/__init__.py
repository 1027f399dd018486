"""The narrow door: what a backend offers, who stands behind it, and the memory that it has."""

from portable_bp._tree import leaves, map_leaves
from portable_bp.backend.base import Backend, extend
from portable_bp.backend.runner import EagerRunner, Runner, check_run

__all__ = ["Backend", "EagerRunner", "Runner", "check_run", "extend", "leaves", "map_leaves"]
