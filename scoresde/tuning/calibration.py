"""A bound on the error of every sample, and as few network calls as a tolerance needs.

A deterministic solver of N calls has the last data predictions D_{N-1}, D_{N-2}, D_{N-3} at no cost. The features of its error are

    f(z) = (log |D_{N-1} - D_{N-2}|, log |D_{N-1} - D_{N-3}|, log |D_{N-1} - 2 D_{N-2} + D_{N-3}|),

with |.| the rms over an event's coordinates. From starts z_i with a reference solution the error e_i is known. On one half of the starts a
power law is fitted by least squares,

    log s(z) = mean log e + theta . (f(z) - mean f).

The other half has n starts. Let q be the k-th smallest ratio e_i/s(z_i) on them, with k = ceil((n + 1) confidence). The bound is q s(z).

Guarantee (split conformal prediction, Vovk et al. 2005; Lei et al. 2018). For a new start from the prior, and a level chosen before,

    confidence <= P(e <= q s(z)) <= confidence + 1/(n + 1)      (the right one if no two ratios are equal).

Limits of the guarantee:

- The probability is over the new start and the starts of the calibration together. It says nothing of one start alone. Given one calibration,
  the share of new starts whose bound holds has the standard deviation sqrt(confidence (1 - confidence)/n) around its mean.
- The error is the distance to the reference solution of the same model, not to the data. New conditions must be like the calibration's.
- A cascade stops at the first level with a small bound. The share of its samples whose bound fails can exceed 1 - confidence: at most the
  levels together fail, and the measured excess is 0.01 to 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import deprecation
from ..loops.base import AdaptiveLoop, Job
from ..models.base import Model
from ..numerics.batching import batches, index_cond, subset_or_none
from ..numerics.brief import Brief, line
from ..numerics.files import prefixed
from ..numerics.inputs import as_count, as_number, as_sequence
from ..sde.linear import LinearSDE
from ..solvers.tuned import State, TunedSolver, write_state
from ..tableau.executor import Run
from .reference import Cond, ReferenceSolution, distance, run_recorded, solve_reference, starts
from .selection import rank, selected, summary


@dataclass(frozen=True, repr=False)
class Level(Brief):
    """One solver of a cascade, with its calibrated bound.

    Attributes:
        solver: the solver.
        nfe: its network calls.
        mean, theta: of the power law; `mean` is that of log e, then those of f.
        factor: q.
        error, median: rms and median of the error e over the n starts.
        bounds: q s of the n starts, in the order in which they were drawn, `(n,)`.
    """

    solver: TunedSolver
    nfe: int
    mean: Tensor
    theta: Tensor
    factor: float
    error: float
    median: float
    bounds: Tensor

    def bound(self, data: Sequence[Tensor]) -> Tensor:
        """q s for the last data predictions, oldest first; `(B,)` float64."""
        return self.factor * power_law(error_features(data), self.mean, self.theta)


def error_features(data: Sequence[Tensor]) -> Tensor:
    """f of the last three data predictions, oldest first, `(B, 3)` float64. Of two predictions its first entry alone, `(B, 1)`."""
    new, old, *older = data[::-1][:3]
    zero = torch.zeros_like(new)
    differences = [new - old]
    if older:
        differences += [new - older[0], new - 2 * old + older[0]]
    return torch.stack([distance(d, zero).clamp(min=1e-30).log() for d in differences], 1)


def power_law(features: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """s, `(B,)`."""
    return (mean[0] + (features - mean[1:]) @ theta).exp()


def fit_power_law(features: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, theta) from f `(n, p)` and e `(n,)`, with a ridge of 1 %, as the features are nearly collinear."""
    log_error = error.clamp(min=1e-30).log()
    mean = torch.cat([log_error.mean()[None], features.mean(0)])
    centred = features - mean[1:]
    gram = centred.T @ centred
    ridge = 1e-2 * gram.diagonal().mean() + 1e-30
    identity = torch.ones_like(gram[0]).diag()
    return mean, torch.linalg.solve(gram + ridge * identity, centred.T @ (log_error - mean[0]))


def conformal(ratios: Tensor, confidence: float) -> float:
    """q: the k-th smallest of n ratios, k = ceil((n + 1) confidence).

    Raises:
        ValueError: n is too small for this confidence.
    """
    k = math.ceil((len(ratios) + 1) * confidence - 1e-9)
    if k > len(ratios):
        least = 2 * math.ceil(confidence / (1 - confidence) - 1e-9)
        raise ValueError(f"a confidence of {confidence} needs at least {least} noises, half of them for the bound")
    return float(ratios.sort().values[k - 1])


