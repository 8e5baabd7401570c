"""Write a tableau row by row.

A solver fills a `TableauBuilder`, one step of the grid after the other:

    table = TableauBuilder(sde, grid)
    for n, s, t in table.steps():                      # from the point s down to t; the step to sigma = 0 is written by the builder
        j = table.last                                 # the state at s
        table.append(t, z={j: a}, data={j: b}, xi={table.fresh_noise(): c})
        table.end_step()
    return table.tableau()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ..numerics.coefficients import Coefficient, is_zero
from ..sde.base import SDE
from .tableau import Row, Tableau


class GridPoint(NamedTuple):
    """A time with the path's scales at it, as Python floats (which are float64)."""

    t: float
    alpha: float
    sigma: float
    half_log_snr: float


def grid_points(sde: SDE, grid: Tensor) -> list[GridPoint]:
    """The grid's times with their alpha, sigma and lambda."""
    columns = (grid, sde.alpha(grid), sde.sigma(grid), sde.half_log_snr(grid))
    return [GridPoint(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class TableauBuilder:
    """Writes a tableau for one grid, state by state.

    Attributes:
        grid: the points of the grid, first to last.
        points: the point of each state so far.
        grid_states, step_evals: as in `Tableau`, of the steps so far; `step_evals` has the evaluation of the coming step at its end.
    """

    def __init__(self, sde: SDE, grid: Tensor) -> None:
        self.sde = sde
        self.grid = grid_points(sde, grid)
        self.points = [self.grid[0]]
        self.rows: list[Row] = []
        self.grid_states, self.step_evals = [0], [0]
        self._noises = 0

    def steps(self) -> Iterator[tuple[int, GridPoint, GridPoint]]:
        """`(n, s, t)` for every step that a solver has to fill in: from `s` down to `t`, with n = 0, 1, ...

        Two steps are the same for every solver and are written here. That to sigma = 0 is the plain data prediction without noise. That from
        alpha = sigma = 0, the end of a `Bridge`, is the transition z_t = alpha_t D + sigma_t xi.

        Raises:
            ValueError: a step was not ended.
        """
        for n, (s, t) in enumerate(zip(self.grid[:-1], self.grid[1:], strict=True)):
            if t.sigma > 0 and (s.alpha, s.sigma) != (0, 0):
                ended = len(self.grid_states)
                yield n, s, t
                if len(self.grid_states) == ended:
                    raise ValueError(
                        f"step {n}, from t={s.t:.4g} to t={t.t:.4g}, was not ended: call end_step() after its last row"
                    )
            else:
                xi = {self.fresh_noise(): t.sigma} if t.sigma > 0 else {}
                self.append(t, data={self.step_evals[-1]: t.alpha}, xi=xi)
                self.end_step()

    def point_at(self, half_log_snr: float) -> GridPoint:
        """The point of the path with this lambda, on the grid or not."""
        t = self.sde.time(half_log_snr)
        return GridPoint(float(t), float(self.sde.alpha(t)), float(self.sde.sigma(t)), half_log_snr)

    @property
    def last(self) -> int:
        """The index of the newest state."""
        return len(self.rows)

    def append(
        self,
        at: GridPoint,
        z: Mapping[int, Coefficient] | None = None,
        data: Mapping[int, Coefficient] | None = None,
        noise_prediction: Mapping[int, float] | None = None,
        xi: Mapping[int, Coefficient] | None = None,
    ) -> int:
        """Append the row of a state at the point `at`; returns the state's index. Zero coefficients are dropped.

        Args:
            z, data, xi: coefficients of earlier states, of the data predictions at them, and of noises.
            noise_prediction: coefficients of noise predictions, eps_j = (z_j - alpha_j D_j)/sigma_j.
        """
        z, data = dict(z or {}), dict(data or {})
        for j, c in (noise_prediction or {}).items():
            z[j] = z.get(j, 0.0) + c / self.points[j].sigma
            data[j] = data.get(j, 0.0) - c * self.points[j].alpha / self.points[j].sigma
        row = Row(*({j: c for j, c in part.items() if not is_zero(c)} for part in (z, data, dict(xi or {}))))
        self.rows.append(row)
        self.points.append(at)
        return self.last

    def end_step(self, evaluated: int | None = None) -> None:
        """The newest state stands at the next grid time. The coming step evaluates the network there, or at the state `evaluated`."""
        self.grid_states.append(self.last)
        self.step_evals.append(self.last if evaluated is None else evaluated)

    def fresh_noise(self) -> int:
        """The index of a noise not used before."""
        self._noises += 1
        return self._noises - 1

    def tableau(self) -> Tableau:
        """The finished table."""
        times = tuple(point.t for point in self.points)
        return Tableau(self.sde, times, tuple(self.rows), tuple(self.grid_states), tuple(self.step_evals[:-1]))
