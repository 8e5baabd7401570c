"""Solvers with a loop of their own: adaptive ODE and SDE, Langevin correctors, torchsde."""

import math
import warnings

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.loops.adaptive_sde import BrownianMemory
from scoresde.loops.predictor_corrector import langevin_step
from scoresde.numerics import dormand_prince as adaptive_ode
from scoresde.numerics.random import BatchNoise

from .conftest import LOOPS, SDES, budget, generator, mixture

PROCESSES = {**SDES, "sub-vp": ss.SubVPSDE(), "ve": ss.VESDE(), "edm": ss.EDM(), "flow": ss.RectifiedFlow()}
processes = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
few_processes = pytest.mark.parametrize(
    "sde", [PROCESSES[n] for n in ("linear", "ddpm", "zero terminal", "sub-vp", "ve", "edm", "flow")]
)
every_loop = pytest.mark.parametrize("name", LOOPS)
LINEAR = SDES["linear"]


def gaussian(mean=0.7, std=0.3, d=1):
    return analytic.GaussianMixture(torch.full((1, d), mean, dtype=torch.float64), torch.tensor([std**2], dtype=torch.float64))


def assert_law(x, mean, std, bias=0.0):
    """Mean and standard deviation within 5 standard errors, std/sqrt(n) and std/sqrt(2n), and a known relative bias."""
    n = x.numel()
    assert float(x.mean()) == pytest.approx(mean, abs=std * (5 / math.sqrt(n) + bias))
    assert float(x.std()) == pytest.approx(std, abs=std * (5 / math.sqrt(2 * n) + bias))


# --- all loops -------------------------------------------------------------------------------------------------------------------------


@every_loop
@processes
def test_a_point_mass_is_returned(name, sde):
    point = torch.tensor([0.3, -2.0])
    model = analytic.GaussianMixture(point[None], torch.zeros(1)).model(sde)
    x = ss.sample(model, (16, 2), name, **budget(name, 10), generator=generator())
    assert float((x - point).abs().max()) <= 1e-4


@every_loop
def test_a_sample_does_not_depend_on_its_batch(name):
    """A batch of 8 is 8 batches of 1, with its condition, one row a sample (peer bugs 7 and 8)."""
    exact = mixture().model(LINEAR)

    class Shifted(torch.nn.Module):
        def forward(self, z, t, shift, scale):
            assert shift.shape == z.shape
            return scale * exact.data(z - shift, t)

    model = ss.ScoreModel(Shifted(), LINEAR, "data", time="t")
    shift, scale = torch.randn(8, 2, dtype=torch.float64, generator=generator(1)), torch.tensor([0.9, 0.8])
    options = {"scale": scale, "dtype": torch.float64, **budget(name, 6)}
    batch = ss.sample(model, (8, 2), name, seeds=range(8), shift=shift, **options)
    alone = [ss.sample(model, (1, 2), name, seeds=[i], shift=shift[i : i + 1], **options) for i in range(8)]
    torch.testing.assert_close(torch.cat(alone), batch, rtol=1e-9, atol=1e-9)


@every_loop
def test_callback_and_trajectory_show_the_path(name):
    model, seen = mixture().model(LINEAR), []
    out = ss.sample(
        model,
        (5, 2),
        name,
        **budget(name, 6),
        seeds=range(5),
        trajectory=True,
        callback=lambda *args: seen.append(args),
        dtype=torch.float64,
    )
    assert torch.equal(out.path[-1], out.x)
    assert len(out.path) == len(out.times) == len(seen) + 1
    for n, (number, t, z, data) in enumerate(seen):
        assert number == n
        t = torch.as_tensor(t, dtype=torch.float64)
        assert torch.equal(t, out.times[n])
        torch.testing.assert_close(z, out.path[n])
        on_the_way = (t.expand(5) > LINEAR.t_min) | (n == len(seen) - 1)  # the others wait
        torch.testing.assert_close(data[on_the_way], model.data(z, t)[on_the_way], rtol=1e-6, atol=1e-6)


@every_loop
def test_the_start_is_not_changed_and_calls_are_counted(name):
    calls = torch.zeros(4, dtype=torch.int64)

    class Spy(torch.nn.Module):
        def forward(self, z, t, who):
            calls[who] += 1
            return torch.tanh(z)

    z = torch.randn(4, 3, generator=generator())
    kept = z.clone()
    model = ss.ScoreModel(Spy(), LINEAR, "data", time="t")
    out = ss.sample(model, z.shape, name, **budget(name, 5), z=z, generator=generator(1), trajectory=True, who=torch.arange(4))
    assert torch.equal(z, kept)
    assert out.nfe == int(calls.max())
    if out.calls is not None:
        assert torch.equal(out.calls, calls)


