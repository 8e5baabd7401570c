"""The best training-free solver for one model and one budget, by a pilot run.

Every (solver, grid) pair of a portfolio runs from a few starts, and so does a reference solver. The error of a start is the rms distance per
coordinate between the two endpoints. The score of a pair is the geometric mean of the rms and the median of this error over the starts,

    score = sqrt(rms median).

The few starts that end in another mode determine the rms, and the median does not see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .. import deprecation, grids
from ..models.base import Model, require_model
from ..models.in_basis import in_basis
from ..numerics.batching import batches, index_cond
from ..numerics.brief import line
from ..numerics.files import prefixed, stored_entry, stored_tensor, subset
from ..numerics.inputs import as_count
from ..numerics.keywords import explained_keywords
from ..numerics.random import BatchNoise
from ..sde.base import SDE
from ..sde.families import RectifiedFlow
from ..sde.fingerprint import schedule_fingerprint
from ..sde.linear import LinearSDE
from ..solvers.adams import DEIS, IPNDM
from ..solvers.ancestral import DDIM
from ..solvers.base import Solver
from ..solvers.blocks import table
from ..solvers.composed import LateFirstCall
from ..solvers.exponential import DPMSolverPP, ExponentialAdams, UniPC
from ..solvers.gddim import GDDIM
from ..solvers.tuned import State, TunedSolver, stored_process
from ..solvers.velocity import VelocityAdams
from ..tableau.executor import run
from ..tableau.tableau import Tableau
from ..tableau.tensors import from_tensors, to_tensors
from .ranking import Ranked, Ranking
from .reference import Cond, ReferenceSolution, distance, solve_reference, starts
from .trust import against, warn_of_discrepancy, warn_of_flaw

# Grids by where their last call lies: one step of N before the end, or at t_min.
TRAILING: dict[str, grids.Grid] = {f"trailing {p:g}": partial(grids.trailing, power=p) for p in (1.0, 1.5, 2.0, 2.5, 3.0)}
TO_T_MIN: dict[str, grids.Grid] = {name: grids.get(name) for name in ("half_log_snr", "tangent", "quadratic", "cubic")}
FLOW: dict[str, grids.Grid] = {
    f"flow {shift:g} {power:g}": partial(grids.flow, shift=shift, power=power)
    for shift, power in ((0.5, 1.25), (1.0, 1.0), (1.0, 1.5), (1.0, 3.0), (2.0, 1.0))
}


def late(sde: SDE, steps: int, *, power: float) -> Tensor:
    """The grid of `LateFirstCall` with that many calls, as the default has it."""
    return grids.late(sde, steps + 1, rule=partial(grids.trailing, power=power), ratio=max(10.0, 2.5 * steps))


LATE: dict[str, grids.Grid] = {f"late {p:g}": partial(late, power=p) for p in (1.0, 2.0, 2.5)}
NAMED = {**TRAILING, **TO_T_MIN, **FLOW, **LATE}

Portfolio = dict[str, tuple[Solver, tuple[str, ...]]]

# Every solver with the grids that it is tried on. `fit` begins at the best ones. Low orders, flow times and late first calls win on networks
# that are rough in time (docs/choosing.md).
PORTFOLIO: Portfolio = {
    "ddim": (DDIM(), ("trailing 1", "flow 1 1", "flow 2 1", "half_log_snr")),
    "ipndm2": (IPNDM(order=2), ("trailing 1", "trailing 1.5", "trailing 2", "trailing 3", "half_log_snr")),
    "ipndm3": (IPNDM(order=3), (*TRAILING, "quadratic", "cubic")),
    "ipndm4": (IPNDM(order=4), ("trailing 1.5", "trailing 2", "trailing 2.5", "trailing 3", "quadratic", "cubic")),
    "vab3": (VelocityAdams(order=3), ("trailing 1.5", "trailing 2", "trailing 3", "cubic")),
    "vab4": (VelocityAdams(order=4), ("trailing 2", "trailing 2.5", "trailing 3")),
    "circle-vab2": (VelocityAdams(order=2, path="circle"), ("half_log_snr", "tangent", "cubic", "flow 0.5 1.25")),
    "circle-vab3": (VelocityAdams(order=3, path="circle"), ("trailing 2", "trailing 3", "cubic")),
    "unipc2": (UniPC(order=2), ("trailing 1", "trailing 2", "half_log_snr", "cubic", *FLOW)),
    "unipc3": (UniPC(order=3), ("trailing 1", "trailing 1.5", "trailing 2")),
    "deis3": (DEIS(order=3), ("trailing 1.5", "trailing 2")),
    "dpm++2m": (DPMSolverPP(order=2), ("trailing 1", "half_log_snr", "flow 1 1", "flow 2 1")),
    "dpm2m": (ExponentialAdams(predictor=2, form="noise"), ("trailing 2", "half_log_snr")),
    "late-ipndm3": (LateFirstCall(IPNDM(order=3)), tuple(LATE)),
    "late-unipc2": (LateFirstCall(UniPC(order=2)), tuple(LATE)),
}


# On a linear SDE.
LINEAR_PORTFOLIO: Portfolio = {
    "gddim1": (GDDIM(1), ("trailing 1", "trailing 2", "half_log_snr")),
    "gddim2": (GDDIM(2), ("trailing 1", "trailing 1.5", "trailing 2", "trailing 3", "half_log_snr", "cubic")),
    "gddim3": (GDDIM(3), ("trailing 1", "trailing 1.5", "trailing 2", "trailing 3", "half_log_snr", "cubic")),
    "ipndm2": (IPNDM(order=2), ("trailing 1", "trailing 2")),
    "ipndm3": (IPNDM(order=3), ("trailing 1.5", "trailing 2", "trailing 3")),
}


@dataclass(frozen=True, eq=False)
class Selected(TunedSolver):
    """The winner of a pilot, as a solver. `str` gives its errors and that of their reference.

    A file holds its coefficients, so that it outlives its entry in the portfolio.

    Attributes:
        name: of the solver and the grid.
        solver: the solver that won; None where it comes from a file and is no longer in the portfolio.
        grid, process: see `TunedSolver`.
        error: the rms over the starts of its distance per coordinate to the reference.
        median: the median of that distance.
        ranking: all pairs that were tried, best first. From a file, the winner alone, or nothing where `solver` is None.
        reference_steps: steps of the reference.
        discrepancy: of the reference, see `ReferenceSolution`.
        coefficients: its table on this process, as `tableau.tensors` writes it. Empty for a file of scoresde 0.1, which names the solver alone.
    """

    name: str
    solver: Solver | None
    grid: Tensor
    process: Tensor
    error: float
    median: float
    ranking: tuple[Ranked, ...]
    reference_steps: int
    discrepancy: float
    coefficients: dict[str, Tensor] = field(default_factory=dict)

    @property
    def nfe(self) -> int:
        """Network calls per sample. A late first call makes one more step."""
        return len(self.coefficients["data"][:, 1].unique()) if self.coefficients else super().nfe

    @property
    def teacher_steps(self) -> int:
        """Deprecated: `reference_steps`."""
        deprecation.warn("Selected.teacher_steps", "Selected.reference_steps")
        return self.reference_steps

    def __repr__(self) -> str:
        return line("Selected", repr(self.name), f"{self.nfe} network calls", f"rms {self.error:.3g}", f"median {self.median:.3g}")

    def __str__(self) -> str:
        error = against(self.error, self.discrepancy)
        return f"{self.name} with {self.nfe} calls: median {self.median:.3g}, rms {error}"

    def table(self, sde: SDE) -> Tableau:
        if self.coefficients:
            return from_tensors(sde, self.coefficients)
        assert self.solver is not None
        return table(self.solver, sde, self.grid)

    def state_dict(self) -> State:
        """The tensors and the JSON of its file.

        Raises:
            ValueError: there are no coefficients, and the portfolio has no solver of this name from which to make them.
        """
        if not self.coefficients and portfolio_solver(self.name) != self.solver:
            raise ValueError(f"only solvers of the portfolio can be kept in a file, not {self.name}: {self.solver}")
        meta = {
            "kind": "selected", "solver": repr(self.solver), "name": self.name, "error": self.error, "median": self.median,
            "teacher_steps": self.reference_steps, "discrepancy": self.discrepancy,
        }  # fmt: skip
        return {"grid": self.grid, "process": self.process} | prefixed("table", self.coefficients), meta

    @classmethod
    def from_state_dict(cls, state_dict: State) -> Selected:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the file has no coefficients, and the portfolio no such solver; or an entry is missing, or is not what `state_dict`
                writes.
        """
        tensors, meta = state_dict
        name, written = stored_entry(meta, "name", str), stored_entry(meta, "solver", str)
        error, median, discrepancy = (stored_entry(meta, key, float, int) for key in ("error", "median", "discrepancy"))
        grid, process = grids.check(stored_tensor(tensors, "grid", -1)), stored_process(tensors)
        coefficients = subset("table", tensors)
        if coefficients:
            # On any path: only the form of the table is checked.
            stored = from_tensors(RectifiedFlow(), coefficients)
            if stored.stochastic or set(stored.evaluated) != set(stored.step_evals) or not torch.equal(stored.grid, grid):
                raise ValueError("its table is no deterministic one with one network call for each step of its grid")
        solver = portfolio_solver(name)
        if repr(solver) != written:
            solver = None
        if solver is None and not coefficients:
            raise ValueError(
                f"the file's solver is {name}: {written}, which this version of scoresde does not have in its portfolio"
            )
        ranking = Ranking([Ranked(name, solver, grid, error, median)] if solver is not None else [])
        return cls(
            name, solver, grid, process, error, median, ranking, stored_entry(meta, "teacher_steps", int), discrepancy, coefficients
        )


