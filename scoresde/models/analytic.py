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

from ..numerics.arrays import Time, flatten_events, values_are_known
from ..numerics.coefficients import root
from ..numerics.inputs import as_count, as_dtype, as_numbers, as_state
from ..numerics.keywords import explained_keywords
from ..numerics.random import as_generator
from ..sde.base import SDE, as_time
from ..sde.linear import LinearSDE
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
        TypeError: arguments that are no real numbers.
        ValueError: shapes that fit none of these, numbers that are not finite, a matrix that is not symmetric or has a negative eigenvalue,
            a negative variance, or a weight that is not positive.
    """

    @explained_keywords(
        stds="covariances are variances (K,), stds**2",
        std="covariances are variances (K,), std**2",
        variances="variances (K,) are covariances=",
    )
    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor | None = None) -> None:
        means = _finite("means", means)
        covariances = _finite("covariances", covariances).to(means.device)
        if means.numel() == 0 or means.ndim == 0:
            shown = f"shape {tuple(means.shape)}" if means.ndim else "a scalar"
            raise ValueError(f"means must have shape (K, *event) with K >= 1, got {shown}")
        k = len(means)
        self.event_shape = means.shape[1:]
        self.means = flatten_events(means)
        d = self.means.shape[1]
        self.basis: Tensor | None = None
        if covariances.shape == (k,):
            self.variances = covariances[:, None].expand(k, d)
        elif covariances.shape == means.shape:
            self.variances = covariances.reshape(k, d)
        elif covariances.shape == (k, d, d):
            # Rounding in float32 leaves an asymmetry of 1e-7; `eigh` would read the lower triangle alone.
            asymmetry = float((covariances - covariances.mT).abs().amax() / covariances.abs().amax().clamp(min=1e-300))
            if asymmetry > 1e-5:
                raise ValueError(
                    f"covariances must be symmetric, but entries differ from their mirror images by {asymmetry:.2g} of the largest: "
                    "a Cholesky factor L stands for L @ L.mT"
                )
            self.variances, self.basis = torch.linalg.eigh(covariances)
            # A singular matrix has eigenvalues of -1e-17 as well as 0.
            self.variances = torch.where(self.variances.abs() < 1e-14 * self.variances.amax(), 0.0, self.variances)
        else:
            raise ValueError(
                f"covariances of shape {tuple(covariances.shape)} do not fit means of shape {tuple(means.shape)}: "
                f"need ({k},), {tuple(means.shape)} or ({k}, {d}, {d})"
            )
        if bool((self.variances < 0).any()):
            raise ValueError(
                f"covariances must not be negative, but a variance or an eigenvalue is {float(self.variances.min()):g}"
            )
        weights = torch.ones(k, dtype=torch.float64, device="cpu") if weights is None else _finite("weights", weights)
        if weights.shape != (k,) or not bool((weights > 0).all()):
            raise ValueError(f"weights must be {k} positive numbers, got shape {tuple(weights.shape)}")
        self.weights = weights.to(means.device) / weights.sum()
        self.has_point_mass = bool((self.variances == 0).any())

    def __repr__(self) -> str:
        return f"GaussianMixture({len(self.weights)} components of shape {self.event_shape})"

    def sample(self, n: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """`n` draws, shape `(n, *event)`, on the mixture's device."""
        n, generator = as_count("n", n, 0), as_generator(generator)
        dtype = as_dtype("dtype", dtype) or torch.float64
        if n == 0:
            return torch.empty(0, *self.event_shape, dtype=dtype, device=self.means.device)
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
            TypeError: `z` holds no real numbers.
            ValueError: one of `t` and `sde` without the other, or `z` is of another event shape.
        """
        z = as_state("z", z)
        if self.has_point_mass and t is None:
            raise ValueError("a variance is 0, and a point mass has no density: give t and sde")
        if (t is None) != (sde is None):
            raise ValueError("log_prob at a time needs both t and the sde")
        if t is not None and isinstance(sde, LinearSDE):
            return LinearMixtureModel(self, sde).log_prob(z, t)
        one = torch.ones((), dtype=torch.float64, device="cpu")
        alpha, sigma = (one, 0 * one) if t is None or sde is None else (sde.alpha(t), sde.sigma(t))
        log_joint, _ = self._components(z, alpha, sigma)
        return log_joint.logsumexp(1).to(z.dtype)

    def full_covariances(self) -> Tensor:
        """The covariance of each component over the flattened event, `(K, d, d)`."""
        if self.basis is None:
            return torch.diag_embed(self.variances)
        return self.basis @ (self.variances[:, :, None] * self.basis.mT)

    def posterior_mean(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | z] in float64, of the shape of `z`, for scales that are scalar or `(B,)`."""
        log_joint, x = self._components(z, alpha, sigma)
        return torch.einsum("bk,bkd->bd", log_joint.softmax(1), x).reshape(z.shape)

    def model(self, sde: SDE) -> MixtureModel:
        """The exact score model of this distribution under `sde`."""
        return LinearMixtureModel(self, sde) if isinstance(sde, LinearSDE) else MixtureModel(self, sde)

    def _components(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(z; alpha mu_k, alpha^2 S_k + sigma^2), shape (B, K), and E[x | z, k], shape (B, K, d)."""
        if z.shape[1:] != self.event_shape:
            raise ValueError(f"z has event shape {tuple(z.shape[1:])}, the mixture {tuple(self.event_shape)}")
        alpha, sigma = (c.to(z.device).reshape(-1, 1, 1) for c in (alpha, sigma))
        offset = flatten_events(z.double())[:, None] - alpha * self.means
        if self.basis is not None:
            offset = torch.einsum("kij,bki->bkj", self.basis, offset)
        variance = alpha**2 * self.variances + sigma**2
        log_joint = self.weights.log() - 0.5 * (offset**2 / variance + (2 * math.pi * variance).log()).sum(-1)
        shift = alpha * self.variances / variance * offset
        if self.basis is not None:
            shift = torch.einsum("kij,bkj->bki", self.basis, shift)
        return log_joint, self.means + shift


def _finite(name: str, values: object) -> Tensor:
    """Finite numbers in float64.

    Raises:
        TypeError: no real numbers.
        ValueError: a number is infinite or NaN.
    """
    out = as_numbers(name, values)
    if not bool(out.isfinite().all()):
        raise ValueError(f"{name} must be finite")
    return out


class MixtureModel(Model):
    """The exact `data`, `noise`, `score` and `velocity` of a `GaussianMixture`, computed in float64."""

    prediction: Prediction = "data"

    def __init__(self, mixture: GaussianMixture, sde: SDE) -> None:
        self.mixture, self.sde = mixture, sde

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[x | z_t = z] in float64.

        Raises:
            TypeError: a condition: there is nothing here to condition on (a misspelt argument of `sample` ends up here).
            ValueError: sigma(t) = 0 for a mixture with a point mass.
        """
        if cond:
            raise TypeError(f"the exact model of a mixture takes no conditions, got {', '.join(cond)}")
        z, t = as_state("z", z), as_time(t)
        sigma = self.sde.sigma(t)
        if self.mixture.has_point_mass and values_are_known(sigma) and bool((sigma == 0).any()):
            raise ValueError(f"the mixture has a variance of 0, and at t={t.min():g} there is no noise: E[x | z] is undefined")
        return self.mixture.posterior_mean(z, self.sde.alpha(t), sigma)

    @property
    def device(self) -> torch.device:
        """Where the mixture is."""
        return self.mixture.means.device


class LinearMixtureModel(MixtureModel):
    """The same on a `LinearSDE`: with z | x ~ N(A x, Sigma) over the whole event, in any basis,

        q(z) = sum_k w_k N(A mu_k, A S_k A^T + Sigma),       E[x | z, k] = mu_k + S_k A^T (A S_k A^T + Sigma)^{-1} (z - A mu_k).

    The matrices are full: one of size m d for each component and time.
    """

    sde: LinearSDE

    def __init__(self, mixture: GaussianMixture, sde: LinearSDE) -> None:
        super().__init__(mixture, sde)

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        if cond:
            raise TypeError(f"the exact model of a mixture takes no conditions, got {', '.join(cond)}")
        log_joint, x = self._joint(self.sde.as_state("z", z), as_time(t))
        return torch.einsum("bk,bkd->bd", log_joint.softmax(1), x).reshape(len(z), *self.mixture.event_shape)

    def log_prob(self, z: Tensor, t: Time) -> Tensor:
        """log q(z_t = z) of each state in nats, `(B,)`."""
        return self._joint(self.sde.as_state("z", z), as_time(t))[0].logsumexp(1).to(z.dtype)

    def _joint(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(z; ...), `(B, K)`, and E[x | z, k], `(B, K, d)`, in float64."""
        if t.ndim:
            parts = [self._joint(z[i : i + 1], t[i]) for i in range(len(z))]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        mixture, d = self.mixture, self.mixture.means.shape[1]
        unit = torch.eye(d, dtype=torch.float64, device=z.device).reshape(d, *mixture.event_shape)
        # Images of the unit vectors are the columns of A and of a root of Sigma.
        a = flatten_events(self.sde.times(self.sde.signal(t[None]), unit)).T
        states = torch.eye(len(a), dtype=torch.float64, device=z.device).reshape(len(a), *z.shape[1:])
        r = flatten_events(self.sde.times(root(self.sde.covariance(t[None])), states)).T
        cross = mixture.full_covariances().to(z.device) @ a.T
        covariance = a @ cross + r @ r.T
        offset = flatten_events(z.double())[:, None] - mixture.means.to(z.device) @ a.T
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, offset.permute(1, 2, 0), upper=False)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_normal = -0.5 * white.square().sum(1) - log_det[:, None] - 0.5 * len(a) * math.log(2 * math.pi)
        x = mixture.means.to(z.device)[:, :, None] + cross @ torch.linalg.solve_triangular(factor.mT, white, upper=True)
        return (mixture.weights.to(z.device).log()[:, None] + log_normal).T, x.permute(2, 0, 1)


class ZeroModel(Model):
    """A model whose own prediction is 0: the baseline that a training loss has to beat."""

    def __init__(self, sde: SDE, prediction: Prediction = "noise") -> None:
        self.sde, self.prediction = sde, prediction

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        return z.new_zeros(self.sde.data_shape(z.shape) if isinstance(self.sde, LinearSDE) else z.shape)
