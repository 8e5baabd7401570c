"""Networks with twice the channels: the first half for everybody, the second for ancestral sampling."""

import pytest
import torch

import scoresde as ss
from scoresde import losses, solvers

from ..conftest import SDES, TABLEAUX, generator, linear_betas, mixture, rotated, sdes

DDPM = SDES["ddpm"]


class Learned(torch.nn.Module):
    """The exact prediction of three modes in two channels, and `v(z)` beside it."""

    def __init__(self, sde, v, prediction="noise"):
        super().__init__()
        self.exact, self.v, self.prediction, self.calls = mixture().model(sde), v, prediction, []

    def forward(self, z, t, shift=None):
        self.calls.append((t, shift))
        v = self.v(z) if callable(self.v) else torch.full_like(z, self.v)
        return torch.cat([getattr(self.exact, self.prediction)(z, t), v], dim=1)


def learned(sde, v=0.0, prediction="noise"):
    return ss.LearnedVariance(Learned(sde, v, prediction), sde, prediction, time="t")


@pytest.mark.parametrize("prediction", ["data", "noise", "score", "velocity"])
@sdes
def test_predictions_are_those_of_the_first_half(sde, prediction):
    model, exact = learned(sde, torch.sin, prediction), mixture().model(sde)
    z, t = torch.randn(5, 2, dtype=torch.float64, generator=generator()), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for name in ("data", "noise", "score", "velocity"):
        torch.testing.assert_close(getattr(model, name)(z, t), getattr(exact, name)(z, t), rtol=1e-9, atol=1e-9)
    model.network.calls.clear()
    out, fraction = model.output_and_fraction(z, t)
    assert len(model.network.calls) == 1
    assert torch.equal(out, model.output(z, t))
    torch.testing.assert_close(fraction, (torch.sin(z) + 1) / 2)


@pytest.mark.parametrize("name", TABLEAUX)
def test_every_solver_runs_on_the_first_half(name):
    options = {"steps": 5, "dtype": torch.float64}
    ours, theirs = (
        ss.sample(model, (3, 2), name, seeds=range(3), **options) for model in (learned(DDPM, torch.sin), mixture().model(DDPM))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_losses_see_the_first_half():
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    ours, theirs = (
        losses.denoising(model, x, generator=generator(1))
        for model in (learned(DDPM, torch.sin, "velocity"), mixture().model(DDPM))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("process", "grid", "known"),
    list(rotated(SDES, ("uniform", "half_log_snr"), [(-1.0, "posterior"), (1.0, "beta"), (-0.4, 0.3)], each=2)),
)
def test_a_constant_v_is_a_fixed_variance(process, grid, known):
    """v = -1 is the posterior's, 1 is beta, between them f = (v + 1)/2; with the same noise, in one call a step."""
    v, variance = known
    model = learned(SDES[process], v, "data")
    options = {"steps": 8, "grid": grid, "seeds": range(6), "dtype": torch.float64, "trajectory": True}
    ours = ss.sample(model, (6, 2), ss.loops.LearnedAncestral(), **options)
    assert len(model.network.calls) == ours.nfe == 8
    theirs = ss.sample(model, (6, 2), solvers.Ancestral(variance), **options)
    torch.testing.assert_close(ours.path, theirs.path, rtol=1e-12, atol=1e-12)


def test_the_variance_is_that_of_each_entry():
    """One step, by hand, of many samples at one state: the law of entry i is that of its own v."""
    sde, n, v = DDPM, 100_000, torch.tensor([-0.8, 0.6], dtype=torch.float64)
    model = learned(sde, lambda z: v.expand_as(z), "data")
    grid = torch.tensor([0.5, 0.3], dtype=torch.float64)
    z = torch.tensor([[0.4, -0.2]], dtype=torch.float64).expand(n, 2)
    x = ss.sample(model, (n, 2), ss.loops.LearnedAncestral(), grid=grid, z=z, generator=generator())
    (s, t), (alpha_s, alpha_t) = (sde.sigma(grid) ** 2).tolist(), sde.alpha(grid).tolist()
    beta = s - (alpha_s / alpha_t) ** 2 * t
    std = (beta ** ((v + 1) / 2) * (beta * t / s) ** ((1 - v) / 2)).sqrt()
    # A standard deviation of n normals is known to std/sqrt(2n): 5 of those.
    assert bool(((x.std(0) - std).abs() < 5 * std / (2 * n) ** 0.5).all())


def test_samples_do_not_depend_on_their_batch_and_hooks_see_the_path():
    model, seen = learned(DDPM, torch.tanh), []
    options = {"steps": 6, "dtype": torch.float64}
    out = ss.sample(
        model,
        (4, 2),
        ss.loops.LearnedAncestral(),
        seeds=range(4),
        shift="kept",
        trajectory=True,
        callback=lambda *args: seen.append(args),
        **options,
    )
    for i in range(4):
        alone = ss.sample(model, (1, 2), ss.loops.LearnedAncestral(), seeds=[i], **options)
        torch.testing.assert_close(alone[0], out.x[i], rtol=1e-12, atol=1e-12)
    assert [n for n, *_ in seen] == list(range(6))
    for n, t, z, data in seen:
        assert t == float(out.times[n])
        assert torch.equal(z, out.path[n])
        torch.testing.assert_close(data, model.data(z, t))
    assert model.network.calls[0][1] == "kept"
    assert torch.equal(out.path[-1], out.x)
    assert ss.sample(model, (1, 2), ss.loops.LearnedAncestral(), nfe=9, trajectory=True).nfe == 9


def test_images_and_precision():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, z, t):
            return torch.tanh(self.convolution(z))

    with ss.numerics.random.global_seed(0):
        model = ss.LearnedVariance(Network(), DDPM)
    x = ss.sample(model, (2, 3, 4, 4), ss.loops.LearnedAncestral(), steps=3, seeds=range(2))
    assert x.shape == (2, 3, 4, 4)
    assert x.dtype == torch.float32
    assert bool(x.isfinite().all())


