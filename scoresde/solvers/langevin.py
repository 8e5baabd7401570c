"""Langevin dynamics: samples of a fixed noise level improved, or made, by following its score with noise.

    z <- z + epsilon score(z, t) + sqrt(2 epsilon) xi

leaves q(z_t) unchanged up to its step size epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor

from ..prediction import Model
from ..random import NoiseSource
from ..sde import SDE, expand
from .ancestral import Ancestral
from .base import Solver
from .executor import Callback, Run, run
from .loop import GridLoop, stack_or_none
from .reverse_diffusion import ReverseDiffusion
from .tableau import Point, Row, Rows, Tableau, points


def langevin_step(
    model: Model, z: Tensor, t: float, noise: NoiseSource, snr: float, *, shrink: float = 1.0, cond: dict[str, object] | None = None
) -> Tensor:
    """One step with the step size of a signal-to-noise ratio r (Song et al. 2021, arXiv 2011.13456, algorithms 4 and 5).

    epsilon = 2 a (r |xi| / |score|)^2, with the norms of each sample over its event.

    Where the score of a sample all but vanishes, which happens in few dimensions, the rule has no bound; epsilon then stays at sigma^2, the
    largest step that does not overshoot in any direction, since -grad^2 log q(z_t) <= 1/sigma^2 for every distribution of data. In few
    dimensions a step that depends on the state also biases the law, in d dimensions by the order of 1/d.

    Args:
        t: the time of `z`, with sigma > 0.
        snr: r, the ratio of the step along the score to its noise, up to a factor.
        shrink: a; the paper's alpha_i = 1 - beta_i of a VP chain, and 1 for VE.
    """
    xi = noise.draw(z.shape, z.dtype, z.device)
    score = model.score(z, t, **(cond or {}))
    norms = (xi.reshape(len(z), -1).double().norm(dim=1), score.reshape(len(z), -1).double().norm(dim=1))
    bound = float(model.sde.sigma(t) ** 2)
    # 0/0 cannot occur: a norm of xi is 0 with probability 0.
    epsilon = (2 * shrink * (snr * norms[0] / norms[1]) ** 2).clamp(max=bound)
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
        ValueError: `snr` is not positive or `corrections` negative; in `run`, a predictor of several steps.
    """

    predictor: Solver = ReverseDiffusion()
    snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        if not self.snr > 0 or self.corrections < 0:
            raise ValueError(f"need snr > 0 and corrections >= 0, got snr={self.snr} and corrections={self.corrections}")

    @property
    def calls_per_step(self) -> int:
        return self.predictor.calls_per_step + self.corrections

    def calls(self, sde: SDE, times: Tensor) -> int:
        corrected = int((sde.sigma(times[1:]) > 0).sum())
        return self.predictor.tableau(sde, times).nfe + corrected * self.corrections

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
        sde, nfe = model.sde, 0
        path: list[Tensor] | None = [z] if trajectory else None
        for n, step in enumerate(one_step_parts(self.predictor.tableau(sde, times))):

            def look(_: int, t: float, state: Tensor, data: Tensor, n: int = n) -> None:
                if callback is not None:
                    callback(n, t, state, data)

            out = run(step, model, z, noise, callback=look if callback is not None else None, cond=cond)
            z, nfe = out.x, nfe + out.nfe
            s, t = step.times[0], step.times[-1]
            if float(sde.sigma(t)) > 0:
                shrink = float(sde.alpha(s) / sde.alpha(t)) ** 2
                for _ in range(self.corrections):
                    z = langevin_step(model, z, t, noise, self.snr, shrink=shrink, cond=cond)
                    nfe += 1
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), times, nfe)


