"""Every solver against Bishop's algorithm, closed forms, measured orders and its own exact moments."""

import ast
import inspect
import itertools
import math
from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.numerics.quadrature import adams_weights, exponential_moments
from scoresde.numerics.random import BatchNoise
from scoresde.solvers.velocity import steady_weights

from .conftest import SDES, TABLEAUX, generator, linear_betas, mixture, sdes, zero_terminal

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
WEAK_ORDERS = {
    "ancestral": 1,
    "ancestral-posterior": 1,
    "euler-maruyama": 1,
    "reverse-diffusion": 1,
    "sde-dpm++1": 1,
    "sde-dpm++2m": 2,
    "sde-dpm++3m": 2,
    "sa-solver": 2,
    "seeds1": 1,
    "seeds2": 2,
    "seeds3": 2,
    "dpm2-ancestral": 2,
    "dpm++2s-ancestral": 2,
    "er-sde1": 1,
    "er-sde2": 2,
    "er-sde3": 3,
}
# Where the asymptotic order shows: late for order 4; before the error of the standard deviation changes its sign for er-sde3.
STEPS = {"unipc3": (640, 1280), "er-sde3": (40, 80, 160)}
# Churn, restarts and Langevin steps stir by fixed amounts, whatever the number of steps.
STIRRED = ["edm", "restart", "langevin-corrected", "annealed-langevin"]


def test_every_solver_has_a_claim():
    assert {*ODE_ORDERS, *WEAK_ORDERS, *STIRRED} == set(TABLEAUX)


class Recorder(BatchNoise):
    """Hands out noise and keeps it."""

    def __init__(self, seed: int) -> None:
        super().__init__(generator(seed))
        self.drawn: list[torch.Tensor] = []

    def draw(self, shape, dtype, device, std=1.0):
        self.drawn.append(super().draw(shape, dtype, device))
        return std * self.drawn[-1]  # a copy: the solver may overwrite what it is given


def bishop(network, betas, z, noises, variance):
    """Bishop's sampling algorithm (section 20.2.5; Ho et al., algorithm 2), written from the book with cumulative products."""
    bar = torch.cumprod(1 - betas, 0)
    noises = iter(noises)
    for i in range(len(betas), 0, -1):
        beta, now, before = (float(v) for v in (betas[i - 1], bar[i - 1], bar[i - 2] if i > 1 else 1.0))
        g = network(z, torch.full((len(z),), i - 1.0, dtype=z.dtype))
        mean = (z - beta / math.sqrt(1 - now) * g) / math.sqrt(1 - beta)
        if i == 1:
            return mean
        sigma = math.sqrt(beta if variance == "beta" else beta * (1 - before) / (1 - now))
        z = mean + sigma * next(noises)
    raise AssertionError


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_ancestral_on_the_full_chain_is_bishops_algorithm(variance, kind, steps, dtype, tolerance):
    betas = linear_betas(steps) if kind == "linear" else ss.VPSDE.cosine(steps).betas
    sde = ss.VPSDE.from_betas(betas)
    exact = mixture().model(sde)

    class Network(torch.nn.Module):
        def forward(self, z, index):
            return exact.noise(z, (index + 1) / steps)

    network = Network()
    model, noise = ss.ScoreModel(network, sde, "noise", time="index"), Recorder(1)
    z = torch.randn(8, 2, dtype=dtype, generator=generator())
    with torch.no_grad():
        ours = ss.tableau.run(solvers.Ancestral(variance).tableau(sde, grids.ddpm(sde, steps)), model, z, noise).x
        theirs = bishop(network, betas, z, noise.drawn, variance)
    assert len(noise.drawn) == steps - 1
    assert float((ours - theirs).abs().max()) <= tolerance


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
    assert not tableau.rows[-1].noise


