"""Tables of every solver on a linear SDE.

    table(solver, sde, grid)  ==  solver.tableau(sde, grid)        on a path of numbers

Where a block has one channel, each block is a path of numbers, on which the solver writes its table. The tables are stacked: their
coefficients become tensors `(K,)`. One network call serves all blocks, so that solvers whose stages lie at a lambda of their own are refused.
Where the spacing in lambda decides the order, each block has its own.

With more channels lambda does not exist. What has a meaning without it are DDIM, ancestral sampling and DEIS, which `gddim` writes, and
Euler-Maruyama.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..numerics.coefficients import Coefficient, root
from ..sde.base import SDE
from ..sde.diagonal import ScalarBlock
from ..sde.linear import LinearSDE
from ..tableau.tableau import Row, Tableau
from .adams import DEIS
from .ancestral import DDIM, Ancestral
from .base import Solver
from .euler_maruyama import EulerMaruyama
from .gddim import GDDIM
from .tuned import TunedSolver


def table(solver: Solver, sde: SDE, grid: Tensor) -> Tableau:
    """The table of a solver on any path.

    Raises:
        TypeError: the solver returned no table.
        ValueError: the solver has no meaning on this linear SDE, or its tables do not stack; names both.
    """
    if not isinstance(sde, LinearSDE) or isinstance(solver, GDDIM | TunedSolver):
        made = solver.tableau(sde, grid)
        if not isinstance(made, Tableau):
            raise TypeError(
                f"{type(solver).__name__}.tableau returned {made!r} and no Tableau: end it with return builder.tableau()"
            )
        return made
    if sde.channels == 1:
        return stacked(solver, sde, grid)
    if isinstance(solver, EulerMaruyama):
        return euler_maruyama(sde, grid)
    return without_lambda(solver, sde).tableau(sde, grid)


def without_lambda(solver: Solver, sde: LinearSDE) -> GDDIM:
    """The same method on matrices.

    Raises:
        ValueError: there is none.
    """
    if isinstance(solver, DDIM) and solver.eta in (0, 1):
        return GDDIM(1, solver.eta)
    if isinstance(solver, Ancestral) and solver.variance in ("posterior", 0):
        return GDDIM(1, 1.0)
    if isinstance(solver, DEIS) and solver.order <= 3:
        return GDDIM(solver.order)
    raise ValueError(
        f"{solver} needs the lambda of a path of numbers, and {sde!r} has {sde.channels} channels in a block: take 'gddim1' to 'gddim3', "
        "'sde-gddim2', 'ddim', 'deis2', 'deis3', 'euler-maruyama' or 'ancestral-posterior'"
    )


def stacked(solver: Solver, sde: LinearSDE, grid: Tensor) -> Tableau:
    """The tables of the blocks of one channel as one table.

    Raises:
        ValueError: the tables of two blocks have other times or terms, or cannot be written at all.
    """
    if bool((sde.covariance(grid[grid > 0]) == 0).any()):
        raise ValueError(f"{solver} has no step for a block without noise, as {sde!r} has them: take GDDIM")
    # Blocks with the same scales have the same table.
    columns = torch.cat([sde.signal(grid), sde.covariance(grid)])
    distinct, block_of = torch.unique(columns, dim=1, return_inverse=True)
    first = [int((block_of == i).nonzero()[0]) for i in range(distinct.shape[1])]
    shared = _Remembering(sde)
    try:
        tables = [solver.tableau(ScalarBlock(shared, k), grid) for k in first]
    except ZeroDivisionError as error:
        raise ValueError(f"{solver} has no step for a block that rests, as {sde!r} has them: take GDDIM") from error
    for one in tables[1:]:
        same = one.grid_states == tables[0].grid_states and one.step_evals == tables[0].step_evals
        if not same or max(abs(s - t) for s, t in zip(one.times, tables[0].times, strict=True)) > 1e-9:
            raise ValueError(
                f"{solver} has stages at times that differ from block to block of {sde!r}, and one network call serves all blocks: take "
                "GDDIM, or a solver of one call a step"
            )

    def stack(parts: list[dict[int, Coefficient]]) -> dict[int, Coefficient]:
        # A term that vanishes in some blocks is 0 there.
        terms = sorted({j for part in parts for j in part})
        values = {j: torch.tensor([float(part.get(j, 0.0)) for part in parts], dtype=torch.float64, device="cpu") for j in terms}
        return {j: v[block_of] if bool((v != v[0]).any()) else float(v[0]) for j, v in values.items()}

    rows = tuple(
        Row(*(stack([dict(getattr(one.rows[k], kind)) for one in tables]) for kind in Row._fields))
        for k in range(len(tables[0].rows))
    )
    return Tableau(sde, tables[0].times, rows, tables[0].grid_states, tables[0].step_evals)


class _Remembering(LinearSDE):
    """A linear SDE that answers a question once: all blocks ask the same ones."""

    def __init__(self, sde: LinearSDE) -> None:
        self.sde, self.t_min, self.t_max = sde, sde.t_min, sde.t_max
        self._answers: dict[tuple[str, bytes], Tensor] = {}

    def _ask(self, name: str, t: Tensor) -> Tensor:
        if t.requires_grad:
            return getattr(self.sde, name)(t)
        key = name, t.numpy().tobytes()
        if key not in self._answers:
            self._answers[key] = getattr(self.sde, name)(t)
        return self._answers[key]

    def signal(self, t: Tensor) -> Tensor:
        return self._ask("signal", t)

    def covariance(self, t: Tensor) -> Tensor:
        return self._ask("covariance", t)

    def drift_rates(self, t: Tensor) -> Tensor:
        return self._ask("drift_rates", t)

    def noise_rates(self, t: Tensor) -> Tensor:
        return self._ask("noise_rates", t)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return self.sde.forward(s, t)

    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        return self.sde.backward(s, t, eta)

    def __repr__(self) -> str:
        return repr(self.sde)


def euler_maruyama(sde: LinearSDE, grid: Tensor) -> Tableau:
    """Euler-Maruyama for the reverse SDE. With h = s - t, from s down to t,

    z_t = z_s - h [ F z_s + G G^T Sigma^{-1} (z_s - A D) ] + sqrt(h) G xi.
    """
    knots = grid.tolist()
    rows = list[Row]()
    for n, (s, t) in enumerate(itertools.pairwise(knots)):
        if t == 0:
            rows.append(Row(data={n: 1.0}))
            continue
        at, h = torch.tensor([s], dtype=torch.float64, device="cpu"), s - t
        noise = sde.noise_rates(at)
        pull = torch.linalg.solve(sde.covariance(at), noise.mT).mT
        unit = torch.eye(sde.channels, dtype=torch.float64, device="cpu")
        state, data = unit - h * (sde.drift_rates(at) + pull), h * pull @ sde.signal(at)
        rows.append(Row({n: state[0]}, {n: data[0]}, {n: math.sqrt(h) * root(noise)[0]}))
    states = tuple(range(len(knots)))
    return Tableau(sde, tuple(knots), tuple(rows), states, states[:-1])
