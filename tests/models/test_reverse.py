"""The reverse SDE of a model."""

import math
import warnings

import pytest
import torch

import scoresde as ss
from scoresde import analytic
from scoresde.models import ReverseSDE

from ..conftest import SDES, generator
from ..laws import assert_law, gaussian


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_reverse_family_keeps_the_marginals(eta):
    """For Gaussian data the moments of dz = drift dt + eta g dw must run back along those of the forward path.

    With drift a z + b, running time backwards, variance obeys dV/dt = 2 a V - eta^2 g^2, and V(t) = alpha^2 s^2 + sigma^2.
    """
    sde = ss.VPSDE()
    data = ss.models.analytic.GaussianMixture(torch.tensor([[0.7]]), torch.tensor([0.09]))
    reverse = ReverseSDE(data.model(sde), eta)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for t in (0.05, 0.3, 0.8):
        b = float(reverse.drift(zero, t))
        a = float(reverse.drift(one, t)) - b

        def moments(t):
            return 0.7 * float(sde.alpha(t)), float(sde.alpha(t) ** 2 * 0.09 + sde.sigma(t) ** 2)

        mean, variance = moments(t)
        d = 1e-5
        mean_slope, variance_slope = ((u - v) / (2 * d) for u, v in zip(moments(t + d), moments(t - d), strict=True))
        assert a * mean + b == pytest.approx(mean_slope, abs=1e-6)
        assert 2 * a * variance - float(reverse.diffusion(t)) ** 2 == pytest.approx(variance_slope, abs=1e-6)


LINEAR = SDES["linear"]


def test_the_reverse_sde_goes_into_sdeint_directly():
    """Flattened, with rising time; the law of Gaussian data at t = 0.05 after 400 Euler steps."""
    torchsde = pytest.importorskip("torchsde")
    event, n, end = (1, 2, 2), 2000, 0.05
    model = analytic.GaussianMixture(
        torch.full((1, *event), 0.7, dtype=torch.float64), torch.tensor([0.09], dtype=torch.float64)
    ).model(LINEAR)
    reverse = ReverseSDE(model).flattened(event)
    y = torch.randn(n, 4, dtype=torch.float64, generator=generator())
    bm = torchsde.BrownianInterval(0.0, 1 - end, size=(n, 4), dtype=torch.float64, entropy=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torchsde.sdeint(reverse, y, torch.tensor([0.0, 1 - end], dtype=torch.float64), bm=bm, method="euler", dt=1 / 400)[-1]
    alpha, sigma = float(LINEAR.alpha(end)), float(LINEAR.sigma(end))
    # The weak error of 400 uniform Euler steps here, by the exact moments of ours, is 1 %.
    assert_law(x, alpha * 0.7, math.hypot(alpha * 0.3, sigma), bias=0.02)
    # Without an event shape, states of shape (B, d) pass as they are.
    plain = gaussian(d=4).model(LINEAR)
    torch.testing.assert_close(ReverseSDE(plain).f(0.3, y), reverse.f(0.3, y))
    assert reverse.g(0.3, y).shape == y.shape