def measured_orders(errors):
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@cache
def _fine_solution(sde):
    z = torch.randn(64, 2, dtype=torch.float64, generator=generator())
    grid = grids.half_log_snr(sde, 4000, t_end=0.02)
    return ss.tableau.run(solvers.UniPC(3).tableau(sde, grid), mixture().model(sde), z, BatchNoise()).x


@pytest.mark.parametrize("name", ODE_ORDERS)
@pytest.mark.parametrize("sde", [SDES["linear"], SDES["ddpm"]], ids=["linear", "ddpm"])
def test_order_of_ode_solvers(name, sde):
    """The slope of the endpoint error on a fixed interval, on three modes, against 4000 steps of the highest order in float64."""
    model, end = mixture().model(sde), 0.02
    z = torch.randn(64, 2, dtype=torch.float64, generator=generator())

    def solve(solver, steps):
        return ss.tableau.run(solver.tableau(sde, grids.half_log_snr(sde, steps, t_end=end)), model, z, BatchNoise()).x

    exact = _fine_solution(sde)
    errors = [float((solve(solvers.get(name), steps) - exact).square().mean().sqrt()) for steps in STEPS.get(name, (80, 160, 320))]
    for order in measured_orders(errors):
        assert order == pytest.approx(ODE_ORDERS[name], abs=0.2)


@pytest.mark.parametrize("name", WEAK_ORDERS)
@pytest.mark.parametrize("sde", [SDES["linear"], SDES["ddpm"]], ids=["linear", "ddpm"])
def test_weak_order_of_stochastic_solvers(name, sde):
    """Mean and standard deviation of the law at a fixed time, from the coefficients alone, for data N(0.7, 0.3^2)."""
    mean, std, end = 0.7, 0.3, 0.02

    def marginal(t):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        return alpha * mean, math.hypot(alpha * std, sigma)

    errors = []
    for steps in STEPS.get(name, (160, 320, 640)):
        tableau = solvers.get(name).tableau(sde, grids.half_log_snr(sde, steps, t_end=end))
        got = tableau.moments(mean, std, start=marginal(1.0))
        errors.append([abs(a - b) for a, b in zip(got, marginal(end), strict=True)])
    means, stds = zip(*errors, strict=True)
    for order in measured_orders(stds):
        assert order == pytest.approx(WEAK_ORDERS[name], abs=0.2)
    if max(means) > 1e-9:  # ancestral steps carry the mean of Gaussian data exactly
        for order in measured_orders(means):
            assert order == pytest.approx(1, abs=0.2)
    else:
        assert name != "euler-maruyama"


@pytest.mark.parametrize("name", [*ODE_ORDERS, *WEAK_ORDERS])
def test_error_does_not_rise_with_steps(name):
    """On a mixture for the deterministic solvers, in the law of Gaussian data for the stochastic ones."""
    sde = SDES["ddpm"]
    if name in WEAK_ORDERS:
        target = 0.3
        errors = [
            abs(solvers.get(name).tableau(sde, grids.half_log_snr(sde, steps)).moments(0.0, target)[1] - target)
            # Order 3 with noise overshoots at 5 and 10 steps, where its error happens to be small at 5.
            for steps in ((10, 20, 40, 80) if name in ("sde-dpm++3m", "sa-solver") else (5, 10, 20, 40))
        ]
    else:
        model, z = mixture().model(sde), torch.randn(256, 2, dtype=torch.float64, generator=generator())
        exact = ss.sample(model, z.shape, "dpm++3m", steps=500, z=z)
        errors = [
            float((ss.sample(model, z.shape, name, steps=steps, z=z) - exact).square().mean().sqrt()) for steps in (5, 10, 20, 40)
        ]
    assert errors == sorted(errors, reverse=True)