def test_arguments_that_mean_nothing_are_refused_by_name():
    model = mixture().model(LINEAR)
    for name in ("adaptive", "gotta-go-fast"):
        for option in ({"nfe": 100}, {"grid": "karras"}):
            with pytest.raises(ValueError, match=f"{next(iter(option))}= means nothing"):
                ss.sample(model, (2, 2), name, **option)
        with pytest.raises(ss.loops.StepLimitError, match=r"tried 3 steps and reached t=0\.\d+: allow more with steps="):
            ss.sample(model, (2, 2), name, steps=3, generator=generator())
    with pytest.raises(ValueError, match="nfe= means nothing to TorchSDE"):
        ss.sample(model, (2, 2), "torchsde-euler", nfe=10)
    with pytest.raises(ValueError, match="is no tableau"):
        ss.plan(LINEAR, "pc", steps=3)
    for make in (
        lambda: ss.loops.AdaptiveODE(rtol=0),
        lambda: ss.loops.AdaptiveODE(t_end=1.0),
        lambda: ss.loops.GottaGoFast(atol=0),
        lambda: ss.loops.GottaGoFast(t_end=-0.1),
        lambda: ss.loops.PredictorCorrector(snr=0),
        lambda: solvers.AnnealedLangevin(step_size=4),
        lambda: ss.loops.TorchSDE("rk4"),
    ):
        with pytest.raises(ValueError, match=r"rtol|t_end|atol|snr|step_size|method"):
            make()


@pytest.mark.parametrize("name", ["adaptive", "gotta-go-fast"])
def test_a_prediction_that_is_not_finite_names_the_time(name):
    class Breaks(torch.nn.Module):
        def forward(self, z, t):
            return torch.where(t < 0.5, torch.nan, 0.0)[:, None] * z

    with pytest.raises(FloatingPointError, match=r"not finite at t=0\.\d"):
        ss.sample(ss.ScoreModel(Breaks(), LINEAR, "data", time="t"), (2, 3), name, generator=generator())


# --- adaptive ODE ----------------------------------------------------------------------------------------------------------------------


@processes
def test_adaptive_ode_follows_the_gaussian_flow_map(sde):
    """z_t - alpha_t mu grows as the marginal standard deviation, in each direction; the error is about the tolerance."""
    mean, std = torch.tensor([0.7, -0.2], dtype=torch.float64), torch.tensor([0.3, 1.5], dtype=torch.float64)
    model, end = analytic.GaussianMixture(mean[None], std[None] ** 2).model(sde), 0.02
    z = sde.prior_std * torch.randn(32, 2, dtype=torch.float64, generator=generator())
    before, after = ((sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2).sqrt() for t in (1.0, end))
    exact = sde.alpha(end) * mean + after / before * (z - sde.alpha(1.0) * mean)
    for tol in (1e-4, 1e-6, 1e-8):
        x = ss.sample(model, z.shape, ss.loops.AdaptiveODE(tol, tol, t_end=end), z=z)
        assert float(((x - exact) / after).square().mean().sqrt()) <= 5 * tol


@few_processes
def test_adaptive_ode_error_is_proportional_to_its_tolerance(sde):
    model = mixture().model(sde)
    z = sde.prior_std * torch.randn(64, 2, dtype=torch.float64, generator=generator())
    exact = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-12, 1e-12), z=z)
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        x = ss.sample(model, z.shape, ss.loops.AdaptiveODE(tol, tol), z=z)
        errors.append(float((x - exact).square().mean().sqrt()))
        assert errors[-1] <= 10 * tol
    assert errors == sorted(errors, reverse=True)


def test_adaptive_ode_agrees_with_many_steps_of_order_3():
    model, z = mixture().model(LINEAR), torch.randn(64, 2, dtype=torch.float64, generator=generator())
    fine = ss.sample(model, z.shape, "dpm++3m", steps=3000, z=z)
    adaptive = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-9, 1e-9), z=z)
    assert float((fine - adaptive).abs().max()) <= 1e-5


