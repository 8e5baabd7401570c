"""One model, several solvers: the cost of each, its error against a fine solve, and the distance of its samples to real data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.base import Model
from ...numerics.batching import batches, cond_to_device, index_cond
from ...report import KernelDistance
from ...sampling import plan, registry, sample
from ...sampling.auto import NOISES
from ..foreign import inmost
from .distances import Yardstick
from .entries import BY_CALLS, Entry, used
from .features import Classifier
from .paired import FineSolve, PairedError, error_curves, fine_solve, is_stochastic, paired_error

# A sample counts as recognised where the classifier gives its class more than this probability.
RECOGNISED = 0.9

# The error plot where no solver is named, and its numbers of network calls per sample.
CURVE_SOLVERS = (registry.DEFAULT, "dpm++2m", "unipc2", "heun", "ddim")
CURVE_NFE = (3, 4, 5, 6, 8, 10, 15, 20)

# Most samples of the paired errors, and of the error plot.
PAIRED_SAMPLES, CURVE_SAMPLES = 256, 64


@dataclass(frozen=True)
class Comparison:
    """The measurements of a comparison.

    Attributes:
        entries: the solvers, each once.
        rows: a table row for each entry, by column names.
        samples: the samples of each entry, `(len(seeds), *event)` on the CPU, in the order of the seeds.
        fine: the fine solve of the first seeds, at most 256.
        paired: the errors of the deterministic entries against it.
        curves: for each deterministic solver, pairs `(nfe, error)` of `error_curves`.
        without_curve: the solvers that were asked for and are not among them.
        yardstick: the real samples, and the distances to them.
        frechet, kernel: the distances of each entry, where there are samples enough for them.
    """

    entries: list[Entry]
    rows: list[dict[str, object]]
    samples: dict[str, Tensor]
    fine: FineSolve
    paired: dict[str, PairedError]
    curves: dict[str, list[tuple[int, float]]]
    without_curve: list[str]
    yardstick: Yardstick
    frechet: dict[str, float]
    kernel: dict[str, KernelDistance]

    @property
    def floor(self) -> float:
        """The Frechet distance between the two sets of real samples."""
        return self.yardstick.floor


def compare(
    model: Model,
    entries: Sequence[Entry],
    reference: Tensor,
    real_pair: tuple[Tensor, Tensor],
    *,
    seeds: Sequence[int] = range(256),
    batch_size: int = 256,
    classifier: Classifier | None = None,
    conditions: Mapping[str, Tensor] | None = None,
    curve_solvers: Sequence[str | Entry] = CURVE_SOLVERS,
    curve_nfe: Sequence[int] = CURVE_NFE,
    progress: bool = True,
) -> Comparison:
    """Sample with every entry from the same seeds, and measure the errors against a fine solve and the distances to `reference`.

    Args:
        model: the trained model, perhaps with guidance.
        entries: the solvers.
        reference: real samples to measure the distance to, `(M, *event)`.
        real_pair: two sets of real samples without common members, for the floor.
        seeds: one for each sample.
        batch_size: samples drawn at once.
        classifier: measure in its features rather than in pixels or coordinates, and add the share of samples to which it gives a class with
            p > 0.9.
        conditions: keyword arguments for the network, tensors with one row for each seed.
        curve_solvers, curve_nfe: solvers and numbers of network calls for `error_curves`, on at most 64 samples.
        progress: show a progress bar for entries of 100 steps or more.

    Raises:
        ValueError, FloatingPointError: as `sample`.
    """
    seeds, event, entries = list(seeds), reference.shape[1:], list(dict.fromkeys(entries))
    yardstick = Yardstick.of(reference, real_pair, len(seeds), None if classifier is None else classifier.body)
    rows: list[dict[str, object]] = []
    samples: dict[str, Tensor] = {}
    frechet: dict[str, float] = {}
    kernel: dict[str, KernelDistance] = {}
    cond = cond_to_device(conditions or {}, model.device)
    pilot = index_cond(cond, torch.arange(NOISES) % len(seeds), len(seeds))
    # The first calls of a network are slower than the rest.
    warm_up: dict[str, Any] = index_cond(cond, slice(0, 1), len(seeds))
    sample(model, (1, *event), "ddim", steps=2, **warm_up)
    calls: list[int] = []
    with inmost(model).register_forward_hook(lambda *_: calls.append(1)):
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
            rows.append(
                {
                    "solver": used(entry.solver, planned) if by_calls else entry.label,
                    "steps": entry.steps if planned.nfe is None else len(planned.times) - 1,
                    "NFE": len(calls) // len(batches(len(seeds), batch_size)),
                    "seconds": seconds,
                }
            )
            samples[str(entry)] = x
    for row, (name, x) in zip(rows, samples.items(), strict=True):
        shown = x if classifier is None else x.clamp(-1, 1)
        if not yardstick.no_frechet:
            row["Frechet distance"] = frechet[name] = yardstick.frechet(shown)
        if not yardstick.no_kernel:
            kernel[name] = yardstick.kernel(shown)
        if classifier is not None:
            recognised = classifier.probabilities(shown).amax(1) > RECOGNISED
            row[f"share with p > {RECOGNISED}"] = float(recognised.float().mean())
    paired_cond = index_cond(cond, slice(0, PAIRED_SAMPLES), len(seeds))
    fine = fine_solve(model, event, seeds[:PAIRED_SAMPLES], paired_cond, batch_size)
    paired = {
        str(entry): paired_error(samples[str(entry)][:PAIRED_SAMPLES], fine) for entry in entries if not is_stochastic(entry.solver)
    }
    curves = error_curves(model, fine.first(CURVE_SAMPLES), curve_solvers, curve_nfe) if curve_nfe else {}
    asked = dict.fromkeys(solver.label if isinstance(solver, Entry) else solver for solver in curve_solvers)
    return Comparison(
        entries, rows, samples, fine, paired, curves, [label for label in asked if label not in curves], yardstick, frechet, kernel
    )
