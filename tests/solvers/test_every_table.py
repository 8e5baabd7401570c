"""Demands on every table: a clean last step, steps along its grid, and at most 40 lines of code."""

import ast
import inspect
from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers

from ..conftest import SDES, TABLEAUX, generator, mixture, sdes, zero_terminal

every_solver = pytest.mark.parametrize("name", TABLEAUX)
# iPNDM's weights are those of a uniform grid; on smoothly varying ones that leaves order 2.
ODE_ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpm1": 1,
    "dpm2": 2,
    "dpm3": 3,
    "dpm2m": 2,
    "dpm3m": 3,
    "dpm++1": 1,
    "dpm++2s": 2,
    "dpm++2m": 2,
    "dpm++3m": 3,
    "unipc2": 3,
    "unipc3": 4,
    "deis1": 1,
    "deis2": 2,
    "deis3": 3,
    "rho-deis1": 1,
    "rho-deis2": 2,
    "rho-deis3": 3,
    "ipndm1": 1,
    "ipndm2": 2,
    "ipndm3": 2,
    "ipndm4": 2,
    "plms": 2,
    "vab2": 2,
    "vab3": 3,
    "vab4": 4,
    "circle-vab2": 2,
    "circle-vab3": 3,
}
# Churn, restarts and Langevin steps stir by fixed amounts, whatever the number of steps.
STIRRED = ["edm", "restart", "langevin-corrected", "annealed-langevin"]


@every_solver
@sdes
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_point_mass_is_returned(name, sde, steps):
    """The last step is clean: on data that are one point every solver ends there, whatever it did before."""
    point = torch.tensor([0.3, -2.0])
    model = analytic.GaussianMixture(point[None], torch.zeros(1)).model(sde)
    x = ss.sample(model, (16, 2), name, steps=steps, generator=generator())
    assert float((x - point).abs().max()) <= 1e-4
    tableau = solvers.get(name).tableau(sde, grids.half_log_snr(sde, steps))
    assert not tableau.rows[-1].xi


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 7, 13, 50, 1000])
def test_a_solver_steps_along_its_grid(name, steps):
    """Demand 1: network calls at the grid's own times, starting at T, and nowhere else; N steps for a grid of N+1 points."""
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
    if name in STIRRED:
        return
    # One call at the start of every step; the others lie within its step.
    assert [tableau.times[look] for look in tableau.step_evals] == grid[:-1].tolist()
    assert seen == [tableau.times[k] for k in tableau.evaluated]
    bounds = iter(grid.tolist())
    above, below = next(bounds), next(bounds)
    for t in seen:
        while t < below - 1e-9:
            above, below = below, next(bounds)
        assert below - 1e-9 <= t <= above + 1e-9


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_zero_terminal_signal_is_sampled(name, steps, prediction):
    sde = zero_terminal()
    exact = mixture().model(sde)
    network = type("Exact", (torch.nn.Module,), {"forward": lambda self, z, t: getattr(exact, prediction)(z, t)})()
    x = ss.sample(ss.ScoreModel(network, sde, prediction, time="t"), (200, 2), name, steps=steps, generator=generator())
    assert bool(x.isfinite().all())
    # Heun is unstable over the two huge steps of three; all else stays near the modes.
    assert float(x.abs().max()) < (100 if name in ("heun", "edm") and steps == 3 else 5)
    noise_model = ss.ScoreModel(network, sde, "noise", time="t")
    if name == "annealed-langevin" and steps > 1:
        return  # at zero signal its step does not use the prediction
    with pytest.raises(ValueError, match="prediction='noise' does not determine the data at t=1"):
        ss.sample(noise_model, (2, 2), name, steps=steps)


@cache
def _many_steps(sde):
    model = mixture().model(sde)
    z = sde.prior_std * torch.randn(32, 2, dtype=torch.float64, generator=generator())
    return model, z, ss.sample(model, z.shape, "unipc3", steps=600, z=z, grid="half_log_snr")


@pytest.mark.parametrize("sde", [SDES[n] for n in ("linear", "chain20", "cosine", "sub-vp", "ve", "edm")])
@pytest.mark.parametrize("name", [name for name, order in ODE_ORDERS.items() if order > 1])
def test_ode_solvers_agree_and_second_order_wins(name, sde):
    """At many steps all deterministic solvers find one point; at 20, orders 2 and 3 are closer than order 1."""
    model, z, exact = _many_steps(sde)
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
    """The lines of a class or function that are code: no docstrings, comments or empty lines."""
    source = inspect.getsource(thing)
    kinds = (ast.ClassDef, ast.FunctionDef)
    docstrings = [node.body[0] for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) and ast.get_docstring(node)]
    text = {line for doc in docstrings for line in range(doc.lineno, doc.end_lineno + 1)}
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
