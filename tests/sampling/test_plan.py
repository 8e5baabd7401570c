"""A plan in place of a solver: made once, it gives the samples of the arguments that it was made from, to the bit."""

from functools import partial

import pytest
import torch

import scoresde as ss
from scoresde import grids, sampling, solvers
from scoresde.sampling import AdaptivePlan, GridPlan, TablePlan, plan

from ..conftest import LOOPS, SDES, TABLEAUX, budget, generator, mixture

LINEAR, MODEL = SDES["linear"], mixture().model(SDES["linear"])


def drawn(solver, **options):
    return ss.sample(MODEL, (5, 2), solver, seeds=range(5), trajectory=True, **options)


@pytest.mark.parametrize("name", [*TABLEAUX, *LOOPS])
def test_a_plan_gives_the_samples_of_its_arguments(name):
    made = plan(LINEAR, name, **budget(name, 5))
    here, there = drawn(made), drawn(name, **budget(name, 5))
    assert torch.equal(here.x, there.x)
    assert torch.equal(here.path, there.path)
    assert torch.equal(here.times, there.times)
    assert here.nfe == there.nfe
    # It keeps nothing of the run.
    assert torch.equal(drawn(made).x, there.x)
    assert ss.plan(LINEAR, made) is made


@pytest.mark.parametrize(("name", "kind"), [("dpm++2m", TablePlan), ("pc", GridPlan), ("adaptive", AdaptivePlan)])
def test_a_plan_knows_its_times_and_its_cost(name, kind):
    made = plan(LINEAR, name, **budget(name, 5))
    assert isinstance(made, kind)
    assert made.solver == solvers.get(name)
    assert made.t_start == 1
    assert made.times.dtype == torch.float64
    run = drawn(made)
    if kind is AdaptivePlan:
        assert (made.nfe, made.steps, made.max_steps) == (None, None, None)
        assert plan(LINEAR, name, steps=7).max_steps == 7
    else:
        assert (made.steps, made.nfe) == (5, run.nfe)
        assert torch.equal(made.times, run.times)


def test_the_default_and_budgets_have_plans_too():
    for options in ({"nfe": 8}, {"steps": 6}, {"grid": grids.karras(LINEAR, 6)}, {"nfe": 7, "grid": "karras"}):
        assert torch.equal(drawn(plan(LINEAR, **options)).x, drawn(None, **options).x)


def test_the_name_of_the_default_stands_for_no_solver():
    for options in ({"nfe": 4}, {"steps": 15}, {"grid": grids.karras(LINEAR, 6)}, {"nfe": 7, "grid": "karras"}):
        by_name, without = plan(LINEAR, "default", **options), plan(LINEAR, **options)
        assert by_name.solver == without.solver
        assert by_name.solver is not None
        assert torch.equal(by_name.times, without.times)
        assert torch.equal(drawn("default", **options).x, drawn(None, **options).x)
    # The rule depends on the budget.
    assert plan(LINEAR, "DEFAULT", nfe=5).grid_name != plan(LINEAR, "default", nfe=20).grid_name
    with pytest.raises(ValueError, match="give steps= or nfe="):
        plan(LINEAR, "default")


def test_a_plan_names_its_grid():
    assert plan(LINEAR, "ddim", steps=5).grid_name == solvers.get("ddim").default_grid
    assert plan(LINEAR, "pc", nfe=20, grid="karras").grid_name == "karras"
    assert plan(LINEAR, "ddim", nfe=5, grid="exponential").grid_name == "exponential"
    assert plan(LINEAR, "ddim", nfe=5, grid=grids.quadratic).grid_name == "quadratic"
    assert plan(LINEAR, "ddim", steps=5, grid=partial(grids.karras, rho=3.0)).grid_name == "karras(rho=3.0)"
    assert plan(LINEAR, "ddim", grid=grids.karras(LINEAR, 5)).grid_name is None
    assert plan(LINEAR, "adaptive").grid_name is None
    solver, grid = sampling.default(LINEAR, 5)
    assert plan(LINEAR, solver, nfe=5, grid=grid).grid_name == plan(LINEAR, nfe=5).grid_name


@pytest.mark.parametrize("name", ["dpm++2m", "pc", "adaptive"])
def test_nothing_is_left_to_choose(name):
    made = plan(LINEAR, name, **budget(name, 5))
    for option in ({"steps": 5}, {"nfe": 5}, {"grid": "karras"}, {"grid": grids.karras(LINEAR, 5)}, {"tol": 0.1}):
        with pytest.raises(ValueError, match="give none of steps=, nfe=, grid= and tol="):
            drawn(made, **option)
    with pytest.raises(ValueError, match=r"t_start=0\.5, but the plan starts at 1"):
        drawn(made, t_start=0.5, z=torch.zeros(5, 2))


@pytest.mark.parametrize("name", ["dpm++2m", "pc", "adaptive"])
def test_a_model_of_another_process_is_refused_by_name(name):
    made = plan(LINEAR, name, **budget(name, 5))
    with pytest.raises(ValueError, match=r"the plan was made for a process with alpha=.*SubVPSDE"):
        ss.sample(mixture().model(ss.SubVPSDE()), (2, 2), made)
    # An equal process is the same process.
    same = ss.sample(mixture().model(ss.VPSDE()), (5, 2), made, seeds=range(5))
    assert torch.equal(same, drawn(made).x)


@pytest.mark.parametrize("name", ["ancestral", "unipc3", "edm"])
def test_a_bare_tableau_is_a_plan(name):
    grid = grids.half_log_snr(LINEAR, 6)
    tableau = solvers.get(name).tableau(LINEAR, grid)
    assert torch.equal(drawn(tableau).x, drawn(name, grid=grid).x)
    made = plan(LINEAR, tableau)
    assert (made.tableau, made.solver) == (tableau, None)
    with pytest.raises(ValueError, match="give none of steps="):
        drawn(tableau, steps=6)
    with pytest.raises(ValueError, match="the plan was made for a process"):
        ss.sample(mixture().model(SDES["edm"]), (2, 2), tableau)


def test_a_plan_may_start_inside_the_path():
    z = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    made = plan(LINEAR, "ddim", steps=4, t_start=0.4)
    assert made.t_start == 0.4
    expected = ss.sample(MODEL, z.shape, "ddim", steps=4, t_start=0.4, z=z)
    for options in ({}, {"t_start": 0.4}):
        assert torch.equal(ss.sample(MODEL, z.shape, made, z=z, **options), expected)
    with pytest.raises(ValueError, match=r"sampling starts at t=0\.4, where alpha/sigma="):
        ss.sample(MODEL, z.shape, made)


def test_parts_and_a_bar_work_on_plans(capsys):
    for name in ("dpm++2m", "pc"):
        made = plan(LINEAR, name, steps=5)
        torch.testing.assert_close(ss.sample(MODEL, (5, 2), made, seeds=range(5), batch_size=2, progress=True), drawn(made).x)
        assert "15/15" in capsys.readouterr().err
