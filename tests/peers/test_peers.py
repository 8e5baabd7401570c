"""Equality with independent implementations where they do the same thing, diffusers' schedulers and azula's samplers.

Where a peer differs from its own formula, a test measures the order that this costs it.
"""

import math

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.loops.base import Job
from scoresde.numerics.random import BatchNoise

from ..conftest import SDES, generator, mixture, rotated, sdes

diffusers = pytest.importorskip("diffusers")
# Their set_timesteps makes numpy arrays of tensors in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def chain(steps):
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    return betas, ss.VPSDE.from_betas(betas)


def their_loop(scheduler, exact, steps, z, **options):
    """The loop that diffusers' pipelines run, with our exact noise prediction as the network."""
    for index in scheduler.timesteps:
        noise = exact.noise(z, (float(index) + 1) / steps)
        z = scheduler.step(noise, index, z, **options).prev_sample
    return z


class Replay(BatchNoise):
    """The noises that diffusers draws: one for each step but the last."""

    def draw(self, shape, dtype, device, std=1.0):
        return std * torch.randn(tuple(shape), generator=self.generator, dtype=dtype)


def in_float64(scheduler, betas):
    """Their tables are float32, which alone costs them 1.5e-5 here: give them ours, so that the algorithms are compared."""
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, torch.cumprod(1 - betas, 0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize(
    ("ours", "theirs", "total", "dtype", "tolerance"),
    [
        ("beta", "fixed_large", 100, torch.float32, 1e-5),
        ("beta", "fixed_large", 1000, torch.float64, 1e-10),
        ("posterior", "fixed_small", 100, torch.float64, 1e-10),
        ("posterior", "fixed_small", 1000, torch.float32, 1e-5),
    ],
)
def test_ancestral_is_their_ddpm(ours, theirs, total, dtype, tolerance):
    betas, sde = chain(total)
    scheduler = in_float64(diffusers.DDPMScheduler(total, variance_type=theirs, clip_sample=False), betas)
    exact = mixture().model(sde)
    z = torch.randn(16, 2, dtype=dtype, generator=generator())
    got = ss.tableau.run(solvers.Ancestral(ours).tableau(sde, grids.ddpm(sde, total)), exact, z, Replay(generator(1))).x
    expected = their_loop(scheduler, exact, total, z, generator=generator(1))
    assert float((got - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_learned_ancestral_is_their_learned_range(steps, dtype, tolerance):
    """On the full chain and respaced; the network's second half depends on the state.

    Their spacing is "leading": with "trailing", whose last index is not 0, they add noise in the step to t = 0.
    """
    total = 100
    betas, sde = chain(total)
    scheduler = in_float64(
        diffusers.DDPMScheduler(total, variance_type="learned_range", clip_sample=False, timestep_spacing="leading"), betas
    )
    scheduler.set_timesteps(steps)
    exact = mixture().model(sde)

    class Network(torch.nn.Module):
        def forward(self, z, index):
            return torch.cat([exact.noise(z, (index + 1) / total), torch.sin(3 * z)], dim=1)

    network, z = Network(), torch.randn(16, 2, dtype=dtype, generator=generator())
    times = grids.ddpm(sde, steps, spacing="leading")
    got = ss.loops.LearnedAncestral().solve(Job(ss.LearnedVariance(network, sde), z, Replay(generator(1)), times)).x
    noise = generator(1)
    for index in scheduler.timesteps:
        z = scheduler.step(network(z, index.double()), index, z, generator=noise).prev_sample
    assert float((got - z).abs().max()) <= tolerance


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_is_theirs(spacing, steps):
    total = 1000
    betas, sde = chain(total)
    scheduler = in_float64(
        diffusers.DDIMScheduler(total, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing), betas
    )
    scheduler.set_timesteps(steps)
    exact = mixture().model(sde)
    grid = grids.ddpm(sde, steps, spacing=spacing)
    assert (grid[:-1] * total).round().long().tolist() == [int(i) + 1 for i in scheduler.timesteps]
    z = torch.randn(16, 2, dtype=torch.float64, generator=generator())
    got = ss.tableau.run(solvers.DDIM().tableau(sde, grid), exact, z, BatchNoise()).x
    assert float((got - their_loop(scheduler, exact, total, z)).abs().max()) <= 1e-10


# --- diffusers, multistep --------------------------------------------------------------------------------------------------------------


class WideTorch:
    """torch with a float32 that is float64: DPMSolverMultistepScheduler.step casts every state to `torch.float32`."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def _wide(monkeypatch):
    from diffusers.schedulers import scheduling_dpmsolver_multistep

    monkeypatch.setattr(scheduling_dpmsolver_multistep, "torch", WideTorch())


wide = pytest.mark.usefixtures("_wide")
both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])


class Given(BatchNoise):
    """Returns the given noises, first to last."""

    def __init__(self, noises):
        super().__init__()
        self.noises = iter(noises)

    def draw(self, shape, dtype, device, std=1.0):
        return std * next(self.noises)  # a copy: the solver may overwrite what it is given


def give_grid(scheduler, sde, grid):
    """Their sigmas, which set_timesteps rounds to float32, from our times; the end may lie above 0."""
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = torch.exp(-sde.half_log_snr(grid))
    # Timesteps may repeat, and a search for a repeated one finds its second place.
    scheduler.set_begin_index(0)


def their_grid(scheduler, sde, steps):
    """The times of their sigmas; rounded, the first may lie above sigma(1)."""
    in_float64(scheduler, sde.betas).set_timesteps(steps)
    times = sde.time(-scheduler.sigmas[:-1].double().log()).clamp(max=1)
    return torch.cat([times, times.new_zeros(1)])


def their_multistep(scheduler, exact, grid, z, noises=None):
    """The loop of the pipelines, with prediction_type="sample": data from noise costs the first steps digits, as sigma/alpha = 150."""
    give_grid(scheduler, exact.sde, grid)
    for n, (index, t) in enumerate(zip(scheduler.timesteps, grid[:-1], strict=True)):
        options = {} if noises is None else {"variance_noise": noises[n]}
        z = scheduler.step(exact.data(z, t), index, z, **options).prev_sample
    return z


def dpm_scheduler(order, solver_type="midpoint", algorithm="dpmsolver++", **options):
    return diffusers.DPMSolverMultistepScheduler(
        1000, solver_order=order, solver_type=solver_type, algorithm_type=algorithm, prediction_type="sample", **options
    )


def distance(scheduler, solver, steps, dtype):
    """The largest difference between their results and ours on their grid, with the same noises."""
    _, sde = chain(1000)
    exact, grid = mixture().model(sde), their_grid(scheduler, sde, steps)
    z = torch.randn(16, 2, dtype=dtype, generator=generator())
    noises = torch.randn(steps, 16, 2, dtype=dtype, generator=generator(1))
    stochastic = "sde" in scheduler.config.get("algorithm_type", "")
    ours = ss.tableau.run(solver.tableau(sde, grid), exact, z, Given(noises)).x
    theirs = their_multistep(scheduler, exact, grid, z, noises if stochastic else None)
    assert ours.dtype == theirs.dtype == dtype
    return float((ours - theirs).abs().max())


@wide
@pytest.mark.parametrize(
    ("order", "solver_type", "compat"), [(2, "midpoint", "midpoint"), (2, "heun", None), (3, "midpoint", "dpm++3m")]
)
@pytest.mark.parametrize("karras", [False, True])
@both_precisions
def test_dpmpp_multistep_is_theirs(order, solver_type, compat, karras, dtype, tolerance):
    """2M with their solver types, of which "heun" has the exact weights and so is our default, and 3M with its halved quadratic term.

    To sigma = 0 both take order 1. On fewer than 15 steps they take order 2 before it as we do, on more steps order 3: 3M is compared on fewer.
    """
    for steps in (1, 2, 3, 5, 14) if order == 3 else (1, 2, 5, 14, 15, 50):
        scheduler = dpm_scheduler(order, solver_type, use_karras_sigmas=karras, final_sigmas_type="zero", lower_order_final=True)
        assert distance(scheduler, solvers.DPMSolverPP(order, compat=compat), steps, dtype) <= tolerance


@wide
@pytest.mark.parametrize(("solver_type", "compat"), [("midpoint", "midpoint"), ("heun", None)])
@both_precisions
def test_sde_dpmpp_2m_is_theirs(solver_type, compat, dtype, tolerance):
    for steps in (1, 2, 5, 20):
        scheduler = dpm_scheduler(2, solver_type, "sde-dpmsolver++")
        assert distance(scheduler, solvers.SDEDPMSolverPP(2, compat=compat), steps, dtype) <= tolerance


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("karras", [False, True])
@both_precisions
def test_unipc_is_theirs(order, karras, dtype, tolerance):
    """bh2 on data predictions: orders near the end, and all corrections, agree.

    Theirs corrects before the last step as well, but as that step goes to sigma = 0 by a prediction made at the uncorrected state, the
    correction is lost; ours leaves it out.
    """
    for steps in (1, 2, 3, 5, 20, 50):
        scheduler = diffusers.UniPCMultistepScheduler(
            1000,
            solver_order=order,
            solver_type="bh2",
            predict_x0=True,
            use_karras_sigmas=karras,
            final_sigmas_type="zero",
            prediction_type="sample",
        )
        assert distance(scheduler, solvers.UniPC(order, compat="midpoint"), steps, dtype) <= tolerance


def observed_order(solve, exact, steps):
    """The slope of the error between two numbers of steps."""
    few, many = (float((solve(n) - exact).square().mean().sqrt()) for n in steps)
    return math.log(few / many) / math.log(steps[1] / steps[0])


def comparison(sde, end=0.02):
    """A mixture, a start, and the grid of n steps down to a fixed time at which solvers of higher order show it."""
    z = torch.randn(64, 2, dtype=torch.float64, generator=generator())
    return mixture().model(sde), z, lambda n: grids.half_log_snr(sde, n, t_end=end)


@wide
def test_dpmpp_3m_of_theirs_has_order_2():
    """The exact weight of the second divided difference is M_2, theirs M_2/2."""
    _, sde = chain(1000)
    model, z, grid = comparison(sde)

    def ours(n, solver):
        return ss.tableau.run(solver.tableau(sde, grid(n)), model, z, BatchNoise()).x

    def theirs(n):
        scheduler = dpm_scheduler(3, lower_order_final=False, final_sigmas_type="sigma_min")
        return their_multistep(scheduler, model, grid(n), z)

    exact = ours(1500, solvers.UniPC(3))
    assert float((theirs(40) - ours(40, solvers.DPMSolverPP(3, compat="dpm++3m"))).abs().max()) <= 1e-10
    assert observed_order(theirs, exact, (160, 320)) == pytest.approx(2, abs=0.2)
    assert observed_order(lambda n: ours(n, solvers.DPMSolverPP(3)), exact, (160, 320)) == pytest.approx(3, abs=0.2)


@wide
def test_sde_dpmpp_3m_of_theirs_has_order_1():
    """Their weight of the quadratic term has a wrong sign (diffusers#9104): M_0/(4h^2) - 1/(2h) - 1/2, which tends to -1, not + 1/2, to 0.

    Measured with noises of 0, so that both solve one ordinary equation, that of the drift.
    """
    _, sde = chain(1000)
    model, z, grid = comparison(sde)

    def ours(n, order=3):
        return ss.tableau.run(solvers.SDEDPMSolverPP(order).tableau(sde, grid(n)), model, z, Given(torch.zeros(n, *z.shape))).x

    def theirs(n):
        scheduler = dpm_scheduler(3, "heun", "sde-dpmsolver++", lower_order_final=False, final_sigmas_type="sigma_min")
        return their_multistep(scheduler, model, grid(n), z, torch.zeros(n, *z.shape))

    exact = ours(2000)
    assert observed_order(theirs, exact, (160, 320)) == pytest.approx(1, abs=0.2)
    assert observed_order(ours, exact, (160, 320)) == pytest.approx(3, abs=0.2)


# --- azula -----------------------------------------------------------------------------------------------------------------------------


def their_sampler(name, exact, grid, **options):
    """azula's sampler of that name on our path, our grid and the exact denoiser."""
    sample = pytest.importorskip("azula.sample", exc_type=ImportError)
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):
        def schedule(self, t):
            return exact.sde.alpha(t), exact.sde.sigma(t)

        def forward(self, x_t, t):
            return DiracPosterior(exact.data(x_t, t))

    return type(name, (getattr(sample, name),), {"timesteps": grid})(Exact(), silent=True, **options)


def grid_above_0(sde, name, steps):
    """Down to t = 0.02: theirs ask for sigma > 0. From a zero signal they divide by alpha = 0."""
    return grids.get(name)(sde, steps, t_start=sde.t_max, t_end=0.02)


PEERS_OF_AZULA = [
    ("DDIMSampler", {}, solvers.DDIM()),
    ("EulerSampler", {}, solvers.ProbabilityFlow("euler")),
    ("HeunSampler", {}, solvers.ProbabilityFlow("heun")),
    *[("zABSampler", {"order": k}, solvers.DEIS(k, clock="r")) for k in (1, 2, 3, 4)],
    *[("zEABSampler", {"order": k}, solvers.ExponentialAdams(k, form="noise")) for k in (1, 2, 3)],
    *[("xEABSampler", {"order": k}, solvers.ExponentialAdams(k)) for k in (1, 2, 3, 4)],
]


@pytest.mark.parametrize(("peer", "process"), list(rotated(PEERS_OF_AZULA, SDES, each=2)))
def test_azula_has_the_same_deterministic_solvers(peer, process):
    """Adams-Bashforth on noise in r = sigma/alpha is rho-DEIS, its exponential forms are ours on noise and on data (DPM-Solver++)."""
    (name, options, solver), sde = peer, SDES[process]
    exact = mixture().model(sde)
    z = sde.prior_std * torch.randn(16, 2, dtype=torch.float64, generator=generator())
    for spacing in ("half_log_snr", "karras"):
        grid = grid_above_0(sde, spacing, 20)
        theirs = their_sampler(name, exact, grid, **options)(z)
        assert float((ss.tableau.run(solver.tableau(sde, grid), exact, z, BatchNoise()).x - theirs).abs().max()) <= 1e-10


@sdes
@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("DDPMSampler", {}, solvers.Ancestral("posterior")),
        # Their eta scales the variance, ours (and that of the paper) the standard deviation.
        ("DDIMSampler", {"eta": 0.25}, solvers.DDIM(eta=0.5)),
    ],
)
def test_azula_has_the_same_stochastic_solvers(sde, name, options, solver):
    exact, grid = mixture().model(sde), grid_above_0(sde, "half_log_snr", 20)
    z = sde.prior_std * torch.randn(16, 2, dtype=torch.float64, generator=generator())
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(1)
        theirs = their_sampler(name, exact, grid, **options)(z)
    ours = ss.tableau.run(solver.tableau(sde, grid), exact, z, BatchNoise(generator(1))).x
    assert float((ours - theirs).abs().max()) <= 1e-10


def test_reab_of_azula_has_order_1():
    """It multiplies its integral by sqrt(alpha_s^2 + sigma_t^2) where its own formula has both scales at s, whatever its `order`."""
    sde = ss.VESDE()
    z = sde.prior_std * torch.randn(64, 2, dtype=torch.float64, generator=generator())
    model, _, grid = comparison(sde, end=0.2)

    def ours(n, solver):
        return ss.tableau.run(solver.tableau(sde, grid(n)), model, z, BatchNoise()).x

    exact = ours(1200, solvers.UniPC(3))
    for order in (2, 3):
        theirs = observed_order(
            lambda n, order=order: their_sampler("REABSampler", model, grid(n), order=order)(z), exact, (80, 160)
        )
        assert theirs == pytest.approx(1, abs=0.2)
    assert observed_order(lambda n: ours(n, solvers.DPMSolverPP(2)), exact, (80, 160)) == pytest.approx(2, abs=0.2)
