"""Losses against closed forms: on Gaussian data the best loss, the zero network's loss and every weighting are known."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, losses, networks
from scoresde.sde.prediction import PREDICTIONS

from .conftest import SDES, finite_sdes, generator, mixture, sdes, zero_terminal

SCALARS = {
    "noise": lambda sde, t: 1.0,
    "data": lambda sde, t: float(sde.sigma(t) ** 2 / sde.alpha(t) ** 2),
    "velocity": lambda sde, t: float((sde.alpha(t) ** 2 + sde.sigma(t) ** 2) ** 2 / sde.alpha(t) ** 2),
    "sigma2": lambda sde, t: 1.0,
    "likelihood": lambda sde, t: float(sde.diffusion(t) ** 2 / sde.sigma(t) ** 2),
    "elbo": lambda sde, t: float(sde.diffusion(t) ** 2 / (2 * sde.sigma(t) ** 2)),
    "min_snr": lambda sde, t: min(snr(sde, t), 5.0) / snr(sde, t),
    "p2": lambda sde, t: 1 / (1 + snr(sde, t)),
    "edm": lambda sde, t: (1 / snr(sde, t) + 0.25) / 0.25,
    "debiased": lambda sde, t: 1 / math.sqrt(snr(sde, t)),
}
KNOBS = {
    "min_snr": (losses.min_snr(2.0), lambda sde, t: min(snr(sde, t), 2.0) / snr(sde, t)),
    "p2": (losses.p2(0.5, 2.0), lambda sde, t: (0.5 + snr(sde, t)) ** -2),
    "edm": (losses.edm(2.0), lambda sde, t: (1 / snr(sde, t) + 4) / 4),
}


def snr(sde, t):
    return float(sde.alpha(t) ** 2 / sde.sigma(t) ** 2)


@finite_sdes
@pytest.mark.parametrize("weighting", SCALARS)
@pytest.mark.parametrize("t", [0.03, 0.5, 0.96])
def test_weightings_are_factors_on_the_squared_noise_error(sde, weighting, t):
    """Errors of data, velocity and score are those of the noise times sigma/alpha, (alpha^2 + sigma^2)/alpha and 1/sigma."""
    cases = [(weighting, SCALARS[weighting]), *([KNOBS[weighting]] if weighting in KNOBS else [])]
    for given, factor in cases:
        for kind in (*PREDICTIONS, ss.Preconditioned(0.5)):
            model = analytic.ZeroModel(sde, kind)
            x, noise = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator())
            z, _ = sde.perturb(x, t, noise=noise)
            expected = factor(sde, t) * (model.noise(z, t) - noise).square().mean(1)
            loss = losses.denoising(model, x, given, t=torch.full((7,), t), noise=noise)
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-12)  # t above is float32 in the loss


def test_bug_24_min_snr_clamps_from_above_and_is_finite_without_signal():
    """min(SNR, gamma) on the data error, in Hang et al.'s three forms, on a chain whose last SNR is 0."""
    sde = zero_terminal()
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    ratio = sde.alpha(t) ** 2 / sde.sigma(t) ** 2
    assert float(ratio[-1]) == 0
    clamped = ratio.clamp(max=5)
    forms = {"data": clamped, "velocity": clamped / (ratio + 1), "noise": torch.where(ratio > 5, 5 / ratio, 1.0)}
    for kind, expected in forms.items():
        weight = losses.output_weight(sde, t, kind, "min_snr")
        assert bool(weight.isfinite().all())
        torch.testing.assert_close(weight, expected)


def test_bug_32_each_sample_has_its_own_loss_and_gradient():
    """Averaging states over the batch before the loss would give every sample the same gradient."""
    sde = SDES["ddpm"]
    model = ss.ScoreModel(networks.MLP(2, width=8), sde).double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    loss = losses.denoising(model, x, generator=generator(1))
    rows = [torch.autograd.grad(value, model.network.leave[-1].weight, retain_graph=True)[0].flatten() for value in loss]
    assert torch.linalg.matrix_rank(torch.stack(rows)) == 4


