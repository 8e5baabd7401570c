"""One model, several solvers: the cost of each, and the distance of its samples to real data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import grids
from ...loops.base import AdaptiveLoop
from ...models.score_model import ScoreModel
from ...numerics.batching import batches, cond_to_device, index_cond
from ...report import frechet_distance
from ...sampling import Plan, plan, registry, sample
from ...sampling.auto import NOISES
from ...solvers.tuned import TunedSolver
from ...tuning import load_solver
from .features import Classifier

# A sample counts as recognised where the classifier gives its class more than this probability.
RECOGNISED = 0.9

# The fine solve that `error_curves` measures against.
FINE_SOLVER, FINE_STEPS = "dpm++3m", 200

# The error plot where no solver is named, and its numbers of network calls per sample.
# Names whose budget is a number of calls, of which their steps may be one more.
BY_CALLS = (registry.DEFAULT, registry.AUTO)
CURVE_SOLVERS = (registry.DEFAULT, "dpm++2m", "unipc2", "heun", "ddim")
CURVE_NFE = (3, 4, 5, 6, 8, 10, 15, 20)


class Entry(NamedTuple):
    """A solver, by name or by file, its number of steps, and its grid (None: the solver's own)."""

    solver: str
    steps: int
    grid: str | None = None

    def __str__(self) -> str:
        return f"{self.solver} {self.steps}" + (f" {self.grid}" if self.grid else "")

    @property
    def label(self) -> str:
        """The solver and its grid, for any number of steps."""
        return self.solver + (f" ({self.grid})" if self.grid else "")


def parse_entry(text: str) -> Entry:
    """The entry of a text `NAME:STEPS`, `NAME:STEPS:GRID` or of the file of a fitted solver, as on the command line.

    Raises:
        ValueError: the text has another form, or no solver or grid has the name.
        FileNotFoundError: there is no such file.
    """
    if text.endswith(".safetensors"):
        return Entry(text, load_solver(text).nfe)
    name, *rest = text.split(":")
    if not 1 <= len(rest) <= 2 or not rest[0].isdigit() or int(rest[0]) < 1:
        raise ValueError(
            f"{text!r} is not NAME:STEPS or NAME:STEPS:GRID (dpm++2m:10, ddim:20:quadratic), nor the .safetensors file of a solver"
        )
    name = registry.spelled(name)
    if len(rest) == 2:
        grids.get(rest[1])
    return Entry(name, int(rest[0]), rest[1] if len(rest) == 2 else None)


def used(name: str, planned: Plan) -> str:
    """The name of a solver and its grid in a plan; for `default` the solver too that it is for this budget."""
    parts = [registry.name_of(planned.solver)] if name.lower() in BY_CALLS else []
    parts += [f"grid {planned.grid_name}"] if planned.grid_name else []
    return name + (f" ({', '.join(parts)})" if parts else "")


@dataclass
class Comparison:
    """The measurements of a comparison.

    Attributes:
        rows: a table row for each entry, by column names.
        samples: the samples of each entry, `(len(seeds), *event)` on the CPU, in the order of the seeds.
        floor: the Frechet distance between two sets of real samples.
        features: the name of the space in which distances are measured.
        curves: for each deterministic solver, pairs `(nfe, error)` of `error_curves`.
        without_curve: the solvers that were asked for and are not among them.
    """

    rows: list[dict[str, object]] = field(default_factory=list)
    samples: dict[str, Tensor] = field(default_factory=dict)
    floor: float = float("nan")
    features: str = "pixels"
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    without_curve: list[str] = field(default_factory=list)


def compare(
    model: ScoreModel,
    entries: Sequence[Entry],
    reference: Tensor,
    real_pair: tuple[Tensor, Tensor],
    *,
    seeds: Sequence[int] = range(256),
    batch_size: int = 256,
    classifier: Classifier | None = None,
    conditions: dict[str, Tensor] | None = None,
    curve_solvers: Sequence[str | Entry] = CURVE_SOLVERS,
    curve_nfe: Sequence[int] = CURVE_NFE,
    progress: bool = True,
) -> Comparison:
    """Sample with every entry from the same seeds and measure the distance to `reference`.

    Args:
        model: the trained model.
        entries: the solvers.
        reference: real samples to measure the distance to, `(M, *event)`.
        real_pair: two sets of real samples without common members, for the floor.
        seeds: one for each sample.
        batch_size: samples drawn at once.
        classifier: measure in its features rather than in pixels, and add the share of samples to which it gives a class with p > 0.9.
        conditions: keyword arguments for the network, tensors with one row for each seed.
        curve_solvers, curve_nfe: solvers and numbers of network calls for `error_curves`, on at most 64 samples.
        progress: show a progress bar for entries of 100 steps or more.

    Raises:
        ValueError, FloatingPointError: as `sample`.
    """
    seeds, event = list(seeds), reference.shape[1:]
    result = Comparison(features="pixels" if classifier is None else "classifier features")
    describe = (lambda x: x.reshape(len(x), -1)) if classifier is None else classifier.features
    real = describe(reference)
    result.floor = frechet_distance(*(describe(part) for part in real_pair))

    cond = cond_to_device(conditions or {}, model.device)

    def first(count: int) -> dict[str, Any]:
        return index_cond(cond, slice(0, count), len(seeds))

    pilot = index_cond(cond, torch.arange(NOISES) % len(seeds), len(seeds))
    # The first calls of a network are slower than the rest.
    sample(model, (1, *event), "ddim", steps=2, **first(1))
    calls: list[int] = []
    with model.register_forward_hook(lambda *_: calls.append(1)):
        for entry in entries:
            calls.clear()
            began = time.perf_counter()
            by_calls = entry.solver in BY_CALLS
            steps, nfe = (None, entry.steps) if by_calls else (entry.steps, None)
            planned = plan(model, entry.solver, steps=steps, nfe=nfe, grid=entry.grid, event=event, cond=pilot)
            x = sample(
                model, (len(seeds), *event), planned, seeds=seeds, batch_size=batch_size,
                progress=progress and entry.steps >= 100, **cond,
            ).cpu()  # fmt: skip
            seconds = time.perf_counter() - began
            shown = x if classifier is None else x.clamp(-1, 1)
            row: dict[str, object] = {
                "solver": used(entry.solver, planned) if by_calls else entry.label,
                "steps": entry.steps if planned.nfe is None else len(planned.times) - 1,
                "NFE": len(calls) // len(batches(len(seeds), batch_size)),
                "seconds": seconds,
                "Frechet distance": frechet_distance(describe(shown), real),
            }
            if classifier is not None:
                recognised = classifier.probabilities(shown).amax(1) > RECOGNISED
                row[f"share with p > {RECOGNISED}"] = float(recognised.float().mean())
            result.rows.append(row)
            result.samples[str(entry)] = x
    count = min(64, len(seeds))
    result.curves = error_curves(model, event, curve_solvers, curve_nfe, first(count), count)
    asked = dict.fromkeys(solver.label if isinstance(solver, Entry) else solver for solver in curve_solvers)
    result.without_curve = [label for label in asked if label not in result.curves]
    return result


def error_curves(
    model: ScoreModel,
    event: Sequence[int],
    solvers: Sequence[str | Entry],
    nfes: Sequence[int],
    conditions: Mapping[str, object] | None = None,
    count: int = 64,
) -> dict[str, list[tuple[int, float]]]:
    """The error of deterministic solvers against their number of network calls.

    Args:
        model: the trained model.
        event: the shape of a sample.
        solvers: names, files or entries, whose steps do not matter here.
        nfes: upper bounds on the network calls per sample. A fitted or selected solver and an adaptive one have their own.
        conditions: keyword arguments for the network, tensors with one row for each of the `count` samples.
        count: number of samples, with the seeds 0, 1, ...

    Returns:
        For each deterministic solver, and each grid that it was asked for with, pairs `(nfe, error)`. The error is the rms distance per
        coordinate to a fine solve of 200 order-3 steps from the same starting state; infinite where a state is not finite.
    """
    if not solvers or not nfes:
        return {}
    shape = (count, *event)
    cond = cond_to_device(conditions or {}, model.device)
    fine = sample(model, shape, FINE_SOLVER, steps=FINE_STEPS, seeds=range(count), **cond)
    curves: dict[str, list[tuple[int, float]]] = {}
    for label, (name, grid) in _asked(solvers).items():
        errors: dict[int, float] = {}
        for planned in _curve_plans(model, event, name, grid, nfes):
            if planned.nfe in errors:
                continue  # two budgets, one plan: a solver of two calls a step
            x, calls = _solve(model, planned, shape, cond)
            errors[calls] = float((x - fine).square().mean().sqrt()) if x is not None else float("inf")
        if errors:
            curves[label] = sorted(errors.items())
    return curves


def _solve(model: ScoreModel, planned: Plan, shape: Sequence[int], cond: dict[str, Any]) -> tuple[Tensor | None, int]:
    """The samples of the seeds 0, 1, ..., None where one is not finite; and the network calls per sample."""
    try:
        if planned.nfe is not None:
            return sample(model, shape, planned, seeds=range(shape[0]), **cond), planned.nfe
        run = sample(model, shape, planned, seeds=range(shape[0]), trajectory=True, **cond)
        return run.x, run.nfe
    except FloatingPointError:
        return None, planned.nfe or 1


def _asked(solvers: Sequence[str | Entry]) -> dict[str, tuple[str, str | None]]:
    """The different solvers and grids, by their label."""
    entries = [solver if isinstance(solver, Entry) else Entry(solver, 0) for solver in solvers]
    return {entry.label: (entry.solver, entry.grid) for entry in entries}


def _curve_plans(model: ScoreModel, event: Sequence[int], name: str, grid: str | None, nfes: Sequence[int]) -> list[Plan]:
    """The plans of a deterministic solver for the budgets, or the only one that it has; none of a stochastic solver."""
    if registry.is_auto(name):
        return []  # it would be a pilot for each budget
    solver = registry.resolve(name)
    if solver is not None and solver.stochastic:
        return []  # its samples do not approach those of the fine solve
    if isinstance(solver, TunedSolver | AdaptiveLoop):
        return [plan(model, solver)]
    plans = []
    for nfe in nfes:
        with suppress(ValueError):  # no step fits into the budget, or the grid has no room for so many
            plans.append(plan(model, solver, nfe=nfe, grid=grid, event=event))
    return plans
