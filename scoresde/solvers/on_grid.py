"""A solver with the grid that it is asked for with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.tableau import Tableau
from .base import Around


@dataclass(frozen=True)
class OnGrid(Around):
    """Any table with another default grid: `OnGrid(DDIM(), "karras")`.

    Args:
        solver: makes the table.
        grid: the name of the grid.
    """

    grid: str

    @property
    def default_grid(self) -> str:
        return self.grid

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return self.solver.tableau(sde, grid)
