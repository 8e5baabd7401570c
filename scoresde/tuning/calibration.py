"""An error bound for every sample, and as few network calls as a tolerance needs.

For a deterministic solver of N calls the size of its last increments costs nothing,

    f(z) = (log |D_{N-1} - D_{N-2}|, log |D_{N-1} - D_{N-3}|, log |D_{N-1} - 2 D_{N-2} + D_{N-3}|),

with |.| the rms over an event's coordinates. From starts z_i with a fine solution the error e_i is known. On one half of them a power law

    log s(z) = mean log e + theta . (f(z) - mean f)

is fitted by least squares; on the other half, n starts that the law has not seen, q is the k-th smallest ratio e_i/s(z_i) with
k = ceil((n + 1) confidence). The bound is q s(z).

What is guaranteed (split conformal prediction, Vovk et al. 2005; Lei et al. 2018): for a new start from the prior, and a level chosen before,

    confidence <= P(e <= q s(z)) <= confidence + 1/(n + 1)      (the right one if no two ratios are equal),

where the probability is over the new start and the calibration's starts together. It is marginal: it says nothing of one start alone, and given
one calibration the share of new starts whose bound holds varies, with standard deviation sqrt(confidence (1 - confidence)/n). The error is that
against the fine solution of the same model, not against the data, and conditions have to be drawn as in the calibration. A cascade looks at
several levels and stops where a bound is small, so the share of its samples whose bound fails can exceed 1 - confidence: at most by the levels
together, measured by 0.01 to 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..loops.base import AdaptiveLoop, Job
from ..models.base import Model
from ..numerics.batching import batches, index_cond, subset_or_none
from ..numerics.files import prefixed
from ..solvers.tuned import State, TunedSolver, write_state
from ..tableau.executor import Run
from .reference import Cond, distance, run_recorded, solve_reference, starts
from .selection import rank, require, selected, summary


@dataclass(frozen=True)
class Level:
    """One budget of a cascade.

    Attributes:
        solver: what runs.
        nfe: its network calls.
        mean, theta: of the power law; `mean` is that of log e, then those of f.
        factor: q.
        error, median: rms and median of the error over the starts of the calibration.
        bounds: q s of those starts, sorted as they were drawn, `(n,)`.
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
    """f of the last two or three data predictions, oldest first, `(B, 3)` float64; `(B, 1)` where there are but two."""
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
    """(mean, theta) from f `(n, p)` and e `(n,)`, with a slight ridge as the features are nearly collinear."""
    log_error = error.clamp(min=1e-30).log()
    mean = torch.cat([log_error.mean()[None], features.mean(0)])
    centred = features - mean[1:]
    gram = centred.T @ centred
    ridge = 1e-2 * gram.diagonal().mean() + 1e-30
    return mean, torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), centred.T @ (log_error - mean[0]))


