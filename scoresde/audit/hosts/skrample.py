"""Samplers of skrample, on a variance-preserving schedule: alpha^2 + sigma^2 = 1 and sigma/alpha = levels.sigma(1 - t), with x = z/alpha."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ..levels import Levels
from ..sampler import Denoiser, Sampler


def sampler_of(
    sampler: Any, name: str | None = None, order: int | None = None, calls_per_step: int | None = None, *, adaptive: bool = False
) -> Sampler:
    """A sampler of `skrample.sampling.structured` or of `skrample.sampling.functional`.

    Args:
        sampler: the object.
        name, order, calls_per_step, adaptive: as in `Sampler`.
    """

    def run(denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
        interface, models, noises = (
            importlib.import_module(f"skrample.{module}") for module in ("sampling.interface", "sampling.models", "pytorch.noise")
        )

        def model(z: Tensor, timestep: float, sigma: float, alpha: float) -> Tensor:
            return denoiser(z / alpha, torch.full((len(z),), sigma / alpha, dtype=torch.float64, device=z.device))

        functional = sampler if hasattr(sampler, "sample_model") else interface.StructuredFunctionalAdapter(sampler)
        schedule = _schedule(levels)
        generator = torch.Generator(x.device).manual_seed(torch.initial_seed())
        noise = noises.Random.from_inputs(tuple(x.shape), generator, dtype=x.dtype).generate
        start, end = schedule.ipoint(0).alpha, schedule.ipoint(1).alpha
        made: Tensor = functional.sample_model(start * x, model, models.DataModel(), schedule, steps, rng=noise)
        return made / end

    return Sampler(name or f"skrample {type(sampler).__name__}", run, order, calls_per_step, adaptive=adaptive)


def _schedule(levels: Levels) -> Any:
    """The levels in skrample's form."""
    scheduling = importlib.import_module("skrample.scheduling")
    numpy = importlib.import_module("numpy")

    class Schedule(scheduling.SkrampleSchedule):  # type: ignore[misc, name-defined]
        space = scheduling.VariancePreserving()

        def _points(self, t: Any) -> Any:
            ratio = levels.sigma(torch.as_tensor(1 - t)).numpy()
            # The ratio is the timestep too: skrample does not ask the network at a timestep of 0.
            return numpy.stack([ratio, *self.space.normalize(ratio)], axis=1)

    return Schedule()
