"""Single-step exponential Runge-Kutta methods in the half log-SNR: DPM-Solver, DPM-Solver++ 2S and SEEDS.

From s down to t with h = lambda_t - lambda_s the stages lie at lambda_s + r h. The functions that integrate a constant and a linear part are

    p_1(x) = e^x - 1,      p_2(x) = (e^x - 1 - x)/x.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..sde import SDE
from .base import Solver, from_no_signal, redrawn_from_no_signal
from .tableau import Point, Rows, Tableau


def p_1(x: float) -> float:
    """e^x - 1."""
    return math.expm1(x)


def p_2(x: float) -> float:
    """(e^x - 1 - x)/x, by its series where it cancels."""
    if abs(x) < 0.5:
        # sum_{k >= 1} x^k/(k+1)!; 16 terms leave 0.5^17/18! < 1e-20.
        return sum(x**k / math.factorial(k + 1) for k in range(1, 17))
    return p_1(x) / x - 1


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
    def calls_per_step(self) -> int:
        return self.order

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        for _, s, t in rows.steps():
            self.step(rows, s, t)
            rows.mark()
        return rows.tableau()

    def step(self, rows: Rows, s: Point, t: Point) -> None:
        """Append the stages of a step from the newest state, at s, and last its result at t."""
        (self._from_no_signal if s.alpha == 0 else self._step)(rows, s, t)

    def _from_no_signal(self, rows: Rows, s: Point, t: Point) -> None:
        from_no_signal(rows, t)

    @abstractmethod
    def _step(self, rows: Rows, s: Point, t: Point) -> None:
        """`step` from a point with signal."""


@dataclass(frozen=True)
class DPMSolver(SingleStep):
    """DPM-Solver of order 1, 2 (stage at r = 1/2) or 3 (stages at 1/3 and 2/3) (Lu et al. 2022, arXiv 2206.00927, algorithms 1 and 2).

    With noise predictions e_0, e_1, e_2 at s and at the stages:

        order 2:  z_t = alpha_t/alpha_s z_s - sigma_t p_1(h) [ e_0 + (e_1 - e_0)/(2 r_1) ]
        order 3:  z_t = alpha_t/alpha_s z_s - sigma_t p_1(h) e_0 - sigma_t/r_2 p_2(h) (e_2 - e_0),
                  u_2 = alpha_2/alpha_s z_s - sigma_2 p_1(r_2 h) e_0 - sigma_2 r_2/r_1 p_2(r_2 h) (e_1 - e_0).

    Calls the network `order` times a step.
    """

    def _step(self, rows: Rows, s: Point, t: Point) -> None:
        j, h = rows.state, t.half_log_snr - s.half_log_snr

        def first_order(at: Point, r: float) -> int:
            return rows.add(at, z={j: at.alpha / s.alpha}, eps={j: -at.sigma * p_1(r * h)})

        if self.order == 1:
            first_order(t, 1.0)
        elif self.order == 2:
            r1 = 1 / 2
            u1 = first_order(rows.point(s.half_log_snr + r1 * h), r1)
            w = -t.sigma * p_1(h)
            rows.add(t, z={j: t.alpha / s.alpha}, eps={j: w * (1 - 1 / (2 * r1)), u1: w / (2 * r1)})
        else:
            r1, r2 = 1 / 3, 2 / 3
            u1 = first_order(rows.point(s.half_log_snr + r1 * h), r1)
            at = rows.point(s.half_log_snr + r2 * h)
            w = -at.sigma * r2 / r1 * p_2(r2 * h)
            u2 = rows.add(at, z={j: at.alpha / s.alpha}, eps={j: -at.sigma * p_1(r2 * h) - w, u1: w})
            w = -t.sigma / r2 * p_2(h)
            rows.add(t, z={j: t.alpha / s.alpha}, eps={j: -t.sigma * p_1(h) - w, u2: w})


@dataclass(frozen=True)
class DPMSolverPP2S(Solver):
    """DPM-Solver++ 2S: the order-2 single step on data predictions, stage at r = 1/2 (Lu et al. 2022, arXiv 2211.01095, algorithm 1).

    z_t = sigma_t/sigma_s z_s - alpha_t p_1(-h) [ D_0 + (D_1 - D_0)/(2 r) ]. Calls the network twice a step.
    """

    @property
    def calls_per_step(self) -> int:
        return 2

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return SEEDS(order=2, tau=0.0).tableau(sde, grid)

    def step(self, rows: Rows, s: Point, t: Point) -> None:
        """Append the stages of a step from the newest state, at s, and last its result at t."""
        SEEDS(order=2, tau=0.0).step(rows, s, t)


@dataclass(frozen=True)
class SEEDS(SingleStep):
    """SEEDS of order 1, 2 (stage at 1/2) or 3 (stages at 1/3, 2/3): exponential Runge-Kutta for the reverse SDE (arXiv 2305.14267).

    With H = (1 + tau^2) h and the noise w_r of variance 1 - e^{-2 tau^2 r h}, one Ornstein-Uhlenbeck path through all stages:

        u_r = sigma_r/sigma_s e^{-tau^2 r h} z_s + alpha_r [integral of the data] + sigma_r w_r,
        order 2:  the integral to t is -p_1(-H) [ D_0 + (D_1 - D_0)/(2 r) ],
        order 3:  -(b_1 D_0 + b_3 D_2) with b_3 = p_2(-H)/r_2, b_1 = p_1(-H) - b_3; to r_2 -(a_1 D_0 + a_2 D_1) with
                  a_2 = (r_2/r_1) p_2(-r_2 H), a_1 = p_1(-r_2 H) - a_2.

    tau = 1 is the reverse SDE. Calls the network `order` times a step.
    """

    tau: float = 1.0

    def _from_no_signal(self, rows: Rows, s: Point, t: Point) -> None:
        (redrawn_from_no_signal if self.tau else from_no_signal)(rows, t)

    def _step(self, rows: Rows, s: Point, t: Point) -> None:
        j, h, decay = rows.state, t.half_log_snr - s.half_log_snr, self.tau**2
        H = (1 + decay) * h
        path: dict[int, float] = {}  # w_r as a combination of fresh noises
        reached = 0.0

        def stage(r: float, data: dict[int, float]) -> int:
            """Append u_r with the given weights of D and the noise path continued to r."""
            nonlocal path, reached
            at = t if r == 1 else rows.point(s.half_log_snr + r * h)
            if self.tau:
                path = {i: c * math.exp(-decay * (r - reached) * h) for i, c in path.items()}
                path[rows.fresh_noise()] = math.sqrt(-math.expm1(-2 * decay * (r - reached) * h))
                reached = r
            return rows.add(
                at,
                z={j: at.sigma / s.sigma * math.exp(-decay * r * h)},
                data={i: -at.alpha * c for i, c in data.items()},
                noise={i: at.sigma * c for i, c in path.items()},
            )

        if self.order == 1:
            stage(1.0, {j: p_1(-H)})
        elif self.order == 2:
            r = 1 / 2
            u = stage(r, {j: p_1(-r * H)})
            stage(1.0, {j: p_1(-H) * (1 - 1 / (2 * r)), u: p_1(-H) / (2 * r)})
        else:
            r1, r2 = 1 / 3, 2 / 3
            u1 = stage(r1, {j: p_1(-r1 * H)})
            a2 = r2 / r1 * p_2(-r2 * H)
            u2 = stage(r2, {j: p_1(-r2 * H) - a2, u1: a2})
            b3 = p_2(-H) / r2
            stage(1.0, {j: p_1(-H) - b3, u2: b3})
