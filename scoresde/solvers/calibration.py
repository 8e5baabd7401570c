"""An error bound for every sample, and as few network calls as a tolerance needs.

For a deterministic solver of N calls the size of its last increments costs nothing,

    f(z) = (log |D_{N-1} - D_{N-2}|, log |D_{N-1} - D_{N-3}|, log |D_{N-1} - 2 D_{N-2} + D_{N-3}|),

with |.| the rms over an event's coordinates. From starts z_i with a fine solution the error e_i is known. On one half of them a power law

    log s(z) = mean log e + theta . (f(z) - mean f)

is fitted by least squares; on the other half, n starts that the law has not seen, q is the k-th smallest ratio e_i/s(z_i) with
k = ceil((n + 1) confidence). The bound is q s(z).

What is guaranteed (split conformal prediction, Vovk et al. 2005; Lei et al. 2018): for a new start from the prior, and a rung chosen before,

    confidence <= P(e <= q s(z)) <= confidence + 1/(n + 1)      (the right one if no two ratios are equal),

where the probability is over the new start and the calibration's starts together. It is marginal: it says nothing of one start alone, and given
one calibration the share of new starts whose bound holds varies, with standard deviation sqrt(confidence (1 - confidence)/n). The error is that
against the fine solution of the same model, not against the data, and conditions have to be drawn as in the calibration. A ladder looks at
several rungs and stops where a bound is small, so the share of its samples whose bound fails can exceed 1 - confidence: at most by the rungs
together, measured by 0.01 to 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..prediction import Model
from ..random import NoiseSource
from .bound import BoundSolver, Packed, prefixed, write
from .executor import Callback, Run
from .loop import AdaptiveLoop, rows
from .selection import picked, rank, require, summary
from .teacher import Cond, distance, given, parts, starts, teach, watched


@dataclass(frozen=True)
class Rung:
    """One budget of a ladder.

    Attributes:
        solver: what runs.
        nfe: its network calls.
        mean, theta: of the power law; `mean` is that of log e, then those of f.
        factor: q.
        error, median: rms and median of the error over the starts of the calibration.
        bounds: q s of those starts, sorted as they were drawn, `(n,)`.
    """

    solver: BoundSolver
    nfe: int
    mean: Tensor
    theta: Tensor
    factor: float
    error: float
    median: float
    bounds: Tensor

    def bound(self, data: Sequence[Tensor]) -> Tensor:
        """q s for the last data predictions, oldest first; `(B,)` float64."""
        return self.factor * law(increments(data), self.mean, self.theta)


def increments(data: Sequence[Tensor]) -> Tensor:
    """f of the last two or three data predictions, oldest first, `(B, 3)` float64; `(B, 1)` where there are but two."""
    new, old, *older = data[::-1][:3]
    zero = torch.zeros_like(new)
    differences = [new - old]
    if older:
        differences += [new - older[0], new - 2 * old + older[0]]
    return torch.stack([distance(d, zero).clamp(min=1e-30).log() for d in differences], 1)


def law(features: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """s, `(B,)`."""
    return (mean[0] + (features - mean[1:]) @ theta).exp()


def fitted_law(features: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
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
class Ladder:
    """Solvers of rising budgets with a calibrated bound: `ss.sample(model, shape, ladder, tol=0.02)`.

    Attributes:
        rungs: cheapest first.
        confidence: of every rung's bound.
        teacher_steps, discrepancy: of the reference, see `Teacher`.
    """

    rungs: tuple[Rung, ...]
    confidence: float
    teacher_steps: int
    discrepancy: float

    def packed(self) -> Packed:
        """What `save` writes."""
        tensors: dict[str, Tensor] = {}
        rungs = []
        for k, rung in enumerate(self.rungs):
            solver, meta = rung.solver.packed()
            law = {"mean": rung.mean, "theta": rung.theta, "bounds": rung.bounds}
            tensors |= prefixed(f"{k}", law) | prefixed(f"{k}/solver", solver)
            rungs.append({"solver": meta, "nfe": rung.nfe, "factor": rung.factor, "error": rung.error, "median": rung.median})
        meta = {"kind": "ladder", "rungs": rungs, "confidence": self.confidence}
        return tensors, meta | {"teacher_steps": self.teacher_steps, "discrepancy": self.discrepancy}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `solvers.load` gives the same ladder, to the bit."""
        write(self.packed(), path)

    def at(self, tol: float) -> Tolerance:
        """The loop that stops where the bound of a sample is at most `tol`, rms per coordinate."""
        return Tolerance(self, tol)

    def cheapest(self, tol: float) -> int:
        """The rung to start at: the one for which the starts of the calibration would have cost the fewest calls in all.

        Of those alone from which as many of them come below the tolerance as from the first.
        """
        late = torch.stack([rung.bounds > tol for rung in self.rungs])

        def calls(first: int) -> float:
            waiting, total = torch.ones_like(late[0]), 0.0
            for rung, exceeds in zip(self.rungs[first:], late[first:], strict=True):
                total += rung.nfe * int(waiting.sum())
                waiting = waiting & exceeds
            return total

        failed = [int(late[first:].all(0).sum()) for first in range(len(self.rungs))]
        return min((first for first, count in enumerate(failed) if count == failed[0]), key=calls)


