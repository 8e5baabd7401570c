"""Objects of scoresde 0.1 whose arguments or methods have changed. `deprecation.MOVED_NAMES` hands them out; they go in 0.4."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from . import models
from .loops.base import GridLoop
from .models.base import Model
from .sampling.plans import GridPlan
from .sde.base import SDE
from .tableau.builder import GridPoint, TableauBuilder


class Rows(TableauBuilder):
    """`TableauBuilder` with the names of 0.1: `rows.at`, `state`, `looks`, `add(eps=, noise=)`, `mark(look=)`."""

    def __init__(self, sde: SDE, grid: Tensor) -> None:
        super().__init__(sde, grid)
        self.at, self.marks, self.looks = self.points, self.grid_states, self.step_evals

    @property
    def state(self) -> int:
        """`last`."""
        return self.last

    def point(self, half_log_snr: float) -> GridPoint:
        """`point_at`."""
        return self.point_at(half_log_snr)

    def add(
        self,
        at: GridPoint,
        z: Mapping[int, float] | None = None,
        data: Mapping[int, float] | None = None,
        eps: Mapping[int, float] | None = None,
        noise: Mapping[int, float] | None = None,
    ) -> int:
        """`append`."""
        return self.append(at, z, data, eps, noise)

    def mark(self, look: int | None = None) -> None:
        """`end_step`."""
        self.end_step(look)


def Schedule(solver: GridLoop, sde: SDE, times: Tensor) -> GridPlan:
    """`GridPlan`."""
    return GridPlan(sde, solver, times)


def ReverseSDE(sde: SDE, model: Model, eta: float = 1.0) -> models.ReverseSDE:
    """`models.ReverseSDE(model, eta)`: a model knows its path."""
    return models.ReverseSDE(model, eta)
