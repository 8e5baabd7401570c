"""Densities and codes on linear SDEs against Gaussians and mixtures in closed form."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic

from ..conftest import generator
from ..linear import COUPLED, EVENT, NAMES, STD, processes, two_modes

T_END = 0.05


def smoothed(mixture, sde, x):
    """log density of `x` under the mixture smoothed by the spread r of the best linear estimate at T_END, by dense matrices."""
    r = sde.spread(torch.tensor([T_END], dtype=torch.float64))
    unit = torch.eye(6, dtype=torch.float64).reshape(6, *EVENT)
    noise = sde.times(r**2, unit).reshape(6, 6)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.MultivariateNormal(mixture.means, mixture.full_covariances() + noise),
    )
    return law.log_prob(x.reshape(len(x), -1))


def prior_gap(model, z):
    """What the start from the prior in place of q(z_1) changes, exactly."""
    return model.log_prob(z, torch.tensor(1.0)) - model.sde.prior_log_prob(z)


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_exact(name):
    """1e-4 nats a dimension, as asked, on two modes with full covariances."""
    sde, mixture = processes()[name], two_modes()
    model = mixture.model(sde)
    x = mixture.sample(2, generator())
    found = ss.log_likelihood(model, x, t_end=T_END, rtol=3e-6, atol=3e-6)
    error = found.nats + prior_gap(model, found.z) - smoothed(mixture, sde, x)
    assert float(error.abs().max()) / 6 < 1e-4
    assert found.z.shape == sde.state_shape((2, *EVENT))


def test_estimated_divergences_agree():
    """Hutchinson's estimate within five of its standard errors, with probes over all channels."""
    model = two_modes().model(ss.CLD())
    x = two_modes().sample(2, generator())
    exact = ss.log_likelihood(model, x, t_end=T_END)
    guess = ss.log_likelihood(model, x, t_end=T_END, divergence="hutchinson", probes=16, seeds=range(2), rtol=1e-4, atol=1e-4)
    assert bool(((guess.nats - exact.nats).abs() < 5 * guess.stderr).all())
    assert float(guess.stderr.max()) < 10


@pytest.mark.parametrize("name", NAMES)
def test_codes_go_both_ways(name):
    sde = processes()[name]
    model = two_modes().model(sde)
    x = two_modes().sample(2, generator())
    z = ss.encode(model, x, t_end=T_END, rtol=1e-5, atol=1e-5)
    assert z.shape == sde.state_shape(x.shape)
    # Tolerances of a step: the whole path is off by ten times as much and more.
    torch.testing.assert_close(ss.decode(model, z, t_end=T_END, rtol=1e-5, atol=1e-5), x, rtol=0, atol=2e-3)


def test_codes_follow_the_exact_flow():
    """For N(0, s^2) on an OU process coordinate k is multiplied by the ratio of its standard deviations at the two times."""
    sde = ss.OUSDE(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 2.0, 0.7]))
    data = analytic.GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([STD**2]))
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator())
    alpha, sigma = sde.scales(torch.tensor([T_END, 1.0], dtype=torch.float64))
    std = (alpha**2 * STD**2 + sigma**2).sqrt()
    expected = alpha[0] * x * std[1] / std[0]
    torch.testing.assert_close(ss.encode(data.model(sde), x, t_end=T_END, rtol=1e-8, atol=1e-8), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_mismatch_of_the_prior(name):
    """KL(N(A x, S) || N(0, S)) by dense matrices."""
    sde = processes()[name]
    x = torch.randn(2, *EVENT, dtype=torch.float64, generator=generator())
    one = torch.ones(1, dtype=torch.float64)
    mean = sde.times(sde.signal(one), x)
    zero = torch.zeros_like(mean)
    # log N(m; m, S) - log N(m; 0, S)
    expected = sde.prior_log_prob(zero) - sde.prior_log_prob(mean)
    torch.testing.assert_close(ss.prior_mismatch(sde, x), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", COUPLED)
def test_other_channels_do_not_matter(name):
    """The density of a state less that of what x does not determine: at any w = z - A x^ the same number."""
    sde, mixture = processes()[name], two_modes()
    model, t = mixture.model(sde), torch.tensor([T_END], dtype=torch.float64)
    x = mixture.sample(1, generator())
    a, covariance = sde.signal(t), sde.covariance(t)
    estimate = sde.spread(t)[..., None, None] ** 2 * torch.linalg.solve(covariance, a).mT
    z, _ = sde.perturb(x, T_END, generator(1))
    best = sde.times(estimate, z)
    rest = z - sde.times(a, best)
    ancillary = -0.5 * float(sum((rest * sde.times(torch.linalg.inv(covariance), rest)).flatten()))
    gap = model.log_prob(z, t[0]) - model.log_prob(sde.times(a, best), t[0])
    assert float(gap) == pytest.approx(ancillary, abs=1e-8)


def test_a_bridge_has_no_density():
    bridge = ss.BridgeModel(torch.nn.Linear(2, 2), ss.Bridge.interpolant())
    with pytest.raises(ValueError, match="neither encodes nor has a density"):
        ss.encode(bridge, torch.zeros(2, 2), given=torch.zeros(2, 2))
