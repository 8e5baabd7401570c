"""Methods of torchsde as samplers: the reverse SDE or the probability-flow ODE in x, over the part u of the run.

dx = 2 (x - D)/sigma sigma'(u) du + sqrt(-2 sigma sigma'(u)) dW,    u from 0 to 1,    sigma' < 0
dx =   (x - D)/sigma sigma'(u) du

The noise is additive and has no Stratonovich correction, so every method solves the same equation. dt is 1/steps: where steps of that size add
up to less than 1, torchsde takes one more.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import torch
from torch import Tensor

from ..levels import RHO, Levels
from ..sampler import Denoiser, Sampler

Equation = Literal["sde", "ode"]
# Those of Ito's kind; all others are Stratonovich methods, and milstein is both.
ITO = {"euler", "milstein", "srk"}
# Of the Brownian path, where a method needs more of it than its increments.
AREAS = {"srk": "space-time", "log_ode": "foster"}


def sampler_of(
    method: str,
    name: str | None = None,
    order: int | None = None,
    calls_per_step: int | None = None,
    *,
    equation: Equation = "sde",
    noise_type: Literal["diagonal", "additive"] = "diagonal",
    sde_type: Literal["ito", "stratonovich"] | None = None,
    **options: Any,
) -> Sampler:
    """A method of `torchsde.sdeint`.

    Args:
        method: its name there.
        name, order, calls_per_step: as in `Sampler`.
        equation: the reverse SDE or the probability-flow ODE.
        noise_type: the form of the diffusion, which decides between two variants of srk and of milstein.
        sde_type: by default that of the method.
        **options: of the method.
    """
    kind = sde_type or ("ito" if method in ITO else "stratonovich")

    def run(denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
        torchsde = importlib.import_module("torchsde")
        problem = Reverse(denoiser, levels, x.shape, equation, noise_type, kind)
        # The clock keeps float64 whatever the state.
        clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)
        noise = _increments(x, AREAS.get(method, "none"))
        path = torchsde.sdeint(problem, x.flatten(1), clock, bm=noise, method=method, dt=1 / steps, options=options)
        return path[-1].reshape(x.shape)

    return Sampler(name or f"torchsde {method} {equation}", run, order, calls_per_step, exact_end=False)


class Reverse:
    """The equation as torchsde reads it, for states flattened to `(B, d)`.

    Attributes:
        sde_type, noise_type: torchsde's names of its kind.
    """

    def __init__(
        self, denoiser: Denoiser, levels: Levels, shape: torch.Size, equation: Equation, noise_type: str, sde_type: str
    ) -> None:
        self.denoiser, self.levels, self.shape = denoiser, levels, shape
        self.noise = float(equation == "sde")
        self.noise_type, self.sde_type = noise_type, sde_type

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        """The drift `(B, d)` at `u` `()` of `y` `(B, d)`."""
        sigma, slope = self._level(u)
        denoised = self.denoiser(y.reshape(self.shape), sigma.expand(len(y))).flatten(1)
        return (1 + self.noise) * slope / sigma * (y - denoised)

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        """The diffusion: `(B, d)` where it is diagonal, else `(B, d, d)`."""
        sigma, slope = self._level(u)
        size = self.noise * (-2 * sigma * slope).sqrt()
        ones = torch.ones_like(y)
        return size * (ones if self.noise_type == "diagonal" else torch.diag_embed(ones))

    def _level(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """sigma(u) and its derivative, `()`."""
        sigma = self.levels.sigma(u)
        high, low = (level ** (1 / RHO) for level in (self.levels.high, self.levels.low))
        return sigma, RHO * (low - high) * sigma ** (1 - 1 / RHO)


def _increments(x: Tensor, area: str) -> Any:
    """A Brownian path whose seed is that of torch; it draws noise of the shape of `x` and gives it as `(B, d)`."""
    torchsde = importlib.import_module("torchsde")

    class Increments(torchsde.BrownianInterval):  # type: ignore[misc, name-defined]
        """Its increments, and the integrals with them, flattened."""

        shape = property(lambda self: x.flatten(1).shape)

        def __call__(self, start: Tensor, end: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
            found = super().__call__(start, end, return_U, return_A)
            if not (return_U or return_A):
                return found.flatten(1)
            return tuple(part.flatten(1) if part.shape == x.shape else part for part in found)

    size, seed = tuple(x.shape), torch.initial_seed()
    return Increments(0.0, 1.0, size, x.dtype, x.device, entropy=seed, levy_area_approximation=area)
