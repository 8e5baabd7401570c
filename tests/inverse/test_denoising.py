"""Noisy observations of the data itself: exact for every prior."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic
from scoresde.inverse import denoising
from scoresde.numerics.cost import counted

from ..conftest import SDES, OwnPrediction, generator, sdes


def five_modes():
    means = torch.randn(5, 3, dtype=torch.float64, generator=generator(2))
    return analytic.GaussianMixture(means, torch.tensor([0.05, 0.1, 0.2, 0.15, 0.08]), torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]))


def observed(prior, std, y):
    """p(x | y) of an isotropic mixture."""
    s = prior.variances[:, :1]
    means = (std**2 * prior.means + s * y) / (s + std**2)
    log = prior.weights.log() - 0.5 * (((y - prior.means) ** 2 / (s + std**2)).sum(1) + 3 * (s[:, 0] + std**2).log())
    return analytic.GaussianMixture(means, (s * std**2 / (s + std**2))[:, 0], log.softmax(0))


@sdes
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
def test_the_prediction_is_that_of_the_exact_posterior(sde, prediction):
    # A chain of 20 steps reaches no smaller noise.
    std = 0.3 if not isinstance(sde, ss.sde.vp.VPChain) else 0.5
    exactly = 1e-12 if prediction == "data" else 1e-11
    prior, y = five_modes(), torch.tensor([[0.4, -0.2, 0.5]], dtype=torch.float64)
    model = denoising(OwnPrediction(sde, prediction, prior), std)
    exact = observed(prior, std, y).model(sde)
    z = sde.prior_std * torch.randn(8, 3, dtype=torch.float64, generator=generator())
    for t in (0.2, 0.5, 0.9, torch.linspace(0.1, 0.9, 8, dtype=torch.float64)):
        torch.testing.assert_close(model.data(z, t, y=y), exact.data(z, t), rtol=0, atol=exactly)
    prepared = model.prepare([0.9, 0.5], z)[1]
    torch.testing.assert_close(model.output(z, prepared, y=y), exact.data(z, 0.5), rtol=0, atol=1e-11)
    rows = y + 0.1 * torch.randn(8, 3, dtype=torch.float64, generator=generator(4))
    alone = torch.cat([model.data(z[i : i + 1], 0.5, y=rows[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(model.data(z, 0.5, y=rows), alone, rtol=0, atol=1e-11)
    with counted() as cost:
        model.data(z, 0.5, y=rows)
    assert (cost.network, cost.vjps) == (0, 0)


def test_without_a_signal_the_state_says_nothing():
    prior, y, sde = five_modes(), torch.tensor([[0.4, -0.2, 0.5]], dtype=torch.float64), SDES["flow"]
    out = denoising(OwnPrediction(sde, "velocity", prior), 0.3).data(torch.randn(4, 3, dtype=torch.float64), 1.0, y=y)
    exact = observed(prior, 0.3, y)
    torch.testing.assert_close(out, (exact.weights @ exact.means).expand(4, 3), rtol=0, atol=1e-11)


def test_samples_from_the_observation_on_are_samples_of_the_posterior():
    """z = alpha(t_y) y with sigma/alpha = sigma_y at t_y; 1e5 samples: standard errors of means are below 2e-3, of covariances 2e-3."""
    sde, prior, y = SDES["linear"], five_modes(), torch.tensor([0.4, -0.2, 0.5], dtype=torch.float64)
    exact = observed(prior, 0.5, y[None])
    t = float(sde.time(-math.log(0.5)))
    z = (sde.alpha(t) * y).expand(100_000, 3)
    x = ss.sample(prior.model(sde), z.shape, "sde-dpm++2m", steps=60, grid="half_log_snr", z=z, t_start=t, generator=generator())
    mean = exact.weights @ exact.means
    centred = exact.means - mean
    cov = torch.diag(exact.weights @ exact.variances) + centred.T @ torch.diag(exact.weights) @ centred
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5e-3)
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0, atol=1e-2)
    # The model of the posterior, from noise on, samples the same.
    model = denoising(prior.model(sde), 0.5)
    x = ss.sample(
        model, (100_000, 3), "sde-dpm++2m", steps=60, grid="half_log_snr", dtype=torch.float64, generator=generator(1), y=y[None]
    )
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5e-3)
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0, atol=1e-2)


def test_wrong_arguments_are_refused_by_name():
    model = denoising(five_modes().model(SDES["linear"]), 0.3)
    z = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="needs its observation, y="):
        model.data(z, 0.5)
    with pytest.raises(ValueError, match="y has shape"):
        model.data(z, 0.5, y=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="std must be positive"):
        denoising(five_modes().model(SDES["linear"]), 0.0)