def portfolio_solver(name: str) -> Solver | None:
    """The solver of the portfolio in a pair's name such as "ipndm3 trailing 2"; None where the portfolio has none."""
    word = name.split()[0]
    found = PORTFOLIO.get(word) or LINEAR_PORTFOLIO.get(word)
    return found[0] if found else None


def candidates(sde: SDE, nfe: int, late: bool = True) -> Iterator[tuple[str, Solver, Tensor]]:
    """The name, solver and grid of the portfolio's pairs that make exactly `nfe` calls on this process.

    Args:
        late: with the pairs whose first call is late.
    """
    portfolio = LINEAR_PORTFOLIO if isinstance(sde, LinearSDE) else PORTFOLIO
    for name, (solver, grid_names) in portfolio.items():
        if isinstance(solver, LateFirstCall) and not late:
            continue
        for grid_name in grid_names:
            # A grid raises where it has no room for so many steps above t_min.
            with suppress(ValueError):
                grid = NAMED[grid_name](sde, nfe)
                if table(solver, sde, grid).nfe == nfe:
                    yield f"{name} {grid_name}", solver, grid


def solve(model: Model, tableau: Tableau, z: Tensor, cond: Cond, batch_size: int) -> Tensor:
    """The endpoints of a deterministic table from `z`, at most `batch_size` states at once."""
    runs = (run(tableau, model, z[part], BatchNoise(), cond=index_cond(cond, part, len(z))) for part in batches(len(z), batch_size))
    return torch.cat([out.x for out in runs])


