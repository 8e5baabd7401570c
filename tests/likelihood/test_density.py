"""Densities by the probability-flow ODE, against closed forms."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic

from ..conftest import SDES, generator, mixture, sdes
from .targets import gaussian, wide_mixture

FLOW, LINEAR = SDES["flow"], SDES["linear"]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@sdes
def test_density_is_the_one_of_the_path_on_every_process(sde):
    """With the law of z_1 in place of the prior it is the mixture's own at t_end, whatever the scales."""
    target, end = mixture(), 0.01
    x = target.sample(4, generator())
    out = ss.log_likelihood(target.model(sde), x, t_end=end, rtol=1e-7, atol=1e-7)
    alpha = float(sde.alpha(end))
    exact = target.log_prob(alpha * x, end, sde) + 2 * math.log(alpha)
    got = out.nats - sde.prior_log_prob(out.z) + target.log_prob(out.z, 1.0, sde) if float(sde.alpha(1.0)) else out.nats
    assert float((got - exact).abs().max()) / 2 <= 2e-6
    assert torch.equal(out.stderr, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("divergence", "tolerance"), [("exact", 1e-5), ("hutchinson", 1e-3)], ids=["exact divergence", "one probe of Hutchinson"]
)
@pytest.mark.parametrize("target", [gaussian([0.7, -0.2], [0.3, 1.5]), wide_mixture()], ids=["gaussian", "mixture"])
def test_mean_density_at_the_default_tolerance(target, divergence, tolerance):
    d = math.prod(target.event_shape)
    x = target.sample(512 if divergence == "exact" else 4096, generator(1))  # an exact divergence has no noise to average
    out = ss.log_likelihood(target.model(FLOW), x, divergence=divergence, t_end=1e-5, generator=generator(2))
    error = (out.nats - target.log_prob(x)) / d
    assert abs(float(error.mean())) <= tolerance
    if divergence == "exact":
        assert float(error.abs().max()) <= 2e-4  # of every point, at rtol = atol = 1e-5


def test_in_float32_the_density_is_as_good_as_its_tolerance():
    target = wide_mixture()
    x = target.sample(64, generator())
    out = ss.log_likelihood(target.model(FLOW), x.float(), t_end=1e-4)
    assert out.nats.dtype == out.z.dtype == torch.float32
    assert float((out.nats - target.log_prob(x, 1e-4, FLOW)).abs().max()) / 16 <= 2e-3
    assert abs(float((out.nats - target.log_prob(x)).mean())) / 16 <= 1e-4


def test_scaling_and_shifting_the_data_changes_the_density_by_the_volume():
    target, a, b = mixture(), -2.5, torch.tensor([3.0, -1.0], dtype=torch.float64)
    moved = analytic.GaussianMixture(a * target.means + b, a**2 * target.variances, target.weights)
    y = target.sample(32, generator())
    options = {"t_end": 1e-6, "rtol": 1e-8, "atol": 1e-8}
    before, after = (ss.log_likelihood(t.model(FLOW), x, **options).nats for t, x in ((target, y), (moved, a * y + b)))
    assert float((after - before + 2 * math.log(abs(a))).abs().max()) <= 1e-5


@pytest.mark.parametrize("event", [(), (3,), (2, 3), (2, 3, 2), (1, 2, 2, 2)])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_any_event_shape(event, divergence):
    """Independent coordinates of equal width, for which one probe is exact."""
    mean = torch.linspace(-1, 1, math.prod(event), dtype=torch.float64).reshape(event)
    target = analytic.GaussianMixture(mean[None], torch.tensor([0.49]))
    x = target.sample(4, generator())
    out = ss.log_likelihood(target.model(FLOW), x, divergence=divergence, t_end=1e-6, rtol=1e-7, atol=1e-7, seeds=range(4))
    assert out.z.shape == x.shape
    assert out.nats.shape == out.stderr.shape == out.nfe.shape == out.prior_mismatch.shape == (4,)
    assert float((out.nats - target.log_prob(x)).abs().max()) <= 1e-5 * x[0].numel()


def test_the_default_end_is_where_a_network_is_trained_and_smooths_the_data():
    """log p of the smoothed law differs by r^2 (laplace log p + |grad log p|^2)/2, here with a relative r^2 of 1.1e-4."""
    sde, std = ss.EDM(sigma_min=0.5, sigma_max=1000), 10.0
    target = gaussian([0.0], [std])
    x = torch.tensor([[0.0], [20.0]], dtype=torch.float64)
    out = ss.log_likelihood(target.model(sde), x, rtol=1e-10, atol=1e-10)
    closed = 0.5 * 0.5**2 * (-1 / std**2 + (x[:, 0] / std**2) ** 2)
    r = float(sde.sigma(sde.t_min))
    smooth = gaussian([0.0], [math.hypot(std, r)])
    mismatch = sde.prior_log_prob(out.z) - target.log_prob(out.z, 1.0, sde)
    assert float((out.nats - mismatch - smooth.log_prob(x)).abs().max()) <= 1e-7
    torch.testing.assert_close(smooth.log_prob(x) - target.log_prob(x), closed, rtol=0.01, atol=0)


def test_tolerance_controls_the_density_and_not_the_state_alone():
    """A field whose state is trivial and whose divergence is not: the density must still be right."""
    sde = FLOW

    class Swirl(torch.nn.Module):
        def forward(self, z, t):
            return 0.3 * torch.sin(8 * z)

    model = ss.ScoreModel(Swirl(), sde, "data", time="t")
    x = torch.zeros(1, 64, dtype=torch.float64)  # z = 0 is a fixed point
    fine = ss.log_likelihood(model, x, t_end=0.05, **TIGHT)
    for tol in (1e-3, 1e-5):
        out = ss.log_likelihood(model, x, t_end=0.05, rtol=tol, atol=tol)
        assert float((out.nats - fine.nats).abs().max()) / 64 <= 20 * tol
    assert int(fine.nfe[0]) > 3 * int(out.nfe[0])
