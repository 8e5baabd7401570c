"""Distributions whose diffused score is known in closed form: for tests, tutorials and bug reports.

Under z_t | x ~ N(alpha x, sigma^2 I) a mixture of Gaussians stays one,

    q(z_t) = sum_k w_k N(alpha mu_k, alpha^2 S_k + sigma^2 I),

and the posterior mean, with responsibilities r_k(z), is

    E[x | z] = sum_k r_k ( mu_k + alpha S_k (alpha^2 S_k + sigma^2 I)^{-1} (z - alpha mu_k) ).

In the eigenbasis of each S_k all of it is elementwise.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ..numerics.arrays import Time
from ..numerics.random import fresh_generator
from ..sde.base import SDE, as_time
from ..sde.prediction import Prediction
from .base import Model


class GaussianMixture:
    """A mixture of K Gaussians over events of any shape.

    Args:
        means: `(K, *event)`.
        covariances: `(K,)` isotropic variances, `(K, *event)` diagonals, or `(K, d, d)` full matrices over the flattened event
            of size d. A variance of 0 is a point mass.
        weights: `(K,)`, positive; normalised here. Equal by default.

    Raises:
        ValueError: shapes that fit none of these, a negative variance, or a weight that is not positive.
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor | None = None) -> None:
        means = torch.as_tensor(means).double()
        covariances = torch.as_tensor(covariances).double()
        if means.ndim == 0:
            raise ValueError("means must have shape (K, *event), got a scalar")
        k = len(means)
        self.event_shape = means.shape[1:]
        self.means = means.reshape(k, -1)
        d = self.means.shape[1]
        self.basis: Tensor | None = None
        if covariances.shape == (k,):
            self.variances = covariances[:, None].expand(k, d)
        elif covariances.shape == means.shape:
            self.variances = covariances.reshape(k, d)
        elif covariances.shape == (k, d, d):
            self.variances, self.basis = torch.linalg.eigh(covariances)
            # A singular matrix has eigenvalues of -1e-17 as well as 0.
            self.variances = torch.where(self.variances.abs() < 1e-14 * self.variances.amax(), 0.0, self.variances)
        else:
            raise ValueError(
                f"covariances of shape {tuple(covariances.shape)} do not fit means of shape {tuple(means.shape)}: "
                f"need ({k},), {tuple(means.shape)} or ({k}, {d}, {d})"
            )
        if bool((self.variances < 0).any()):
            raise ValueError("covariances must not be negative")
        weights = torch.ones(k, dtype=torch.float64) if weights is None else torch.as_tensor(weights).double()
        if weights.shape != (k,) or not bool((weights > 0).all()):
            raise ValueError(f"weights must be {k} positive numbers, got shape {tuple(weights.shape)}")
        self.weights = weights.to(means.device) / weights.sum()

    def sample(self, n: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """`n` draws, shape `(n, *event)`, on the mixture's device."""
        generator = generator or fresh_generator()
        component = torch.multinomial(self.weights.to(generator.device), n, replacement=True, generator=generator)
        unit = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator, device=generator.device)
        component, unit = component.to(self.means.device), unit.to(self.means.device)
        offset = self.variances[component].sqrt() * unit
        if self.basis is not None:
            offset = torch.einsum("bij,bj->bi", self.basis[component], offset)
        return (self.means[component] + offset).reshape(n, *self.event_shape).to(dtype)

    def log_prob(self, z: Tensor, t: Time | None = None, sde: SDE | None = None) -> Tensor:
        """log q(z_t = z) of each sample in nats, shape `(B,)`; without `t` and `sde` the data's own density.

        Raises:
            ValueError: one of `t` and `sde` without the other.
        """
        if (t is None) != (sde is None):
            raise ValueError("log_prob at a time needs both t and the sde")
        one = torch.ones((), dtype=torch.float64)
        alpha, sigma = (one, 0 * one) if t is None or sde is None else (sde.alpha(t), sde.sigma(t))
        log_joint, _ = self._components(z, alpha, sigma)
        return log_joint.logsumexp(1).to(z.dtype)

    def posterior_mean(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | z] in float64, of the shape of `z`, for scales that are scalar or `(B,)`."""
        log_joint, x = self._components(z, alpha, sigma)
        return torch.einsum("bk,bkd->bd", log_joint.softmax(1), x).reshape(z.shape)

    def model(self, sde: SDE) -> MixtureModel:
        """The exact score model of this distribution under `sde`."""
        return MixtureModel(self, sde)

    def _components(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(z; alpha mu_k, alpha^2 S_k + sigma^2), shape (B, K), and E[x | z, k], shape (B, K, d)."""
        if z.shape[1:] != self.event_shape:
            raise ValueError(f"z has event shape {tuple(z.shape[1:])}, the mixture {tuple(self.event_shape)}")
        alpha, sigma = (c.to(z.device).reshape(-1, 1, 1) for c in (alpha, sigma))
        offset = z.double().reshape(len(z), 1, -1) - alpha * self.means
        if self.basis is not None:
            offset = torch.einsum("kij,bki->bkj", self.basis, offset)
        variance = alpha**2 * self.variances + sigma**2
        log_joint = self.weights.log() - 0.5 * (offset**2 / variance + (2 * math.pi * variance).log()).sum(-1)
        shift = alpha * self.variances / variance * offset
        if self.basis is not None:
            shift = torch.einsum("kij,bkj->bki", self.basis, shift)
        return log_joint, self.means + shift


class MixtureModel(Model):
    """The exact `data`, `noise`, `score` and `velocity` of a `GaussianMixture`, computed in float64."""

    prediction: Prediction = "data"

    def __init__(self, mixture: GaussianMixture, sde: SDE) -> None:
        self.mixture, self.sde = mixture, sde

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[x | z_t = z] in float64.

        Raises:
            TypeError: a condition: there is nothing here to condition on (a misspelt argument of `sample` ends up here).
        """
        if cond:
            raise TypeError(f"the exact model of a mixture takes no conditions, got {', '.join(cond)}")
        t = as_time(t)
        return self.mixture.posterior_mean(z, self.sde.alpha(t), self.sde.sigma(t))

    @property
    def device(self) -> torch.device:
        """Where the mixture is."""
        return self.mixture.means.device


class ZeroModel(Model):
    """A model whose own prediction is 0: the baseline that a training loss has to beat."""

    def __init__(self, sde: SDE, prediction: Prediction = "noise") -> None:
        self.sde, self.prediction = sde, prediction

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        return torch.zeros_like(z)
