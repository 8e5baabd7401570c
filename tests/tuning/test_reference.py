"""The reference solution."""

from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids
from scoresde.numerics.random import BatchNoise
from scoresde.tableau.executor import run
from scoresde.tuning.reference import distance, other_steps, reference_tableau, rms_distance, starts

from ..conftest import SDES, generator, mixture


@pytest.mark.parametrize("path", ["ddpm", "edm", "zero terminal"])
def test_a_reference_knows_the_state_at_every_time(path):
    model = mixture().model(SDES[path])
    z = model.sde.prior_std * torch.randn(8, 2, dtype=torch.float64, generator=generator())
    reference = ss.tuning.solve_reference(model, z, steps=128)
    assert torch.equal(reference(0.0), reference.x)
    assert torch.equal(reference(float(reference.times[5])), reference.states[5])
    for t in (0.9173, 0.5218, 0.1234):
        exact = ss.sample(model, z.shape, "dpm++3m", grid=grids.cubic(model.sde, 800, t_end=t), z=z)
        scale = float(exact.square().mean().sqrt())
        # Of third order in the steps: 1e-5 at 128, and 1e-4 where the first step, from alpha = 0, is of first order. A linear interpolation
        # of the states would be off by 1e-3.
        torch.testing.assert_close(reference(t), exact, rtol=0, atol=(2e-4 if path == "zero terminal" else 5e-5) * scale)


def test_a_reference_doubles_its_steps_until_they_agree():
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 24, 0)
    rough, fine = (ss.tuning.solve_reference(model, z, tolerance=tolerance) for tolerance in (1e-2, 1e-5))
    assert rough.steps < fine.steps
    assert rough.discrepancy < 1e-2
    other = ss.tuning.solve_reference(model, z, steps=other_steps(fine.steps))
    assert fine.discrepancy == pytest.approx(float(distance(fine.x[:16], other.x[:16]).square().mean().sqrt()), rel=1e-6)
    assert not set(fine.times[1:-2].tolist()) & set(other.times[1:-2].tolist())


class Rough(ss.Model):
    """The exact prediction and `size` sum_k a_k sin(2 pi w_k t + p_k) in each coordinate, with w of the scale 30 or 100: as rough in time as a
    network whose time comes in as random Fourier features of that scale."""

    prediction = "data"

    def __init__(self, exact: ss.Model, size: float, scale: float, seed: int, features: int = 48):
        self.exact, self.sde, self.size = exact, exact.sde, size
        self.w, self.p, self.a = (torch.randn(8, features, dtype=torch.float64, generator=generator(seed + k)) for k in range(3))
        self.w, self.p, self.a = scale * self.w, 2 * torch.pi * self.p, self.a / 8**0.5

    def output(self, z, t, **cond):
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
        waves = (self.a * torch.sin(2 * torch.pi * self.w * t + self.p)).sum(1)
        return self.exact.data(z, t.reshape(-1)[0]) + self.size * waves


@cache
def rough(path, scale):
    """The model, states, and where 4,000 steps take them: once for all numbers of steps."""
    gaussian = analytic.GaussianMixture(torch.zeros(1, 48), torch.linspace(0.05, 1, 48)[None])
    model = Rough(gaussian.model(SDES[path]), 0.1, scale, seed=0)
    z = starts(model, (48,), 8, 0)
    return model, z, run(reference_tableau(model.sde, 4000, model.sde.t_min), model, z, BatchNoise()).x


@pytest.mark.parametrize("steps", [64, 128, 256])
@pytest.mark.parametrize("scale", [30, 100])
@pytest.mark.parametrize("path", ["ddpm", "flow"])
def test_the_discrepancy_is_the_error_on_a_model_that_is_rough_in_time(path, scale, steps):
    """Against 4,000 steps, for one Gaussian, as no sample can end in another mode.

    Where both solutions converge with order 3, the discrepancy is at most 1 + sqrt(2)^3 = 3.8 errors, and more where the coarse one does not
    converge yet. That it must not be is small: an error that nobody is told of."""
    model, z, true = rough(path, scale)
    found = ss.tuning.solve_reference(model, z, steps=steps)
    error = rms_distance(found.x, true)
    assert error / 3 < found.discrepancy < 10 * error
