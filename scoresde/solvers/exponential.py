"""Exponential Adams methods in the half log-SNR: one engine for DPM-Solver++, its SDE version, UniPC and SA-Solver.

The family of reverse SDEs with noise tau (tau = 0 the probability-flow ODE, tau = 1 the reverse SDE) has the exact solution (Xue et al. 2023,
arXiv 2309.05019, prop. 4.2; tau = 0: Lu et al. 2022, arXiv 2211.01095, prop. 4.1), from s down to t with h = lambda_t - lambda_s > 0 and
A = 1 + tau^2,

    z_t = sigma_t/sigma_s e^{-tau^2 h} z_s + alpha_t A int_0^h e^{A(u-h)} D(lambda_s + u) du + sigma_t sqrt(1 - e^{-2 tau^2 h}) xi.

Replacing D by the polynomial through K of its values, at the offsets d_j = lambda_j - lambda_s, and integrating exactly gives

    alpha_t sum_j c_j D_j,      sum_j c_j d_j^p = M_p,   p = 0..K-1,
    M_p = A int_0^h e^{A(u-h)} u^p du:      M_0 = 1 - e^{-A h},   M_p = h^p - p/A M_{p-1}.

A predictor uses values at d_j <= 0; a corrector adds the value at d = h that the predicted state gives. For noise predictions at tau = 0,

    z_t = alpha_t/alpha_s z_s + sigma_t sum_j c_j eps_j      with A = -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..numerics.quadrature import adams_weights
from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau
from .base import Solver, zero_snr_step

Noise = float | Callable[[GridPoint], float]


@dataclass(frozen=True)
class WithinSpan:
    """The noise `tau` where sigma/alpha lies in [low, high], and none elsewhere."""

    tau: float
    low: float
    high: float

    def __call__(self, s: GridPoint) -> float:
        return self.tau if self.low <= math.exp(-s.half_log_snr) <= self.high else 0.0


@dataclass(frozen=True)
class ExponentialAdams(Solver):
    """The engine: an exponential Adams predictor, with a corrector that costs no network call if asked for.

    With two values and tau = 0 (DPM-Solver++ 2M), h = lambda_t - lambda_s and the value D_{-1} of the step before, of length h_{-1}, it is

        z_t = sigma_t/sigma_s z_s + alpha_t (1 - e^{-h}) D_s + alpha_t (h - 1 + e^{-h})/h_{-1} (D_s - D_{-1}).

    The first steps have the orders that their history allows. When the grid ends at sigma = 0 the last steps have order ..., 2, 1: the
    interval is infinite in lambda there, and falling orders keep few steps stable.

    Args:
        predictor: number K of values of D that the predictor uses: its order for tau = 0.
        corrector: number of values that the corrector uses, the predicted one among them; 0 for none.
        tau: amount of noise, a number or a function of the point that a step starts from.
        form: interpolate "data" or "noise" predictions; "noise" is for tau = 0.
        compat: see `adams_weights`.
    """

    predictor: int = 2
    corrector: int = 0
    tau: Noise = 0.0
    form: Literal["data", "noise"] = "data"
    compat: Literal["midpoint", "dpm++3m"] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.predictor <= 4 or self.corrector not in (0, 2, 3, 4, 5):
            raise ValueError(f"need 1 to 4 values to predict and 0 or 2 to 5 to correct, got {self.predictor} and {self.corrector}")
        if self.form == "noise" and self.tau != 0:
            raise ValueError("noise predictions are integrated without noise: tau must be 0")

    @property
    def order(self) -> int:
        return max(self.predictor, self.corrector)

    @property
    def convergence_order(self) -> int:
        # Replacing noise along the step by one draw limits the weak order to 2.
        return min(self.order, 2) if self.stochastic else self.order

    @property
    def stochastic(self) -> bool:
        return callable(self.tau) or self.tau > 0

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        steps, to_zero = len(table.grid) - 1, table.grid[-1].sigma == 0
        history: list[tuple[int, float]] = []  # (state, lambda) of the network calls so far, newest first
        for n, s, t in table.steps():
            newest = table.step_evals[-1]
            history = [(newest, s.half_log_snr), *history[: max(self.predictor, self.corrector)]]
            if s.alpha == 0 and self.form == "noise":
                zero_snr_step(table, t)
                table.end_step()
                continue
            # A value at lambda = -inf (zero signal) has no weight in any interpolant.
            older = [(j, lam - s.half_log_snr) for j, lam in history[1:] if math.isfinite(lam)]
            nodes = [(newest, 0.0), *older]
            left = steps - n if to_zero else steps
            tau = self.tau(s) if callable(self.tau) else self.tau
            step = _Step(table, table.last, s, t, tau, table.fresh_noise() if tau else None, self.form, self.compat)
            step.append(nodes[: min(self.predictor, left)])
            # Before the step to sigma = 0 a correction would be lost: that step needs the network call alone.
            if self.corrector and s.alpha > 0 and not (to_zero and left <= 2):
                predicted = table.last
                step.append([*nodes[: min(self.corrector - 1, left)], (predicted, step.h)])
                table.end_step(evaluated=predicted)
            else:
                table.end_step()
        return table.tableau()


@dataclass(frozen=True)
class _Step:
    """What a predictor and its corrector share: the step from state `base` at s to t, with noise tau and the same draw xi."""

    table: TableauBuilder
    base: int
    s: GridPoint
    t: GridPoint
    tau: float
    xi: int | None
    form: str
    compat: str | None

    @property
    def h(self) -> float:
        """lambda_t - lambda_s."""
        return self.t.half_log_snr - self.s.half_log_snr

    def append(self, nodes: Sequence[tuple[int, float]]) -> None:
        """Append the row that integrates the interpolant through `nodes`, (state, offset in lambda) each."""
        s, t, tau, h = self.s, self.t, self.tau, self.h
        states, offsets = zip(*nodes, strict=True)
        if self.form == "noise":
            c = adams_weights(h, offsets, -1.0, self.compat)
            eps = {j: t.sigma * c_j for j, c_j in zip(states, c, strict=True)}
            self.table.append(t, z={self.base: t.alpha / s.alpha}, noise_prediction=eps)
            return
        c = adams_weights(h, offsets, 1 + tau**2, self.compat)
        self.table.append(
            t,
            z={self.base: t.sigma / s.sigma * math.exp(-(tau**2) * h) if tau else t.sigma / s.sigma},
            data={j: t.alpha * c_j for j, c_j in zip(states, c, strict=True)},
            xi={self.xi: t.sigma * math.sqrt(-math.expm1(-2 * tau**2 * h))} if self.xi is not None else None,
        )


def DPMSolverPP(order: int = 2, compat: Literal["midpoint", "dpm++3m"] | None = None) -> ExponentialAdams:
    """DPM-Solver++ multistep of order 1, 2 ("2M") or 3 ("3M"), with exact coefficients (Lu et al. 2022, arXiv 2211.01095).

    `compat` gives the coefficients of the published code: "midpoint" its 2M, "dpm++3m" its 3M, whose quadratic term is half the exact one,
    which leaves it of second order.

    Raises:
        ValueError: another order.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    return ExponentialAdams(predictor=order, compat=compat)


