"""The discrete bound on the likelihood."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import scoresde as ss
from scoresde import analytic, grids, losses, solvers
from scoresde.losses.elbo import posterior_terms, variance_rule

from ..conftest import SDES, finite_sdes, generator, linear_betas, mixture
from .conftest import S, Stub, gaussian, within


def posterior_variance(sde, t):
    """Var(x | z_t) of the Gaussian data."""
    alpha2, sigma2 = sde.alpha(t) ** 2, sde.sigma(t) ** 2
    return S**2 * sigma2 / (alpha2 * S**2 + sigma2)


def exact_variance(sde):
    """The variance of the true q(z_s | z_t) of the Gaussian data."""

    def variance(s, t):
        q, b = posterior_terms(sde, s, t)
        return q + b**2 * posterior_variance(sde, t)

    return variance


@finite_sdes
@pytest.mark.parametrize("variance", ["beta", "posterior", 0.3])
def test_terms_are_kl_divergences_of_gaussians(sde, variance):
    """Each column of `diffusion` and the prior against torch.distributions, on the states that the bound drew."""
    x, grid = torch.randn(3, 2, dtype=torch.float64, generator=generator()), grids.half_log_snr(sde, 4)
    model = mixture().model(sde)
    bound = losses.elbo(model, x, grid=grid, variance=variance, generator=generator(1))
    source, times = generator(1), grid.flip(0)
    for j in range(3):
        s, t = times[j + 1], times[j + 2]
        z, _ = sde.perturb(x, t, source)
        mean, std = sde.posterior(z, x, s, t)
        guess, _ = sde.posterior(z, model.data(z, t), s, t)
        beta, posterior = float(std * sde.sigma(t) / sde.sigma(s)), float(std)
        u = {"beta": 1.0, "posterior": 0.0}.get(variance, variance)
        kl = kl_divergence(Normal(mean, std), Normal(guess, beta**u * posterior ** (1 - u))).sum(1)
        torch.testing.assert_close(bound.diffusion[:, j], kl, rtol=1e-6, atol=1e-9)
    prior = kl_divergence(Normal(sde.alpha(1.0) * x, sde.sigma(1.0)), Normal(torch.zeros(1, dtype=torch.float64), sde.prior_std))
    torch.testing.assert_close(bound.prior, prior.sum(1))
    z, _ = sde.perturb(x, times[1], source)
    log_p = Normal(model.data(z, times[1]), sde.sigma(times[1])).log_prob(x).sum(1)
    torch.testing.assert_close(bound.reconstruction, log_p)
    torch.testing.assert_close(bound.nats, log_p - bound.diffusion.sum(1) - bound.prior)


def test_beta_is_that_of_the_chain():
    """v = beta_t and q = (1 - alpha_bar_{t-1})/(1 - alpha_bar_t) beta_t (Ho et al., section 3.2)."""
    sde = SDES["ddpm"]
    betas, bar = sde.betas, torch.cumprod(1 - sde.betas, 0)
    s, t = torch.arange(1, 1000, dtype=torch.float64) / 1000, torch.arange(2, 1001, dtype=torch.float64) / 1000
    q, b = posterior_terms(sde, s, t)
    torch.testing.assert_close(variance_rule(sde, "beta")(s, t), betas[1:])
    torch.testing.assert_close(q, (1 - bar[:-1]) / (1 - bar[1:]) * betas[1:])
    torch.testing.assert_close(variance_rule(sde, "posterior")(s, t), q)
    torch.testing.assert_close(b, bar[:-1].sqrt() * betas[1:] / (1 - bar[1:]))


def test_the_simple_loss_is_a_term_of_the_bound_without_its_weight():
    """L_{t-1} = beta^2/(2 v (1 - beta)(1 - alpha_bar)) |noise error|^2 + const (Ho et al., eq. 12), at every step of a chain."""
    sde = SDES["chain20"]
    model, x = mixture().model(sde), mixture().sample(4, generator())
    bar = torch.cumprod(1 - sde.betas, 0)
    for variance in ("beta", "posterior"):
        bound = losses.elbo(model, x, variance=variance, generator=generator(1))
        source = generator(1)
        for i in range(2, 21):
            beta = sde.betas[i - 1]
            posterior = (1 - bar[i - 2]) / (1 - bar[i - 1]) * beta
            v = beta if variance == "beta" else posterior
            noise = torch.randn(x.shape, dtype=torch.float64, generator=source)
            t = torch.full((4,), i / 20, dtype=torch.float64)
            simple = 2 * losses.denoising(model, x, "noise", t=t, noise=noise)  # times d
            weight = beta**2 / (2 * v * (1 - beta) * (1 - bar[i - 1]))
            constant = 2 * 0.5 * (posterior / v - 1 - torch.log(posterior / v))
            torch.testing.assert_close(bound.diffusion[:, i - 2], weight * simple + constant, rtol=1e-7, atol=1e-9)


@torch.no_grad()
def test_with_the_variance_and_decoder_of_the_truth_the_bound_is_the_likelihood_at_any_number_of_steps():
    """For Gaussian data all q(z_s | z_t) are Gaussian: what is left is the prior's mismatch. 20,000 copies of each point."""
    for steps in (1, 2, 5):
        sde, data = ss.VPSDE(), gaussian()
        for value in (0.0, 1.2):
            x = torch.full((20_000, 1), value, dtype=torch.float64)
            bound = losses.elbo(
                data.model(sde), x, grid=grids.half_log_snr(sde, steps), variance=exact_variance(sde), generator=generator(steps)
            )
            # KL(q(z_1 | x) || prior) stands where KL(q(z_1 | x) || q(z_1)) would make it exact: at alpha(1) = 0.0066 they differ by
            # less than alpha^2 = 4e-5.
            assert float(bound.nats.mean()) == pytest.approx(
                float(data.log_prob(x[:1])), abs=5 * float(bound.nats.std()) / math.sqrt(20_000) + 5e-5
            )


