"""Ancestral sampling and DDIM: sample z_t from a Gaussian q(z_t | z_s, x) with x replaced by the data prediction.

For a step from s down to t with h = lambda_t - lambda_s > 0, every variance v <= sigma_t^2 gives a Gaussian with the right marginal at t
(Song et al. 2021, arXiv 2010.02502, eq. 7):

    z_t = alpha_t D + sqrt(sigma_t^2 - v) (z_s - alpha_s D)/sigma_s + sqrt(v) xi.

v = sigma_t^2 (1 - e^{-2h}) is the posterior q(z_t | z_s, x) of the forward process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..sde import SDE
from .base import Solver, one_step
from .tableau import Point, Tableau


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM with v = eta^2 sigma_t^2 (1 - e^{-2h}) (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

    eta = 0 is deterministic, a first-order solver of the probability-flow ODE; eta = 1 is ancestral sampling with the posterior variance.
    """

    eta: float = 0.0
    default_grid = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return one_step(sde, grid, self._step)

    def _step(self, s: Point, t: Point) -> tuple[float, float, float]:
        h = t.half_log_snr - s.half_log_snr
        v = self.eta**2 * -math.expm1(-2 * h)  # in units of sigma_t^2
        a = t.sigma / s.sigma * math.sqrt(1 - v)
        # alpha_t - a alpha_s, with alpha_s/sigma_s = e^{-h} alpha_t/sigma_t.
        b = t.alpha * (-math.expm1(-h) if v == 0 else 1 - math.sqrt(1 - v) * math.exp(-h))
        return a, b, t.sigma * math.sqrt(v)


@dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling of DDPM: the posterior mean m_t(D, z_s) plus noise (Ho et al. 2020, arXiv 2006.11239; Bishop, section 20.2.5).

    Args:
        variance: "beta", that of the forward transition, sigma_s^2 (1 - e^{-2h}) = beta_t on the full chain, right for unit-variance
            data; or "posterior", sigma_t^2 (1 - e^{-2h}), right for a point mass.
    """

    variance: Literal["beta", "posterior"] = "beta"
    default_grid = "uniform"

    def __post_init__(self) -> None:
        if self.variance not in ("beta", "posterior"):
            raise ValueError(f"variance must be 'beta' or 'posterior', got {self.variance!r}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return one_step(sde, grid, self._step)

    def _step(self, s: Point, t: Point) -> tuple[float, float, float]:
        h = t.half_log_snr - s.half_log_snr
        shrink = -math.expm1(-2 * h)
        scale = s.sigma if self.variance == "beta" else t.sigma
        return t.sigma / s.sigma * math.exp(-h), t.alpha * shrink, scale * math.sqrt(shrink)
