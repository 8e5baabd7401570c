"""Encoding and decoding, and the prior at the end of the path."""

import math

import pytest
import torch

import scoresde as ss

from ..conftest import SDES, generator, mixture, sdes
from .targets import gaussian, unet

FLOW, LINEAR = SDES["flow"], SDES["linear"]
few_sdes = pytest.mark.parametrize("sde", [SDES[n] for n in ("ddpm", "zero terminal", "sub-vp", "ve", "flow")])


def test_bug_26_a_prior_that_misses_the_mean_of_the_data_is_reported():
    """On a VE path the prior is centred at 0: the bias KL( q(z_1) || prior ) of the mean density falls as sigma_max^-2, and what is reported
    bounds it."""
    mean, std = 3.0, 0.5
    quantiles = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)  # their sums are nearly those of the law
    x, biases, reported = mean + std * quantiles[:, None], [], []
    for sigma_max in (5.0, 20.0, 80.0):
        sde = ss.VESDE(sigma_min=0.01, sigma_max=sigma_max)
        target = gaussian([mean], [std])
        out = ss.log_likelihood(target.model(sde), x, t_end=1e-8, rtol=1e-7, atol=1e-7)
        biases.append(float((target.log_prob(x) - out.nats).mean()))
        reported.append(float(out.prior_mismatch.mean()))
        v0, v1 = float(sde.sigma(1.0)) ** 2, float(sde.sigma(1.0)) ** 2 + std**2
        z = mean + (x - mean) * math.sqrt(v1) / std
        closed = 0.5 * (math.log(v0 / v1) + z**2 / v0 - (z - mean) ** 2 / v1)
        assert biases[-1] == pytest.approx(float(closed.mean()), abs=1e-5)
        assert 0 < biases[-1] <= reported[-1]
    for wide, narrow in ((biases[1], biases[0]), (biases[2], biases[1]), (reported[2], reported[1])):
        assert wide / narrow == pytest.approx(1 / 16, rel=0.15)


@sdes
def test_prior_mismatch_is_the_divergence_of_two_gaussians(sde):
    x = torch.randn(5, 2, 3, generator=generator(), dtype=torch.float64)
    normal = torch.distributions.Normal
    q = normal(sde.alpha(1.0) * x, sde.sigma(1.0))
    expected = torch.distributions.kl_divergence(q, normal(torch.zeros_like(x), sde.prior_std)).sum((1, 2))
    torch.testing.assert_close(ss.prior_mismatch(sde, x), expected, rtol=1e-9, atol=1e-12)


@sdes
def test_encode_is_the_gaussian_flow_map(sde):
    """z_t - alpha_t mu grows as the marginal standard deviation, in each coordinate."""
    mean, std, end = torch.tensor([0.7, -0.2]).double(), torch.tensor([0.3, 1.5]).double(), 0.02
    model = gaussian(mean, std).model(sde)
    x = mean + std * torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    before, after = ((sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2).sqrt() for t in (end, 1.0))
    exact = sde.alpha(1.0) * mean + after / before * sde.alpha(end) * (x - mean)
    assert float(((ss.encode(model, x, t_end=end) - exact) / after).abs().max()) <= 1e-4
    assert float((ss.decode(model, exact, t_end=end) - x).abs().max()) <= 2e-5


@few_sdes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_returns_the_data_at_the_default_tolerance(sde, dtype):
    model, x = mixture().model(sde), mixture().sample(64, generator(), dtype)
    kept = x.clone()
    z = ss.encode(model, x)
    assert float((ss.decode(model, z) - x).abs().max()) <= 1e-4
    assert torch.equal(x, kept)
    assert z.dtype == dtype
    out = ss.log_likelihood(model, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.z, z, rtol=0, atol=1e-4 * sde.prior_std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_through_a_network_returns_the_images(dtype):
    model = unet(SDES["ddpm"], dtype)
    x = 2 * torch.rand(4, 2, 8, 8, generator=generator(), dtype=dtype) - 1
    z = ss.encode(model, x)
    assert float((z - x).abs().mean()) > 0.01
    assert float((ss.decode(model, z) - x).abs().max()) <= 1e-4


def test_decode_agrees_with_the_adaptive_sampler():
    model = mixture().model(LINEAR)
    z = torch.randn(16, 2, generator=generator(), dtype=torch.float64)
    sampled = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-8, 1e-8, t_end=0.01), z=z)
    x = ss.decode(model, z, t_end=0.01, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(float(LINEAR.alpha(0.01)) * x, sampled, rtol=0, atol=1e-6)