def test_integrate_agrees_with_scipy_both_ways():
    """Per-sample steps on a nonlinear pendulum, there and back, against scipy's DOP853."""
    from scipy.integrate import solve_ivp

    def f(u, y, active):
        return torch.stack([y[:, 1], -torch.sin(y[:, 0]) * (1 + u)], 1)

    y = torch.tensor([[0.1, 0.0], [2.5, 0.3]], dtype=torch.float64)
    there, slope, calls = adaptive_ode.integrate(f, 0.0, 3.0, y, rtol=1e-9, atol=1e-9)
    for i in range(2):
        exact = solve_ivp(
            lambda u, v: [v[1], -math.sin(v[0]) * (1 + u)], (0, 3), y[i].tolist(), method="DOP853", rtol=1e-13, atol=1e-13
        ).y[:, -1]
        torch.testing.assert_close(there[i], torch.from_numpy(exact), rtol=0, atol=1e-8)
    torch.testing.assert_close(slope, f(torch.full((2,), 3.0, dtype=torch.float64), there, None))
    back, _, _ = adaptive_ode.integrate(f, 3.0, 0.0, there, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, y, rtol=0, atol=1e-7)
    assert calls[0] != calls[1]


def test_embedded_pair_has_orders_5_and_4():
    """The order conditions of quadrature, sum_i b_i c_i^p = 1/(p+1), and every stage consistent: sum_j a_ij = c_i."""
    nodes, high = adaptive_ode.NODES, (*adaptive_ode.STAGES[-1], 0.0)
    low = [b - e for b, e in zip(high, adaptive_ode.ERROR, strict=True)]
    for weights, order in ((high, 5), (low, 4)):
        for p in range(order):
            assert sum(b * c**p for b, c in zip(weights, nodes, strict=True)) == pytest.approx(1 / (p + 1), abs=1e-14)
    for node, stage in zip(nodes[1:], adaptive_ode.STAGES, strict=True):
        assert sum(stage) == pytest.approx(node, abs=1e-14)
    # One step of y' = y is e^h to order h^6: halving h divides the error by 64.
    f = lambda u, y, active: y  # noqa: E731
    errors = []
    for h in (0.4, 0.2):
        y = torch.ones(1, 1, dtype=torch.float64)
        k = [y]
        for stage in adaptive_ode.STAGES:
            k.append(f(0, y + h * sum(a * s for a, s in zip(stage, k, strict=True)), None))
        errors.append(abs(float(k[-1]) - math.exp(h)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.3)


def test_finished_samples_are_not_evaluated():
    """One sample next to a sharp boundary needs more calls than one far away; the sum of rows is the sum of calls."""
    seen = 0
    exact = analytic.GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([1e-6, 1e-6])).model(LINEAR)

    class Spy(torch.nn.Module):
        def forward(self, z, t):
            nonlocal seen
            seen += len(z)
            return exact.data(z, t)

    z = torch.tensor([[1e-3], [3.0]], dtype=torch.float64)
    out = ss.sample(ss.ScoreModel(Spy(), LINEAR, "data", time="t"), (2, 1), "adaptive", z=z, trajectory=True)
    assert seen == int(out.calls.sum())
    assert out.calls[0] > out.calls[1]


def test_gradients_flow_through_the_adaptive_ode():
    """dz_0/dz_1 of the Gaussian flow map is the ratio of the standard deviations."""
    z = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    x = ss.sample(gaussian().model(LINEAR), (1, 1), ss.loops.AdaptiveODE(1e-8, 1e-8, t_end=0.02), z=z, grad=True)
    (slope,) = torch.autograd.grad(x.sum(), z)
    std = [float((LINEAR.alpha(t) ** 2 * 0.09 + LINEAR.sigma(t) ** 2).sqrt()) for t in (0.02, 1.0)]
    assert float(slope) == pytest.approx(std[0] / std[1], rel=1e-6)


# --- adaptive SDE ----------------------------------------------------------------------------------------------------------------------


@processes
def test_gotta_go_fast_has_the_law_of_gaussian_data(sde):
    x = ss.sample(gaussian().model(sde), (3000, 1), ss.loops.GottaGoFast(0.02, 0.004), generator=generator(), dtype=torch.float64)
    # The discretisation error at these tolerances, and sigma(t_min) of the last step, are below 1 %; no sample is far out.
    assert_law(x, 0.7, 0.3, bias=0.01)
    assert float((x - 0.7).abs().max()) < 6 * 0.3


