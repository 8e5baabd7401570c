"""The reference solution."""

import pytest
import torch

import scoresde as ss
from scoresde import grids
from scoresde.tuning.reference import distance, starts

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
    half = ss.tuning.solve_reference(model, z, steps=fine.steps // 2)
    assert fine.discrepancy == pytest.approx(float(distance(fine.x[:16], half.x[:16]).square().mean().sqrt()), rel=1e-6)
