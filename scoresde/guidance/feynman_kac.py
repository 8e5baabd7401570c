r"""Samples of products and tilts themselves, by weighted particles (Skreta et al. 2025, arXiv 2503.02819; derived there and here for any path).

The target pi_t ~ prod_i q_i(z, t)^{w_i} is not a diffused law, so that a sampler that follows its score S = sum_i w_i s_i needs weights. In
lambda = log(alpha/sigma), with noise predictions e_i and E = sum_i w_i e_i, every member of the family of reverse SDEs, with any eta, has

    d log W = ( |E|^2 - sum_i w_i |e_i|^2 ) dlambda.

    guidance by w:  w (w - 1) |e_c - e_u|^2        product of two:  2 e_1 . e_2        power b:  b (b - 1) |e|^2

A tilt pi_t ~ q_t e^{r_t} moves with the score s + eta^2/(1 + eta^2) grad r, and its weight is the change of r along the probability flow of q,

    d log W = r_s(z_s) - r_t(z_t),        z_s the flow's step from z_t.

A group of K particles is resampled where few of them carry the weight. Its samples tend to the target as K and the number of steps grow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..loops.base import GridLoop, Job, stack_or_none
from ..loops.particles import Particles
from ..models.data_wrapper import with_signal
from ..numerics.arrays import event_sum, expand
from ..numerics.cost import spend
from ..numerics.inputs import as_count, as_number
from ..sde.base import SDE
from ..solvers.ancestral import DDIM
from ..solvers.exponential import SDEDPMSolverPP
from ..tableau.executor import Run
from ..tableau.tableau import Row
from .guided import Guided
from .product import Product, Tilted


@dataclass(frozen=True)
class FeynmanKac(GridLoop):
    """Weighted particles for the product, the tilt or the power that a model stands for; the formulas are in the docstring of the module.

        ss.sample(Guided(model, 2.0), (1024, 2), FeynmanKac(particles=1024), steps=200, label=labels)

    The batch consists of groups of `particles` rows, which share their conditions. The result is resampled, so that its rows are samples of the
    target. With `ess` 0 nothing is resampled, and the weights are in `Run.log_weights`, from `trajectory=True`.

    Attributes:
        particles: K in each group.
        eta: noise of the reverse SDE; 0 for the probability flow, with which weights vary more, and which products refuse whose weights do not
            sum to 1.
        ess: a group is resampled where its effective number of particles is below `ess` K.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range. In a call: the model is no `Guided`, `Product` or `Tilted`, the batch does not consist of groups
            of K, or one particle has all the weight of a group, as in a target that has no density.
    """

    particles: int
    eta: float = 1.0
    ess: float = 0.5
    default_grid: ClassVar[str] = "half_log_snr"

    def __post_init__(self) -> None:
        as_count("particles", self.particles)
        as_number("eta", self.eta, 0.0)
        as_number("ess", self.ess, 0.0, 1.0)

    def calls(self, sde: SDE, times: Tensor) -> int:
        return len(times) - 1

    def solve(self, job: Job) -> Run:
        model = job.model
        if not isinstance(model, Guided | Product | Tilted):
            raise ValueError(f"FeynmanKac needs a Guided, a product or a tilted model, got {type(model).__name__}")
        if self.eta == 0 and isinstance(model, Product) and abs(float(model.weights.sum()) - 1) > 1e-9:
            raise ValueError(
                f"eta=0 is the flow of the product, whose samples collapse where its weights sum to {float(model.weights.sum()):g} and not to "
                "1: take eta=1"
            )
        group = Particles(len(job.z), self.particles, self.ess, job.z.device)
        rows = SDEDPMSolverPP(1, self.eta).tableau(model.sde, job.times).rows
        flow = DDIM().tableau(model.sde, job.times).rows
        z, path = job.z, job.path
        if isinstance(model, Tilted):
            group.add(_tilt(model, z, float(job.times[0]), job.cond))
        for n, (row, still) in enumerate(zip(rows, flow, strict=True)):
            t, s = float(job.times[n]), float(job.times[n + 1])
            data = self._tilted(job, group, z, t, s, n, still) if isinstance(model, Tilted) else self._product(job, group, z, t, s)
            if job.callback is not None:
                job.callback(n, t, z, data)
            z = row.z.get(n, 0.0) * z + row.data[n] * data
            for std in row.xi.values():
                z = z + job.noise.draw(z.shape, z.dtype, z.device, float(std))
            (z,) = group.resampled(job.noise, z, always=n == len(rows) - 1)
            if path is not None:
                path.append(z)
        run = Run(z, stack_or_none(path), job.times, len(rows))
        run.log_weights, run.log_evidence = group.normalised(), group.log_evidence
        return run

    def _product(self, job: Job, group: Particles, z: Tensor, t: float, s: float) -> Tensor:
        """The data prediction of the move of a product, after its weights for the step from t to s."""
        model = job.model
        assert isinstance(model, Guided | Product)
        at, scale = (float(each) for each in with_signal(model.sde, torch.tensor(t, dtype=torch.float64, device="cpu"), 1e-3))
        v = scale * z
        w, e = model.factors(v, at, **dict(job.cond))
        total = (w.to(e.dtype).reshape(*w.shape, *(1,) * (z.ndim - 1)) * e).sum(0)
        h = float(model.sde.half_log_snr(s) - model.sde.half_log_snr(at))
        # Close to the data all noise predictions agree, and the last interval is infinite in lambda.
        if math.isfinite(h):
            squares = torch.stack([event_sum(each.double() ** 2) for each in e])
            group.add(h * (event_sum(total.double() ** 2) - (w * squares).sum(0)))
        return (v - expand(model.sde.sigma(at), v) * total) / expand(model.sde.alpha(at), v)

    def _tilted(self, job: Job, group: Particles, z: Tensor, t: float, s: float, n: int, still: Row) -> Tensor:
        """The data prediction of the move of a tilt, after its weights for the step from t to s."""
        model = job.model
        assert isinstance(model, Tilted)
        at = model.at(t)
        data, shift = model.parts(model.inner_state(z, at), at, dict(job.cond))
        onwards = still.z.get(n, 0.0) * z + still.data[n] * data
        group.add(_tilt(model, onwards, s, job.cond) - _tilt(model, z, t, job.cond))
        return data + self.eta**2 / (1 + self.eta**2) * model.scale * shift


def _tilt(model: Tilted, z: Tensor, t: float, cond: dict[str, object]) -> Tensor:
    """r_t(z), `(B,)` in nats. At sigma = 0 the data prediction is the state."""
    if float(model.sde.sigma(t)) == 0:
        return model.scale * model.log_weight(
            z, torch.tensor(t, dtype=torch.float64), **{k: cond[k] for k in model.takes if k in cond}
        )
    if model.through == "data":
        spend(len(z), network=1)
    with torch.no_grad():
        return model.log_tilt(z, t, **dict(cond))
