"""Solvers chosen for a model, fitted to it, and calibrated on it."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, networks, solvers
from scoresde.tuning import calibration, fitting, regression, selection
from scoresde.tuning import gauss_newton as refinement
from scoresde.tuning.reference import distance, starts

from .conftest import SDES, generator, mixture

ADAMS = ("ipndm3", "vab3", "circle-vab3", "unipc3", "dpm++2m", "deis2", "heun", "dpm2")
FRESH = 4000  # a seed that no fit uses


def narrow() -> analytic.GaussianMixture:
    """Eight modes on a circle."""
    angle = torch.arange(8) * math.pi / 4
    return analytic.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((8,), 0.05**2))


def fresh(model: ss.Model, shape: tuple[int, ...], count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """States at t = 1 and where the flow takes them, by 200 steps of another method than the teacher's."""
    z = starts(model, shape, count, FRESH)
    return z, ss.sample(model, z.shape, "ipndm4", steps=400, grid="cubic", z=z)


def errors(model: ss.Model, solver: solvers.Solver, z: torch.Tensor, x: torch.Tensor) -> tuple[float, float]:
    return selection.summary(distance(ss.sample(model, z.shape, solver, z=z), x))


class Shifted(ss.Model):
    """An exact score whose data are moved by a condition: D(z) = m + D_0(z - alpha m)."""

    prediction = "data"

    def __init__(self, sde: ss.SDE) -> None:
        self.sde, self.inner = sde, mixture().model(sde)

    def output(self, z, t, **cond):
        (shift,) = cond.values()
        assert len(shift) == len(z)
        return shift + self.inner.output(z - self.sde.alpha(t).to(z.dtype) * shift, t)


# --- the multistep form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAMS)
@pytest.mark.parametrize("path", ["ddpm", "edm", "cosine"])
def test_every_deterministic_table_has_a_multistep_form(name, path):
    model = mixture().model(SDES[path])
    tableau = solvers.get(name).tableau(model.sde, grids.half_log_snr(model.sde, 7))
    form = ss.tableau.multistep(tableau)
    assert form.a.shape == (tableau.nfe,)
    z = model.sde.prior_std * torch.randn(16, 2, dtype=torch.float64, generator=generator())
    expected = selection.solve(model, tableau, z, {}, 16)
    torch.testing.assert_close(selection.solve(model, form.table(model.sde), z, {}, 16), expected, rtol=1e-9, atol=1e-9)


def test_a_method_with_noise_has_none():
    with pytest.raises(ValueError, match="draws noise"):
        ss.tableau.multistep(solvers.get("ancestral").tableau(SDES["ddpm"], grids.uniform(SDES["ddpm"], 4)))


# --- the teacher -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["ddpm", "edm", "zero terminal"])
def test_a_teacher_knows_the_state_at_every_time(path):
    model = mixture().model(SDES[path])
    z = model.sde.prior_std * torch.randn(8, 2, dtype=torch.float64, generator=generator())
    teacher = ss.tuning.solve_reference(model, z, steps=128)
    assert torch.equal(teacher(0.0), teacher.x)
    assert torch.equal(teacher(float(teacher.times[5])), teacher.states[5])
    for t in (0.9173, 0.5218, 0.1234):
        exact = ss.sample(model, z.shape, "dpm++3m", grid=grids.cubic(model.sde, 800, t_end=t), z=z)
        scale = float(exact.square().mean().sqrt())
        # Of third order in the steps: 1e-5 at 128, and 1e-4 where the first step, from alpha = 0, is of first order. A linear interpolation
        # of the states would be off by 1e-3.
        torch.testing.assert_close(teacher(t), exact, rtol=0, atol=(2e-4 if path == "zero terminal" else 5e-5) * scale)


