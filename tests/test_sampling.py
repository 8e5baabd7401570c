"""The call that users make: budgets, starts, seeds, shapes, hooks, gradients and errors."""

import pickle
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde as ss
from scoresde import analytic, grids, networks, solvers
from scoresde.numerics.random import BatchNoise, SeededNoise
from scoresde.sampling import plan
from scoresde.sampling.default import default

from .conftest import SDES, TABLEAUX, budget, generator, mixture

every_solver = pytest.mark.parametrize("name", solvers.names())
every_tableau = pytest.mark.parametrize("name", TABLEAUX)
DDPM = SDES["ddpm"]


def unet_model(**options):
    network = networks.UNet(1, width=8, **options)
    torch.nn.init.normal_(network.leave[-1].weight, std=0.05, generator=generator(3))
    return ss.ScoreModel(network, DDPM, "velocity")


@every_solver
def test_a_sample_depends_on_its_own_seed_only(name):
    model = unet_model()
    batch = ss.sample(model, (64, 1, 6, 6), name, **budget(name, 5), seeds=range(64))
    for i in (0, 17, 63):
        alone = ss.sample(model, (1, 1, 6, 6), name, **budget(name, 5), seeds=[i])
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-5, atol=1e-5)


@every_solver
def test_the_global_random_state_is_untouched(name):
    torch.manual_seed(0)
    before, model = torch.get_rng_state(), mixture().model(DDPM)
    for options in ({"generator": generator()}, {"seeds": range(4)}, {}):
        ss.sample(model, (4, 2), name, **budget(name, 5), **options)
    assert torch.equal(torch.get_rng_state(), before)


@every_solver
def test_calls_leave_nothing_behind(name):
    """Two calls in a row with other shapes equal the same calls on fresh objects."""

    def fresh():
        return analytic.GaussianMixture(torch.zeros(1, 3), torch.ones(1)).model(DDPM)

    shared = fresh()
    solver = solvers.get(name)
    for count, steps in ((5, 7), (2, 3), (8, 7)):
        again = ss.sample(shared, (count, 3), solver, **budget(name, steps), generator=generator())
        assert torch.equal(again, ss.sample(fresh(), (count, 3), name, **budget(name, steps), generator=generator()))


@every_solver
@pytest.mark.parametrize("event", [(), (3,), (2, 5), (1, 4, 4), (1, 2, 4, 4)])
def test_any_event_shape(name, event, device):
    model = analytic.GaussianMixture(torch.randn(2, *event).to(device), torch.tensor([0.1, 0.2]).to(device)).model(DDPM)
    x = ss.sample(model, (6, *event), name, **budget(name, 4), seeds=range(6))
    assert x.shape == (6, *event)
    assert x.dtype == torch.float32
    assert x.device.type == device.type


@pytest.mark.parametrize("event", [(), (3,), (2, 5), (1, 4, 4), (1, 2, 4, 4)])
def test_networks_of_any_event_shape(event, device):
    model = ss.ScoreModel(networks.MLP(event, width=8), DDPM).to(device)
    x = ss.sample(model, (3, *event), steps=3, seeds=range(3))
    assert x.shape == (3, *event)
    assert x.device.type == device.type


def test_steps_and_nfe():
    model = mixture().model(DDPM)
    for nfe in range(1, 12):
        for name in TABLEAUX:
            if solvers.get(name).calls_per_step > nfe:
                continue
            calls = []
            ss.sample(model, (1, 2), name, nfe=nfe, callback=lambda n, t, z, data, calls=calls: calls.append(n))
            out = ss.sample(model, (1, 2), name, nfe=nfe, trajectory=True)
            assert out.nfe <= nfe
            # One step more would not fit.
            more = solvers.get(name).tableau(DDPM, grids.half_log_snr(DDPM, len(out.times)))
            assert more.nfe > nfe
            assert len(calls) == len(out.times) - 1
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