def expected_gap(sde, variance):
    """E[log p(x) - bound] of the Gaussian data: the KL between the true step, of variance r v, and the model's, 1/2 (r - 1 - log r)."""
    times = torch.arange(sde.steps + 1, dtype=torch.float64) / sde.steps
    s, t = times[1:-1], times[2:]
    steps = exact_variance(sde)(s, t) / variance_rule(sde, variance)(s, t)
    decoder = posterior_variance(sde, times[1]) / sde.sigma(times[1]) ** 2
    prior = sde.alpha(1.0) ** 2 * S**2 + sde.sigma(1.0) ** 2
    return float(sum((0.5 * (r - 1 - r.log())).sum() for r in (steps, decoder, prior)))


@torch.no_grad()
def test_the_gap_closes_with_the_number_of_steps():
    """Gaussian data, exact score, linear betas: the mean gap is its closed form, in nats."""
    gaps, n = {}, 2000
    for steps in (10, 100, 1000):
        sde, data = ss.VPSDE.from_betas(linear_betas(steps).clamp(max=0.99)), gaussian()
        x = data.sample(n, generator())
        best, *others = (
            losses.elbo(data.model(sde), x, variance=variance, terms=min(steps - 1, 50), generator=generator(1))
            for variance in (exact_variance(sde), "beta", "posterior")
        )
        assert within(data.log_prob(x) - best.nats, 0)
        for name, bound in zip(("beta", "posterior"), others, strict=True):
            gaps[name, steps] = expected_gap(sde, name)
            assert within(data.log_prob(x) - bound.nats, gaps[name, steps])
            # Bounds on the same noise differ by far less than they vary.
            assert within(best.nats - bound.nats, gaps[name, steps])
    assert [gaps["beta", steps] for steps in (10, 100, 1000)] == pytest.approx([0.0794, 0.0110, 0.0011], abs=1e-4)
    assert [gaps["posterior", steps] for steps in (10, 100, 1000)] == pytest.approx([7.3844, 1.2501, 0.4563], abs=1e-4)