def test_a_teacher_doubles_its_steps_until_they_agree():
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 24, 0)
    rough, fine = (ss.tuning.solve_reference(model, z, tolerance=tolerance) for tolerance in (1e-2, 1e-5))
    assert rough.steps < fine.steps
    assert rough.discrepancy < 1e-2
    half = ss.tuning.solve_reference(model, z, steps=fine.steps // 2)
    assert fine.discrepancy == pytest.approx(float(distance(fine.x[:16], half.x[:16]).square().mean().sqrt()), rel=1e-6)


# --- select ------------------------------------------------------------------------------------------------


def test_the_winner_of_a_pilot_is_what_it_says():
    model = narrow().model(SDES["ddpm"])
    picked = solvers.select(model, 6, (2,))
    assert picked.tableau(model.sde, picked.grid).nfe == 6
    assert picked.error == picked.ranking[0].rms
    scores = [entry.score for entry in picked.ranking]
    assert scores == sorted(scores)
    assert len(scores) > 25
    z, x = fresh(model, (2,))
    plain = ss.sample(model, z.shape, picked.solver, grid=picked.grid, z=z)
    assert torch.equal(ss.sample(model, z.shape, picked, z=z), plain)
    # The ranking holds for starts that it has not seen: the winner beats the middle of the field.
    middle = picked.ranking[len(scores) // 2]
    rms, median = errors(model, picked, z, x)
    other = selection.summary(distance(ss.sample(model, z.shape, middle.solver, grid=middle.grid, z=z), x))
    assert math.sqrt(rms * median) < 0.7 * math.sqrt(other[0] * other[1])
    assert solvers.select(model, 6, (2,)).name == picked.name
    assert solvers.select(model, 6, (2,), seed=1).error != picked.error


def test_a_grid_without_room_is_left_out():
    names = [name for name, _, _ in selection.candidates(SDES["chain20"], 19)]
    assert "ipndm2 half_log_snr" in names
    assert all(solver.tableau(SDES["edm"], grid).nfe == 5 for _, solver, grid in selection.candidates(SDES["edm"], 5))


# --- fit ---------------------------------------------------------------------------------------------------


def test_the_correction_is_ridge_regression():
    """Against the least-squares solver of LAPACK on the stacked problem, with weights, in three parts."""
    model = mixture().model(SDES["ddpm"])
    teacher = ss.tuning.solve_reference(model, torch.randn(30, 2, dtype=torch.float64, generator=generator()), steps=32)
    problem = regression.Problem(model, teacher, {}, 20, 8, None)
    z, d0, d1, gap = torch.randn(4, 30, 2, dtype=torch.float64, generator=generator(1))
    weights, ridge = torch.rand(20, dtype=torch.float64, generator=generator(2)), 0.1
    c = regression.correction(problem, z, [d0, d1], gap, weights, ridge)
    root = weights.sqrt()[:, None]
    features = torch.stack([(root * f[:20]).flatten() for f in (z, d1, d1 - d0)], 1)
    size = features[:, 1].square().sum()
    stacked = torch.cat([features, (ridge * size).sqrt() * torch.eye(3, dtype=torch.float64)])
    target = torch.cat([(root * gap[:20]).flatten(), torch.zeros(3, dtype=torch.float64)])
    best = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    torch.testing.assert_close(c, torch.stack([best[0], -best[2], best[1] + best[2]]))


@pytest.mark.parametrize("path", ["ddpm", "edm", "sub-vp", "flow", "zero terminal"])
def test_a_fit_is_exact_where_the_flow_is_linear(path):
    """For data N(0, s^2) every state is a multiple of the first: one coefficient a step is enough, with any number of calls."""
    model = analytic.GaussianMixture(torch.zeros(1, 3), torch.full((1,), 0.3**2)).model(SDES[path])
    fitted = solvers.fit(model, 3, shape=(3,), trajectories=32, teacher_steps=256, progress=False)
    z, x = fresh(model, (3,), 32)
    rms, _ = errors(model, fitted, z, x)
    _, free = fitted.baseline[0], fitted.baseline[1]
    # What the two references differ by, and what the ridge of 1e-7 leaves.
    assert rms < 3e-4
    assert rms < 0.1 * free


@pytest.mark.parametrize(("make", "nfe"), [(narrow, 5), (mixture, 8)])
def test_a_fit_beats_the_best_training_free_solver_on_fresh_starts(make, nfe):
    model = make().model(SDES["ddpm"])
    fitted = solvers.fit(model, nfe, shape=(2,), trajectories=128, t_end=1e-5, progress=False)
    assert fitted.improved
    assert fitted.nfe == nfe
    z = starts(model, (2,), 256, FRESH)
    x = ss.tuning.solve_reference(model, z, steps=256, t_end=1e-5).x
    rms, median = errors(model, fitted, z, x)
    others = [
        selection.summary(distance(ss.sample(model, z.shape, solver, grid=grid, z=z), x))
        for _, solver, grid in selection.candidates(model.sde, nfe)
    ]
    # Even where the best is chosen in hindsight, for either number alone; .1 to .3 as measured.
    assert median < 0.5 * min(other[1] for other in others)
    assert rms < 0.8 * min(other[0] for other in others)
    assert solvers.fit(model, nfe, shape=(2,), trajectories=128, t_end=1e-5, progress=False).form.a.equal(fitted.form.a)


def test_conditions_and_parts_reach_the_network_in_step():
    """A moved distribution needs the same solver; a condition out of step would spoil the fit, and the parts are no approximation."""
    sde = SDES["ddpm"]
    shift = 0.3 * torch.randn(64, 2, generator=generator())
    fits = [
        solvers.fit(
            Shifted(sde), 5, shape=(2,), trajectories=64, cond={"shift": shift}, teacher_steps=64, batch_size=size, progress=False
        )
        for size in (64, 19)
    ]
    assert all(fitted.improved for fitted in fits)
    torch.testing.assert_close(fits[0].form.times, fits[1].form.times, rtol=0, atol=0.02)
    assert fits[0].error == pytest.approx(fits[1].error, rel=0.05)


def test_a_fit_to_a_network_on_images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.UNet(1, 8, (1,))
    model = ss.ScoreModel(network, ss.VPSDE.cosine(50), "velocity")
    fitted = solvers.fit(model, 3, shape=(1, 8, 8), trajectories=8, teacher_steps=16, progress=False)
    assert ss.sample(model, (2, 1, 8, 8), fitted, seeds=range(2)).shape == (2, 1, 8, 8)


def test_a_feature_map_is_what_the_regression_compares():
    """With a map to one coordinate the other is not fitted to; a map to 0 leaves theory."""
    model = mixture().model(SDES["ddpm"])
    teacher = ss.tuning.solve_reference(model, starts(model, (2,), 64, 0), steps=64)
    theory = ss.tableau.multistep(solvers.get("ipndm2").tableau(model.sde, grids.trailing(model.sde, 4)))
    ones = torch.ones(64, dtype=torch.float64)

    def fitted(feature_map):
        return regression.regress(regression.Problem(model, teacher, {}, 64, 64, feature_map), theory, ones, 1e-7)

    assert torch.equal(fitted(lambda x: 0 * x).form.b, theory.b)
    # The first step, before the paths part.
    target = teacher(float(theory.times[1]))
    residuals = [(fit.states[1] - target).square().mean(0) for fit in (fitted(lambda x: x[:, :1]), fitted(None))]
    assert residuals[0][0] < residuals[1][0]
    assert residuals[0].sum() > residuals[1].sum()


def test_without_a_gain_the_best_training_free_solver_is_what_is_left(monkeypatch):
    model = mixture().model(SDES["ddpm"])
    monkeypatch.setattr(fitting, "MOVES", ())
    monkeypatch.setattr(selection, "PORTFOLIO", {"ipndm3": (solvers.IPNDM(3), ("trailing 2",))})
    fitted = solvers.fit(model, 5, shape=(2,), trajectories=16, progress=False, feature_map=lambda x: 0 * x)
    assert not fitted.improved
    assert "did not improve" in str(fitted)
    z = starts(model, (2,), 8, FRESH)
    plain = ss.sample(model, z.shape, "ipndm3", nfe=5, z=z)
    torch.testing.assert_close(ss.sample(model, z.shape, fitted, z=z), plain, rtol=1e-5, atol=1e-5)


def problem_and_fit(make, nfe: int, count: int = 64) -> tuple[regression.Problem, regression.Fit]:
    """A fit in closed form; half of its starts are held out."""
    model = make().model(SDES["ddpm"])
    teacher = ss.tuning.solve_reference(model, starts(model, (2,), count, 0).double(), steps=64)
    problem = regression.Problem(model, teacher, {}, count // 2, 20, None)
    form = ss.tableau.multistep(solvers.get("ipndm2").tableau(model.sde, grids.trailing(model.sde, nfe, power=2.0)))
    return problem, regression.regress(problem, form, torch.ones(count // 2, dtype=torch.float64), 1e-5)


def test_sensitivities_are_the_derivatives_of_the_endpoints():
    """Against automatic differentiation of the whole path."""
    problem, fit = problem_and_fit(mixture, 4)
    n, z0 = 4, problem.teacher.states[0][:5]
    rows, columns = torch.ones(n, n).tril().nonzero(as_tuple=True)

    def endpoint(theta):
        a, triangle, times = theta[:n], theta[n : n + len(rows)], theta[n + len(rows) :]
        b = torch.zeros(n, n, dtype=torch.float64).index_put((rows, columns), triangle)
        z, data = z0, []
        for k in range(n):
            t = times[k - 1] if k else 1.0
            data.append(problem.model.data(z, t))
            z = a[k] * z + sum(b[k, j] * data[j] for j in range(k + 1))
        return z

    form = fit.form
    theirs = torch.autograd.functional.jacobian(endpoint, torch.cat([form.a, form.b[rows, columns], form.times[1:-1]]))
    ours = list(refinement._sensitivities(problem, form, [z[:5] for z in fit.states], [d[:5] for d in fit.data], {}))
    # Ours go step by step, a_n before b_n0..b_nn.
    order = [c for k in range(n) for c in (k, *(n + k * (k + 1) // 2 + j for j in range(k + 1)))]
    order += range(n + len(rows), n + len(rows) + n - 1)
    expected = theirs.permute(2, 0, 1)[order]
    scale = expected.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(torch.stack(ours) / scale, expected / scale, rtol=0, atol=1e-5)


def test_rounds_of_refinement_go_on_while_the_held_out_error_falls():
    problem, fit = problem_and_fit(mixture, 3)
    gram, right = refinement._normal_equations(problem, fit)
    # Parts of the batch change nothing.
    torch.testing.assert_close((gram, right), refinement._normal_equations(replace(problem, batch_size=1000), fit))
    calls = []
    better = refinement.refined(problem, fit, 8, lambda: calls.append(1))
    assert better.score < 0.7 * fit.score
    assert len(calls) in range(2 * len(refinement.DAMPINGS), 8 * len(refinement.DAMPINGS) + 1, len(refinement.DAMPINGS))
    assert regression.follow(problem, better.form, better.weights, 0.0).score == better.score

    def loss(found):
        return (fit.weights * distance(found.x[: problem.fitting], problem.teacher.x[: problem.fitting]) ** 2).sum()

    assert loss(better) < loss(fit)
    assert refinement.refined(problem, better, 0, lambda: None) is better


@pytest.mark.parametrize(("make", "nfe", "most"), [(narrow, 5, 0.7), (mixture, 5, 0.9)])
def test_refinement_brings_fresh_starts_closer(make, nfe, most):
    """The median error, which the few starts that change mode do not rule."""
    model = make().model(SDES["ddpm"])
    z, x = fresh(model, (2,))
    plain, refined = (
        errors(model, solvers.fit(model, nfe, shape=(2,), trajectories=128, progress=False, refine=rounds), z, x)
        for rounds in (0, 6)
    )
    print(plain, refined)
    assert refined[1] < most * plain[1]


def test_refinement_of_what_is_exact_or_has_no_effect_changes_nothing():
    class Constant(torch.nn.Module):
        def forward(self, z, t):
            return torch.ones_like(z)

    exact = ss.ScoreModel(Constant(), SDES["ddpm"], "data")
    options = {"shape": (2,), "trajectories": 16, "progress": False, "refine": 2}
    fitted = solvers.fit(exact, 4, **options)
    torch.testing.assert_close(ss.sample(exact, (3, 2), fitted, seeds=range(3)), torch.ones(3, 2))
    fitted = solvers.fit(mixture().model(SDES["ddpm"]), 4, feature_map=lambda x: 0 * x, **options)
    assert bool(fitted.form.b.isfinite().all())


def test_moved_times_stay_between_their_neighbours():
    times = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    assert fitting._moved(times, 1, 0.4, 0.01).tolist() == pytest.approx([1, 0.7, 0.1, 0])
    assert fitting._moved(times, 1, -0.4, 0.01).tolist() == pytest.approx([1, 0.34, 0.1, 0])
    assert fitting._moved(times, 2, -0.4, 0.09).tolist() == pytest.approx([1, 0.5, 0.09, 0])
    form = ss.tableau.Multistep(times, torch.zeros(3).double(), torch.zeros(3, 3).double())
    step = torch.arange(1.0, 12.0, dtype=torch.float64)
    moved = refinement._moved(form, step, 0.01)
    assert moved.a.tolist() == [1, 3, 6]
    assert moved.b.tolist() == [[2, 0, 0], [4, 5, 0], [7, 8, 9]]
    assert moved.times.tolist() == pytest.approx([1, 0.62, 0.13, 0])
    assert refinement._moved(form, -step, 0.08).times.tolist() == pytest.approx([1, 0.38, 0.08, 0])


# --- a solver bound to its process ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> ss.tuning.FittedSolver:
    model = mixture().model(SDES["ddpm"])
    return solvers.fit(model, 4, shape=(2,), trajectories=16, teacher_steps=32, progress=False)


def test_another_process_another_grid_and_another_budget_are_refused(fitted):
    with pytest.raises(ValueError, match=r"FittedSolver was made for a process with alpha=.* VPSDE"):
        ss.sample(mixture().model(SDES["linear"]), (2, 2), fitted)
    model = mixture().model(SDES["ddpm"])
    with pytest.raises(ValueError, match="own grid of 4 steps"):
        ss.sample(model, (2, 2), fitted, grid=grids.uniform(model.sde, 4))
    with pytest.raises(ValueError, match="steps=5, but the grid has 4"):
        ss.sample(model, (2, 2), fitted, steps=5)
    assert ss.sample(model, (2, 2), fitted, steps=4, seeds=range(2)).shape == (2, 2)


def test_another_model_is_warned_of(fitted):
    networks_ = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks_.append(ss.ScoreModel(networks.MLP(2, 8), SDES["ddpm"]))
    same, again, other = networks_
    assert fitting.fingerprint(same) == fitting.fingerprint(again) != fitting.fingerprint(other)
    with pytest.warns(UserWarning, match=f"fitted to the model {fitted.model}, and samples the model {fitting.fingerprint(same)}"):
        ss.sample(same, (2, 2), fitted)


def test_a_file_gives_the_same_samples_in_another_process(fitted, tmp_path):
    path = tmp_path / "fitted.safetensors"
    fitted.save(path)
    model = mixture().model(SDES["ddpm"])
    here = ss.sample(model, (5, 2), fitted, seeds=range(5))
    script = f"""
import torch, scoresde as ss
from tests.conftest import SDES, mixture
fitted = ss.solvers.load({str(path)!r})
torch.save(ss.sample(mixture().model(SDES["ddpm"]), (5, 2), fitted, seeds=range(5)), {str(tmp_path / "x.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "x.pt"), here)
    loaded = solvers.get(str(path))
    assert (str(loaded), loaded.settings, loaded.model) == (str(fitted), fitted.settings, fitted.model)
    assert torch.equal(ss.sample(model, (5, 2), str(path), seeds=range(5)), here)


def test_selected_solvers_and_ladders_are_kept_to_the_bit(fitted, ladder, tmp_path, monkeypatch):
    model = mixture().model(SDES["ddpm"])
    picked = solvers.select(model, 5, (2,), 8, teacher_steps=32)
    picked.save(tmp_path / "picked.safetensors")
    loaded = solvers.load(tmp_path / "picked.safetensors")
    here, there = (ss.sample(model, (5, 2), solver, seeds=range(5)) for solver in (picked, str(tmp_path / "picked.safetensors")))
    assert torch.equal(here, there)
    assert loaded.nfe == 5
    assert (loaded.name, loaded.error, loaded.discrepancy) == (picked.name, picked.error, picked.discrepancy)
    assert loaded.ranking[0].score == picked.ranking[0].score
    mixed = solvers.calibrate(model, (2,), rungs=[fitted, picked], noises=64, teacher_steps=32)
    for made in (ladder, mixed):
        made.save(tmp_path / "ladder.safetensors")
        again = solvers.load(tmp_path / "ladder.safetensors")
        assert (again.confidence, again.teacher_steps) == (made.confidence, made.teacher_steps)
        here, there = (ss.sample(model, (40, 2), each, tol=0.02, seeds=range(40), trajectory=True) for each in (made, again))
        assert torch.equal(here.x, there.x)
        assert torch.equal(here.bound, there.bound)
        assert torch.equal(here.calls, there.calls)
    twice = solvers.calibrate(model, (2,), rungs=[fitted, fitted], noises=64, teacher_steps=32)
    twice.save(tmp_path / "twice.safetensors")
    assert len(solvers.load(tmp_path / "twice.safetensors").rungs) == 2
    with pytest.raises(ValueError, match="only solvers of the portfolio can be kept"):
        replace(picked, solver=solvers.Ancestral()).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds a ladder, not a solver"):
        ss.sample(model, (5, 2), str(tmp_path / "ladder.safetensors"))
    monkeypatch.delitem(selection.PORTFOLIO, picked.name.split()[0])
    with pytest.raises(ValueError, match="does not have in its portfolio"):
        solvers.load(tmp_path / "picked.safetensors")


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="no file"):
        solvers.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="holds no fitted solver"):
        solvers.load(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match="holds no fitted solver"):
        solvers.load(tmp_path / "text.safetensors")


def test_too_small_a_task_is_refused_by_name():
    model = mixture().model(SDES["ddpm"])
    with pytest.raises(ValueError, match="nfe must be at least 2, got 1"):
        solvers.fit(model, 1, shape=(2,))
    with pytest.raises(ValueError, match="trajectories must be at least 8, got 4"):
        solvers.fit(model, 4, shape=(2,), trajectories=4)
    with pytest.raises(ValueError, match="noises must be at least 2, got 1"):
        solvers.select(model, 4, (2,), noises=1)


# --- calibrate ---------------------------------------------------------------------------------------------


def test_the_conformal_quantile_covers_as_often_as_it_says():
    """For n uniform ratios the k-th smallest is Beta(k, n + 1 - k): a new one lies below it with probability k/(n + 1) on average."""
    n, reps = 39, 3000
    ratios = torch.rand(reps, n, dtype=torch.float64, generator=generator())
    coverage = torch.tensor([calibration.conformal(r, 0.9) for r in ratios], dtype=torch.float64)
    # k = 36: the mean of 3000 draws of standard deviation sqrt(.9 .1/41) is within 4 of 8.6e-4.
    assert float(coverage.mean()) == pytest.approx(36 / 40, abs=3.5e-3)
    assert calibration.conformal(torch.arange(1.0, 20.0), 0.95) == 19
    with pytest.raises(ValueError, match=r"confidence of 0.95 needs at least 38 noises"):
        calibration.conformal(torch.arange(18.0), 0.95)


def test_the_power_law_is_found():
    g = generator()
    f = torch.randn(200, 3, dtype=torch.float64, generator=g)
    error = (0.7 + f @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)).exp()
    mean, theta = calibration.fitted_law(f, error)
    # The ridge of 1e-2 of the features' variance shrinks theta by 1 %, and |theta f| is below 4.
    torch.testing.assert_close(calibration.law(f, mean, theta), error, rtol=5e-2, atol=0)


@pytest.fixture(scope="module")
def ladder() -> ss.tuning.Cascade:
    return solvers.calibrate(mixture().model(SDES["ddpm"]), (2,), (4, 8, 16), noises=256, teacher_steps=128)


def test_bounds_hold_for_fresh_starts(ladder):
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 1000, FRESH)
    x = ss.tuning.solve_reference(model, z, steps=128).x
    assert [rung.nfe for rung in ladder.rungs] == [4, 8, 16]
    for rung in ladder.rungs:
        data = []
        out = ss.sample(model, z.shape, rung.solver, z=z, callback=lambda n, t, s, d, data=data: data.append(d))
        error, bound = distance(out, x), rung.bound(data)
        # The coverage of a calibration with 128 starts has standard deviation sqrt(.95 .05/130) = .019; 1000 starts add .007: 3.5 of both.
        assert abs(float((error <= bound).double().mean()) - 0.95) < 0.07
        # One number for all samples would be the error's quantile. Where errors differ most, the law tells the samples apart.
        assert float(bound.median()) < (0.7 if rung.nfe == 4 else 1.15) * float(error.quantile(0.95))


def test_a_tolerance_is_met_with_as_few_calls_as_it_needs(ladder):
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 200, FRESH)
    tol = float(ladder.rungs[1].bounds.quantile(0.7))
    out = ss.sample(model, z.shape, ladder, tol=tol, z=z, trajectory=True)
    assert out.bound.shape == out.calls.shape == (200,)
    assert set(out.calls.tolist()) == {8, 24}
    assert bool((out.bound[out.calls == 8] <= tol).all())
    assert torch.equal(out.path[0], z)
    assert torch.equal(out.path[-1], out.x)
    # Every sample is that of the rung where it stopped.
    for rung, calls in zip(ladder.rungs[1:], (8, 24), strict=True):
        mine = out.calls == calls
        torch.testing.assert_close(out.x[mine], ss.sample(model, z.shape, rung.solver, z=z)[mine], rtol=1e-5, atol=1e-5)
    parted = ss.sample(model, z.shape, ladder, tol=tol, z=z, batch_size=64)
    torch.testing.assert_close(parted, out.x, rtol=1e-5, atol=1e-5)
    assert torch.equal(ss.sample(model, z.shape, ladder, tol=1e9, z=z), ss.sample(model, z.shape, ladder.rungs[0].solver, z=z))
    # What cannot be met is told by the bound.
    late = ss.sample(model, z.shape, ladder, tol=1e-9, z=z, trajectory=True)
    assert bool((late.bound > 1e-9).all())
    assert set(late.calls.tolist()) == {16}


def test_the_ladder_starts_where_it_costs_least():
    def rung(nfe, bounds):
        return ss.tuning.Level(None, nfe, None, None, 1.0, 0.0, 0.0, torch.tensor(bounds))

    def start(*bounds):
        rungs = tuple(rung(nfe, b) for nfe, b in zip((5, 10, 20), bounds, strict=True))
        return ss.tuning.Cascade(rungs, 0.95, 64, 0.0).cheapest(1.0)

    assert start([0.5] * 4, [0.1] * 4, [0.1] * 4) == 0
    assert start([2.0] * 4, [0.5] * 4, [0.1] * 4) == 1
    # 4 x 5 + 3 x 10 = 50 calls from the first, 40 from the second.
    assert start([0.5, 2, 2, 2], [0.5] * 4, [0.1] * 4) == 1
    # 4 x 5 + 10 = 30 from the first.
    assert start([0.5, 0.5, 0.5, 2], [0.5] * 4, [0.1] * 4) == 0
    # From the last a sample that only the second brings below the tolerance would not come there.
    assert start([2.0] * 4, [0.5, 2, 2, 2], [2.0, 0.5, 0.5, 0.5]) == 1


def test_a_ladder_takes_fitted_solvers(fitted):
    model = mixture().model(SDES["ddpm"])
    ladder = solvers.calibrate(model, (2,), rungs=[fitted], confidence=0.8, noises=32, teacher_steps=32)
    assert [rung.nfe for rung in ladder.rungs] == [4]
    assert ladder.rungs[0].solver is fitted


def test_a_ladder_needs_a_tolerance_and_nothing_else_takes_one(ladder):
    model = mixture().model(SDES["ddpm"])
    with pytest.raises(ValueError, match="a ladder needs tol="):
        ss.sample(model, (2, 2), ladder)
    with pytest.raises(ValueError, match="no other solver takes it"):
        ss.sample(model, (2, 2), "ddim", steps=3, tol=0.1)
    for bad, message in (({"steps": 5}, "own steps"), ({"nfe": 5}, "nfe= means nothing"), ({"t_start": 0.9}, "starts at t=1")):
        with pytest.raises(ValueError, match=message):
            ss.sample(model, (2, 2), ladder, tol=0.1, **bad)
    with pytest.raises(ValueError, match="tol must be positive"):
        ss.sample(model, (2, 2), ladder, tol=0.0)
