"""The best training-free solver for one model and one budget, by a pilot run.

Every entry of a portfolio of (solver, grid) pairs is run from a few starts and compared with a fine solve from the same. The score is the
geometric mean of the rms and the median over the starts of the error per coordinate, sqrt(rms median). The rms alone is ruled by the few
samples that end in another mode, and the median does not see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .. import grids
from ..models.base import Model
from ..numerics.batching import batches, index_cond
from ..numerics.random import BatchNoise
from ..sde.base import SDE
from ..solvers.adams import DEIS, IPNDM
from ..solvers.base import Solver
from ..solvers.exponential import DPMSolverPP, ExponentialAdams, UniPC
from ..solvers.tuned import State, TunedSolver, schedule_fingerprint
from ..solvers.velocity import VelocityAdams
from ..tableau.executor import run
from ..tableau.tableau import Tableau
from .reference import Cond, ReferenceSolution, distance, solve_reference, starts

TRAILING: dict[str, grids.Grid] = {f"trailing {p:g}": partial(grids.trailing, power=p) for p in (1.0, 1.5, 2.0, 2.5, 3.0)}


TO_T_MIN: dict[str, grids.Grid] = {name: grids.get(name) for name in ("half_log_snr", "tangent", "quadratic", "cubic")}


PORTFOLIO: dict[str, tuple[Solver, tuple[str, ...]]] = {
    "ipndm2": (IPNDM(order=2), ("trailing 1.5", "trailing 2", "trailing 3", "half_log_snr")),
    "ipndm3": (IPNDM(order=3), (*TRAILING, "quadratic", "cubic")),
    "ipndm4": (IPNDM(order=4), ("trailing 1.5", "trailing 2", "trailing 2.5", "trailing 3", "quadratic", "cubic")),
    "vab3": (VelocityAdams(order=3), ("trailing 1.5", "trailing 2", "trailing 3", "cubic")),
    "vab4": (VelocityAdams(order=4), ("trailing 2", "trailing 2.5", "trailing 3")),
    "circle-vab2": (VelocityAdams(order=2, path="circle"), ("half_log_snr", "tangent", "cubic")),
    "circle-vab3": (VelocityAdams(order=3, path="circle"), ("trailing 2", "trailing 3", "cubic")),
    "unipc2": (UniPC(order=2), ("trailing 1", "trailing 2")),
    "unipc3": (UniPC(order=3), ("trailing 1", "trailing 1.5", "trailing 2")),
    "deis3": (DEIS(order=3), ("trailing 1.5", "trailing 2")),
    "dpm++2m": (DPMSolverPP(order=2), ("trailing 1", "half_log_snr")),
    "dpm2m": (ExponentialAdams(predictor=2, form="noise"), ("trailing 2", "half_log_snr")),
}


class Ranked(NamedTuple):
    """An entry of the portfolio with its errors per coordinate."""

    name: str
    solver: Solver
    grid: Tensor
    rms: float
    median: float

    @property
    def score(self) -> float:
        """sqrt(rms median)."""
        return (self.rms * self.median) ** 0.5


@dataclass(frozen=True, eq=False)
class Selected(TunedSolver):
    """The winner of a pilot, as a solver.

    Attributes:
        name: of the solver and the grid.
        solver, grid: what runs.
        process: see `TunedSolver`.
        error: its rms distance per coordinate to the teacher.
        median: the median of that distance.
        ranking: all that was tried, best first; a file keeps the winner alone.
        teacher_steps: steps of the teacher.
        discrepancy: of the teacher, see `ReferenceSolution`.
    """

    name: str
    solver: Solver
    grid: Tensor
    process: Tensor
    error: float
    median: float
    ranking: tuple[Ranked, ...]
    teacher_steps: int
    discrepancy: float

    def table(self, sde: SDE) -> Tableau:
        return self.solver.tableau(sde, self.grid)

    def state_dict(self) -> State:
        """What `save` writes.

        Raises:
            ValueError: the solver is not the portfolio's of this name, by which a file knows it.
        """
        if PORTFOLIO.get(self.name.split()[0], (None,))[0] != self.solver:
            raise ValueError(f"only solvers of the portfolio can be kept in a file, not {self.name}: {self.solver}")
        meta = {
            "kind": "selected", "solver": repr(self.solver), "name": self.name, "error": self.error, "median": self.median,
            "teacher_steps": self.teacher_steps, "discrepancy": self.discrepancy,
        }  # fmt: skip
        return {"grid": self.grid, "process": self.process}, meta

    @classmethod
    def from_state_dict(cls, state_dict: State) -> Selected:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the portfolio has no such solver.
        """
        tensors, meta = state_dict
        name = meta["name"]
        solver, _ = PORTFOLIO.get(name.split()[0], (None, ()))
        if solver is None or repr(solver) != meta["solver"]:
            raise ValueError(
                f"the file's solver is {name}: {meta['solver']}, which this version of scoresde does not have in its portfolio"
            )
        winner = Ranked(name, solver, tensors["grid"], meta["error"], meta["median"])
        return cls(
            name, solver, tensors["grid"], tensors["process"], meta["error"], meta["median"], (winner,), meta["teacher_steps"],
            meta["discrepancy"],
        )  # fmt: skip


