"""The parts of the audit against closed forms: trees, order conditions, probing, laws, targets."""

import json
import math

import pytest
import torch

import scoresde as ss
from scoresde import audit, grids, solvers
from scoresde.audit import conditions, laws
from scoresde.audit.accuracy import SHORT, STEPS, rounding
from scoresde.audit.draws import Draws
from scoresde.audit.findings import slope
from scoresde.audit.hosts.ours import level_of, sampler_of, times_of
from scoresde.audit.levels import Levels
from scoresde.audit.probe import Coefficients, of_tableau, probe
from scoresde.audit.targets import NARROW, SMOOTH

from ..conftest import TABLEAUX, generator

VP = ss.VPSDE()
DETERMINISTIC = [n for n in TABLEAUX if not solvers.get(n).stochastic and solvers.get(n).convergence_order is not None]
STOCHASTIC = [n for n in TABLEAUX if solvers.get(n).stochastic and solvers.get(n).convergence_order is not None]


def of_runge_kutta(matrix, weights, nodes):
    """One step of a method as a run from r = 1 to r = 2: y = x r, D = f."""
    r = torch.tensor([*(1 + c for c in nodes), 2.0], dtype=torch.float64)
    a = torch.tensor([*matrix, weights], dtype=torch.float64)
    return Coefficients(1 / r, 1 / r, a / r[:, None], torch.zeros(len(r), 0, dtype=torch.float64), 1.0)


