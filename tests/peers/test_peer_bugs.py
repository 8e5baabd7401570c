"""Bugs 1 to 23 that users found in other libraries, each as a test of ours, by their number in our collection of them."""

import inspect
import itertools
import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.loops.predictor_corrector import langevin_step
from scoresde.numerics.random import BatchNoise, SeededNoise
from scoresde.sde import VPChain, prediction

from ..conftest import LOOPS, SDES, budget, generator, linear_betas, mixture, sdes

LINEAR, CHAIN = SDES["linear"], SDES["ddpm"]
ON_GRIDS = [name for name in solvers.names() if not isinstance(solvers.get(name), ss.loops.AdaptiveLoop)]
ADAPTIVE = [ss.loops.AdaptiveODE, ss.loops.GottaGoFast]


def irregular(steps, seed=0):
    inner = torch.rand(steps - 1, dtype=torch.float64, generator=generator(seed)).sort(descending=True).values
    return torch.cat([inner.new_ones(1), inner, inner.new_zeros(1)])


class Spy(torch.nn.Module):
    """tanh of the state; keeps the times that it sees."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, z, t):
        self.times.append(float(t[0]))
        return torch.tanh(z)


@pytest.mark.parametrize("name", [name for name in ON_GRIDS if name in LOOPS])
def test_bug_01_the_previous_time_is_the_next_of_the_grid(name):
    """The previous t came from a fixed stride, so that any other spacing was silently wrong (diffusers#9261, #12633).

    Tables are held to it in test_every_table.
    """
    for steps in (1, 2, 7):
        grid, spy = irregular(steps), Spy()
        out = ss.sample(ss.ScoreModel(spy, LINEAR, "data"), (1, 2), name, grid=grid, dtype=torch.float64, trajectory=True)
        assert torch.equal(out.times, grid)
        assert len(out.path) == steps + 1
        assert spy.times[0] == pytest.approx(1, abs=1e-12)
        for t in grid[:-1]:
            # The spy's time passes through float32, and through 1 - t in torchsde.
            assert min(abs(seen - float(t)) for seen in spy.times) < 1e-7


@pytest.mark.parametrize("steps", [100, 200, 2000, 4000])
def test_bug_02_every_index_of_a_chain_appears_once(steps):
    """floor(t (N - 1)) in float32 repeats indices: 92 distinct of 100, 3973 of 4000 (score_sde_pytorch)."""
    sde, spy = ss.VPSDE.from_betas(linear_betas(steps)), Spy()
    ss.sample(ss.ScoreModel(spy, sde, "data", time="index"), (1, 1), "ddim", grid=grids.uniform(sde, steps))
    # What the network itself sees, in float32: the indices to the last bit.
    assert spy.times == list(range(steps - 1, -1, -1))


@pytest.mark.parametrize("name", ["linear", "sub-vp", "ve", "edm"])
def test_bug_03_the_steps_of_euler_sum_to_the_span_of_the_grid(name):
    """dt = 1/N on a grid whose steps are (T - eps)/(N - 1): 11 % off at N = 10 (score_sde_pytorch). Here dt is read from g sqrt(dt)."""
    sde = SDES[name]
    for steps, spacing in itertools.product((2, 10, 50, 1000), ("uniform", "karras")):
        grid = grids.get(spacing)(sde, steps)
        tableau = solvers.EulerMaruyama().tableau(sde, grid)
        noisy = [(t, next(iter(row.xi.values()))) for t, row in zip(tableau.times, tableau.rows, strict=False) if row.xi]
        assert len(noisy) == steps - 1
        assert sum((c / float(sde.diffusion(t))) ** 2 for t, c in noisy) == pytest.approx(1 - sde.t_min, rel=1e-12)


def test_bug_04_no_step_of_a_rounding_error_is_added():
    """t += dt in float32 left a last step of 1e-6: 101 steps for dt = 0.01, 1001 for 0.001 (torchsde, its issue #109)."""
    for name, steps in (("euler-maruyama", 100), ("ancestral", 1000), ("torchsde-euler", 100), ("torchsde-euler", 1000)):
        spy = Spy()
        out = ss.sample(ss.ScoreModel(spy, LINEAR, "data"), (1, 1), name, steps=steps, grid="uniform", trajectory=True)
        assert len(spy.times) == out.nfe == steps
    for sde, steps in itertools.product((LINEAR, CHAIN), (100, 1000, 2000)):
        lengths = -grids.uniform(sde, steps)[:-1].diff()
        torch.testing.assert_close(lengths, torch.full_like(lengths, (1 - sde.t_min) / (steps - 1)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["torchsde-euler", "torchsde-srk"])
def test_bug_05_a_brownian_path_is_asked_within_its_bounds(name):
    """A query one rounding error outside [t0, t1], or sigma 0 below t0, was an endless recursion (diffusers#13274, #13515; torchsde#105)."""
    model = mixture().model(SDES["edm"])
    for spacing, steps in (("karras", 3), ("karras", 100), ("half_log_snr", 37)):
        out = ss.sample(model, (2, 2), name, steps=steps, grid=spacing, generator=generator(), trajectory=True)
        assert (float(out.times[0]), float(out.times[-1])) == (1.0, 0.0)
        assert bool(out.x.isfinite().all())
    # A tree over the whole path, for adaptive steps.
    solver = ss.loops.TorchSDE("euler", adaptive=True, rtol=0.1, atol=0.1, dt_min=1e-3)
    assert bool(ss.sample(mixture().model(LINEAR), (2, 2), solver, steps=7, generator=generator()).isfinite().all())


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_bug_06_an_adaptive_loop_ends_at_its_end(kind):
    """As a + (b - a) < b happens, a loop that adds steps until t reaches the end never ended (torchsde#33)."""
    model = mixture().model(LINEAR)
    z = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    for start, end in ((1.0, 0.1), (0.7, 0.1 + 0.2), (1.0, 1 / 3), (0.9, 0.0)):
        out = ss.sample(model, z.shape, kind(t_end=end), z=z, t_start=start, generator=generator(1), trajectory=True)
        assert torch.equal(out.times[-1], torch.full((3,), end, dtype=torch.float64))
    with pytest.raises(ss.loops.StepLimitError, match="allow more with steps="):
        ss.sample(model, z.shape, kind(), z=z, steps=2, generator=generator(1))


@pytest.mark.parametrize("name", solvers.names())
def test_bug_07_a_sample_does_not_depend_on_its_batch(name):
    """One error estimate over the batch made samples depend on their batch mates (torchsde; webui#5210; diffrax#500; bayesflow#292)."""
    model, options = mixture().model(LINEAR), {"dtype": torch.float64, **budget(name, 3)}
    batch = ss.sample(model, (8, 2), name, seeds=range(8), **options)
    alone = torch.cat([ss.sample(model, (1, 2), name, seeds=[i], **options) for i in (0, 7)])
    torch.testing.assert_close(batch[[0, 7]], alone, rtol=1e-9, atol=1e-9)


def test_bug_08_a_correction_has_a_step_for_each_sample():
    """The step of the Langevin corrector came from the mean norm over the batch (score_sde_pytorch)."""
    model = mixture().model(LINEAR)
    z = torch.tensor([[0.3, -0.2], [50.0, 20.0]], dtype=torch.float64)
    both = langevin_step(model, z, 0.3, SeededNoise([1, 2]), 0.16)
    for i in (0, 1):
        torch.testing.assert_close(langevin_step(model, z[i : i + 1], 0.3, SeededNoise([i + 1]), 0.16), both[i : i + 1])


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_bug_09_an_adaptive_solver_never_waits_for_other_ranks(kind, monkeypatch):
    """Ranks call the network as often as their samples need; a wrapper that synchronises in forward then hangs (k-diffusion#79).

    The loop itself starts no collective and calls the model it was given, nothing inside it.
    """

    def refuse(*args, **kwargs):
        raise AssertionError("a collective")

    for name in ("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_object", "is_initialized"):
        monkeypatch.setattr(torch.distributed, name, refuse)

    class Wrapper(ss.Model):
        prediction = "data"

        def __init__(self):
            self.sde, self.exact, self.calls = LINEAR, mixture().model(LINEAR), 0

        @property
        def module(self):
            raise AssertionError("unwrapped")

        def output(self, z, t, **cond):
            self.calls += 1
            return self.exact.output(z, t)

    counts = []
    for rank in range(4):
        wrapper = Wrapper()
        ss.sample(wrapper, (2, 2), kind(), generator=generator(rank))
        counts.append(wrapper.calls)
    assert len(set(counts)) > 1
    # So the class says it.
    assert "DistributedDataParallel" in inspect.getdoc(ss.loops.AdaptiveLoop)


@sdes
def test_bug_10_drift_and_diffusion_belong_to_the_scales(sde):
    """A factor 2 missing in the VP derivative, sqrt(2 log r) in the g of VE (deepinv#1343, #775).

    d alpha = f alpha dt, d sigma^2 = (2 f sigma^2 + g^2) dt, by central differences, whose error is h^2/6 of a third derivative. On chains no
    difference straddles two intervals.
    """
    t, h = torch.tensor([0.10025, 0.35025, 0.60025, 0.90025], dtype=torch.float64), 1e-5
    alpha, variance = (lambda t: sde.alpha(t)), (lambda t: sde.sigma(t) ** 2)
    f, g = sde.drift_rate(t), sde.diffusion(t)
    torch.testing.assert_close((alpha(t + h) - alpha(t - h)) / (2 * h), f * alpha(t), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close((variance(t + h) - variance(t - h)) / (2 * h), 2 * f * variance(t) + g**2, rtol=1e-6, atol=1e-9)


@sdes
def test_bug_11_the_start_has_the_law_of_its_time(sde):
    """The state for t = 1 was drawn although sampling started at t < 1 (deepinv#1343, azula#23)."""
    n, std, end = 2000, 0.3, 0.02
    model = mixture().model(sde)

    def marginal(t, std):
        return math.hypot(float(sde.alpha(t)) * std, float(sde.sigma(t)))

    for start in (1.0, 0.97, 0.9, 0.4):
        if start < 1 and float(sde.alpha(start) / sde.sigma(start)) > 0.1:
            with pytest.raises(ValueError, match=f"sampling starts at t={start}, where alpha/sigma="):
                ss.sample(model, (2, 2), "ddim", steps=3, t_start=start)
            # A given start is taken as it is, and from the marginal at that time a solver follows the marginals.
            z = torch.randn(4, 2, dtype=torch.float64, generator=generator())
            assert torch.equal(ss.sample(model, z.shape, "ddim", steps=3, z=z, t_start=start, trajectory=True).path[0], z)
            tableau = solvers.DPMSolverPP(2).tableau(sde, grids.half_log_snr(sde, 100, t_start=start, t_end=end))
            assert tableau.moments(0.0, std, start=(0.0, marginal(start, std)))[1] == pytest.approx(marginal(end, std), rel=1e-3)
            continue
        z = ss.sample(model, (n, 2), "ddim", steps=3, t_start=start, generator=generator(), trajectory=True).path[0]
        # That of data of unit variance, up to the variance that is left at alpha/sigma < 0.1; 5 standard errors 1/sqrt(2 * 2n).
        assert float(z.std()) == pytest.approx(marginal(start, 1.0), rel=0.005 + 5 / math.sqrt(4 * n))


@sdes
def test_bug_12_a_correction_needs_no_table_of_the_process(sde):
    """The corrector used a step's own alpha where the cumulative is meant, and sub-VP had no such table (score_sde_pytorch#73, #8)."""
    if isinstance(sde, VPChain):
        times = torch.arange(1, sde.steps + 1, dtype=torch.float64) / sde.steps
        torch.testing.assert_close(sde.alpha(times) ** 2, torch.cumprod(1 - sde.betas, 0), rtol=1e-9, atol=1e-15)
    t, std, n, d = 0.3, 0.3, 100, 256
    model = analytic.GaussianMixture(torch.zeros(1, d), torch.tensor([std**2])).model(sde)
    tau = math.hypot(std * float(sde.alpha(t)), float(sde.sigma(t)))
    z, noise = tau * torch.randn(n, d, dtype=torch.float64, generator=generator()), BatchNoise(generator(1))
    for _ in range(60):
        z = langevin_step(model, z, t, noise, 0.1)
    # Stationary: a step of 2 r^2 = 0.02 makes tau 0.5 % larger and its spread with |z| about 2/d; 5 standard errors tau/sqrt(2 n d).
    assert float(z.std()) == pytest.approx(tau, rel=0.005 + 2 / d + 5 / math.sqrt(2 * n * d))


def test_bug_13_a_skipping_step_has_the_beta_of_its_own_length():
    """beta_t was read from the table although steps were skipped (diffusers#3006, #5130); it is 1 - abar_t/abar_s of the times it joins."""
    bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - CHAIN.betas, 0)])
    for spacing in ("trailing", "leading", "linspace"):
        grid = grids.ddpm(CHAIN, 13, spacing=spacing)
        index = (grid * CHAIN.steps).round().long()
        now, before = bar[index[:-2]], bar[index[1:-1]]
        respaced = 1 - now / before
        for variance, expected in (("beta", respaced), ("posterior", respaced * (1 - before) / (1 - now))):
            rows = solvers.Ancestral(variance).tableau(CHAIN, grid).rows[:-1]
            got = torch.tensor([row.xi[k] for k, row in enumerate(rows)], dtype=torch.float64) ** 2
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
        z = torch.zeros(1, 1, dtype=torch.float64)
        _, std = CHAIN.posterior(z, z, float(grid[1]), float(grid[0]))
        assert float(std) ** 2 == pytest.approx(float(respaced[0] * (1 - before[0]) / (1 - now[0])), rel=1e-9)


@sdes
def test_bug_14_every_kind_of_variance_is_a_variance(sde):
    """A log-variance was taken for a variance (diffusers#2090, #14569): interpolating logarithms is a geometric mean of standard deviations."""
    grid, power = grids.half_log_snr(sde, 9), solvers.NoisePower((-4.0, 4.0), (0.99, 0.2))
    kinds = ("beta", "posterior", 0.0, 0.3, 1.0, power)
    stds = {v: [row.xi[k] for k, row in enumerate(solvers.Ancestral(v).tableau(sde, grid).rows[:-1])] for v in kinds}
    for values in stds.values():
        assert len(values) == 8
        assert all(math.isfinite(c) and c > 0 for c in values)
    for v in (0.0, 0.3, 1.0):
        for log_mode, beta, posterior in zip(stds[v], stds["beta"], stds["posterior"], strict=True):
            assert log_mode**2 == pytest.approx(math.exp(v * math.log(beta**2) + (1 - v) * math.log(posterior**2)), rel=1e-9)


@sdes
def test_bug_15_ddim_joins_the_right_times_with_a_real_root(sde):
    """A pair (0, 0), a shifted abar, a last abar below 1, eta = 1 by default, a clamp over a negative root (ddp#81, #139; ControlNet#587)."""
    assert solvers.DDIM() == solvers.DDIM(eta=0.0) == solvers.get("ddim")
    grid = grids.ddpm(sde, sde.steps) if isinstance(sde, VPChain) else grids.half_log_snr(sde, 30)
    ours, ancestral = (s.tableau(sde, grid).rows for s in (solvers.DDIM(eta=1.0), solvers.Ancestral("posterior")))
    for a, b in zip(ours, ancestral, strict=True):
        for part in ("z", "data", "xi"):
            assert getattr(a, part) == pytest.approx(getattr(b, part), rel=1e-9 if sde is CHAIN else 1e-6, abs=1e-12)
    assert (dict(ours[-1].z), dict(ours[-1].xi)) == ({}, {})
    assert list(ours[-1].data.values()) == [1.0]
    sigma = sde.sigma(grid).tolist()
    for eta in (0.0, 0.5, 1.0):
        for k, row in enumerate(solvers.DDIM(eta).tableau(sde, grid).rows[:-1]):
            c, root = row.xi.get(k, 0.0), row.z.get(k, 0.0) * sigma[k]
            assert c == pytest.approx(eta * ancestral[k].xi[k], rel=1e-9)
            # sqrt(sigma_t^2 - c^2) multiplies the noise: real, and not clamped.
            assert c <= sigma[k + 1]
            assert root**2 + c**2 == pytest.approx(sigma[k + 1] ** 2, rel=1e-9)


def test_bug_17_no_step_has_length_zero():
    """The last sigma was repeated, which made a step that does nothing (diffusers#6477)."""
    for spacing, steps in itertools.product(("half_log_snr", "karras", "ddpm"), (1, 2, 10)):
        lam = CHAIN.half_log_snr(grids.get(spacing)(CHAIN, steps))
        assert len(lam) == steps + 1
        assert bool((lam.diff() > 1e-3).all())


@sdes
def test_bug_16_no_times_collapse(sde):
    """Rounded steps collapsed, which skipped steps or ran out of indices (diffusers#4122: 95 of 100; #5746; #12771)."""
    for name, steps in itertools.product(grids.names(), (1, 2, 95, 100, 1000)):
        if name == "ddpm" and (not isinstance(sde, VPChain) or steps > sde.steps):
            with pytest.raises(ValueError, match=r"discrete chain|takes 1 to \d+ steps"):
                grids.get(name)(sde, steps)
            continue
        grid = grids.get(name)(sde, steps)
        assert len(grid) == steps + 1
        assert bool((grid.diff() < 0).all())
    with pytest.raises(ValueError, match="strictly decrease"):
        ss.sample(mixture().model(sde), (2, 2), "ddim", grid=torch.tensor([1.0, 0.5, 0.5, 0.0]))


MULTISTEP = {
    "dpm++": solvers.DPMSolverPP,
    "unipc": solvers.UniPC,
    "sde-dpm++": solvers.SDEDPMSolverPP,
    "dpm-noise": lambda k: solvers.ExponentialAdams(k, form="noise"),
    "deis": solvers.DEIS,
    "ipndm": solvers.IPNDM,
    "er-sde": solvers.ERSDE,
}


@pytest.mark.parametrize("make", MULTISTEP.values(), ids=MULTISTEP.keys())
@pytest.mark.parametrize("order", [1, 2, 3])
def test_bug_19_no_step_has_order_zero(make, order):
    """Order 0 in the last step, an index out of range, a linear solve cut short (Wan2.1#108; diffusers#10266, #11612)."""
    for steps in (*range(1, 12), 60):
        rows = make(order).tableau(LINEAR, grids.half_log_snr(LINEAR, steps)).rows
        assert all(row.data for row in rows)
        assert all(math.isfinite(c) for row in rows for part in (row.z, row.data, row.xi) for c in part.values())
        assert list(rows[-1].data.values()) == [1.0]
        # Weights that reproduce constants: with D = x everywhere and z_s = alpha_s x, z_t = alpha_t x.
        alpha = [float(LINEAR.alpha(t)) for t in make(order).tableau(LINEAR, grids.half_log_snr(LINEAR, steps)).times]
        for k, row in enumerate(rows):
            mean = sum(a * alpha[j] for j, a in row.z.items()) + sum(row.data.values())
            assert mean == pytest.approx(alpha[k + 1], rel=1e-9)


@pytest.mark.parametrize("name", ON_GRIDS)
def test_bug_20_large_noise_and_few_steps_stay_finite(name):
    """The root of a slightly negative sigma_down^2 (diffusers#14213): sigma_max = 2e4, 4 to 10 steps, float32."""
    for sde in (ss.EDM(sigma_max=2e4), ss.VESDE(sigma_max=2e4)):
        model = mixture().model(sde)
        for steps, spacing in ((4, "karras"), (7, "half_log_snr"), (10, "karras")):
            x = ss.sample(model, (4, 2), name, steps=steps, grid=spacing, generator=generator())
            assert x.dtype == torch.float32
            assert bool(x.isfinite().all())


@pytest.mark.parametrize("name", ON_GRIDS)
def test_bug_21_half_precision_is_finite_or_refused(name):
    """float16 overflowed at sigma = 4096 (diffusers#6981). The other half of this bug, zero signal, is in test_matrix."""
    wide = mixture().model(ss.EDM(sigma_max=4096))
    for dtype in (torch.float16, torch.bfloat16):
        if name.startswith("torchsde") and dtype == torch.float16:
            # The drift of the reverse SDE has g^2 = 3e7 in it.
            with pytest.raises(FloatingPointError, match="not finite at step 0 of 10, t=1"):
                ss.sample(wide, (4, 2), name, steps=10, generator=generator(), dtype=dtype)
            continue
        x = ss.sample(wide, (4, 2), name, steps=10, generator=generator(), dtype=dtype)
        assert x.dtype == dtype
        assert bool(x.isfinite().all())


def tables(sde):
    """Every tensor that a process holds."""
    values = [v for value in vars(sde).values() for v in (value.values() if isinstance(value, dict) else [value])]
    return [value for value in values if isinstance(value, torch.Tensor)]


@sdes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bug_22_half_precision_leaves_the_tables_as_they_are(sde, dtype):
    """Tables of a schedule were converted for one call and kept (diffusers#3005)."""
    times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    kept, before = [t.clone() for t in tables(sde)], [sde.alpha(times), sde.sigma(times), sde.half_log_snr(times)]
    model = ss.ScoreModel(torch.nn.Linear(2, 2), sde, "data", time=lambda sde, t: t).to(dtype)
    model.network = torch.nn.Sequential()
    model.network.forward = lambda z, t: torch.tanh(z)
    x = torch.randn(3, 2, generator=generator()).to(dtype)
    z, _ = sde.perturb(x, torch.tensor(0.5, dtype=dtype), generator())
    ss.sample(model, z.shape, "dpm++2m", steps=3, z=z, t_start=0.5, grid="half_log_snr")
    model.score(z, torch.full((3,), 0.5, dtype=dtype))
    sde.posterior(z, x, torch.tensor(0.25, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    assert z.dtype == dtype
    after = [sde.alpha(times), sde.sigma(times), sde.half_log_snr(times)]
    for a, b in zip((*kept, *before), (*tables(sde), *after), strict=True):
        assert a.dtype == b.dtype == torch.float64
        assert torch.equal(a, b)


@sdes
@pytest.mark.parametrize("shape", [(), (3,)])
def test_bug_23_inputs_are_not_changed(sde, shape):
    """A schedule's function edited the caller's t in place (CleanDiffuser#31). A tensor counts the times that it was written to."""
    t, s = (torch.full(shape, v, dtype=torch.float64) for v in (0.6, 0.3))
    x, z, eps = (torch.randn(3, 2, dtype=torch.float64, generator=generator(i)) for i in range(3))
    lam, grid = sde.half_log_snr(t).detach().clone(), irregular(4)
    inputs = (t, s, x, z, eps, lam, grid)
    kept = [tensor.clone() for tensor in inputs]
    results = [f(t) for f in (sde.alpha, sde.sigma, sde.half_log_snr, sde.drift_rate, sde.diffusion)]
    results += [sde.time(lam), *sde.velocity_direction(t)]
    if isinstance(sde, ss.VPSDE):
        results += [sde.beta(t), sde.integrated_beta(t)]
    results += [sde.drift(z, t), *sde.perturb(x, t, noise=eps)[:1], sde.transition(z, s, t)[0], sde.posterior(z, x, s, t)[0]]
    results += [sde.prior_log_prob(z)]
    model = mixture().model(sde)
    results += [f(z, t) for f in (model.data, model.noise, model.score, model.velocity, ss.models.ReverseSDE(model).drift)]
    mixture().log_prob(z, t, sde)
    for source, target in itertools.permutations(prediction.PREDICTIONS, 2):
        results += prediction.conversion(sde, t, source, target)
    for tensor in inputs:
        assert tensor._version == 0
    # And a caller who edits a result edits only that.
    for result in results:
        assert result.data_ptr() not in [tensor.data_ptr() for tensor in inputs]
    for name in solvers.names() if sde is LINEAR else ("dpm++2m", "ancestral", "pc"):
        options = {"grid": grid} if name in ON_GRIDS else {}
        ss.sample(model, z.shape, name, z=z, generator=generator(), **options)
    assert all(tensor._version == 0 for tensor in inputs)
    assert all(torch.equal(tensor, old) for tensor, old in zip(inputs, kept, strict=True))
