"""Annealed Langevin dynamics as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Row, Tableau
from .base import Solver


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin dynamics at each noise level in turn, the highest first (Song and Ermon 2019, arXiv 1907.05600, algorithm 1).

    In y = z/alpha the levels are r = sigma/alpha and the step sizes proportional to their squares, which for z reads

        z <- z + c sigma^2/2 score + sqrt(c) sigma xi,       `corrections` times at every time of the grid,

    and from one level to the next y stays as it is: z <- alpha_t/alpha_s z (from alpha_s = 0, where there is no y, z/sigma stays). With
    score = (alpha D - z)/sigma^2 the step is linear, so this is a table:

        z <- (1 - c/2) z + c/2 alpha D + sqrt(c) sigma xi.

    A grid that goes to sigma = 0 ends with the data prediction after the Langevin steps at the time before. As the slow directions are never in
    equilibrium at the low levels, the law depends on the grid: use ten levels or more, and look at `tableau.moments`.

    Args:
        corrections: Langevin steps at every level, T of the paper.
        step_size: c, their 2 epsilon/sigma_L^2 for their epsilon/2 score; they take epsilon = 2e-5 with sigma_L = 0.01, so c = 0.2.

    Raises:
        ValueError: no corrections, or `step_size` outside (0, 4), where it diverges.
    """

    corrections: int = 100
    step_size: float = 0.2
    default_grid = "half_log_snr"  # levels of noise in geometric progression, as in the paper

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.step_size < 4:
            raise ValueError(f"need corrections >= 1 and 0 < step_size < 4, got {self}")

    @property
    def calls_per_step(self) -> int:
        return self.corrections

    @property
    def order(self) -> None:
        return None

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def single_call(self) -> bool:
        return False

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        for s, t in zip(table.grid[:-1], table.grid[1:], strict=True):
            clean = t.sigma == 0
            for i in range(self.corrections):
                at, scale = (t, _keep_y(s, t)) if i == self.corrections - 1 and not clean else (s, 1.0)
                step = langevin_row(table.last, s, self.step_size, table.fresh_noise(), scale)
                table.append(at, step.z, step.data, xi=step.xi)
            if clean:
                table.append(t, data={table.last: t.alpha})
            table.end_step()
        return table.tableau()


def langevin_row(j: int, at: GridPoint, c: float, xi: int, scale: float = 1.0) -> Row:
    """The Langevin step of size c from state j, times `scale`."""
    return Row({j: scale * (1 - c / 2)}, {j: scale * c / 2 * at.alpha}, {xi: scale * math.sqrt(c) * at.sigma})


def _keep_y(s: GridPoint, t: GridPoint) -> float:
    """z_t/z_s for the same y = z/alpha."""
    return t.alpha / s.alpha if s.alpha > 0 else t.sigma / s.sigma