def test_there_are_as_many_trees_as_butcher_counts():
    assert [len(conditions.trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    assert {conditions.named(t): conditions.density(t) for t in conditions.trees(4)} == {
        "[t t t]": 4, "[t [t]]": 8, "[[t t]]": 12, "[[[t]]]": 24,
    } or {conditions.named(t): conditions.density(t) for t in conditions.trees(4)} == {
        "[t t t]": 4, "[[t] t]": 8, "[[t t]]": 12, "[[[t]]]": 24,
    }  # fmt: skip


def test_the_classical_method_fulfils_all_conditions_and_a_wrong_one_does_not():
    """Kutta's method of order 4, and the same with a weight that is off."""
    matrix = [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]]
    run = of_runge_kutta(matrix, [1 / 6, 1 / 3, 1 / 3, 1 / 6], [0, 0.5, 0.5, 1])
    assert conditions.worst(run).residual < 1e-14
    wrong = of_runge_kutta(matrix, [1 / 6, 1 / 3 + 0.01, 1 / 3 - 0.01, 1 / 6], [0, 0.5, 0.5, 1])
    found = {c.name: c.residual for c in conditions.conditions(wrong) if c.residual > 1e-14}
    # The weights still add up: only conditions that tell the two stages at 1/2 apart.
    assert "[[t]]" in found
    assert not {"t", "[t]", "b c^1", "b c^2", "[t t]"} & set(found)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_our_tables_fulfil_the_order_conditions_of_their_order(name):
    """Residuals of all trees fall with the order that the solver states, without the steps that it starts with.

    Those of the whole run fall no slower than with order 2: a first step of order 1 leaves an error of h^2 behind.
    """
    solver = solvers.get(name)
    runs = {n: of_tableau(solver.tableau(VP, times_of(VP, SHORT, n))) for n in STEPS}
    floor = rounding(runs)
    order, _ = slope({n: conditions.worst(run, conditions.step_at(run, 0.25)).residual for n, run in runs.items()}, floor)
    whole, _ = slope({n: conditions.worst(run).residual for n, run in runs.items()}, floor)
    # At 160 steps slopes of orders 3 and 4 are .1 to .3 on their way.
    assert order >= solver.convergence_order - 0.5
    assert whole >= min(solver.convergence_order, 2) - 0.4


@pytest.mark.parametrize(
    ("name", "form", "clock", "degree"),
    [
        ("dpm++1", "data", "lambda", 0), ("dpm++2m", "data", "lambda", 1), ("dpm++3m", "data", "lambda", 2),
        ("dpm1", "noise", "lambda", 0), ("dpm2m", "noise", "lambda", 1), ("dpm3m", "noise", "lambda", 2),
        ("rho-deis2", "noise", "sigma", 1), ("rho-deis3", "noise", "sigma", 2), ("euler", "noise", "sigma", 0),
    ],
)  # fmt: skip
def test_exponential_methods_are_exact_for_polynomials_in_their_clock(name, form, clock, degree):
    run = of_tableau(solvers.get(name).tableau(VP, times_of(VP, SHORT, 20)))
    assert conditions.exact_degree(run, form, clock, 1e-9) == degree


@pytest.mark.parametrize("name", ["dpm++3m", "heun", "dpm++2s", "unipc3", "sde-dpm++2m", "seeds2", "sa-solver", "ancestral"])
def test_probing_reads_the_table(name):
    """Impulses through the public `sample` give the coefficients that the table holds, the signs of noises aside."""
    solver = solvers.get(name)
    read = probe(sampler_of(solver), SHORT, 6)
    table = of_tableau(solver.tableau(VP, times_of(VP, SHORT, 6)))
    for part in ("sigmas", "start", "data", "noise"):
        torch.testing.assert_close(getattr(read, part), getattr(table, part), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dpm++2m", "sde-dpm++2m", "ancestral"])
def test_the_law_of_a_run_is_that_of_its_table(name):
    """Against `Tableau.moments`, which goes through the rows and not through the unrolled coefficients."""
    tableau = solvers.get(name).tableau(VP, grids.half_log_snr(VP, 9, t_end=0.02))
    alpha, sigma = float(VP.alpha(1.0)), float(VP.sigma(1.0))
    mean, std = tableau.moments(0.7, 0.3, start=(alpha * 0.7, math.hypot(alpha * 0.3, sigma)))
    means, rows = laws.loadings(of_tableau(tableau), 0.7, 0.3)
    end = float(VP.alpha(0.02))
    assert float(means[-1]) == pytest.approx(mean / end, rel=1e-9)
    assert float(rows[-1].norm()) == pytest.approx(std / end, rel=1e-9)


@pytest.mark.parametrize("target", [SMOOTH, NARROW])
def test_the_exact_solution_is_that_of_a_fine_solve(target):
    levels = Levels(10.0, 0.2)
    u = torch.rand(50, 1, dtype=torch.float64, generator=generator()) * 0.98 + 0.01
    x = sampler_of(solvers.get("unipc3")).run(target.denoised, target.quantile(u, levels.high), levels, 2000)
    torch.testing.assert_close(x, target.quantile(u, levels.low), rtol=0, atol=1e-8)
    # And the denoiser is x + sigma^2 times the score, by the derivative of log p.
    x = target.quantile(u, 0.5).requires_grad_()
    w, m, s = (torch.tensor(v, dtype=torch.float64) for v in (target.weights, target.means, target.stds))
    density = (w * torch.exp(torch.distributions.Normal(m, (s**2 + 0.25).sqrt()).log_prob(x))).sum(-1)
    (score,) = torch.autograd.grad(density.log().sum(), x)
    torch.testing.assert_close(target.denoised(x.detach(), torch.full((50,), 0.5)), x.detach() + 0.25 * score)


def test_levels_start_and_end_where_they_say():
    for levels in (Levels(10.0, 0.2), Levels(80.0, 0.0)):
        sigmas = levels.sigmas(7)
        assert (float(sigmas[0]), float(sigmas[-1])) == (pytest.approx(levels.high), pytest.approx(levels.low))
        assert bool((sigmas.diff() < 0).all())
        u = torch.tensor([0.0, 0.3, 0.9] + [1.2] * (levels.low > 0), dtype=torch.float64)
        assert [levels.step_of(float(s)) for s in levels.sigma(u)] == pytest.approx(u.tolist())
    times = times_of(VP, Levels(10.0, 0.2), 5)
    assert [level_of(VP, float(t)) for t in times] == pytest.approx(Levels(10.0, 0.2).sigmas(5).tolist())


def test_every_way_to_draw_is_seen_and_replaced():
    x = torch.zeros(3, 2)
    draws = (
        lambda: torch.randn(3, 2),
        lambda: torch.randn(3, 2, generator=generator(1)),
        lambda: torch.randn_like(x),
        lambda: torch.empty(3, 2).normal_(),
        lambda: torch.empty(3, 2).normal_(0.0, 1.0, generator=generator(2)),
        lambda: torch.normal(x, 1.0),
        lambda: torch.normal(0.0, 1.0, (3, 2)),
    )
    with Draws(lambda k, draw: torch.full_like(draw, float(k))) as mode:
        got = [draw() for draw in draws]
    assert mode.count == len(draws)
    for k, value in enumerate(got):
        torch.testing.assert_close(value, torch.full((3, 2), float(k)))
    with Draws() as mode:
        torch.rand(2)
    assert (mode.count, mode.other) == (0, 1)
    # A Brownian tree draws a node again: it is the same noise.
    with Draws(lambda k, draw: torch.full_like(draw, float(k))) as mode:
        assert torch.equal(torch.randn(2, generator=generator(3)), torch.randn(2, generator=generator(3)))
    assert mode.count == 1


def test_a_slope_and_its_error():
    assert slope({n: 3.0 * n**-2 for n in (10, 20, 40)}) == (pytest.approx(2), pytest.approx(0, abs=1e-7))
    rate, stderr = slope({10: 1.0, 20: 0.3, 40: 0.1})
    assert rate == pytest.approx(math.log(10) / math.log(4))
    assert stderr > 0.02
    assert slope({10: 1e-13, 20: 1e-13}, floor=1e-12) == (math.inf, 0.0)


def test_an_audit_is_json_and_a_table(tmp_path):
    found = audit.run(lambda denoiser, z, sigmas: z, name="nothing", order=1)
    assert {"order conditions", "noise left", "bias"} <= set(found.broken)
    json.dumps(found.as_json(), allow_nan=False)
    assert "| noise left | broken |" in found.markdown()
    assert repr(found).startswith("Audit('nothing', broken=[")


def test_what_is_no_sampler_is_refused():
    with pytest.raises(TypeError, match=r"f\(denoiser, z, sigmas\)"):
        audit.run(lambda x: x)
    with pytest.raises(ValueError, match="no solver is called"):
        audit.run("dpm+++2m")
    with pytest.raises(ValueError, match="no_such_module"):
        audit.run("no_such_module:sampler")
    with pytest.raises(ValueError, match="audit the solver that it takes"):
        audit.run("default")
