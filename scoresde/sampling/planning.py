"""Arguments become a plan: the one place where a solver, a budget and a grid are checked against each other.

    plan(sde, "dpm++2m", steps=10)  ->  TablePlan     a tableau on its grid
    plan(sde, "pc", steps=10)       ->  GridPlan      a loop along a grid
    plan(sde, "adaptive")           ->  AdaptivePlan  a loop that chooses its own times

A plan knows its cost (`nfe`) and its times before the first network call. `sample` takes a plan in place of a solver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import deprecation, grids
from ..loops.base import AdaptiveLoop, GridLoop, Job, LoopSolver
from ..models.base import Model
from ..numerics.brief import line
from ..numerics.inputs import as_function, as_number
from ..sde.base import SDE
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE
from ..sde.prediction import Prediction
from ..solvers.base import Solver
from ..solvers.composed import LateFirstCall
from ..solvers.on_grid import OnGrid
from ..solvers.tuned import TunedSolver, require_same_process
from ..tableau.executor import Run, run
from ..tableau.tableau import Tableau
from ..tuning.calibration import Cascade
from . import registry
from .auto import NOISES, auto
from .default import default
from .remembered import remembered_tableau
from .request import GridLike, Request

AnySolver = Solver | LoopSolver | Cascade


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

    def check(self, model: Model) -> None:
        """Look at the model that the plan is to run on; a solver tuned to another model warns.

        Raises:
            ValueError: the model has another path.
        """
        if model.sde is not self.sde:
            require_same_process(self.sde, model.sde, "the plan")
        if isinstance(self.solver, TunedSolver):
            self.solver.check(model)


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


def plan(
    sde: SDE | Model,
    solver: str | PathLike[str] | AnySolver | Tableau | Plan | None = None,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    tol: float | None = None,
    t_start: float | None = None,
    event: Sequence[int] | None = None,
    cond: Mapping[str, object] | None = None,
) -> Plan:
    """What `sample` will run for these arguments. Those that are not here are as in `sample`.

    A plan that is made once and passed in place of a solver saves the work of making it in each call.

    Args:
        sde: a path, or a model. The default depends on what the model predicts; without a model it is that for a data prediction.
        event: the shape of one sample, on which the default depends too.
        cond: what the network needs in the pilot of "auto": tensors with one row for each of its 32 starts.

    Raises:
        ValueError: the arguments contradict each other, or no step fits into `nfe`.
    """
    if registry.is_auto(solver):
        if not isinstance(sde, Model) or event is None:
            raise ValueError("the solver 'auto' needs the model in place of its path, and event=: it tries solvers on the model")
        solver, nfe = auto(sde, tuple(event), nfe, dict(cond or {}), NOISES), None
    prediction: Prediction = "data"
    if not isinstance(sde, SDE) and isinstance(getattr(sde, "sde", None), SDE):
        sde, prediction = sde.sde, getattr(sde, "prediction", prediction)
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be a path such as VPSDE(), got {sde!r}")
    request = Request.checked(steps, nfe, grid, t_start)
    steps, nfe, grid, t_start = request.steps, request.nfe, request.grid, request.t_start
    if isinstance(solver, Plan | Tableau):
        return _ready(solver if isinstance(solver, Plan) else TablePlan.of(solver), request, tol)
    if isinstance(solver, str | PathLike):
        solver = registry.resolve(str(solver))
    if isinstance(solver, OnGrid):
        grid = solver.grid if grid is None else grid
        request, solver = replace(request, grid=grid), solver.solver
    if solver is None:
        calls = len(grid) - 1 if isinstance(grid, Tensor) else nfe or steps or 0
        solver, suited = default(sde, calls, prediction, event, 1.0 if t_start is None else t_start)
        if grid is None and (steps is None) != (nfe is None):
            # The default is for a number of calls. Its first step may have none.
            request = Request(None, nfe or steps, suited, t_start)
        elif isinstance(solver, LateFirstCall):
            solver = solver.solver  # a grid of one's own says where the first call is
    if isinstance(solver, Cascade) != (tol is not None):
        raise ValueError("a cascade needs tol=, the error to stay below, and no other solver takes it")
    if isinstance(solver, Cascade):
        solver = solver.within(as_number("tol", tol, above=0.0))
    if isinstance(solver, LoopSolver) and isinstance(sde, LinearSDE | Bridge):
        raise ValueError(
            f"{solver} is a loop for paths of numbers from noise to data, and {sde!r} is none: take a solver that is a table, such as 'gddim2'"
        )
    if isinstance(solver, AdaptiveLoop):
        return _adaptive(sde, solver, request)
    if isinstance(solver, GridLoop):
        loop = solver
        return _on_grid(sde, loop, request, lambda times: GridPlan(sde, loop, times))
    if not isinstance(solver, Solver):
        raise TypeError(f"{solver!r} is no solver: it must be a name, a Solver, a GridLoop, an AdaptiveLoop, a Tableau or a Plan")
    if isinstance(solver, TunedSolver) and grid is None:
        request = Request(steps, nfe, solver.grid, t_start)
    table = solver
    return _on_grid(sde, table, request, lambda times: TablePlan.of(remembered_tableau(table, sde, times), table))


def _ready(made: Plan, request: Request, tol: float | None) -> Plan:
    """A plan that was made before; nothing is left to choose."""
    if request.t_start is not None and abs(request.t_start - made.t_start) > 1e-9:
        raise ValueError(f"t_start={request.t_start:g}, but the plan starts at {made.t_start:g}")
    if Request(request.steps, request.nfe, request.grid) or tol is not None:
        raise ValueError("a plan has its own steps, calls and grid: give none of steps=, nfe=, grid= and tol= with it")
    return made


def _adaptive(sde: SDE, solver: AdaptiveLoop, request: Request) -> AdaptivePlan:
    for name, value in (("grid", request.grid), ("nfe", request.nfe)):
        if value is not None:
            raise ValueError(
                f"{name}= means nothing to {solver}, which chooses its steps by its tolerances; steps= is the most that it may try"
            )
    times = torch.tensor(
        [1.0 if request.t_start is None else float(request.t_start), solver.t_end], dtype=torch.float64, device="cpu"
    )
    return AdaptivePlan(sde, solver, times, request.steps)


P = TypeVar("P", TablePlan, GridPlan)


def _on_grid(sde: SDE, solver: Solver | GridLoop, request: Request, build: Callable[[Tensor], P]) -> P:
    """What `build` makes of the grid that the request asks for."""
    steps, nfe, grid, t_start = request.steps, request.nfe, request.grid, request.t_start
    if isinstance(grid, Tensor):
        return _on_times(grid, request, build)
    rule = grids.get(solver.default_grid if grid is None else grid) if not callable(grid) else grid

    # Rules start at 1 of themselves: one of the user need not know t_start= for a state there.
    start = {} if t_start is None or t_start == 1 else {"t_start": t_start}
    rule = as_function("grid", rule, 2, *start)

    def at(steps: int) -> P:
        times = grids.check(rule(sde, steps, **start))
        if t_start is not None and abs(float(times[0]) - t_start) > 1e-9:
            raise ValueError(f"the grid starts at {float(times[0]):g}, but the state is at t_start={t_start:g}")
        return build(times)

    if (steps is None) == (nfe is None):
        raise ValueError("give steps= or nfe=, one of the two (or a tensor as grid=)")
    if steps is not None:
        planned = at(steps)
    else:
        assert nfe is not None
        planned = _within(nfe, solver, at)
    return replace(planned, grid_name=grids.spelled(grid) if isinstance(grid, str) else grids.describe(rule))


def _on_times(times: Tensor, request: Request, build: Callable[[Tensor], P]) -> P:
    """The plan on a grid that is a tensor of times."""
    if request.steps is not None and request.steps != len(times) - 1:
        raise ValueError(f"steps={request.steps}, but the grid has {len(times) - 1} intervals")
    if request.t_start is not None and request.t_start != float(times[0]):
        raise ValueError(f"t_start={request.t_start}, but the grid starts at {float(times[0])}")
    planned = build(times)
    if request.nfe is not None and planned.nfe > request.nfe:
        raise ValueError(f"this grid takes {planned.nfe} network calls, more than nfe={request.nfe}")
    return planned


def _within(nfe: int, solver: Solver | GridLoop, at: Callable[[int], P]) -> P:
    """The plan `at(steps)` of as many steps as fit into `nfe` network calls."""
    steps = max(1, nfe // solver.calls_per_step)
    planned = at(steps)
    while planned.nfe > nfe and steps > 1:
        steps -= 1
        planned = at(steps)
    if planned.nfe > nfe:
        raise ValueError(f"{solver} needs more than nfe={nfe} network calls for a single step")
    if planned.nfe < nfe:
        # Steps that are cheaper than a full one, such as the last of Heun, can leave room for one more, if the grid has one.
        with suppress(ValueError):
            more = at(steps + 1)
            planned = more if more.nfe <= nfe else planned
    return planned
