"""Mixtures against autodiff of their own density and against torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scoresde import analytic

from ..conftest import SDES, generator, mixture, sdes


def full_mixture() -> analytic.GaussianMixture:
    root = torch.randn(3, 4, 4, dtype=torch.float64, generator=generator(5)) / 2
    return analytic.GaussianMixture(
        torch.randn(3, 4, generator=generator(6)),
        root @ root.mT + 0.05 * torch.eye(4, dtype=torch.float64),
        torch.tensor([1.0, 2.0, 3.0]),
    )


def reference_density(m: analytic.GaussianMixture, root: torch.Tensor, alpha: float, sigma: float) -> MixtureSameFamily:
    covariance = alpha**2 * root + sigma**2 * torch.eye(root.shape[-1], dtype=torch.float64)
    return MixtureSameFamily(Categorical(m.weights), MultivariateNormal(alpha * m.means, covariance))


@sdes
@pytest.mark.parametrize("t", [0.02, 0.4, 0.95])
def test_density_and_score_of_full_covariances(sde, t):
    m = full_mixture()
    covariance = m.basis @ torch.diag_embed(m.variances) @ m.basis.mT
    density = reference_density(m, covariance, float(sde.alpha(t)), float(sde.sigma(t)))
    z = torch.randn(20, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    expected = density.log_prob(z)
    torch.testing.assert_close(m.log_prob(z, t, sde), expected)
    (score,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(m.model(sde).score(z, t), score, rtol=1e-8, atol=1e-8)


def test_data_density():
    m = full_mixture()
    x = m.sample(5, generator())
    covariance = m.basis @ torch.diag_embed(m.variances) @ m.basis.mT
    torch.testing.assert_close(m.log_prob(x), reference_density(m, covariance, 1.0, 0.0).log_prob(x))


def test_the_three_kinds_of_covariance_agree():
    means, variances = torch.randn(3, 2, 2, generator=generator()), torch.tensor([0.1, 0.2, 0.4])
    kinds = [variances, variances[:, None, None].expand(3, 2, 2), variances[:, None, None] * torch.eye(4)]
    z = torch.randn(6, 2, 2, dtype=torch.float64, generator=generator(1))
    first, *others = [analytic.GaussianMixture(means, c).model(SDES["ddpm"]).data(z, 0.3) for c in kinds]
    for other in others:
        torch.testing.assert_close(other, first)


def test_samples_have_the_mixture_moments():
    m, n = full_mixture(), 200_000
    x = m.sample(n, generator())
    covariances = m.basis @ torch.diag_embed(m.variances) @ m.basis.mT
    mean = (m.weights[:, None] * m.means).sum(0)
    centred = m.means - mean
    covariance = (m.weights[:, None, None] * (covariances + centred[:, :, None] * centred[:, None, :])).sum(0)
    # 5 standard errors of a mean; a covariance of n draws has error about sqrt(2/n) times the variance, the kurtosis here below 3.
    assert (x.mean(0) - mean).abs().max() < 5 * math.sqrt(float(covariance.diagonal().max()) / n)
    assert (torch.cov(x.T) - covariance).abs().max() < 5 * math.sqrt(2 / n) * float(covariance.diagonal().max())


@pytest.mark.parametrize("event", [(), (3,), (2, 3), (1, 2, 3), (1, 2, 1, 3)])
def test_any_event_shape(event, device):
    m = analytic.GaussianMixture(torch.randn(2, *event).to(device), torch.tensor([0.1, 0.2]).to(device))
    model, z = m.model(SDES["ddpm"]), m.sample(5, generator()).float()
    assert z.shape == (5, *event)
    t = torch.full((5,), 0.3, device=device)
    for call in (model.data, model.noise, model.score, model.velocity):
        assert call(z, 0.3).shape == z.shape
        assert call(z, 0.3).dtype == z.dtype
        torch.testing.assert_close(call(z, t), call(z, 0.3))
    assert m.log_prob(z, 0.3, SDES["ddpm"]).shape == (5,)


def test_point_mass_is_its_own_posterior_mean():
    point = torch.tensor([[0.3, -2.0]])
    model = analytic.GaussianMixture(point, torch.zeros(1)).model(SDES["ddpm"])
    z = torch.randn(4, 2, generator=generator())
    torch.testing.assert_close(model.data(z, 0.5), point.expand(4, 2))


def test_score_is_accurate_in_float32_at_small_noise():
    """The noise (z - alpha D)/sigma of a float32 state is computed in float64 and cast last."""
    model, t = mixture().model(SDES["ddpm"]), 1e-3
    z = torch.randn(100, 2, generator=generator())
    torch.testing.assert_close(model.noise(z, t), model.noise(z.double(), t).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("means", "covariances", "weights", "message"),
    [
        (torch.zeros(2, 3), torch.ones(3), None, "do not fit"),
        (torch.zeros(2, 3), -torch.ones(2), None, "negative"),
        (torch.zeros(2, 3), torch.ones(2), torch.tensor([1.0, 0.0]), "positive"),
        (torch.tensor(0.0), torch.ones(1), None, "scalar"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(means, covariances, weights, message):
    with pytest.raises(ValueError, match=message):
        analytic.GaussianMixture(means, covariances, weights)


def test_wrong_event_shape_names_both():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        mixture().model(SDES["ddpm"]).data(torch.zeros(4, 3), 0.5)
    with pytest.raises(ValueError, match="needs both"):
        mixture().log_prob(torch.zeros(4, 2), 0.5)
    with pytest.raises(TypeError, match="no conditions, got seed"):
        mixture().model(SDES["ddpm"]).data(torch.zeros(4, 2), 0.5, seed=3)
