"""Solvers made of solvers: what they do to a table, and that any table can be their input."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.numerics.random import BatchNoise

from ..conftest import SDES, TABLEAUX, generator, mixture, rotated

LINEAR = SDES["linear"]
COMPOSED = ["langevin-corrected"]
PREDICTORS = [name for name in TABLEAUX if name not in COMPOSED]
# These call the network at a state that they then correct themselves.
SELF_CORRECTING = ("unipc2", "unipc3", "sa-solver")


@pytest.mark.parametrize(("name", "process"), [*rotated(PREDICTORS, SDES), *(("dpm++2m", process) for process in SDES)])
def test_every_predictor_can_be_corrected(name, process):
    """The corrected states stand at the predictor's times, and each inner time of the grid costs its corrections."""
    sde, corrections = SDES[process], 2
    predictor, grid = solvers.get(name), grids.half_log_snr(sde, 6)
    alone = predictor.tableau(sde, grid)
    corrected = solvers.LangevinCorrected(predictor, corrections=corrections).tableau(sde, grid)
    assert [corrected.times[m] for m in corrected.grid_states] == [alone.times[m] for m in alone.grid_states]
    assert [corrected.times[m] for m in corrected.step_evals] == [alone.times[m] for m in alone.step_evals]
    # A prediction made before its state was corrected is made again.
    again = sum(evaluated < state for evaluated, state in zip(alone.step_evals, alone.grid_states, strict=False))
    assert corrected.nfe == alone.nfe + 5 * corrections + again
    assert (again > 0) == (name in SELF_CORRECTING)
    mean, std = corrected.moments(0.7, 0.3)
    assert math.isfinite(mean)
    assert math.isfinite(std)


@pytest.mark.parametrize("name", [name for name in PREDICTORS if name not in SELF_CORRECTING])
def test_tiny_corrections_leave_the_predictor(name):
    sde, grid = LINEAR, grids.half_log_snr(LINEAR, 6)
    predictor = solvers.get(name)
    alone = predictor.tableau(sde, grid)
    corrected = solvers.LangevinCorrected(predictor, step_size=1e-16, corrections=2).tableau(sde, grid)
    assert corrected.moments(0.7, 0.3) == pytest.approx(alone.moments(0.7, 0.3), rel=1e-9)
    model, z = mixture().model(sde), torch.randn(16, 2, dtype=torch.float64, generator=generator())
    if not any(row.xi for row in alone.rows):
        ours, theirs = (ss.tableau.run(t, model, z, BatchNoise(generator(1))).x for t in (corrected, alone))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # sqrt(c) = 1e-8 of noise a step


@pytest.mark.parametrize(("process", "name", "c"), list(rotated(SDES, ("ancestral", "dpm++3m", "unipc3"), (0.1, 0.5, 1.5))))
def test_many_corrections_at_one_time_reach_the_marginal(process, name, c):
    """Unadjusted Langevin on N(0, v) tends to the variance v/(1 - c sigma^2/(4 v)), which the data prediction at t then carries to 0."""
    sde, std = SDES[process], 0.5
    t = float(sde.time(-math.log(std)))  # sigma/alpha = std, where a step contracts by 1 - c/4
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    v = alpha**2 * std**2 + sigma**2
    tableau = solvers.LangevinCorrected(solvers.get(name), c, corrections=1000).tableau(
        sde, torch.tensor([1.0, t, 0.0], dtype=torch.float64)
    )
    mean, got = tableau.moments(0.7, std)
    gain = alpha * std**2 / v
    assert got == pytest.approx(gain * math.sqrt(v / (1 - c * sigma**2 / (4 * v))), rel=1e-6)
    assert mean == pytest.approx(0.7, rel=1e-6)


