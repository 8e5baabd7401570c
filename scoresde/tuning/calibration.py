"""A bound on the error of every sample, and as few network calls as a tolerance needs.

A deterministic solver of N calls has the last data predictions D_{N-1}, D_{N-2}, D_{N-3} at no cost. The features of its error are

    f(z) = (log |D_{N-1} - D_{N-2}|, log |D_{N-1} - D_{N-3}|, log |D_{N-1} - 2 D_{N-2} + D_{N-3}|),

with |.| the rms over an event's coordinates. From starts z_i with a reference solution the error e_i is known. On one half of the starts a
power law is fitted by least squares,

    log s(z) = mean log e + theta . (f(z) - mean f).

The other half has n starts. Let q be the k-th smallest ratio e_i/s(z_i) on them, with k = ceil((n + 1) confidence). The bound is q s(z).

Guarantee (split conformal prediction, Vovk et al. 2005; Lei et al. 2018). For a new start from the prior, and a level chosen before,

    confidence <= P(e <= q s(z)) <= confidence + 1/(n + 1)      (the right one if no two ratios are equal).

Limits of the guarantee:

- The probability is over the new start and the starts of the calibration together. It says nothing of one start alone. Given one calibration,
  the share of new starts whose bound holds has the standard deviation sqrt(confidence (1 - confidence)/n) around its mean.
- The error is the distance to the reference solution of the same model, not to the data. New conditions must be like the calibration's.
- A cascade stops at the first level with a small bound. The share of its samples whose bound fails can exceed 1 - confidence: at most the
  levels together fail, and the measured excess is 0.01 to 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import deprecation
from ..models.base import Model
from ..numerics.batching import batches, index_cond
from ..numerics.inputs import as_count, as_number, as_sequence
from ..numerics.keywords import explained_keywords
from ..sde.linear import LinearSDE
from ..solvers.tuned import TunedSolver
from .cascade import Cascade, Level, error_features, power_law
from .identity import fingerprint
from .reference import Cond, ReferenceSolution, distance, run_recorded, solve_reference, starts
from .selection import rank, selected, summary


def fit_power_law(features: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, theta) from f `(n, p)` and e `(n,)`, with a ridge of 1 %, as the features are nearly collinear."""
    log_error = error.clamp(min=1e-30).log()
    mean = torch.cat([log_error.mean()[None], features.mean(0)])
    centred = features - mean[1:]
    gram = centred.T @ centred
    ridge = 1e-2 * gram.diagonal().mean() + 1e-30
    identity = torch.ones_like(gram[0]).diag()
    return mean, torch.linalg.solve(gram + ridge * identity, centred.T @ (log_error - mean[0]))


def conformal(ratios: Tensor, confidence: float) -> float:
    """q: the k-th smallest of n ratios, k = ceil((n + 1) confidence).

    Raises:
        ValueError: n is too small for this confidence.
    """
    k = math.ceil((len(ratios) + 1) * confidence - 1e-9)
    if k > len(ratios):
        least = 2 * math.ceil(confidence / (1 - confidence) - 1e-9)
        raise ValueError(f"a confidence of {confidence} needs at least {least} noises, half of them for the bound")
    return float(ratios.sort().values[k - 1])


@deprecation.renamed_keywords(rungs="levels", teacher_steps="reference_steps")
@explained_keywords(
    "conditions of the network go into cond={...}",
    nfe="the numbers of network calls are nfes=",
    steps="the numbers of network calls are nfes=",
    trajectories="the number of starts is noises=",
)
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
    reference_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> Cascade:
    """A cascade for `model`; the module's docstring states its guarantee.

    Args:
        model: anything with a data prediction.
        shape: the event, without the batch.
        nfes: the budgets, network calls per sample.
        confidence: of the bound of each level.
        noises: starts of the calibration, half for the power law and half for q.
        levels: the solvers, such as fitted ones, in place of `nfes`; by default the winners of a pilot as in `select`, on the first half.
        cond: reaches the network untouched; a tensor whose first dimension is `noises` has one row a start.
        seed: of the starts.
        reference_steps: as in `select`.
        t_end: as in `select`.
        batch_size: samples that the network sees at once.

    Raises:
        TypeError: an argument of a wrong type; names it.
        ValueError: a budget below 2, no budgets, a confidence outside (0, 1), or too few noises for it, or a model on a `LinearSDE`.
    """
    noises, batch_size = as_count("noises", noises, 4), as_count("batch_size", batch_size)
    nfes = [as_count("nfes", nfe, 2) for nfe in as_sequence("nfes", nfes)]
    if levels is not None and not all(isinstance(level, TunedSolver) for level in as_sequence("levels", levels)):
        raise TypeError(f"levels must be selected or fitted solvers, got {levels!r}")
    if not (nfes if levels is None else levels):
        raise ValueError("calibrate needs at least one budget in nfes=, or one solver in levels=")
    confidence = as_number("confidence", confidence, above=0.0, below=1.0)
    cond = cond or {}
    half = noises // 2
    # Too few noises raise here, before the first network call.
    conformal(torch.zeros(noises - half, device="cpu"), confidence)
    z = starts(model, shape, noises, seed, "calibrate")
    if isinstance(model.sde, LinearSDE):
        raise ValueError(f"a cascade is calibrated on a path of numbers, not on {model.sde!r}: take select or fit")
    reference = solve_reference(model, z, cond, steps=reference_steps, t_end=t_end, batch_size=batch_size)
    if levels is None:
        pilot = min(32, half)
        levels = [selected(reference, rank(model, nfe, reference, pilot, cond, batch_size)) for nfe in sorted(set(nfes))]
    calibrated = [calibrate_level(model, solver, reference, half, confidence, cond, batch_size) for solver in levels]
    calibrated.sort(key=lambda level: level.nfe)
    return Cascade(tuple(calibrated), confidence, reference.steps, reference.discrepancy, fingerprint(model))


def calibrate_level(
    model: Model, solver: TunedSolver, reference: ReferenceSolution, half: int, confidence: float, cond: Cond, batch_size: int
) -> Level:
    """The level of one solver, with the power law from the first `half` starts of the reference and q from the others."""
    tableau, z = solver.tableau(model.sde, solver.grid), reference.states[0]
    endpoints, features = [], []
    for part in batches(len(z), batch_size):
        out, data = run_recorded(tableau, model, z[part], index_cond(cond, part, len(z)))
        endpoints.append(out.x)
        features.append(error_features(data))
    error, f = distance(torch.cat(endpoints), reference.x), torch.cat(features)
    mean, theta = fit_power_law(f[:half], error[:half])
    s = power_law(f[half:], mean, theta)
    q = conformal(error[half:] / s, confidence)
    rms, median = summary(error[half:])
    return Level(solver, tableau.nfe, mean, theta, q, rms, median, q * s)
