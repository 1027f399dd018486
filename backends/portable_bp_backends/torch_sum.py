"""The sum over processes as an operator of PyTorch's, which a recorder sees."""

from __future__ import annotations

import torch
from torch import Tensor

from portable_bp import processes


@torch.library.custom_op("portable_bp::sum_over_processes", mutates_args=())  # type: ignore[untyped-decorator]
def sum_over_processes(flat: Tensor, ordered: bool) -> Tensor:
    """By way of the host's memory, which is the tensor's own on a CPU."""
    total = processes.sum_over_processes(flat.cpu().numpy(), ordered=ordered)
    return torch.from_numpy(total).to(flat.device)
