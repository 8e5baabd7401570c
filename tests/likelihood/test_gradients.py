"""Gradients of the density."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import scoresde as ss

from ..conftest import SDES, generator
from .targets import unet

FLOW, LINEAR = SDES["flow"], SDES["linear"]


class LearnableGaussian(torch.nn.Module):
    """D of N(mean, e^{2 log_std}) on the straight path."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64))
        self.log_std = torch.nn.Parameter(torch.tensor([-0.5, 0.2, 0.0], dtype=torch.float64))

    def forward(self, z, t):
        alpha, variance, s = 1 - t[:, None], t[:, None] ** 2, (2 * self.log_std).exp()
        return self.mean + alpha * s / (alpha**2 * s + variance) * (z - alpha * self.mean)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_bug_29_gradients_are_those_of_the_closed_form(divergence):
    network = LearnableGaussian()
    model = ss.ScoreModel(network, FLOW, "data", time="t")
    x = torch.randn(4, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    inputs = [x, network.mean, network.log_std]
    out = ss.log_likelihood(
        model, x, divergence=divergence, probes=1 if divergence == "exact" else 3, grad=True, t_end=1e-5, rtol=1e-8, atol=1e-8
    )
    got = torch.autograd.grad(out.nats.sum(), inputs)
    normal = torch.distributions.Normal(network.mean, network.log_std.exp())
    expected = torch.autograd.grad(normal.log_prob(x).sum(), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_grad_nothing_is_recorded():
    network = LearnableGaussian()
    model = ss.ScoreModel(network, FLOW, "data", time="t")
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    out = ss.log_likelihood(model, x)
    assert not out.nats.requires_grad
    assert not out.z.requires_grad
    assert network.mean.grad is None
    assert x.grad is None
    assert not ss.encode(model, x).requires_grad
    assert ss.encode(model, x, grad=True).requires_grad


def test_bug_41_a_network_with_attention_is_differentiated_twice():
    """By x, against central differences, through attention that as a fused kernel has no second derivative."""
    model = unet()
    x = torch.randn(1, 2, 4, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    step = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    options = {"divergence": "hutchinson", "seeds": [3], "t_end": 0.3, "rtol": 1e-8, "atol": 1e-8}
    (gradient,) = torch.autograd.grad(ss.log_likelihood(model, x, grad=True, **options).nats.sum(), x)
    h = 1e-3
    up, down = (ss.log_likelihood(model, x + s * h * step, **options).nats for s in (1, -1))
    assert float((gradient * step).sum()) == pytest.approx(float((up - down) / (2 * h)), rel=1e-3)


def test_bug_41_attention_that_would_be_fused_is_differentiated_twice_too():
    """A user's network, on whose contiguous heads torch would choose a fused kernel: the gradient at x = 0 is 0 by symmetry, elsewhere not."""

    class Attends(torch.nn.Module):
        def forward(self, z, t):
            q = z.reshape(len(z), 1, 4, 8)
            return torch.nn.functional.scaled_dot_product_attention(q, 0.5 * q, q).reshape(z.shape)

    model = ss.ScoreModel(Attends(), FLOW, "data", time="t")
    x = torch.randn(2, 32, generator=generator(), dtype=torch.float64)
    x[0] = 0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ss.log_likelihood(model, x, grad=True, t_end=0.3, rtol=1e-3, atol=1e-3).nats.sum(), x)
    assert float(gradient[0].abs().max()) <= 1e-12
    assert float(gradient[1].abs().max()) > 0.1


def test_bug_41_a_fused_kernel_works_without_gradients_and_is_named_with_them():
    class Fused(torch.nn.Module):
        def forward(self, z, t):
            q = z.reshape(len(z), 1, 4, 8)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(q, 0.5 * q, q).reshape(z.shape)

    model, x = ss.ScoreModel(Fused(), FLOW, "data", time="t"), torch.randn(2, 32, generator=generator())
    assert bool(ss.log_likelihood(model, x, t_end=0.1, rtol=1e-3, atol=1e-3).nats.isfinite().all())
    with pytest.raises(RuntimeError, match=r"differentiated twice.*SDPBackend\.MATH.*or grad=False"):
        ss.log_likelihood(model, x, grad=True, t_end=0.1)
