"""Gradients through the sampler, against finite differences."""

import pytest
import torch

import scoresde as ss

from ..conftest import SDES, TABLEAUX, generator

every_tableau = pytest.mark.parametrize("name", TABLEAUX)
DDPM = SDES["ddpm"]


@every_tableau
def test_gradients_flow_through_the_sampler(name):
    """The derivative of the result by the start and by a parameter, against finite differences in float64."""

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

        def forward(self, z, t):
            return self.scale * torch.tanh(z)

    model = ss.ScoreModel(Scaled(), DDPM, "data", time="t")
    z = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)

    def solve(z):
        return ss.sample(model, (1, 1), name, steps=4, z=z, generator=generator(), grad=True)

    by_z, by_scale = torch.autograd.grad(solve(z).sum(), (z, model.network.scale))
    d = 1e-6
    with torch.no_grad():
        slope = (solve(z + d) - solve(z - d)).sum() / (2 * d)
        torch.testing.assert_close(by_z.sum(), slope, rtol=1e-6, atol=1e-9)
        model.network.scale += d
        high = solve(z).sum()
        model.network.scale -= 2 * d
        torch.testing.assert_close(by_scale, (high - solve(z).sum()) / (2 * d), rtol=1e-6, atol=1e-9)
    assert not ss.sample(model, (1, 1), name, steps=4, z=z).requires_grad


@pytest.mark.parametrize("name", ["ancestral", "sde-dpm++2m", "seeds2", "sa-solver", "er-sde2", "edm", "pc"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_gradients_flow_under_seeds(name, batch_size):
    """Against central differences."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, z, t):
            return self.gain * z.tanh()

    model = ss.ScoreModel(Network(), DDPM, "data")

    def total():
        out = ss.sample(model, (4, 2), name, nfe=6, seeds=range(4), grad=True, batch_size=batch_size)
        return (out**2).sum()

    total().backward()
    gain, h = model.network.gain, 1e-6
    ends = []
    for sign in (1, -1):
        gain.data += sign * h
        ends.append(float(total().detach()))
        gain.data -= sign * h
    assert float(gain.grad) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)
