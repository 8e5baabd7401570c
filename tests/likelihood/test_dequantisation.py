"""Densities of data in bins."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic

from ..conftest import SDES, generator

FLOW, LINEAR = SDES["flow"], SDES["linear"]


def test_bug_25_uniform_bytes_have_eight_bits_a_dimension():
    """Exactly, for the density that is uniform over 256 bins of width 2/255; and, within the two edges, for a score model of it."""
    flat = -3 * math.log(256 * 2 / 255)
    assert ss.bits_per_dim(flat, (1, 3), bins=256) == pytest.approx(8, abs=1e-12)
    # A mode of standard deviation one bin at each level: flat to 1e-8 but for three bins at both ends.
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    target = analytic.GaussianMixture(levels[:, None], torch.full((256,), (2 / 255) ** 2))
    noisy = ss.dequantise(levels[:, None], bins=256, generator=generator())
    out = ss.log_likelihood(target.model(FLOW), noisy.x, t_end=1e-5)
    bits = ss.bits_per_dim(out.nats, (1,), bins=256)
    torch.testing.assert_close(bits[8:-8], torch.full((240,), 8.0, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(ss.bits_per_dim(out.nats - noisy.log_density, (1,), width=1), bits)


def test_the_width_of_a_bin_is_not_guessed():
    for call in (lambda **o: ss.bits_per_dim(1.0, (2,), **o), lambda **o: ss.dequantise(torch.zeros(1, 2), **o)):
        for options in ({}, {"bins": 256, "width": 0.1}):
            with pytest.raises(ValueError, match="not guessed"):
                call(**options)
        with pytest.raises(ValueError, match="at least 2"):
            call(bins=1)
        with pytest.raises(ValueError, match="width must be positive, got 0"):
            call(width=0.0)


def test_data_off_the_levels_and_wrong_noise_are_refused():
    x = torch.arange(17.0)[:, None] / 8 - 1
    noisy = ss.dequantise(x, bins=17, generator=generator()).x
    for values in (noisy, (x + 1) / 2, 8 * x, x - 0.125):
        with pytest.raises(ValueError, match="does not lie on 17 levels"):
            ss.dequantise(values, bins=17)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        ss.dequantise(torch.zeros(2, 2, dtype=torch.uint8), bins=256)
    for options in ({"kind": "truncated_normal"}, {"kind": "truncated_normal", "std": 0.0}, {"std": 0.1}, {"kind": "normal"}):
        with pytest.raises(ValueError, match=r"std|kind"):
            ss.dequantise(x, bins=17, **options)


@pytest.mark.parametrize("std", [None, 0.02, 0.2, 5.0])
def test_noise_stays_in_its_bin_and_has_the_density_it_says(std):
    """exp(-log_density) averaged over draws is the bin's volume, int q/q = w^2; its standard error is taken from the draws."""
    n, w = 100_000, 0.25
    kind = "uniform" if std is None else "truncated_normal"
    out = ss.dequantise(torch.zeros(n, 2).double(), width=w, kind=kind, std=std, generator=generator())
    assert float(out.x.abs().max()) <= w / 2
    if std == 0.02:  # six standard deviations inside: as good as normal, and 1/q has no variance to speak of
        normal = torch.distributions.Normal(torch.tensor(0.0).double(), std)
        torch.testing.assert_close(out.log_density, normal.log_prob(out.x).sum(1), rtol=1e-6, atol=1e-6)
        assert float(out.x.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * 2 * n))
        return
    volume = (-out.log_density).exp()
    assert abs(float(volume.mean()) - w**2) <= 4 * float(volume.std()) / math.sqrt(n) + 1e-9
    if std is not None:
        # The entropy of Zheng et al. 2023, arXiv 2305.03935, section 4.3.
        tau = w / 2 / std
        z = math.erf(tau / math.sqrt(2))
        entropy = math.log(math.sqrt(2 * math.pi * math.e) * std * z) - tau * math.exp(-(tau**2) / 2) / math.sqrt(2 * math.pi) / z
        assert abs(float(-out.log_density.mean()) - 2 * entropy) <= 4 * float(out.log_density.std()) / math.sqrt(n) + 1e-9


@pytest.mark.parametrize(("kind", "std"), [("uniform", None), ("truncated_normal", 0.3)])
def test_dequantised_densities_bound_the_probability_of_the_bin(kind, std):
    """E[log p - log q] <= log P, and the mean of p/q over draws is P."""
    n, w, normal = 40_000, 1.0, torch.distributions.Normal(torch.tensor(0.0).double(), 0.6)
    for level in (0.0, 1.0):
        out = ss.dequantise(torch.full((n, 1), level).double(), width=w, kind=kind, std=std, generator=generator())
        log_weight = normal.log_prob(out.x[:, 0]) - out.log_density
        probability = float(normal.cdf(torch.tensor(level + w / 2)) - normal.cdf(torch.tensor(level - w / 2)))
        assert float(log_weight.mean()) < math.log(probability)
        weight = log_weight.exp()
        assert abs(float(weight.mean()) - probability) <= 4 * float(weight.std()) / math.sqrt(n)


def test_truncated_normal_noise_closes_the_gap_that_smoothing_opens():
    """Levels that are known exactly, asked at a t_end whose noise is a fifth of a bin: uniform noise falls where the model has no mass, the
    noise of the path itself does not, and the bound is log P = 0."""
    sde, end = FLOW, 0.04
    r = float(sde.sigma(end) / sde.alpha(end))
    w = 5 * r
    model = analytic.GaussianMixture(torch.zeros(1, 1), torch.zeros(1)).model(sde)
    x = torch.zeros(512, 1, dtype=torch.float64)
    means = []
    for options in ({"kind": "uniform"}, {"kind": "truncated_normal", "std": r}):
        noisy = ss.dequantise(x, width=w, generator=generator(), **options)
        out = ss.log_likelihood(model, noisy.x, t_end=end, rtol=1e-7, atol=1e-7)
        means.append(float((out.nats - noisy.log_density).mean()))
    assert means[0] < -0.3
    # erf(2.5/sqrt 2) = 0.9876 of the mass lies in the bin.
    assert means[1] == pytest.approx(math.log(math.erf(2.5 / math.sqrt(2))), abs=1e-5)