def test_brownian_memory_does_not_bias():
    """Steps rejected because their noise is large: the path ends as N(0, 1) all the same, whose variance forgetting would make smaller."""
    n, g = 20_000, generator()
    start = torch.zeros(n, 1, dtype=torch.float64)

    def run(remember):
        memory, total = BrownianMemory(start), start.clone()
        t, h = torch.ones(n, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
        while len(active := (t > 0).nonzero().flatten()):
            target = (t[active] - h[active]).clamp(min=0)
            reached, w = memory.draw(active, t[active], target, torch.randn(len(active), 1, dtype=torch.float64, generator=g))
            accept = (w[:, 0].abs() <= 0.5) | (h[active] < 0.02)
            if remember:
                memory.put_back(active[~accept], reached[~accept], w[~accept])
            t[active] = torch.where(accept, reached, t[active])
            total[active] += torch.where(accept[:, None], w, 0.0)
            h[active] = torch.where(accept, 0.5, 0.3 * h[active])
        return total

    assert_law(run(True), 0.0, 1.0)
    assert float(run(False).std()) < 0.95


# --- Langevin --------------------------------------------------------------------------------------------------------------------------


@processes
@pytest.mark.parametrize("event", [(64,), (1, 8, 8)])
def test_corrector_leaves_the_marginal_of_every_process(sde, event):
    """On N(0, tau^2) a step of size e keeps tau^2/(1 - e/(2 tau^2)); with |xi|/|score| near tau, e/tau^2 = 2 r^2 (1 + O(1/d)).

    (Peer bugs 8 and 12: the step of the corrector by the batch mean, and tables that some processes lack.)
    """
    t, snr, d = 0.3, 0.1, math.prod(event)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    tau = math.hypot(0.3 * alpha, sigma)
    model = analytic.GaussianMixture(
        torch.full((1, *event), 0.7, dtype=torch.float64), torch.tensor([0.09], dtype=torch.float64)
    ).model(sde)
    z = alpha * 0.7 + tau * torch.randn(200, *event, dtype=torch.float64, generator=generator())
    noise = BatchNoise(generator(1))
    for _ in range(200):
        z = langevin_step(model, z, t, noise, snr)
    # 2 r^2 = 0.02 makes the standard deviation 0.5 % larger; that the step falls where |z| is large adds about 2/d.
    assert_law(z, alpha * 0.7, tau, bias=snr**2 / 2 + 2 / d)


@processes
def test_predictor_corrector_has_the_law_of_gaussian_data(sde):
    """Closer than its predictor alone, and within 5 % at 100 steps."""
    grid = grids.half_log_snr(sde, 100)
    x = ss.sample(gaussian(d=64).model(sde), (300, 64), "pc", grid=grid, generator=generator(), dtype=torch.float64)
    predicted = solvers.ReverseDiffusion().tableau(sde, grid).moments(0.7, 0.3)
    error, alone = (abs(float(x.std()) - 0.3), abs(predicted[1] - 0.3))
    assert error <= 0.05 * 0.3
    # A standard deviation of 300 x 64 draws is known to 0.3/sqrt(2 x 19200): two of those.
    assert error <= alone + 2 * 0.3 / math.sqrt(2 * 300 * 64)
    assert float(x.mean()) == pytest.approx(0.7, abs=0.01)


def test_a_corrector_in_one_dimension_stays_finite():
    """Where a score vanishes the rule has no bound; ours is sigma^2."""
    model = gaussian().model(LINEAR)
    x = ss.sample(model, (20_000, 1), "pc", steps=50, generator=generator(), dtype=torch.float64)
    assert float((x - 0.7).abs().max()) < 10 * 0.3


def test_predictors_and_budgets():
    model = mixture().model(LINEAR)
    for predictor in (solvers.Ancestral(), solvers.ProbabilityFlow("heun")):
        pc = ss.loops.PredictorCorrector(predictor, corrections=0)
        a, b = (ss.sample(model, (4, 2), s, grid=grids.karras(LINEAR, 7), seeds=range(4)) for s in (pc, predictor))
        assert torch.equal(a, b)
    for nfe in (4, 9, 10, 11):
        out = ss.sample(model, (2, 2), ss.loops.PredictorCorrector(corrections=2), nfe=nfe, trajectory=True)
        assert nfe - 3 < out.nfe <= nfe
    with pytest.raises(ValueError, match="one-step solver"):
        ss.sample(model, (4, 2), ss.loops.PredictorCorrector(solvers.DPMSolverPP(2)), steps=7)


def test_reverse_diffusion_is_the_published_step_on_the_chain():
    """z' = (2 - sqrt(1 - beta)) z + beta score + sqrt(beta) xi (Song et al. 2021, algorithm 3)."""
    sde = SDES["ddpm"]
    tableau = solvers.ReverseDiffusion().tableau(sde, grids.ddpm(sde, 1000)).folded("score")
    for k, row in enumerate(tableau.rows[:-1]):
        beta = float(sde.betas[999 - k])
        assert row.z[k] == pytest.approx(2 - math.sqrt(1 - beta), rel=1e-10)
        assert row.data[k] == pytest.approx(beta, rel=1e-8)
        assert row.xi[k] == pytest.approx(math.sqrt(beta), rel=1e-8)


@processes
def test_annealed_langevin_has_the_law_of_gaussian_data(sde):
    """By its exact moments: within 5 % with many small steps, and closer than with few large ones."""
    errors = []
    for levels, corrections, step_size in ((10, 50, 0.2), (40, 200, 0.05)):
        solver = solvers.AnnealedLangevin(corrections, step_size)
        mean, std = solver.tableau(sde, grids.half_log_snr(sde, levels)).moments(0.7, 0.3)
        errors.append(abs(std - 0.3))
    assert mean == pytest.approx(0.7, abs=1e-3)
    assert errors[1] <= 0.05 * 0.3
    assert errors[1] < errors[0]


# --- torchsde --------------------------------------------------------------------------------------------------------------------------


@processes
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_torchsde_euler_is_euler_maruyama_draw_by_draw(sde, steps):
    model = mixture().model(sde)
    ours, theirs = (
        ss.sample(model, (6, 2), name, steps=steps, seeds=range(6), dtype=torch.float64, trajectory=True)
        for name in ("euler-maruyama", "torchsde-euler")
    )
    assert ours.nfe == theirs.nfe
    if float(sde.alpha(1.0)) > 0:  # from zero signal ours draws noise anew
        torch.testing.assert_close(theirs.path, ours.path, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [100, 1000, 2000])
def test_torchsde_takes_as_many_steps_as_asked_for(steps):
    """Peer bugs 4 and 5: no extra step of a rounding error, no query outside the Brownian interval."""
    out = ss.sample(
        mixture().model(LINEAR), (1, 2), "torchsde-euler", steps=steps, grid="uniform", generator=generator(), trajectory=True
    )
    assert out.nfe == steps
    assert torch.equal(out.times, grids.uniform(LINEAR, steps))


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "euler_heun", "heun", "log_ode", "midpoint", "reversible_heun"])
def test_every_method_of_torchsde_has_the_law_of_gaussian_data(method):
    n = 4000
    x = ss.sample(
        gaussian().model(LINEAR), (n, 1), ss.loops.TorchSDE(method), steps=100, generator=generator(), dtype=torch.float64
    )
    # Euler at 100 steps is off by 5 % in the standard deviation (its exact moments).
    exact = solvers.EulerMaruyama().tableau(LINEAR, grids.half_log_snr(LINEAR, 100)).moments(0.7, 0.3)
    assert_law(x, 0.7, 0.3, bias=1.2 * abs(exact[1] - 0.3) / 0.3)


