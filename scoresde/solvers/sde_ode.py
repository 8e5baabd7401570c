"""Textbook discretisations of the reverse SDE and of the probability-flow ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..sde import SDE
from .ancestral import DDIM
from .base import Solver, one_step
from .tableau import Point, Rows, Tableau


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama for the reverse SDE in t (Song et al. 2021, arXiv 2011.13456, eq. 6); weak order 1.

    With h = s - t > 0 and score = (alpha D - z)/sigma^2 at s:

        z_t = z_s - h (f z_s - g^2 score) + g sqrt(h) xi.

    From alpha = 0, where f and g are infinite, the step is that of the exact transition instead: z_t = alpha_t D + sigma_t xi.
    """

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        def step(s: Point, t: Point) -> tuple[float, float, float]:
            if s.alpha == 0:
                return 0.0, t.alpha, t.sigma
            h = s.t - t.t
            f, g = float(sde.drift_rate(s.t)), float(sde.diffusion(s.t))
            pull = h * g**2 / s.sigma**2
            return 1 - h * f - pull, pull * s.alpha, g * math.sqrt(h)

        return one_step(sde, grid, step)


@dataclass(frozen=True)
class ProbabilityFlow(Solver):
    """Euler or Heun for the probability-flow ODE in the clock r = sigma/alpha.

    For y = z/alpha the ODE dz/dt = f z - g^2/2 score reads, for every Gaussian path,

        dy/dr = (y - D)/r                                         (Karras et al. 2022, arXiv 2206.00364, eq. 4 with s = 1),

    without the stiff linear drift and without kinks where a chain's rate jumps. "euler" (order 1) is DDIM with eta = 0; "heun" (order 2)
    is their algorithm 1: an Euler step, then the trapezoid of the slopes at both ends. Heun calls the network twice a step, except for the
    steps that start at alpha = 0 or end at sigma = 0, where it is Euler.
    """

    method: Literal["euler", "heun"] = "heun"

    def __post_init__(self) -> None:
        if self.method not in ("euler", "heun"):
            raise ValueError(f"method must be 'euler' or 'heun', got {self.method!r}")

    @property
    def calls_per_step(self) -> int:
        return 2 if self.method == "heun" else 1

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        if self.method == "euler":
            return DDIM(eta=0.0).tableau(sde, grid)
        rows = Rows(sde, grid)
        euler = DDIM(eta=0.0)._step
        for _, s, t in rows.steps():
            j = rows.state
            a, b, _ = euler(s, t)
            p = rows.add(t, z={j: a}, data={j: b})
            if s.alpha > 0:
                # y_t = y_s + (r_t - r_s)/2 [ (y_s - D_s)/r_s + (y_p - D_p)/r_t ],  with r_t/r_s = e^{-h}.
                h = t.half_log_snr - s.half_log_snr
                at_s, at_t = 0.5 * math.expm1(-h), -0.5 * math.expm1(h)
                rows.add(
                    t,
                    z={j: t.alpha / s.alpha * (1 + at_s), p: at_t},
                    data={j: -t.alpha * at_s, p: -t.alpha * at_t},
                )
            rows.mark()
        return rows.tableau()
