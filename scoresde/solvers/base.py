"""What a solver is: a rule that fills a tableau."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau


class Solver(ABC):
    """A pure function of a path and a grid. Its attributes say what can be expected of it.

    Attributes:
        order: the order K that the method is named by: the values or stages that a step uses; None where no such number exists.
        convergence_order: the measured order of convergence in the number of steps on smoothly varying grids, weak for a stochastic solver.
            Multistep solvers of order 3 and more begin with steps of lower order. From a start with signal, alpha(1) of 0.1 and more, these
            cost an order. None where noise of a fixed amount leaves an error that steps do not reduce.
        stochastic: whether noise is drawn.
        calls_per_step: network calls in a full step.
        single_call: whether every step calls the network exactly once, at the time where the step starts.
    """

    @property
    def order(self) -> int | None:
        return 1

    @property
    def convergence_order(self) -> int | None:
        return self.order

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def calls_per_step(self) -> int:
        return 1

    @property
    def single_call(self) -> bool:
        return self.calls_per_step == 1

    @property
    def default_grid(self) -> str:
        """The name of the grid that suits the solver when the caller gives none.

        At up to 20 calls "trailing" is better than the other grids for nearly every solver (docs/benchmarks.md); with many steps it is
        "quadratic".
        """
        return "trailing"

    @abstractmethod
    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The coefficients of this solver on `grid`, N+1 decreasing times, in float64."""


@dataclass(frozen=True)
class Around(Solver):
    """A solver made of another one. What a subclass does not say is that of `solver`.

    Args:
        solver: the solver inside.
    """

    solver: Solver

    @property
    def default_grid(self) -> str:
        return self.solver.default_grid

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


def zero_snr_step(table: TableauBuilder, t: GridPoint) -> None:
    """Append the deterministic step from alpha = 0 to `t`: z_t = sigma_t/sigma_s z_s + alpha_t D, where a noise prediction says nothing."""
    j = table.last
    table.append(t, z={j: t.sigma / table.points[j].sigma}, data={table.step_evals[-1]: t.alpha})


def zero_snr_transition(table: TableauBuilder, t: GridPoint) -> None:
    """Append the stochastic step from alpha = 0 to `t`, the exact transition: z_t = alpha_t D + sigma_t xi."""
    table.append(t, data={table.step_evals[-1]: t.alpha}, xi={table.fresh_noise(): t.sigma})


def one_step(sde: SDE, grid: Tensor, step: Callable[[GridPoint, GridPoint], tuple[float, float, float]]) -> Tableau:
    """The tableau of z_t = A z_s + B D_s + C xi with `step(s, t) -> (A, B, C)`."""
    table = TableauBuilder(sde, grid)
    for _, s, t in table.steps():
        j = table.last
        a, b, c = step(s, t)
        table.append(t, z={j: a}, data={j: b}, xi={table.fresh_noise(): c} if c else None)
        table.end_step()
    return table.tableau()