def test_what_has_no_learned_variance_is_refused_by_name():
    with pytest.raises(ValueError, match="needs a LearnedVariance model, got MixtureModel"):
        ss.sample(mixture().model(DDPM), (2, 2), ss.loops.LearnedAncestral(), steps=2)
    with pytest.raises(ValueError, match=r"states of shape \(B, C, \*rest\), got \(3,\)"):
        ss.sample(learned(DDPM), (3,), ss.loops.LearnedAncestral(), steps=2)
    plain = ss.LearnedVariance(torch.nn.Identity(), DDPM)
    plain.network.forward = lambda z, t: z
    with pytest.raises(
        ValueError, match=r"shape \(2, 3\) for a state of shape \(2, 3\); with a learned variance it must be \(2, 6\)"
    ):
        plain.data(torch.zeros(2, 3), 0.5)
    assert not any(isinstance(solvers.get(name), ss.loops.LearnedAncestral) for name in solvers.names())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_zero_terminal_signal_and_short_chains(steps):
    for sde in (SDES["zero terminal"], ss.VPSDE.from_betas(linear_betas(20))):
        x = ss.sample(learned(sde, torch.sin, "velocity"), (50, 2), ss.loops.LearnedAncestral(), steps=steps, generator=generator())
        assert float(x.abs().max()) < 5


def test_one_network_trains_and_samples():
    """The loss for learned variances takes the model that the solver takes; both halves of the network learn."""
    head = torch.nn.Conv1d(3, 6, 1, dtype=torch.float64)

    class TwoHeads(torch.nn.Module):
        def forward(self, z, t):
            return head(z)

    model = ss.LearnedVariance(TwoHeads(), SDES["chain20"], "velocity")
    z, t = torch.randn(5, 3, 4, dtype=torch.float64, generator=generator()), torch.arange(1, 6, dtype=torch.float64) / 5
    data, fraction = model.data_and_fraction(z, t)
    assert torch.equal(data, model.data(z, t))
    assert torch.equal(fraction, model.output_and_fraction(z, t)[1])
    losses.hybrid(model, z, generator=generator(1)).sum().backward()
    assert bool((head.bias.grad.abs() > 0).all())
