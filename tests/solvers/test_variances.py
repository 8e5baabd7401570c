"""Variances of ancestral sampling: optimal, measured, interpolated."""

import math

import pytest
import torch

from scoresde import analytic, grids, solvers

from ..conftest import SDES, generator


@pytest.mark.parametrize("sde", [SDES[n] for n in ("linear", "ddpm", "cosine", "sub-vp", "edm")])
@pytest.mark.parametrize("steps", [3, 10])
def test_the_optimal_variance_is_exact_on_gaussian_data(sde, steps):
    """Bao et al., theorem 1: with the exact Gamma every step has the marginal's mean and variance, however long it is."""
    std, grid = 0.6, grids.half_log_snr(sde, steps, t_end=0.05)
    lam = torch.linspace(float(sde.half_log_snr(1.0)), float(sde.half_log_snr(0.05)), 20 * steps + 1, dtype=torch.float64)
    t = sde.time(lam)
    gamma = sde.sigma(t) ** 2 / (sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2)
    power = solvers.NoisePower(tuple(lam.tolist()), tuple(gamma.tolist()))

    def marginal(t):
        return 0.0, math.hypot(float(sde.alpha(t)) * std, float(sde.sigma(t)))

    _, got = solvers.Ancestral(power).tableau(sde, grid).moments(0.0, std, start=marginal(1.0))
    # The nodes of the table are the grid's own, so that nothing is interpolated.
    assert got == pytest.approx(marginal(0.05)[1], rel=1e-6)
    _, beta = solvers.Ancestral("beta").tableau(sde, grid).moments(0.0, std, start=marginal(1.0))
    assert abs(beta - marginal(0.05)[1]) > 1e-3


def test_noise_power_is_measured():
    sde, std, n = SDES["ddpm"], 0.6, 50_000
    data = analytic.GaussianMixture(torch.zeros(1, 2), torch.tensor([std**2]))
    times = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    power = solvers.NoisePower.of(data.model(sde), data.sample(n, generator()), times, generator(1))
    exact = sde.sigma(times) ** 2 / (sde.alpha(times) ** 2 * std**2 + sde.sigma(times) ** 2)
    for lam, value in zip(sde.half_log_snr(times).tolist(), exact.tolist(), strict=True):
        # 2n squared normals: 5 standard errors.
        assert power(lam) == pytest.approx(value, abs=5 * value * math.sqrt(2 / (2 * n)))


def test_interpolated_variance_is_geometric():
    sde = SDES["ddpm"]
    grid = grids.half_log_snr(sde, 9)
    stds = {
        v: [next(iter(row.xi.values())) for row in solvers.Ancestral(v).tableau(sde, grid).rows[:-1]]
        for v in ("beta", "posterior", 0.0, 0.3, 1.0)
    }
    assert stds[0.0] == pytest.approx(stds["posterior"])
    assert stds[1.0] == pytest.approx(stds["beta"])
    assert stds[0.3] == pytest.approx([b**0.3 * p**0.7 for b, p in zip(stds["beta"], stds["posterior"], strict=True)])
