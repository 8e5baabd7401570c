"""`multistep_form` on a linear SDE: coefficients of blocks that stay, and one number for each of them that a fit may change.

    z_{n+1} = (A_n + a_n T_n) z_n + sum_{j<=n} (B_nj + b_nj U_n) D_j

A_n and B_nj are those of a solver. T_n and U_n are its own step of first order, Psi and A_t - Psi A_s. The last step, to the data, has as T the
best linear estimate of data of unit variance, A^T (A A^T + Sigma)^{-1}, and U = 1. a and b are 0 until a fit changes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..numerics.coefficients import Coefficient, add, apply, compose, is_zero, product
from ..sde.base import SDE
from ..sde.linear import LinearSDE, at_state
from .executor import combine
from .multistep_form import Multistep, multistep
from .tableau import Row, Tableau


@dataclass(frozen=True, repr=False)
class LinearMultistep(Multistep):
    """The coefficients of the form above.

    Attributes:
        base: (A_n, {j: B_nj}) of each step.
        units: (T_n, U_n) of each step.
    """

    base: tuple[tuple[Coefficient, Mapping[int, Coefficient]], ...] = field(kw_only=True)
    units: tuple[tuple[Coefficient, Coefficient], ...] = field(kw_only=True)

    def row(self, n: int) -> tuple[Coefficient, dict[int, Coefficient]]:
        """The coefficients of z_n and of D_0, D_1, ... in z_{n+1}."""
        (a, b), (t, u) = self.base[n], self.units[n]
        corrections = {j: compose(float(c), u) for j, c in enumerate(self.b[n, : n + 1].tolist()) if c}
        data = {j: add(b.get(j, 0.0), corrections.get(j, 0.0)) for j in sorted({*b, *corrections})}
        correction = float(self.a[n])
        return (add(a, compose(correction, t)) if correction else a), data

    def features(self, n: int, z: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
        t, u = (_placed(c, z) for c in self.units[n])
        return [apply(t, z), *(apply(u, d) for d in data)]

    def step(self, n: int, z: Tensor, data: Sequence[Tensor]) -> Tensor:
        a, b = self.row(n)
        terms = [] if is_zero(a) else [(z, a)]
        return combine([(x, _placed(c, z)) for x, c in (*terms, *((data[j], c) for j, c in b.items()))], z.dtype)

    def newest(self, n: int, change: Tensor) -> Tensor:
        return apply(_placed(self.row(n)[1].get(n, 0.0), change), change)

    def table(self, sde: SDE) -> Tableau:
        rows = []
        for n in range(len(self.a)):
            a, b = self.row(n)
            rows.append(Row({} if is_zero(a) else {n: a}, {j: c for j, c in b.items() if not is_zero(c)}))
        states = tuple(range(len(self.times)))
        return Tableau(sde, tuple(self.times.tolist()), tuple(rows), states, states[:-1])


def multistep_of(tableau: Tableau) -> Multistep:
    """The form of a deterministic table on any path.

    Raises:
        ValueError: the table draws noise, or on a linear SDE has steps that are not of the form.
    """
    sde = tableau.sde
    if not isinstance(sde, LinearSDE):
        return multistep(tableau)
    if tableau.stochastic:
        raise ValueError("a solver that draws noise has no deterministic form")
    base = direct(tableau) if sde.channels > 1 else eliminated(tableau)
    steps = len(base)
    knots = torch.tensor([tableau.times[j] for j in (*tableau.evaluated, -1)], dtype=torch.float64, device="cpu")
    units = [first_order(sde, knots[n : n + 1], knots[n + 1 : n + 2]) for n in range(steps)]
    zeros = torch.zeros(steps, steps, dtype=torch.float64, device="cpu")
    return LinearMultistep(knots, zeros[0].clone(), zeros, base=base, units=tuple(units))


Base = tuple[tuple[Coefficient, Mapping[int, Coefficient]], ...]


def direct(tableau: Tableau) -> Base:
    """A_n and B_nj of a table that has the form already.

    Raises:
        ValueError: it has not.
    """
    if tableau.evaluated != tuple(range(len(tableau.rows))) or any(set(row.z) - {n} for n, row in enumerate(tableau.rows)):
        raise ValueError(
            "with several channels only tables of one call a step, whose states come from the one before, have the form"
        )
    return tuple((row.z.get(n, 0.0), dict(row.data)) for n, row in enumerate(tableau.rows))


def eliminated(tableau: Tableau) -> Base:
    """A_n and B_nj of a table of one channel, as `multistep` finds them: every state is u z_0 + sum_j v_j D_j, block by block.

    Raises:
        ValueError: the first call is not at the first state.
    """
    called = tableau.evaluated
    if called[0] != 0:
        raise ValueError("on a linear SDE the first call must be at the first state")
    k = max((c.numel() for row in tableau.rows for c in (*row.z.values(), *row.data.values()) if isinstance(c, Tensor)), default=1)
    column = {state: i + 1 for i, state in enumerate(called)}
    unit = torch.eye(len(called) + 1, dtype=torch.float64, device="cpu")[:, :, None].expand(-1, -1, k)
    states = [unit[0]]
    for row in tableau.rows:
        state = torch.zeros_like(unit[0])
        for parts, of in ((row.z, states.__getitem__), (row.data, lambda j: unit[column[j]])):
            for j, c in parts.items():
                state = state + c * of(j)
        states.append(state)
    points = [*(states[j] for j in called), states[-1]]
    base = []
    for n, (now, then) in enumerate(itertools.pairwise(points)):
        a = then[0] / now[0]
        b = (then - a * now)[1 : n + 2]
        base.append((a, {j: c for j, c in enumerate(b) if not is_zero(c)}))
    return tuple(base)


def stored_form(times: Tensor, tableau: Tableau) -> LinearMultistep:
    """The form of a table from a file, whose coefficients are fitted already.

    Raises:
        ValueError: the table is not of the form.
    """
    if len(tableau.rows) != len(times) - 1 or any(set(row.z) - {n} for n, row in enumerate(tableau.rows)) or tableau.stochastic:
        raise ValueError("its table is no deterministic one with one network call for each step of its grid")
    base = tuple((row.z.get(n, 0.0), dict(row.data)) for n, row in enumerate(tableau.rows))
    zeros = torch.zeros(len(base), len(base), dtype=torch.float64, device="cpu")
    return LinearMultistep(times, zeros[0].clone(), zeros, base=base, units=((0.0, 0.0),) * len(base))


def first_order(sde: LinearSDE, s: Tensor, t: Tensor) -> tuple[Coefficient, Coefficient]:
    """(T, U) of the step from s down to t, both `(1,)`."""
    a, covariance = sde.signal(s), sde.covariance(s)
    if float(t) == 0:
        if sde.channels == 1:
            return (a / (a**2 + covariance))[0], 1.0
        return torch.linalg.solve(a @ a.mT + covariance, a).mT[0], 1.0
    psi = sde.backward(s, t)
    return psi[0], (sde.signal(t) - product(psi, a))[0]


def _placed(c: Coefficient, z: Tensor) -> Coefficient:
    return at_state(c, z) if isinstance(c, Tensor) else c
