"""What is audited: a sampler, whatever host it was written for, in the coordinates x = x_0 + sigma eps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .levels import Levels

# D = denoiser(x, sigma) with x `(B, *event)` and sigma `(B,)`: E[x_0 | x].
Denoiser = Callable[[Tensor, Tensor], Tensor]
# x at the last level = run(denoiser, x at the first level, levels, steps).
Run = Callable[[Denoiser, Tensor, Levels, int], Tensor]


@dataclass(frozen=True)
class Sampler:
    """A sampler and what is claimed of it.

    Attributes:
        name: of the sampler, with its package.
        run: the sampler itself. Noise comes from torch's random numbers, of whatever generator, and torch.manual_seed decides it.
        order: of convergence, by its name or its makers; weak where it draws noise. None where nothing is claimed.
        calls_per_step: network calls in a step, where that is claimed.
        exact_end: whether it takes a last level of 0.
        own_levels: the levels of its steps where they are not free, the first to the last.
        drawn_globally: whether its host has no other way than torch's global state to give it noise.
        adaptive: whether it chooses its own steps.
    """

    name: str
    run: Run
    order: int | None = None
    calls_per_step: int | None = None
    exact_end: bool = True
    own_levels: tuple[float, ...] | None = None
    drawn_globally: bool = False
    adaptive: bool = False
