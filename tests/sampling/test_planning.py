"""Budgets, grids and starts become a plan, or a refusal that names the arguments."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.sampling import plan
from scoresde.sampling.default import default

from ..conftest import SDES, TABLEAUX, generator, mixture, rotated

DDPM = SDES["ddpm"]


def test_steps_and_nfe():
    """Three budgets in a row for every solver, so that one of them leaves calls over where a step takes two or three."""
    model = mixture().model(DDPM)
    for name, more_calls in rotated(TABLEAUX, range(9)):
        first = solvers.get(name).calls_per_step
        # A level of annealed Langevin dynamics is a hundred calls, and one more leads to sigma = 0.
        for nfe in (first + 1,) if first > 11 else range(first + more_calls, first + more_calls + 3):
            calls = []
            ss.sample(model, (1, 2), name, nfe=nfe, callback=lambda n, t, z, data, calls=calls: calls.append(n))
            out = ss.sample(model, (1, 2), name, nfe=nfe, trajectory=True)
            assert out.nfe <= nfe, (name, nfe)
            # One step more would not fit.
            more = solvers.get(name).tableau(DDPM, grids.half_log_snr(DDPM, len(out.times)))
            assert more.nfe > nfe, (name, nfe)
            assert len(calls) == len(out.times) - 1, (name, nfe)
    with pytest.raises(ValueError, match="give steps= or nfe="):
        ss.sample(model, (1, 2))
    with pytest.raises(ValueError, match="give steps= or nfe="):
        ss.sample(model, (1, 2), "ddim")
    with pytest.raises(ValueError, match="give steps= or nfe="):
        ss.sample(model, (1, 2), steps=3, nfe=3)
    with pytest.raises(ValueError, match="at least 1"):
        ss.sample(model, (1, 2), nfe=0)


def test_a_grid_by_name_by_function_and_by_value():
    model = mixture().model(DDPM)
    times = grids.karras(DDPM, 6, rho=5)
    by_value = ss.sample(model, (3, 2), grid=times, seeds=range(3))
    by_function = ss.sample(model, (3, 2), steps=6, grid=lambda sde, n, **k: grids.karras(sde, n, rho=5, **k), seeds=range(3))
    assert torch.equal(by_value, by_function)
    assert torch.equal(
        ss.sample(model, (3, 2), steps=6, grid="karras", seeds=range(3)),
        ss.sample(model, (3, 2), grid=grids.karras(DDPM, 6), seeds=range(3)),
    )
    with pytest.raises(ValueError, match="steps=5, but the grid has 6"):
        ss.sample(model, (3, 2), grid=times, steps=5)
    with pytest.raises(ValueError, match="more than nfe=5"):
        ss.sample(model, (3, 2), grid=times, nfe=5)
    with pytest.raises(ValueError, match=r"t_start=0\.5, but the grid starts at 1"):
        ss.sample(model, (3, 2), grid=times, t_start=0.5, z=torch.zeros(3, 2))


def test_start_anywhere():
    """From the exact marginal at t = 0.4 the fine ODE must end in the data: the moments of a Gaussian show it."""
    data = analytic.GaussianMixture(torch.tensor([[0.7]]), torch.tensor([0.09]))
    x = data.sample(20_000, generator())
    z, _ = DDPM.perturb(x, 0.4, generator=generator(1))
    kept = z.clone()
    back = ss.sample(data.model(DDPM), z.shape, steps=50, z=z, t_start=0.4)
    assert torch.equal(z, kept)
    assert back.dtype == torch.float64
    # 5 standard errors of a mean and of a standard deviation; the step to sigma = 0 costs 1e-4.
    assert float(back.mean()) == pytest.approx(0.7, abs=5 * 0.3 / 20_000**0.5 + 1e-3)
    assert float(back.std()) == pytest.approx(0.3, abs=5 * 0.3 / 40_000**0.5 + 1e-3)
    with pytest.raises(ValueError, match=r"alpha/sigma=.*give z="):
        ss.sample(data.model(DDPM), (4, 1), steps=5, t_start=0.4)
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(4, 1\)"):
        ss.sample(data.model(DDPM), (4, 1), steps=5, z=torch.zeros(2, 1))
    # A leading spacing starts below T, where the data has all but vanished: that is no error.
    ss.sample(data.model(DDPM), (4, 1), grid=grids.ddpm(DDPM, 10, spacing="leading"))


def test_arguments_that_contradict_each_other():
    model = mixture().model(DDPM)
    with pytest.raises(ValueError, match="not both"):
        ss.sample(model, (2, 2), steps=2, generator=generator(), seeds=range(2))
    with pytest.raises(ValueError, match="3 seeds were given for a batch of 2"):
        ss.sample(model, (2, 2), steps=2, seeds=range(3))
    with pytest.raises(ValueError, match="no solver is called 'dpm'"):
        ss.sample(model, (2, 2), "dpm", steps=2)


def test_a_start_that_is_not_on_the_grid_is_refused():
    model, z = mixture().model(DDPM), torch.zeros(2, 2)
    for options in (
        {"grid": "ddpm", "t_start": 0.4005},
        {"grid": lambda sde, n, t_start=1.0: grids.uniform(sde, n)[1:], "t_start": 0.5},
    ):
        with pytest.raises(ValueError, match="start"):
            ss.sample(model, (2, 2), "ddim", steps=5, z=z, **options)
    leading = lambda sde, n, t_start=1.0: grids.ddpm(sde, n, spacing="leading")  # noqa: E731
    with pytest.raises(ValueError, match=r"the grid starts at 0\.801, but the state is at t_start=1"):
        ss.sample(model, (2, 2), "ddim", steps=5, z=z, grid=leading)
    with pytest.raises(ValueError, match=r"3 steps need a start above 0\.001"):
        ss.sample(model, (2, 2), "ddim", steps=3, z=z, t_start=1e-3)
    ss.sample(model, (2, 2), "ddim", nfe=3, grid=torch.tensor([1e-3, 0.0]), z=z)


def test_budgets_on_the_chains_own_grid():
    model = mixture().model(SDES["chain20"])
    assert ss.sample(model, (1, 2), "ancestral", nfe=20, grid="ddpm", trajectory=True).nfe == 20
    assert ss.sample(model, (1, 2), "heun", nfe=39, grid="ddpm", trajectory=True).nfe == 39
    assert ss.sample(model, (1, 2), "ddim", steps=4, grid=lambda sde, steps: grids.uniform(sde, steps), trajectory=True).nfe == 4


def test_seeds_must_be_one_a_sample_even_without_noise():
    with pytest.raises(ValueError, match="5 seeds were given"):
        ss.sample(mixture().model(DDPM), (2, 2), "ddim", steps=2, z=torch.zeros(2, 2), seeds=range(5))


def test_the_default_is_the_measured_choice():
    """Without a solver: a multistep method on a power of VP time, which beats the common choices on three modes at every budget."""
    model, z = mixture().model(DDPM), torch.randn(500, 2, dtype=torch.float64, generator=generator())
    exact = ss.sample(model, z.shape, "unipc3", steps=500, z=z)

    def error(*solver, **options):
        distance = (ss.sample(model, z.shape, *solver, z=z, **options) - exact).square().mean(1).sqrt()
        return float(distance.median())

    for nfe in (5, 8, 10, 15, 20):
        solver, grid = default(DDPM, nfe)
        assert ss.sample(model, z.shape, nfe=nfe, z=z, trajectory=True).nfe == nfe
        assert error(nfe=nfe) == error(steps=nfe) == error(solver, nfe=nfe, grid=grid)
        assert error(nfe=nfe) < min(error(name, nfe=nfe, grid="half_log_snr") for name in ("ddim", "heun", "dpm++2m", "dpm++3m"))
    times = grids.karras(DDPM, 7)
    assert torch.equal(
        ss.sample(model, (2, 2), grid=times, seeds=range(2)), ss.sample(model, (2, 2), "ipndm3", grid=times, seeds=range(2))
    )


def test_a_plan_is_made_anew_from_what_its_arguments_are_now():
    """Schedules and solvers may change in place, in fields that equality does not see: nothing of an earlier plan is reused."""

    class Learned(ss.VPSDE):
        """A schedule that training changes, unseen from outside."""

        rate = torch.tensor(1.0)

        def integrated_beta(self, t):
            return self.rate * super().integrated_beta(t)

    class Mutable(solvers.Solver):
        eta = 0.0

        def tableau(self, sde, grid):
            return solvers.DDIM(self.eta).tableau(sde, grid)

    class More(solvers.DDIM):
        """With a value that DDIM does not compare."""

        def __init__(self, eta):
            super().__init__()
            self.__dict__["more"] = eta

        def tableau(self, sde, grid):
            return solvers.DDIM(self.more).tableau(sde, grid)

    def rows(sde, solver="dpm++2m", **options):
        return plan(sde, solver, **(options or {"steps": 6})).tableau.rows

    sde, learned, mutable = ss.VPSDE(), Learned(), Mutable()
    first = rows(sde)
    assert rows(sde) == first
    others = [
        rows(sde, solvers.DPMSolverPP(3)),
        rows(sde, steps=6, grid="karras"),
        rows(sde, nfe=5),
        rows(ss.SubVPSDE()),
    ]
    assert all(other != first for other in others)
    assert rows(sde, grid=grids.karras(sde, 6)) == others[1]
    for changed in (10.0, 9, torch.tensor(8.0)):
        sde.beta_max = changed
        assert rows(sde) == solvers.DPMSolverPP(2).tableau(sde, grids.trailing(sde, 6)).rows != first
    before = rows(sde)
    sde.beta_max.fill_(7.0)
    assert rows(sde) != before
    before = rows(learned)
    learned.rate = torch.tensor(0.5)
    assert rows(learned) != before
    assert rows(ss.VPSDE(), More(0.0)) != rows(ss.VPSDE(), More(1.0))
    before = rows(ss.VPSDE(), mutable)
    mutable.eta = 1.0
    assert rows(ss.VPSDE(), mutable) != before
