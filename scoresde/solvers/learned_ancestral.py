"""Ancestral sampling with a variance that the network predicts, which depends on the state and so is no table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..learned_variance import LearnedVariance
from ..prediction import Model, conversion
from ..random import NoiseSource
from ..sde import SDE
from .ancestral import Ancestral
from .executor import Callback, Run, combine
from .loop import GridLoop, stack_or_none
from .tableau import points


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

    def run(
        self,
        model: Model,
        z: Tensor,
        noise: NoiseSource,
        times: Tensor,
        *,
        steps: int | None = None,
        callback: Callback | None = None,
        trajectory: bool = False,
        cond: dict[str, object] | None = None,
    ) -> Run:
        if not isinstance(model, LearnedVariance):
            raise ValueError(f"LearnedAncestral needs a LearnedVariance model, got {type(model).__name__}")
        table = Ancestral("posterior").tableau(model.sde, times).folded(model.prediction)
        at = points(model.sde, times)
        path: list[Tensor] | None = [z] if trajectory else None
        for n, (row, s, t) in enumerate(zip(table.rows, at[:-1], at[1:], strict=True)):
            out, fraction = model.output_and_fraction(z, s.t, **(cond or {}))
            if callback is not None:
                c_z, c_out = (float(c) for c in conversion(model.sde, s.t, model.prediction, "data"))
                callback(n, s.t, z, combine([(z, c_z), (out, c_out)], z.dtype))
            terms = [(z, row.z.get(n, 0.0)), (out, row.data[n])]
            for std in row.noise.values():
                xi = noise.draw(z.shape, z.dtype, z.device)
                terms.append((torch.exp(fraction.to(z.dtype) * math.log(s.sigma / t.sigma)) * xi, std))
            z = combine(terms, z.dtype)
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), times, len(table.rows))
