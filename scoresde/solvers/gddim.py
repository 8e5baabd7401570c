"""Multistep methods on the matrices of a linear SDE, from one formula.

With Psi(t, s) of `sde.linear`, which carries z - A D where D is constant, the exact solution from s down to t is

    z_t = Psi(t, s) z_s + int_s^t d/du [ Psi(t, u) A_u ] D(u) du + noise of covariance Sigma_t - Psi Sigma_s Psi^T.

For D the polynomial through K of its values, at the lambdas of the clock, D = sum_j l_j(lambda) D_j, integration by parts gives the weights

    W_j = A_t l_j(t) - Psi(t, s) A_s l_j(s) - int_s^t Psi(t, u) A_u dl_j(u),

all of whose terms are finite where Sigma_t is not invertible. The integral is a Gauss-Legendre sum in lambda.

K = 1 is DDIM, z_t = A_t D + Psi (z_s - A_s D) (Zhang et al. 2022, arXiv 2206.05564, eq. 16 and 22); eta = 1 then is ancestral sampling with the
posterior of the process. More values are exponential Adams methods of DEIS type (Zhang and Chen 2023, arXiv 2204.13902).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.coefficients import Coefficient, congruent, is_zero, root, times
from ..numerics.inputs import as_number
from ..numerics.quadrature import gauss_legendre, lagrange, lagrange_slopes
from ..sde.base import SDE
from ..sde.linear import LinearSDE
from ..sde.scalar_as_linear import as_linear
from ..tableau.tableau import Row, Tableau
from .base import Solver

# Nodes of the integral over a step.
NODES = 12


class Step(NamedTuple):
    """The coefficients of one step, float64 with an axis of one time.

    Attributes:
        state: Psi(t, s).
        data: W_j of each value.
        noise: a root of Sigma_t - Psi Sigma_s Psi^T; None without noise.
    """

    state: Tensor
    data: tuple[Tensor, ...]
    noise: Tensor | None


def step(sde: LinearSDE, s: float, t: float, nodes: Sequence[float], eta: float = 0.0) -> Step:
    """The step from s down to t with the values of D at lambda = `nodes`, that at s among them."""
    ends = torch.tensor([s, t], dtype=torch.float64, device="cpu")
    start, end = ends[:1], ends[1:]
    if len(nodes) == 1:
        psi = sde.backward(start, end, eta)
        weights = [sde.signal(end) - times(psi, sde.signal(start))]
    else:
        unit, quadrature = gauss_legendre(NODES)
        lam_s, lam_t = sde.half_log_snr(ends).tolist()
        lam = lam_s + (lam_t - lam_s) * unit
        u = sde.time(lam)
        knots = torch.cat([start, u, end])
        parts = sde.backward(knots[:-1], knots[1:], eta)
        # Psi(t, u) from the last part to the first.
        carried = [parts[-1:]]
        for k in range(len(parts) - 2, -1, -1):
            carried.append(times(carried[-1], parts[k : k + 1]))
        psi, inside = carried[-1], torch.cat(carried[:-1][::-1])
        along = times(inside, sde.signal(u))
        at = torch.tensor(nodes, dtype=torch.float64, device="cpu")
        values, slopes = lagrange(at, torch.tensor([lam_s, lam_t], dtype=torch.float64, device="cpu")), lagrange_slopes(at, lam)
        a_s, a_t = times(psi, sde.signal(start)), sde.signal(end)
        weights = []
        for (l_s, l_t), slope in zip(values.tolist(), slopes, strict=True):
            shares = (lam_t - lam_s) * quadrature * slope
            integral = (along * shares.reshape(-1, *(1,) * (along.ndim - 1))).sum(0, keepdim=True)
            weights.append(a_t * l_t - a_s * l_s - integral)
    noise = root(sde.covariance(end) - congruent(psi, sde.covariance(start))) if eta else None
    return Step(psi, tuple(weights), noise)


@dataclass(frozen=True)
class GDDIM(Solver):
    """DDIM and Adams methods for every linear SDE, deterministic or with noise (`gddim`).

    Orders rise with the history and fall before a grid's end at t = 0, as in `ExponentialAdams`. Each step calls the network once.

    Args:
        order: K, the number of values of D, 1 to 3.
        eta: the amount of noise; 0 the probability flow, 1 the time reversal of the process.

    Raises:
        ValueError: another order, or a negative eta.
    """

    order: int = 2
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order!r}")
        as_number("eta", self.eta, 0.0)

    @property
    def convergence_order(self) -> int:
        # Noise of a whole step in one draw limits the weak order to 2.
        return min(self.order, 2) if self.stochastic else self.order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        path = as_linear(sde)
        grid = grid.to(torch.float64).cpu()
        clock, knots = path.half_log_snr(grid).tolist(), grid.tolist()
        steps, to_zero = len(knots) - 1, knots[-1] == 0
        rows, draws = list[Row](), 0
        for n, (s, t) in enumerate(zip(knots[:-1], knots[1:], strict=True)):
            if t == 0:
                rows.append(Row(data={n: 1.0}))
                continue
            used = [j for j in range(n, -1, -1) if j == n or math.isfinite(clock[j])]
            used = used[: min(self.order, steps - n if to_zero else steps)]
            if not math.isfinite(clock[n]):
                used = used[:1]
            made = step(path, s, t, [clock[j] for j in used], self.eta)
            noise = {} if made.noise is None else {draws: made.noise}
            draws += len(noise)
            parts = ({n: made.state}, dict(zip(used, made.data, strict=True)), noise)
            rows.append(Row(*({j: _of_row(sde, c) for j, c in part.items() if not is_zero(c)} for part in parts)))
        states = tuple(range(len(knots)))
        return Tableau(sde, tuple(knots), tuple(rows), states, states[:-1])


def _of_row(sde: SDE, c: Tensor) -> Coefficient:
    """The coefficient of a row: without the axis of times, and a float on a path of numbers."""
    return c[0] if isinstance(sde, LinearSDE) else float(c)
