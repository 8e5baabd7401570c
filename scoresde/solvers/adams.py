"""Adams-Bashforth methods on noise predictions: DEIS in two clocks, iPNDM and PLMS.

With r = sigma/alpha and y = z/alpha the probability-flow ODE is dy = eps dr, so that from s down to t

    z_t = alpha_t/alpha_s z_s + alpha_t int_{r_s}^{r_t} eps dr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ..sde import SDE, VPSDE
from .base import Solver, from_no_signal
from .tableau import Point, Rows, Tableau


@cache
def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the rule on [0, 1], float64."""
    # The eigenvalue method of Golub and Welsch (1969), for Legendre polynomials.
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """The Lagrange polynomials of `nodes` `(K,)` at the points `at` `(n,)`, `(K, n)`."""
    values = []
    for j in range(len(nodes)):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        values.append(((at - others[:, None]) / (nodes[j] - others[:, None])).prod(0))
    return torch.stack(values)


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
    default_grid = "quadratic"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise ValueError(f"order must lie in 1..4, got {self.order}")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be 't' or 'r', got {self.clock!r}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows, clock = Rows(sde, grid), CLOCKS[self.clock]
        unit, weights = gauss_legendre(48)
        history: list[tuple[int, float]] = []  # (state, lambda), newest first
        for _, s, t in rows.steps():
            j = rows.state
            if s.alpha == 0:
                from_no_signal(rows, t)
                rows.mark()
                continue
            history.insert(0, (j, s.half_log_snr))
            used = history[: self.order]
            h = t.half_log_snr - s.half_log_snr
            lam = s.half_log_snr + h * unit
            basis = lagrange(clock(torch.tensor([at for _, at in used], dtype=torch.float64)), clock(lam))
            integrals = (basis * (-h * torch.exp(-lam) * weights)).sum(1)  # dr = -e^{-lambda} dlambda
            eps = {i: t.alpha * c for (i, _), c in zip(used, integrals.tolist(), strict=True)}
            rows.add(t, z={j: t.alpha / s.alpha}, eps=eps)
            rows.mark()
        return rows.tableau()


# Adams-Bashforth weights of a uniform grid, newest value first.
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def transfer(rows: Rows, base: int, s: Point, t: Point, eps: dict[int, float]) -> int:
    """Append DDIM's step from state `base` with a blend of noise predictions: y_t = y_s + (r_t - r_s) sum_j w_j eps_j."""
    step = t.sigma - t.alpha * s.sigma / s.alpha
    return rows.add(t, z={base: t.alpha / s.alpha}, eps={j: step * w for j, w in eps.items()})


def blend(history: Sequence[int], order: int) -> dict[int, float]:
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
    default_grid = "trailing"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise ValueError(f"order must lie in 1..4, got {self.order}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        history: list[int] = []
        for _, s, t in rows.steps():
            history.insert(0, rows.state)
            if s.alpha == 0:
                from_no_signal(rows, t)
            else:
                transfer(rows, rows.state, s, t, blend(history, self.order))
            rows.mark()
        return rows.tableau()


@dataclass(frozen=True)
class PLMS(Solver):
    """PLMS: iPNDM of order 4 whose first step averages the noise at both its ends (Liu et al. 2022, arXiv 2202.09778; Rombach et al. 2022).

    The first step costs two network calls.
    """

    default_grid = "uniform"

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        history: list[int] = []
        for n, s, t in rows.steps():
            j = rows.state
            history.insert(0, j)
            if s.alpha == 0:
                from_no_signal(rows, t)
            elif n == 0:
                p = transfer(rows, j, s, t, {j: 1.0})
                transfer(rows, j, s, t, {j: 0.5, p: 0.5})
            else:
                transfer(rows, j, s, t, blend(history, 4))
            rows.mark()
        return rows.tableau()
