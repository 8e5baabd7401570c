"""The reverse-diffusion predictor of Song et al.: the forward step read backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import GridPoint
from ..tableau.tableau import Tableau
from .base import Solver, one_step


@dataclass(frozen=True)
class ReverseDiffusion(Solver):
    """Reverse diffusion sampling (Song et al. 2021, arXiv 2011.13456, appendix E, eq. 46); weak order 1.

    The forward step is z_s = a z_t + b xi with a = alpha_s/alpha_t and b^2 = sigma_s^2 (1 - e^{-2h}), here exactly the transition of the
    path, h = lambda_t - lambda_s. As z_s - z_t = (a - 1) z_t + b xi it is discretised in reverse, with the same coefficients, by

        z_t = z_s - (a - 1) z_s + b^2 score(z_s) + b xi = (2 - a) z_s + b^2 score(z_s) + b xi.

    On the full DDPM chain these are a = sqrt(1 - beta) and b^2 = beta, their predictor for VP (eq. 4 of algorithm 3). From alpha = 0, where a
    step changes everything, it is the exact transition instead: z_t = alpha_t D + sigma_t xi.
    """

    default_grid = "half_log_snr"

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        def step(s: GridPoint, t: GridPoint) -> tuple[float, float, float]:
            if s.alpha == 0:
                return 0.0, t.alpha, t.sigma
            a, shrink = s.alpha / t.alpha, -math.expm1(-2 * (t.half_log_snr - s.half_log_snr))
            # b^2 score = (1 - e^{-2h}) (alpha_s D - z_s)
            return 2 - a - shrink, shrink * s.alpha, s.sigma * math.sqrt(shrink)

        return one_step(sde, grid, step)
