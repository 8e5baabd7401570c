"""Arguments become a plan: the one place where a solver, a budget and a grid are checked against each other.

    plan(sde, "dpm++2m", steps=10)  ->  TablePlan     a tableau on its grid
    plan(sde, "pc", steps=10)       ->  GridPlan      a loop along a grid
    plan(sde, "adaptive")           ->  AdaptivePlan  a loop that chooses its own times

A plan knows its cost (`nfe`) and its times before the first network call. `sample` takes a plan in place of a solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import grids
from ..loops.base import AdaptiveLoop, GridLoop, LoopSolver
from ..models.base import Model
from ..numerics.brief import shown
from ..numerics.inputs import as_function
from ..sde.base import SDE
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE
from ..sde.prediction import Prediction
from ..solvers.base import Solver
from ..solvers.composed import LateFirstCall
from ..solvers.on_grid import OnGrid
from ..solvers.tuned import TunedSolver
from ..tableau.tableau import Tableau
from ..tuning import load
from ..tuning.cascade import Cascade
from . import registry
from .auto import NOISES, auto
from .default import default
from .plans import AdaptivePlan, GridPlan, Plan, TablePlan
from .remembered import remembered_tableau
from .request import GridLike, Request

AnySolver = Solver | LoopSolver | Cascade


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
    error: bool = False,
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
        hint = "; wrap a network: ss.ScoreModel(net, sde, prediction=...)" if callable(sde) else ""
        raise TypeError(f"sde must be a path such as VPSDE() or a model, got {shown(sde)}{hint}")
    request = Request.checked(steps, nfe, grid, t_start)
    steps, nfe, grid, t_start = request.steps, request.nfe, request.grid, request.t_start
    if isinstance(solver, Plan | Tableau):
        return _ready(solver if isinstance(solver, Plan) else TablePlan.of(solver), request, tol)
    if isinstance(solver, str | PathLike):
        file = str(solver)
        solver = load(file) if file.endswith(".safetensors") else registry.resolve(file)
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
    if isinstance(solver, Cascade):
        if tol is None and not error:
            raise ValueError("a cascade needs tol=, the error to stay below, or error=True for the bound of each sample")
        solver, request = (solver.bounded(nfe), replace(request, nfe=None)) if tol is None else (solver.within(tol), request)
    elif tol is not None:
        raise ValueError(f"tol= needs a cascade, solvers.calibrate(model, event), and {registry.name_of(solver)} is none")
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
        named = (
            shown(solver) if callable(solver) else f"{'an' if type(solver).__name__[0] in 'AEIOU' else 'a'} {type(solver).__name__}"
        )
        raise TypeError(f"{named} is no solver: {instead_of(solver)}")
    if isinstance(solver, TunedSolver) and nfe not in (None, solver.nfe):
        raise ValueError(f"{solver!r} was made for its own number of calls, not nfe={nfe}: leave nfe= out, or make one for it")
    if isinstance(solver, TunedSolver) and grid is not None and not isinstance(grid, Tensor):
        raise ValueError(f"{type(solver).__name__} has times of its own: leave grid= out")
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


def instead_of(solver: Any) -> str:
    """What to give in place of something that is no solver."""
    if isinstance(solver, type) and issubclass(solver, Solver | LoopSolver):
        return f"give an instance, {solver.__name__}()"
    if hasattr(solver, "step") or (callable(solver) and not isinstance(solver, type)):
        return "a solver of your own fills in Solver.tableau(sde, grid) or GridLoop.solve(job), see the page Extending of the documentation"
    return "it must be a name, a Solver, a GridLoop, an AdaptiveLoop, a Tableau or a Plan"


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
