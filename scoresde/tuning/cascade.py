"""Calibrated solvers of rising budgets: one of them with its bound, or as many as a tolerance needs. `calibration` makes them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import deprecation
from ..loops.base import AdaptiveLoop, Job
from ..models.base import Model
from ..numerics.batching import index_cond, subset_or_none
from ..numerics.brief import Brief, line
from ..numerics.files import prefixed
from ..numerics.inputs import as_number
from ..solvers.tuned import State, TunedSolver, write_state
from ..tableau.executor import Run
from .identity import fingerprint
from .reference import distance, run_recorded


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


@dataclass(frozen=True)
class Cascade:
    """Solvers of rising budgets with a calibrated bound: `ss.sample(model, shape, cascade, tol=0.02)`.

    Attributes:
        levels: cheapest first.
        confidence: of the bound of every level.
        reference_steps, discrepancy: of the reference, see `ReferenceSolution`.
        model: `identity.fingerprint` of the model; "" in files of scoresde 0.1.
    """

    levels: tuple[Level, ...]
    confidence: float
    reference_steps: int
    discrepancy: float
    model: str = ""

    def check(self, model: Model) -> None:
        """Raise where the cascade was calibrated on another model: its bounds say nothing there.

        Raises:
            ValueError: says so.
        """
        if self.model and fingerprint(model) != self.model:
            raise ValueError(
                "this cascade was calibrated on another network, guidance or range, so that its bounds do not hold: calibrate one on this model"
            )

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
        meta = {"kind": "ladder", "rungs": rungs, "confidence": self.confidence, "model": self.model}
        return tensors, meta | {"teacher_steps": self.reference_steps, "discrepancy": self.discrepancy}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `tuning.load` gives the same cascade, to the bit."""
        write_state(self.state_dict(), path)

    def bounded(self, nfe: int | None = None) -> BoundedSolver:
        """One level for all samples, with the bound of each: that of `nfe` calls, by default the last one.

        Raises:
            ValueError: no level has so many calls; names those that there are.
        """
        found = [level for level in self.levels if nfe in (None, level.nfe)]
        if not found:
            calls = ", ".join(str(level.nfe) for level in self.levels)
            raise ValueError(f"nfe={nfe}, but the levels of this cascade have {calls} network calls")
        return BoundedSolver(self, found[-1])

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


def at_start(job: Job) -> None:
    """Raise unless the job begins where a calibration began.

    Raises:
        ValueError: it has steps of its own, or begins elsewhere.
    """
    if job.max_steps is not None:
        raise ValueError(f"a cascade brings its own steps: give tol= or error=True alone, not steps={job.max_steps}")
    if float(job.times[0]) != 1:
        raise ValueError(f"a cascade is calibrated for starts at t=1, got t={float(job.times[0]):g}")


def solve_level(level: Level, job: Job, active: Tensor) -> tuple[Run, Tensor, Tensor]:
    """The run of a level from the states `active` of the job, the last data predictions, and the bounds."""
    level.solver.check(job.model, job.z.shape[1:])
    cond = index_cond(job.cond, subset_or_none(active, len(job.z)), len(job.z))
    tableau = level.solver.tableau(job.model.sde, level.solver.grid)
    out, predictions = run_recorded(tableau, job.model, job.z[active.to(job.z.device)], cond)
    return out, predictions[-1], level.bound(predictions)


@dataclass(frozen=True)
class BoundedSolver(AdaptiveLoop):
    """One level of a cascade for every sample. `Run.bound` has the bound of every sample.

    Attributes:
        cascade: the cascade that the level is of.
        level: the level.
    """

    cascade: Cascade
    level: Level
    t_end: float = 0.0

    def __repr__(self) -> str:
        return line("BoundedSolver", f"{self.level.nfe} network calls", f"confidence {self.cascade.confidence:g}")

    def solve(self, job: Job) -> Run:
        at_start(job)
        count = len(job.z)
        out, data, bound = solve_level(self.level, job, torch.arange(count))
        times = torch.cat([job.times[:1], job.times.new_zeros(1)])[:, None].expand(-1, count)
        if job.callback is not None:
            job.callback(0, times[1], out.x, data)
        path = torch.stack([job.z, out.x]) if job.trajectory else None
        return Run(out.x, path, times, self.level.nfe, torch.full((count,), self.level.nfe), bound)


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

    def warn_of_excess(self, bound: Tensor) -> None:
        """Warn where the bounds of a run, `(B,)`, exceed the tolerance."""
        above = int((bound > self.tol).sum())
        if above:
            last = self.cascade.levels[-1].nfe
            warnings.warn(
                f"{above} of {len(bound)} samples have a bound above tol={self.tol:g} after {last} network calls, the most of this cascade",
                UserWarning,
                stacklevel=3,
            )

    def solve(self, job: Job) -> Run:
        at_start(job)
        z, count = job.z, len(job.z)
        x, data = z.clone(), torch.zeros_like(z)
        bound = torch.full((count,), torch.inf, dtype=torch.float64, device="cpu")
        calls = torch.zeros(count, dtype=torch.long, device="cpu")
        path = [z]
        for k, level in enumerate(self.cascade.levels[self.cascade.cheapest(self.tol) :]):
            active = (bound > self.tol).nonzero().flatten()
            if not len(active):
                break
            out, last, bound[active] = solve_level(level, job, active)
            where = active.to(z.device)
            x, data = x.index_copy(0, where, out.x), data.index_copy(0, where, last)
            calls[active] += level.nfe
            path.append(x)
            if job.callback is not None:
                job.callback(k, torch.zeros_like(bound), x, data)
        times = torch.cat([job.times[:1], job.times.new_zeros(len(path) - 1)])[:, None].expand(-1, count)
        return Run(x, torch.stack(path) if job.trajectory else None, times, int(calls.max()) if count else 0, calls, bound)
