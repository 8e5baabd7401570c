"""Explicit, implicit, sliced, finite-difference and denoising score matching differ by constants: by quadrature and enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import analytic, losses, networks

from ..conftest import SDES, finite_sdes, generator, mixture

POINTS = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.0]], dtype=torch.float64)
T = 0.3


def network_model(sde, features=2):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ss.ScoreModel(networks.MLP(features, width=8, layers=1), sde).double()
        torch.nn.init.normal_(model.network.leave[-1].weight, std=0.5)
    return model


class Smooth(torch.nn.Module):
    """An entire function of z, so that Gauss-Hermite quadrature converges fast."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 6), torch.nn.Linear(6, 2)

    def forward(self, z, t):
        return self.second(torch.sin(self.first(z)) + t[:, None])


def signs(z):
    """All 2^d sign vectors, as directions for `z`."""
    d = z.shape[1:].numel()
    rows = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=z.dtype)
    return rows.reshape(-1, 1, *z.shape[1:]).expand(-1, *z.shape)


def gradient(model, loss):
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_all_forms_have_one_gradient_and_differ_by_constants(prediction):
    """Data at three points; z by 40 x 40 Gauss-Hermite nodes for each; slices by all four sign vectors. No random numbers."""
    sde, n = SDES["linear"], 40
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    noise = torch.cartesian_prod(nodes, nodes).repeat(3, 1)
    weight = (weights[:, None] * weights).flatten().repeat(3) / 3
    x = POINTS.repeat_interleave(n * n, 0)
    z, _ = sde.perturb(x, T, noise=noise)
    truth = analytic.GaussianMixture(POINTS, torch.zeros(3)).model(sde)
    target = truth.score(z, T)
    values, gradients = [], []
    for seed in (0, 1):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = ss.ScoreModel(Smooth(), sde, prediction).double()
        forms = {
            "explicit": losses.explicit(model, z, target, t=T),
            "implicit": losses.implicit(model, z, T),
            "sliced": losses.sliced(model, z, T, variance_reduced=False, directions=signs(z)),
            "variance reduced": losses.sliced(model, z, T, directions=signs(z)),
            "denoising": losses.denoising_at(model, x, T, noise=noise),
        }
        means = {name: (weight * loss).sum() for name, loss in forms.items()}
        gradients.append({name: gradient(model, mean) for name, mean in means.items()})
        values.append({name: float(mean.detach()) for name, mean in means.items()})
    for name in values[0]:
        # Not 1e-12: forty nodes for the mixture's score.
        assert values[1][name] - values[0][name] == pytest.approx(values[1]["explicit"] - values[0]["explicit"], rel=1e-6), name
        for both in gradients:
            torch.testing.assert_close(both[name], both["explicit"], rtol=1e-6, atol=1e-6 * float(both["explicit"].abs().max()))
    # The constants: 1/2 E|grad log q|^2 over d; and for denoising what Var(grad log q(z|x) | z) leaves, 1/(2 sigma^2) less that.
    fisher = float((weight * 0.5 * target.square().mean(1)).sum())
    kernel = 0.5 / float(sde.sigma(T)) ** 2
    assert values[0]["explicit"] - values[0]["implicit"] == pytest.approx(fisher, rel=1e-6)
    assert values[0]["denoising"] - values[0]["explicit"] == pytest.approx(kernel - fisher, rel=1e-6)
    assert abs(values[1]["explicit"] - values[0]["explicit"]) > 0.01


@finite_sdes
@torch.no_grad()
def test_the_forms_agree_within_monte_carlo_error_on_every_path(sde):
    """10,000 points of a mixture; the difference between the scores of two wrong models, in all forms."""
    n, t = 10_000, 0.4
    x = mixture().sample(n, generator())
    z, noise = sde.perturb(x, t, generator(1))
    target = mixture().model(sde).score(z, t)
    wrong = [
        analytic.GaussianMixture(torch.tensor(means), torch.tensor([0.5, 1.0])).model(sde)
        for means in ([[0.0, 0.0], [1.0, 1.0]], [[-2.0, 0.0], [0.0, 1.0]])
    ]
    forms = {
        "explicit": lambda m: losses.explicit(m, z, target, t=t),
        "implicit": lambda m: losses.implicit(m, z, t),
        "sliced": lambda m: losses.sliced(m, z, t, variance_reduced=False, generator=generator(2)),
        "variance reduced": lambda m: losses.sliced(m, z, t, generator=generator(2)),
        "denoising": lambda m: losses.denoising_at(m, x, t, noise=noise),
    }
    difference = {name: form(wrong[0]) - form(wrong[1]) for name, form in forms.items()}
    for name, values in difference.items():
        # 5 standard errors of the mean of paired differences.
        gap = values - difference["explicit"]
        assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(n) + 1e-12, name