@every_tableau
def test_callback_and_trajectory_show_the_path(name):
    model, seen = mixture().model(DDPM), []
    out = ss.sample(
        model, (3, 2), name, steps=6, seeds=range(3), trajectory=True, callback=lambda n, t, z, data: seen.append((n, t, z, data))
    )
    assert torch.equal(out.path[-1], out.x)
    assert torch.equal(out.x, ss.sample(model, (3, 2), name, steps=6, seeds=range(3)))
    assert [n for n, *_ in seen] == list(range(6))
    tableau = plan(DDPM, name, steps=6)
    for n, t, z, data in seen:
        torch.testing.assert_close(data, model.data(z, t))
        if tableau.step_evals[n] == tableau.grid_states[n]:  # the state was neither corrected after its call nor stirred before it
            assert t == float(out.times[n])
            assert torch.equal(z, out.path[n])
    assert sum(look == mark for look, mark in zip(tableau.step_evals, tableau.grid_states, strict=False)) >= 2


@every_tableau
def test_gradients_flow_through_the_sampler(name):
    """The derivative of the result by the start and by a parameter, against finite differences in float64."""

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

        def forward(self, z, t):
            return self.scale * torch.tanh(z)

    model = ss.ScoreModel(Scaled(), DDPM, "data", time="t")
    z = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)

    def solve(z):
        return ss.sample(model, (1, 1), name, steps=4, z=z, generator=generator(), grad=True)

    by_z, by_scale = torch.autograd.grad(solve(z).sum(), (z, model.network.scale))
    d = 1e-6
    with torch.no_grad():
        slope = (solve(z + d) - solve(z - d)).sum() / (2 * d)
        torch.testing.assert_close(by_z.sum(), slope, rtol=1e-6, atol=1e-9)
        model.network.scale += d
        high = solve(z).sum()
        model.network.scale -= 2 * d
        torch.testing.assert_close(by_scale, (high - solve(z).sum()) / (2 * d), rtol=1e-6, atol=1e-9)
    assert not ss.sample(model, (1, 1), name, steps=4, z=z).requires_grad


@every_solver
def test_conditions_reach_the_network_untouched(name):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, t, **cond):
            seen.append(cond)
            return torch.zeros_like(z)

    tree = {"a": torch.ones(2), "b": None}
    ss.sample(ss.ScoreModel(Network(), DDPM), (2, 3), name, **budget(name, 3), tree=tree, label=None)
    assert seen
    assert all(cond["tree"] is tree and cond["label"] is None for cond in seen)


