"""The adaptive ODE solver."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic

from ..conftest import SDES, generator, mixture, sdes
from ..laws import gaussian

LINEAR = SDES["linear"]
# Without a closed form lambda is inverted by bisection at every stage. That errors follow the tolerance is no matter of the process.
BY_BISECTION = (SDES["scales"], SDES["coefficients"])


@sdes
def test_adaptive_ode_follows_the_gaussian_flow_map(sde):
    """z_t - alpha_t mu grows as the marginal standard deviation, in each direction; the error is about the tolerance."""
    mean, std = torch.tensor([0.7, -0.2], dtype=torch.float64), torch.tensor([0.3, 1.5], dtype=torch.float64)
    model, end = analytic.GaussianMixture(mean[None], std[None] ** 2).model(sde), 0.02
    z = sde.prior_std * torch.randn(32, 2, dtype=torch.float64, generator=generator())
    before, after = ((sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2).sqrt() for t in (1.0, end))
    exact = sde.alpha(end) * mean + after / before * (z - sde.alpha(1.0) * mean)
    for tol in (1e-5,) if sde in BY_BISECTION else (1e-4, 1e-6, 1e-8):
        x = ss.sample(model, z.shape, ss.loops.AdaptiveODE(tol, tol, t_end=end), z=z)
        assert float(((x - exact) / after).square().mean().sqrt()) <= 5 * tol


@pytest.mark.parametrize("sde", [SDES[n] for n in ("linear", "ddpm", "zero terminal", "sub-vp", "ve", "edm", "flow")])
def test_adaptive_ode_error_is_proportional_to_its_tolerance(sde):
    model = mixture().model(sde)
    z = sde.prior_std * torch.randn(64, 2, dtype=torch.float64, generator=generator())
    # Itself within 10 x 1e-9, one hundredth of what is allowed at the smallest tolerance. Smaller ones: see the flow map above.
    exact = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-9, 1e-9), z=z)
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        x = ss.sample(model, z.shape, ss.loops.AdaptiveODE(tol, tol), z=z)
        errors.append(float((x - exact).square().mean().sqrt()))
        assert errors[-1] <= 10 * tol
    assert errors == sorted(errors, reverse=True)


def test_adaptive_ode_agrees_with_many_steps_of_order_3():
    model, z = mixture().model(LINEAR), torch.randn(64, 2, dtype=torch.float64, generator=generator())
    fine = ss.sample(model, z.shape, "dpm++3m", steps=3000, z=z)
    adaptive = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-9, 1e-9), z=z)
    assert float((fine - adaptive).abs().max()) <= 1e-5


def test_finished_samples_are_not_evaluated():
    """One sample next to a sharp boundary needs more calls than one far away; the sum of rows is the sum of calls."""
    seen = 0
    exact = analytic.GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([1e-6, 1e-6])).model(LINEAR)

    class Spy(torch.nn.Module):
        def forward(self, z, t):
            nonlocal seen
            seen += len(z)
            return exact.data(z, t)

    z = torch.tensor([[1e-3], [3.0]], dtype=torch.float64)
    out = ss.sample(ss.ScoreModel(Spy(), LINEAR, "data", time="t"), (2, 1), "adaptive", z=z, trajectory=True)
    assert seen == int(out.calls.sum())
    assert out.calls[0] > out.calls[1]


def test_gradients_flow_through_the_adaptive_ode():
    """dz_0/dz_1 of the Gaussian flow map is the ratio of the standard deviations."""
    z = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    x = ss.sample(gaussian().model(LINEAR), (1, 1), ss.loops.AdaptiveODE(1e-8, 1e-8, t_end=0.02), z=z, grad=True)
    (slope,) = torch.autograd.grad(x.sum(), z)
    std = [float((LINEAR.alpha(t) ** 2 * 0.09 + LINEAR.sigma(t) ** 2).sqrt()) for t in (0.02, 1.0)]
    assert float(slope) == pytest.approx(std[0] / std[1], rel=1e-6)