def conformal(ratios: Tensor, confidence: float) -> float:
    """The k-th smallest of n ratios, k = ceil((n + 1) confidence).

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
        confidence: of every level's bound.
        teacher_steps, discrepancy: of the reference, see `ReferenceSolution`.
    """

    levels: tuple[Level, ...]
    confidence: float
    teacher_steps: int
    discrepancy: float

    def state_dict(self) -> State:
        """What `save` writes."""
        tensors: dict[str, Tensor] = {}
        levels = []
        for k, level in enumerate(self.levels):
            solver, meta = level.solver.state_dict()
            law = {"mean": level.mean, "theta": level.theta, "bounds": level.bounds}
            tensors |= prefixed(f"{k}", law) | prefixed(f"{k}/solver", solver)
            levels.append({"solver": meta, "nfe": level.nfe, "factor": level.factor, "error": level.error, "median": level.median})
        meta = {"kind": "ladder", "rungs": levels, "confidence": self.confidence}
        return tensors, meta | {"teacher_steps": self.teacher_steps, "discrepancy": self.discrepancy}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `solvers.load` gives the same cascade, to the bit."""
        write_state(self.state_dict(), path)

    def within(self, tol: float) -> CascadeSolver:
        """The loop that stops where the bound of a sample is at most `tol`, rms per coordinate."""
        return CascadeSolver(self, tol)

    def cheapest(self, tol: float) -> int:
        """The level to start at: the one for which the starts of the calibration would have cost the fewest calls in all.

        Of those alone from which as many of them come below the tolerance as from the first.
        """
        late = torch.stack([level.bounds > tol for level in self.levels])

        def calls(first: int) -> float:
            waiting, total = torch.ones_like(late[0]), 0.0
            for level, exceeds in zip(self.levels[first:], late[first:], strict=True):
                total += level.nfe * int(waiting.sum())
                waiting = waiting & exceeds
            return total

        failed = [int(late[first:].all(0).sum()) for first in range(len(self.levels))]
        return min((first for first, count in enumerate(failed) if count == failed[0]), key=calls)


@dataclass(frozen=True)
class CascadeSolver(AdaptiveLoop):
    """A cascade with a tolerance.

    The first level, `Cascade.cheapest`, solves all samples; the next, from the same starts, those whose bound exceeds the tolerance; and so on.

    Its `Run` has the bound of every sample in `bound`, which exceeds the tolerance where the last level's does, and in `calls` the calls of
    every sample. Its `path` are the starts and the results after every level that was tried.

    Raises:
        ValueError: the tolerance is not positive.
    """

    cascade: Cascade
    tol: float
    t_end: float = 0.0

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, got {self.tol}")

    def solve(self, job: Job) -> Run:
        model, z, count = job.model, job.z, len(job.z)
        if job.max_steps is not None:
            raise ValueError(f"a cascade brings its own steps: give tol= alone, not steps={job.max_steps}")
        if float(job.times[0]) != 1:
            raise ValueError(f"a cascade is calibrated for starts at t=1, got t={float(job.times[0]):g}")
        x, data = z.clone(), torch.zeros_like(z)
        bound = torch.full((count,), torch.inf, dtype=torch.float64)
        calls = torch.zeros(count, dtype=torch.long)
        path = [z]
        for k, level in enumerate(self.cascade.levels[self.cascade.cheapest(self.tol) :]):
            active = (bound > self.tol).nonzero().flatten()
            if not len(active):
                break
            level.solver.check(model)
            device_index = active.to(z.device)
            active_cond = index_cond(job.cond, subset_or_none(active, count), count)
            tableau = level.solver.tableau(model.sde, level.solver.grid)
            out, outputs = run_recorded(tableau, model, z[device_index], active_cond)
            x, data = x.index_copy(0, device_index, out.x), data.index_copy(0, device_index, outputs[-1])
            bound[active] = level.bound(outputs)
            calls[active] += level.nfe
            path.append(x)
            if job.callback is not None:
                job.callback(k, torch.zeros(count, dtype=torch.float64), x, data)
        times = torch.cat([job.times[:1], torch.zeros(len(path) - 1, dtype=torch.float64)])[:, None].expand(-1, count)
        return Run(x, torch.stack(path) if job.trajectory else None, times, int(calls.max()) if count else 0, calls, bound)


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
    teacher_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> Cascade:
    """A cascade for `model`; the module's docstring says what its bounds mean.

    Args:
        model: anything with a data prediction.
        shape: the event, without the batch.
        nfes: the budgets, network calls per sample.
        confidence: of the bound of each.
        noises: starts of the calibration, half for the estimate and half for its factor.
        levels: the solvers, such as fitted ones, in place of `nfes`; by default the winners of a pilot as in `select`, on the first half.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        teacher_steps: as in `select`.
        t_end: as in `select`.
        batch_size: samples that the network sees at once.

    Raises:
        ValueError: a budget below 2, no budgets, a confidence outside (0, 1), or too few noises for it.
    """
    require(noises=(noises, 4), nfes=(len(nfes) if levels is None else len(levels), 1), nfe=(min(nfes), 2))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    cond = cond or {}
    half = noises // 2
    conformal(torch.zeros(noises - half), confidence)
    z = starts(model, shape, noises, seed, "calibrate")
    teacher = solve_reference(model, z, cond, steps=teacher_steps, t_end=t_end, batch_size=batch_size)
    if levels is None:
        pilot = min(32, half)
        levels = [selected(teacher, rank(model, nfe, teacher, pilot, cond, batch_size)) for nfe in sorted(set(nfes))]

    def level(solver: TunedSolver) -> Level:
        tableau = solver.tableau(model.sde, solver.grid)
        ends, features = [], []
        for part in batches(noises, batch_size):
            out, data = run_recorded(tableau, model, z[part], index_cond(cond, part, noises))
            ends.append(out.x)
            features.append(error_features(data))
        error, f = distance(torch.cat(ends), teacher.x), torch.cat(features)
        mean, theta = fit_power_law(f[:half], error[:half])
        estimate = power_law(f[half:], mean, theta)
        factor = conformal(error[half:] / estimate, confidence)
        return Level(solver, tableau.nfe, mean, theta, factor, *summary(error[half:]), factor * estimate)

    cascade = sorted((level(solver) for solver in levels), key=lambda r: r.nfe)
    return Cascade(tuple(cascade), confidence, teacher.steps, teacher.discrepancy)