def summary(error: Tensor) -> tuple[float, float]:
    """rms and median of the errors `(M,)`."""
    return float(error.square().mean().sqrt()), float(error.median())


def rank(
    model: Model,
    nfe: int,
    reference: ReferenceSolution,
    count: int,
    cond: Cond,
    batch_size: int,
    late: bool = True,
) -> list[Ranked]:
    """The pairs of the portfolio by their errors on the first `count` starts of the reference, best first."""
    z, x = reference.states[0], reference.x[:count]
    pilot = slice(0, count)
    ranking = []
    for name, solver, grid in candidates(model.sde, nfe, late):
        out = solve(model, table(solver, model.sde, grid), z[pilot], index_cond(cond, pilot, len(z)), batch_size)
        rms, median = summary(distance(out, x))
        if rms < float("inf"):
            ranking.append(Ranked(name, solver, grid, rms, median))
    return sorted(ranking, key=lambda entry: entry.score)


def selected(reference: ReferenceSolution, ranking: Sequence[Ranked]) -> Selected:
    """The first of the ranking, as a solver."""
    best, sde = ranking[0], reference.sde
    return Selected(
        best.name, best.solver, best.grid, schedule_fingerprint(sde), best.rms, best.median, Ranking(ranking), reference.steps,
        reference.discrepancy, to_tensors(table(best.solver, sde, best.grid)),
    )  # fmt: skip


@deprecation.renamed_keywords(teacher_steps="reference_steps")
@explained_keywords(
    "conditions of the network go into cond={...}",
    steps="the number of network calls is nfe=",
    event="the shape of one sample is shape=",
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
    reference_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
    late: bool = True,
) -> Selected:
    """The best of about sixty pairs of a solver and a grid at `nfe` network calls, by its errors from `noises` starts.

    The pilot takes about 60 nfe + 3 S network calls a start, S the steps of the reference.

    Warns where the reference solutions look unlike data, and where their own error is no small share of the error that is reported (`trust`).

    Args:
        model: anything with a data prediction.
        nfe: network calls per sample.
        shape: the event, without the batch.
        noises: starts of the pilot.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        reference_steps: S. By default the first starts decide, see `solve_reference`.
        t_end: time of the reference's last network call, by default `model.sde.t_min`.
        batch_size: samples that the network sees at once.
        late: try late first calls (`solvers.LateFirstCall`). Some hosts cannot start one, see `interop.diffusers`.

    Raises:
        TypeError: an argument of a wrong type; names it.
        ValueError: `nfe` or `noises` below 2, or another number out of its range; names it.
    """
    nfe, noises, batch_size = as_count("nfe", nfe, 2), as_count("noises", noises, 2), as_count("batch_size", batch_size)
    require_model(model, "data")
    model = in_basis(model)
    z = starts(model, shape, noises, seed, "select")
    reference = solve_reference(model, z, cond, steps=reference_steps, t_end=t_end, batch_size=batch_size)
    warn_of_flaw(reference)
    picked = selected(reference, rank(model, nfe, reference, noises, cond or {}, batch_size, late))
    warn_of_discrepancy(reference, picked.error)
    return picked
