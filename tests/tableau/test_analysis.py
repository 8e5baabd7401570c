"""The exact law of a table on Gaussian data, against simulation and torch.distributions."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers

from ..conftest import SDES, TABLEAUX, generator, quick, rotated

every_solver = pytest.mark.parametrize("name", TABLEAUX)


@pytest.mark.parametrize(("name", "process"), list(rotated(TABLEAUX, ("linear", "ddpm", "cosine"))))
def test_moments_against_simulation(name, process):
    """Exact mean and standard deviation of the result against 10^5 samples."""
    sde, n, mean, std = SDES[process], 100_000, 0.7, 0.3
    model = analytic.GaussianMixture(torch.tensor([[mean]]), torch.tensor([std**2])).model(sde)
    grid = grids.half_log_snr(sde, 12)
    x = ss.sample(model, (n, 1), quick(name), grid=grid, generator=generator(), dtype=torch.float64)
    exact_mean, exact_std = quick(name).tableau(sde, grid).moments(mean, std)
    # The result is exactly Gaussian: 5 standard errors, std/sqrt(n) and std/sqrt(2n).
    assert float(x.mean()) == pytest.approx(exact_mean, abs=5 * exact_std / math.sqrt(n))
    assert float(x.std()) == pytest.approx(exact_std, abs=5 * exact_std / math.sqrt(2 * n))


@every_solver
def test_moments_do_not_depend_on_the_prediction(name):
    tableau = quick(name).tableau(SDES["ddpm"], grids.half_log_snr(SDES["ddpm"], 12))
    expected = pytest.approx(tableau.moments(0.7, 0.3), rel=1e-9)
    for prediction in ("noise", "score", "velocity"):
        assert tableau.folded(prediction).moments(0.7, 0.3) == expected


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "ancestral", "sde-dpm++2m"])
def test_gaussian_distances_are_those_of_the_moments(name):
    from torch.distributions import Normal, kl_divergence

    tableau = solvers.get(name).tableau(SDES["ddpm"], grids.half_log_snr(SDES["ddpm"], 8))
    spectrum = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)
    results = [tableau.moments(0.0, float(c)) for c in spectrum.sqrt()]
    w2 = math.sqrt(sum(m**2 + (s - float(c)) ** 2 for (m, s), c in zip(results, spectrum.sqrt(), strict=True)))
    assert tableau.gaussian_w2(spectrum) == pytest.approx(w2, rel=1e-12)
    kl = sum(float(kl_divergence(Normal(m, s), Normal(0.0, float(c)))) for (m, s), c in zip(results, spectrum.sqrt(), strict=True))
    assert tableau.gaussian_kl(spectrum) == pytest.approx(kl, rel=1e-5)  # Normal holds its parameters in float32