@every_solver
@pytest.mark.parametrize("sde", [SDES["linear"], SDES["ddpm"], SDES["cosine"]], ids=["linear", "ddpm", "cosine"])
def test_moments_against_simulation(name, sde):
    """Exact mean and standard deviation of the result against 10^5 samples."""
    n, mean, std = 100_000, 0.7, 0.3
    model = analytic.GaussianMixture(torch.tensor([[mean]]), torch.tensor([std**2])).model(sde)
    grid = grids.half_log_snr(sde, 12)
    x = ss.sample(model, (n, 1), name, grid=grid, generator=generator(), dtype=torch.float64)
    exact_mean, exact_std = solvers.get(name).tableau(sde, grid).moments(mean, std)
    # The result is exactly Gaussian: 5 standard errors, std/sqrt(n) and std/sqrt(2n).
    assert float(x.mean()) == pytest.approx(exact_mean, abs=5 * exact_std / math.sqrt(n))
    assert float(x.std()) == pytest.approx(exact_std, abs=5 * exact_std / math.sqrt(2 * n))


@every_solver
def test_moments_do_not_depend_on_the_prediction(name):
    tableau = solvers.get(name).tableau(SDES["ddpm"], grids.half_log_snr(SDES["ddpm"], 12))
    for prediction in ("noise", "score", "velocity"):
        assert tableau.folded(prediction).moments(0.7, 0.3) == pytest.approx(tableau.moments(0.7, 0.3), rel=1e-9)


@every_solver
@pytest.mark.parametrize("prediction", ["data", "noise", "score", "velocity"])
def test_folding_a_prediction_changes_nothing(name, prediction):
    sde, exact = SDES["ddpm"], mixture().model(SDES["ddpm"])

    class Exact(torch.nn.Module):
        def forward(self, z, t):
            return getattr(exact, prediction)(z, t)

    model = ss.ScoreModel(Exact(), sde, prediction, time="t")
    z = torch.randn(9, 2, dtype=torch.float64, generator=generator())
    for steps in (1, 2, 7):
        ours = ss.sample(model, z.shape, name, steps=steps, z=z, generator=generator(1))
        torch.testing.assert_close(
            ours, ss.sample(exact, z.shape, name, steps=steps, z=z, generator=generator(1)), rtol=1e-8, atol=1e-8
        )


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


def test_ddim_eta_1_is_ancestral_with_posterior_variance():
    sde = SDES["ddpm"]
    for grid in (grids.ddpm(sde, 1000), grids.half_log_snr(sde, 20)):
        ours, theirs = solvers.DDIM(eta=1.0).tableau(sde, grid), solvers.Ancestral("posterior").tableau(sde, grid)
        for a, b in zip(ours.rows, theirs.rows, strict=True):
            for part in ("z", "data", "noise"):
                assert getattr(a, part) == pytest.approx(getattr(b, part), rel=1e-9, abs=1e-12)


def test_one_first_order_solver_has_three_names():
    """DDIM, Euler in sigma/alpha and exponential Adams of order 1 are one method (Song et al. 2021; Lu et al. 2022)."""
    sde, grid = SDES["ddpm"], grids.quadratic(SDES["ddpm"], 17)
    first, *others = [solvers.get(name).tableau(sde, grid).rows for name in ("ddim", "euler", "dpm++1")]
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a.z == pytest.approx(b.z, rel=1e-12)
            assert a.data == pytest.approx(b.data, rel=1e-12)


@sdes
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginals_of_a_known_point(sde, eta):
    """With D = x every variance has the marginal: A^2 sigma_s^2 + C^2 = sigma_t^2 and A alpha_s + B = alpha_t."""
    grid = grids.half_log_snr(sde, 15)
    tableau = solvers.DDIM(eta).tableau(sde, grid)
    for k, row in enumerate(tableau.rows[:-1]):
        s, t = tableau.times[k], tableau.times[k + 1]
        a, b, c = row.z.get(k, 0.0), row.data[k], sum(row.xi.values())
        assert a**2 * float(sde.sigma(s)) ** 2 + c**2 == pytest.approx(float(sde.sigma(t)) ** 2, rel=1e-9)
        assert a * float(sde.alpha(s)) + b == pytest.approx(float(sde.alpha(t)), rel=1e-9)