def test_precision_of_the_state():
    model = unet_model()
    assert ss.sample(model, (2, 1, 5, 5), steps=2).dtype == torch.float32
    assert ss.sample(model.double(), (2, 1, 5, 5), steps=2).dtype == torch.float64
    assert ss.sample(model.to(torch.bfloat16), (2, 1, 5, 5), steps=2).dtype == torch.float32
    # A float64 state around a float32 network: only the network's input is cast.
    model = unet_model()
    z = torch.randn(2, 1, 5, 5, dtype=torch.float64, generator=generator())
    x = ss.sample(model, z.shape, steps=2, z=z)
    assert x.dtype == torch.float64
    torch.testing.assert_close(x.float(), ss.sample(model, z.shape, steps=2, z=z.float()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("when", [1.0, 0.5, 0.25])
def test_a_state_that_is_not_finite_names_step_and_time(when):
    class Breaks(torch.nn.Module):
        def forward(self, z, t):
            return torch.where(t[0] <= when, torch.nan, 0.0) * z

    grid = torch.tensor([1.0, 0.5, 0.25, 0.0])
    step = grid.tolist().index(when)
    model = ss.ScoreModel(Breaks(), DDPM, "data", time="t")
    for options in ({"generator": generator()}, {"seeds": range(2)}):
        with pytest.raises(FloatingPointError, match=f"data prediction is not finite at step {step} of 3, t={when:g}"):
            ss.sample(model, (2, 3), "ancestral", grid=grid, **options)
    with pytest.raises(FloatingPointError, match="state is not finite at step 0"):
        ss.sample(model, (2, 3), "ddim", grid=grid, z=torch.full((2, 3), torch.inf))


def test_arguments_that_contradict_each_other():
    model = mixture().model(DDPM)
    with pytest.raises(ValueError, match="not both"):
        ss.sample(model, (2, 2), steps=2, generator=generator(), seeds=range(2))
    with pytest.raises(ValueError, match="3 seeds were given for a batch of shape"):
        ss.sample(model, (2, 2), steps=2, seeds=range(3))
    with pytest.raises(ValueError, match="no solver is called 'dpm'"):
        ss.sample(model, (2, 2), "dpm", steps=2)


def test_progress_bar_counts_grid_steps(capsys):
    ss.sample(mixture().model(DDPM), (2, 2), "heun", steps=7, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_memory_does_not_grow_with_steps():
    """States and noises that no later row needs are dropped: the number alive at a network call is that of the method."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    class Network(torch.nn.Module):
        def forward(self, z, t):
            nonlocal most
            out = torch.zeros_like(z)
            alive.append(weakref.ref(z))
            alive.append(weakref.ref(out))
            most = max(most, sum(ref() is not None for ref in alive))
            return out

    model = ss.ScoreModel(Network(), DDPM, "noise", time="t")
    counts = []
    for steps in (10, 60):
        most = 0
        ss.sample(model, (2, 3), "dpm++3m", steps=steps)
        counts.append(most)
    # Order 3 with a folded noise prediction keeps 3 states and 3 predictions.
    assert counts[0] == counts[1] <= 7


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


def test_the_given_state_is_never_changed():
    class InPlace(torch.nn.Module):
        def forward(self, z, t):
            return z.mul_(0.5)

    z = torch.ones(2, 2)
    ss.sample(ss.ScoreModel(InPlace(), DDPM, "data", time="t"), (2, 2), "ddim", steps=2, z=z)
    assert torch.equal(z, torch.ones(2, 2))


def test_seeds_must_be_one_a_sample_even_without_noise():
    with pytest.raises(ValueError, match="5 seeds were given"):
        ss.sample(mixture().model(DDPM), (2, 2), "ddim", steps=2, z=torch.zeros(2, 2), seeds=range(5))


def test_noise_is_not_rounded_to_a_half_precision_output():
    class Half(torch.nn.Module):
        def forward(self, z, t):
            return torch.zeros_like(z, dtype=torch.bfloat16)

    from .conftest import zero_terminal

    model = ss.ScoreModel(Half(), zero_terminal(), "data", time="t")
    out = ss.sample(model, (4, 3), "ancestral", steps=3, trajectory=True, generator=generator())
    assert not torch.equal(out.path[1].bfloat16().float(), out.path[1])


def test_the_default_is_the_measured_choice():
    """Without a solver: a multistep method on a power of VP time, which beats the common choices on three modes at every budget."""
    model, z = mixture().model(DDPM), torch.randn(500, 2, dtype=torch.float64, generator=generator())
    exact = ss.sample(model, z.shape, "unipc3", steps=500, z=z)

    def error(*solver, **options):
        distance = (ss.sample(model, z.shape, *solver, z=z, **options) - exact).square().mean(1).sqrt()
        return float(distance.median())

    for nfe in (5, 8, 10, 15, 20):
        solver, grid = default(nfe)
        assert ss.sample(model, z.shape, nfe=nfe, z=z, trajectory=True).nfe == nfe
        assert error(nfe=nfe) == error(steps=nfe) == error(solver, steps=nfe, grid=grid)
        assert error(nfe=nfe) < min(error(name, nfe=nfe, grid="half_log_snr") for name in ("ddim", "heun", "dpm++2m", "dpm++3m"))
    times = grids.karras(DDPM, 7)
    assert torch.equal(
        ss.sample(model, (2, 2), grid=times, seeds=range(2)), ss.sample(model, (2, 2), "ipndm3", grid=times, seeds=range(2))
    )


class Quiet(TorchDispatchMode):
    """Counts the operations that make the host wait for a value."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "is_nonzero" in str(func) or "equal.default" in str(func):
            self.waits += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TABLEAUX)
def test_the_loop_never_waits_for_a_value(name):
    """What is checked once, before it starts, does not grow with the steps."""
    model, z, waits = ss.ScoreModel(networks.MLP(2, width=8), DDPM), torch.randn(3, 2, generator=generator()), []
    for steps in (4, 9):
        tableau = plan(DDPM, name, steps=steps)
        tableau.program("noise")
        with torch.no_grad(), Quiet() as mode:
            ss.tableau.run(tableau, model, z, SeededNoise(range(3)))
        waits.append(mode.waits)
    assert waits[0] == waits[1] <= 3


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m", "restart", "pc", "adaptive", "gotta-go-fast"])
def test_parts_of_a_batch_give_the_same_samples(name):
    model, options = mixture().model(DDPM), {"dtype": torch.float64, **budget(name, 6)}
    for source in ("seeds", "generator"):
        if source == "generator" and name == "gotta-go-fast":
            continue  # the number of its draws depends on the slowest sample of the batch
        noise = {"seeds": range(7)} if source == "seeds" else {"generator": generator(3)}
        whole = ss.sample(model, (7, 2), name, **noise, **options)
        noise = {"seeds": range(7)} if source == "seeds" else {"generator": generator(3)}
        parts = ss.sample(model, (7, 2), name, batch_size=3, **noise, **options)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_parts_of_a_batch_get_their_start_conditions_and_path():
    class Shifted(torch.nn.Module):
        def forward(self, z, t, shift, scale):
            assert shift.shape == (len(z),)
            return (z + shift[:, None]) * scale

    model, z = ss.ScoreModel(Shifted(), DDPM), torch.randn(5, 2, generator=generator())
    cond = {"shift": torch.arange(5.0), "scale": torch.tensor(0.5)}
    whole = ss.sample(model, z.shape, "heun", steps=4, z=z, trajectory=True, **cond)
    seen = []
    parts = ss.sample(
        model,
        z.shape,
        "heun",
        steps=4,
        z=z,
        trajectory=True,
        batch_size=2,
        callback=lambda n, t, z, data: seen.append(len(z)),
        **cond,
    )
    torch.testing.assert_close(parts.path, whole.path)
    assert parts.nfe == whole.nfe
    assert seen == [2] * 8 + [1] * 4
    with pytest.raises(ValueError, match="no trajectory with batch_size"):
        ss.sample(mixture().model(DDPM), (4, 2), "adaptive", batch_size=2, trajectory=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, batch_size=0)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "unipc3", "seeds2", "pc"])
