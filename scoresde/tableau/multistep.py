"""The deterministic methods with one network call a step as one form,

z_{n+1} = a_n z_n + sum_{j<=n} b_nj D_j,        n = 0..N-1,      D_n = E[x | z_n at t_n].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sde.base import SDE
from .executor import combine
from .tableau import Row, Tableau


@dataclass(frozen=True)
class Multistep:
    """The coefficients of the form above.

    Attributes:
        times: t_0 > ... > t_N = 0.
        a: `(N,)` float64.
        b: `(N, N)` float64, zero above the diagonal.
    """

    times: Tensor
    a: Tensor
    b: Tensor

    def step(self, n: int, z: Tensor, data: Sequence[Tensor]) -> Tensor:
        """z_{n+1} from z_n and D_0..D_n."""
        return combine([(z, float(self.a[n])), *((d, float(c)) for d, c in zip(data, self.b[n], strict=False))], z.dtype)

    def table(self, sde: SDE) -> Tableau:
        """As a tableau."""
        rows = []
        for n, (a, b) in enumerate(zip(self.a.tolist(), self.b.tolist(), strict=True)):
            rows.append(Row({n: a} if a else {}, {j: c for j, c in enumerate(b[: n + 1]) if c}))
        states = tuple(range(len(self.times)))
        return Tableau(sde, tuple(self.times.tolist()), tuple(rows), states, states[:-1])


def multistep(tableau: Tableau) -> Multistep:
    """A deterministic table in the form above: the same results up to rounding.

    Every state is a combination of the first and of the outputs; with that of state n one eliminates the first from that of state n + 1.

    Raises:
        ValueError: the table draws noise.
    """
    if tableau.stochastic:
        raise ValueError("a solver that draws noise has no deterministic form")
    called = tableau.evaluated
    column = {state: i + 1 for i, state in enumerate(called)}
    unit = torch.eye(len(called) + 1, dtype=torch.float64)
    states = [unit[0]]
    for row in tableau.rows:
        state = torch.zeros_like(unit[0])
        for j, c in row.z.items():
            state = state + c * states[j]
        for j, c in row.data.items():
            state = state + c * unit[column[j]]
        states.append(state)
    points = torch.stack([*(states[j] for j in called), states[-1]])
    a = points[1:, 0] / points[:-1, 0]
    b = (points[1:] - a[:, None] * points[:-1])[:, 1:]
    times = torch.tensor([*(tableau.times[j] for j in called), tableau.times[-1]], dtype=torch.float64)
    return Multistep(times, a, b.tril())
