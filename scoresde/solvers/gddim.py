"""Multistep methods on the matrices of a linear SDE, from one formula.

With Psi(t, s) of `sde.linear`, which carries z - A D where D is constant, the exact solution from s down to t is

    z_t = Psi(t, s) z_s + int_s^t d/du [ Psi(t, u) A_u ] D(u) du + noise of covariance Sigma_t - Psi Sigma_s Psi^T.

For D the polynomial through K of its values, D = sum_j l_j(tau) D_j, integration by parts gives the weights

    W_j = A_t l_j(t) - Psi(t, s) A_s l_j(s) - int_s^t Psi(t, u) A_u dl_j(u),

all of whose terms are finite where Sigma_t is not invertible. The integral is a Gauss-Legendre sum. The clock tau is the time of the classical
VP SDE with the same signal-to-noise ratio (`grids.vp_clock`), in which D is smoother than in lambda at few steps. On that SDE it is DEIS in t.

K = 1 is DDIM, z_t = A_t D + Psi (z_s - A_s D) (Zhang et al. 2022, arXiv 2206.05564, eq. 16 and 22); eta = 1 then is ancestral sampling with the
posterior of the process. More values are exponential Adams methods of DEIS type (Zhang and Chen 2023, arXiv 2204.13902).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..grids.rules import vp_clock
from ..numerics.coefficients import Coefficient, congruent, is_zero, product, root
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


def steps(sde: LinearSDE, knots: Sequence[tuple[float, float]], nodes: Sequence[Sequence[float]], eta: float = 0.0) -> list[Step]:
    """The steps from s down to t for every (s, t) of `knots`, with the values of D at the times of `nodes`, that at s first among them.

    The matrices of all steps are asked for at once: for processes that solve for them that is most of the work.
    """
    start, end = (torch.tensor(column, dtype=torch.float64, device="cpu") for column in zip(*knots, strict=True))
    a_s, a_t = sde.signal(start), sde.signal(end)
    single = [n for n, at in enumerate(nodes) if len(at) == 1]
    several = [n for n, at in enumerate(nodes) if len(at) > 1]
    made: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}
    if single:
        for n, psi in zip(single, sde.backward(start[single], end[single], eta).split(1), strict=True):
            made[n] = psi, (a_t[n : n + 1] - product(psi, a_s[n : n + 1]),)
    if several:
        unit, quadrature = gauss_legendre(NODES)
        clock, time = vp_clock(sde)
        tau_s, tau_t = clock(start[several]), clock(end[several])
        tau = tau_s[:, None] + (tau_t - tau_s)[:, None] * unit
        u = time(tau.reshape(-1)).reshape(tau.shape)
        path = torch.cat([start[several, None], u, end[several, None]], 1)
        parts = sde.backward(path[:, :-1].reshape(-1), path[:, 1:].reshape(-1), eta)
        inside = sde.signal(u.reshape(-1))
        for i, n in enumerate(several):
            own, signal = parts[i * (NODES + 1) : (i + 1) * (NODES + 1)], inside[i * NODES : (i + 1) * NODES]
            # Psi(t, u) from the last part to the first.
            carried = [own[-1:]]
            for k in range(NODES - 1, -1, -1):
                carried.append(product(carried[-1], own[k : k + 1]))
            psi, along = carried[-1], product(torch.cat(carried[:-1][::-1]), signal)
            at, ends = clock(torch.tensor(nodes[n], dtype=torch.float64, device="cpu")), torch.stack([tau_s[i], tau_t[i]])
            before, after = product(psi, a_s[n : n + 1]), a_t[n : n + 1]
            weights = []
            for (l_s, l_t), slope in zip(lagrange(at, ends).tolist(), lagrange_slopes(at, tau[i]), strict=True):
                shares = (ends[1] - ends[0]) * quadrature * slope
                integral = (along * shares.reshape(-1, *(1,) * (along.ndim - 1))).sum(0, keepdim=True)
                weights.append(after * l_t - before * l_s - integral)
            made[n] = psi, tuple(weights)
    whole = torch.cat([made[n][0] for n in range(len(nodes))])
    noises: Sequence[Tensor | None] = [None] * len(nodes)
    if eta:
        noises = root(sde.covariance(end) - congruent(whole, sde.covariance(start))).split(1)
    return [Step(*made[n], noises[n]) for n in range(len(nodes))]


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
        to_zero = knots[-1] == 0
        pairs = [(s, t) for s, t in itertools.pairwise(knots) if t > 0]
        rows = []
        if pairs and not bool(path.covariance(grid[:1]).any() | path.signal(grid[:1]).any()):
            # The end of a bridge. From there the transition is the only Gaussian step.
            end = grid[1:2]
            rows.append(Row(data={0: _of_row(sde, path.signal(end))}, xi={0: _of_row(sde, root(path.covariance(end)))}))
        used = []
        for n in range(len(rows), len(pairs)):
            # A value at lambda = -inf (zero signal) has no weight in any interpolant.
            older = [j for j in range(n - 1, -1, -1) if math.isfinite(clock[j])] if math.isfinite(clock[n]) else []
            used.append([n, *older][: min(self.order, len(knots) - 1 - n) if to_zero else self.order])
        made = steps(path, pairs[len(rows) :], [[knots[j] for j in js] for js in used], self.eta) if used else []
        for n, (js, step) in enumerate(zip(used, made, strict=True), len(rows)):
            parts = ({n: step.state}, dict(zip(js, step.data, strict=True)), {} if step.noise is None else {n: step.noise})
            rows.append(Row(*({j: _of_row(sde, c) for j, c in part.items() if not is_zero(c)} for part in parts)))
        if to_zero:
            rows.append(Row(data={len(pairs): 1.0}))
        states = tuple(range(len(knots)))
        return Tableau(sde, tuple(knots), tuple(rows), states, states[:-1])


def _of_row(sde: SDE, c: Tensor) -> Coefficient:
    """The coefficient of a row: without the axis of times, and a float on a path of numbers."""
    return c[0] if isinstance(sde, LinearSDE) else float(c)
