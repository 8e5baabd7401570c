"""A deterministic single step that goes below its target, and noise that comes back up: the ancestral variants of single-step solvers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sde import SDE
from .base import Solver
from .single_step import DPMSolver, DPMSolverPP2S
from .tableau import Rows, Tableau


@dataclass(frozen=True)
class StepDown(Solver):
    """Any deterministic one-step solver with the noise of ancestral sampling (k-diffusion's "ancestral" samplers; eta as in DDIM).

    With r = sigma/alpha a step from s to t goes down to r_d by `solver` and up again by noise,

        r_u = min(r_t, eta r_t sqrt(1 - r_t^2/r_s^2)),      r_d^2 = r_t^2 - r_u^2,      y_t = y_d + r_u xi.

    With Euler's step it is DDIM(eta). From alpha = 0 there is no way back up: that step is the solver's own.

    Args:
        solver: takes each step from nothing but the state before it.
        eta: amount of noise, 1 for that of ancestral sampling.

    Raises:
        ValueError: `eta` outside [0, 1].
    """

    solver: DPMSolver | DPMSolverPP2S = DPMSolverPP2S()
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def calls_per_step(self) -> int:
        return self.solver.calls_per_step

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        for _, s, t in rows.steps():
            r_s, r_t = (math.exp(-p.half_log_snr) for p in (s, t))
            r_u = min(r_t, self.eta * r_t * math.sqrt(1 - (r_t / r_s) ** 2)) if s.alpha > 0 else 0.0
            d = rows.point(-0.5 * math.log(r_t**2 - r_u**2)) if r_u > 0 else t
            self.solver.step(rows, s, d)
            if r_u > 0:
                rows.add(t, z={rows.state: t.alpha / d.alpha}, noise={rows.fresh_noise(): t.alpha * r_u})
            rows.mark()
        return rows.tableau()