def test_the_scale_of_the_data_is_stated_once_for_the_network_and_its_edm_weighting():
    sde, t = SDES["edm"], torch.tensor([0.01, 0.5], dtype=torch.float64)
    torch.testing.assert_close(losses.output_weight(sde, t, ss.Preconditioned(3.0), "edm"), torch.ones(2, dtype=torch.float64))
    assert float(losses.output_weight(sde, t, ss.Preconditioned(3.0), losses.edm(0.5))[1]) != 1


def test_flow_matching_is_the_velocity_weighting_of_a_rectified_flow():
    """|v - (eps - x)|^2, and its gradient; and on any path and weighting a velocity network has the loss of the noise it implies."""
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["flow"], "velocity").double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x, noise = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator())
    t = torch.rand(20, dtype=torch.float64, generator=generator(1)).clamp(1e-3, 1)
    ours = losses.denoising(model, x, "velocity", t=t, noise=noise)
    at = t[:, None]
    theirs = (model.network((1 - at) * x + at * noise, t) - (noise - x)).square().mean(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), list(model.parameters()))]) for loss in (ours, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-12)
    t = t.clamp(max=0.99)
    z, _ = SDES["flow"].perturb(x, t, noise=noise)
    implied = (model.noise(z, t) - noise).square().mean(1)
    torch.testing.assert_close(losses.denoising(model, x, "noise", t=t, noise=noise), implied)


def test_antithetic_noise_is_the_mean_over_a_pair():
    sde, model = SDES["linear"], mixture().model(SDES["linear"])
    x, t = mixture().sample(2000, generator()), torch.full((2000,), 0.1, dtype=torch.float64)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator(1))
    pair = [losses.denoising(model, x, t=t, noise=sign * noise) for sign in (1, -1)]
    antithetic = losses.denoising(model, x, t=t, generator=generator(1), noise="antithetic")
    torch.testing.assert_close(antithetic, (pair[0] + pair[1]) / 2)
    # Data far from 0 under a zero data network: |x|^2 has no noise; under the velocity the error is odd in eps up to |eps|^2.
    far = 30 + torch.zeros(2000, 1, dtype=torch.float64)
    zero = analytic.ZeroModel(sde, "velocity")
    single = losses.denoising(zero, far, "velocity", t=t, generator=generator(1))
    both = losses.denoising(zero, far, "velocity", t=t, generator=generator(1), noise="antithetic")
    # (alpha eps - sigma x)^2: variance 4 alpha^2 sigma^2 x^2 + 2 alpha^4 for one draw and 2 alpha^4 for the pair.
    a2, s2 = float(sde.alpha(0.1)) ** 2, float(sde.sigma(0.1)) ** 2
    assert float(single.var()) == pytest.approx(4 * a2 * s2 * 900 + 2 * a2**2, rel=0.2)
    assert float(both.var()) == pytest.approx(2 * a2**2, rel=0.3)
    with pytest.raises(ValueError, match="'antithetic'"):
        losses.denoising(model, x, noise="pairs")
    with pytest.raises(ValueError, match=r"noise has shape \(2, 2\), x has \(2000, 2\)"):
        losses.denoising(model, x, noise=noise[:2])


def test_a_callable_weights_the_squared_score_error():
    sde, x = SDES["ddpm"], torch.randn(5, 2, dtype=torch.float64)
    model, t, noise = mixture().model(sde), torch.rand(5).double() + 1e-3, torch.randn(5, 2, dtype=torch.float64)
    t = t.clamp(max=1)
    z, _ = sde.perturb(x, t, noise=noise)
    score_of_kernel = -noise / sde.sigma(t)[:, None]
    expected = t**3 * (model.score(z, t) - score_of_kernel).square().mean(1)
    torch.testing.assert_close(losses.denoising(model, x, lambda sde, t: t**3, t=t, noise=noise), expected)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_noise_and_sigma2_weightings_have_equal_gradients(kind):
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["ddpm"], kind).double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x, grads = torch.randn(20, 3, dtype=torch.float64, generator=generator()), []
    for weighting in ("noise", "sigma2"):
        loss = losses.denoising(model, x, weighting, generator=generator(1)).mean()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-12)