def test_the_posterior_variance_leaves_half_of_eulers_constant_a_coordinate():
    """Near the data sigma^2 grows as the step's number i, so that v* is i/(i - 1) times the posterior variance whatever T is:
    sum_i 1/2 (1/(i - 1) - log(i/(i - 1))) = 0.5772/2. With beta nothing is left."""
    chain = ss.VPSDE.from_betas(linear_betas(300_000))
    assert expected_gap(chain, "posterior") == pytest.approx(0.5772 / 2, rel=0.02)
    assert 0 <= expected_gap(chain, "beta") < 1e-4


@finite_sdes
@torch.no_grad()
def test_the_bound_lies_below_the_likelihood_of_a_mixture(sde):
    data = mixture()
    x = data.sample(1000, generator())
    for variance in ("beta", "posterior"):
        bound = losses.elbo(data.model(sde), x, grid=grids.half_log_snr(sde, 20), variance=variance, generator=generator(1))
        gap = data.log_prob(x) - bound.nats
        assert bool((bound.diffusion >= -1e-9).all())
        assert bool((bound.prior >= -1e-9).all())
        assert float(gap.mean()) > -5 * float(gap.std()) / math.sqrt(1000)
        assert float(gap.mean()) > 0.05


@torch.no_grad()
def test_sampled_terms_have_the_sum_of_all_as_their_mean():
    sde = SDES["chain20"]
    model, x = mixture().model(sde), mixture().sample(1, generator()).repeat(20_000, 1)
    whole = losses.elbo(model, x, generator=generator(1)).diffusion.sum(1)
    for terms in (1, 4):
        sampled = losses.elbo(model, x, terms=terms, generator=generator(2)).diffusion
        assert sampled.shape == (20_000, terms)
        error = math.sqrt(float(whole.var() + sampled.sum(1).var()) / 20_000)
        assert float(sampled.sum(1).mean()) == pytest.approx(float(whole.mean()), abs=5 * error)
    # Fewer calls: terms, and one for the reconstruction.
    calls = []
    counting = model.output
    model.output = lambda *a, **k: (calls.append(1), counting(*a, **k))[1]
    losses.elbo(model, x[:2], terms=4)
    assert len(calls) == 5
    for wrong in (0, 20):
        with pytest.raises(ValueError, match=r"terms must lie in 1\.\.19"):
            losses.elbo(model, x[:2], terms=wrong)


@torch.no_grad()
def test_the_optimal_variance_of_analytic_dpm_raises_the_bound():
    """Its closed form on Gaussian data is the variance of the true step; on a mixture the bound is above those of beta and posterior."""
    sde = SDES["chain20"]
    s, t = torch.arange(1, 20, dtype=torch.float64) / 20, torch.arange(2, 21, dtype=torch.float64) / 20

    def noise_power(half_log_snr):
        signal = S**2 * math.exp(2 * half_log_snr)
        return 1 / (1 + signal)

    ours = losses.optimal_variance(sde, noise_power)
    torch.testing.assert_close(ours(s, t), exact_variance(sde)(s, t))
    no_signal = losses.optimal_variance(SDES["flow"], noise_power)(torch.tensor(0.5), torch.tensor(1.0))
    assert float(no_signal) == pytest.approx(float(posterior_terms(SDES["flow"], torch.tensor(0.5), torch.tensor(1.0))[0]))
    data = mixture()
    x = data.sample(4000, generator())
    gamma = solvers.NoisePower.of(data.model(sde), x, grids.uniform(sde, 20)[:-1], generator(1))
    bounds = {
        name: losses.elbo(data.model(sde), x, variance=v, generator=generator(2)).nats
        for name, v in (("optimal", losses.optimal_variance(sde, gamma)), ("beta", "beta"), ("posterior", "posterior"))
    }
    for name in ("beta", "posterior"):
        gain = bounds["optimal"] - bounds[name]
        assert float(gain.mean()) > 5 * float(gain.std()) / math.sqrt(4000), name
    with pytest.raises(TypeError, match=r"give what optimal_variance\(sde, noise_power\) returns"):
        losses.elbo(data.model(sde), x, variance=losses.optimal_variance)


