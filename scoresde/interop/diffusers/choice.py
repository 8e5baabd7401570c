"""Which solver runs on which grid in a pipeline: from the start of the path, and from the middle of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ...sampling.default import default
from ...sampling.planning import plan
from ...sampling.plans import TablePlan
from ...sampling.registry import name_of
from ...sampling.request import GridLike
from ...sde.base import SDE
from ...sde.families import RectifiedFlow
from ...sde.prediction import Prediction
from ...sde.vp import VPChain
from ...solvers.base import Solver
from ...solvers.composed import FreeFirstStep, LateFirstCall
from ...solvers.tuned import TunedSolver
from ...tableau.tableau import Tableau
from ...tuning.fitting import FittedSolver
from ...tuning.selection import Selected, portfolio_solver
from .reading import NOISE_RULES, Reading

# The default depends on the size of an event. Pipelines make images, sounds and videos, which all count as large.
LARGE_EVENT = (4, 64, 64)


def choose(
    reading: Reading,
    solver: Solver | None,
    grid: GridLike | None,
    calls: int | None,
    timesteps: Sequence[float] | Tensor | None,
    sigmas: Sequence[float] | Tensor | None,
    mu: float | None,
    *,
    event: Sequence[int] | None,
    late: bool,
) -> tuple[Solver, Tableau]:
    """The solver and its table for the arguments of `Scheduler.set_timesteps`.

    Args:
        reading: of the scheduler in whose place ours stands.
        solver: None for the default.
        grid: None for that of the call, of the source (`inherited`) or of the solver.
        event, late: as in `default_for`.

    Raises:
        ValueError: contradicting arguments, or none.
    """
    if timesteps is not None and sigmas is not None:
        raise ValueError("give timesteps= or sigmas=, not both")
    given = timesteps if timesteps is not None else sigmas
    if calls is None:
        if given is None:
            raise ValueError("give num_inference_steps=, timesteps= or sigmas=")
        calls = len(given) - (given is sigmas and float(given[-1]) == 0)  # some lists of sigmas end with that of the data
    if solver is None:
        # A grid of one's own says where the first call is.
        solver, suited = default_for(
            reading.sde, reading.prediction, calls, event, late=late and grid is None and timesteps is None
        )
        grid = suited if grid is None else grid
    if timesteps is not None:
        if isinstance(solver, TunedSolver):
            raise ValueError(f"{type(solver).__name__} has times of its own: give num_inference_steps={solver.nfe} alone")
        grid = reading.from_timesteps(timesteps)
    elif grid is None and isinstance(solver, LateFirstCall):
        grid = solver.default_grid
    elif grid is None and sigmas is not None:
        grid = reading.from_sigmas(sigmas, mu)
    elif grid is None:
        grid = inherited(reading, calls + first_step_is_free(solver), mu)
    return solver, planned(reading.sde, solver, grid, calls)


def inherited(reading: Reading, steps: int, mu: float | None) -> Tensor | None:
    """The times of `steps` steps by the scheduler in whose place ours stands, `(steps + 1,)`; None where it spaces a chain evenly.

    An even spacing ends with a call at the first index of a chain, or at sigma = 1/T of a flow. Between the last two calls nearly all noise
    vanishes, over which solvers of high order extrapolate. A flow has sigma = 1, ..., 1/N and 0, shifted, as in the pipelines of Flux.
    """
    if isinstance(reading.sde, RectifiedFlow):
        return reading.from_sigmas(torch.arange(steps, 0, -1, dtype=torch.float64, device="cpu") / steps, mu)
    evenly = isinstance(reading.sde, VPChain) and not any(reading.config.get(flag) for flag in NOISE_RULES)
    return None if evenly else reading.grid(steps, mu)


def default_for(
    sde: SDE, prediction: Prediction, calls: int, event: Sequence[int] | None, *, late: bool
) -> tuple[Solver, GridLike]:
    """The default of `sample` for a number of network calls.

    Args:
        event: the shape of a sample; None is taken for a large one.
        late: whether the first call may be late; without it the solver and its grid start with a call.
    """
    solver, grid = default(sde, calls, prediction, LARGE_EVENT if event is None else event)
    if late or not isinstance(solver, LateFirstCall):
        return solver, grid
    assert isinstance(grid, partial)
    options = {name: value for name, value in grid.keywords.items() if name not in ("rule", "ratio")}
    return solver.solver, partial(grid.keywords["rule"], **options)


def planned(sde: SDE, solver: Solver, grid: GridLike | None, calls: int) -> Tableau:
    """The table of a solver for `num_inference_steps` = `calls`, which is a number of steps for a solver with several calls in a step.

    Raises:
        ValueError: a solver or a grid that was made for another number.
    """
    if isinstance(solver, TunedSolver):
        require_calls(calls, {solver.nfe}, f"{type(solver).__name__} was made for {solver.nfe} network calls")
        made = plan(sde, solver, grid=solver.grid)
    elif isinstance(grid, Tensor):
        made = plan(sde, solver, grid=grid)
        assert isinstance(made, TablePlan)
        require_calls(calls, {len(grid) - 1, made.nfe}, f"the grid of this scheduler has {len(grid) - 1} steps")
    elif first_step_is_free(solver):
        made = plan(sde, solver, nfe=calls, grid=grid)
    else:
        made = plan(sde, solver, steps=calls, grid=grid)
    assert isinstance(made, TablePlan)
    return made.tableau


def first_step_is_free(solver: Solver) -> bool:
    """Whether N network calls make N + 1 steps."""
    return isinstance(solver, LateFirstCall | FreeFirstStep) and solver.calls_per_step == 1


def require_calls(calls: int, possible: set[int], why: str) -> None:
    """Raise unless the pipeline was asked for one of these numbers.

    Raises:
        ValueError: says which to ask for.
    """
    if calls not in possible:
        raise ValueError(f"{why}, and num_inference_steps={calls}: give num_inference_steps={max(possible)}")


def starting_solver(solver: Solver) -> Solver:
    """The solver that goes on from a state in the middle of the path, which has no history and no late first call.

    In place of a fitted solver, whose coefficients use its whole history, it is the one from which the fit began, on the fitted times.

    Raises:
        ValueError: the fit began from a solver that is no longer in the portfolio.
    """
    if isinstance(solver, LateFirstCall | FreeFirstStep):
        return starting_solver(solver.solver)
    if isinstance(solver, TunedSolver):
        inner = None
        if isinstance(solver, FittedSolver):
            inner = portfolio_solver(solver.settings["theory"])
        elif isinstance(solver, Selected):
            inner = solver.solver or portfolio_solver(solver.name)
        if inner is None:
            raise ValueError(
                f"{type(solver).__name__} starts at its own first time only, and the solver that it was made from is unknown"
            )
        return starting_solver(inner)
    return solver


def table_from_call(solver: Solver, tableau: Tableau, call: int) -> Tableau:
    """The table from network call `call` of `tableau` on, for a state at the time of that call and with no history.

    Raises:
        ValueError: the call lies inside a step, or the solver would make other calls from there; names the solver.
    """
    state = tableau.evaluated[call]
    steps = [n for n, evaluated in enumerate(tableau.step_evals) if evaluated == state]
    name = name_of(solver)
    if not steps:
        raise ValueError(
            f"a loop cannot start at call {call} of {name}, which is in the middle of a step: take another strength, or a solver with one "
            "call a step"
        )
    # A late first call makes two steps.
    times = [tableau.times[state], *(tableau.times[j] for j in tableau.grid_states[steps[-1] + 1 :])]
    rest = starting_solver(solver).tableau(tableau.sde, torch.tensor(times, dtype=torch.float64, device="cpu"))
    expected = [tableau.times[j] for j in tableau.evaluated[call:]]
    calls = [rest.times[j] for j in rest.evaluated]
    if len(calls) != len(expected) or max(abs(a - b) for a, b in zip(calls, expected, strict=True)) > 1e-9:
        raise ValueError(
            f"{name} calls the network at other times when it starts at call {call}: take another solver for a part of the path"
        )
    return rest


def call_sigmas(sde: SDE, tableau: Tableau) -> Tensor:
    """sigma of a flow, sigma/alpha elsewhere, at the network calls and at the end, `(calls + 1,)` float64."""
    t = torch.tensor([*(tableau.times[k] for k in tableau.evaluated), tableau.times[-1]], dtype=torch.float64, device="cpu")
    return sde.sigma(t) if isinstance(sde, RectifiedFlow) else sde.sigma(t) / sde.alpha(t)