def test_the_step_is_langevins_in_terms_of_the_score():
    """z + epsilon score + sqrt(2 epsilon) xi with epsilon = c sigma^2/2, one row after the predictor's."""
    grid, c = torch.tensor([1.0, 0.4, 0.1, 0.0], dtype=torch.float64), 0.3
    tableau = solvers.LangevinCorrected(solvers.DDIM(), c).tableau(LINEAR, grid).folded("score")
    epsilon = c * float(LINEAR.sigma(0.4)) ** 2 / 2
    row = tableau.rows[1]
    assert row.z[1] == pytest.approx(1, abs=1e-12)
    assert row.data[1] == pytest.approx(epsilon)
    assert list(row.xi.values()) == pytest.approx([math.sqrt(2 * epsilon)])
    assert tableau.grid_states == (0, 2, 4, 5)


def test_a_multistep_predictor_sees_the_corrected_history():
    """By hand: DPM++ 2M on (D, z) of corrected states, with the noise of the run."""
    model, grid = mixture().model(LINEAR), grids.half_log_snr(LINEAR, 5)
    c, z = 0.2, torch.randn(8, 2, dtype=torch.float64, generator=generator())
    got = ss.tableau.run(
        solvers.LangevinCorrected(solvers.DPMSolverPP(2), c).tableau(LINEAR, grid), model, z, BatchNoise(generator(1))
    ).x
    rows, noise, history = solvers.DPMSolverPP(2).tableau(LINEAR, grid).rows, BatchNoise(generator(1)), {}
    for k, row in enumerate(rows):
        history[k] = model.data(z, grid[k])
        z = row.z.get(k, 0.0) * z + sum(b * history[j] for j, b in row.data.items())
        if k < len(rows) - 1:
            sigma = LINEAR.sigma(grid[k + 1])
            z = z + c * sigma**2 / 2 * model.score(z, grid[k + 1]) + math.sqrt(c) * sigma * noise.draw(z.shape, z.dtype, z.device)
    torch.testing.assert_close(got, z, rtol=1e-9, atol=1e-9)


def test_corrections_improve_the_law_of_a_first_order_predictor():
    for name in ("ancestral", "reverse-diffusion", "ddim"):
        grid = grids.half_log_snr(LINEAR, 30)
        alone, corrected = (s.tableau(LINEAR, grid) for s in (solvers.get(name), solvers.LangevinCorrected(solvers.get(name))))
        spectrum = torch.tensor([1.0, 0.25, 0.01])
        assert corrected.gaussian_w2(spectrum) < alone.gaussian_w2(spectrum)


@pytest.mark.parametrize("options", [{"step_size": 0}, {"step_size": 4}, {"corrections": 0}])
def test_impossible_corrections_are_refused(options):
    with pytest.raises(ValueError, match="corrections >= 1 and 0 < step_size < 4"):
        solvers.LangevinCorrected(**options)


def gaussian(std):
    return analytic.GaussianMixture(torch.zeros(1, 2), torch.tensor([std**2]))


@pytest.mark.parametrize(("name", "process"), [*rotated(TABLEAUX, SDES), *(("ddim", process) for process in SDES)])
def test_a_free_first_step_is_exact_on_gaussian_data_of_its_std(name, process):
    """Equal moments, with one call fewer; of Langevin dynamics all those at t = 1."""
    sde = SDES[process]
    grid = grids.half_log_snr(sde, 6)
    alone = solvers.get(name).tableau(sde, grid)
    free = solvers.FreeFirstStep(solvers.get(name), std=0.3).tableau(sde, grid)
    assert free.moments(0.0, 0.3) == pytest.approx(alone.moments(0.0, 0.3), rel=1e-9, abs=1e-15)
    assert all(free.times[j] < 1 for j in free.evaluated)
    at_1 = sum(alone.times[j] == 1 for j in alone.evaluated)
    assert free.nfe == alone.nfe - at_1
    assert at_1 == 1 or name == "annealed-langevin"


def test_a_free_first_step_is_wrong_for_another_std_where_the_state_shows_the_data():
    grid = grids.half_log_snr(LINEAR, 6, t_start=0.4)
    alone, free = (s.tableau(LINEAR, grid) for s in (solvers.DDIM(), solvers.FreeFirstStep(solvers.DDIM(), std=0.3)))
    differences = {std: free.moments(0.0, std, start=(0, 1))[1] - alone.moments(0.0, std, start=(0, 1))[1] for std in (0.3, 0.5)}
    assert differences[0.3] == pytest.approx(0, abs=1e-9)
    assert abs(differences[0.5]) > 0.02


