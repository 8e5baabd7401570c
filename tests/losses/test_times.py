"""Times to train at: their densities, their weights, and what they do to the variance."""

import math

import pytest
import torch

from scoresde import analytic, losses

from ..conftest import SDES, finite_sdes, generator, mixture, sdes


@sdes
@pytest.mark.parametrize("name", ["uniform", "stratified", "low_discrepancy"])
def test_times_are_uniform(sde, name):
    t = losses.times.sample_times(sde, 10_000, name, generator())
    assert t.dtype == torch.float64
    assert sde.t_min <= float(t.min())
    assert float(t.max()) <= 1
    ordered = (t.sort().values - sde.t_min) / (1 - sde.t_min)
    # Kolmogorov-Smirnov: exceeds 1.95/sqrt(n) with probability 0.001.
    assert float((ordered - torch.arange(10_000) / 10_000).abs().max()) < 1.95 / math.sqrt(10_000)


def test_strata_hold_one_time_each():
    t = losses.times.sample_times(SDES["linear"], 64, "stratified", generator())
    strata = ((1 - t) / (1 - SDES["linear"].t_min) * 64).floor()
    assert sorted(strata.tolist()) == list(range(64))


def test_low_discrepancy_times_are_equally_spaced_with_one_random_shift():
    first, second = (losses.times.sample_times(SDES["linear"], 8, "low_discrepancy", generator(seed)) for seed in (0, 1))
    torch.testing.assert_close(first.diff(), torch.full((7,), -(1 - 1e-3) / 8, dtype=torch.float64))
    assert float((first - second).abs().min()) > 0


def ks_distance(values, cdf):
    """The largest distance between the empirical distribution function of `values` and `cdf`."""
    ordered = values.sort().values
    return float((cdf(ordered) - torch.arange(len(ordered)) / len(ordered)).abs().max())


@sdes
def test_likelihood_times_are_uniform_in_log_snr_and_their_weight_cancels_that_of_the_loss(sde):
    """d lambda = -g^2/(2 sigma^2) dt on every path, so that w(t) g^2/sigma^2 = 2 (lambda(t_min) - lambda(t_max))/(t_max - t_min)."""
    t, weight = losses.draw_times(sde, 5000, "likelihood", generator())
    low, high = float(sde.half_log_snr(sde.t_max)), float(sde.half_log_snr(sde.t_min))
    assert sde.t_min <= float(t.min())
    assert float(t.max()) <= sde.t_max
    # Kolmogorov-Smirnov: exceeds 1.95/sqrt(n) with probability 0.001.
    assert ks_distance(sde.half_log_snr(t), lambda v: (v - low) / (high - low)) < 1.95 / math.sqrt(5000)
    product = weight * losses.output_weight(sde, t, "noise", "likelihood")
    # scipy's dense output gives lambda of the coefficients to 1e-9, at small t to 1e-6.
    torch.testing.assert_close(product, torch.full_like(product, 2 * (high - low) / (sde.t_max - sde.t_min)), rtol=1e-6, atol=0)


@sdes
@pytest.mark.parametrize("sampler", [losses.LogNormal(), losses.LogNormal(0.5, 0.7), losses.times.UniformHalfLogSNR()], ids=str)
def test_densities_are_those_of_the_times(sde, sampler):
    """The distribution function of the drawn times is the integral of the density, which ends at 1."""
    t = sampler(sde, 5000, generator())
    # In lambda, where the density is smooth.
    knots = torch.linspace(float(sde.half_log_snr(sde.t_min)), float(sde.half_log_snr(sde.t_max)), 4001, dtype=torch.float64)
    at = sde.time(knots).clamp(sde.t_min, sde.t_max)
    inside = at * (1 - 1e-12)  # to the left of a chain's steps, where its rate jumps
    per_lambda = sampler.density(sde, inside) / (0.5 * (sde.diffusion(inside) / sde.sigma(inside)) ** 2)
    cumulative = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(per_lambda, -knots)]).double()
    assert float(cumulative[-1]) == pytest.approx(1, abs=1e-4)

    def cdf(values):
        i = torch.searchsorted(at, values).clamp(1, 4000)
        return cumulative[i]

    assert ks_distance(t, cdf) < 1.95 / math.sqrt(5000) + 1e-3  # one interval of the table


@finite_sdes
def test_importance_sampled_and_uniform_losses_have_equal_means(sde):
    model, x = mixture().model(sde), mixture().sample(10_000, generator())
    for weighting, corrected in (("likelihood", "likelihood"), ("noise", losses.Corrected(losses.LogNormal(-1.0, 2.5)))):
        plain = losses.denoising(model, x, weighting, "uniform", generator(1))
        drawn = losses.denoising(model, x, weighting, corrected, generator(2))
        # 5 standard errors of the difference of two means of 10,000.
        error = math.sqrt(float(plain.var() + drawn.var()) / 10_000)
        assert float(plain.mean()) == pytest.approx(float(drawn.mean()), abs=5 * error)


