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
from typing import Literal, NamedTuple

from torch import Tensor

from ..sde import SDE
from .base import Solver, from_no_signal, interpolation_weights
from .tableau import Point, Rows, Tableau


def exponential_moments(h: float, order: int, rate: float = 1.0) -> list[float]:
    """M_p / h^p for p < order, with A = rate.

    The recurrence cancels for small A h (float64 has no digit of M_2 left at 1e-5), so there the highest moment is the series
    M_p = A h^{p+1} sum_k (-A h)^k p!/(p+k+1)! and the others follow downwards, where errors shrink by A h/p at a time.
    """
    x = rate * h
    if abs(x) < 0.5:
        # term_k = x (-x)^k p!/(p+k+1)!, until it no longer changes the sum.
        term, total, k = x / order, 0.0, order
        while total + term != total:
            total += term
            k += 1
            term *= -x / k
        moments = [total]
        for p in range(order - 1, 0, -1):
            moments.append(x * (1 - moments[-1]) / p)
        return moments[::-1]
    moments = [-math.expm1(-x)]
    for p in range(1, order):
        moments.append(1 - p / x * moments[-1])
    return moments


def adams_weights(h: float, offsets: Sequence[float], rate: float = 1.0, compat: str | None = None) -> list[float]:
    """The weights c_j that integrate the interpolant through the offsets d_j exactly; K = len(offsets) is the order.

    `compat` replaces a moment by what published code has in its place: "midpoint" M_1 by h M_0/2 where K = 2 (DPM-Solver++ 2M and UniPC's
    B_2), "dpm++3m" M_2 by M_2/2 where K = 3.
    """
    moments = exponential_moments(h, len(offsets), rate)
    if compat is not None and len(offsets) == 2:
        moments[1] = 0.5 * moments[0]
    if compat == "dpm++3m" and len(offsets) == 3:
        moments[2] *= 0.5
    return interpolation_weights([d / h for d in offsets], moments)


Noise = float | Callable[[Point], float]


@dataclass(frozen=True)
class ExponentialAdams(Solver):
    """The engine: an exponential Adams predictor, with a corrector that costs no network call if asked for.

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

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        steps, to_zero = len(rows.points) - 1, rows.points[-1].sigma == 0
        history: list[tuple[int, float]] = []  # (state, lambda) of the network calls so far, newest first
        for n, s, t in rows.steps():
            look = rows.looks[-1]
            history = [(look, s.half_log_snr), *history[: max(self.predictor, self.corrector)]]
            if s.alpha == 0 and self.form == "noise":
                from_no_signal(rows, t)
                rows.mark()
                continue
            # A value at lambda = -inf (zero signal) has no weight in any interpolant.
            older = [(j, lam - s.half_log_snr) for j, lam in history[1:] if math.isfinite(lam)]
            nodes = [(look, 0.0), *older]
            left = steps - n if to_zero else steps
            tau = self.tau(s) if callable(self.tau) else self.tau
            step = _Step(rows, rows.state, s, t, tau, rows.fresh_noise() if tau else None)
            step.add(nodes[: min(self.predictor, left)], self.form, self.compat)
            # Before the step to sigma = 0 a correction would be lost: that step needs the network call alone.
            if self.corrector and s.alpha > 0 and not (to_zero and left <= 2):
                predicted = rows.state
                step.add([*nodes[: min(self.corrector - 1, left)], (predicted, step.h)], self.form, self.compat)
                rows.mark(look=predicted)
            else:
                rows.mark()
        return rows.tableau()


class _Step(NamedTuple):
    """What a predictor and its corrector share."""

    rows: Rows
    base: int
    s: Point
    t: Point
    tau: float
    xi: int | None

    @property
    def h(self) -> float:
        return self.t.half_log_snr - self.s.half_log_snr

    def add(self, nodes: Sequence[tuple[int, float]], form: str, compat: str | None) -> None:
        """Append the row that integrates the interpolant through `nodes`, (state, offset in lambda) each."""
        rows, base, s, t, tau, xi = self
        states, offsets = zip(*nodes, strict=True)
        if form == "noise":
            weights = adams_weights(self.h, offsets, -1.0, compat)
            eps = {j: t.sigma * c for j, c in zip(states, weights, strict=True)}
            rows.add(t, z={base: t.alpha / s.alpha}, eps=eps)
            return
        weights = adams_weights(self.h, offsets, 1 + tau**2, compat)
        rows.add(
            t,
            z={base: t.sigma / s.sigma * math.exp(-(tau**2) * self.h) if tau else t.sigma / s.sigma},
            data={j: t.alpha * c for j, c in zip(states, weights, strict=True)},
            noise={xi: t.sigma * math.sqrt(-math.expm1(-2 * tau**2 * self.h))} if xi is not None else None,
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
    low, high = span

    def noise(s: Point) -> float:
        return tau if low <= math.exp(-s.half_log_snr) <= high else 0.0

    return ExponentialAdams(predictor=predictor, corrector=corrector, tau=noise)
