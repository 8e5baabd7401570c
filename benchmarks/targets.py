"""Data whose score is exact, and the exact flow to compare with."""

from __future__ import annotations

import math

import torch

import scoresde as ss
from scoresde import analytic, grids


def ring() -> analytic.GaussianMixture:
    """Eight narrow modes on a circle."""
    angle = torch.arange(8) * math.pi / 4
    return analytic.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((8,), 0.02**2))


def digits() -> analytic.GaussianMixture:
    """Ten full covariances fitted to scikit-learn's digits in [-1, 1]^64."""
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture

    fit = GaussianMixture(10, reg_covar=1e-3, random_state=0).fit(load_digits().data / 8 - 1)
    return analytic.GaussianMixture(*(torch.from_numpy(a) for a in (fit.means_, fit.covariances_, fit.weights_)))


def anisotropic(modes: int = 30, features: int = 48, decay: float = 0.3, seed: int = 0) -> analytic.GaussianMixture:
    """Diagonal modes, coordinate j of scale j^-decay, rescaled to rms 0.5."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, features + 1, dtype=torch.float64) ** -decay
    means = 1.2 * scale * torch.randn(modes, features, generator=g, dtype=torch.float64)
    std = 0.35 * scale * torch.exp(0.4 * torch.randn(modes, features, generator=g, dtype=torch.float64))
    weights = torch.distributions.Gamma(3.0, 1.0)
    torch.manual_seed(seed)
    w = weights.sample((modes,)).double()
    rms = ((w / w.sum())[:, None] * (means**2 + std**2)).sum(0).mean().sqrt()
    return analytic.GaussianMixture(means / rms * 0.5, (std / rms * 0.5) ** 2, w)


TARGETS = {"ring": (ring, 2), "digits": (digits, 64), "anisotropic": (anisotropic, 48)}


def exact_flow(model: ss.Model, z: torch.Tensor, steps: int) -> torch.Tensor:
    """The endpoint of the probability-flow ODE."""
    end = 1e-7 if isinstance(model, analytic.MixtureModel) else model.sde.t_min
    grid = grids.half_log_snr(model.sde, steps, t_end=end)
    x = ss.sample(model, z.shape, "unipc3", grid=grid, z=z)
    return model.data(x, end).detach()