@pytest.mark.parametrize("h", [1e-8, 1e-5, 1e-3, 0.1, 0.499, 0.501, 2.0, 20.0])
def test_exponential_moments_against_many_digits(h):
    """M_p/h^p = int_0^h e^{u-h} (u/h)^p du by its recurrence in 60 digits, where it does not cancel."""
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    d = Decimal(h)
    exact = [1 - (-d).exp()]
    for p in range(1, 4):
        exact.append(1 - p / d * exact[-1])
    assert exponential_moments(h, 4) == pytest.approx([float(v) for v in exact], rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_weights_integrate_polynomials(order):
    """sum_j c_j d_j^p must be int_0^h e^{u-h} u^p du, here by a Gauss-Legendre rule of scipy."""
    from scipy.integrate import fixed_quad

    h, offsets = 0.7, [0.0, -0.4, -1.1][:order]
    weights = adams_weights(h, offsets)
    for p in range(order):
        exact, _ = fixed_quad(lambda u, p=p: math.e ** (u - h) * u**p, 0, h, n=20)
        assert sum(c * d**p for c, d in zip(weights, offsets, strict=True)) == pytest.approx(exact, abs=1e-13)


def test_dpmpp_2m_is_the_published_formula_up_to_its_integral():
    """Order 2: alpha_t [ (1 - e^{-h}) D0 + (1 - (1 - e^{-h})/h) h/h_prev (D0 - D1) ], Lu et al. with the exact phi function."""
    sde, grid = SDES["linear"], grids.quadratic(SDES["linear"], 9)
    tableau, lam = solvers.DPMSolverPP(2).tableau(sde, grid), sde.half_log_snr(grid).tolist()
    for k in range(1, 7):
        h, before = lam[k + 1] - lam[k], lam[k] - lam[k - 1]
        slope = (1 - (1 - math.exp(-h)) / h) * h / before
        alpha = float(sde.alpha(grid[k + 1]))
        assert tableau.rows[k].data[k] == pytest.approx(alpha * (1 - math.exp(-h) + slope), rel=1e-10)
        assert tableau.rows[k].data[k - 1] == pytest.approx(-alpha * slope, rel=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", list(range(1, 61)))
def test_orders_fall_towards_sigma_0_and_are_never_0(order, steps):
    sde = SDES["ddpm"]
    rows = solvers.DPMSolverPP(order).tableau(sde, grids.half_log_snr(sde, steps)).rows
    assert [len(row.data) for row in rows] == [min(order, k + 1, steps - k) for k in range(steps)]
    lengths = [len(row.data) for row in solvers.DPMSolverPP(order).tableau(sde, grids.half_log_snr(sde, steps, t_end=0.1)).rows]
    assert lengths == [min(order, k + 1) for k in range(steps)]


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


def test_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean 'dpm\\+\\+2"):
        solvers.get("dpm++2")
    assert set(solvers.names()) >= {"ancestral", "ddim", "euler-maruyama", "heun", "dpm++2m", "dpm++3m"}


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


@pytest.mark.parametrize("sde", [SDES[n] for n in ("linear", "ddpm", "cosine", "sub-vp", "edm")])
@pytest.mark.parametrize("steps", [3, 10])
def test_the_optimal_variance_is_exact_on_gaussian_data(sde, steps):
    """Bao et al., theorem 1: with the exact Gamma every step has the marginal's mean and variance, however long it is."""
    std, grid = 0.6, grids.half_log_snr(sde, steps, t_end=0.05)
    lam = torch.linspace(float(sde.half_log_snr(1.0)), float(sde.half_log_snr(0.05)), 20 * steps + 1, dtype=torch.float64)
    t = sde.time(lam)
    gamma = sde.sigma(t) ** 2 / (sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2)
    power = solvers.NoisePower(tuple(lam.tolist()), tuple(gamma.tolist()))

    def marginal(t):
        return 0.0, math.hypot(float(sde.alpha(t)) * std, float(sde.sigma(t)))

    _, got = solvers.Ancestral(power).tableau(sde, grid).moments(0.0, std, start=marginal(1.0))
    # The nodes of the table are the grid's own, so that nothing is interpolated.
    assert got == pytest.approx(marginal(0.05)[1], rel=1e-6)
    _, beta = solvers.Ancestral("beta").tableau(sde, grid).moments(0.0, std, start=marginal(1.0))
    assert abs(beta - marginal(0.05)[1]) > 1e-3


def test_noise_power_is_measured():
    sde, std, n = SDES["ddpm"], 0.6, 50_000
    data = analytic.GaussianMixture(torch.zeros(1, 2), torch.tensor([std**2]))
    times = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    power = solvers.NoisePower.of(data.model(sde), data.sample(n, generator()), times, generator(1))
    exact = sde.sigma(times) ** 2 / (sde.alpha(times) ** 2 * std**2 + sde.sigma(times) ** 2)
    for lam, value in zip(sde.half_log_snr(times).tolist(), exact.tolist(), strict=True):
        # 2n squared normals: 5 standard errors.
        assert power(lam) == pytest.approx(value, abs=5 * value * math.sqrt(2 / (2 * n)))


def test_interpolated_variance_is_geometric():
    sde = SDES["ddpm"]
    grid = grids.half_log_snr(sde, 9)
    stds = {
        v: [next(iter(row.xi.values())) for row in solvers.Ancestral(v).tableau(sde, grid).rows[:-1]]
        for v in ("beta", "posterior", 0.0, 0.3, 1.0)
    }
    assert stds[0.0] == pytest.approx(stds["posterior"])
    assert stds[1.0] == pytest.approx(stds["beta"])
    assert stds[0.3] == pytest.approx([b**0.3 * p**0.7 for b, p in zip(stds["beta"], stds["posterior"], strict=True)])


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "ancestral", "sde-dpm++2m"])
def test_gaussian_distances_are_those_of_the_moments(name):
    from torch.distributions import Normal, kl_divergence

    tableau = solvers.get(name).tableau(SDES["ddpm"], grids.half_log_snr(SDES["ddpm"], 8))
    spectrum = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)
    results = [tableau.moments(0.0, float(c)) for c in spectrum.sqrt()]
    w2 = math.sqrt(sum(m**2 + (s - float(c)) ** 2 for (m, s), c in zip(results, spectrum.sqrt(), strict=True)))
    assert tableau.gaussian_w2(spectrum) == pytest.approx(w2, rel=1e-12)
    kl = sum(float(kl_divergence(Normal(m, s), Normal(0.0, float(c)))) for (m, s), c in zip(results, spectrum.sqrt(), strict=True))
    assert tableau.gaussian_kl(spectrum) == pytest.approx(kl, rel=1e-5)  # Normal holds its parameters in float32


