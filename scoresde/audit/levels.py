"""The noise levels of a run, in the coordinates of every host: x = x_0 + sigma eps, so x = z/alpha and sigma is that of z over alpha.

sigma(u) = (high^(1/rho) + u (low^(1/rho) - high^(1/rho)))^rho,   u in [0, 1]        Karras et al. (2022), equation 5
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# log sigma is then no linear function of u: a sampler that takes its steps for equal ones shows it.
RHO = 3.0


@dataclass(frozen=True)
class Levels:
    """sigma falls from `high` to `low` with the part u of the run.

    Attributes:
        high: sigma at u = 0.
        low: sigma at u = 1, possibly 0.
    """

    high: float
    low: float

    def sigma(self, u: Tensor) -> Tensor:
        """Sigma at `u`, of its shape. Past u = 1 log sigma goes on along its tangent, for hosts that need levels below the last one."""
        first, last = self.high ** (1 / RHO), self.low ** (1 / RHO)
        inside = (first + u.clamp(max=1) * (last - first)) ** RHO
        if self.low == 0:
            return inside
        slope = RHO * (last - first) / last
        return inside * torch.exp(slope * (u - 1).clamp(min=0))

    def sigmas(self, steps: int) -> Tensor:
        """The levels of `steps` steps, `(steps + 1,)` float64."""
        return self.sigma(torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu"))

    def step_of(self, sigma: float) -> float:
        """The u at which sigma has this value."""
        first, last = self.high ** (1 / RHO), self.low ** (1 / RHO)
        u = (first - sigma ** (1 / RHO)) / (first - last)
        if u <= 1 or self.low == 0:
            return u
        return 1 + math.log(sigma / self.low) / (RHO * (last - first) / last)
