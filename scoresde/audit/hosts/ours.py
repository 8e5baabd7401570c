"""Our own solvers as samplers to audit: on a variance-preserving path, whose alpha and sigma both change with the levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...loops import AdaptiveLoop
from ...models.base import Model
from ...numerics.arrays import Time, expand
from ...sampling.planning import AnySolver
from ...sampling.registry import name_of
from ...sampling.sample import sample
from ...sde.base import NO_SIGNAL, SDE, as_time
from ...sde.vp import VPSDE
from ...solvers.base import Solver
from ...solvers.tuned import TunedSolver
from ...tableau.tableau import Tableau
from ...tuning.cascade import Cascade
from ..levels import Levels
from ..sampler import Denoiser, Sampler


class Denoised(Model):
    """A denoiser of x = z/alpha as a model on a path: D = denoiser(z/alpha, sigma/alpha)."""

    prediction = "data"

    def __init__(self, denoiser: Denoiser, sde: SDE) -> None:
        self.denoiser, self.sde = denoiser, sde

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        times = as_time(t).cpu().double().reshape(-1).expand(len(z))
        alpha, sigma = signal_of(self.sde, times), self.sde.sigma(times)
        return self.denoiser(z / expand(alpha, z, z.dtype), sigma / alpha)


def sampler_of(solver: AnySolver, name: str | None = None, sde: SDE | None = None) -> Sampler:
    """One of our solvers, on `sde`; a fitted one has its own levels.

    Raises:
        ValueError: a fitted solver of another process than `sde`, or a cascade.
    """
    path = sde or VPSDE()
    name = name or f"scoresde {name_of(solver)}"
    if isinstance(solver, TunedSolver):
        # The table alone: a fitted solver would look at the model and at the shape of the event.
        tableau = solver.tableau(path, solver.grid)
        return Sampler(
            name,
            lambda denoiser, x, levels, steps: _sample(denoiser, path, tableau, x, solver.grid),
            calls_per_step=1,
            own_levels=tuple(level_of(path, float(t)) for t in solver.grid),
        )
    if isinstance(solver, AdaptiveLoop):
        return Sampler(
            name,
            lambda denoiser, x, levels, steps: _sample(denoiser, path, solver, x, times_of(path, levels, 1)),
            order=solver.order,
            adaptive=True,
        )
    if isinstance(solver, Cascade):
        raise ValueError("a cascade chooses its solver for each sample: audit the solvers in it")
    claims = (solver.convergence_order, solver.calls_per_step) if isinstance(solver, Solver) else (solver.order, None)
    return Sampler(
        name, lambda denoiser, x, levels, steps: _sample(denoiser, path, solver, x, times_of(path, levels, steps)), *claims
    )


def _sample(denoiser: Denoiser, sde: SDE, solver: AnySolver | Tableau, x: Tensor, times: Tensor) -> Tensor:
    start, end = float(times[0]), float(times[-1])
    # A stream of its own that the seed of torch's global state decides and that leaves that state alone.
    generator = torch.Generator().manual_seed(torch.initial_seed())
    z = float(signal_of(sde, start)) * x
    grid: dict[str, Any] = {} if isinstance(solver, Tableau) else {"grid": times}
    if isinstance(solver, AdaptiveLoop):
        solver, grid = replace(solver, t_end=end), {"t_start": start}  # type: ignore[type-var]
    made = sample(Denoised(denoiser, sde), tuple(x.shape), solver, z=z, generator=generator, dtype=x.dtype, **grid)
    assert isinstance(made, Tensor)
    return made / float(sde.alpha(end))


def level_of(sde: SDE, t: float) -> float:
    """sigma/alpha at time t."""
    return float(sde.sigma(t) / signal_of(sde, t))


def signal_of(sde: SDE, t: Time) -> Tensor:
    """alpha(t), and a little where a path starts without signal: the coordinates x = z/alpha of a flow would be infinite at t = 1."""
    return sde.alpha(t).clamp(min=NO_SIGNAL)


def times_of(sde: SDE, levels: Levels, steps: int) -> Tensor:
    """The times at which sigma/alpha has the levels, `(steps + 1,)`; level 0 is t = 0."""
    sigmas = levels.sigmas(steps)
    times = torch.zeros_like(sigmas)
    times[sigmas > 0] = sde.time(-sigmas[sigmas > 0].log())
    return times
