"""Samplers of azula, on a variance-preserving schedule: alpha^2 + sigma^2 = 1 and sigma/alpha = levels.sigma(1 - t), with x = z/alpha."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ...numerics.arrays import expand
from ..levels import Levels
from ..sampler import Denoiser, Sampler


def sampler_of(
    cls: type, name: str | None = None, order: int | None = None, calls_per_step: int | None = None, **options: Any
) -> Sampler:
    """A sampler class of azula, whose `order` is also an option where its constructor has one.

    Azula's own schedules end above sigma = 0, and some of its samplers take the logarithm of sigma there.
    """
    if order is not None and cls.__name__.endswith("ABSampler"):
        options["order"] = order

    def run(denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
        wrapped = _denoiser(denoiser, levels)
        alpha, end = (wrapped.schedule(torch.tensor(t, dtype=torch.float64))[0] for t in (1.0, 0.0))
        made: Tensor = cls(wrapped, steps=steps, silent=True, dtype=torch.float64, **options)(alpha.to(x.dtype) * x)
        return made / end.to(made.dtype)

    return Sampler(
        name or f"azula {cls.__name__.removesuffix('Sampler')}", run, order, calls_per_step, exact_end=False, drawn_globally=True
    )


def _denoiser(denoiser: Denoiser, levels: Levels) -> Any:
    """The denoiser in azula's form."""
    denoise = importlib.import_module("azula.denoise")

    class Wrapped(denoise.Denoiser):  # type: ignore[misc, name-defined]
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            ratio = levels.sigma(1 - t.double())
            alpha = (1 + ratio**2).rsqrt()
            return alpha, ratio * alpha

        def forward(self, z: Tensor, t: Tensor) -> Any:
            alpha, sigma = self.schedule(t.reshape(-1).expand(len(z)))
            return denoise.DiracPosterior(denoiser(z / expand(alpha, z, z.dtype), sigma / alpha))

    return Wrapped()
