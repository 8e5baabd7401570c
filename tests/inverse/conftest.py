"""Gaussian and mixture posteriors of linear observations in closed form."""

import torch

from scoresde import analytic

from ..conftest import generator


def covariance(d=4, seed=0):
    """A random covariance matrix with eigenvalues between .2 and 1.5, and a mean."""
    basis, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator(seed)))
    return (basis * torch.linspace(0.2, 1.5, d, dtype=torch.float64)) @ basis.T


def gaussian_prior(d=4, seed=0):
    mean = torch.randn(1, d, dtype=torch.float64, generator=generator(seed + 1))
    return analytic.GaussianMixture(mean, covariance(d, seed)[None])


def observation_matrix(m=2, d=4, seed=5):
    return torch.randn(m, d, dtype=torch.float64, generator=generator(seed)) / d**0.5


def posterior(prior, a, std, y):
    """The mixture p(x | y) for y = A x + std n, component by component; `prior` has full covariances."""
    s = torch.stack([q @ torch.diag(v) @ q.T for q, v in zip(prior.basis, prior.variances, strict=True)])
    k = a @ s @ a.T + std**2 * torch.eye(len(a), dtype=torch.float64)
    gain = s @ a.T @ torch.linalg.inv(k)
    residual = y - prior.means @ a.T
    means = prior.means + (gain @ residual[:, :, None])[:, :, 0]
    covariances = s - gain @ a @ s
    log = torch.distributions.MultivariateNormal(torch.zeros(len(a), dtype=torch.float64), k).log_prob(residual)
    weights = (prior.weights.log() + log).softmax(0)
    # A component that the observation rules out has a weight of 0 in float64, which a mixture does not take.
    return analytic.GaussianMixture(means, 0.5 * (covariances + covariances.mT), weights.clamp(min=1e-300))


def wasserstein2(samples, mean, cov):
    """The 2-Wasserstein distance between the Gaussian of the samples' moments and N(mean, cov)."""
    m, c = samples.mean(0), torch.cov(samples.T)
    root = _root(cov)
    cross = _root(root @ c @ root)
    return float(((m - mean) ** 2).sum() + torch.trace(c + cov - 2 * cross)) ** 0.5


def _root(matrix):
    values, q = torch.linalg.eigh(matrix)
    return (q * values.clamp(min=0).sqrt()) @ q.T


def moments(table_model, z, sample):
    """Mean and covariance of what a linear deterministic sampler makes of N(0, I): exact, from d + 1 starts."""
    ends = sample(table_model, z)
    mean = ends[0]
    jacobian = (ends[1:] - mean).T
    return mean, jacobian @ jacobian.T


def starts(sde, d=4):
    """The origin and the unit vectors of the prior's scale."""
    return sde.prior_std * torch.cat([torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)])


def distance(mean, cov, exact_mean, exact_cov):
    root = _root(exact_cov)
    cross = _root(root @ cov @ root)
    return float(((mean - exact_mean) ** 2).sum() + torch.trace(cov + exact_cov - 2 * cross)).__abs__() ** 0.5
