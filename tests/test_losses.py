"""Losses against closed forms: on Gaussian data the best loss, the zero network's loss and every weighting are known."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, losses, networks
from scoresde.prediction import PREDICTIONS

from .conftest import SDES, finite_sdes, generator, mixture, sdes, zero_terminal

SCALARS = {
    "noise": lambda sde, t: 1.0,
    "data": lambda sde, t: float(sde.sigma(t) ** 2 / sde.alpha(t) ** 2),
    "velocity": lambda sde, t: float((sde.alpha(t) ** 2 + sde.sigma(t) ** 2) ** 2 / sde.alpha(t) ** 2),
    "sigma2": lambda sde, t: 1.0,
    "likelihood": lambda sde, t: float(sde.diffusion(t) ** 2 / sde.sigma(t) ** 2),
}


@finite_sdes
@pytest.mark.parametrize("weighting", SCALARS)
@pytest.mark.parametrize("t", [0.03, 0.5, 0.96])
def test_weightings_are_factors_on_the_squared_noise_error(sde, weighting, t):
    """Errors of data, velocity and score are those of the noise times sigma/alpha, (alpha^2 + sigma^2)/alpha and 1/sigma."""
    for kind in PREDICTIONS:
        model = analytic.ZeroModel(sde, kind)
        x, noise = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator())
        z, _ = sde.perturb(x, t, noise=noise)
        expected = SCALARS[weighting](sde, t) * (model.noise(z, t) - noise).square().mean(1)
        loss = losses.denoising(model, x, weighting, t=torch.full((7,), t), noise=noise)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-12)  # t above is float32 in the loss


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
@pytest.mark.parametrize("name", ["uniform", "stratified"])
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
