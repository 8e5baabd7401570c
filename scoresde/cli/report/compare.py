"""One model, several solvers: the cost of each, and the distance of its samples to real data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ... import grids, sampling
from ...models.score_model import ScoreModel
from ...numerics.batching import batches, cond_to_device, index_cond
from ...sampling import plan, sample
from ...tuning import load_solver
from .features import Classifier, frechet_distance

# A sample counts as recognised where the classifier gives its class more than this probability.
RECOGNISED = 0.9

# The fine solve that `error_curves` measures against.
FINE_SOLVER, FINE_STEPS = "dpm++3m", 200


class Entry(NamedTuple):
    """A solver, by name or by file, its number of steps, and its grid (None: the solver's own)."""

    solver: str
    steps: int
    grid: str | None = None

    def __str__(self) -> str:
        return f"{self.solver} {self.steps}" + (f" {self.grid}" if self.grid else "")


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
    sampling.get(name)
    if len(rest) == 2:
        grids.get(rest[1])
    return Entry(name, int(rest[0]), rest[1] if len(rest) == 2 else None)


@dataclass
class Comparison:
    """The measurements of a comparison.

    Attributes:
        rows: a table row for each entry, by column names.
        samples: the samples of each entry, `(len(seeds), *event)` on the CPU, in the order of the seeds.
        floor: the Frechet distance between two sets of real samples.
        features: the name of the space in which distances are measured.
        curves: for each deterministic solver, pairs `(nfe, error)` of `error_curves`.
    """

    rows: list[dict[str, object]] = field(default_factory=list)
    samples: dict[str, Tensor] = field(default_factory=dict)
    floor: float = float("nan")
    features: str = "pixels"
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


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
    curve_solvers: Sequence[str] = ("ddim", "heun", "dpm++2m", "dpm++3m"),
    curve_nfe: Sequence[int] = (5, 8, 10, 15, 20, 30),
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
        curve_solvers, curve_nfe: deterministic solvers and numbers of network calls for `error_curves`, on at most 64 samples.
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

    # The first calls of a network are slower than the rest.
    sample(model, (1, *event), "ddim", steps=2, **first(1))
    calls: list[int] = []
    with model.register_forward_hook(lambda *_: calls.append(1)):
        for entry in entries:
            calls.clear()
            began = time.perf_counter()
            x = sample(
                model, (len(seeds), *event), entry.solver, steps=entry.steps, grid=entry.grid, seeds=seeds, batch_size=batch_size,
                progress=progress and entry.steps >= 100, **cond,
            ).cpu()  # fmt: skip
            seconds = time.perf_counter() - began
            shown = x if classifier is None else x.clamp(-1, 1)
            row: dict[str, object] = {
                "solver": entry.solver + (f" ({entry.grid})" if entry.grid else ""),
                "steps": entry.steps,
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
    return result


def error_curves(
    model: ScoreModel,
    event: Sequence[int],
    names: Sequence[str],
    nfes: Sequence[int],
    conditions: Mapping[str, object] | None = None,
    count: int = 64,
) -> dict[str, list[tuple[int, float]]]:
    """The error of deterministic solvers against their number of network calls.

    Args:
        model: the trained model.
        event: the shape of a sample.
        names: short names of deterministic solvers.
        nfes: upper bounds on the network calls per sample.
        conditions: keyword arguments for the network, tensors with one row for each of the `count` samples.
        count: number of samples, with the seeds 0, 1, ...

    Returns:
        For each solver pairs `(nfe, error)`. The error is the rms distance per coordinate to a fine solve of 200 order-3 steps from the same
        starting state.
    """
    if not names or not nfes:
        return {}
    shape, seeds = (count, *event), range(count)
    cond = cond_to_device(conditions or {}, model.device)
    fine = sample(model, shape, FINE_SOLVER, steps=FINE_STEPS, seeds=seeds, **cond)
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in names:
        for nfe in nfes:
            planned = plan(model.sde, name, nfe=nfe)
            x = sample(model, shape, planned, seeds=seeds, **cond)
            curves.setdefault(name, []).append((planned.nfe or nfe, float((x - fine).square().mean().sqrt())))
    return curves
