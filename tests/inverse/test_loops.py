"""Loops for posteriors: what they sample, exact or with the bias that is known."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, inverse
from scoresde.inverse import DAPS, DPS, Gaussian, Poisson, Replacement, SplitGibbs, TwistedSMC, conditional, operators
from scoresde.numerics.random import noise_source

from ..conftest import SDES, OwnPrediction, generator
from .conftest import observation_matrix


def pair(rho=0.9):
    """Two standard normals with correlation rho."""
    return analytic.GaussianMixture(
        torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[[1.0, rho], [rho, 1.0]]], dtype=torch.float64)
    )


FIRST = torch.tensor([True, False])


def test_replacement_has_the_bias_that_is_known_of_it():
    """x_1 = 1 known: x_2 ~ N(.9, .19) exactly, and N(.62, .31) by replacement at 1000 steps. 4000 samples: standard errors .009, .007."""
    model, y = pair().model(SDES["ddpm"]), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    run = ss.sample(
        model, (4_000, 2), Replacement(FIRST), steps=1000, dtype=torch.float64, generator=generator(), y=y, trajectory=True
    )
    assert bool((run.x[:, 0] == 1).all())
    assert float(run.x[:, 1].mean()) == pytest.approx(0.62, abs=0.03)
    assert float(run.x[:, 1].var()) == pytest.approx(0.31, abs=0.03)
    assert run.nfe == 1000


def test_repeats_bring_replacement_closer_and_cost_calls():
    model, y = pair().model(SDES["ddpm"]), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    repaint = Replacement(FIRST, repeats=10)
    run = ss.sample(model, (4000, 2), repaint, steps=50, dtype=torch.float64, generator=generator(), y=y, trajectory=True)
    once = ss.sample(model, (4000, 2), Replacement(FIRST), steps=50, dtype=torch.float64, generator=generator(), y=y)
    assert run.nfe == 49 * 10 + 1
    assert abs(float(run.x[:, 1].mean()) - 0.9) < 0.3 * abs(float(once[:, 1].mean()) - 0.9)


def test_known_entries_have_the_noise_of_their_level_and_their_own():
    """score_sde's known pixels are one level behind, and diffusers' RePaint gives both parts one noise."""
    model, seen = pair(0.0).model(SDES["ddpm"]), []
    y = torch.full((1, 2), 3.0, dtype=torch.float64)
    ss.sample(
        model, (20_000, 2), Replacement(FIRST), steps=4, dtype=torch.float64, generator=generator(), y=y,
        callback=lambda n, t, z, data: seen.append((t, z.clone())),
    )  # fmt: skip
    for t, z in seen:
        alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
        # 5 standard errors.
        assert float(z[:, 0].mean()) == pytest.approx(3 * alpha, abs=5 * sigma / math.sqrt(20_000))
        assert float(z[:, 0].std()) == pytest.approx(sigma, rel=5 / math.sqrt(40_000))
        assert abs(float(torch.corrcoef(z.T)[0, 1])) < 5 / math.sqrt(20_000)


def test_split_gibbs_has_the_posterior_of_a_wider_noise():
    """Scalar S = 1, y = 1, sigma_y = .3, rho = .5: N(.74627, .25373), that of the noise .3^2 + .5^2. 1e5 chains: standard error .0016."""
    sde = SDES["linear"]
    model = analytic.GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)).model(sde)
    t = float(sde.time(torch.tensor(-math.log(0.5), dtype=torch.float64)))
    grid = torch.linspace(t, 0.5 * t, 9, dtype=torch.float64)
    z = sde.prior_std * torch.randn(100_000, 1, dtype=torch.float64, generator=generator())
    lik = Gaussian(lambda x: x, 0.3)
    run = ss.sample(
        model, z.shape, SplitGibbs(lik, least=0.5, inner=30), grid=grid, z=z, generator=generator(1),
        y=torch.ones(1, 1, dtype=torch.float64), trajectory=True,
    )  # fmt: skip
    assert float(run.x.mean()) == pytest.approx(0.74627, abs=3e-3 + 5 * 0.0016)
    assert float(run.x.var()) == pytest.approx(0.25373, abs=3e-3 + 5 * 0.0012)
    assert run.nfe == 30 * 9


def test_twisted_particles_sample_the_posterior():
    """x_1 observed as 1 +- .1: x_2 ~ N(.8911, .1980). 4096 particles: the standard error of the mean is .007."""
    model = pair().model(SDES["linear"])
    post = inverse.pigdm(model, Gaussian(lambda x: x[:, :1], 0.1))
    y = torch.ones(1, 1, dtype=torch.float64)
    k = 4096
    x = ss.sample(post, (k, 2), TwistedSMC(k), steps=400, dtype=torch.float64, generator=generator(), y=y)
    assert float(x[:, 1].mean()) == pytest.approx(0.8911, abs=0.02)
    assert float(x[:, 1].var()) == pytest.approx(0.1980, abs=0.02)
    run = ss.sample(
        post, (k, 2), TwistedSMC(k, ess=0.0), steps=50, dtype=torch.float64, generator=generator(), y=y, trajectory=True
    )
    w = run.log_weights.exp()
    assert float(w.sum()) == pytest.approx(1.0)
    assert float((w * run.x[:, 1]).sum()) == pytest.approx(0.8911, abs=0.04)
    # log N(1; 0, 1 + .01) is the evidence.
    assert float(run.log_evidence) == pytest.approx(-0.5 * math.log(2 * math.pi * 1.01) - 0.5 / 1.01, abs=0.05)


def test_twisted_particles_of_several_problems_do_not_see_each_other():
    sde = SDES["ddpm"]
    post = inverse.mmps(OwnPrediction(sde, "noise"), Gaussian(operators.matrix(observation_matrix(1, 2)), 0.2))
    y = torch.tensor([-0.5, 0.0, 0.7], dtype=torch.float64)[:, None].repeat_interleave(16, 0)
    seeds = list(range(48))
    whole = ss.sample(post, (48, 2), TwistedSMC(16), steps=10, seeds=seeds, y=y, dtype=torch.float64)
    alone = ss.sample(post, (16, 2), TwistedSMC(16), steps=10, seeds=seeds[16:32], y=y[16:32], dtype=torch.float64)
    torch.testing.assert_close(alone, whole[16:32], rtol=0, atol=1e-9)


SCALAR = [
    (lambda lik: DPS(lik, 0.5), 20),
    (lambda lik: DAPS(lik, ode=3), 58),
    (lambda lik: SplitGibbs(lik, inner=3), 63),
    (lambda lik: Replacement(FIRST, 2), 39),
]


@pytest.mark.parametrize(("make", "calls"), SCALAR)
def test_loops_count_their_calls_and_keep_samples_apart(make, calls):
    """One norm over the batch makes DPS of others depend on its size; a NaN in one sample zeroes the batch of DAPS of others."""
    sde = SDES["ddpm"]
    model = OwnPrediction(sde, "noise")
    solver = make(Gaussian(lambda x: x[:, :1], 0.2))
    width = 2 if isinstance(solver, Replacement) else 1
    y = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None].expand(7, width).clone()
    options = {"steps": 20, "dtype": torch.float64}
    run = ss.sample(model, (7, 2), solver, seeds=range(7), y=y, trajectory=True, **options)
    assert run.nfe == calls
    assert run.network_calls == calls
    assert ss.plan(sde, solver, steps=20).nfe == calls
    assert run.vjps == (20 if isinstance(solver, DPS) else 0)
    alone = torch.cat([ss.sample(model, (1, 2), solver, seeds=[i], y=y[i : i + 1], **options) for i in range(7)])
    torch.testing.assert_close(alone, run.x, rtol=0, atol=1e-9)
    parts = ss.sample(model, (7, 2), solver, seeds=range(7), y=y, batch_size=3, **options)
    torch.testing.assert_close(parts, run.x, rtol=0, atol=1e-9)
    y[2] = torch.nan
    states = []
    with pytest.raises(FloatingPointError):
        ss.sample(model, (7, 2), solver, seeds=range(7), y=y, callback=lambda n, t, z, d: states.append(z.clone()), **options)
    rest = [0, 1, 3, 4, 5, 6]
    assert bool(states[19][rest].isfinite().all())
    with pytest.raises(TypeError, match="y="):
        ss.sample(model, (7, 2), solver, seeds=range(7), **options)


def test_dps_is_the_code_of_its_paper():
    """z' - zeta grad_z |y - A D|, by hand (the paper's formula has twice that)."""
    sde, zeta = SDES["ddpm"], 0.7
    model = OwnPrediction(sde, "noise")
    grid, a = ss.grids.uniform(sde, 6), observation_matrix(1, 2)
    z = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    y = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    table, stream, hand = ss.plan(sde, "ancestral", grid=grid).tableau, generator(3), z
    for n, row in enumerate(table.rows):
        v = hand.clone().requires_grad_()
        data = model.data(v, float(grid[n]))
        (gradient,) = torch.autograd.grad((y - data @ a.T).norm(dim=1).sum(), v)
        hand = row.z.get(n, 0.0) * hand + row.data[n] * data.detach() - zeta * gradient
        for c in row.xi.values():
            hand = hand + c * torch.randn(hand.shape, dtype=torch.float64, generator=stream)
    ours = ss.sample(model, z.shape, DPS(Gaussian(operators.matrix(a), 0.1), zeta), grid=grid, z=z, generator=generator(3), y=y)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-12)


def test_daps_is_its_loop_by_hand():
    """x0 by one call of the flow, x ~ N(x0, r^2) N(y; x, .3^2), z_s ~ q(z_s | x); A is the identity, so that K is a number."""
    sde, std = SDES["linear"], 0.3
    model = OwnPrediction(sde, "data")
    grid = ss.grids.half_log_snr(sde, 6)
    z = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    y, stream, hand = torch.tensor([[0.3, -0.2]], dtype=torch.float64), generator(3), z

    def noise():
        return torch.randn(5, 2, dtype=torch.float64, generator=stream)

    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        r = float(sde.sigma(t) / sde.alpha(t))
        x = model.data(hand, t) + r * noise()
        x = x + r**2 / (std**2 + r**2) * (y + std * noise() - x)
        hand = float(sde.alpha(s)) * x + float(sde.sigma(s)) * noise() if s > 0 else x
    ours = ss.sample(model, z.shape, DAPS(Gaussian(lambda x: x, std), ode=1), grid=grid, z=z, generator=generator(3), y=y)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-7)


LINEAR = Gaussian(lambda x: x[:, :1], 0.2)
SQUARE = Gaussian(lambda x: x[:, :1] ** 2, 0.5, linear=False)


@pytest.mark.parametrize(
    "solver",
    [DPS(LINEAR, 0.5), DPS(SQUARE, 0.5), DAPS(LINEAR, ode=2), DAPS(SQUARE, ode=2, langevin=3), SplitGibbs(LINEAR, inner=2)],
)
def test_gradients_flow_through_loops(solver):
    """The noise of every call is the same, so that the end is a function of the start."""
    model, y = OwnPrediction(SDES["linear"], "data"), torch.ones(1, 1, dtype=torch.float64)

    def end(z, **options):
        return ss.sample(model, z.shape, solver, steps=3, z=z, y=y, seeds=range(2), **options)

    z = torch.randn(2, 2, dtype=torch.float64, generator=generator()).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: end(z, grad=True), z, eps=1e-5, atol=1e-3, rtol=1e-3)
    assert not end(z).requires_grad


def test_draws_of_a_linear_gaussian_are_exact():
    """Perturb and solve against the moments of N(m, v) N(y; A x, S); 2e5 draws: standard errors below .003."""
    a, mean, v = observation_matrix(2, 3), torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), 0.8
    std = torch.tensor([0.3, 0.6], dtype=torch.float64)
    y = torch.tensor([1.0, -0.5], dtype=torch.float64)
    n = 200_000
    x = conditional.exact_draw(
        Gaussian(operators.matrix(a), std), mean.expand(n, 3), v, y.expand(n, 2), noise_source(generator(), None, n)
    )
    cov = torch.linalg.inv(torch.eye(3, dtype=torch.float64) / v + a.T @ torch.diag(std**-2) @ a)
    exact = cov @ (mean / v + a.T @ (y / std**2))
    torch.testing.assert_close(x.mean(0), exact, rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0, atol=0.01)
    few = conditional.langevin_draw(
        Gaussian(operators.matrix(a), std),
        mean.expand(20_000, 3),
        v,
        y.expand(20_000, 2),
        noise_source(generator(), None, 20_000),
        300,
        0.1,
    )
    torch.testing.assert_close(few.mean(0), exact, rtol=0, atol=0.05)
    assert not conditional.is_exact(Poisson(operators.matrix(a)))
    assert not conditional.is_exact(Gaussian(operators.phase(), 0.1))


def test_daps_and_split_gibbs_take_counts_and_moduli():
    sde = SDES["linear"]
    prior = analytic.GaussianMixture(torch.full((1, 1, 2, 2), 2.0, dtype=torch.float64), torch.tensor([0.05], dtype=torch.float64))
    model = prior.model(sde)
    x = prior.sample(6, generator())
    for lik, y in (
        (Poisson(lambda x: x, 20.0), torch.poisson(20 * x, generator=generator(1)) / 20),
        (Gaussian(operators.phase(), 0.3), operators.phase()(x)),
    ):
        for solver in (DAPS(lik, langevin=30), SplitGibbs(lik, langevin=30, least=0.1)):
            out = ss.sample(model, x.shape, solver, steps=20, seeds=range(6), y=y, dtype=torch.float64)
            assert float((out - 2).abs().mean()) < 0.5


def test_wrong_arguments_are_refused_by_name():
    lik = Gaussian(lambda x: x[:, :1], 0.2)
    model = pair().model(SDES["linear"])
    with pytest.raises(ValueError, match="TwistedSMC needs a Posterior"):
        ss.sample(model, (8, 2), TwistedSMC(8), steps=3, y=torch.ones(1, 1))
    with pytest.raises(ValueError, match="chain must be a stochastic solver"):
        TwistedSMC(8, chain=ss.solvers.DDIM())
    with pytest.raises(ValueError, match="particles must be at least 1"):
        TwistedSMC(0)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        Replacement(FIRST, 0)
    with pytest.raises(ValueError, match="zeta must be at least 0"):
        DPS(lik, -1.0)
    with pytest.raises(ValueError, match="least must be positive"):
        SplitGibbs(lik, least=0.0)
    with pytest.raises(ValueError, match="size must be positive"):
        DAPS(lik, size=0.0)
