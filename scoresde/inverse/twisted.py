r"""Twisted diffusion sampling (Wu et al. 2023, arXiv 2306.17775): particles for the posterior, exact as particles and steps grow.

As the particles grow the samples become those of the chain p(z_s | z_t), ancestral sampling under the model, given y. The chain itself is
biased by its steps: on one problem 0.596 came out as 0.562 with 50 steps and as 0.590 with 200. Its proposals come from the approximate
posterior, q(z_s | z_t) = N(A z_t + B D_y, C^2). Weights make up for the difference, with the twist N(y; A D, K) of that posterior at each
state:

    W <- W  p(z_s | z_t) twist(z_s) / ( q(z_s | z_t) twist(z_t) ),        the last twist is p(y | x) itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..loops.base import GridLoop, Job, stack_or_none
from ..loops.particles import Particles
from ..numerics.arrays import event_sum
from ..numerics.inputs import as_count, as_number
from ..sde.base import SDE
from ..solvers.ancestral import Ancestral
from ..solvers.base import Solver
from ..tableau.executor import Run
from .posterior import Posterior


@dataclass(frozen=True)
class TwistedSMC(GridLoop):
    """Twisted particles for a `Posterior`; the formulas are in the docstring of the module.

        ss.sample(mmps(model, lik), (512, 8), TwistedSMC(particles=512), steps=100, y=y)

    The batch consists of groups of `particles` rows, which share y. K is made in full, which takes a product for each observed number.

    Attributes:
        particles: K in each group.
        ess: a group is resampled where its effective number of particles is below `ess` K; 0 for never: then the weights are in
            `Run.log_weights`, from `trajectory=True`.
        chain: the solver whose rows are p(z_s | z_t).

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range, or a chain that is not stochastic of one step. In a call: the model is no `Posterior`, the batch does
            not consist of groups of K, or one particle has all the weight of a group.
    """

    particles: int
    ess: float = 0.5
    chain: Solver = Ancestral()
    default_grid: ClassVar[str] = "half_log_snr"

    def __post_init__(self) -> None:
        as_count("particles", self.particles)
        as_number("ess", self.ess, 0.0, 1.0)
        if not (isinstance(self.chain, Solver) and self.chain.stochastic and self.chain.single_call):
            raise ValueError(f"chain must be a stochastic solver of one step, such as Ancestral(), got {self.chain!r}")

    def calls(self, sde: SDE, times: Tensor) -> int:
        return len(times) - 1

    def solve(self, job: Job) -> Run:
        model, z, path = job.model, job.z, job.path
        if not isinstance(model, Posterior):
            raise ValueError(f"TwistedSMC needs a Posterior, got {type(model).__name__}")
        group = Particles(len(z), self.particles, self.ess, z.device)
        rows = self.chain.tableau(model.sde, job.times).rows
        previous = z.new_zeros(len(z))
        for n, row in enumerate(rows):
            if set(row.data) != {n} or not set(row.z) <= {n}:
                raise ValueError(f"chain must be a solver of one step, got {self.chain!r}")
            t = float(job.times[n])
            at = model.at(t)
            data, guided, twist = model.log_twist(model.inner_state(z, at), at, **dict(job.cond))
            # Divided by the last twist at the previous state, which a resampling carried along.
            group.add(twist - previous)
            z, data, guided, previous = group.resampled(job.noise, z, data, guided, twist)
            if job.callback is not None:
                job.callback(n, t, z, guided)
            mean = row.z.get(n, 0.0) * z
            std = sum(c**2 for c in row.xi.values()) ** 0.5
            if std == 0:
                # The last step of the chain has no noise: q = p.
                z = mean + row.data[n] * data
                group.add(model.log_likelihood(z, **_observed(model, job.cond)) - previous)
            else:
                xi = job.noise.draw(z.shape, z.dtype, z.device)
                z = mean + row.data[n] * guided + std * xi
                shift = row.data[n] / std * (guided - data)
                group.add(-event_sum((xi * shift + 0.5 * shift**2).double()))
            if path is not None:
                path.append(z)
        (z,) = group.resampled(job.noise, z, always=True)
        run = Run(z, stack_or_none(path), job.times, len(rows))
        run.log_weights, run.log_evidence = group.normalised(), group.log_evidence
        return run


def _observed(model: Posterior, cond: dict[str, object]) -> dict[str, object]:
    return {likelihood.name: cond[likelihood.name] for likelihood in model.likelihoods if likelihood.name in cond}
