"""The denoising loss against closed forms: on Gaussian data the best loss and the zero network's loss are known."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, losses, networks

from ..conftest import SDES, finite_sdes, generator, mixture


def test_bug_32_each_sample_has_its_own_loss_and_gradient():
    """Averaging states over the batch before the loss would give every sample the same gradient."""
    sde = SDES["ddpm"]
    model = ss.ScoreModel(networks.MLP(2, width=8), sde).double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    loss = losses.denoising(model, x, generator=generator(1))
    rows = [torch.autograd.grad(value, model.network.leave[-1].weight, retain_graph=True)[0].flatten() for value in loss]
    assert torch.linalg.matrix_rank(torch.stack(rows)) == 4


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


def test_generator_and_data_may_live_on_different_devices(device):
    source = torch.Generator(device).manual_seed(0)
    loss = losses.denoising(analytic.ZeroModel(SDES["ddpm"]), torch.zeros(1000, 2), generator=source)
    # 2000 squared normals
    assert float(loss.mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / 2000))