@pytest.mark.parametrize(("name", "steps", "process"), list(rotated(TABLEAUX, (1, 2, 5), ("ddpm", "zero terminal", "ve"))))
def test_the_network_is_never_called_at_1(name, steps, process):
    """And a noise prediction, which says nothing at zero signal, is one more that can be sampled from there."""
    sde = SDES[process]
    seen, exact = [], gaussian(0.5).model(sde)

    class Network(torch.nn.Module):
        def forward(self, z, t):
            seen.append(float(t[0]))
            return exact.noise(z, t)

    solver = solvers.FreeFirstStep(solvers.get(name))
    model = ss.ScoreModel(Network(), sde, "noise", time="t")
    run = ss.sample(model, (4, 2), solver, steps=steps, generator=generator(), trajectory=True, dtype=torch.float64)
    assert all(t < 1 for t in seen)
    assert run.nfe == len(seen)
    grid = grids.get(solver.default_grid)(sde, steps)
    theirs = ss.tableau.run(solvers.get(name).tableau(sde, grid), exact, run.path[0], Skip(generator()))
    torch.testing.assert_close(run.x, theirs.x, rtol=1e-7, atol=1e-7)


class Skip(BatchNoise):
    """The stream after its first draw, the start."""

    first = True

    def draw(self, shape, dtype, device, std=1.0):
        if self.first:
            self.first = False
            super().draw(shape, dtype, device)
        return super().draw(shape, dtype, device, std)


@pytest.mark.parametrize("name", ["ddim", "dpm++3m", "ancestral", "sde-dpm++2m"])
@pytest.mark.parametrize("nfe", [1, 2, 7, 20])
def test_a_budget_of_n_calls_buys_a_step_more(name, nfe):
    solver = solvers.FreeFirstStep(solvers.get(name))
    seen = []
    out = ss.sample(
        gaussian(1.0).model(LINEAR), (2, 2), solver, nfe=nfe, trajectory=True, callback=lambda n, t, z, data: seen.append(n)
    )
    assert out.nfe == nfe
    assert len(out.times) == nfe + 2
    assert seen == list(range(1, nfe + 1))


def test_budgets_of_other_free_steps_are_used_up():
    for name in TABLEAUX:
        solver = solvers.FreeFirstStep(solvers.get(name))
        for nfe in (solver.calls_per_step + more for more in (0, 4, 9)):
            planned = ss.plan(LINEAR, solver, nfe=nfe, grid="half_log_snr")
            assert planned.nfe <= nfe < solver.tableau(LINEAR, grids.half_log_snr(LINEAR, planned.steps + 1)).nfe


def test_a_chain_without_a_further_step_is_no_error():
    for solver, nfe, calls in (("heun", 40, 39), (solvers.FreeFirstStep(solvers.Ancestral()), 20, 19)):
        assert ss.plan(SDES["chain20"], solver, nfe=nfe, grid="ddpm").nfe == calls


def test_the_progress_bar_counts_a_free_step(capsys):
    ss.sample(mixture().model(LINEAR), (2, 2), solvers.FreeFirstStep(solvers.DDIM()), steps=7, progress=True)
    assert "7/7" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "ipndm3", "deis3", "heun"])
@pytest.mark.parametrize("nfe", [6, 8])
def test_few_calls_are_better_spent_after_the_first(name, nfe):
    """At equal calls, on three modes on the quadratic grid; measured ratios of the errors are .81 to .11."""
    model, z = mixture().model(LINEAR), torch.randn(200, 2, dtype=torch.float64, generator=generator())
    exact = ss.sample(model, z.shape, "unipc3", steps=200, z=z)

    def error(solver):
        return float((ss.sample(model, z.shape, solver, nfe=nfe, grid="quadratic", z=z) - exact).square().mean().sqrt())

    assert error(solvers.FreeFirstStep(solvers.get(name))) < 0.95 * error(name)


def test_a_negative_std_is_refused():
    with pytest.raises(ValueError, match="std must not be negative, got -1"):
        solvers.FreeFirstStep(solvers.DDIM(), std=-1)
