"""Langevin dynamics between the steps of a solver: a sample of a fixed noise level is improved by following its score with noise.

    z <- z + epsilon score(z, t) + sqrt(2 epsilon) xi

leaves q(z_t) unchanged up to its step size epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import expand, flatten_events
from ..numerics.inputs import as_count, as_number
from ..numerics.random import NoiseSource
from ..sde.base import SDE
from ..solvers.base import Solver
from ..solvers.reverse_diffusion import ReverseDiffusion
from ..tableau.executor import Run, run
from ..tableau.tableau import Tableau
from .base import GridLoop, Job


def langevin_step(
    model: Model, z: Tensor, t: float, noise: NoiseSource, snr: float, *, shrink: float = 1.0, cond: dict[str, object] | None = None
) -> Tensor:
    """One step with the step size of a signal-to-noise ratio r (Song et al. 2021, arXiv 2011.13456, algorithms 4 and 5).

    epsilon = 2 a (r |xi| / |score|)^2, with the norms of each sample over its event.

    Where the score of a sample all but vanishes, which happens in few dimensions, the rule has no bound. Epsilon then stays at sigma^2, the
    largest step that does not overshoot in any direction, since -grad^2 log q(z_t) <= 1/sigma^2 for every distribution of data. In few
    dimensions a step that depends on the state also biases the law, in d dimensions by the order of 1/d.

    Args:
        t: the time of `z`, with sigma > 0.
        snr: r, the ratio of the step along the score to its noise, up to a factor.
        shrink: a; the paper's alpha_i = 1 - beta_i of a VP chain, and 1 for VE.
    """
    xi = noise.draw(z.shape, z.dtype, z.device)
    score = model.score(z, t, **(cond or {}))
    noise_norm, score_norm = (flatten_events(v).double().norm(dim=1) for v in (xi, score))
    largest = float(model.sde.sigma(t) ** 2)
    # 0/0 cannot occur: a norm of xi is 0 with probability 0.
    epsilon = (2 * shrink * (snr * noise_norm / score_norm) ** 2).clamp(max=largest)
    return z + expand(epsilon, z) * score + expand((2 * epsilon).sqrt(), z) * xi


@dataclass(frozen=True)
class PredictorCorrector(GridLoop):
    """A step of any one-step solver, then Langevin steps at the new time (Song et al. 2021, arXiv 2011.13456, algorithms 1, 4 and 5).

    For the paper's alpha_i = 1 - beta_i, the factor of signal variance that a chain's step keeps, (alpha_s/alpha_t)^2 stands here for the step
    from s down to t: the same on the full chain, and defined for every process and spacing. Nothing is corrected at sigma = 0.

    Args:
        predictor: a solver whose steps use nothing from before them.
        snr: r of `langevin_step`; the paper takes 0.16 for VE and VP images.
        corrections: Langevin steps for each step; each calls the network once.

    Raises:
        ValueError: `snr` is not positive or `corrections` negative; in `solve`, a predictor of several steps.
    """

    predictor: Solver = ReverseDiffusion()
    snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise TypeError(f"predictor must be a solver with a table, got {self.predictor!r}")
        as_number("snr", self.snr, above=0.0)
        as_count("corrections", self.corrections, 0)

    @property
    def calls_per_step(self) -> int:
        return self.predictor.calls_per_step + self.corrections

    def calls(self, sde: SDE, times: Tensor) -> int:
        corrected = int((sde.sigma(times[1:]) > 0).sum())
        return self.predictor.tableau(sde, times).nfe + corrected * self.corrections

    def solve(self, job: Job) -> Run:
        sde, tableau = job.model.sde, self.predictor.tableau(job.model.sde, job.times)
        require_one_step(tableau)
        # The state at the end of a step -> the times that the step joins.
        ends = {
            state: (float(s), float(t))
            for state, s, t in zip(tableau.grid_states[1:], job.times[:-1], job.times[1:], strict=True)
            if float(sde.sigma(t)) > 0
        }

        def correct(k: int, z: Tensor) -> Tensor:
            if k in ends:
                s, t = ends[k]
                shrink = float(sde.alpha(s) / sde.alpha(t)) ** 2
                for _ in range(self.corrections):
                    z = langevin_step(job.model, z, t, job.noise, self.snr, shrink=shrink, cond=job.cond)
            return z

        out = run(
            tableau, job.model, job.z, job.noise, callback=job.callback, trajectory=job.trajectory, on_state=correct, cond=job.cond
        )
        return Run(out.x, out.path, job.times, out.nfe + len(ends) * self.corrections)


def require_one_step(tableau: Tableau) -> None:
    """Raise unless every step uses nothing from before its start, which a correction has made obsolete.

    Raises:
        ValueError: a step needs an earlier state or prediction.
    """
    for first, last in zip(tableau.grid_states[:-1], tableau.grid_states[1:], strict=True):
        if any(j < first for row in tableau.rows[first:last] for j in (*row.z, *row.data)):
            raise ValueError("a predictor must use nothing from before its step: take a one-step solver, not a multistep one")