@pytest.mark.parametrize("method", ["euler", "srk", "midpoint"])
def test_adaptive_torchsde(method):
    solver = ss.loops.TorchSDE(method, adaptive=True, rtol=1e-2, atol=1e-2, dt_min=1e-4)
    model = gaussian().model(LINEAR)
    batch = ss.sample(model, (3, 1), solver, steps=5, seeds=range(3), dtype=torch.float64, trajectory=True)
    assert batch.calls.shape == (3,)
    for i in range(3):
        alone = ss.sample(model, (1, 1), solver, steps=5, seeds=[i], dtype=torch.float64)
        torch.testing.assert_close(alone, batch.x[i : i + 1])


def test_the_reverse_sde_goes_into_sdeint_directly():
    """Flattened, with rising time; the law of Gaussian data at t = 0.05 after 400 Euler steps."""
    torchsde = pytest.importorskip("torchsde")
    event, n, end = (1, 2, 2), 2000, 0.05
    model = analytic.GaussianMixture(
        torch.full((1, *event), 0.7, dtype=torch.float64), torch.tensor([0.09], dtype=torch.float64)
    ).model(LINEAR)
    reverse = LINEAR.reverse(model).flattened(event)
    y = torch.randn(n, 4, dtype=torch.float64, generator=generator())
    bm = torchsde.BrownianInterval(0.0, 1 - end, size=(n, 4), dtype=torch.float64, entropy=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torchsde.sdeint(reverse, y, torch.tensor([0.0, 1 - end], dtype=torch.float64), bm=bm, method="euler", dt=1 / 400)[-1]
    alpha, sigma = float(LINEAR.alpha(end)), float(LINEAR.sigma(end))
    # The weak error of 400 uniform Euler steps here, by the exact moments of ours, is 1 %.
    assert_law(x, alpha * 0.7, math.hypot(alpha * 0.3, sigma), bias=0.02)
    # Without an event shape, states of shape (B, d) pass as they are.
    plain = gaussian(d=4).model(LINEAR)
    torch.testing.assert_close(LINEAR.reverse(plain).f(0.3, y), reverse.f(0.3, y))
    assert reverse.g(0.3, y).shape == y.shape