def test_compat_is_the_published_formula():
    """2M: (1 - e^{-h}) [ D0 + (D0 - D1)/(2 r) ], r = h_prev/h; 3M: D2 = (D1_0 - D1_1)/(r0 + r1), half of what the cubic needs."""
    sde, grid = SDES["linear"], grids.quadratic(SDES["linear"], 9)
    lam, alpha = sde.half_log_snr(grid).tolist(), sde.alpha(grid).tolist()
    two, three = (solvers.DPMSolverPP(k, compat=c).tableau(sde, grid).rows for k, c in ((2, "midpoint"), (3, "dpm++3m")))
    for k in (3, 4, 5):
        h, r0, r1 = (
            lam[k + 1] - lam[k],
            (lam[k] - lam[k - 1]) / (lam[k + 1] - lam[k]),
            (lam[k - 1] - lam[k - 2]) / (lam[k + 1] - lam[k]),
        )
        phi1 = -math.expm1(-h)
        assert two[k].data[k] == pytest.approx(alpha[k + 1] * phi1 * (1 + 1 / (2 * r0)), rel=1e-10)
        assert two[k].data[k - 1] == pytest.approx(-alpha[k + 1] * phi1 / (2 * r0), rel=1e-10)
        phi2 = 1 - phi1 / h
        phi3 = 0.5 - phi2 / h
        # D1 = D1_0 + r0/(r0+r1) (D1_0 - D1_1), D1_0 = (D0 - Dm1)/r0, D1_1 = (Dm1 - Dm2)/r1, as linear functionals of (D0, Dm1, Dm2).
        d10, d11 = (1 / r0, -1 / r0, 0.0), (0.0, 1 / r1, -1 / r1)
        d1 = [a + r0 / (r0 + r1) * (a - b) for a, b in zip(d10, d11, strict=True)]
        d2 = [(a - b) / (r0 + r1) for a, b in zip(d10, d11, strict=True)]
        expected = [alpha[k + 1] * (phi1 * unit + phi2 * u + phi3 * v) for unit, u, v in zip((1, 0, 0), d1, d2, strict=True)]
        assert [three[k].data[k - i] for i in range(3)] == pytest.approx(expected, rel=1e-8)


