"""The textbook discretisation of the reverse SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import GridPoint
from ..tableau.tableau import Tableau
from .base import Solver, one_step


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama for the reverse SDE in t (Song et al. 2021, arXiv 2011.13456, eq. 6); weak order 1.

    With h = s - t > 0 and score = (alpha D - z)/sigma^2 at s:

        z_t = z_s - h (f z_s - g^2 score) + g sqrt(h) xi.

    From alpha = 0, where f and g are infinite, the step is that of the exact transition instead: z_t = alpha_t D + sigma_t xi.
    """

    # Short steps where the rate is large keep the literal step in t stable, also on a cosine chain.
    default_grid = "half_log_snr"

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        def step(s: GridPoint, t: GridPoint) -> tuple[float, float, float]:
            if s.alpha == 0:
                return 0.0, t.alpha, t.sigma
            h = s.t - t.t
            f, g = float(sde.drift_rate(s.t)), float(sde.diffusion(s.t))
            pull = h * g**2 / s.sigma**2
            return 1 - h * f - pull, pull * s.alpha, g * math.sqrt(h)

        return one_step(sde, grid, step)
