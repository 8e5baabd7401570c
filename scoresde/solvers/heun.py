"""Euler and Heun in the clock r = sigma/alpha, with churn and with restarts.

For y = z/alpha the probability-flow ODE reads, for every Gaussian path (Karras et al. 2022, arXiv 2206.00364, eq. 4 with s = 1),

    dy/dr = (y - D)/r,

without the stiff linear drift and without kinks where a chain's rate jumps. Euler's method in this clock is DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau
from .ancestral import DDIM
from .base import Solver, zero_snr_step


def heun_step(table: TableauBuilder, j: int, t: GridPoint) -> None:
    """Append Euler's step from state j to `t`, then the trapezoid of the slopes at both ends.

    y_t = y_s + (r_t - r_s)/2 [ (y_s - D_s)/r_s + (y_p - D_p)/r_t ],  with r_t/r_s = e^{-h}.
    """
    s = table.points[j]
    if s.alpha == 0:
        zero_snr_step(table, t)
        return
    h = t.half_log_snr - s.half_log_snr
    p = table.append(t, z={j: t.sigma / s.sigma}, data={j: -t.alpha * math.expm1(-h)})
    at_s, at_t = 0.5 * math.expm1(-h), -0.5 * math.expm1(h)
    table.append(t, z={j: t.alpha / s.alpha * (1 + at_s), p: at_t}, data={j: -t.alpha * at_s, p: -t.alpha * at_t})


def add_churn(table: TableauBuilder, r: float, scale: float = 1.0) -> int:
    """Append noise to the newest state, up to sigma/alpha = r: y_r = y_s + scale sqrt(r^2 - r_s^2) xi. Returns the new state."""
    j, s = table.last, table.points[table.last]
    at = table.point_at(-math.log(r))
    spread = math.sqrt(r**2 - (s.sigma / s.alpha) ** 2)
    return table.append(at, z={j: at.alpha / s.alpha}, xi={table.fresh_noise(): at.alpha * scale * spread})


@dataclass(frozen=True)
class ProbabilityFlow(Solver):
    """Euler (order 1) or Heun (order 2, algorithm 1 of arXiv 2206.00364) for the probability-flow ODE in r = sigma/alpha.

    "euler" is DDIM with eta = 0. Heun calls the network twice a step, except in steps that start at alpha = 0 or end at sigma = 0, where it
    is Euler.
    """

    method: Literal["euler", "heun"] = "heun"

    def __post_init__(self) -> None:
        if self.method not in ("euler", "heun"):
            raise ValueError(f"method must be 'euler' or 'heun', got {self.method!r}")

    @property
    def calls_per_step(self) -> int:
        return 2 if self.method == "heun" else 1

    @property
    def order(self) -> int:
        return 2 if self.method == "heun" else 1

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        if self.method == "euler":
            return DDIM(eta=0.0).tableau(sde, grid)
        table = TableauBuilder(sde, grid)
        for _, _, t in table.steps():
            heun_step(table, table.last, t)
            table.end_step()
        return table.tableau()


@dataclass(frozen=True)
class EDMSampler(Solver):
    """Heun with churn: before a step noise is added, up to (1 + gamma) r (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

    gamma = min(churn/N, sqrt(2) - 1) where r = sigma/alpha lies in `span`, and 0 elsewhere and where (1 + gamma) r would leave the path.

    Args:
        churn: S_churn, the total amount of added noise.
        span: (S_tmin, S_tmax).
        noise: S_noise, the scale of the added noise.
    """

    churn: float = 40.0
    span: tuple[float, float] = (0.05, 50.0)
    noise: float = 1.003
    default_grid = "karras"

    @property
    def calls_per_step(self) -> int:
        return 2

    @property
    def order(self) -> int:
        return 2

    @property
    def convergence_order(self) -> int | None:
        return None if self.stochastic else 2

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        first = table.grid[0]
        gamma = min(self.churn / (len(table.grid) - 1), math.sqrt(2) - 1)
        for _, s, t in table.steps():
            r = math.exp(-s.half_log_snr)
            if gamma > 0 and self.span[0] <= r <= self.span[1] and (1 + gamma) * r < math.exp(-first.half_log_snr):
                table.step_evals[-1] = add_churn(table, (1 + gamma) * r, self.noise)
            heun_step(table, table.last, t)
            table.end_step()
        return table.tableau()


@dataclass(frozen=True)
class Restart(Solver):
    """Heun that goes back: at r_min it adds noise up to r_max and comes down again, several times (Xu et al. 2023, arXiv 2306.14878).

    Each interval is (N, K, r_min, r_max): on reaching the grid time nearest to sigma/alpha = r_min, K times noise up to r_max and N Heun steps
    back, spaced by the power 7 of Karras et al. A restart contracts the error that the main run has accumulated. An interval is left out where
    the grid has no time below its r_max.
    """

    intervals: tuple[tuple[int, int, float, float], ...] = ((3, 2, 0.06, 0.30),)
    default_grid = "karras"

    @property
    def calls_per_step(self) -> int:
        return 2

    @property
    def order(self) -> int:
        return 2

    @property
    def convergence_order(self) -> None:
        return None

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        inner = [p for p in table.grid[1:] if p.sigma > 0]
        at = {
            min(inner, key=lambda p: abs(math.log(r_min) + p.half_log_snr)): (count, times, r_max)
            for count, times, r_min, r_max in self.intervals
            if inner
        }
        for _, _, t in table.steps():
            heun_step(table, table.last, t)
            count, times, r_max = at.get(t, (0, 0, 0.0))
            r_min = math.exp(-t.half_log_snr)
            for _ in range(times if r_min < r_max else 0):
                add_churn(table, r_max)
                clock = torch.linspace(r_max ** (1 / 7), r_min ** (1 / 7), count + 1, dtype=torch.float64, device="cpu") ** 7
                for r in clock[1:-1].tolist():
                    heun_step(table, table.last, table.point_at(-math.log(r)))
                heun_step(table, table.last, t)
            table.end_step()
        return table.tableau()
