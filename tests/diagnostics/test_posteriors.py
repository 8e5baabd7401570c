"""Distances between samples and calibration of posteriors, on distributions where the answer is known."""

import math

import numpy as np
import pytest
import torch

from scoresde import diagnostics

from ..conftest import generator


def normal(n, d=1, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(n, d, dtype=torch.float64, generator=generator(seed))


def test_a_classifier_finds_the_overlap():
    """N(0, 1) against N(1, 1): the best classifier is right with probability Phi(1/2) = .6915."""
    pytest.importorskip("sklearn")
    found = diagnostics.c2st(normal(10_000), normal(10_000, mean=1.0, seed=1), folds=2)
    assert found.value == pytest.approx(0.6915, abs=0.02)
    assert found.stderr == pytest.approx(math.sqrt(0.6915 * 0.3085 / 20_000), rel=0.05)
    same = diagnostics.c2st(normal(2000, 2), normal(2000, 2, seed=1))
    assert same.value == pytest.approx(0.5, abs=5 * same.stderr)
    assert diagnostics.c2st(normal(300), normal(200, mean=50.0, seed=1)).value > 0.99
    assert "+-" in str(same)


def test_sliced_wasserstein_is_that_of_means_and_variances():
    """Along u the distance of N(0, I) and N(m, s^2 I) is ((u.m)^2 + (s - 1)^2)^(1/2); the mean of (u.m)^2 is |m|^2/d."""
    a, b = normal(8_000, 3), normal(4_000, 3, seed=1)
    b = 1.5 * b + torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    found = diagnostics.sliced_wasserstein(a, b)
    exact = math.sqrt(5 / 3 + 0.25)
    assert found.value == pytest.approx(exact, abs=5 * found.stderr + 0.05)
    # Between directions (u.m)^2 varies with the standard deviation |m|^2 (2 (d - 1)/(d^2 (d + 2)))^(1/2).
    spread = 5 * math.sqrt(4 / 45)
    assert found.stderr == pytest.approx(spread / math.sqrt(500) / (2 * exact), rel=0.25)
    assert diagnostics.sliced_wasserstein(a, a).value == 0
    line = diagnostics.sliced_wasserstein(normal(1000), normal(1000, seed=2))
    x, y = (np.sort(normal(1000, seed=s).numpy()[:, 0]) for s in (0, 2))
    assert line.value == pytest.approx(math.sqrt(((x - y) ** 2).mean()))


def pairs(n=1500, draws=99, widen=1.0, seed=0):
    """theta ~ N(0, 1), x = theta + N(0, 1): theta | x ~ N(x/2, 1/2), with its variance times `widen`."""
    theta = normal(n, seed=seed)
    mean = (theta + normal(n, seed=seed + 1)) / 2
    samples = mean[:, None] + math.sqrt(0.5 * widen) * torch.randn(n, draws, 1, dtype=torch.float64, generator=generator(seed + 2))
    return theta, samples, mean


def log_prob(value, mean, variance):
    return -0.5 * (value - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)


def test_exact_posteriors_are_calibrated():
    theta, samples, mean = pairs()
    assert float(diagnostics.sbc_ranks(theta, samples).p) > 0.01
    # The region of highest density of an exact posterior.
    dense = diagnostics.coverage(log_prob(theta, mean, 0.5)[:, 0], log_prob(samples, mean[:, None], 0.5)[:, :, 0])
    assert dense.p > 0.01
    assert bool(((dense.covered - dense.levels).abs() < 4.5 * dense.stderr).all())
    ball = diagnostics.tarp(theta, samples, references=mean + normal(len(theta), seed=9))
    assert ball.p > 0.01
    assert bool(((ball.covered - ball.levels).abs() < 4.5 * ball.stderr).all())
    assert diagnostics.tarp(theta, samples).p > 0.01


@pytest.mark.parametrize("widen", [0.5, 2.0])
def test_a_variance_that_is_off_by_a_factor_of_two_is_found(widen):
    theta, samples, mean = pairs(widen=widen)
    assert float(diagnostics.sbc_ranks(theta, samples).p) < 1e-3
    v = 0.5 * widen
    dense = diagnostics.coverage(log_prob(theta, mean, v)[:, 0], log_prob(samples, mean[:, None], v)[:, :, 0])
    assert dense.p < 1e-3
    # Too narrow a posterior covers too little.
    assert (float(dense.covered.mean()) < float(dense.levels.mean())) is (widen < 1)
    assert diagnostics.tarp(theta, samples).p < 1e-3


def test_ranks_are_counts_of_smaller_samples():
    theta, samples, _ = pairs(20, 7)
    ranks = diagnostics.sbc_ranks(theta, samples).ranks
    assert ranks[:, 0].tolist() == [int((s[:, 0] < t).sum()) for s, t in zip(samples, theta[:, 0], strict=True)]


def test_values_that_are_not_finite_are_refused():
    """sbi#1345 fails on NaN without a word of what to do."""
    theta, samples, _ = pairs(20, 7)
    samples[3, 2] = torch.nan
    for check in (diagnostics.sbc_ranks, diagnostics.tarp):
        with pytest.raises(ValueError, match="leave the pairs out"):
            check(theta, samples)
    with pytest.raises(ValueError, match=r"samples must be \(N, L, \*event\)"):
        diagnostics.sbc_ranks(theta, samples[:, 0])
    with pytest.raises(ValueError, match="events of 1 and 2 coordinates"):
        diagnostics.sliced_wasserstein(normal(10), normal(10, 2))
    with pytest.raises(ValueError, match="at least 5 samples"):
        diagnostics.c2st(normal(3), normal(10))
