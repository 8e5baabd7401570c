"""Demands on every table: a clean last step, steps along its grid, and at most 40 lines of code."""

import ast
import inspect
from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers

from ..conftest import SDES, TABLEAUX, generator, mixture, rotated, zero_terminal

every_solver = pytest.mark.parametrize("name", TABLEAUX)
HIGHER_ORDER = [name for name in TABLEAUX if not solvers.get(name).stochastic and (solvers.get(name).convergence_order or 0) > 1]
# Churn, restarts and levels of Langevin dynamics evaluate the network at times of their own.
OWN_TIMES = ("edm", "restart", "langevin-corrected", "annealed-langevin")


@pytest.mark.parametrize(
    ("name", "steps", "process"),
    [*rotated(TABLEAUX, (1, 3), SDES, each=2), *((name, 2, process) for name in ("ddim", "sde-dpm++2m") for process in SDES)],
)
def test_a_point_mass_is_returned(name, steps, process):
    """The last step is clean: on data that are one point every solver ends there, whatever it did before."""
    sde = SDES[process]
    point = torch.tensor([0.3, -2.0])
    model = analytic.GaussianMixture(point[None], torch.zeros(1)).model(sde)
    x = ss.sample(model, (16, 2), name, steps=steps, generator=generator())
    assert float((x - point).abs().max()) <= 1e-4
    tableau = solvers.get(name).tableau(sde, grids.half_log_snr(sde, steps))
    assert not tableau.rows[-1].xi


@every_solver
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_solver_steps_along_its_grid(name, steps):
    """Network calls at the grid's own times, starting at T, and nowhere else; N steps for a grid of N+1 points.

    Peer bugs 1 and 17: the previous time came from a fixed stride, so that any other spacing was silently wrong (diffusers#9261, #12633);
    the last sigma was repeated, which made a step that does nothing (diffusers#6477).
    """
    sde, seen = SDES["ddpm"], []

    class Spy(torch.nn.Module):
        def forward(self, z, t):
            seen.append(float(t[0]))
            return torch.zeros_like(z)

    random = torch.rand(steps - 1, dtype=torch.float64, generator=generator(steps)).sort(descending=True).values
    grid = torch.cat([torch.ones(1, dtype=torch.float64), random, torch.zeros(1, dtype=torch.float64)])
    model = ss.ScoreModel(Spy(), sde, "data", time="t")
    out = ss.sample(model, (1, 2), name, grid=grid, trajectory=True, dtype=torch.float64)
    tableau = solvers.get(name).tableau(sde, grid)
    assert out.path.shape == (steps + 1, 1, 2)
    assert torch.equal(out.times, grid)
    assert out.nfe == len(seen) == tableau.nfe
    # Every row changes its state by a prediction or by noise.
    assert all(row.data or row.xi for row in tableau.rows)
    if name in OWN_TIMES:
        return
    # One call at the start of every step; the others lie within its step.
    assert [tableau.times[k] for k in tableau.step_evals] == grid[:-1].tolist()
    assert seen == [tableau.times[k] for k in tableau.evaluated]
    bounds = iter(grid.tolist())
    above, below = next(bounds), next(bounds)
    for t in seen:
        while t < below - 1e-9:
            above, below = below, next(bounds)
        assert below - 1e-9 <= t <= above + 1e-9


@every_solver
def test_samples_from_zero_terminal_signal_stay_near_the_data(name):
    """That they are those of the exact model, and that noise predictions are refused, is shown in test_matrix."""
    sde = zero_terminal()
    for steps in (1, 2, 3, 10):
        x = ss.sample(mixture().model(sde), (200, 2), name, steps=steps, generator=generator())
        assert bool(x.isfinite().all())
        # Heun is unstable over the two huge steps of three; all else stays near the modes.
        assert float(x.abs().max()) < (100 if name in ("heun", "edm") and steps == 3 else 5)


@cache
def _many_steps(sde):
    model = mixture().model(sde)
    z = sde.prior_std * torch.randn(32, 2, dtype=torch.float64, generator=generator())
    return model, z, ss.sample(model, z.shape, "unipc3", steps=600, z=z, grid="half_log_snr")


@pytest.mark.parametrize(("name", "process"), list(rotated(HIGHER_ORDER, ("linear", "chain20", "cosine", "sub-vp", "ve", "edm"))))
def test_ode_solvers_agree_and_second_order_wins(name, process):
    """At many steps all deterministic solvers find one point; at 20, orders 2 and 3 are closer than order 1."""
    model, z, exact = _many_steps(SDES[process])
    # Fewer than the 1000 steps at which 1e-3 is asked for: a harder test, and a quicker one.
    x = ss.sample(model, z.shape, name, steps=300, z=z, grid="half_log_snr")
    assert float((x - exact).square().mean().sqrt()) <= 1e-3
    few, first = (ss.sample(model, z.shape, n, steps=20, z=z, grid="half_log_snr") for n in (name, "ddim"))
    assert (few - exact).square().mean() < (first - exact).square().mean()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.DDIM(eta=1.5), "eta"),
        (lambda: solvers.Ancestral("large"), "variance"),
        (lambda: solvers.ProbabilityFlow("rk4"), "method"),
        (lambda: solvers.DPMSolverPP(4), "order"),
    ],
)
def test_impossible_solvers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def code_lines(thing) -> int:
    """The lines of a class or function that are code: no docstrings, comments, empty lines, nor what a solver says of itself (`Solver`)."""
    source = inspect.getsource(thing)
    said = {name for name, value in vars(solvers.Solver).items() if isinstance(value, property)}
    left_out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name in said:
            left_out.append((node.decorator_list[0].lineno, node.end_lineno))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            left_out.append((node.body[0].lineno, node.body[0].end_lineno))
    text = {line for first, last in left_out for line in range(first, last + 1)}
    lines = (line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in text)
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_a_solver_is_at_most_40_lines():
    """Every table, whole class or factory; loops of their own (adaptive steps, torchsde, norm-dependent correctors) are no tables."""
    public = [getattr(solvers, name) for name in solvers.__all__]
    tables = [thing for thing in public if inspect.isclass(thing) and issubclass(thing, solvers.Solver)]
    factories = [thing for thing in public if inspect.isfunction(thing) and thing.__name__[0].isupper()]
    assert len(tables) > 15
    assert len(factories) >= 4
    for thing in (*tables, *factories, solvers.single_step.SingleStep):
        assert code_lines(thing) <= 40, (thing, code_lines(thing))
