"""The search of a fit, as stages that follow each other: the ridge, the times one by one, the ridge again, joint refinement.

Every stage takes the best fit so far and returns it or a better one. What the next stage needs fits into a small file, so that a fit that was
interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..solvers.base import Solver
from ..solvers.blocks import table
from ..tableau.linear_multistep import multistep_of
from ..tableau.multistep_form import Multistep
from .gauss_newton import DAMPINGS, refined
from .ranking import Ranked
from .regression import Fit, Problem, regress

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3)

# How far a time moves at once, as a share of the interval on that side, in three rounds.
TIME_MOVES = (0.4, 0.2, 0.1)

# Of a time, in each of these rounds, on average.
TRIALS = 2


class Stage(NamedTuple):
    """A part of the search.

    Attributes:
        name: what it does.
        calls: about as many network calls a start, for the progress bar.
        improve: the best fit so far, or a better one, of a problem, the solver whose coefficients a regression corrects, and the best fit.
    """

    name: str
    calls: float
    improve: Callable[[Problem, Solver, Fit], Fit]


def stages(times: int, nfe: int, refine: int) -> Iterator[Stage]:
    """The stages in their order.

    Args:
        times: the number of times of the first fit, its start and its end among them.
        nfe: network calls.
        refine: rounds of refinement.
    """
    ridge = Stage("ridge", len(RIDGES) * nfe, best_ridge)
    yield ridge
    for k, fraction in enumerate(TIME_MOVES, 1):
        for m in range(1, times - 1):
            yield Stage(f"times {k}/{len(TIME_MOVES)}", TRIALS * nfe, partial(search_time, m, fraction))
    yield ridge
    for k in range(1, refine + 1):
        yield Stage(f"refinement {k}/{refine}", round_of(nfe), refine_once)


def round_of(nfe: int) -> float:
    """Network calls a start of a round of refinement: the derivatives from half of the starts, and the dampings from all."""
    return nfe * (nfe - 1) * (nfe + 7) / 12 + len(DAMPINGS) * nfe


def initial_form(problem: Problem, solver: Solver, times: Tensor) -> Multistep:
    """The coefficients of a training-free solver at these times, which a regression corrects."""
    return multistep_of(table(solver, problem.model.sde, times))


def best_start(problem: Problem, ranking: Sequence[Ranked], weights: Tensor) -> tuple[Ranked, Fit]:
    """The best fit on the grids of the ranking, each with the first solver that has this grid, and where in the ranking it began."""
    fits, grids = list[tuple[Ranked, Fit]](), list[Tensor]()
    for entry in ranking:
        if not any(len(grid) == len(entry.grid) and torch.allclose(entry.grid, grid, rtol=1e-3) for grid in grids):
            grids.append(entry.grid)
            fits.append((entry, regress(problem, initial_form(problem, entry.solver, entry.grid), weights, RIDGES[1])))
    return min(fits, key=lambda pair: pair[1].score)


def best_ridge(problem: Problem, solver: Solver, fit: Fit) -> Fit:
    """The fit at the same times with the ridge that is best on the held-out starts."""
    form = initial_form(problem, solver, fit.form.all_times)
    for ridge in RIDGES:
        fit = min(fit, regress(problem, form, fit.weights, ridge), key=lambda f: f.score)
    return fit


def refine_once(problem: Problem, solver: Solver, fit: Fit) -> Fit:
    """A round of refinement."""
    return refined(problem, fit)


def search_time(m: int, fraction: float, problem: Problem, solver: Solver, fit: Fit) -> Fit:
    """Move time m by `fraction` of the interval on a side for as long as the held-out score falls."""
    if m == 1:
        # A better fit separates the starts that end in another mode more clearly.
        reweighted = regress(problem, initial_form(problem, solver, fit.form.all_times), problem.weights(fit.x), fit.ridge)
        fit = min(fit, reweighted, key=lambda f: f.score)
    up = move_while_better(problem, solver, fit, m, fraction)
    return up if up is not fit else move_while_better(problem, solver, fit, m, -fraction)


def move_while_better(problem: Problem, solver: Solver, fit: Fit, m: int, fraction: float) -> Fit:
    """Move time m of `all_times` in one direction until the held-out score no longer falls. `fit` itself where the first move does not help."""
    while True:
        times = move_time(fit.form.all_times, m, fraction, problem.model.sde.t_min)
        if torch.equal(times, fit.form.all_times):
            return fit
        form = initial_form(problem, solver, times)
        # The steps before the one that ends at time m stay as they are; the first time of a late first call changes all.
        step = m - len(times) + len(form.times)
        trial = regress(problem, form, fit.weights, fit.ridge, fit if step else None, max(step - 1, 0))
        if not trial.score < fit.score:
            return fit
        fit = trial


def move_time(times: Tensor, m: int, fraction: float, t_min: float) -> Tensor:
    """The times with time m moved by a share of the interval on that side: towards noise where `fraction` is positive."""
    moved = times.clone()
    interval = times[m - 1] - times[m] if fraction > 0 else times[m] - times[m + 1]
    moved[m] += fraction * interval
    if m == len(times) - 2:
        moved[m] = moved[m].clamp(min=t_min)
    return moved
