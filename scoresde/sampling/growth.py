"""Heun's step at few network calls: how much larger than the data its samples become.

With r = sigma/alpha, a step from r_s to r_t weighs the change of the data prediction inside it by (r_s/r_t - 1)/2. Where r_s > 3 r_t the result
lies beyond both predictions. Later steps correct that, but the last one, to sigma = 0, keeps what is left. The step is that of Karras et al.
(2022, arXiv 2206.00364, algorithm 1), and k-diffusion has the same one. What it does to Gaussian data is known exactly (`Tableau.moments`).
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections import OrderedDict

import torch
from torch import Tensor

from .. import grids
from ..models.base import Model
from ..sde.linear import LinearSDE
from ..solvers.base import Solver
from ..solvers.heun import EDMSampler, ProbabilityFlow
from ..tableau.analysis import moments
from ..tableau.tableau import Tableau
from .plans import Plan, TablePlan
from .registry import name_of
from .start import Start

# Standard deviations of data, and the growth from which Heun's errors are larger than those of DDIM with as many calls.
STDS = (0.1, 0.2, 0.5, 1.0)
MOST = 1.3
# How much larger than their start samples may be. A network that has learnt nothing makes them 1/alpha(1) times larger: up to 1e4.
DIVERGED, LARGE = 1e5, 20.0
# With more steps nothing is looked at: tables are long.
LOOKED_AT = 64
# What the last tables did: a table is the same object in the next call, and following its rows takes as long as a small network.
KEPT = 16
_seen: OrderedDict[int, tuple[Tableau, float, int | None]] = OrderedDict()


def growth(tableau: Tableau) -> float:
    """The standard deviation of the samples over that of the data, the most for Gaussian data of `STDS`."""
    sde = tableau.sde
    (a, s), (alpha, sigma) = ((float(sde.alpha(t)), float(sde.sigma(t))) for t in (tableau.times[0], tableau.times[-1]))
    std = torch.tensor(STDS, dtype=torch.float64, device="cpu")
    _, of_samples = moments(tableau, torch.zeros_like(std), std, start=(0.0, (a**2 * std**2 + s**2).sqrt()))
    return float((of_samples / (alpha**2 * std**2 + sigma**2).sqrt()).max())


def warn_of_growth(planned: Plan) -> None:
    """Warn where Heun has too few calls, with the number of calls that are enough."""
    solver = planned.solver
    steps_of_heun = isinstance(solver, EDMSampler) or (isinstance(solver, ProbabilityFlow) and solver.method == "heun")
    if not isinstance(planned, TablePlan) or not steps_of_heun or isinstance(planned.sde, LinearSDE):
        return
    if len(planned.times) > LOOKED_AT:
        return
    found, calls = looked_at(planned)
    if found > MOST:
        instead = f"take {calls} calls or more, or" if calls else "take"
        warnings.warn(
            f"{name_of(solver)} makes Gaussian samples {found:.2g} times too large with {planned.nfe} calls on this grid: {instead} a solver "
            "for few calls, such as 'dpm++2m'",
            UserWarning,
            stacklevel=3,
        )


def looked_at(planned: TablePlan) -> tuple[float, int | None]:
    """The growth of a table and, where it is too large, `enough_calls`."""
    tableau = planned.tableau
    # The entry holds the table, so that the number of a table that is gone is not given to another.
    entry = _seen.pop(id(tableau), None)
    if entry is None:
        found = growth(tableau)
        entry = tableau, found, enough_calls(planned) if found > MOST else None
    _seen[id(tableau)] = entry
    while len(_seen) > KEPT:
        _seen.popitem(last=False)
    return entry[1:]


def warn_of_flow(planned: Plan, model: Model) -> None:
    """Warn where a solver without noise follows the flow of a model whose flow is not that of its density."""
    note = getattr(model, "flow_note", "")
    if note and planned.solver is not None and not planned.solver.stochastic:
        warnings.warn(f"{note}: take scoresde.guidance.FeynmanKac, or a solver with noise", UserWarning, stacklevel=3)


def warn_of_divergence(x: Tensor, start: Start, model: Model) -> None:
    """Warn where samples are far larger than the states that they started from: neither data nor a sound solver do that.

    An error of a noise or score prediction is multiplied by sigma/alpha at the start, so that their samples are looked at more closely.
    """
    size = start.size
    if x.numel() == 0 or not 0 < size < math.inf:
        return
    amplified = getattr(model, "prediction", "") in ("noise", "score") and not isinstance(model.sde, LinearSDE)
    largest = float(x.detach().abs().max())
    if largest <= (LARGE if amplified else DIVERGED) * size:
        return
    cause = "the solver or the guidance diverges on this network."
    if amplified and largest <= DIVERGED * size:
        cause = (
            f"unless the data are, errors of the {model.prediction} prediction were multiplied by sigma/alpha. Train longer, predict the "
            "velocity, or take a solver with noise."
        )
    warnings.warn(
        f"samples are as large as {largest:.2g}, and started from {size:.2g}: {cause} scoresde.models.thresholded(model, low, high) holds the "
        "data prediction to a range; of a posterior, that of the model inside",
        UserWarning,
        stacklevel=3,
    )


def enough_calls(planned: TablePlan) -> int | None:
    """The fewest calls on a grid of this name whose samples are not too large; None where nobody knows."""
    name, solver = planned.grid_name, planned.solver
    if name not in grids.GRIDS or planned.t_start != 1 or not isinstance(solver, Solver):
        return None

    def made(steps: int) -> Tableau:
        return solver.tableau(planned.sde, grids.get(name)(planned.sde, steps))

    # The ratio of the levels of a step falls with the number of steps, and with it the growth.
    tried = range(len(planned.times), LOOKED_AT)
    first = bisect_left(tried, True, key=lambda steps: growth(made(steps)) <= MOST)
    return made(tried[first]).nfe if first < len(tried) else None
