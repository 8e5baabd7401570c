"""Joint refinement of a fit."""

from dataclasses import replace

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.tuning import gauss_newton as refinement
from scoresde.tuning import regression, search, selection
from scoresde.tuning.reference import distance, starts

from ..conftest import SDES, mixture
from .conftest import errors, fresh


def problem_and_fit(make, nfe: int, count: int = 64, late: bool = False) -> tuple[regression.Problem, regression.Fit]:
    """A fit in closed form; half of its starts are held out."""
    model = make().model(SDES["ddpm"])
    reference = ss.tuning.solve_reference(model, starts(model, (2,), count, 0).double(), steps=64)
    problem = regression.Problem(model, reference, {}, count // 2, 20, None)
    solver, grid = solvers.get("ipndm2"), grids.trailing(model.sde, nfe, power=2.0)
    if late:
        solver, grid = solvers.LateFirstCall(solver), selection.late(model.sde, nfe, power=2.0)
    form = search.initial_form(problem, solver, grid)
    return problem, regression.regress(problem, form, torch.ones(count // 2, dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("late", [False, True])
def test_sensitivities_are_the_derivatives_of_the_endpoints(late):
    """Against automatic differentiation of the whole path. A late first call has a time that moves, too."""
    problem, fit = problem_and_fit(mixture, 4, late=late)
    n, z0 = 4, problem.reference.states[0][:5] * fit.form.gain
    rows, columns = torch.ones(n, n).tril().nonzero(as_tuple=True)

    def endpoint(theta):
        a, triangle, times = theta[:n], theta[n : n + len(rows)], theta[n + len(rows) :]
        b = torch.zeros(n, n, dtype=torch.float64).index_put((rows, columns), triangle)
        z, data = z0, []
        for k, t in enumerate(times if late else [1.0, *times]):
            data.append(problem.model.data(z, t))
            z = a[k] * z + sum(b[k, j] * data[j] for j in range(k + 1))
        return z

    form = fit.form
    moving = form.all_times[1:-1]
    theirs = torch.autograd.functional.jacobian(endpoint, torch.cat([form.a, form.b[rows, columns], moving]))
    ours = list(refinement.sensitivities(problem, form, [z[:5] for z in fit.states], [d[:5] for d in fit.data], {}))
    # Ours go step by step, a_n before b_n0..b_nn.
    order = [c for k in range(n) for c in (k, *(n + k * (k + 1) // 2 + j for j in range(k + 1)))]
    order += range(n + len(rows), n + len(rows) + len(moving))
    expected = theirs.permute(2, 0, 1)[order]
    scale = expected.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(torch.stack(ours) / scale, expected / scale, rtol=0, atol=1e-5)


def test_rounds_of_refinement_go_on_while_the_held_out_error_falls():
    problem, fit = problem_and_fit(mixture, 3)
    gram, right = refinement.normal_equations(problem, fit)
    # Parts of the batch change nothing.
    torch.testing.assert_close((gram, right), refinement.normal_equations(replace(problem, batch_size=1000), fit))
    better, rounds = fit, 0
    while (found := refinement.refined(problem, better)) is not better:
        assert found.score < better.score
        better, rounds = found, rounds + 1
    assert rounds >= 2
    assert better.score < 0.7 * fit.score
    assert regression.evaluate(problem, better.form, better.weights, 0.0).score == better.score

    def loss(found):
        return (fit.weights * distance(found.x[: problem.fitting], problem.reference.x[: problem.fitting]) ** 2).sum()

    assert loss(better) < loss(fit)


@pytest.mark.parametrize(("make", "nfe", "most"), [(mixture, 4, 0.7), (mixture, 5, 0.9)])
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
    assert search.move_time(times, 1, 0.4, 0.01).tolist() == pytest.approx([1, 0.7, 0.1, 0])
    assert search.move_time(times, 1, -0.4, 0.01).tolist() == pytest.approx([1, 0.34, 0.1, 0])
    assert search.move_time(times, 2, -0.4, 0.09).tolist() == pytest.approx([1, 0.5, 0.09, 0])
    form = ss.tableau.Multistep(times, torch.zeros(3).double(), torch.zeros(3, 3).double())
    step = torch.arange(1.0, 12.0, dtype=torch.float64)
    moved = refinement.take_step(form, step, 0.01)
    assert moved.a.tolist() == [1, 3, 6]
    assert moved.b.tolist() == [[2, 0, 0], [4, 5, 0], [7, 8, 9]]
    assert moved.times.tolist() == pytest.approx([1, 0.62, 0.13, 0])
    assert refinement.take_step(form, -step, 0.08).times.tolist() == pytest.approx([1, 0.38, 0.08, 0])
