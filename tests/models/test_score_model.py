"""Conversions between predictions against their definitions, and the two conventions of a network: output and time."""

import itertools
import math

import pytest
import torch
from torch import nn

import scoresde as ss
from scoresde import networks
from scoresde.networks.embedding import TIME_SCALES
from scoresde.sde.prediction import PREDICTIONS, direction

from ..conftest import SDES, generator, linear_betas, mixture, sdes, zero_terminal


class Exact(nn.Module):
    """A network that returns an exact prediction of one kind, and records what it was given."""

    def __init__(self, sde, kind):
        super().__init__()
        self.exact, self.kind, self.calls = mixture().model(sde), kind, []

    def forward(self, z, t, **cond):
        self.calls.append((t, cond))
        return getattr(self.exact, self.kind)(z, t)


class Spy(nn.Module):
    """Returns zeros and records what it was given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, z, t, **cond):
        self.calls.append((t, cond))
        return torch.zeros_like(z)


class Zeros(nn.Module):
    def forward(self, z, t):
        return torch.zeros_like(z)


@sdes
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_gives_all_four(sde, kind):
    model, exact = ss.ScoreModel(Exact(sde, kind), sde, kind, time="t"), mixture().model(sde)
    z = torch.randn(6, 2, dtype=torch.float64, generator=generator())
    for wanted, t in itertools.product(PREDICTIONS, (0.01, 0.5, 0.97)):
        torch.testing.assert_close(getattr(model, wanted)(z, t), getattr(exact, wanted)(z, t), rtol=1e-9, atol=1e-9)


@sdes
def test_definitions(sde):
    """noise, score and velocity of exact data, written out as in the table of the module."""
    exact, t = mixture().model(sde), torch.tensor([0.03, 0.4, 0.9], dtype=torch.float64)
    z = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    data = exact.data(z, t)
    noise = (z - alpha * data) / sigma
    torch.testing.assert_close(exact.noise(z, t), noise)
    torch.testing.assert_close(exact.score(z, t), -noise / sigma)
    if sde is SDES["flow"]:
        torch.testing.assert_close(exact.velocity(z, t), noise - data)
    else:
        torch.testing.assert_close(exact.velocity(z, t), alpha * noise - sigma * data)


def test_score_of_a_noise_network_is_bishops():
    """s = -g / sqrt(1 - alpha_t), with Bishop's alpha_t the product of 1 - beta."""
    betas = linear_betas(100)
    model = ss.ScoreModel(networks.MLP(2, width=8), ss.VPSDE.from_betas(betas), "noise").double()
    z, bar = torch.randn(3, 2, dtype=torch.float64), torch.cumprod(1 - betas, 0)
    for i in (1, 50, 100):
        g = model.network(z, torch.full((3,), i - 1.0, dtype=torch.float64))
        torch.testing.assert_close(model.score(z, i / 100), -g / (1 - bar[i - 1]).sqrt())