def test_importance_sampling_lowers_the_variance_of_the_likelihood_loss():
    """On the linear VP path g^2/sigma^2 rises as 1/t; measured ratios of variances are 8.5 for a zero network and 15 for the exact score."""
    sde, x = SDES["linear"], mixture().sample(40_000, generator())
    for model, least in ((analytic.ZeroModel(sde), 6), (mixture().model(sde), 10)):
        plain, drawn = (losses.denoising(model, x, "likelihood", name, generator(1)).var() for name in ("uniform", "likelihood"))
        assert float(plain / drawn) > least


def test_adaptive_times_follow_the_loss_and_stay_unbiased():
    sde, sampler = SDES["linear"], losses.Adaptive(bins=8, history=5, floor=0.1)

    def loss_at(t):
        return torch.where(t < 0.2, 10.0, 1.0) * (1 + t)

    assert torch.equal(sampler.probabilities, torch.full((8,), 1 / 8, dtype=torch.float64))
    source = generator()
    for _ in range(40):
        t, weight = sampler(sde, 32, source)
        sampler.update(sde, t, loss_at(t))
    p = sampler.probabilities
    assert float(p.sum()) == pytest.approx(1)
    assert float(p.min()) >= 0.1 / 8
    # Bin 0 is at t = 1; the last of 8 holds t < 0.126, where the loss is ten times that of the middle.
    assert float(p[7] / p[3]) > 4
    t, weight = sampler(sde, 100_000, source)
    assert sde.t_min <= float(t.min())
    weighted = weight * loss_at(t)
    exact = loss_at(sde.t_min + (1 - sde.t_min) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000).mean()
    assert float(weighted.mean()) == pytest.approx(float(exact), abs=5 * math.sqrt(float(weighted.var()) / 100_000))
    uniform = loss_at(losses.times.sample_times(sde, 100_000, "uniform", source))
    assert float(weighted.var()) < 0.5 * float(uniform.var())


def test_adaptive_times_on_a_chain_are_its_own_and_their_state_can_be_stored():
    sde, sampler = SDES["chain20"], losses.Adaptive(bins=20, history=2)
    times = torch.arange(1, 21, dtype=torch.float64) / 20
    for _ in range(3):
        sampler.update(sde, times, times)
    # E L^2 of step i is (i/20)^2; bin i - 1 is that step.
    expected = 0.99 * times / times.sum() + 0.01 / 20
    torch.testing.assert_close(sampler.probabilities, expected)
    t, weight = sampler(sde, 20_000, generator())
    step = (t * 20).round().long()
    torch.testing.assert_close(t * 20, step.double())
    torch.testing.assert_close(weight, 1 / (20 * expected[step - 1]))
    again = losses.Adaptive(bins=20, history=2)
    again.load_state_dict(sampler.state_dict())
    assert torch.equal(again(sde, 50, generator(1)).t, sampler(sde, 50, generator(1)).t)
    again.update(sde, times, 2 - times)
    assert not torch.equal(again.probabilities, sampler.probabilities)
    with pytest.raises(ValueError, match="bins, history"):
        losses.Adaptive(bins=3).load_state_dict(sampler.state_dict())
    with pytest.raises(ValueError, match=r"not finite at t=0\.1"):
        sampler.update(sde, times, torch.where(times == 0.1, torch.nan, 1.0))
    with pytest.raises(ValueError, match="one loss per time"):
        sampler.update(sde, times, torch.ones(3))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        losses.Adaptive(bins=0)


def test_discrete_times_are_those_of_the_chain():
    sde = SDES["chain20"]
    t = losses.times.sample_times(sde, 20_000, None, generator())
    counts = torch.bincount((t * 20).round().long(), minlength=21)
    torch.testing.assert_close(t * 20, (t * 20).round())
    assert int(counts[0]) == 0
    # Each count is binomial(20000, 1/20): standard deviation 31.
    assert (counts[1:] - 1000).abs().max() < 5 * 31
    with pytest.raises(ValueError, match="needs a discrete chain"):
        losses.times.sample_times(SDES["linear"], 3, "discrete")


def test_stratified_times_lower_the_variance_of_the_mean():
    sde, model = SDES["linear"], analytic.ZeroModel(SDES["linear"])
    spread = {}
    for name in ("uniform", "stratified"):
        means = [
            losses.denoising(model, torch.zeros(32, 1000), "likelihood", name, generator(seed)).log().mean() for seed in range(200)
        ]
        spread[name] = float(torch.stack(means).var())
    # The log of the weight g^2/sigma^2 dominates; a variance of 200 draws is known to 10 %.
    assert spread["stratified"] < 0.2 * spread["uniform"]
    assert sde.t_min == 1e-3
