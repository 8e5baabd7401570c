"""A first call at the second time of the grid: the formula by hand, the mean of the data, convergence, and the grid that suits it."""

import math
from functools import partial

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers

from ..conftest import SDES, generator, mixture


@pytest.mark.parametrize("path", ["ddpm", "flow"])
def test_the_first_step_is_the_formula(path):
    sde, model = SDES[path], mixture().model(SDES[path])
    z = torch.randn(4, 2, dtype=torch.float64, generator=generator(0)) * sde.prior_std
    t1 = float(sde.time(torch.tensor(-math.log(10.0), dtype=torch.float64)))
    grid = torch.tensor([1.0, t1, 0.3, 0.0], dtype=torch.float64)
    a0, a1, s0, s1 = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (sde.alpha, sde.sigma) for t in (1.0, t1))
    y = s1 / s0 * z
    d = model.data(y, t1)
    z1 = y + (a1 - a0 * s1 / s0) * d
    # DDIM goes on from z1 with the prediction d, and then with one at 0.3.
    a2, s2 = float(sde.alpha(torch.tensor(0.3))), float(sde.sigma(torch.tensor(0.3)))
    z2 = s2 / s1 * z1 + (a2 - a1 * s2 / s1) * d
    x = ss.sample(model, z.shape, solvers.LateFirstCall(solvers.DDIM()), grid=grid, z=z)
    torch.testing.assert_close(x, model.data(z2, 0.3), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["ddim", "ipndm3", "unipc2", "dpm++2m"])
def test_the_calls_are_those_of_the_budget_and_states_go_down_the_grid(name):
    planned = ss.plan(ss.VPSDE(), solvers.LateFirstCall(solvers.get(name)), nfe=7)
    assert planned.nfe == 7
    assert len(planned.times) - 1 == 8
    assert float(ss.VPSDE().half_log_snr(planned.times[1])) == pytest.approx(-math.log(10))


def test_a_point_mass_is_hit_exactly():
    """Data at one point: D is that point everywhere, and no first step may lose it."""
    model = analytic.GaussianMixture(torch.tensor([[0.7, -0.2]]), torch.full((1, 2), 1e-9)).model(ss.RectifiedFlow())
    x = ss.sample(model, (3, 2), solvers.LateFirstCall(solvers.IPNDM()), nfe=4, seeds=range(3), z=None)
    torch.testing.assert_close(x, torch.tensor([[0.7, -0.2]]).expand(3, 2).to(x), rtol=0, atol=1e-5)


def test_few_calls_on_a_mixture_are_better_than_with_the_first_call_at_the_start():
    """From the measurements that the default is built on: at 10 calls 0.3 to 0.9 times the error."""
    model = mixture().model(SDES["flow"])
    z = torch.randn(64, 2, dtype=torch.float64, generator=generator(1))
    fine = ss.sample(model, z.shape, "dpm++3m", steps=500, z=z)
    times = partial(grids.trailing, power=2.0)
    late = ss.sample(
        model, z.shape, solvers.LateFirstCall(solvers.IPNDM()), nfe=10, grid=partial(grids.late, rule=times, ratio=25.0), z=z
    )
    early = ss.sample(model, z.shape, solvers.IPNDM(), nfe=10, grid=times, z=z)
    assert (late - fine).square().mean() < 0.9 * (early - fine).square().mean()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="two steps"):
        solvers.LateFirstCall(solvers.DDIM()).tableau(ss.VPSDE(), torch.tensor([1.0, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="ratio"):
        grids.late(ss.VPSDE(), 5, ratio=0.0)


def test_a_start_below_the_ratio_and_a_single_step_have_the_times_of_the_rule():
    assert torch.equal(grids.late(ss.VPSDE(), 5, rule=grids.karras, ratio=1e6), grids.karras(ss.VPSDE(), 5))
    assert torch.equal(grids.late(ss.VPSDE(), 1), grids.flow(ss.VPSDE(), 1))
