"""`select` and `fit` on linear SDEs."""

import pytest
import torch

import scoresde as ss
from scoresde import grids
from scoresde.models.in_basis import in_basis
from scoresde.numerics.random import BatchNoise
from scoresde.solvers import GDDIM
from scoresde.solvers.blocks import table
from scoresde.tableau import run
from scoresde.tableau.linear_multistep import multistep_of
from scoresde.tuning.reference import distance, solve_reference, starts

from ..conftest import generator
from ..linear import EVENT, exact_flow, gaussian, processes, two_modes


@pytest.mark.parametrize(("name", "solver"), [("cld", "gddim3"), ("coloured", "ipndm3"), ("blurring", "unipc2"), ("ou", "gddim2")])
def test_the_form_is_the_table(name, solver):
    """The same states from the form, step by step and as a table again, and with corrections that are 0."""
    model = in_basis(two_modes().model(processes()[name]))
    sde = model.sde
    made = table(ss.solvers.get(solver), sde, grids.trailing(sde, 6))
    z = sde.prior((3, *EVENT), generator(), dtype=torch.float64)
    x = run(made, model, z, BatchNoise()).x
    form = multistep_of(made)
    states, _ = form.follow(z, [], model.data)
    torch.testing.assert_close(states[-1], x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(run(form.table(sde), model, z, BatchNoise()).x, x, rtol=1e-8, atol=1e-8)


def test_a_correction_is_a_multiple_of_the_features():
    sde = processes()["cld"]
    form = multistep_of(table(GDDIM(2), sde, grids.trailing(sde, 4)))
    z = sde.prior((3, *EVENT), generator(), dtype=torch.float64)
    data = list(torch.randn(3, 3, *EVENT, dtype=torch.float64, generator=generator(1)))
    before = form.step(2, z, data)
    form.a[2] += 0.1
    form.b[2, 0] -= 0.3
    own, first, *_ = form.features(2, z, data)
    torch.testing.assert_close(form.step(2, z, data), before + 0.1 * own - 0.3 * first)
    torch.testing.assert_close(form.newest(2, data[0]), form.step(2, z, [*data[:2], data[2] + data[0]]) - form.step(2, z, data))


@pytest.mark.parametrize("name", ["coloured", "cld"])
def test_the_reference_follows_the_exact_flow(name):
    """Also between its times."""
    sde = processes()[name]
    model = in_basis(gaussian().model(sde))
    z = starts(model, EVENT, 4, 0).double()
    reference = solve_reference(model, z, steps=64)
    for t in (0.71, 0.33, 0.05):
        torch.testing.assert_close(reference(t), exact_flow(sde, z, t), rtol=0, atol=3e-3)
    assert reference(0).shape == (4, *EVENT)
    assert reference.discrepancy < 1e-2


@pytest.mark.parametrize("name", ["ou", "cld"])
def test_a_fit_beats_what_it_began_with(name, tmp_path):
    """On fresh starts, by half; and its file is the same solver to the bit."""
    model = two_modes().model(processes()[name])
    fitted = ss.tuning.fit(model, 5, shape=EVENT, trajectories=48, reference_steps=32, refine=1, progress=False)
    assert fitted.improved
    fitted.save(tmp_path / "fit.safetensors")
    again = ss.tuning.load(tmp_path / "fit.safetensors")
    x, y = (ss.sample(model, (4, *EVENT), solver, seeds=range(4), dtype=torch.float64) for solver in (fitted, again))
    assert torch.equal(x, y)
    inside = in_basis(model)
    z = starts(inside, EVENT, 64, 7)
    exact = solve_reference(inside, z, steps=96).x
    name, *_ = fitted.baseline
    baseline = ss.tuning.select(model, 5, EVENT, noises=16, reference_steps=32)
    found, before = (
        distance(run(solver.tableau(inside.sde, solver.grid), inside, z, BatchNoise()).x, exact).median()
        for solver in (again, baseline)
    )
    assert float(found) < 0.5 * float(before)


def test_a_selection_outlives_its_portfolio(tmp_path):
    model = two_modes().model(processes()["coloured"])
    chosen = ss.tuning.select(model, 4, EVENT, noises=8, reference_steps=32)
    assert chosen.ranking[0].score <= chosen.ranking[-1].score
    chosen.save(tmp_path / "sel.safetensors")
    again = ss.tuning.load(tmp_path / "sel.safetensors")
    x, y = (ss.sample(model, (4, *EVENT), solver, seeds=range(4), dtype=torch.float64) for solver in (chosen, again))
    assert torch.equal(x, y)
    with pytest.raises(ValueError, match="made for a process"):
        ss.sample(two_modes().model(processes()["ou"]), (4, *EVENT), again)


def test_a_cascade_is_for_numbers():
    with pytest.raises(ValueError, match="cascade is calibrated on a path of numbers"):
        ss.tuning.calibrate(two_modes().model(processes()["cld"]), EVENT, (4, 8))