def test_channels_stay_last(name):
    """A state that keeps its channels last reaches the network so in every call, with the same noise, and comes back so."""
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, t):
            seen.append(z.is_contiguous(memory_format=torch.channels_last))
            return (0.5 * z).contiguous()

    model = ss.ScoreModel(Network(), DDPM, "data")
    z = torch.randn(2, 3, 4, 5, generator=generator())
    options = {"nfe": 8, "seeds": range(2)}
    plain = ss.sample(model, z.shape, name, z=z, **options)
    assert not any(seen)
    seen.clear()
    last = ss.sample(model, z.shape, name, z=z.contiguous(memory_format=torch.channels_last), **options)
    assert all(seen)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["ancestral", "sde-dpm++2m", "seeds2", "sa-solver", "er-sde2", "edm", "pc"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_gradients_flow_under_seeds(name, batch_size):
    """Against central differences."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, z, t):
            return self.gain * z.tanh()

    model = ss.ScoreModel(Network(), DDPM, "data")

    def total():
        out = ss.sample(model, (4, 2), name, nfe=6, seeds=range(4), grad=True, batch_size=batch_size)
        return (out**2).sum()

    total().backward()
    gain, h = model.network.gain, 1e-6
    ends = []
    for sign in (1, -1):
        gain.data += sign * h
        ends.append(float(total().detach()))
        gain.data -= sign * h
    assert float(gain.grad) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_no_samples_have_seeds_too():
    class Network(torch.nn.Module):
        def forward(self, z, t):
            return z

    assert ss.sample(ss.ScoreModel(Network(), DDPM), (0, 2), "ancestral", steps=3, seeds=[]).shape == (0, 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_subclass_may_call_the_network_on_more_samples(batch):
    """As guidance does, with one call for both of its predictions."""

    class Network(torch.nn.Module):
        def forward(self, z, t):
            assert t.shape == z.shape[:1]
            return z * t[:, None] / 1000

    class Guided(ss.ScoreModel):
        def output(self, z, t, **cond):
            first, second = super().output(torch.cat([z, z]), t, **cond).chunk(2)
            return 2 * first - second

    plain, guided = (
        ss.sample(kind(Network(), DDPM), (batch, 2), "ddim", steps=4, seeds=range(batch)) for kind in (ss.ScoreModel, Guided)
    )
    torch.testing.assert_close(guided, plain)


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m", "unipc3", "adaptive"])
def test_autocast_reaches_the_network_and_leaves_the_state_alone(name):
    inside = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, z, t):
            out = self.layer(z)
            inside.append((z.dtype, out.dtype, torch.equal(z, z.bfloat16())))
            return out

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ss.ScoreModel(Network(), DDPM, "data")
    options = {"seeds": range(64), **budget(name, 8)}
    exact = ss.sample(model, (64, 2), name, **options)
    inside.clear()
    with torch.autocast("cpu", torch.bfloat16):
        out = ss.sample(model, (64, 2), name, **options)
    # Float32 states that were never rounded to bfloat16.
    assert set(inside) == {(torch.float32, torch.bfloat16, False)}
    assert out.dtype == torch.float32
    assert 0 < (out - exact).abs().max() < 0.05


def test_a_compiled_network_gives_the_same_samples_and_is_compiled_once(monkeypatch):
    """By a backend that compiles nothing but counts the graphs it is given: one for all times and all calls."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = ss.ScoreModel(networks.MLP(2, width=8), DDPM)
    ours = [ss.sample(model, (4, 2), name, steps=9, seeds=range(4), compile=True) for name in ("ancestral", "dpm++2m")]
    theirs = [ss.sample(model, (4, 2), name, steps=9, seeds=range(4)) for name in ("ancestral", "dpm++2m")]
    torch.testing.assert_close(ours, theirs)
    assert len(graphs) == 1
    assert model.compiled() is model.compiled()
    assert set(model.state_dict()) == set(pickle.loads(pickle.dumps(model)).state_dict())
    with pytest.raises(ValueError, match="compiles the network of a ScoreModel"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, compile=True)


def test_cuda_graphs_are_refused_where_there_are_none():
    model = ss.ScoreModel(networks.MLP(2, width=8), DDPM)
    with pytest.raises(ValueError, match="needs states on a CUDA device, got cpu"):
        ss.sample(model, (4, 2), "ddim", steps=2, cuda_graph=True)
    with pytest.raises(ValueError, match="one network call without gradients"):
        ss.sample(model, (4, 2), "adaptive", cuda_graph=True)
    with pytest.raises(ValueError, match="captures the network of a ScoreModel"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, cuda_graph=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("name", ["ancestral", "dpm++2m", "unipc3", "pc"])
def test_a_replayed_graph_gives_the_same_samples(name):
    model = ss.ScoreModel(networks.MLP(2, width=32), DDPM).cuda()
    ours, theirs = (ss.sample(model, (64, 2), name, steps=12, seeds=range(64), cuda_graph=graph) for graph in (True, False))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_loop_does_not_wait_for_the_gpu():
    model = ss.ScoreModel(networks.MLP(2, width=32), DDPM).cuda()
    tableau, z = plan(DDPM, "ancestral", steps=20), torch.randn(8, 2, device="cuda")
    ss.tableau.run(tableau, model, z, BatchNoise(torch.Generator("cuda")))
    torch.cuda.set_sync_debug_mode("error")
    try:
        ss.tableau.run(tableau, model, z, BatchNoise(torch.Generator("cuda")))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_plan_is_made_once_and_again_when_something_changed():
    """The same table for the same arguments; another where the path's schedule or the solver has changed in place."""

    class Learned(ss.VPSDE):
        """A schedule that training changes, unseen from here."""

        rate = torch.tensor(1.0)

        def integrated_beta(self, t):
            return self.rate * super().integrated_beta(t)

    class Mutable(solvers.Solver):
        eta = 0.0

        def tableau(self, sde, grid):
            return solvers.DDIM(self.eta).tableau(sde, grid)

    sde, learned, mutable, options = ss.VPSDE(), Learned(), Mutable(), {"steps": 6}
    first = plan(sde, "dpm++2m", **options)
    assert plan(sde, "dpm++2m", **options) is first
    others = [
        plan(sde, solvers.DPMSolverPP(3), **options),
        plan(sde, "dpm++2m", grid="karras", **options),
        plan(sde, "dpm++2m", nfe=5),
        plan(ss.SubVPSDE(), "dpm++2m", **options),
    ]
    assert all(other.rows != first.rows for other in others)
    times = grids.karras(sde, 6)
    assert plan(sde, "dpm++2m", grid=times) is plan(sde, "dpm++2m", grid=times.clone())
    assert plan(sde, "dpm++2m", grid=times).rows == others[1].rows
    for changed in (10.0, 9, torch.tensor(8.0)):
        sde.beta_max = changed
        rows = plan(sde, "dpm++2m", **options).rows
        assert rows == solvers.DPMSolverPP(2).tableau(sde, grids.trailing(sde, 6)).rows != first.rows
    sde.beta_max.fill_(7.0)
    assert plan(sde, "dpm++2m", **options).rows != rows
    before = plan(learned, "dpm++2m", **options)
    learned.rate = torch.tensor(0.5)
    assert plan(learned, "dpm++2m", **options).rows != before.rows

    class More(solvers.DDIM):
        """With a value that DDIM does not compare."""

        def __init__(self, eta):
            super().__init__()
            self.__dict__["more"] = eta

        def tableau(self, sde, grid):
            return solvers.DDIM(self.more).tableau(sde, grid)

    sde = ss.VPSDE()
    assert plan(sde, More(0.0), **options).rows != plan(sde, More(1.0), **options).rows
    deterministic = plan(sde, mutable, **options)
    mutable.eta = 1.0
    assert plan(sde, mutable, **options).rows != deterministic.rows


@pytest.mark.parametrize(
    ("name", "operations"),
    [("ancestral", 3), ("ddim", 2), ("dpm++2m", 4), ("vab3", 6), ("ipndm3", 4), ("unipc2", 9), ("unipc3", 11)],
)
def test_a_step_is_as_many_operations_as_its_row_has_terms(name, operations):
    """One a term, of the folded rows or of those on converted outputs, whichever are fewer; a noise is drawn and scaled in one.

    Nothing is copied beside them, and a term of coefficient 0 costs nothing.
    """

    class Count(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            # Neither views nor new memory launch anything.
            aten = torch.ops.aten
            self.made += func not in (aten.expand.default, aten.unbind.int, aten.empty.memory_format)
            return func(*args, **(kwargs or {}))

    class Network(torch.nn.Module):
        def forward(self, z, t):
            return z

    model, z, counts = ss.ScoreModel(Network(), DDPM), torch.zeros(3, 2), []
    for steps in (20, 30):
        tableau = plan(DDPM, name, steps=steps)
        with torch.no_grad(), Count() as mode:
            ss.tableau.run(tableau, model, z, BatchNoise(generator()))
        counts.append(mode.made)
    assert (counts[1] - counts[0]) / 10 == operations
