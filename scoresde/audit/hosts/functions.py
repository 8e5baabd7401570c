"""Functions as samplers to audit: those of k-diffusion, of ComfyUI, and any f(denoiser, z, sigmas).

The first three arguments are the same in all of them. The levels are x = x_0 + sigma eps, as they are here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..levels import Levels
from ..sampler import Denoiser, Sampler


class HostModel(torch.nn.Module):
    """A denoiser as the model that k-diffusion and ComfyUI give to a sampler: `model(x, sigma, **extra)`, with its levels inside."""

    def __init__(self, denoiser: Denoiser, levels: Levels) -> None:
        super().__init__()
        self.denoiser = denoiser
        low, high = (torch.tensor(level, dtype=torch.float64) for level in (levels.low, levels.high))
        sampling = SimpleNamespace(sigma_min=low, sigma_max=high, noise_scaling=lambda sigma, noise, latent, *_: noise * sigma)
        # ComfyUI's samplers look for it at two depths.
        self.inner_model = SimpleNamespace(model_sampling=sampling, inner_model=SimpleNamespace(model_sampling=sampling))
        self.sigma_min, self.sigma_max = low, high

    def forward(self, x: Tensor, sigma: Tensor, **extra: object) -> Tensor:
        return self.denoiser(x, sigma)


def sampler_of(
    function: Any,
    name: str | None = None,
    order: int | None = None,
    calls_per_step: int | None = None,
    *,
    exact_end: bool = True,
    adaptive: bool = False,
    **options: Any,
) -> Sampler:
    """A function `f(model, x, sigmas, ...)`, or ComfyUI's `KSAMPLER` object around one.

    Args:
        function: it, or the object.
        name, order, calls_per_step, exact_end, adaptive: as in `Sampler`.
        **options: further arguments of the function.

    Raises:
        TypeError: no function of three arguments.
    """
    inner: Callable[..., Any] = getattr(function, "sampler_function", function)
    options = {**getattr(function, "extra_options", {}), **options}
    if not callable(inner):
        raise TypeError(f"a sampler is a function f(denoiser, z, sigmas), got {function!r}")
    parameters = inspect.signature(inner).parameters
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(positional) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in positional):
        raise TypeError(f"a sampler is a function f(denoiser, z, sigmas), and {name_of(inner)} takes {list(parameters)}")
    quiet = {"disable": True} if "disable" in parameters else {}

    def run(denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
        result = inner(HostModel(denoiser, levels), x, levels.sigmas(steps).to(x.device), **quiet, **options)
        if not isinstance(result, Tensor):
            raise TypeError(f"{name_of(inner)} returned {type(result).__name__} in place of a tensor")
        return result

    # The hosts' way is the global state, unless a noise_sampler replaces the noise. A generator or a seed promises another way.
    free = {"generator", "seed", "seeds"} & set(parameters)
    return Sampler(name or name_of(inner), run, order, calls_per_step, exact_end, drawn_globally=not free, adaptive=adaptive)


def name_of(function: Any) -> str:
    """module:name of a function."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', function)}"
