"""Data with an exact denoiser, and the exact solution of the probability-flow ODE.

Every coordinate is an independent draw from one mixture sum_k w_k N(m_k, s_k^2). Its flow preserves quantiles in one dimension,

    F_sigma(x_sigma) = u for all sigma,    F_sigma(x) = sum_k w_k Phi((x - m_k) / sqrt(s_k^2 + sigma^2)),

so the solution at any level is a quantile: no solver is its reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.arrays import expand

# Halvings of the bracket of a quantile: below the rounding of float64.
BISECTIONS = 80


@dataclass(frozen=True)
class Target:
    """A mixture in one dimension, for every coordinate.

    Attributes:
        means, stds, weights: of its modes.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x] at the levels `sigma` `()` or `(B,)`, in the dtype of x."""
        m, s, w = (self._column(values) for values in (self.means, self.stds, self.weights))
        y, level = x.double()[..., None], expand(sigma.double(), x, torch.float64)[..., None]
        variance = s**2 + level**2
        log_weight = torch.log(w) - 0.5 * torch.log(variance) - (y - m) ** 2 / (2 * variance)
        posterior = torch.softmax(log_weight, -1)
        return (posterior * (m * level**2 + y * s**2) / variance).sum(-1).to(x.dtype)

    def quantile(self, u: Tensor, sigma: float) -> Tensor:
        """x with F_sigma(x) = u, of the shape of `u`."""
        m, s, w = (self._column(values) for values in (self.means, self.stds, self.weights))
        width = (s**2 + sigma**2).sqrt()
        low, high = (torch.full_like(u, float(v)) for v in ((m - 10 * width).min(), (m + 10 * width).max()))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = (w * torch.special.ndtr((middle[..., None] - m) / width)).sum(-1) < u
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def draw(self, shape: tuple[int, ...], sigma: float, generator: torch.Generator) -> Tensor:
        """States at the level sigma, `shape` float64."""
        w = torch.tensor(self.weights, dtype=torch.float64, device="cpu")
        mode = torch.multinomial(w, torch.Size(shape).numel(), replacement=True, generator=generator).reshape(shape)
        m, s = (torch.tensor(v, dtype=torch.float64, device="cpu")[mode] for v in (self.means, self.stds))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return m + (s**2 + sigma**2).sqrt() * noise

    def moments(self, sigma: float) -> tuple[float, float]:
        """Mean and standard deviation at the level sigma."""
        m, s, w = (self._column(values) for values in (self.means, self.stds, self.weights))
        mean = float((w * m).sum())
        return mean, float((w * ((m - mean) ** 2 + s**2)).sum() + sigma**2) ** 0.5

    @staticmethod
    def _column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device="cpu")


SMOOTH = Target((-0.8, 0.6), (0.5, 0.4), (0.4, 0.6))
NARROW = Target((-1.0, 0.2, 1.0), (0.05, 0.08, 0.05), (0.3, 0.3, 0.4))
GAUSSIAN = Target((0.7,), (0.3,))
# Its variance is far below that of any level in use: D is the point itself, up to 1e-12 of the state.
POINT = 0.7
