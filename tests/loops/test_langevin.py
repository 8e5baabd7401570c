"""Langevin correctors and annealed Langevin dynamics."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.loops.predictor_corrector import langevin_step
from scoresde.numerics.random import BatchNoise

from ..conftest import SDES, generator, mixture, rotated, sdes
from ..laws import assert_law, gaussian

LINEAR = SDES["linear"]


@pytest.mark.parametrize(("process", "event"), list(rotated(SDES, [(64,), (1, 8, 8)])))
def test_corrector_leaves_the_marginal_of_every_process(process, event):
    """On N(0, tau^2) a step of size e keeps tau^2/(1 - e/(2 tau^2)); with |xi|/|score| near tau, e/tau^2 = 2 r^2 (1 + O(1/d)).

    (Peer bugs 8 and 12: the step of the corrector by the batch mean, and tables that some processes lack.)
    """
    sde, t, snr, d = SDES[process], 0.3, 0.1, math.prod(event)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    tau = math.hypot(0.3 * alpha, sigma)
    model = analytic.GaussianMixture(
        torch.full((1, *event), 0.7, dtype=torch.float64), torch.tensor([0.09], dtype=torch.float64)
    ).model(sde)
    z = alpha * 0.7 + tau * torch.randn(200, *event, dtype=torch.float64, generator=generator())
    noise = BatchNoise(generator(1))
    for _ in range(200):
        z = langevin_step(model, z, t, noise, snr)
    # 2 r^2 = 0.02 makes the standard deviation 0.5 % larger; that the step falls where |z| is large adds about 2/d.
    assert_law(z, alpha * 0.7, tau, bias=snr**2 / 2 + 2 / d)


@sdes
def test_predictor_corrector_has_the_law_of_gaussian_data(sde):
    """Closer than its predictor alone, and within 5 % at 100 steps."""
    grid = grids.half_log_snr(sde, 100)
    x = ss.sample(gaussian(d=64).model(sde), (300, 64), "pc", grid=grid, generator=generator(), dtype=torch.float64)
    predicted = solvers.ReverseDiffusion().tableau(sde, grid).moments(0.7, 0.3)
    error, alone = (abs(float(x.std()) - 0.3), abs(predicted[1] - 0.3))
    assert error <= 0.05 * 0.3
    # A standard deviation of 300 x 64 draws is known to 0.3/sqrt(2 x 19200): two of those.
    assert error <= alone + 2 * 0.3 / math.sqrt(2 * 300 * 64)
    assert float(x.mean()) == pytest.approx(0.7, abs=0.01)


def test_a_corrector_in_one_dimension_stays_finite():
    """Where a score vanishes the rule has no bound; ours is sigma^2."""
    model = gaussian().model(LINEAR)
    x = ss.sample(model, (20_000, 1), "pc", steps=50, generator=generator(), dtype=torch.float64)
    assert float((x - 0.7).abs().max()) < 10 * 0.3


def test_predictors_and_budgets():
    model = mixture().model(LINEAR)
    for predictor in (solvers.Ancestral(), solvers.ProbabilityFlow("heun")):
        pc = ss.loops.PredictorCorrector(predictor, corrections=0)
        a, b = (ss.sample(model, (4, 2), s, grid=grids.karras(LINEAR, 7), seeds=range(4)) for s in (pc, predictor))
        assert torch.equal(a, b)
    for nfe in (4, 9, 10, 11):
        out = ss.sample(model, (2, 2), ss.loops.PredictorCorrector(corrections=2), nfe=nfe, trajectory=True)
        assert nfe - 3 < out.nfe <= nfe
    with pytest.raises(ValueError, match="one-step solver"):
        ss.sample(model, (4, 2), ss.loops.PredictorCorrector(solvers.DPMSolverPP(2)), steps=7)


def test_reverse_diffusion_is_the_published_step_on_the_chain():
    """z' = (2 - sqrt(1 - beta)) z + beta score + sqrt(beta) xi (Song et al. 2021, algorithm 3)."""
    sde = SDES["ddpm"]
    tableau = solvers.ReverseDiffusion().tableau(sde, grids.ddpm(sde, 1000)).folded("score")
    for k, row in enumerate(tableau.rows[:-1]):
        beta = float(sde.betas[999 - k])
        assert row.z[k] == pytest.approx(2 - math.sqrt(1 - beta), rel=1e-10)
        assert row.data[k] == pytest.approx(beta, rel=1e-8)
        assert row.xi[k] == pytest.approx(math.sqrt(beta), rel=1e-8)


@sdes
def test_annealed_langevin_has_the_law_of_gaussian_data(sde):
    """By its exact moments: within 5 % with many steps, and closer than with few large ones."""
    errors = []
    for levels, corrections, step_size in ((10, 50, 0.2), (20, 150, 0.15)):
        solver = solvers.AnnealedLangevin(corrections, step_size)
        mean, std = solver.tableau(sde, grids.half_log_snr(sde, levels)).moments(0.7, 0.3)
        errors.append(abs(std - 0.3))
    assert mean == pytest.approx(0.7, abs=1e-3)
    assert errors[1] <= 0.05 * 0.3
    assert errors[1] < errors[0]
