"""A solver fitted to one model: coefficients in closed form (`regression`), searched times and joint refinement (`refinement`).

The interior times are searched one by one, as far as the error on starts that the coefficients have not seen falls; so is the ridge.

Trained by gradient, such a form (`multistep`) is the solver of Shaul et al. 2024 (arXiv 2403.01329). Held-out times are added here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.base import Model
from ..sde.base import SDE
from ..solvers.base import Solver
from ..solvers.tuned import State, TunedSolver, schedule_fingerprint
from ..tableau.multistep import Multistep, multistep
from ..tableau.tableau import Tableau
from .gauss_newton import refined
from .reference import Cond, distance, solve_reference, starts
from .regression import FeatureMap, Fit, Problem, regress
from .selection import Ranked, rank, require, solve, summary

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3)


MOVES = (0.4, 0.2, 0.1)


LEAST_GAIN = 0.01


# What a file says of a fitted solver beside its tensors.
KEPT = ("improved", "error", "median", "baseline", "settings", "model")


def _moved(times: Tensor, m: int, fraction: float, t_min: float) -> Tensor:
    """Time m shifted by this fraction of the gap towards its neighbour: positive towards noise."""
    moved = times.clone()
    gap = times[m - 1] - times[m] if fraction > 0 else times[m] - times[m + 1]
    moved[m] += fraction * gap
    if m == len(times) - 2:
        moved[m] = moved[m].clamp(min=t_min)
    return moved


def _search(problem: Problem, solver: Solver, fit: Fit, tick: Callable[[], object]) -> Fit:
    """Coordinate search of the interior times; a direction is followed while the held-out score falls."""
    sde, steps = problem.model.sde, len(fit.form.a)

    def follow(fit: Fit, m: int, fraction: float) -> Fit:
        """Move time m for as long as that helps."""
        while True:
            times = _moved(fit.form.times, m, fraction, sde.t_min)
            if torch.equal(times, fit.form.times):
                return fit
            # The steps before m - 1 do not see time m.
            trial = regress(problem, multistep(solver.tableau(sde, times)), fit.weights, fit.ridge, fit, m - 1)
            tick()
            if not trial.score < fit.score:
                return fit
            fit = trial

    for move in MOVES:
        # With a better fit the weights see better which starts change their mode.
        reweighted = regress(problem, multistep(solver.tableau(sde, fit.form.times)), problem.weights(fit.x), fit.ridge)
        fit = min(fit, reweighted, key=lambda f: f.score)
        for m in range(1, steps):
            up = follow(fit, m, move)
            fit = up if up is not fit else follow(fit, m, -move)
    return fit


@dataclass(frozen=True, eq=False)
class FittedSolver(TunedSolver):
    """A solver fitted to one model, for its process and its number of calls: an ordinary table. `str` says what the fit was worth.

    Attributes:
        form: the coefficients.
        process: see `TunedSolver`.
        improved: the fit is better than the best training-free solver on the held-out starts; where it is not, `form` is that solver.
        error: rms distance per coordinate to the teacher on the held-out starts. They chose the times: over starts never seen the median is
            about the same, but the rms, ruled by a start in a hundred that ends in another mode, can be several times larger.
        median: the median of that distance.
        baseline: name, rms and median of the best training-free solver on the same starts.
        settings: what the fit was asked for and what it took: event, trajectories, seed, teacher steps and discrepancy, ridge.
        model: `fingerprint` of the model.
    """

    form: Multistep
    process: Tensor
    improved: bool
    error: float
    median: float
    baseline: tuple[str, float, float]
    settings: dict[str, Any]
    model: str

    @property
    def grid(self) -> Tensor:  # type: ignore[override]
        """The fitted times."""
        return self.form.times

    def table(self, sde: SDE) -> Tableau:
        return self.form.table(sde)

    def check(self, model: Model) -> None:
        """Warn if the solver was fitted to another model."""
        here = fingerprint(model)
        if here != self.model:
            warnings.warn(
                f"this solver was fitted to the model {self.model}, and samples the model {here}", UserWarning, stacklevel=3
            )

    def __str__(self) -> str:
        name, rms, median = self.baseline
        fitted = f"rms {self.error:.3g}, median {self.median:.3g} on held-out starts"
        if self.improved:
            return f"fitted solver of {self.nfe} calls: {fitted}; {name}: {rms:.3g}, {median:.3g}"
        return f"{name} with {self.nfe} calls, which the fit did not improve on: {fitted}"

    def state_dict(self) -> State:
        meta = {"kind": "fitted", "nfe": self.nfe} | {name: getattr(self, name) for name in KEPT}
        return {"times": self.form.times, "a": self.form.a, "b": self.form.b, "process": self.process}, meta

    @classmethod
    def from_state_dict(cls, state_dict: State) -> FittedSolver:
        """The inverse of `state_dict`."""
        tensors, meta = state_dict
        form = Multistep(tensors["times"], tensors["a"], tensors["b"])
        values = {name: meta[name] for name in KEPT} | {"baseline": tuple(meta["baseline"])}
        return cls(form, tensors["process"], **values)


def fingerprint(model: Model) -> str:
    """What a model is recognised by: the shapes of its parameters with four values of each, hashed; without parameters its class alone."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    digest = hashlib.sha256(type(model).__name__.encode() if not parameters else b"")
    for p in parameters:
        # Three digits survive another device and half precision.
        values = ",".join(f"{v:.2e}" for v in p.detach().flatten()[:4].float().tolist())
        digest.update(f"{tuple(p.shape)}:{values};".encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def fit(
    model: Model,
    nfe: int = 8,
    *,
    shape: Sequence[int],
    trajectories: int = 256,
    cond: Cond | None = None,
    seed: int = 0,
    progress: bool = True,
    refine: int = 6,
    feature_map: FeatureMap | None = None,
    teacher_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> FittedSolver:
    """Fit a solver of `nfe` calls to `model`; the module's docstring says how.

    Half of the starts are regressed on, half choose the start from the portfolio of `select` (a grid and the theory of its best solver), the
    ridge and the times. For 8 calls that is some 600 calls a start in all, half of them for the times, and as many again for the refinement.
    Memory: 2 S + 2 nfe copies of all states, S the steps of the teacher; with `refine`, nfe^2 copies in float64 of `batch_size` of them.

    Args:
        model: anything with a data prediction: a network, a guided one, an exact score.
        nfe: network calls per sample.
        shape: the event, without the batch.
        trajectories: number of starts.
        cond: reaches the network untouched; a tensor whose first dimension is `trajectories` has one row a start.
        seed: of the starts.
        progress: show a progress bar.
        refine: most rounds of joint refinement of coefficients and times after the closed form, at 8 calls of 270 calls a start of the fit;
            they end where the held-out error no longer falls. For a network in float32 or float64.
        feature_map: a linear map of states `(B, *event)`; the regression compares what it returns, in place of the states themselves.
        teacher_steps: S; by default as many as needed, see `solve_reference`.
        t_end: time of the teacher's last network call, by default `model.sde.t_min`; a model that is exact below it can go lower.
        batch_size: samples that the network sees at once.

    Returns:
        A solver for `sample`, never worse on the held-out starts than the winner of the pilot.

    Raises:
        ValueError: `nfe` below 2 or fewer than 8 trajectories.
    """
    require(nfe=(nfe, 2), trajectories=(trajectories, 8))
    cond = cond or {}
    teacher = solve_reference(
        model, starts(model, shape, trajectories, seed, "fit"), cond, steps=teacher_steps, t_end=t_end, batch_size=batch_size
    )
    problem = Problem(model, teacher, cond, trajectories // 2, batch_size, feature_map)
    with _counter(progress) as tick:
        ranking = rank(model, nfe, teacher, min(32, trajectories), cond, batch_size)
        best = ranking[0]
        free = solve(model, best.solver.tableau(model.sde, best.grid), teacher.states[0], cond, batch_size)
        entry, found = _start(problem, ranking, problem.weights(free), tick)
        found = _best_ridge(problem, entry.solver, found, tick)
        found = _search(problem, entry.solver, found, tick)
        found = _best_ridge(problem, entry.solver, found, tick)
        found = refined(problem, found, refine, tick)
    improved = found.score < (1 - LEAST_GAIN) * problem.score(free)
    held_out = slice(problem.fitting, None)
    rms, median = summary(distance(free[held_out], teacher.x[held_out]))
    error, middle = summary(distance(found.x[held_out], teacher.x[held_out])) if improved else (rms, median)
    form = found.form if improved else multistep(best.solver.tableau(model.sde, best.grid))
    settings = {
        "event": list(shape), "trajectories": trajectories, "seed": seed, "teacher_steps": teacher.steps,
        "discrepancy": teacher.discrepancy, "theory": entry.name, "ridge": found.ridge, "refine": refine,
    }  # fmt: skip
    return FittedSolver(
        form, schedule_fingerprint(model.sde), improved, error, middle, (best.name, rms, median), settings, fingerprint(model)
    )


def _start(problem: Problem, ranking: Sequence[Ranked], weights: Tensor, tick: Callable[[], object]) -> tuple[Ranked, Fit]:
    """The best fit at the grids of the portfolio, each with the best of its solvers for theory."""
    fits, grids = list[tuple[Ranked, Fit]](), list[Tensor]()
    for entry in ranking:
        if not any(torch.allclose(entry.grid, grid, rtol=1e-3) for grid in grids):
            grids.append(entry.grid)
            form = multistep(entry.solver.tableau(problem.model.sde, entry.grid))
            fits.append((entry, regress(problem, form, weights, RIDGES[1])))
            tick()
    return min(fits, key=lambda pair: pair[1].score)


def _best_ridge(problem: Problem, solver: Solver, fit: Fit, tick: Callable[[], object]) -> Fit:
    """The fit at the same times with the ridge that is best on the held-out starts."""
    form = multistep(solver.tableau(problem.model.sde, fit.form.times))
    for ridge in RIDGES:
        fit = min(fit, regress(problem, form, fit.weights, ridge), key=lambda f: f.score)
        tick()
    return fit


@contextmanager
def _counter(show: bool) -> Iterator[Callable[[], object]]:
    """What to call after every regression; their number is not known beforehand."""
    if not show:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(unit="fit") as bar:
        yield bar.update