@pytest.mark.parametrize("steps", [10, 100, 137, 1000])
def test_index_counts_a_chain_from_0(steps):
    network = Exact(SDES["ddpm"], "noise")
    model = ss.ScoreModel(network, ss.VPSDE.from_betas(linear_betas(steps)), time="index")
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    torch.testing.assert_close(model.network_time(t), torch.arange(steps, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float(model.network_time(1.5 / steps)) == pytest.approx(0.5)


def test_times_reach_the_network_as_declared():
    sde = SDES["ddpm"]
    for time, expected in (
        ("t", 0.25),
        ("index", 249.0),
        ("half_log_snr", float(sde.half_log_snr(0.25))),
        (lambda sde, t: sde.sigma(t) / sde.alpha(t), float(sde.sigma(0.25) / sde.alpha(0.25))),
    ):
        network = Spy()
        ss.ScoreModel(network, sde, time=time).noise(torch.zeros(3, 2), 0.25)
        given, _ = network.calls[0]
        assert given.shape == (3,)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, torch.full((3,), expected))


def test_default_time_is_index_on_a_chain_and_t_elsewhere():
    assert float(ss.ScoreModel(nn.Identity(), SDES["ddpm"]).network_time(1.0)) == 999
    assert float(ss.ScoreModel(nn.Identity(), SDES["linear"]).network_time(1.0)) == 1


@pytest.mark.parametrize(("time", "low", "high"), [("t", 0.1, 0.9), ("index", 99.0, 899.0), ("half_log_snr", -4.0, 2.0)])
def test_our_networks_see_time_in_every_convention(time, low, high):
    """A time in [0, 1] must not be fed to frequencies made for 0..999: distant times need distant embeddings."""
    sde = SDES["ddpm"]
    network = networks.MLP(2)
    ss.ScoreModel(network, sde, time=time)
    phase = TIME_SCALES[time] * torch.tensor([[low], [high]]) * network.embedding.frequencies
    features = torch.cat([phase.sin(), phase.cos()], 1)
    # Two random points on the circles are 2 apart in mean square per pair; frequencies over four decades leave most pairs apart.
    assert float((features[0] - features[1]).square().mean()) > 0.4


@pytest.mark.parametrize("cond", [{}, {"label": torch.tensor([1, 2])}, {"y": {"a": torch.ones(2), "b": None}, "flag": None}])
def test_conditions_reach_the_network_untouched(cond):
    network = Exact(SDES["ddpm"], "noise")
    model = ss.ScoreModel(network, SDES["ddpm"])
    network.forward = lambda z, t, **given: network.calls.append(given) or torch.zeros_like(z)
    for call in (model.data, model.noise, model.score, model.velocity, model):
        call(torch.zeros(2, 2), 0.5, **cond)
    for given in network.calls:
        assert given.keys() == cond.keys()
        assert all(given[key] is cond[key] for key in cond)


@pytest.mark.parametrize("kind", ["noise", "score"])
def test_no_signal_and_no_prediction_of_the_data(kind):
    sde = zero_terminal()
    model = ss.ScoreModel(Zeros(), sde, kind, time="t")
    for t in (1.0, torch.tensor([0.5, 1.0])):
        with pytest.raises(ValueError, match=rf"prediction='{kind}' does not determine the data at t=1, where alpha=0"):
            model.data(torch.zeros(2, 3), t)
    ss.ScoreModel(Zeros(), sde, "velocity", time="t").data(torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="does not determine the noise at t=0"):
        ss.ScoreModel(Zeros(), sde, "data", time="t").noise(torch.zeros(2, 3), 0.0)


@pytest.mark.parametrize("kind", ["noise", "score"])
def test_a_signal_below_rounding_is_none(kind):
    """A noise network divides by alpha: at 1e-6 of the noise its data prediction is rounding. The clipped cosine chain has 4e-5."""
    for sde, bad in ((ss.RectifiedFlow(), 1 - 5e-7), (ss.VPSDE(0.1, 60.0), 1.0)):
        with pytest.raises(ValueError, match=f"prediction='{kind}' does not determine the data at t=1.*without signal use"):
            ss.ScoreModel(Zeros(), sde, kind).data(torch.zeros(2, 3), bad)
    for sde, good in ((ss.RectifiedFlow(), 1 - 5e-6), (ss.VPSDE.cosine(), 1.0), (ss.VESDE(0.01, 9e5), 1.0)):
        ss.ScoreModel(Zeros(), sde, kind).data(torch.zeros(2, 3), good)
    for free in ("data", "velocity", "edm"):
        ss.ScoreModel(Zeros(), ss.VPSDE(0.1, 60.0), free).data(torch.zeros(2, 3), 1.0)


def test_wrong_output_shape_names_both():
    model = ss.ScoreModel(nn.Linear(2, 3), SDES["linear"])
    model.network.forward = lambda z, t: z[:, :1]
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4, 2\)"):
        model.noise(torch.zeros(4, 2), 0.5)


def test_half_precision_leaves_the_schedule_alone():
    sde = ss.VPSDE.from_betas(linear_betas(1000))
    model = ss.ScoreModel(networks.MLP(2, width=8), sde).to(torch.bfloat16)
    before = sde.alpha(torch.linspace(0, 1, 50)).clone()
    z = torch.randn(3, 2)
    assert model.data(z, 1e-3).dtype == torch.float32
    assert model.sde.betas.dtype == torch.float64
    assert torch.equal(sde.alpha(torch.linspace(0, 1, 50)), before)


def test_unknown_declarations_are_refused():
    with pytest.raises(ValueError, match="prediction must be one of data, noise"):
        ss.ScoreModel(nn.Identity(), SDES["ddpm"], "eps?")
    with pytest.raises(ValueError, match="time must be one of t, index"):
        ss.ScoreModel(nn.Identity(), SDES["ddpm"], time="step")
    with pytest.raises(ValueError, match="needs a discrete chain"):
        ss.ScoreModel(nn.Identity(), SDES["linear"], time="index")


def test_gradients_reach_the_network_and_the_state():
    model = ss.ScoreModel(networks.MLP(2, width=8), SDES["ddpm"])
    z = torch.randn(3, 2, requires_grad=True)
    model.score(z, 0.5).square().sum().backward()
    assert z.grad is not None
    assert all(p.grad is not None for p in model.network.leave.parameters())


def test_half_precision_networks_see_the_exact_time():
    """bfloat16 has 8 bits: the indices 996 and 997 would be one. Time comes in float32 and is embedded in float32."""
    torch.manual_seed(0)
    network, sde = networks.MLP(2, width=64), SDES["ddpm"]
    torch.nn.init.normal_(network.leave[-1].weight, generator=generator(1))
    z = torch.randn(4, 2, generator=generator())
    t = torch.tensor([301, 302, 997, 998], dtype=torch.float64) / 1000
    exact = ss.ScoreModel(network, sde)(z, t).detach()
    half = ss.ScoreModel(network, sde).to(torch.bfloat16)(z, t).detach().float()
    # The layers round to 2^-8; rounded times would move the features by radians.
    assert float((half - exact).norm() / exact.norm()) < 0.03
    spy = Spy()
    spy.weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    ss.ScoreModel(spy, sde)(z, t)
    torch.testing.assert_close(spy.calls[0][0], torch.tensor([300.0, 301.0, 996.0, 997.0]), rtol=0, atol=1e-3)


