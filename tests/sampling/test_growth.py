"""Heun at few calls: the warning, its cause, and the number of calls that it names."""

import re
import warnings

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.sampling.growth import MOST, STDS, growth

from ..conftest import SDES, mixture

PATHS = ("linear", "ddpm", "edm", "flow")
MODELS = {name: mixture().model(SDES[name] if name in SDES else ss.RectifiedFlow()) for name in PATHS}


def errors(model, nfe, grid):
    """The rms errors of Heun and of DDIM."""
    options = {"seeds": range(128), "dtype": torch.float64}
    exact = ss.sample(model, (128, 2), "ipndm4", steps=300, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [ss.sample(model, (128, 2), name, nfe=nfe, grid=grid, **options) for name in ("heun", "ddim")]
    return [float((x - exact).square().mean().sqrt()) for x in made]


def said(model, nfe, grid, solver="heun"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ss.sample(model, (2, 2), solver, nfe=nfe, grid=grid, seeds=range(2))
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("grid", ["trailing", "karras"])
def test_heun_warns_where_it_is_bad_and_names_enough_calls(name, grid):
    model = MODELS[name]
    (message,) = said(model, 5, grid)
    calls = int(re.search(r"take (\d+) calls or more, or a solver for few calls", message)[1])
    assert said(model, calls, grid) == []
    assert said(model, calls - 1, grid)
    # It is as good as DDIM there, and it was not before. The path of a mixture is no Gaussian's.
    heun, ddim = errors(model, calls, grid)
    assert heun < 2.2 * ddim
    heun, ddim = errors(model, 5, grid)
    assert heun > 1.5 * ddim


def test_the_warning_says_by_how_much():
    with pytest.warns(
        UserWarning, match=r"^heun makes Gaussian samples 2.\d? ?times too large with 7 calls on this grid: take 1\d calls"
    ) as found:
        ss.sample(MODELS["linear"], (2, 2), "heun", nfe=7)
    assert found[0].filename == __file__


@pytest.mark.parametrize("std", STDS)
def test_growth_is_that_of_gaussian_samples(std):
    model = ss.analytic.GaussianMixture(torch.zeros(1, 1), torch.tensor([std**2])).model(ss.VPSDE())
    planned = ss.plan(ss.VPSDE(), "heun", nfe=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = ss.sample(model, (20_000, 1), planned, seeds=range(20_000))
    assert float(x.std()) / std == pytest.approx(planned.tableau.moments(0.0, std)[1] / std, rel=0.03)
    assert growth(planned.tableau) >= 0.97 * float(x.std()) / std
    assert growth(planned.tableau) > MOST


def test_the_cause_is_the_weight_of_the_change_of_the_prediction():
    """(r_s/r_t - 1)/2 for the second prediction of a step, which is above 1 where r_s > 3 r_t."""
    sde = ss.EDM()
    tableau = solvers.get("heun").tableau(sde, grids.karras(sde, 6))
    for n in range(5):
        (start, end), row = tableau.grid_states[n : n + 2], tableau.rows[tableau.grid_states[n + 1] - 1]
        ratio = float(sde.sigma(tableau.times[start]) / sde.sigma(tableau.times[end]))
        assert row.data[end - 1] == pytest.approx((ratio - 1) / 2, rel=1e-9)


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "unipc3", "euler", "default"])
def test_solvers_for_few_calls_do_not_warn(solver):
    assert said(MODELS["linear"], 5, None, solver) == []


def test_the_sampler_of_edm_warns_too():
    assert said(MODELS["edm"], 7, None, "edm")
    assert said(MODELS["edm"], 61, None, "edm") == []


@pytest.mark.parametrize("z", [None, 0.5 * torch.ones(4, 2)])
def test_samples_that_leave_all_scale_are_named(z):
    class Steep(torch.nn.Module):
        def forward(self, x, t):
            return -200.0 * x

    model = ss.ScoreModel(Steep(), ss.VPSDE(), "velocity")
    with pytest.warns(
        UserWarning, match=r"samples are as large as .*, and started from (1|0.5): .*models.thresholded\(model, low, high\)"
    ):
        ss.sample(model, (4, 2), "ddim", steps=5, z=z)
    held = ss.models.thresholded(model, -1.0, 1.0)
    assert float(ss.sample(held, (4, 2), "ddim", steps=5, z=z).abs().max()) <= 1.001


def test_a_noise_prediction_that_knows_nothing_is_named_earlier():
    """A network that returns 0 keeps z/alpha, which is 1/alpha(1) = 152 times the start in the end."""

    class Zero(torch.nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    with pytest.warns(
        UserWarning, match=r"samples are as large as .*unless the data are, errors of the noise prediction were multiplied"
    ):
        x = ss.sample(ss.ScoreModel(Zero(), ss.VPSDE(), "noise"), (4, 2), "ddim", steps=5, z=torch.ones(4, 2))
    assert float(x.max()) == pytest.approx(1 / float(ss.VPSDE().alpha(1.0)), rel=1e-3)
    assert not said(ss.ScoreModel(Zero(), ss.VPSDE(), "velocity"), 5, None, "ddim")
