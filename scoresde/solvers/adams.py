"""Adams-Bashforth methods on noise predictions: DEIS in two clocks, iPNDM and PLMS.

With r = sigma/alpha and y = z/alpha the probability-flow ODE is dy = eps dr, so that from s down to t

    z_t = alpha_t/alpha_s z_s + alpha_t int_{r_s}^{r_t} eps dr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..numerics.quadrature import ADAMS_BASHFORTH, gauss_legendre, lagrange
from ..sde.base import SDE
from ..sde.vp import VPSDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau
from .base import Solver, zero_snr_step


def vp_time(half_log_snr: Tensor) -> Tensor:
    """The time of the classical VP SDE with this lambda."""
    return VPSDE().time(half_log_snr)


CLOCKS: dict[str, Callable[[Tensor], Tensor]] = {"t": vp_time, "r": lambda lam: torch.exp(-lam)}


@dataclass(frozen=True)
class DEIS(Solver):
    """DEIS-AB: eps is replaced by the polynomial in a clock through its last K values and integrated (Zhang and Chen 2023, arXiv 2204.13902).

    alpha_t int eps dr = alpha_t sum_j C_j eps_j,   C_j = int_{r_s}^{r_t} l_j(clock) dr,

    by 48 Gauss-Legendre points in lambda.

    Args:
        order: number K of values; the first steps have fewer.
        clock: "t" (tAB), the time of the classical VP SDE with the same signal-to-noise ratio, or "r" = sigma/alpha (rhoAB).
    """

    order: int = 3
    clock: Literal["t", "r"] = "t"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise ValueError(f"order must lie in 1..4, got {self.order}")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be 't' or 'r', got {self.clock!r}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table, clock = TableauBuilder(sde, grid), CLOCKS[self.clock]
        unit, weights = gauss_legendre(48)
        history: list[tuple[int, float]] = []  # (state, lambda), newest first
        for _, s, t in table.steps():
            j = table.last
            if s.alpha == 0:
                zero_snr_step(table, t)
                table.end_step()
                continue
            history.insert(0, (j, s.half_log_snr))
            used = history[: self.order]
            h = t.half_log_snr - s.half_log_snr
            lam = s.half_log_snr + h * unit
            basis = lagrange(clock(torch.tensor([at for _, at in used], dtype=torch.float64, device="cpu")), clock(lam))
            integrals = (basis * (-h * torch.exp(-lam) * weights)).sum(1)  # dr = -e^{-lambda} dlambda
            eps = {i: t.alpha * c for (i, _), c in zip(used, integrals.tolist(), strict=True)}
            table.append(t, z={j: t.alpha / s.alpha}, noise_prediction=eps)
            table.end_step()
        return table.tableau()


def ddim_step(table: TableauBuilder, base: int, s: GridPoint, t: GridPoint, eps: dict[int, float]) -> int:
    """Append DDIM's step from state `base` with a blend of noise predictions: y_t = y_s + (r_t - r_s) sum_j w_j eps_j."""
    step = t.sigma - t.alpha * s.sigma / s.alpha
    return table.append(t, z={base: t.alpha / s.alpha}, noise_prediction={j: step * w for j, w in eps.items()})


def adams_bashforth(history: Sequence[int], order: int) -> dict[int, float]:
    """The Adams-Bashforth weights of the newest noise predictions."""
    used = history[:order]
    return dict(zip(used, ADAMS_BASHFORTH[len(used) - 1], strict=True))


@dataclass(frozen=True)
class IPNDM(Solver):
    """iPNDM: DDIM's step with the noise extrapolated by the Adams-Bashforth weights of a uniform grid (Zhang and Chen 2023, arXiv 2204.13902).

    The weights ignore the actual spacing on purpose: the method is of first order on grids that are not uniform in r = sigma/alpha, and better
    at few steps than the consistent one.
    """

    order: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise ValueError(f"order must lie in 1..4, got {self.order}")

    @property
    def convergence_order(self) -> int:
        # The weights are those of a uniform grid, which is second order on a smoothly varying one.
        return min(self.order, 2)

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        history: list[int] = []
        for _, s, t in table.steps():
            history.insert(0, table.last)
            if s.alpha == 0:
                zero_snr_step(table, t)
            else:
                ddim_step(table, table.last, s, t, adams_bashforth(history, self.order))
            table.end_step()
        return table.tableau()


@dataclass(frozen=True)
class PLMS(Solver):
    """PLMS: iPNDM of order 4 whose first step averages the noise at both its ends (Liu et al. 2022, arXiv 2202.09778; Rombach et al. 2022).

    The first step costs two network calls.
    """

    @property
    def order(self) -> int:
        return 4

    @property
    def convergence_order(self) -> int:
        return 2

    @property
    def single_call(self) -> bool:
        return False

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        history: list[int] = []
        for n, s, t in table.steps():
            j = table.last
            history.insert(0, j)
            if s.alpha == 0:
                zero_snr_step(table, t)
            elif n == 0:
                p = ddim_step(table, j, s, t, {j: 1.0})
                ddim_step(table, j, s, t, {j: 0.5, p: 0.5})
            else:
                ddim_step(table, j, s, t, adams_bashforth(history, 4))
            table.end_step()
        return table.tableau()
