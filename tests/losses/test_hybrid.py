"""The loss for learned variances."""

import pytest
import torch
from torch.distributions import Normal

from scoresde import losses
from scoresde.losses.elbo import gaussian_kl, posterior_terms, variance_rule

from ..conftest import SDES, generator, mixture
from .conftest import Stub


@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "posterior"), (1.0, "beta"), (0.3, 0.3)])
def test_the_hybrid_loss_is_the_simple_one_plus_a_term_of_the_bound(fraction, variance):
    sde = SDES["chain20"]
    model, x = Stub(sde, fraction), mixture().sample(19, generator())
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator(1))
    steps = torch.arange(2, 21)
    t = steps.double() / 20
    z, _ = sde.perturb(x, t, noise=noise)
    q, b = posterior_terms(sde, (steps - 1) / 20, t)
    data = (model.exact.data(z, t) + 0.1).detach()
    kl = gaussian_kl(x, data, q, b, variance_rule(sde, variance)((steps - 1) / 20, t))
    simple = ((data - x) * (sde.alpha(t) / sde.sigma(t))[:, None]).square().mean(1)
    loss = losses.hybrid(model, x, 0.5, t=t, noise=noise)
    torch.testing.assert_close(loss.detach(), simple + 0.5 * 20 * kl / 2, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(losses.hybrid(model, x, 0, t=t, noise=noise).detach(), simple)


def test_the_bound_in_the_hybrid_loss_trains_the_variance_alone():
    sde = SDES["chain20"]
    model, x = Stub(sde, 0.4), mixture().sample(200, generator())
    t = (torch.arange(200) % 20 + 1).double() / 20  # with the first step, which the decoder answers for
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator(1))
    parameters = [model.offset, model.fraction]
    simple = torch.autograd.grad(losses.hybrid(model, x, 0, t=t, noise=noise).mean(), [model.offset])[0]
    both = torch.autograd.grad(losses.hybrid(model, x, 0.7, t=t, noise=noise).mean(), parameters)
    torch.testing.assert_close(both[0], simple)
    assert abs(float(both[1])) > 1e-3
    assert losses.hybrid(model, x.float(), generator=generator()).dtype == torch.float32


def test_the_first_step_of_the_hybrid_loss_is_the_decoders():
    """There the posterior variance is 0, and that of the second step stands in."""
    sde = SDES["chain20"]
    model, x = Stub(sde, 0.25), mixture().sample(3, generator())
    t, noise = torch.full((3,), 1 / 20, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64, generator=generator(1))
    z, _ = sde.perturb(x, t, noise=noise)
    second, _ = posterior_terms(sde, torch.tensor(1 / 20, dtype=torch.float64), torch.tensor(2 / 20, dtype=torch.float64))
    std = (sde.betas[0] ** 0.25 * second**0.75).sqrt()
    data = (model.exact.data(z, t) + 0.1).detach()
    nll = -Normal(data, std).log_prob(x).sum(1)
    loss = losses.hybrid(model, x, 1.0, t=t, noise=noise) - losses.hybrid(model, x, 0.0, t=t, noise=noise)
    torch.testing.assert_close(loss.detach(), 20 * nll / 2)
    with pytest.raises(ValueError, match=r"those of the chain, 1/20, \.\.\., 1"):
        losses.hybrid(model, x, t=torch.tensor([0.1, 0.52, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 2 steps"):
        losses.hybrid(Stub(SDES["linear"], 0.5), x)
