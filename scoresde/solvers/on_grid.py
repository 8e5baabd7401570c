"""A solver with the grid that it is asked for with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.tableau import Tableau
from .base import Solver


@dataclass(frozen=True)
class OnGrid(Solver):
    """Any table with another default grid: `OnGrid(DDIM(), "karras")`.

    Args:
        solver: makes the table.
        grid: the name of the grid.
    """

    solver: Solver
    grid: str

    @property
    def default_grid(self) -> str:
        return self.grid

    @property
    def calls_per_step(self) -> int:
        return self.solver.calls_per_step

    @property
    def order(self) -> int | None:
        return self.solver.order

    @property
    def convergence_order(self) -> int | None:
        return self.solver.convergence_order

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    @property
    def single_call(self) -> bool:
        return self.solver.single_call

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return self.solver.tableau(sde, grid)
