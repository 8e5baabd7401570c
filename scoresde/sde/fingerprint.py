"""Whether two processes are one."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import SDE

# Processes are compared at these times. t = 0 is left out, as sigma is 0 there for every process.
PROBE_TIMES = torch.arange(1, 33, dtype=torch.float64, device="cpu") / 32


def schedule_fingerprint(sde: SDE) -> Tensor:
    """(alpha, sigma) at 32 times, `(2, 32)` float64 on the CPU. Processes with the same numbers are taken for one."""
    return torch.stack([sde.alpha(PROBE_TIMES), sde.sigma(PROBE_TIMES)]).cpu()
