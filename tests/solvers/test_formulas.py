"""Coefficients against published formulas, written out."""

import itertools
import math

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.numerics.random import BatchNoise
from scoresde.solvers.velocity import steady_weights

from ..conftest import SDES, generator, linear_betas, mixture, sdes


class Recorder(BatchNoise):
    """Returns noise and keeps it."""

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


SINGLE, DOUBLE = (torch.float32, 1e-5), (torch.float64, 1e-11)


@pytest.mark.parametrize(
    ("variance", "kind", "steps", "precision"),
    [
        *itertools.product(["beta", "posterior"], ["linear", "cosine"], [10, 100], [SINGLE, DOUBLE]),
        *(("beta", kind, 1000, p) for kind, p in (("linear", DOUBLE), ("cosine", SINGLE))),
        *(("posterior", kind, 1000, p) for kind, p in (("linear", SINGLE), ("cosine", DOUBLE))),
    ],
)
def test_ancestral_on_the_full_chain_is_bishops_algorithm(variance, kind, steps, precision):
    dtype, tolerance = precision
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
def test_orders_fall_towards_sigma_0_and_are_never_0(order):
    sde = SDES["ddpm"]
    for steps in range(1, 61):
        rows = solvers.DPMSolverPP(order).tableau(sde, grids.half_log_snr(sde, steps)).rows
        assert [len(row.data) for row in rows] == [min(order, k + 1, steps - k) for k in range(steps)]
        lengths = [len(row.data) for row in solvers.DPMSolverPP(order).tableau(sde, grids.half_log_snr(sde, steps, t_end=0.1)).rows]
        assert lengths == [min(order, k + 1) for k in range(steps)]


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