def test_noise_and_score_determine_each_other_at_zero_signal():
    sde, z = zero_terminal(), torch.randn(3, 2, dtype=torch.float64)
    noise = ss.ScoreModel(Exact(SDES["ddpm"], "noise"), sde, "noise", time="t")
    torch.testing.assert_close(noise.score(z, 1.0), -noise.noise(z, 1.0))


@pytest.mark.parametrize("t", [-0.1, 500, float("nan"), torch.tensor([0.5, 1.1])])
def test_times_outside_the_path_are_refused(t):
    sde = SDES["ddpm"]
    for call in (sde.alpha, sde.sigma, sde.half_log_snr, sde.diffusion):
        with pytest.raises(ValueError, match="times run from 0"):
            call(t)


def test_hooks_fire_and_models_can_be_pickled():
    import pickle

    model, seen = ss.ScoreModel(networks.MLP(2, width=8), SDES["linear"]), []
    model.register_forward_hook(lambda *_: seen.append(1))
    ss.sample(model, (2, 2), "ddim", steps=3)
    assert len(seen) == 3
    model = ss.ScoreModel(networks.MLP(2, width=8), SDES["ddpm"], time="half_log_snr")
    z = torch.randn(2, 2)
    assert torch.equal(pickle.loads(pickle.dumps(model)).noise(z, 0.4), model.noise(z, 0.4))


def test_one_network_cannot_see_two_times():
    network = networks.MLP(2, width=8)
    ss.ScoreModel(network, SDES["ddpm"], time="index")
    with pytest.raises(ValueError, match="made to see time='index' and cannot see 't' too"):
        ss.ScoreModel(network, SDES["ddpm"], time="t")


def test_cuda_times_reach_a_cpu_state(device):
    """A copy to the CPU is complete before it is read."""
    t = torch.rand(1000, dtype=torch.float64, device=device)
    z = torch.ones(1000, 1)
    scaled, _ = SDES["ddpm"].perturb(z, t, noise=torch.zeros_like(z))
    torch.testing.assert_close(scaled[:, 0], SDES["ddpm"].alpha(t.cpu()).float())


@sdes
@pytest.mark.parametrize("t", [0.02, 0.5, 1.0])
def test_edm_preconditioning(sde, t):
    """D = c_skip y + c_out F(c_in y, c_noise) as in table 1 of Karras et al., for y = z/alpha, r = sigma/alpha."""
    s = 0.7

    class F(nn.Module):
        def forward(self, y, c_noise):
            self.seen = y, c_noise
            return torch.tanh(y) + 0.1

    model = ss.ScoreModel(F(), sde, ss.Preconditioned(sigma_data=s), time=None if float(sde.alpha(t)) else "t")
    z = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    data = model.data(z, t)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    if alpha == 0:
        torch.testing.assert_close(data, s * (torch.tanh(z / sigma) + 0.1))
        return
    y, r = z / alpha, sigma / alpha
    c_skip, c_out, c_in = s**2 / (r**2 + s**2), r * s / (r**2 + s**2) ** 0.5, 1 / (r**2 + s**2) ** 0.5
    torch.testing.assert_close(data, c_skip * y + c_out * (torch.tanh(c_in * y) + 0.1), rtol=1e-9, atol=1e-9)
    seen, c_noise = model.network.seen
    torch.testing.assert_close(seen, c_in * y)
    torch.testing.assert_close(c_noise, torch.full((5,), math.log(r) / 4, dtype=c_noise.dtype), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.noise(z, t), (z - alpha * data) / sigma, rtol=1e-7, atol=1e-7)


def test_edm_input_and_target_have_unit_variance():
    """The point of the preconditioning: for data of standard deviation sigma_data, c_in y and F have variance 1 at every time."""
    sde, s = SDES["edm"], 0.5
    model = ss.ScoreModel(Zeros(), sde, "edm", time="t")
    x = s * torch.randn(100_000, 1, dtype=torch.float64, generator=generator())
    for t in (1e-4, 1e-2, 1.0):
        z, noise = sde.perturb(x, t, generator=generator(1))
        a, b = direction(sde, t, model.prediction)
        scale = model.prediction.input_scale(sde.alpha(t), sde.sigma(t))
        # A standard deviation of 10^5 draws: 5 standard errors.
        for variable in (scale * z, a * x + b * noise):
            assert float(variable.std()) == pytest.approx(1, abs=5 / (2 * 100_000) ** 0.5)
