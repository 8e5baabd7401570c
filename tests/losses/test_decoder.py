"""Decoders: the last term of the bound."""

import math

import pytest
import torch
from torch.distributions import Normal

from scoresde import analytic, losses

from ..conftest import SDES, generator


@pytest.mark.parametrize(("bins", "low", "high"), [(256, -1.0, 1.0), (256, 0.0, 255.0), (2, -1.0, 1.0)])
def test_the_bins_of_a_discretised_decoder_sum_to_one(bins, low, high):
    decoder = losses.DiscretisedDecoder(low, high, bins)
    x = torch.linspace(low, high, bins, dtype=torch.float64)
    width = (high - low) / (bins - 1)
    for mean in (low - width, 0.1, high):
        for std in (1e-3 * width, 0.3 * width, 10 * width, 1e4 * width):
            log_p = decoder(x, torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
            assert bool(log_p.isfinite().all()) or std < 0.01 * width
            assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_discretised_probabilities_are_differences_of_the_distribution_function_and_stay_finite():
    decoder = losses.DiscretisedDecoder(-1, 1, 256)
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean, std = torch.tensor(0.02, dtype=torch.float64, requires_grad=True), torch.tensor(0.05, dtype=torch.float64)
    log_p = decoder(x, mean, std)
    normal = Normal(mean.detach(), std)
    inner = (normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255))[1:-1]
    likely = inner > 1e-6
    torch.testing.assert_close(log_p.detach()[1:-1][likely], inner[likely].log(), rtol=1e-9, atol=1e-9)
    # Twenty standard deviations away, where the difference of distribution functions is 0 in float64: about the density times the width.
    assert float(inner[-1]) == 0
    far = normal.log_prob(x[240]) + math.log(2 / 255)
    assert float(log_p[240].detach()) == pytest.approx(float(far), rel=0.01)
    assert bool(log_p.isfinite().all())
    (slope,) = torch.autograd.grad(log_p.sum(), mean)
    assert bool(slope.isfinite())
    with pytest.raises(ValueError, match="256 values from -1 to 1, got 0"):
        decoder(torch.zeros(1), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="low < high"):
        losses.DiscretisedDecoder(1, -1, 256)


@torch.no_grad()
def test_the_bound_of_uniform_8_bit_data_is_at_most_8_bits_a_pixel():
    """-log2 of the discrete likelihood cannot be below the entropy; a chain without any knowledge is above it."""
    sde = SDES["ddpm"]
    x = torch.randint(0, 256, (64, 1, 4, 4), generator=generator()).double() / 127.5 - 1
    bound = losses.elbo(analytic.ZeroModel(sde), x, decoder=losses.DiscretisedDecoder(-1, 1, 256), terms=20, generator=generator(1))
    bits = -bound.nats / (16 * math.log(2))
    assert bool((bound.reconstruction <= 0).all())
    assert float(bits.mean()) > 8
    # float32 data on the same values are accepted.
    losses.elbo(analytic.ZeroModel(sde), x.float(), decoder=losses.DiscretisedDecoder(-1, 1, 256), terms=1)
