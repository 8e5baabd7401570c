"""What `plan` returns: a solver on one path, with everything decided that the state does not decide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .. import deprecation
from ..loops.base import AdaptiveLoop, GridLoop, Job, LoopSolver
from ..models.base import Model
from ..numerics.brief import line
from ..sde.base import SDE
from ..sde.fingerprint import require_same_process
from ..solvers.base import Solver
from ..solvers.tuned import TunedSolver
from ..tableau.executor import Run, run
from ..tableau.tableau import Tableau
from ..tuning.cascade import BoundedSolver, CascadeSolver
from . import registry


@dataclass(frozen=True, repr=False)
class Plan(ABC):
    """A solver on one path, with everything decided that the state does not decide.

    Attributes:
        sde: the path.
        solver: what runs; None for a bare tableau.
        times: the grid, `(N+1,)` float64 on the CPU; for an adaptive loop its first and its last time.
        grid_name: the name of the rule that made the times, with its options; None where no rule did.
    """

    sde: SDE
    solver: Solver | LoopSolver | None
    times: Tensor
    grid_name: str | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        steps = "steps by the state" if self.steps is None else f"{self.steps} steps"
        calls = "" if self.nfe is None else f"{self.nfe} network calls"
        solver = "a table" if self.solver is None else registry.name_of(self.solver)
        return line(type(self).__name__, solver, repr(self.sde), steps, calls, f"grid {self.grid_name}" if self.grid_name else "")

    @property
    def t_start(self) -> float:
        """The time of the first state."""
        return float(self.times[0])

    @property
    def steps(self) -> int | None:
        """Intervals of the grid; None where the state decides."""
        return len(self.times) - 1

    @property
    def max_steps(self) -> int | None:
        """The most steps that an adaptive loop may try; None for its own limit."""
        return None

    @property
    @abstractmethod
    def nfe(self) -> int | None:
        """Network calls per sample; None where the state decides."""

    @abstractmethod
    def run(self, job: Job) -> Run:
        """Run from the state of `job`, along the plan's own times."""

    def check(self, model: Model, event: Sequence[int] | None = None) -> None:
        """Look at the model that the plan is to run on; a solver tuned to another model warns.

        Args:
            event: the shape of a sample.

        Raises:
            ValueError: the model has another path, the solver was fitted to samples of another shape, or a cascade to another model.
        """
        if model.sde is not self.sde:
            require_same_process(self.sde, model.sde, "the plan")
        if isinstance(self.solver, TunedSolver):
            self.solver.check(model, event)
        if isinstance(self.solver, BoundedSolver | CascadeSolver):
            self.solver.cascade.check(model)


@dataclass(frozen=True, repr=False)
class TablePlan(Plan):
    """A tableau.

    Attributes:
        tableau: the coefficients; `tableau.moments` says what they do to Gaussian data.
    """

    tableau: Tableau

    @classmethod
    def of(cls, tableau: Tableau, solver: Solver | None = None) -> TablePlan:
        """The plan of a tableau that was made by `solver`."""
        return cls(tableau.sde, solver, tableau.grid, tableau)

    @property
    def nfe(self) -> int:
        return self.tableau.nfe

    def __getattr__(self, name: str) -> Any:
        # Until 0.2 `sampling.plan` returned the tableau itself.
        if name.startswith("_") or not (hasattr(Tableau, name) or name in ("rows", "grid_states", "step_evals", "prediction")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        deprecation.warn(f"plan.{name}", f"plan.tableau.{name}")
        return getattr(self.tableau, name)

    def run(self, job: Job) -> Run:
        return run(
            self.tableau, job.model, job.z, job.noise, callback=job.callback, trajectory=job.trajectory, cond=job.cond
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class GridPlan(Plan):
    """A loop along a grid."""

    solver: GridLoop

    @property
    def nfe(self) -> int:
        return self.solver.calls(self.sde, self.times)

    def run(self, job: Job) -> Run:
        return self.solver.solve(job)


@dataclass(frozen=True, repr=False)
class AdaptivePlan(Plan):
    """A loop that chooses its own times.

    Attributes:
        limit: `max_steps`.
    """

    solver: AdaptiveLoop
    limit: int | None = None

    @property
    def max_steps(self) -> int | None:
        return self.limit

    @property
    def steps(self) -> None:
        return None

    @property
    def nfe(self) -> None:
        return None

    def run(self, job: Job) -> Run:
        return self.solver.solve(job)
