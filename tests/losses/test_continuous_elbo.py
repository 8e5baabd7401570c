"""The continuous bound on the likelihood."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, losses

from ..conftest import generator, mixture, sdes
from .conftest import within


@sdes
@torch.no_grad()
def test_the_continuous_bound_is_tight_for_the_exact_score(sde):
    """The mean over data of log p - bound is the prior's mismatch and the decoder's; both are below 0.01 nats here, on every path."""
    data, n = mixture(), 3000
    x = data.sample(n, generator())
    bound = losses.elbo_continuous(data.model(sde), x, samples=8, generator=generator(1))
    values = data.log_prob(x) - bound.nats
    assert float(values.mean()) == pytest.approx(0, abs=5 * float(values.std()) / math.sqrt(n) + 0.01)


@torch.no_grad()
def test_the_standard_error_of_the_continuous_bound_is_that_of_its_repetitions():
    sde, n = ss.VPSDE(), 4000
    x = mixture().sample(1, generator()).repeat(n, 1)
    for samples in (2, 16):
        bound = losses.elbo_continuous(mixture().model(sde), x, samples=samples, generator=generator(1))
        # Both variances are of 4000 draws, the squared differences with heavy tails.
        assert float(bound.stderr.square().mean()) == pytest.approx(float(bound.nats.var()), rel=0.15)


@torch.no_grad()
def test_the_continuous_bound_is_the_limit_of_the_discrete_one_for_a_wrong_model():
    """A model of other data: 400 steps against infinitely many, 4000 points."""
    sde, n = ss.VPSDE(), 4000
    wrong = analytic.GaussianMixture(torch.tensor([[0.5, 0.0]]), torch.tensor([0.8])).model(sde)
    x = mixture().sample(n, generator())
    many = losses.elbo_continuous(wrong, x, samples=8, generator=generator(1))
    grid = grids.half_log_snr(sde, 400)
    chain = losses.elbo(wrong, x, grid=grid, variance="posterior", terms=100, generator=generator(2))
    gap = chain.nats - many.nats
    # Left of the discretisation at 400 steps: below 0.03 nats.
    assert float(gap.mean()) == pytest.approx(0, abs=5 * float(gap.std()) / math.sqrt(n) + 0.03)
    assert float(many.nats.mean()) < float(mixture().log_prob(x).mean()) - 0.1


@torch.no_grad()
def test_the_elbo_weighting_is_the_diffusion_term_of_the_continuous_bound():
    """d (t_max - t_min) times the mean loss, with uniform times."""
    sde, n = ss.VPSDE(), 20_000
    model, x = analytic.ZeroModel(sde), mixture().sample(1, generator()).repeat(n, 1)
    bound = losses.elbo_continuous(model, x, samples=2, generator=generator(1)).diffusion.sum(1)
    loss = 2 * (sde.t_max - sde.t_min) * losses.denoising(model, x, "elbo", "stratified", generator(2))
    error = math.sqrt(float(bound.var() + loss.var()) / n)
    assert float(loss.mean()) == pytest.approx(float(bound.mean()), abs=5 * error)
    # A zero noise network: int g^2/(2 sigma^2) E|eps|^2 dt = d (lambda(t_min) - lambda(1)).
    exact = 2 * float(sde.half_log_snr(sde.t_min) - sde.half_log_snr(1.0))
    assert within(bound, exact)