@dataclass(frozen=True)
class Cascade:
    """Solvers of rising budgets with a calibrated bound: `ss.sample(model, shape, cascade, tol=0.02)`.

    Attributes:
        levels: cheapest first.
        confidence: of the bound of every level.
        reference_steps, discrepancy: of the reference, see `ReferenceSolution`.
    """

    levels: tuple[Level, ...]
    confidence: float
    reference_steps: int
    discrepancy: float

    def __repr__(self) -> str:
        calls = ", ".join(str(level.nfe) for level in self.levels)
        return line("Cascade", f"{calls} network calls", f"confidence {self.confidence:g}")

    @property
    def rungs(self) -> tuple[Level, ...]:
        """Deprecated: `levels`."""
        deprecation.warn("Cascade.rungs", "Cascade.levels")
        return self.levels

    @property
    def teacher_steps(self) -> int:
        """Deprecated: `reference_steps`."""
        deprecation.warn("Cascade.teacher_steps", "Cascade.reference_steps")
        return self.reference_steps

    def at(self, tol: float) -> CascadeSolver:
        """Deprecated: `within`."""
        deprecation.warn("Cascade.at", "Cascade.within")
        return self.within(tol)

    def state_dict(self) -> State:
        """The tensors and the JSON of its file, with the names of scoresde 0.1: a cascade is a ladder there, a level a rung."""
        tensors: dict[str, Tensor] = {}
        rungs = []
        for k, level in enumerate(self.levels):
            solver, meta = level.solver.state_dict()
            bound = {"mean": level.mean, "theta": level.theta, "bounds": level.bounds}
            tensors |= prefixed(f"{k}", bound) | prefixed(f"{k}/solver", solver)
            rungs.append({"solver": meta, "nfe": level.nfe, "factor": level.factor, "error": level.error, "median": level.median})
        meta = {"kind": "ladder", "rungs": rungs, "confidence": self.confidence}
        return tensors, meta | {"teacher_steps": self.reference_steps, "discrepancy": self.discrepancy}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `tuning.load` gives the same cascade, to the bit."""
        write_state(self.state_dict(), path)

    def within(self, tol: float) -> CascadeSolver:
        """The loop that stops where the bound of a sample is at most `tol`, rms per coordinate."""
        return CascadeSolver(self, tol)

    def cheapest(self, tol: float) -> int:
        """The level to start at.

        Starting higher can leave more starts of the calibration above the tolerance. Among the levels that leave the fewest, the total number
        of calls decides.
        """
        nfe = torch.tensor([level.nfe for level in self.levels], device="cpu")
        exceeds = torch.stack([level.bounds > tol for level in self.levels])
        return min(range(len(self.levels)), key=lambda first: failures_and_calls(nfe[first:], exceeds[first:]))


def failures_and_calls(nfe: Tensor, exceeds: Tensor) -> tuple[int, int]:
    """The starts that no level solves, and the network calls for all starts.

    Args:
        nfe: network calls of each level, `(L,)`.
        exceeds: whether the bound of a start exceeds the tolerance at a level, `(L, n)`.
    """
    unsolved = exceeds.long().cumprod(0)  # after this level
    waiting = torch.cat([torch.ones_like(unsolved[:1]), unsolved[:-1]])  # before it
    return int(unsolved[-1].sum()), int((nfe * waiting.sum(1)).sum())


@dataclass(frozen=True)
class CascadeSolver(AdaptiveLoop):
    """A cascade with a tolerance.

    The first level, `Cascade.cheapest`, solves all samples. Each next level solves, from the same starts, those whose bound exceeds the
    tolerance.

    `Run.bound` has the bound of every sample, which exceeds the tolerance where that of the last level does. `Run.calls` has the network calls
    of every sample, `Run.path` the starts and the results after every level that ran.

    Raises:
        ValueError: the tolerance is not positive.
    """

    cascade: Cascade
    tol: float
    t_end: float = 0.0

    def __repr__(self) -> str:
        return line("CascadeSolver", repr(self.cascade), f"tol={self.tol:g}")

    def __post_init__(self) -> None:
        as_number("tol", self.tol, above=0.0)

    @property
    def ladder(self) -> Cascade:
        """Deprecated: `cascade`."""
        deprecation.warn("CascadeSolver.ladder", "CascadeSolver.cascade")
        return self.cascade

    def solve(self, job: Job) -> Run:
        if job.max_steps is not None:
            raise ValueError(f"a cascade brings its own steps: give tol= alone, not steps={job.max_steps}")
        if float(job.times[0]) != 1:
            raise ValueError(f"a cascade is calibrated for starts at t=1, got t={float(job.times[0]):g}")
        z, count = job.z, len(job.z)
        x, data = z.clone(), torch.zeros_like(z)
        bound = torch.full((count,), torch.inf, dtype=torch.float64, device="cpu")
        calls = torch.zeros(count, dtype=torch.long, device="cpu")
        path = [z]
        for k, level in enumerate(self.cascade.levels[self.cascade.cheapest(self.tol) :]):
            active = (bound > self.tol).nonzero().flatten()
            if not len(active):
                break
            level.solver.check(job.model)
            device_index = active.to(z.device)
            cond = index_cond(job.cond, subset_or_none(active, count), count)
            tableau = level.solver.tableau(job.model.sde, level.solver.grid)
            out, predictions = run_recorded(tableau, job.model, z[device_index], cond)
            x, data = x.index_copy(0, device_index, out.x), data.index_copy(0, device_index, predictions[-1])
            bound[active] = level.bound(predictions)
            calls[active] += level.nfe
            path.append(x)
            if job.callback is not None:
                job.callback(k, torch.zeros_like(bound), x, data)
        times = torch.cat([job.times[:1], job.times.new_zeros(len(path) - 1)])[:, None].expand(-1, count)
        return Run(x, torch.stack(path) if job.trajectory else None, times, int(calls.max()) if count else 0, calls, bound)


@deprecation.renamed_keywords(rungs="levels", teacher_steps="reference_steps")
@torch.no_grad()
def calibrate(
    model: Model,
    shape: Sequence[int],
    nfes: Sequence[int] = (5, 8, 10, 15, 20, 30),
    confidence: float = 0.95,
    *,
    noises: int = 256,
    levels: Sequence[TunedSolver] | None = None,
    cond: Cond | None = None,
    seed: int = 0,
    reference_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> Cascade:
    """A cascade for `model`; the module's docstring states its guarantee.

    Args:
        model: anything with a data prediction.
        shape: the event, without the batch.
        nfes: the budgets, network calls per sample.
        confidence: of the bound of each level.
        noises: starts of the calibration, half for the power law and half for q.
        levels: the solvers, such as fitted ones, in place of `nfes`; by default the winners of a pilot as in `select`, on the first half.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        reference_steps: as in `select`.
        t_end: as in `select`.
        batch_size: samples that the network sees at once.

    Raises:
        TypeError: an argument of a wrong type; names it.
        ValueError: a budget below 2, no budgets, a confidence outside (0, 1), or too few noises for it, or a model on a `LinearSDE`.
    """
    noises, batch_size = as_count("noises", noises, 4), as_count("batch_size", batch_size)
    nfes = [as_count("nfes", nfe, 2) for nfe in as_sequence("nfes", nfes)]
    if levels is not None and not all(isinstance(level, TunedSolver) for level in as_sequence("levels", levels)):
        raise TypeError(f"levels must be selected or fitted solvers, got {levels!r}")
    if not (nfes if levels is None else levels):
        raise ValueError("calibrate needs at least one budget in nfes=, or one solver in levels=")
    confidence = as_number("confidence", confidence, above=0.0, below=1.0)
    cond = cond or {}
    half = noises // 2
    # Too few noises raise here, before the first network call.
    conformal(torch.zeros(noises - half, device="cpu"), confidence)
    z = starts(model, shape, noises, seed, "calibrate")
    if isinstance(model.sde, LinearSDE):
        raise ValueError(f"a cascade is calibrated on a path of numbers, not on {model.sde!r}: take select or fit")
    reference = solve_reference(model, z, cond, steps=reference_steps, t_end=t_end, batch_size=batch_size)
    if levels is None:
        pilot = min(32, half)
        levels = [selected(reference, rank(model, nfe, reference, pilot, cond, batch_size)) for nfe in sorted(set(nfes))]
    calibrated = [calibrate_level(model, solver, reference, half, confidence, cond, batch_size) for solver in levels]
    calibrated.sort(key=lambda level: level.nfe)
    return Cascade(tuple(calibrated), confidence, reference.steps, reference.discrepancy)


def calibrate_level(
    model: Model, solver: TunedSolver, reference: ReferenceSolution, half: int, confidence: float, cond: Cond, batch_size: int
) -> Level:
    """The level of one solver, with the power law from the first `half` starts of the reference and q from the others."""
    tableau, z = solver.tableau(model.sde, solver.grid), reference.states[0]
    endpoints, features = [], []
    for part in batches(len(z), batch_size):
        out, data = run_recorded(tableau, model, z[part], index_cond(cond, part, len(z)))
        endpoints.append(out.x)
        features.append(error_features(data))
    error, f = distance(torch.cat(endpoints), reference.x), torch.cat(features)
    mean, theta = fit_power_law(f[:half], error[:half])
    s = power_law(f[half:], mean, theta)
    q = conformal(error[half:] / s, confidence)
    rms, median = summary(error[half:])
    return Level(solver, tableau.nfe, mean, theta, q, rms, median, q * s)
