"""A solver made for one process: it brings the grid that it was made on."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..prediction import Model
from ..sde import SDE
from .base import Solver
from .tableau import Tableau

# The path is compared at these times; sigma vanishes at 0.
PROBES = torch.arange(1, 33, dtype=torch.float64) / 32


def scales(sde: SDE) -> Tensor:
    """(alpha, sigma) at 32 times, `(2, 32)` float64: what a process is recognised by."""
    return torch.stack([sde.alpha(PROBES), sde.sigma(PROBES)]).cpu()


class BoundSolver(Solver):
    """A solver of one process and one budget. `sample` takes its grid when it is given none.

    Attributes:
        grid: the N+1 times, float64.
        process: `scales` of the process that it was made for.
    """

    grid: Tensor
    process: Tensor

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The table, for the process and the grid that it was made for.

        Raises:
            ValueError: another process or another grid.
        """
        there = scales(sde)
        # Coefficients in float64 differ in the last digits between machines.
        differ = ((there - self.process).abs() > 1e-6 * (1 + self.process.abs())).any(0)
        if bool(differ.any()):
            k = int(differ.nonzero()[0])
            (a, s), (alpha, sigma) = self.process[:, k].tolist(), there[:, k].tolist()
            raise ValueError(
                f"{type(self).__name__} was made for a process with alpha={a:.6g} and sigma={s:.6g} at t={float(PROBES[k]):g}, but {sde!r} has "
                f"alpha={alpha:.6g} and sigma={sigma:.6g} there: make one for it"
            )
        if not torch.equal(grid, self.grid):
            raise ValueError(f"{type(self).__name__} was made for its own grid of {len(self.grid) - 1} steps: give no other")
        return self.table(sde)

    @abstractmethod
    def table(self, sde: SDE) -> Tableau:
        """The table on its own grid."""

    def check(self, model: Model) -> None:
        """Warn if the solver was made for another model; here nothing is known of the model."""
