"""Weighted particles against the tilts and products that guidance itself does not sample."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import guidance, loops
from scoresde.guidance import FeynmanKac, Guided, product, tilted
from scoresde.loops.particles import Particles
from scoresde.numerics import resampling
from scoresde.numerics.random import noise_source

from ..conftest import SDES, generator
from .conftest import Conditional, labels


class Normal(ss.Model):
    """N(mean, variance) in one dimension."""

    prediction = "data"

    def __init__(self, sde, mean, variance):
        self.sde, self.mean, self.variance = sde, mean, variance

    def output(self, z, t):
        alpha, sigma = float(self.sde.alpha(t)), float(self.sde.sigma(t))
        return self.mean + alpha * self.variance / (alpha**2 * self.variance + sigma**2) * (z - alpha * self.mean)


def gaussian(sde, mean, variance):
    return Normal(sde, mean, variance)


def weighted(model, steps, k, *, eta=1.0, ess=0.0, seed=0, grid="half_log_snr"):
    run = ss.sample(
        model,
        (k, 1),
        FeynmanKac(k, eta, ess),
        steps=steps,
        grid=grid,
        dtype=torch.float64,
        generator=generator(seed),
        trajectory=True,
    )
    w, x = run.log_weights.exp(), run.x[:, 0]
    mean = float((w * x).sum())
    return mean, float((w * (x - mean) ** 2).sum()), 1 / float((w**2).sum()) / k


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_weights_turn_guidance_into_the_tilt(eta):
    """p(x|c)^2/p(x) for N(1, 1) and N(0, 2) is N(4/3, 2/3). With 3e4 particles the standard error of the mean is below .007."""
    sde = SDES["linear"]
    model = Guided(gaussian(sde, 1.0, 1.0), 2.0, weak=gaussian(sde, 0.0, 2.0))
    mean, variance, share = weighted(model, 400, 30_000, eta=eta)
    assert mean == pytest.approx(4 / 3, abs=0.03)
    assert variance == pytest.approx(2 / 3, abs=0.03)
    assert share > 0.5
    coarse = weighted(model, 40, 30_000, eta=eta)
    finer = weighted(model, 80, 30_000, eta=eta)
    errors = [math.hypot(m - 4 / 3, v - 2 / 3) for m, v, _ in (coarse, finer)]
    assert errors[1] < 0.7 * errors[0]


def test_a_product_needs_its_own_start_noise_and_resampling():
    """N(-1, 1) N(1, 1) is N(0, 1/2)."""
    sde = SDES["linear"]
    model = product([gaussian(sde, -1.0, 1.0), gaussian(sde, 1.0, 1.0)])
    # 1e4 particles: the standard errors are .007 without resampling, and the bias of 1600 steps is about as large.
    k, steps = 10_000, 1600
    run = ss.sample(model, (k, 1), FeynmanKac(k), steps=steps, dtype=torch.float64, generator=generator(), trajectory=True)
    assert float(run.x.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(run.x.var()) == pytest.approx(0.5, abs=0.02)
    assert run.network_calls == 2 * steps


def test_a_tilt_that_does_not_exist_is_refused():
    """N(1, 2)^3/N(0, 1)^2 has the precision 3/2 - 2 < 0."""
    sde = SDES["linear"]
    model = Guided(gaussian(sde, 1.0, 2.0), 3.0, weak=gaussian(sde, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"one particle of 4096 carries all the weight"):
        ss.sample(model, (4096, 1), FeynmanKac(4096, ess=0.0), steps=400, dtype=torch.float64, generator=generator())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_reward_tilts_the_data(eta):
    """N(0, 1/2) e^x is N(1/2, 1/2). 3e4 particles: the standard error is .0041."""
    sde = SDES["linear"]
    model = tilted(gaussian(sde, 0.0, 0.5), lambda z, t: (1 - t) * z[:, 0])
    mean, variance, share = weighted(model, 400, 30_000, eta=eta)
    assert mean == pytest.approx(0.5, abs=5 * 0.0041 + 0.005)
    assert variance == pytest.approx(0.5, abs=5 * 0.0041 + 0.005)
    assert share > 0.5
    through = tilted(gaussian(sde, 0.0, 0.5), lambda x, t: x[:, 0], through="data")
    mean, variance, better = weighted(through, 100, 30_000, eta=eta)
    assert mean == pytest.approx(0.5, abs=0.03)
    assert better > 0.5


def test_the_evidence_is_the_normaliser():
    """E e^x = e^{1/4} for N(0, 1/2); the standard error of its log is sd(e^x)/(e^{1/4} sqrt(K)) = .005."""
    sde = SDES["linear"]
    model = tilted(gaussian(sde, 0.0, 0.5), lambda z, t: (1 - t) * z[:, 0])
    for ess in (0.0, 0.9):
        run = ss.sample(
            model, (20_000, 1), FeynmanKac(20_000, ess=ess), steps=200, dtype=torch.float64, generator=generator(), trajectory=True
        )
        assert float(run.log_evidence) == pytest.approx(0.25, abs=0.03)


def test_groups_do_not_see_each_other():
    sde = SDES["ddpm"]
    model = Guided(Conditional(sde), 2.0, uncond={"label": -1})
    label = labels(3).repeat_interleave(32)
    solver, seeds = FeynmanKac(32, ess=0.9), list(range(96))

    def draw(rows):
        return ss.sample(
            model, (len(rows), 2), solver, steps=12, seeds=[seeds[r] for r in rows], label=label[rows], dtype=torch.float64
        )

    whole = draw(list(range(96)))
    torch.testing.assert_close(draw(list(range(32, 64))), whole[32:64], rtol=0, atol=1e-10)
    parts = ss.sample(model, (96, 2), solver, steps=12, seeds=seeds, label=label, batch_size=32, dtype=torch.float64)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="does not consist of groups of 32"):
        draw(list(range(40)))


def test_only_models_with_a_target_are_taken():
    sde = SDES["ddpm"]
    model = Conditional(sde)
    with pytest.raises(ValueError, match="FeynmanKac needs a Guided, a product or a tilted model"):
        ss.sample(model, (8, 2), FeynmanKac(8), steps=3)
    null = {"label": -1}
    for other in (
        Guided(model, 2.0, uncond=null, rule=guidance.apg()),
        Guided(model, 2.0, uncond=null, interval=(0.1, 1.0)),
        Guided(model, lambda sde, t: 1 + t, uncond=null),
    ):
        with pytest.raises(ValueError, match="no product of fixed powers"):
            ss.sample(other, (8, 2), FeynmanKac(8), steps=3, label=labels(8))
    with pytest.raises(ValueError, match="resampling has no gradient"):
        ss.sample(Guided(model, 2.0, uncond=null), (8, 2), FeynmanKac(8), steps=3, label=labels(8), grad=True)
    with pytest.raises(ValueError, match="eta must be at least 0"):
        FeynmanKac(8, -1.0)
    assert isinstance(FeynmanKac(8), loops.GridLoop)


def test_systematic_resampling_keeps_the_expected_numbers():
    log_w = torch.log_softmax(torch.randn(3, 50, dtype=torch.float64, generator=generator()), 1)
    counts = torch.zeros(3, 50, dtype=torch.float64)
    draws = 4000
    for u in torch.rand(draws, 3, dtype=torch.float64, generator=generator(1)):
        index = resampling.systematic(log_w, u)
        once = torch.nn.functional.one_hot(index, 50).sum(1).double()
        assert bool(((once - 50 * log_w.exp()).abs() < 1 + 1e-9).all())
        counts += once
    # A count is floor or ceil of K w: its standard error is at most 1/2 over the root of the draws.
    torch.testing.assert_close(counts / draws, 50 * log_w.exp(), rtol=0, atol=5 * 0.5 / draws**0.5)
    torch.testing.assert_close(
        resampling.effective_number(torch.zeros(2, 7, dtype=torch.float64)), torch.full((2,), 7.0, dtype=torch.float64)
    )
    lopsided = torch.tensor([[0.0, -800.0]], dtype=torch.float64)
    assert float(resampling.effective_number(lopsided)) == pytest.approx(1.0)


@torch.no_grad()
def test_weights_far_apart_stay_apart():
    """InverseBench's MCGdiff clamps weights at min + 60 nats, so that its best particles become equal."""
    group = Particles(4, 4, 0.0, torch.device("cpu"))
    group.add(torch.tensor([-1000.0, -900.0, -100.0, -99.0]))
    w = group.normalised().exp()
    assert float(w[3] / w[2]) == pytest.approx(math.e, rel=1e-6)
    group.add(torch.tensor([0.0, 0.0, 0.0, torch.nan]))
    assert float(group.normalised()[2].exp()) == pytest.approx(1.0)
    few = Particles(6, 2, 1.0, torch.device("cpu"))
    few.add(torch.tensor([0.0, -50.0, 0.0, 0.0, -50.0, 0.0]))
    noise = noise_source(generator(), None, 6)
    (x,) = few.resampled(noise, torch.arange(6.0)[:, None])
    assert x[:, 0].tolist() == [0.0, 0.0, 2.0, 3.0, 5.0, 5.0]
