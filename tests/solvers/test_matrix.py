"""Every process with every prediction and every solver, on an exact mixture."""

import itertools
from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import solvers
from scoresde.numerics.random import BatchNoise
from scoresde.sde import prediction

from ..conftest import NO_SIGNAL_AT_1, SDES, TABLEAUX, generator, mixture

# What is slow by default, with settings that make it quick: they do not matter here.
CHEAP = {
    "adaptive": ss.loops.AdaptiveODE(0.1, 0.1),
    "gotta-go-fast": ss.loops.GottaGoFast(0.5, 0.2),
    "annealed-langevin": solvers.AnnealedLangevin(corrections=3),
}
SOLVERS = {name: CHEAP.get(name, solvers.get(name)) for name in solvers.names()}
DETERMINISTIC = [name for name in TABLEAUX if not solvers.get(name).stochastic]
# Processes of one's own: without a closed form, lambda is inverted by bisection, at every stage of single-step and adaptive solvers.
BY_BISECTION = ("scales", "coefficients")
FIRST_ORDER = [name for name in DETERMINISTIC if solvers.get(name).convergence_order == 1]


class Exact(torch.nn.Module):
    """A network that returns a quantity of the exact model."""

    def __init__(self, exact, quantity):
        super().__init__()
        self.read = getattr(exact, quantity)

    def forward(self, z, t):
        return self.read(z, t)


def network(sde, quantity):
    return ss.ScoreModel(Exact(mixture().model(sde), quantity), sde, quantity, time="t")


def start(sde):
    return sde.prior_std * torch.randn(4, 2, dtype=torch.float64, generator=generator())


def is_refused(process, quantity):
    """At alpha = 0 noise and score say nothing about the data."""
    return process in NO_SIGNAL_AT_1 and quantity in ("noise", "score")


def runner(sde, solver, z, steps):
    """A function of a model that runs the solver from `z`; tables are made once for all models."""
    if isinstance(solver, solvers.Solver):
        tableau = ss.plan(sde, solver, steps=steps).tableau
        return lambda model: ss.tableau.run(tableau, model, z, BatchNoise(generator(1))).x
    options = {} if isinstance(solver, ss.loops.AdaptiveLoop) else {"steps": steps}
    return lambda model: ss.sample(model, z.shape, solver, z=z, generator=generator(1), **options)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("process", ["linear", "zero terminal", "chain20"])
def test_every_prediction_gives_what_the_exact_model_gives(process, name):
    """1, 2 and 5 steps with each of the four predictions: finite, and equal to the result of the exact model; or the named refusal.

    Three paths stand for all: with signal at t = 1, without (peer bug 21: noise predictions gave inf there, diffusers#3851), and a chain.
    """
    sde, solver = SDES[process], SOLVERS[name]
    if name == "adaptive" and process in BY_BISECTION:
        solver = ss.loops.AdaptiveODE(0.1, 0.1, t_end=0.9)
    exact, z = mixture().model(sde), start(sde)
    for steps in (7,) if isinstance(solver, ss.loops.AdaptiveLoop) else (1, 2, 5):
        run = runner(sde, solver, z, steps)
        expected = run(exact)
        assert bool(expected.isfinite().all())
        for quantity in prediction.PREDICTIONS:
            model = network(sde, quantity)
            # From zero signal a level of Langevin dynamics moves by noise alone.
            if is_refused(process, quantity) and not (name == "annealed-langevin" and steps > 1):
                with pytest.raises(
                    ValueError, match=f"prediction='{quantity}' does not determine the (data|score) at t=1, where alpha=0"
                ):
                    run(model)
                continue
            torch.testing.assert_close(
                run(model), expected, rtol=1e-6, atol=1e-6, msg=lambda text, q=quantity, n=steps: f"{q}, {n} steps: {text}"
            )


def steps_of_the_chain(name, sde):
    """A run along every step of a chain, and the indices at which the network was called."""
    indices = []

    class Spy(torch.nn.Module):
        def forward(self, z, index):
            indices.append(float(index[0]))
            return torch.tanh(z)

    model = ss.ScoreModel(Spy(), sde, "noise")
    out = ss.sample(model, (4, 2), SOLVERS[name], steps=sde.steps, grid="ddpm", generator=generator(), trajectory=True)
    assert out.nfe == len(indices)
    assert bool(out.x.isfinite().all())
    torch.testing.assert_close(out.times, torch.arange(sde.steps, -1, -1, dtype=torch.float64) / sde.steps, rtol=0, atol=1e-12)
    return indices


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm++2m", "unipc3"])
def test_a_thousand_steps_are_those_of_the_chain(name):
    assert steps_of_the_chain(name, SDES["ddpm"]) == list(range(999, -1, -1))


ONE_CALL = [name for name in DETERMINISTIC if solvers.get(name).calls_per_step == 1]


def picked():
    """One solver for each process and prediction; 7 is prime to both numbers of solvers, so that each has its turn."""
    for k, (process, quantity) in enumerate(itertools.product(SDES, prediction.PREDICTIONS)):
        names = ONE_CALL if process in BY_BISECTION else DETERMINISTIC
        yield process, quantity, names[7 * k % len(names)]


def test_the_picks_are_all_solvers():
    assert {name for *_, name in picked()} == set(DETERMINISTIC)
    assert len(DETERMINISTIC) == 33  # none of them draws noise


@cache
def exact_flow(process, t_start):
    """By 300 steps of order 4 with the data prediction, far closer than 1e-3."""
    sde, z = SDES[process], start(SDES[process])
    return ss.sample(mixture().model(sde), z.shape, "unipc3", steps=300, z=z, t_start=t_start, grid="half_log_snr")


@pytest.mark.parametrize(("process", "quantity", "name"), list(picked()))
def test_deterministic_solvers_agree(process, quantity, name):
    """To 1e-3, in float64, at 500 network calls: harder than at the 1000 for which it is asked, and quicker. The error of order 1 is about 4/N.

    The combinations of process and prediction have one solver each: that predictions are equivalent for each is shown above. Where noise and
    score are refused at t = 1 they start just below.
    """
    sde, z = SDES[process], start(SDES[process])
    t_start, calls = sde.t_max if is_refused(process, quantity) else 1.0, solvers.get(name).calls_per_step
    x = ss.sample(network(sde, quantity), z.shape, name, steps=500 // calls, z=z, t_start=t_start, grid="half_log_snr")
    assert float((x - exact_flow(process, t_start)).abs().max()) <= (6 / 500 if name in FIRST_ORDER else 1e-3)
