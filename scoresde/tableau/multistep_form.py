"""The deterministic methods with one network call a step as one form,

z_{n+1} = a_n z_n + sum_{j<=n} b_nj D_j,        n = 0..N-1,      D_n = E[x | z_n at t_n].

The first call may be later than the start (`solvers.LateFirstCall`): z_0 = c z with z the state at t_start > t_0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..numerics.brief import Brief
from ..sde.base import SDE
from .executor import combine
from .tableau import Row, Tableau


@dataclass(frozen=True, repr=False)
class Multistep(Brief):
    """The coefficients of the form above.

    Attributes:
        times: t_0 > ... > t_N = 0, float64: of the network calls, and the end.
        a: `(N,)` float64.
        b: `(N, N)` float64, zero above the diagonal.
        t_start: the time of the first state, where that is before t_0.
        gain: c, 1 where the first call is at the start.
    """

    times: Tensor
    a: Tensor
    b: Tensor
    t_start: float | None = None
    gain: float = 1.0

    @cached_property
    def all_times(self) -> Tensor:
        """The start, where it is before t_0, and t_0..t_N."""
        return self.times if self.t_start is None else torch.cat([self.times.new_tensor([self.t_start]), self.times])

    @cached_property
    def grid(self) -> Tensor:
        """The times of the start and of z_1..z_N, `(N+1,)`: a step for each call."""
        return self.times if self.t_start is None else torch.cat([self.all_times[:1], self.times[1:]])

    def first(self, z: Tensor) -> Tensor:
        """z_0 from the state at the start."""
        return z if self.t_start is None else combine([(z, self.gain)], z.dtype)

    def features(self, n: int, z: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
        """What a_n and b_n0, b_n1, ... multiply in z_{n+1}."""
        return [z, *data]

    def newest(self, n: int, change: Tensor) -> Tensor:
        """The change of z_{n+1} for a change of D_n."""
        return float(self.b[n, n]) * change

    def step(self, n: int, z: Tensor, data: Sequence[Tensor]) -> Tensor:
        """z_{n+1} from z_n and D_0..D_n."""
        return combine([(z, float(self.a[n])), *((d, float(c)) for d, c in zip(data, self.b[n], strict=False))], z.dtype)

    def follow(
        self, z: Tensor, data: Sequence[Tensor], predict: Callable[[Tensor, float], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The states z_n..z_N and all data predictions D_0..D_{N-1}.

        Args:
            z: z_n.
            data: D_0..D_{n-1}, which say what n is.
            predict: (z, t) -> the data prediction.
        """
        states, data = [z], list(data)
        for n in range(len(data), len(self.a)):
            data.append(predict(states[-1], float(self.times[n])))
            states.append(self.step(n, states[-1], data))
        return states, data

    def table(self, sde: SDE) -> Tableau:
        """The form as a tableau. Coefficients that are zero are left out."""
        late = 0 if self.t_start is None else 1
        rows = [Row({0: self.gain})] * late
        for n, (a, b) in enumerate(zip(self.a.tolist(), self.b.tolist(), strict=True)):
            rows.append(Row({n + late: a} if a else {}, {j + late: c for j, c in enumerate(b[: n + 1]) if c}))
        states = tuple(range(late, len(self.all_times)))
        return Tableau(sde, tuple(self.all_times.tolist()), tuple(rows), (0, *states[1:]), states[:-1])


def multistep(tableau: Tableau) -> Multistep:
    """A deterministic table in the form above, with the same results up to rounding.

    Every state is u z_0 + sum_j v_j D_j. With that of state n one eliminates z_0 from that of state n + 1.

    Raises:
        ValueError: the table draws noise, or its first call is at a state that is no multiple of the first one.
    """
    if tableau.stochastic:
        raise ValueError("a solver that draws noise has no deterministic form")
    called = tableau.evaluated
    column = {state: i + 1 for i, state in enumerate(called)}
    unit = torch.eye(len(called) + 1, dtype=torch.float64, device="cpu")
    states = [unit[0]]  # (u, v) of every state
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
    times = torch.tensor([*(tableau.times[j] for j in called), tableau.times[-1]], dtype=torch.float64, device="cpu")
    if called[0] == 0:
        return Multistep(times, a, b.tril())
    return Multistep(times, a, b.tril(), tableau.times[0], float(points[0, 0]))