def one_step_parts(tableau: Tableau) -> Iterator[Tableau]:
    """The steps of a tableau, each as a tableau of its own.

    Raises:
        ValueError: a step needs a state or a prediction from before it, which a correction has made obsolete.
    """
    for look, first, last in zip(tableau.looks, tableau.marks[:-1], tableau.marks[1:], strict=True):
        part = tableau.rows[first:last]
        if any(j < first for row in part for j in (*row.z, *row.data)):
            raise ValueError("a predictor must use nothing from before its step: take a one-step solver, not a multistep one")
        shifted = tuple(
            Row({j - first: a for j, a in row.z.items()}, {j - first: b for j, b in row.data.items()}, row.noise) for row in part
        )
        yield replace(tableau, times=tableau.times[first : last + 1], rows=shifted, marks=(0, last - first), looks=(look - first,))


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin dynamics at each noise level in turn, the highest first (Song and Ermon 2019, arXiv 1907.05600, algorithm 1).

    In y = z/alpha the levels are r = sigma/alpha and the step sizes proportional to their squares, which for z reads

        z <- z + c sigma^2/2 score + sqrt(c) sigma xi,       `corrections` times at every time of the grid,

    and from one level to the next y stays as it is: z <- alpha_t/alpha_s z (from alpha_s = 0, where there is no y, z/sigma stays). With
    score = (alpha D - z)/sigma^2 the step is linear, so this is a table:

        z <- (1 - c/2) z + c/2 alpha D + sqrt(c) sigma xi.

    A grid that goes to sigma = 0 ends with the data prediction after the Langevin steps at the time before. As the slow directions are never in
    equilibrium at the low levels, the law depends on the grid: use ten levels or more, and look at `tableau.moments`.

    Args:
        corrections: Langevin steps at every level, T of the paper.
        step_size: c, their 2 epsilon/sigma_L^2 for their epsilon/2 score; they take epsilon = 2e-5 with sigma_L = 0.01, so c = 0.2.

    Raises:
        ValueError: no corrections, or `step_size` outside (0, 4), where it diverges.
    """

    corrections: int = 100
    step_size: float = 0.2
    default_grid = "half_log_snr"  # levels of noise in geometric progression, as in the paper

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.step_size < 4:
            raise ValueError(f"need corrections >= 1 and 0 < step_size < 4, got {self}")

    @property
    def calls_per_step(self) -> int:
        return self.corrections

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        rows = Rows(sde, grid)
        for s, t in zip(rows.points[:-1], rows.points[1:], strict=True):
            clean = t.sigma == 0
            for i in range(self.corrections):
                at, scale = (t, _keep_y(s, t)) if i == self.corrections - 1 and not clean else (s, 1.0)
                step = _fixed_step(rows.state, s, self.step_size, rows.fresh_noise(), scale)
                rows.add(at, step.z, step.data, noise=step.noise)
            if clean:
                rows.add(t, data={rows.state: t.alpha})
            rows.mark()
        return rows.tableau()


def _fixed_step(j: int, at: Point, c: float, xi: int, scale: float = 1.0) -> Row:
    """The Langevin step of size c from state j, times `scale`."""
    return Row({j: scale * (1 - c / 2)}, {j: scale * c / 2 * at.alpha}, {xi: scale * math.sqrt(c) * at.sigma})


def _keep_y(s: Point, t: Point) -> float:
    """z_t/z_s for the same y = z/alpha."""
    return t.alpha / s.alpha if s.alpha > 0 else t.sigma / s.sigma


@dataclass(frozen=True)
class LangevinCorrected(Solver):
    """Any predictor, and Langevin steps of a fixed size after each of its steps, as one table.

    Wherever the predictor has arrived at a time t of the grid the state is corrected, `corrections` times, by the step of `AnnealedLangevin`,

        z <- (1 - c/2) z + c/2 alpha D + sqrt(c) sigma xi,

    and all later rows of the predictor see the corrected state: the history of a multistep method is one of corrected states. A prediction
    made at t before the correction, as UniPC makes one, is made anew after it. The start and the result are not corrected. As c is fixed and
    not chosen from the norm of the score (`PredictorCorrector`), the table's moments are exact, and in few dimensions the law has no bias but
    that of the finite step: on Gaussian data with variance v at t the steps tend to v/(1 - c sigma^2/(4 v)).

    Args:
        predictor: a solver, of any number of stages and of steps. By exact moments (spectrum 0.01 to 4, five VP-like paths, three grids, 10,
            30 and 100 steps, c = 0.2) W_2 is 0.527, 0.125, 0.020 from `Ancestral` and 0.545, 0.120, 0.024 from `ReverseDiffusion`.
        step_size: c. The rule of `langevin_step` comes to c = 4 r^2 where the score has the norm of xi/sigma: 0.1 for r = 0.16.
        corrections: Langevin steps after each step but the last; each calls the network once.

    Raises:
        ValueError: no corrections, or `step_size` outside (0, 4), where it diverges.
    """

    predictor: Solver = Ancestral()
    step_size: float = 0.2
    corrections: int = 1

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.step_size < 4:
            raise ValueError(f"need corrections >= 1 and 0 < step_size < 4, got {self}")

    @property
    def default_grid(self) -> str:
        return self.predictor.default_grid

    @property
    def calls_per_step(self) -> int:
        return self.predictor.calls_per_step + self.corrections

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        predicted = self.predictor.tableau(sde, grid)
        arrivals = dict(zip(predicted.marks[1:-1], zip(points(sde, grid)[1:-1], predicted.looks[1:], strict=True), strict=True))
        fresh = count(1 + max((i for row in predicted.rows for i in row.noise), default=-1))
        rows, times = list[Row](), [predicted.times[0]]
        now = {0: 0}  # the state here that stands for each of the predictor's
        for state, row in enumerate(predicted.rows, 1):
            z, data = ({now[j]: c for j, c in part.items()} for part in (row.z, row.data))
            rows.append(Row(z, data, row.noise))
            times.append(predicted.times[state])
            now[state] = len(rows)
            if state in arrivals:
                at, look = arrivals[state]
                for _ in range(self.corrections):
                    rows.append(_fixed_step(len(rows), at, self.step_size, next(fresh)))
                    times.append(at.t)
                now[state] = len(rows)
                if look < state:
                    now[look] = len(rows)
        marks, looks = (tuple(now[j] for j in states) for states in (predicted.marks, predicted.looks))
        return replace(predicted, times=tuple(times), rows=tuple(rows), marks=marks, looks=looks)