@sdes
def test_the_circle_is_exact_on_its_own_gaussian(sde):
    """For data N(0, c^2) the velocity vanishes: any number of steps carries the law exactly."""
    c = 0.7
    for steps in (1, 3):
        grid = grids.half_log_snr(sde, steps, t_end=0.02)
        tableau = solvers.VelocityAdams(3, path="circle", scale=c).tableau(sde, grid)
        _, std = tableau.moments(0.0, c, start=(0.0, math.hypot(float(sde.alpha(1.0)) * c, float(sde.sigma(1.0)))))
        assert std == pytest.approx(math.hypot(float(sde.alpha(0.02)) * c, float(sde.sigma(0.02))), rel=1e-9)


def test_velocity_on_the_line_is_that_of_a_rectified_flow():
    """Adams-Bashforth on dz/dt = v with a grid uniform in t, written out."""
    sde = SDES["flow"]
    model = mixture().model(sde)
    z = torch.randn(16, 2, dtype=torch.float64, generator=generator())
    x, grid = z, torch.linspace(1, 0, 11, dtype=torch.float64)
    values = []
    for s, t in itertools.pairwise(grid[:-1].tolist()):
        values.insert(0, model.noise(x, s) - model.data(x, s))
        weights = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12))[min(len(values), 3) - 1]
        x = x + (t - s) * sum(w * v for w, v in zip(weights, values, strict=False))
    x = model.data(x, float(grid[-2]))
    torch.testing.assert_close(ss.sample(model, z.shape, "vab3", grid=grid, z=z), x, rtol=1e-12, atol=1e-12)


def test_crowded_nodes_are_not_extrapolated():
    """Three nodes within a tenth of a step would be blown up by more than 100: the order falls until the sum is bounded."""
    for nodes, kept in (([0.0, -1.0, -2.0], 3), ([0.0, -1.0, -1.1], 2), ([0.0, -0.05, -0.1], 1)):
        weights = steady_weights(nodes, 1.0, 3, 1.5)
        assert len(weights) == kept
        assert sum(weights) == pytest.approx(1)
        assert sum(map(abs, weights)) <= 1.5 * (1, 2, 11 / 3)[kept - 1]


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_stepping_down_by_euler_is_ddim(eta):
    sde, grid = SDES["ddpm"], grids.quadratic(SDES["ddpm"], 12)
    ours = solvers.StepDown(solvers.DPMSolver(order=1), eta).tableau(sde, grid)
    for mean, std in ((0.0, 0.5), (0.7, 0.0), (-2.0, 3.0)):
        assert ours.moments(mean, std) == pytest.approx(solvers.DDIM(eta).tableau(sde, grid).moments(mean, std), rel=1e-8)


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