@dataclass(frozen=True)
class Tolerance(AdaptiveLoop):
    """A ladder with a tolerance.

    The first rung, `Ladder.cheapest`, solves all samples; the next, from the same starts, those whose bound exceeds the tolerance; and so on.

    Its `Run` has the bound of every sample in `bound`, which exceeds the tolerance where the last rung's does, and in `calls` the calls of
    every sample. Its `path` are the starts and the results after every rung that was tried.

    Raises:
        ValueError: the tolerance is not positive.
    """

    ladder: Ladder
    tol: float
    t_end: float = 0.0

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, got {self.tol}")

    def run(
        self,
        model: Model,
        z: Tensor,
        noise: NoiseSource,
        times: Tensor,
        *,
        steps: int | None = None,
        callback: Callback | None = None,
        trajectory: bool = False,
        cond: dict[str, object] | None = None,
    ) -> Run:
        if steps is not None:
            raise ValueError(f"a ladder brings its own steps: give tol= alone, not steps={steps}")
        if float(times[0]) != 1:
            raise ValueError(f"a ladder is calibrated for starts at t=1, got t={float(times[0]):g}")
        x, data = z.clone(), torch.zeros_like(z)
        bound = torch.full((len(z),), torch.inf, dtype=torch.float64)
        calls = torch.zeros(len(z), dtype=torch.long)
        path = [z]
        for k, rung in enumerate(self.ladder.rungs[self.ladder.cheapest(self.tol) :]):
            active = (bound > self.tol).nonzero().flatten()
            if not len(active):
                break
            rung.solver.check(model)
            where = active.to(z.device)
            subset = rows(cond or {}, None if len(active) == len(z) else active, len(z))
            tableau = rung.solver.tableau(model.sde, rung.solver.grid)
            out, last = watched(tableau, model, z[where], subset)
            x, data = x.index_copy(0, where, out.x), data.index_copy(0, where, last[-1])
            bound[active] = rung.bound(last)
            calls[active] += rung.nfe
            path.append(x)
            if callback is not None:
                callback(k, torch.zeros(len(z), dtype=torch.float64), x, data)
        at = torch.cat([times[:1], torch.zeros(len(path) - 1, dtype=torch.float64)])[:, None].expand(-1, len(z))
        return Run(x, torch.stack(path) if trajectory else None, at, int(calls.max()) if len(z) else 0, calls, bound)


@torch.no_grad()
def calibrate(
    model: Model,
    shape: Sequence[int],
    nfes: Sequence[int] = (5, 8, 10, 15, 20, 30),
    confidence: float = 0.95,
    *,
    noises: int = 256,
    rungs: Sequence[BoundSolver] | None = None,
    cond: Cond | None = None,
    seed: int = 0,
    teacher_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> Ladder:
    """A ladder for `model`; the module's docstring says what its bounds mean.

    Args:
        model: anything with a data prediction.
        shape: the event, without the batch.
        nfes: the budgets, network calls per sample.
        confidence: of the bound of each.
        noises: starts of the calibration, half for the estimate and half for its factor.
        rungs: the solvers, such as fitted ones, in place of `nfes`; by default the winners of a pilot as in `select`, on the first half.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        teacher_steps: as in `select`.
        t_end: as in `select`.
        batch_size: samples that the network sees at once.

    Raises:
        ValueError: a budget below 2, no budgets, a confidence outside (0, 1), or too few noises for it.
    """
    require(noises=(noises, 4), nfes=(len(nfes) if rungs is None else len(rungs), 1), nfe=(min(nfes), 2))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    cond = cond or {}
    half = noises // 2
    conformal(torch.zeros(noises - half), confidence)
    z = starts(model, shape, noises, seed, "calibrate")
    teacher = teach(model, z, cond, steps=teacher_steps, t_end=t_end, batch_size=batch_size)
    if rungs is None:
        pilot = min(32, half)
        rungs = [picked(teacher, rank(model, nfe, teacher, pilot, cond, batch_size)) for nfe in sorted(set(nfes))]

    def rung(solver: BoundSolver) -> Rung:
        tableau = solver.tableau(model.sde, solver.grid)
        ends, features = [], []
        for part in parts(noises, batch_size):
            out, data = watched(tableau, model, z[part], given(cond, part, noises))
            ends.append(out.x)
            features.append(increments(data))
        error, f = distance(torch.cat(ends), teacher.x), torch.cat(features)
        mean, theta = fitted_law(f[:half], error[:half])
        estimate = law(f[half:], mean, theta)
        factor = conformal(error[half:] / estimate, confidence)
        return Rung(solver, tableau.nfe, mean, theta, factor, *summary(error[half:]), factor * estimate)

    ladder = sorted((rung(solver) for solver in rungs), key=lambda r: r.nfe)
    return Ladder(tuple(ladder), confidence, teacher.steps, teacher.discrepancy)