@pytest.mark.parametrize("event", [(), (3,), (2, 2), (1, 2, 2)])
def test_exact_divergence_is_the_trace_of_the_jacobian(event):
    sde = SDES["linear"]
    model = analytic.GaussianMixture(torch.randn(2, *event, generator=generator()), torch.tensor([0.3, 0.6])).model(sde)
    z = torch.randn(4, *event, dtype=torch.float64, generator=generator(1))
    t = torch.tensor([0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    expected = []
    for i in range(4):
        one = z[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda a, at=t[i]: model.score(a, at), one)
        d = one.numel()
        expected.append((0.5 * model.score(one, t[i]).square().sum() + jacobian.reshape(d, d).trace()) / d)
    for chunk in (1, 3, 16):
        torch.testing.assert_close(losses.implicit(model, z, t, chunk=chunk), torch.stack(expected))
        with torch.no_grad():
            torch.testing.assert_close(losses.implicit(model, z, t, chunk=chunk), torch.stack(expected))
    # All signs: E v . (ds/dz) v is the trace, exactly.
    torch.testing.assert_close(losses.sliced(model, z, t, directions=signs(z)), torch.stack(expected))


def test_hutchinson_is_unbiased_and_more_projections_vary_less():
    sde = SDES["linear"]
    model, z = network_model(sde, 6), torch.randn(1, 6, dtype=torch.float64, generator=generator()).repeat(4000, 1)
    with torch.no_grad():
        exact = float(losses.implicit(model, z[:1], T))
        one = losses.implicit(model, z, T, "hutchinson", generator=generator(1))
        four = losses.implicit(model, z, T, "hutchinson", projections=4, generator=generator(1))
        plain = losses.sliced(model, z, T, variance_reduced=False, generator=generator(1))
    for estimate in (one, four, plain):
        assert float(estimate.mean()) == pytest.approx(exact, abs=5 * float(estimate.std()) / math.sqrt(4000))
    # The variance of 4000 draws is known to a few per cent.
    assert float(four.var() / one.var()) == pytest.approx(1 / 4, rel=0.15)
    assert float(plain.var()) > 1.5 * float(one.var())


@torch.no_grad()
def test_finite_differences_approach_sliced_score_matching_with_order_two():
    model = mixture().model(SDES["linear"])
    z = mixture().sample(20, generator())
    exact = losses.sliced(model, z, T, variance_reduced=False, directions=signs(z))
    steps = (0.2, 0.1, 0.05)
    errors = [float((losses.finite_difference(model, z, T, step=step, directions=signs(z)) - exact).abs().mean()) for step in steps]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.15)
    single = losses.finite_difference(model, z.float(), T, directions=signs(z.float()))
    torch.testing.assert_close(single.double(), exact, rtol=0.01, atol=0.01)


def test_finite_differences_train_the_network_and_need_no_derivative_by_the_state():
    """Its gradient is that of sliced score matching to O(h^2)."""
    model = network_model(SDES["linear"])
    z = torch.randn(30, 2, dtype=torch.float64, generator=generator())
    fd = gradient(model, losses.finite_difference(model, z, T, step=1e-3, directions=signs(z)).mean())
    exact = gradient(model, losses.sliced(model, z, T, variance_reduced=False, directions=signs(z)).mean())
    torch.testing.assert_close(fd, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


def test_losses_can_be_differentiated_by_the_state_and_without_gradients_keep_no_graph():
    model = network_model(SDES["linear"])
    z = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    for form in (losses.implicit, losses.sliced):

        def loss(at, form=form):
            options = {} if form is losses.implicit else {"directions": signs(at)}
            return form(model, at, T, **options).sum()

        at = z.clone().requires_grad_()
        (by_state,) = torch.autograd.grad(loss(at), at)
        nudge = 1e-5 * torch.eye(2, dtype=torch.float64)
        with torch.no_grad():
            numeric = torch.stack([(loss(z + e) - loss(z - e)) / 2e-5 for e in nudge])
            assert not loss(at).requires_grad
        torch.testing.assert_close(by_state.sum(0), numeric, rtol=1e-6, atol=1e-6)


def test_explicit_is_zero_at_the_truth_and_one_half_squared_elsewhere():
    sde, data = SDES["linear"], analytic.GaussianMixture(torch.zeros(1, 3), torch.tensor([0.5]))
    x = data.sample(6, generator())
    model = data.model(sde)
    for t in (None, 0.5, torch.linspace(0.1, 1, 6, dtype=torch.float64)):
        at = sde.t_min if t is None else t
        true = model.score(x, at)
        assert float(losses.explicit(model, x, true, t=t).max()) == 0
        torch.testing.assert_close(losses.explicit(model, x, true + 2, t=t), torch.full((6,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(losses.explicit(model, x, lambda a: -a / 0.5), losses.explicit(model, x, -x / 0.5))
    with pytest.raises(ValueError, match=r"target_score has shape \(6, 1\), x has \(6, 3\)"):
        losses.explicit(model, x, x[:, :1])


def test_conditions_reach_the_network_and_wrong_arguments_are_named():
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, t, label=None):
            seen.append(label)
            return z

    model, z, label = ss.ScoreModel(Network(), SDES["linear"]), torch.randn(3, 2), torch.arange(3)
    before = z.clone()
    losses.explicit(model, z, z, label=label)
    losses.implicit(model, z, 0.5, label=label)
    losses.implicit(model, z, 0.5, "hutchinson", label=label)
    losses.sliced(model, z, 0.5, label=label)
    losses.finite_difference(model, z, 0.5, label=label)
    losses.denoising_at(model, z, 0.5, label=label)
    assert all(given is label for given in seen)
    assert torch.equal(z, before)
    with pytest.raises(ValueError, match="divergence must be"):
        losses.implicit(model, z, 0.5, "trace")
    with pytest.raises(ValueError, match="chunk"):
        losses.implicit(model, z, 0.5, chunk=0)
    with pytest.raises(ValueError, match="projections must be at least 1"):
        losses.sliced(model, z, 0.5, 0)
    with pytest.raises(ValueError, match=r"directions must have shape \(projections, 3, 2\), got \(3, 2\)"):
        losses.sliced(model, z, 0.5, directions=z)
    with pytest.raises(ValueError, match="step must be positive"):
        losses.finite_difference(model, z, 0.5, step=0)


def test_a_unet_with_attention_has_an_exact_divergence_with_gradients(device):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ss.ScoreModel(networks.UNet(1, 8), SDES["ddpm"]).to(device)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    z = torch.randn(2, 1, 4, 4, generator=generator()).to(device)
    loss = losses.implicit(model, z, torch.tensor([0.3, 0.6]).to(device))
    jacobian = torch.autograd.functional.jacobian(lambda a: model.score(a, torch.tensor([0.3, 0.6])), z).reshape(2, 16, 2, 16)
    trace = torch.stack([jacobian[i, :, i].trace() for i in range(2)])
    expected = (0.5 * model.score(z, torch.tensor([0.3, 0.6])).square().reshape(2, -1).sum(1) + trace) / 16
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(losses.implicit(model, z, torch.tensor([0.3, 0.6]).to(device)), expected, rtol=1e-3, atol=1e-3)
    assert float(gradient(model, loss.mean()).abs().max()) > 0


def test_bug_41_fused_attention_has_no_second_derivative_and_is_avoided(device):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, z, t):
            h = (self.scale * z).reshape(-1, 1, 4, 8)
            return torch.nn.functional.scaled_dot_product_attention(h, h, h).reshape(z.shape)

    model = ss.ScoreModel(Attention(), SDES["linear"]).to(device)
    z = torch.randn(3, 32, generator=generator()).to(device)
    directions = signs(z[:, :1])[:, :, :1].expand(2, 3, 32)
    exact = gradient(model, losses.sliced(model, z, T, variance_reduced=False, directions=directions).mean())
    fd = gradient(model, losses.finite_difference(model, z, T, step=0.03, directions=directions).mean())
    torch.testing.assert_close(exact, fd, rtol=0.02, atol=1e-3)


def test_global_random_state_is_untouched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model, z = mixture().model(SDES["linear"]), torch.zeros(3, 2)
    first, second = (losses.sliced(model, z, 0.5, variance_reduced=False) for _ in range(2))
    losses.finite_difference(model, z, 0.5)
    losses.denoising_at(model, z, 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == second.shape == (3,)
