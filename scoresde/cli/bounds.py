"""Samples with a bound on the error of each, from a calibrated solver."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.batching import batches, cond_to_device, index_cond
from ..sampling import Plan, sample
from ..solvers.tuned import TunedSolver
from ..tuning import Cascade, CascadeSolver, load
from ..tuning.cascade import BoundedSolver


def calibrated(solver: str, bound: bool, tol: float | None) -> BoundedSolver | CascadeSolver | None:
    """The calibrated solver of a file, with its tolerance or at its last level; None for any other solver where no bound is asked for.

    Raises:
        ValueError: a bound or a tolerance without a calibrated solver.
    """
    loaded = load(solver) if solver.endswith(".safetensors") else None
    if isinstance(loaded, Cascade):
        return loaded.bounded() if tol is None else loaded.within(tol)
    if bound or tol is not None:
        option = "--bound" if bound else "--tol"
        how = "`scoresde fit RUN --bound` writes one"
        kind = "fitted, not calibrated" if isinstance(loaded, TunedSolver) else "not calibrated"
        raise ValueError(f"{option}: {solver} is {kind}, so that it has no bound; {how}: give its file to --solver")
    return None


def sample_with_bounds(
    model: Model, event: Sequence[int], planned: Plan, seeds: range, batch_size: int, cond: Mapping[str, object]
) -> tuple[Tensor, Tensor, float]:
    """The samples `(len(seeds), *event)`, the bound of each `(len(seeds),)` float64, both on the CPU, and the mean number of network calls."""
    samples, bounds, calls = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in batches(len(seeds), batch_size):
        own = cond_to_device(index_cond(dict(cond), part, len(seeds)), model.device)
        out = sample(model, (part.stop - part.start, *event), planned, seeds=seeds[part], error=True, **own)
        assert out.bound is not None
        assert out.calls is not None
        samples.append(out.x.cpu())
        bounds.append(out.bound)
        calls.append(out.calls)
    return torch.cat(samples), torch.cat(bounds), float(torch.cat(calls).double().mean())


def save_bounds(out: Path, seeds: range, bounds: Tensor) -> Path:
    """A table of the seeds and the bounds of the samples beside their file; its path."""
    path = out.with_suffix(".bounds.csv")
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", "bound"])
        rows.writerows((seed, f"{bound:.6g}") for seed, bound in zip(seeds, bounds.tolist(), strict=True))
    return path
