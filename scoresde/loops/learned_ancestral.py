"""Ancestral sampling with a variance that the network predicts, which depends on the state and so is no table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..models.learned_variance import LearnedVariance
from ..sde.base import SDE
from ..solvers.ancestral import Ancestral
from ..tableau.builder import grid_points
from ..tableau.executor import Run, combine, data_prediction
from .base import GridLoop, Job, stack_or_none


@dataclass(frozen=True)
class LearnedAncestral(GridLoop):
    """`Ancestral` with the variance of a `LearnedVariance` model, entry by entry (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15).

    For a step from s down to t of the grid, on the chain or respaced, beta~ and beta are the variances "posterior" and "beta" of `Ancestral`,
    whose ratio is sigma_t^2 / sigma_s^2; with f = (v + 1)/2

        z_t = m_t(D, z_s) + sqrt(beta~) (sigma_s/sigma_t)^f xi.

    The step to sigma = 0 is the data prediction without noise. One network call a step. `solvers.names()` does not list it, as the models
    that it runs on are few.

    Raises:
        ValueError: in `run`, the model is no `LearnedVariance`.
    """

    default_grid: ClassVar[str] = "uniform"

    def calls(self, sde: SDE, times: Tensor) -> int:
        return len(times) - 1

    def solve(self, job: Job) -> Run:
        model, z, callback, path = job.model, job.z, job.callback, job.path
        if not isinstance(model, LearnedVariance):
            raise ValueError(f"LearnedAncestral needs a LearnedVariance model, got {type(model).__name__}")
        table = Ancestral("posterior").tableau(model.sde, job.times).folded(model.prediction)
        at = grid_points(model.sde, job.times)
        for n, (row, s, t) in enumerate(zip(table.rows, at[:-1], at[1:], strict=True)):
            out, fraction = model.output_and_fraction(z, s.t, **job.cond)
            if callback is not None:
                callback(n, s.t, z, data_prediction(model, s.t, z, out))
            terms = [(z, row.z.get(n, 0.0)), (out, row.data[n])]
            for std in row.xi.values():
                xi = job.noise.draw(z.shape, z.dtype, z.device)
                terms.append((torch.exp(fraction.to(z.dtype) * math.log(s.sigma / t.sigma)) * xi, std))
            z = combine(terms, z.dtype)
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), job.times, len(table.rows))