def SDEDPMSolverPP(order: int = 2, tau: float = 1.0, compat: Literal["midpoint"] | None = None) -> ExponentialAdams:
    """SDE-DPM-Solver++ multistep (Lu et al. 2022, arXiv 2211.01095, eq. 18 for 2M), of the reverse SDE for tau = 1.

    Raises:
        ValueError: an order other than 1, 2, 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    return ExponentialAdams(predictor=order, tau=tau, compat=compat)


def UniPC(order: int = 3, compat: Literal["midpoint"] | None = None) -> ExponentialAdams:
    """UniPC with exact coefficients: predictor of the given order, corrector of one more (Zhao et al. 2023, arXiv 2302.04867).

    With all equations solved exactly B(h) cancels; `compat="midpoint"` is the published code with B_2, which replaces the two-value cases.

    Raises:
        ValueError: an order other than 1, 2, 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    return ExponentialAdams(predictor=order, corrector=order + 1, compat=compat)


def SASolver(predictor: int = 3, corrector: int = 4, tau: float = 1.0, span: tuple[float, float] = (0.05, 1.0)) -> ExponentialAdams:
    """SA-Solver: predictor and corrector of the reverse SDE, noise `tau` only where sigma/alpha lies in `span` (Xue et al. 2023, 2309.05019).

    The corrector reuses the noise and the tau of its predictor.
    """
    return ExponentialAdams(predictor=predictor, corrector=corrector, tau=WithinSpan(tau, *span))
