"""One model, several solvers: what each costs and how close it comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import grids, solvers
from ...models.score_model import ScoreModel
from ...sampling import plan, sample
from ...tuning import load_solver
from .features import Classifier, frechet_distance


class Entry(NamedTuple):
    """A solver, by name or file, with its number of steps and its grid (None: the solver's own)."""

    solver: str
    steps: int
    grid: str | None = None

    def __str__(self) -> str:
        return f"{self.solver} {self.steps}" + (f" {self.grid}" if self.grid else "")


def parse_entry(text: str) -> Entry:
    """`NAME:STEPS`, `NAME:STEPS:GRID` or the file of a fitted solver, as on the command line.

    Raises:
        ValueError: another form, or a name that does not exist.
        FileNotFoundError: there is no such file.
    """
    if text.endswith(".safetensors"):
        return Entry(text, load_solver(text).nfe)
    name, *rest = text.split(":")
    if not 1 <= len(rest) <= 2 or not rest[0].isdigit() or int(rest[0]) < 1:
        raise ValueError(
            f"{text!r} is not NAME:STEPS or NAME:STEPS:GRID, such as dpm++2m:10 or ddim:20:quadratic, nor a fitted solver's file"
        )
    solvers.get(name)
    if len(rest) == 2:
        grids.get(rest[1])
    return Entry(name, int(rest[0]), rest[1] if len(rest) == 2 else None)


@dataclass
class Comparison:
    """What a comparison measured.

    Attributes:
        rows: a table row for each entry.
        samples: the samples of each entry, in the order of the seeds.
        floor: the distance between two sets of real samples.
        features: what the distance is taken between, in words.
        curves: for each deterministic solver, `(nfe, rms distance to a fine solve from the same start)`.
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
        reference: the real samples that the distance is taken from, `(M, *event)`.
        real_pair: two sets of real samples without common members, for the floor.
        seeds: one a sample.
        classifier: measure in its features rather than in pixels; adds the share of samples that it is more than 90 % sure of.
        conditions: what the network is told about each sample, tensors with one entry a seed.
        curve_solvers, curve_nfe: what to measure against a fine solve (at most 64 samples).
    """
    seeds, event = list(seeds), reference.shape[1:]
    result = Comparison(features="pixels" if classifier is None else "classifier features")
    describe = (lambda x: x.reshape(len(x), -1)) if classifier is None else classifier.features
    real = describe(reference)
    result.floor = frechet_distance(*(describe(part) for part in real_pair))

    calls: list[int] = []
    count = model.register_forward_hook(lambda *_: calls.append(1))

    def draw(entry: Entry) -> Tensor:
        parts = []
        for start in range(0, len(seeds), batch_size):
            chosen = seeds[start : start + batch_size]
            cond: dict[str, Any] = {name: v[start : start + batch_size].to(model.device) for name, v in (conditions or {}).items()}
            shape, show = (len(chosen), *event), progress and entry.steps >= 100
            x = sample(model, shape, entry.solver, steps=entry.steps, grid=entry.grid, seeds=chosen, progress=show, **cond)
            parts.append(x.cpu())
        return torch.cat(parts)

    # The first calls of a network are slower than the rest.
    warm: dict[str, Any] = {name: v[:1].to(model.device) for name, v in (conditions or {}).items()}
    sample(model, (1, *event), "ddim", steps=2, **warm)
    for entry in entries:
        calls.clear()
        began = time.perf_counter()
        x = draw(entry)
        row: dict[str, object] = {
            "solver": entry.solver + (f" ({entry.grid})" if entry.grid else ""),
            "steps": entry.steps,
            "NFE": len(calls) // -(-len(seeds) // batch_size),
            "seconds": time.perf_counter() - began,
            "Frechet distance": frechet_distance(describe(x.clamp(-1, 1) if classifier is not None else x), real),
        }
        if classifier is not None:
            row["sure"] = float((classifier.probabilities(x.clamp(-1, 1)).amax(1) > 0.9).float().mean())
        result.rows.append(row)
        result.samples[str(entry)] = x
    count.remove()
    result.curves = error_curves(model, event, curve_solvers, curve_nfe, conditions, min(64, len(seeds)))
    return result


def error_curves(
    model: ScoreModel,
    event: Sequence[int],
    names: Sequence[str],
    nfes: Sequence[int],
    conditions: dict[str, Tensor] | None = None,
    count: int = 64,
) -> dict[str, list[tuple[int, float]]]:
    """For deterministic solvers: `(nfe, rms distance per coordinate to a solve of 200 order-3 steps)` from the same starts."""
    if not names or not nfes:
        return {}
    shape, seeds = (count, *event), range(count)
    cond: dict[str, Any] = {name: value[:count].to(model.device) for name, value in (conditions or {}).items()}
    exact = sample(model, shape, "dpm++3m", steps=200, seeds=seeds, **cond)
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in names:
        for nfe in nfes:
            planned = plan(model.sde, name, nfe=nfe)
            x = sample(model, shape, planned, seeds=seeds, **cond)
            curves.setdefault(name, []).append((planned.nfe or nfe, float((x - exact).square().mean().sqrt())))
    return curves
