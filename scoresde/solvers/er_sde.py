"""ER-SDE solvers: a reverse SDE whose noise is chosen by a function, integrated exactly.

For y = z/alpha and r = sigma/alpha every positive increasing phi with phi(x)/x increasing gives a reverse SDE with the right marginals;
its exact solution from s down to t is (Cui et al. 2023, arXiv 2309.06169, prop. 2)

    y_t = phi_t/phi_s y_s + phi_t int_{r_t}^{r_s} phi'/phi^2 D dr + sqrt(r_t^2 - r_s^2 phi_t^2/phi_s^2) xi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.quadrature import gauss_legendre, lagrange
from ..sde.base import SDE
from ..tableau.builder import TableauBuilder
from ..tableau.tableau import Tableau
from .base import Solver, zero_snr_transition


def log_phi(r: Tensor) -> Tensor:
    """log of phi(r) = r (e^{r^0.3} + 10), their ER-SDE 5: nearly an ODE at small noise."""
    return r.log() + torch.logaddexp(r**0.3, torch.full_like(r, math.log(10.0)))


def slope_of_log_phi(r: Tensor) -> Tensor:
    """d log phi / d log r = 1 + 0.3 r^0.3 e^{r^0.3}/(e^{r^0.3} + 10)."""
    return 1 + 0.3 * r**0.3 * torch.sigmoid(r**0.3 - math.log(10.0))


@dataclass(frozen=True)
class ERSDE(Solver):
    """ER-SDE-Solver of order 1, 2 or 3: D is replaced by the polynomial in r through its last K values (arXiv 2309.06169, algorithms 1 to 3).

    The weights are integrals over v = phi_t/phi, of l_j dv from phi_t/phi_s to 1, by 48 Gauss-Legendre points in lambda.
    """

    order: int = 3

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}")

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        steps, to_zero = len(table.grid) - 1, table.grid[-1].sigma == 0
        unit, weights = gauss_legendre(48)
        history: list[tuple[int, float]] = []  # (state, lambda), newest first
        for n, s, t in table.steps():
            j = table.last
            if s.alpha == 0:
                zero_snr_transition(table, t)
                table.end_step()
                continue
            history.insert(0, (j, s.half_log_snr))
            used = history[: min(self.order, steps - n) if to_zero else self.order]
            h = t.half_log_snr - s.half_log_snr
            r = torch.exp(-(s.half_log_snr + h * unit))
            at_s, at_t = (float(log_phi(torch.tensor(p.sigma / p.alpha, dtype=torch.float64, device="cpu"))) for p in (s, t))
            # dv = v (d log phi / d log r) dlambda
            density = h * slope_of_log_phi(r) * torch.exp(at_t - log_phi(r)) * weights
            nodes = torch.tensor([math.exp(-lam_j) for _, lam_j in used], dtype=torch.float64, device="cpu")
            integrals = (lagrange(nodes, r) * density).sum(1)
            kept = math.exp(at_t - at_s)
            spread = (t.sigma / t.alpha) ** 2 * -math.expm1(2 * (h + at_t - at_s))
            table.append(
                t,
                z={j: t.alpha / s.alpha * kept},
                data={i: t.alpha * c for (i, _), c in zip(used, integrals.tolist(), strict=True)},
                xi={table.fresh_noise(): t.alpha * math.sqrt(spread)},
            )
            table.end_step()
        return table.tableau()
