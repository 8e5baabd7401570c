"""The adapter of torchsde."""

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers

from ..conftest import SDES, generator, mixture, sdes
from ..laws import assert_law, gaussian

LINEAR = SDES["linear"]


@sdes
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_torchsde_euler_is_euler_maruyama_draw_by_draw(sde, steps):
    model = mixture().model(sde)
    ours, theirs = (
        ss.sample(model, (6, 2), name, steps=steps, seeds=range(6), dtype=torch.float64, trajectory=True)
        for name in ("euler-maruyama", "torchsde-euler")
    )
    assert ours.nfe == theirs.nfe
    if float(sde.alpha(1.0)) > 0:  # from zero signal ours draws fresh noise
        torch.testing.assert_close(theirs.path, ours.path, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [100, 1000])
def test_torchsde_takes_as_many_steps_as_asked_for(steps):
    """Peer bugs 4 and 5: no extra step of a rounding error, no query outside the Brownian interval."""
    out = ss.sample(
        mixture().model(LINEAR), (1, 2), "torchsde-euler", steps=steps, grid="uniform", generator=generator(), trajectory=True
    )
    assert out.nfe == steps
    assert torch.equal(out.times, grids.uniform(LINEAR, steps))


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "euler_heun", "heun", "log_ode", "midpoint", "reversible_heun"])
def test_every_method_of_torchsde_has_the_law_of_gaussian_data(method):
    n = 4000
    x = ss.sample(
        gaussian().model(LINEAR), (n, 1), ss.loops.TorchSDE(method), steps=100, generator=generator(), dtype=torch.float64
    )
    # Euler at 100 steps is off by 5 % in the standard deviation (its exact moments).
    exact = solvers.EulerMaruyama().tableau(LINEAR, grids.half_log_snr(LINEAR, 100)).moments(0.7, 0.3)
    assert_law(x, 0.7, 0.3, bias=1.2 * abs(exact[1] - 0.3) / 0.3)


@pytest.mark.parametrize("method", ["euler", "srk", "midpoint"])
def test_adaptive_torchsde(method):
    solver = ss.loops.TorchSDE(method, adaptive=True, rtol=1e-2, atol=1e-2, dt_min=1e-4)
    model = gaussian().model(LINEAR)
    batch = ss.sample(model, (3, 1), solver, steps=5, seeds=range(3), dtype=torch.float64, trajectory=True)
    assert batch.calls.shape == (3,)
    for i in range(3):
        alone = ss.sample(model, (1, 1), solver, steps=5, seeds=[i], dtype=torch.float64)
        torch.testing.assert_close(alone, batch.x[i : i + 1])