@finite_sdes
def test_the_zero_network_has_loss_one_per_coordinate(sde):
    """E|eps|^2/d = 1 for a noise network; E|x|^2/d for a data network; alpha^2 + sigma^2 E|x|^2/d for a velocity network."""
    n, t = 40_000, 0.4
    x = 0.5 * torch.randn(n, 2, generator=generator())
    times = torch.full((n,), t)
    alpha2, sigma2 = float(sde.alpha(t) ** 2), float(sde.sigma(t) ** 2)
    for kind, expected in (("noise", 1.0), ("data", 0.25), ("velocity", alpha2 + sigma2 * 0.25)):
        loss = losses.denoising(analytic.ZeroModel(sde, kind), x, kind, generator=generator(1), t=times)
        # A squared normal has standard deviation sqrt(2) times its mean; 2n of them: 5 standard errors.
        assert float(loss.mean()) == pytest.approx(expected, abs=5 * expected * math.sqrt(2 / (2 * n)))


@finite_sdes
def test_the_exact_score_has_the_least_loss(sde):
    """For data N(0, s^2) the least noise loss at t is Var(eps | z) = alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
    n, s, t = 100_000, 0.5, 0.3
    data = analytic.GaussianMixture(torch.zeros(1, 1), torch.tensor([s**2]))
    loss = losses.denoising(data.model(sde), data.sample(n, generator()), generator=generator(1), t=torch.full((n,), t))
    signal = float(sde.alpha(t)) ** 2 * s**2
    expected = signal / (signal + float(sde.sigma(t)) ** 2)
    assert float(loss.mean()) == pytest.approx(expected, abs=5 * expected * math.sqrt(2 / n))


@sdes
@pytest.mark.parametrize("name", ["uniform", "stratified", "low_discrepancy"])
def test_times_are_uniform(sde, name):
    t = losses.sample_times(sde, 10_000, name, generator())
    assert t.dtype == torch.float64
    assert sde.t_min <= float(t.min())
    assert float(t.max()) <= 1
    ordered = (t.sort().values - sde.t_min) / (1 - sde.t_min)
    # Kolmogorov-Smirnov: exceeds 1.95/sqrt(n) with probability 0.001.
    assert float((ordered - torch.arange(10_000) / 10_000).abs().max()) < 1.95 / math.sqrt(10_000)


def test_strata_hold_one_time_each():
    t = losses.sample_times(SDES["linear"], 64, "stratified", generator())
    strata = ((1 - t) / (1 - SDES["linear"].t_min) * 64).floor()
    assert sorted(strata.tolist()) == list(range(64))


def test_low_discrepancy_times_are_equally_spaced_with_one_random_shift():
    first, second = (losses.sample_times(SDES["linear"], 8, "low_discrepancy", generator(seed)) for seed in (0, 1))
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
@pytest.mark.parametrize("sampler", [losses.LogNormal(), losses.LogNormal(0.5, 0.7), losses.UniformHalfLogSNR()], ids=str)
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
    uniform = loss_at(losses.sample_times(sde, 100_000, "uniform", source))
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
    with pytest.raises(ValueError, match="one loss a time"):
        sampler.update(sde, times, torch.ones(3))
    with pytest.raises(ValueError, match="bins >= 1"):
        losses.Adaptive(bins=0)


def test_discrete_times_are_those_of_the_chain():
    sde = SDES["chain20"]
    t = losses.sample_times(sde, 20_000, None, generator())
    counts = torch.bincount((t * 20).round().long(), minlength=21)
    torch.testing.assert_close(t * 20, (t * 20).round())
    assert int(counts[0]) == 0
    # Each count is binomial(20000, 1/20): standard deviation 31.
    assert (counts[1:] - 1000).abs().max() < 5 * 31
    with pytest.raises(ValueError, match="needs a discrete chain"):
        losses.sample_times(SDES["linear"], 3, "discrete")


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


def test_weights_do_not_cancel_where_the_signal_vanishes():
    """A velocity network under its own weighting at alpha = 0: the loss is the plain squared error there."""
    sde, x = zero_terminal(), torch.randn(4, 3, dtype=torch.float64)
    t, noise = torch.ones(4), torch.randn(4, 3, dtype=torch.float64)
    loss = losses.denoising(analytic.ZeroModel(sde, "velocity"), x, "velocity", t=t, noise=noise)
    torch.testing.assert_close(loss, x.square().mean(1))
    assert float(losses.denoising(analytic.ZeroModel(sde, "velocity"), x, "noise", t=t, noise=noise).max()) == 0
    with pytest.raises(ValueError, match="does not determine the velocity at t=1"):
        losses.denoising(analytic.ZeroModel(sde, "noise"), x, "velocity", t=t, noise=noise)


@pytest.mark.parametrize("event", [(), (3,), (2, 5), (1, 4, 4), (1, 2, 4, 4)])
def test_one_value_a_sample_for_any_event(event, device):
    model = analytic.GaussianMixture(torch.randn(2, *event).to(device), torch.tensor([0.1, 0.2]).to(device)).model(SDES["ddpm"])
    x = torch.randn(6, *event, device=device)
    before = x.clone()
    loss = losses.denoising(model, x, generator=generator())
    assert loss.shape == (6,)
    # The value of a sample depends on that sample alone.
    t, noise = torch.rand(6).clamp(min=1e-3), torch.randn(6, *event, device=device)
    whole = losses.denoising(model, x, t=t, noise=noise)
    alone = torch.cat([losses.denoising(model, x[i : i + 1], t=t[i : i + 1], noise=noise[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, alone)
    assert torch.equal(x, before)


def test_half_precision_networks_have_a_float32_loss():
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["ddpm"]).to(torch.bfloat16)
    assert losses.denoising(model, torch.randn(4, 3)).dtype == torch.float32


def test_conditions_and_errors():
    seen = {}

    class Network(torch.nn.Module):
        def forward(self, z, t, **cond):
            seen.update(cond)
            return z

    label = torch.arange(3)
    losses.denoising(ss.ScoreModel(Network(), SDES["ddpm"]), torch.randn(3, 2), label=label, mask=None)
    assert seen["label"] is label
    assert seen["mask"] is None
    with pytest.raises(ValueError, match="weighting must be one of noise"):
        losses.denoising(analytic.ZeroModel(SDES["ddpm"]), torch.zeros(2, 2), "snr")
    with pytest.raises(ValueError, match="time_sampler must be one of uniform"):
        losses.denoising(analytic.ZeroModel(SDES["ddpm"]), torch.zeros(2, 2), time_sampler="log")


def test_global_random_state_is_untouched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = analytic.ZeroModel(SDES["ddpm"])
    first, second = (losses.denoising(model, torch.zeros(2, 2)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)


def test_a_weight_that_is_not_finite_names_the_time():
    model = analytic.ZeroModel(zero_terminal(), "velocity")
    with pytest.raises(ValueError, match="weighting 'likelihood' is not finite at t=1"):
        losses.denoising(model, torch.zeros(3, 2), "likelihood", t=torch.ones(3))
    noise_model = analytic.ZeroModel(zero_terminal(), "noise")
    noise = torch.ones(3, 2)
    assert float(losses.denoising(noise_model, torch.zeros(3, 2), "sigma2", t=torch.ones(3), noise=noise).mean()) == 1


def test_generator_and_data_may_live_on_different_devices(device):
    source = torch.Generator(device).manual_seed(0)
    loss = losses.denoising(analytic.ZeroModel(SDES["ddpm"]), torch.zeros(1000, 2), generator=source)
    # 2000 squared normals
    assert float(loss.mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / 2000))
