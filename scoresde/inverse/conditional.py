"""Draws of x ~ N(m, v I) p(y | x), which loops of their own need."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.arrays import expand, flatten_events
from ..numerics.linear import conjugate_gradient
from ..numerics.random import NoiseSource, cpu_generator
from .likelihoods import Gaussian, Likelihood

# Of the residual of a linear system, relative.
TOLERANCE = 1e-8


def exact_draw(likelihood: Gaussian, mean: Tensor, variance: float, y: Tensor, noise: NoiseSource) -> Tensor:
    """A draw for a linear operator: perturb and solve (Papandreou and Yuille 2010).

    x = m + sqrt(v) n,  then x + v A^T K^{-1} (y + sigma_y n' - A x) with K = Sigma_y + v A A^T.
    """
    x = mean + noise.draw(mean.shape, mean.dtype, mean.device, variance**0.5)
    local = likelihood.at(x)
    variances = likelihood.noise(local.value)
    assert isinstance(variances, Tensor)
    drawn = noise.draw(local.value.shape, mean.dtype, mean.device)
    residual = flatten_events(y - local.value + variances.sqrt() * drawn)

    def k(u: Tensor) -> Tensor:
        u = u.reshape(local.value.shape)
        return flatten_events(variances * u + variance * local.forward(local.adjoint(u)))

    solution = conjugate_gradient(k, residual, residual.shape[1], TOLERANCE).x
    return x + variance * local.adjoint(solution.reshape(local.value.shape))


def langevin_draw(
    likelihood: Likelihood, mean: Tensor, variance: float, y: Tensor, noise: NoiseSource, steps: int, size: float
) -> Tensor:
    """A state near a draw for any likelihood: Langevin steps x <- x + h (grad log p(y|x) + (m - x)/v) + sqrt(2 h) n from m.

    h = size/(1/v + L) in each sample, with L the largest eigenvalue of A^T Sigma_y^{-1} A at m: a step does not overshoot for size < 1.
    """
    h = size / (1 / variance + _curvature(likelihood, mean))
    x, spread = mean, (2 * h).sqrt()
    for _ in range(steps):
        gradient = likelihood.gradient(x, y) + (mean - x) / variance
        x = x + expand(h, x) * gradient + expand(spread, x) * noise.draw(x.shape, x.dtype, x.device)
    return x


def _curvature(likelihood: Likelihood, x: Tensor, iterations: int = 10) -> Tensor:
    """The largest eigenvalue of A^T Sigma_y^{-1} A at `x`, `(B,)`, by power iteration from one vector for all samples."""
    local = likelihood.at(x)
    variances = likelihood.noise(local.value)
    v = torch.randn(x[:1].shape, generator=cpu_generator(0), dtype=torch.float64).to(x).expand_as(x)
    size = x.new_zeros(len(x))
    for _ in range(iterations):
        v = v / expand(flatten_events(v).norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny), v)
        out = local.forward(v)
        v = local.adjoint(likelihood.whitened(out) if callable(variances) else out / variances)
        size = flatten_events(v).norm(dim=1)
    return size


def is_exact(likelihood: Likelihood) -> bool:
    """Whether `exact_draw` takes the likelihood."""
    return isinstance(likelihood, Gaussian) and likelihood.linear and not callable(likelihood.std)


def draw(likelihood: Likelihood, mean: Tensor, variance: float, y: Tensor, noise: NoiseSource, steps: int, size: float) -> Tensor:
    """`exact_draw` where it can be, else `langevin_draw`."""
    if is_exact(likelihood):
        assert isinstance(likelihood, Gaussian)
        return exact_draw(likelihood, mean, variance, y, noise)
    return langevin_draw(likelihood, mean, variance, y, noise, steps, size)


def observation(likelihood: Likelihood, cond: dict[str, object], like: Tensor) -> tuple[Tensor, dict[str, object]]:
    """y with one row a sample, and the other conditions.

    Raises:
        TypeError: y is missing.
    """
    y = cond.get(likelihood.name)
    if not isinstance(y, Tensor):
        raise TypeError(
            f"the loop needs its observation, {likelihood.name}=, a tensor with one row a sample, got {type(y).__name__}"
        )
    y = y.to(like)
    return y.expand(len(like), *y.shape[1:]) if len(y) == 1 else y, {k: v for k, v in cond.items() if k != likelihood.name}
