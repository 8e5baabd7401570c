"""Exponential Adams methods in the half log-SNR.

In lambda the probability-flow ODE has the exact solution (Lu et al. 2022, arXiv 2211.01095, prop. 4.1), from s down to t with
h = lambda_t - lambda_s > 0,

    z_t = sigma_t/sigma_s z_s + alpha_t int_0^h e^{u-h} D(lambda_s + u) du.

Replacing D by the polynomial through its last K values, at the offsets d_j = lambda_j - lambda_s <= 0, and integrating exactly gives

    z_t = sigma_t/sigma_s z_s + alpha_t sum_j c_j D_j,       sum_j c_j d_j^p = M_p,   p = 0..K-1,
    M_p = int_0^h e^{u-h} u^p du:      M_0 = 1 - e^{-h},   M_p = h^p - p M_{p-1}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sde import SDE
from .base import Solver
from .tableau import Rows, Tableau


def exponential_moments(h: float, order: int) -> list[float]:
    """M_p / h^p for p < order.

    The recurrence cancels for small h (float64 has no digit of M_2 left at h = 1e-5), so there the series
    M_p = h^{p+1} sum_k (-h)^k p!/(p+k+1)! is used.
    """
    if h < 0.5:
        # term_k = h (-h)^k p!/(p+k+1)!; 18 terms leave 0.5^18/18! < 1e-21.
        moments = []
        for p in range(order):
            term, total = h / (p + 1), 0.0
            for k in range(18):
                total += term
                term *= -h / (p + k + 2)
            moments.append(total)
        return moments
    moments = [-math.expm1(-h)]
    for p in range(1, order):
        moments.append(1 - p / h * moments[-1])
    return moments


def adams_weights(h: float, offsets: Sequence[float]) -> list[float]:
    """The weights c_j that integrate the interpolant through the offsets d_j exactly; K = len(offsets) is the order."""
    if len(offsets) == 1:
        return [-math.expm1(-h)]
    scaled = torch.tensor(offsets, dtype=torch.float64) / h
    powers = torch.stack([scaled**p for p in range(len(offsets))])
    moments = torch.tensor(exponential_moments(h, len(offsets)), dtype=torch.float64)
    weights: list[float] = torch.linalg.solve(powers, moments).tolist()
    return weights


@dataclass(frozen=True)
class DPMSolverPP(Solver):
    """DPM-Solver++ multistep of order 1, 2 ("2M") or 3 ("3M") with exact coefficients (Lu et al. 2022, arXiv 2211.01095).

    The first steps have the orders that their history allows. When the grid ends at sigma = 0 the last steps have order ..., 2, 1: the
    interval is infinite in lambda there, and falling orders keep few steps stable. The order-3 update is the true third-order one; the
    published code halves its quadratic term.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        steps = len(rows.points) - 1
        to_zero = rows.points[-1].sigma == 0
        history: list[tuple[int, float]] = []  # (state, lambda) of the data predictions so far, newest first
        for n, s, t in rows.steps():
            j = rows.state
            history.insert(0, (j, s.half_log_snr))
            order = min(self.order, steps - n) if to_zero else self.order
            # A value at lambda = -inf (zero signal) has no weight in any interpolant.
            used = [(i, lam) for i, lam in history[:order] if i == j or math.isfinite(lam)]
            h = t.half_log_snr - s.half_log_snr
            weights = adams_weights(h, [0.0, *(lam - s.half_log_snr for _, lam in used[1:])])
            rows.add(
                t,
                z={j: t.sigma / s.sigma},
                data={i: t.alpha * c for (i, _), c in zip(used, weights, strict=True)},
            )
            rows.mark()
        return rows.tableau()
