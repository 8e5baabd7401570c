r"""Samplers of posteriors with loops of their own. None of them is exact; each says what it does in place of that.

Replacement    known entries become fresh draws of q(z_s | y); with `repeats`, RePaint        Song et al. 2021; Lugmayr et al. 2022
DPS            ancestral steps, then a step of length zeta against grad |y - A D|             Chung et al. 2023, arXiv 2209.14687
DAPS           x0 by the flow, x ~ N(x0, r^2 I) p(y|x), z_s ~ q(z_s | x)                      Zhang et al. 2024, arXiv 2407.01521
SplitGibbs     v ~ N(v; x, rho^2 I) p(y|v), then x | v by denoising v, in turn                Wu et al. 2024, arXiv 2405.18782
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import grids
from ..loops.base import GridLoop, Job, stack_or_none
from ..models.base import Model
from ..models.data_wrapper import differentiable
from ..numerics.arrays import event_sum, expand
from ..numerics.cost import spend
from ..numerics.inputs import as_count, as_number, as_tensor
from ..numerics.random import NoiseSource
from ..sde.base import SDE
from ..solvers.ancestral import DDIM, Ancestral
from ..solvers.base import Solver
from ..solvers.exponential import SDEDPMSolverPP
from ..tableau.executor import Callback, Run, run
from .conditional import draw, observation
from .likelihoods import Likelihood


@dataclass(frozen=True, eq=False)
class Replacement(GridLoop):
    """Inpainting by overwriting: after each step the known coordinates become a fresh draw of q(z_s | y) (Song et al. 2021, arXiv 2011.13456).

    With `repeats` r > 1 it is RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1): each step is made r times, with z_t ~ q(z_t | z_s)
    in between. Noise of known and unknown coordinates is independent, and both have the level of s. The samples are not those of the posterior,
    with any number of steps: free coordinates see the known ones only through the network.

    y comes with the call, of the shape of the event; entries outside `known` do not matter.

    Attributes:
        known: where y is known, broadcastable to an event.
        repeats: r, calls in each step but the last.
        solver: a solver of one-step rows.
    """

    known: Tensor
    repeats: int = 1
    solver: Solver = Ancestral()
    default_grid: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", as_tensor("known", self.known).bool())
        as_count("repeats", self.repeats)

    @property
    def calls_per_step(self) -> int:
        return self.repeats

    def calls(self, sde: SDE, times: Tensor) -> int:
        inner = int((sde.sigma(times[1:]) > 0).sum())
        return inner * self.repeats + (len(times) - 1 - inner)

    def solve(self, job: Job) -> Run:
        model, sde, z, path, calls = job.model, job.model.sde, job.z, job.path, 0
        y = job.cond.get("y")
        if not isinstance(y, Tensor):
            raise TypeError(f"Replacement needs the known entries, y=, of the shape of an event, got {type(y).__name__}")
        y, cond = y.to(z).expand_as(z), {k: v for k, v in job.cond.items() if k != "y"}
        known = self.known.to(z.device)
        z = torch.where(known, self._known(sde, y, float(job.times[0]), job.noise), z)
        for n, (t, s) in enumerate(_pairs(job.times)):
            step = self.solver.tableau(sde, job.times[n : n + 2])
            last = float(sde.sigma(s)) == 0
            for repeat in range(1 if last else self.repeats):
                if repeat:
                    mean, std = sde.transition(z, s, t)
                    z = mean + std * job.noise.draw(z.shape, z.dtype, z.device)
                callback = None if repeat else _numbered(job, n)
                ran = run(step, model, z, job.noise, cond=cond, callback=callback)
                calls += ran.nfe
                z = torch.where(known, y if last else self._known(sde, y, s, job.noise), ran.x)
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), job.times, calls)

    @staticmethod
    def _known(sde: SDE, y: Tensor, t: float, noise: NoiseSource) -> Tensor:
        """A draw of q(z_t | x = y)."""
        return expand(sde.alpha(t), y) * y + noise.draw(y.shape, y.dtype, y.device, float(sde.sigma(t)))


@dataclass(frozen=True, eq=False)
class DPS(GridLoop):
    """Diffusion posterior sampling as published: z <- (a step) - zeta grad_z |y - A D(z)|, in each sample (Chung et al. 2023, algorithm 1).

    Their algorithm divides the gradient of the squared norm by the norm, which is twice this; their code has this. The step has no meaning as a
    density: zeta is tuned for each problem. One vector-Jacobian product a step.

    Attributes:
        likelihood: what y says; of its noise nothing is used.
        zeta: the length of the correction.
        solver: a solver of one-step rows.
    """

    likelihood: Likelihood
    zeta: float = 1.0
    solver: Solver = Ancestral()
    default_grid: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        as_number("zeta", self.zeta, 0.0)

    def calls(self, sde: SDE, times: Tensor) -> int:
        return len(times) - 1

    def solve(self, job: Job) -> Run:
        model, z, path = job.model, job.z, job.path
        y, cond = observation(self.likelihood, job.cond, z)
        rows = self.solver.tableau(model.sde, job.times).rows
        for n, row in enumerate(rows):
            t, outer = float(job.times[n]), torch.is_grad_enabled()
            v = differentiable(z)
            with torch.enable_grad():
                data = model.data(v, t, **cond)
                # The gradient of a norm of 0 would be NaN.
                square = event_sum((y - self.likelihood.A(data)) ** 2)
                norm = torch.where(square > 0, square, 1.0).sqrt()
                (gradient,) = torch.autograd.grad(norm.sum(), v, create_graph=outer)
            spend(len(z), vjps=1)
            data = data if outer else data.detach()
            if job.callback is not None:
                job.callback(n, t, z, data)
            z = row.z.get(n, 0.0) * z + row.data[n] * data - self.zeta * gradient
            for std in row.xi.values():
                z = z + job.noise.draw(z.shape, z.dtype, z.device, float(std))
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), job.times, len(rows))


@dataclass(frozen=True, eq=False)
class DAPS(GridLoop):
    """Decoupled annealing: at each level x0 by the flow, x ~ N(x0, r^2 I) p(y|x) with r = sigma/alpha, and z_s ~ q(z_s | x) (Zhang et al.
    2024).

    Exact if p(x | z) were N(x0, r^2 I), which it is for no data. Levels are the times of the grid.

    Attributes:
        likelihood: what y says.
        ode: calls of the flow from each level to the data.
        langevin: Langevin steps for a likelihood that is not linear and Gaussian, whose draw is exact.
        size: the size of a Langevin step, as a share of the largest that does not overshoot.
    """

    likelihood: Likelihood
    ode: int = 5
    langevin: int = 100
    size: float = 0.1
    default_grid: ClassVar[str] = "half_log_snr"

    def __post_init__(self) -> None:
        for name in ("ode", "langevin"):
            as_count(name, getattr(self, name))
        as_number("size", self.size, above=0.0)

    @property
    def calls_per_step(self) -> int:
        return self.ode

    def calls(self, sde: SDE, times: Tensor) -> int:
        return sum(len(_down(sde, self.ode, t)) - 1 for t, _ in _pairs(times))

    def solve(self, job: Job) -> Run:
        model, sde, z, path, calls = job.model, job.model.sde, job.z, job.path, 0
        y, cond = observation(self.likelihood, job.cond, z)
        x = z
        for n, (t, s) in enumerate(_pairs(job.times)):
            flow = DDIM().tableau(sde, _down(sde, self.ode, t))
            ran = run(flow, model, z, job.noise, cond=cond, callback=_numbered(job, n))
            calls += ran.nfe
            x = draw(self.likelihood, ran.x, _ratio(sde, t) ** 2, y, job.noise, self.langevin, self.size)
            z = x if float(sde.sigma(s)) == 0 else _renoised(sde, x, s, job.noise)
            if path is not None:
                path.append(z)
        return Run(x, stack_or_none(path), job.times, calls)


@dataclass(frozen=True, eq=False)
class SplitGibbs(GridLoop):
    """Split Gibbs: v ~ N(v; x, rho^2 I) p(y|v) and x | v in turn (Wu et al. 2024, PnP-DM).

    x | v = x + rho n is denoising, exact for every prior: the reverse SDE from z = alpha(t) v at the time with sigma/alpha = rho. A sweep
    stands at each time of the grid, with rho = sigma/alpha there, but not below `least`. At a fixed rho, x has the posterior of noise Sigma_y +
    rho^2 A A^T: a small rho is right and mixes slowly.

    Attributes:
        likelihood: what y says.
        least: the smallest rho.
        inner: calls of the reverse SDE in each sweep.
        langevin, size: as for `DAPS`.
    """

    likelihood: Likelihood
    least: float = 0.05
    inner: int = 10
    langevin: int = 100
    size: float = 0.1
    default_grid: ClassVar[str] = "half_log_snr"

    def __post_init__(self) -> None:
        for name in ("inner", "langevin"):
            as_count(name, getattr(self, name))
        as_number("least", self.least, above=0.0)
        as_number("size", self.size, above=0.0)

    @property
    def calls_per_step(self) -> int:
        return self.inner

    def calls(self, sde: SDE, times: Tensor) -> int:
        # A first sample, and a sweep for each time but the last.
        starts = [float(times[0]), *(self._level(sde, t)[1] for t, _ in _pairs(times))]
        return sum(len(_down(sde, self.inner, t)) - 1 for t in starts)

    def solve(self, job: Job) -> Run:
        model, sde, path = job.model, job.model.sde, job.path
        y, cond = observation(self.likelihood, job.cond, job.z)
        x, calls = self._denoised(model, job.z, float(job.times[0]), job, cond)
        for n, (t, _) in enumerate(_pairs(job.times)):
            rho, at = self._level(sde, t)
            v = draw(self.likelihood, x, rho**2, y, job.noise, self.langevin, self.size)
            z = float(sde.alpha(at)) * v
            if job.callback is not None:
                job.callback(n, at, z, x)
            x, made = self._denoised(model, z, at, job, cond)
            calls += made
            if path is not None:
                path.append(x)
        return Run(x, stack_or_none(path), job.times, calls)

    def _level(self, sde: SDE, t: float) -> tuple[float, float]:
        """rho of the sweep at `t`, and the time with sigma/alpha = rho."""
        rho = max(self.least, _ratio(sde, t))
        return rho, float(sde.time(-torch.tensor(rho, dtype=torch.float64, device="cpu").log()))

    def _denoised(self, model: Model, z: Tensor, t: float, job: Job, cond: dict[str, object]) -> tuple[Tensor, int]:
        """A sample of p(x | z_t = z), and its calls."""
        order = 2 if self.inner > 1 else 1
        table = SDEDPMSolverPP(order).tableau(model.sde, _down(model.sde, self.inner, t))
        ran = run(table, model, z, job.noise, cond=cond)
        return ran.x, ran.nfe


def _pairs(times: Tensor) -> list[tuple[float, float]]:
    return list(zip(times[:-1].tolist(), times[1:].tolist(), strict=True))


def _down(sde: SDE, steps: int, t: float) -> Tensor:
    """Times from `t` to 0 in at most `steps` steps; one step where none fits above `t_min`."""
    if steps == 1 or t <= sde.t_min * (1 + 1e-9):
        return torch.tensor([t, 0.0], dtype=torch.float64, device="cpu")
    return grids.half_log_snr(sde, steps, t_start=t)


def _ratio(sde: SDE, t: float) -> float:
    """sigma/alpha, at t_max where it is infinite."""
    return float((-sde.half_log_snr(min(t, sde.t_max))).exp())


def _renoised(sde: SDE, x: Tensor, s: float, noise: NoiseSource) -> Tensor:
    return float(sde.alpha(s)) * x + noise.draw(x.shape, x.dtype, x.device, float(sde.sigma(s)))


def _numbered(job: Job, n: int) -> Callback | None:
    """The callback of a job for the first call of an inner run, under the number of the outer step."""
    callback = job.callback
    if callback is None:
        return None

    def first(k: int, t: float, z: Tensor, data: Tensor) -> None:
        if k == 0:
            callback(n, t, z, data)

    return first