@torch.no_grad()
def test_an_error_of_a_measured_noise_power_is_held_to_the_variance_of_the_data():
    """At sigma/alpha = 150 an error of Gamma of 1e-2 would be a variance of 225, in place of that of the data, which is about 1."""
    betas = torch.linspace(0.01, 2.0, 10, dtype=torch.float64).clamp(max=0.999)
    sde, data = ss.VPSDE.from_betas(betas), mixture()
    x = data.sample(4000, generator())
    times = grids.uniform(sde, 10)[:-1]
    gamma = solvers.NoisePower.of(data.model(sde), x, times, generator(1))
    largest = float(x.double().var(0).mean())
    q, b = posterior_terms(sde, times[1:], times[:-1])
    inside = (losses.optimal_variance(sde, gamma)(times[1:], times[:-1]) - q) / b**2
    assert float(inside.max()) <= largest * (1 + 1e-9)
    assert float(inside.max()) > 0.5 * largest
    optimal, beta = (
        losses.elbo(data.model(sde), x, variance=v, generator=generator(2)).nats
        for v in (losses.optimal_variance(sde, gamma), "beta")
    )
    gain = optimal - beta
    assert float(gain.mean()) > 5 * float(gain.std()) / math.sqrt(4000)


@pytest.mark.parametrize("event", [(), (3,), (2, 5), (1, 4, 4)])
def test_bounds_have_one_value_a_sample_for_any_event(event, device):
    sde = SDES["chain20"]
    model = analytic.GaussianMixture(torch.randn(2, *event).to(device), torch.tensor([0.1, 0.2]).to(device)).model(sde)
    x = torch.randn(5, *event, device=device)
    before = x.clone()
    bound = losses.elbo(model, x, generator=generator())
    assert bound.prior.shape == bound.reconstruction.shape == bound.nats.shape == (5,)
    assert bound.diffusion.shape == (5, 19)
    assert bound.nats.dtype == torch.float64
    many = losses.elbo_continuous(model, x, samples=4, generator=generator())
    assert many.stderr.shape == many.nats.shape == (5,)
    assert many.diffusion.shape == (5, 4)
    assert torch.equal(x, before)


def test_wrong_arguments_of_bounds_are_named():
    x, chain = torch.zeros(2, 2), mixture().model(SDES["chain20"])
    with pytest.raises(ValueError, match="no chain"):
        losses.elbo(mixture().model(SDES["linear"]), x)
    with pytest.raises(ValueError, match="fall strictly from 1 to 0"):
        losses.elbo(chain, x, grid=torch.tensor([0.0, 0.5, 1.0]))
    for variance in ("optimal", 1.5):
        with pytest.raises(ValueError, match="variance must be"):
            losses.elbo(chain, x, variance=variance)
    with pytest.raises(ValueError, match="samples must be even"):
        losses.elbo_continuous(chain, x, samples=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    losses.elbo(chain, x)
    losses.elbo_continuous(chain, x)
    assert torch.equal(torch.get_rng_state(), before)


def test_conditions_reach_the_network_in_every_term():
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, t, label=None):
            seen.append(label)
            return torch.zeros_like(z)

    class Learned(Stub):
        def data_and_fraction(self, z, t, **cond):
            seen.append(cond["label"])
            return super().data_and_fraction(z, t)

    label, x, sde = torch.arange(3), torch.randn(3, 2), SDES["chain20"]
    model = ss.ScoreModel(Network(), sde, "data")
    losses.elbo(model, x, label=label)
    losses.elbo_continuous(model, x, samples=2, label=label)
    losses.hybrid(Learned(sde, 0.5), x, label=label)
    assert len(seen) == 20 + 4 + 1
    assert all(given is label for given in seen)
