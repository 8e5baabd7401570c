"""Single-step exponential Runge-Kutta methods in the half log-SNR: DPM-Solver, DPM-Solver++ 2S and SEEDS.

From s down to t with h = lambda_t - lambda_s the stages lie at lambda_s + r h. The functions that integrate a constant and a linear part are

    x_phi1(x) = e^x - 1,      x_phi2(x) = (e^x - 1 - x)/x.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..numerics.quadrature import x_phi1, x_phi2
from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau
from .base import Solver, zero_snr_step, zero_snr_transition


@dataclass(frozen=True)
class SingleStep(Solver):
    """Steps of `order` network calls each that use nothing from before them; a subclass fills in one.

    Raises:
        ValueError: an order other than 1, 2, 3.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}")

    @property
    def convergence_order(self) -> int:
        # One path of noise through the stages has weak order 2.
        return min(self.order, 2) if self.stochastic else self.order

    @property
    def calls_per_step(self) -> int:
        return self.order

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        for _, s, t in table.steps():
            self.step(table, s, t)
            table.end_step()
        return table.tableau()

    def step(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        """Append the stages of a step from the newest state, at s, and last its result at t."""
        (self._zero_snr if s.alpha == 0 else self._step)(table, s, t)

    def _zero_snr(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        zero_snr_step(table, t)

    @abstractmethod
    def _step(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        """`step` from a point with signal."""


@dataclass(frozen=True)
class DPMSolver(SingleStep):
    """DPM-Solver of order 1, 2 (stage at r = 1/2) or 3 (stages at 1/3 and 2/3) (Lu et al. 2022, arXiv 2206.00927, algorithms 1 and 2).

    With noise predictions e_0, e_1, e_2 at s and at the stages:

        order 2:  z_t = alpha_t/alpha_s z_s - sigma_t x_phi1(h) [ e_0 + (e_1 - e_0)/(2 r_1) ]
        order 3:  z_t = alpha_t/alpha_s z_s - sigma_t x_phi1(h) e_0 - sigma_t/r_2 x_phi2(h) (e_2 - e_0),
                  u_2 = alpha_2/alpha_s z_s - sigma_2 x_phi1(r_2 h) e_0 - sigma_2 r_2/r_1 x_phi2(r_2 h) (e_1 - e_0).

    Calls the network `order` times a step.
    """

    def _step(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        j, h = table.last, t.half_log_snr - s.half_log_snr

        def first_order(at: GridPoint, r: float) -> int:
            return table.append(at, z={j: at.alpha / s.alpha}, noise_prediction={j: -at.sigma * x_phi1(r * h)})

        if self.order == 1:
            first_order(t, 1.0)
        elif self.order == 2:
            r1 = 1 / 2
            u1 = first_order(table.point_at(s.half_log_snr + r1 * h), r1)
            w = -t.sigma * x_phi1(h)
            table.append(t, z={j: t.alpha / s.alpha}, noise_prediction={j: w * (1 - 1 / (2 * r1)), u1: w / (2 * r1)})
        else:
            r1, r2 = 1 / 3, 2 / 3
            u1 = first_order(table.point_at(s.half_log_snr + r1 * h), r1)
            at = table.point_at(s.half_log_snr + r2 * h)
            w = -at.sigma * r2 / r1 * x_phi2(r2 * h)
            u2 = table.append(at, z={j: at.alpha / s.alpha}, noise_prediction={j: -at.sigma * x_phi1(r2 * h) - w, u1: w})
            w = -t.sigma / r2 * x_phi2(h)
            table.append(t, z={j: t.alpha / s.alpha}, noise_prediction={j: -t.sigma * x_phi1(h) - w, u2: w})


@dataclass(frozen=True)
class DPMSolverPP2S(Solver):
    """DPM-Solver++ 2S: the order-2 single step on data predictions, stage at r = 1/2 (Lu et al. 2022, arXiv 2211.01095, algorithm 1).

    z_t = sigma_t/sigma_s z_s - alpha_t x_phi1(-h) [ D_0 + (D_1 - D_0)/(2 r) ]. Calls the network twice a step.
    """

    @property
    def calls_per_step(self) -> int:
        return 2

    @property
    def order(self) -> int:
        return 2

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return SEEDS(order=2, tau=0.0).tableau(sde, grid)

    def step(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        """Append the stages of a step from the newest state, at s, and last its result at t."""
        SEEDS(order=2, tau=0.0).step(table, s, t)


@dataclass(frozen=True)
class SEEDS(SingleStep):
    """SEEDS of order 1, 2 (stage at 1/2) or 3 (stages at 1/3, 2/3): exponential Runge-Kutta for the reverse SDE (arXiv 2305.14267).

    With H = (1 + tau^2) h and the noise w_r of variance 1 - e^{-2 tau^2 r h}, one Ornstein-Uhlenbeck path through all stages:

        u_r = sigma_r/sigma_s e^{-tau^2 r h} z_s + alpha_r [integral of the data] + sigma_r w_r,
        order 2:  the integral to t is -x_phi1(-H) [ D_0 + (D_1 - D_0)/(2 r) ],
        order 3:  -(b_1 D_0 + b_3 D_2) with b_3 = x_phi2(-H)/r_2, b_1 = x_phi1(-H) - b_3; to r_2 -(a_1 D_0 + a_2 D_1) with
                  a_2 = (r_2/r_1) x_phi2(-r_2 H), a_1 = x_phi1(-r_2 H) - a_2.

    tau = 1 is the reverse SDE. Calls the network `order` times a step.
    """

    tau: float = 1.0

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    def _zero_snr(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        (zero_snr_transition if self.tau else zero_snr_step)(table, t)

    def _step(self, table: TableauBuilder, s: GridPoint, t: GridPoint) -> None:
        j, h, decay = table.last, t.half_log_snr - s.half_log_snr, self.tau**2
        H = (1 + decay) * h
        path: dict[int, float] = {}  # w_r as a combination of fresh noises
        reached = 0.0

        def stage(r: float, data: dict[int, float]) -> int:
            """Append u_r with the given weights of D and the noise path continued to r."""
            nonlocal path, reached
            at = t if r == 1 else table.point_at(s.half_log_snr + r * h)
            if self.tau:
                path = {i: c * math.exp(-decay * (r - reached) * h) for i, c in path.items()}
                path[table.fresh_noise()] = math.sqrt(-math.expm1(-2 * decay * (r - reached) * h))
                reached = r
            return table.append(
                at,
                z={j: at.sigma / s.sigma * math.exp(-decay * r * h)},
                data={i: -at.alpha * c for i, c in data.items()},
                xi={i: at.sigma * c for i, c in path.items()},
            )

        if self.order == 1:
            stage(1.0, {j: x_phi1(-H)})
        elif self.order == 2:
            r = 1 / 2
            u = stage(r, {j: x_phi1(-r * H)})
            stage(1.0, {j: x_phi1(-H) * (1 - 1 / (2 * r)), u: x_phi1(-H) / (2 * r)})
        else:
            r1, r2 = 1 / 3, 2 / 3
            u1 = stage(r1, {j: x_phi1(-r1 * H)})
            a2 = r2 / r1 * x_phi2(-r2 * H)
            u2 = stage(r2, {j: x_phi1(-r2 * H) - a2, u1: a2})
            b3 = x_phi2(-H) / r2
            stage(1.0, {j: x_phi1(-H) - b3, u2: b3})
