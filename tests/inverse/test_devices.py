"""Conditional sampling on every device: the numbers of the CPU, from the same seeds."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic, diagnostics, guidance, inverse, networks, sbi
from scoresde.inverse import operators

from ..conftest import SDES, generator

LIK = inverse.Gaussian(operators.matrix(torch.tensor([[0.6, -0.8]])), 0.3)


class Given(torch.nn.Module):
    """`network(z, t, x)` for a vector x."""

    def __init__(self):
        super().__init__()
        self.inner = networks.MLP(4, width=16)

    def forward(self, z, t, x):
        return self.inner(torch.cat([z, x], 1), t)[:, :2]


def made(network):
    torch.manual_seed(0)
    network = network()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=generator(1))
    return ss.ScoreModel(network, SDES["linear"], "velocity").eval().requires_grad_(False)


def prior_on(device):
    return analytic.GaussianMixture(torch.zeros(1, 2, device=device), torch.ones(1, device=device)).model(SDES["linear"])


def labelled():
    return networks.MLP(2, width=16, classes=3)


def plain():
    return networks.MLP(2, width=16)


CASES = {
    "guided": (
        labelled,
        lambda m, d: guidance.Guided(m, 2.0, interval=(0.1, 5.0), ramp=1.0),
        "dpm++2m",
        {"label": torch.arange(8) % 3},
    ),
    "per sample": (
        labelled,
        lambda m, d: guidance.Guided(m, 1.0, rule=guidance.apg()),
        "dpm++2m",
        {"label": torch.arange(8) % 3, "guidance_weight": torch.linspace(0, 3, 8)},
    ),
    "particles": (labelled, lambda m, d: guidance.Guided(m, 2.0), guidance.FeynmanKac(4), {"label": torch.arange(8) // 4}),
    "tilted": (plain, lambda m, d: guidance.tilted(m, lambda x, t: x.sum(1), "data"), "ddim", {}),
    "mmps": (plain, lambda m, d: inverse.mmps(m, LIK, 1), "dpm++2m", {"y": torch.ones(8, 1)}),
    "jfps": (
        lambda: networks.MLP(2, width=16),
        lambda m, d: inverse.jfps(m, LIK, torch.eye(2)),
        "dpm++2m",
        {"y": torch.ones(8, 1)},
    ),
    "twisted": (
        lambda: networks.MLP(2, width=16),
        lambda m, d: inverse.pigdm(m, LIK),
        inverse.TwistedSMC(4),
        {"y": torch.ones(8, 1)},
    ),
    "daps": (plain, lambda m, d: m, inverse.DAPS(LIK, ode=2), {"y": torch.ones(8, 1)}),
    "denoising": (plain, lambda m, d: inverse.denoising(m, 0.4), "ddim", {"y": torch.ones(8, 2)}),
    "composed": (Given, lambda m, d: sbi.composed(m, prior_on(d), precision=2 * torch.eye(2)), "ddim", {"x": torch.ones(1, 3, 2)}),
    "jac": (Given, lambda m, d: sbi.composed(m, prior_on(d), "jac"), "ddim", {"x": torch.ones(1, 3, 2)}),
}


@pytest.mark.filterwarnings("ignore:the network's covariance is negative")
@pytest.mark.parametrize("name", CASES)
def test_samples_do_not_depend_on_the_device(name, device):
    network, wrap, solver, cond = CASES[name]

    def draw(on):
        model = wrap(made(network).to(on), on)
        return ss.sample(
            model, (8, 2), solver, steps=6, seeds=range(8), device=on, **{key: value.to(on) for key, value in cond.items()}
        )

    ours = draw(device)
    assert ours.device.type == device.type
    torch.testing.assert_close(ours.cpu(), draw(torch.device("cpu")), rtol=1e-3, atol=1e-3)


def test_checks_of_posteriors_take_tensors_of_every_device(device):
    theta, samples = torch.randn(40, 2, generator=generator()).to(device), torch.randn(40, 30, 2, generator=generator(1)).to(device)
    assert diagnostics.sbc_ranks(theta, samples).p.shape == (2,)
    assert diagnostics.tarp(theta, samples).p > 0
    assert diagnostics.coverage(theta[:, 0], samples[:, :, 0]).p > 0
    assert diagnostics.sliced_wasserstein(theta, samples[:, 0]).value > 0
