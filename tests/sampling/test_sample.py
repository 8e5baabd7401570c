"""The call that users make: seeds, shapes, hooks, gradients, precision and errors."""

import copy

import pytest
import torch

import scoresde as ss
from scoresde import analytic, networks, solvers
from scoresde.sampling import plan

from ..conftest import LOOPS, SDES, TABLEAUX, budget, generator, mixture
from ..solvers.test_matrix import SOLVERS as CHEAP

every_solver = pytest.mark.parametrize("name", solvers.names())
every_tableau = pytest.mark.parametrize("name", TABLEAUX)
DDPM = SDES["ddpm"]


def unet_model(**options):
    network = networks.UNet(1, width=8, **options)
    torch.nn.init.normal_(network.leave[-1].weight, std=0.05, generator=generator(3))
    return ss.ScoreModel(network, DDPM, "velocity")


@pytest.mark.parametrize("name", ["sde-dpm++2m", "pc", "adaptive"])
def test_a_sample_of_a_network_on_images_depends_on_its_own_seed_only(name):
    """To the tolerance of a network's other batch size; the solvers alone are held to 1e-9 in test_peer_bugs, number 7."""
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


class Tanh(torch.nn.Module):
    def forward(self, z, t):
        return torch.tanh(z)


@every_solver
def test_calls_leave_nothing_behind(name):
    """Calls in a row with other shapes, ragged ones too, equal the same calls on fresh objects.

    Peer bug 18: the history of a multistep solver survived, and point clouds of other sizes crashed (diffusers#8711, #2376).
    """

    shared, used, before = mixture().model(DDPM), CHEAP[name], copy.deepcopy(CHEAP[name])
    network = ss.ScoreModel(Tanh(), DDPM, "data")
    for shape, steps in (((5, 3), 5), ((1, 5, 3), 2), ((2, 4), 3), ((8, 3), 5)):
        options = budget(name, steps)
        again = ss.sample(network, shape, used, **options, generator=generator())
        alone = ss.sample(ss.ScoreModel(Tanh(), DDPM, "data"), shape, copy.deepcopy(before), **options, generator=generator())
        assert torch.equal(again, alone)
        exact = [
            ss.sample(m, (4, 2), s, **options, generator=generator())
            for m, s in ((shared, used), (mixture().model(DDPM), copy.deepcopy(before)))
        ]
        assert torch.equal(*exact)
    assert used == before


@pytest.mark.parametrize("name", ["seeds2", *LOOPS])
@pytest.mark.parametrize("event", [(), (3,), (2, 5), (1, 4, 4), (1, 2, 4, 4)])
def test_any_event_shape(name, event, device):
    """One table stands for all, which share one loop; every other loop is its own."""
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


@every_tableau
def test_callback_and_trajectory_show_the_path(name):
    model, seen = mixture().model(DDPM), []
    out = ss.sample(
        model, (3, 2), name, steps=6, seeds=range(3), trajectory=True, callback=lambda n, t, z, data: seen.append((n, t, z, data))
    )
    assert torch.equal(out.path[-1], out.x)
    assert torch.equal(out.x, ss.sample(model, (3, 2), name, steps=6, seeds=range(3)))
    assert [n for n, *_ in seen] == list(range(6))
    tableau = plan(DDPM, name, steps=6).tableau
    for n, t, z, data in seen:
        torch.testing.assert_close(data, model.data(z, t))
        if tableau.step_evals[n] == tableau.grid_states[n]:  # the state was neither corrected after its call nor churned before it
            assert t == float(out.times[n])
            assert torch.equal(z, out.path[n])
    assert sum(evaluated == state for evaluated, state in zip(tableau.step_evals, tableau.grid_states, strict=False)) >= 2


@every_solver
def test_conditions_reach_the_network_untouched(name):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, t, **cond):
            seen.append(cond)
            return torch.zeros_like(z)

    tree = {"a": torch.ones(7), "b": None}  # no row a sample: loops that drop finished samples pass it on
    ss.sample(ss.ScoreModel(Network(), DDPM), (2, 3), name, **budget(name, 3), tree=tree, label=None)
    assert seen
    assert all(cond["tree"]["a"] is tree["a"] and cond["tree"].keys() == tree.keys() and cond["label"] is None for cond in seen)


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


def test_progress_bar_counts_grid_steps(capsys):
    ss.sample(mixture().model(DDPM), (2, 2), "heun", steps=7, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_the_given_state_is_never_changed():
    class InPlace(torch.nn.Module):
        def forward(self, z, t):
            return z.mul_(0.5)

    z = torch.ones(2, 2)
    ss.sample(ss.ScoreModel(InPlace(), DDPM, "data", time="t"), (2, 2), "ddim", steps=2, z=z)
    assert torch.equal(z, torch.ones(2, 2))


def test_noise_is_not_rounded_to_a_half_precision_output():
    class Half(torch.nn.Module):
        def forward(self, z, t):
            return torch.zeros_like(z, dtype=torch.bfloat16)

    from ..conftest import zero_terminal

    model = ss.ScoreModel(Half(), zero_terminal(), "data", time="t")
    out = ss.sample(model, (4, 3), "ancestral", steps=3, trajectory=True, generator=generator())
    assert not torch.equal(out.path[1].bfloat16().float(), out.path[1])


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
