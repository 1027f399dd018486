"""Several processes that train one network: who they are, what they say to each other, how they end."""

from portable_bp.processes.engine import Engine as Engine
from portable_bp.processes.group import ALONE as ALONE
from portable_bp.processes.group import Processes as Processes
from portable_bp.processes.launch import current as current
from portable_bp.processes.launch import distributed as distributed
from portable_bp.processes.launch import joined as joined
from portable_bp.processes.muted import muted as muted
from portable_bp.processes.muted import sum_over_processes as sum_over_processes

__all__ = ["Engine", "Processes", "distributed"]