def candidates(sde: SDE, nfe: int) -> Iterator[tuple[str, Solver, Tensor]]:
    """The portfolio's entries that make exactly `nfe` calls on this process."""
    for name, (solver, names) in PORTFOLIO.items():
        for grid in names:
            # A grid that has no room for so many steps above t_min is left out.
            with suppress(ValueError):
                times = {**TRAILING, **TO_T_MIN}[grid](sde, nfe)
                if solver.tableau(sde, times).nfe == nfe:
                    yield f"{name} {grid}", solver, times


def solve(model: Model, tableau: Tableau, z: Tensor, cond: Cond, batch_size: int) -> Tensor:
    """The endpoints from `z` of a deterministic table."""
    runs = (run(tableau, model, z[part], BatchNoise(), cond=index_cond(cond, part, len(z))) for part in batches(len(z), batch_size))
    return torch.cat([out.x for out in runs])


def summary(error: Tensor) -> tuple[float, float]:
    """rms and median of the errors `(M,)`."""
    return float(error.square().mean().sqrt()), float(error.median())


def rank(model: Model, nfe: int, teacher: ReferenceSolution, count: int, cond: Cond, batch_size: int) -> list[Ranked]:
    """The portfolio by its errors on the first `count` of the teacher's solutions, best first."""
    z, x = teacher.states[0], teacher.x[:count]
    few = slice(0, count)
    ranking = []
    for name, solver, grid in candidates(model.sde, nfe):
        out = solve(model, solver.tableau(model.sde, grid), z[few], index_cond(cond, few, len(z)), batch_size)
        rms, median = summary(distance(out, x))
        if rms < float("inf"):
            ranking.append(Ranked(name, solver, grid, rms, median))
    return sorted(ranking, key=lambda entry: entry.score)


def selected(teacher: ReferenceSolution, ranking: Sequence[Ranked]) -> Selected:
    """The first of the ranking."""
    best = ranking[0]
    return Selected(
        best.name,
        best.solver,
        best.grid,
        schedule_fingerprint(teacher.sde),
        best.rms,
        best.median,
        tuple(ranking),
        teacher.steps,
        teacher.discrepancy,
    )


@torch.no_grad()
def select(
    model: Model,
    nfe: int,
    shape: Sequence[int],
    noises: int = 32,
    *,
    cond: Cond | None = None,
    seed: int = 0,
    teacher_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> Selected:
    """The best of about forty (solver, grid) pairs at `nfe` network calls, by `noises` starts.

    It costs about 40 nfe + 3 S network calls a noise, S the steps of the teacher.

    Args:
        model: anything with a data prediction.
        nfe: network calls per sample.
        shape: the event, without the batch.
        noises: starts of the pilot.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        teacher_steps: S; by default as many as the pilot's first states need, see `solve_reference`.
        t_end: time of the teacher's last network call, by default `model.sde.t_min`.
        batch_size: samples that the network sees at once.

    Raises:
        ValueError: `nfe` below 2 or no noises.
    """
    require(nfe=(nfe, 2), noises=(noises, 2))
    teacher = solve_reference(
        model, starts(model, shape, noises, seed, "select"), cond, steps=teacher_steps, t_end=t_end, batch_size=batch_size
    )
    return selected(teacher, rank(model, nfe, teacher, noises, cond or {}, batch_size))


def require(**values: tuple[int, int]) -> None:
    """Raise where a value lies below its least.

    Raises:
        ValueError: names the first.
    """
    for name, (value, least) in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
