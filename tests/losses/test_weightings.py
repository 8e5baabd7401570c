"""Weightings of the denoising loss, each a known factor on the squared noise error."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, losses, networks
from scoresde.sde.prediction import PREDICTIONS

from ..conftest import NO_SIGNAL_AT_1, SDES, generator, mixture, rotated, zero_terminal

SCALARS = {
    "noise": lambda sde, t: 1.0,
    "data": lambda sde, t: float(sde.sigma(t) ** 2 / sde.alpha(t) ** 2),
    "velocity": lambda sde, t: float((sde.alpha(t) ** 2 + sde.sigma(t) ** 2) ** 2 / sde.alpha(t) ** 2),
    "sigma2": lambda sde, t: 1.0,
    "likelihood": lambda sde, t: float(sde.diffusion(t) ** 2 / sde.sigma(t) ** 2),
    "elbo": lambda sde, t: float(sde.diffusion(t) ** 2 / (2 * sde.sigma(t) ** 2)),
    "min_snr": lambda sde, t: min(snr(sde, t), 5.0) / snr(sde, t),
    "p2": lambda sde, t: 1 / (1 + snr(sde, t)),
    "edm": lambda sde, t: (1 / snr(sde, t) + 0.25) / 0.25,
    "debiased": lambda sde, t: 1 / math.sqrt(snr(sde, t)),
}
KNOBS = {
    "min_snr": (losses.min_snr(2.0), lambda sde, t: min(snr(sde, t), 2.0) / snr(sde, t)),
    "p2": (losses.p2(0.5, 2.0), lambda sde, t: (0.5 + snr(sde, t)) ** -2),
    "edm": (losses.edm(2.0), lambda sde, t: (1 / snr(sde, t) + 4) / 4),
}


def snr(sde, t):
    return float(sde.alpha(t) ** 2 / sde.sigma(t) ** 2)


@pytest.mark.parametrize(
    ("weighting", "process", "t"), list(rotated(SCALARS, [n for n in SDES if n not in NO_SIGNAL_AT_1], (0.03, 0.5, 0.96), each=6))
)
def test_weightings_are_factors_on_the_squared_noise_error(weighting, process, t):
    """Errors of data, velocity and score are those of the noise times sigma/alpha, (alpha^2 + sigma^2)/alpha and 1/sigma."""
    sde = SDES[process]
    cases = [(weighting, SCALARS[weighting]), *([KNOBS[weighting]] if weighting in KNOBS else [])]
    for given, factor in cases:
        for kind in (*PREDICTIONS, ss.Preconditioned(0.5)):
            model = analytic.ZeroModel(sde, kind)
            x, noise = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator())
            z, _ = sde.perturb(x, t, noise=noise)
            expected = factor(sde, t) * (model.noise(z, t) - noise).square().mean(1)
            loss = losses.denoising(model, x, given, t=torch.full((7,), t), noise=noise)
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-12)  # t above is float32 in the loss


def test_bug_24_min_snr_clamps_from_above_and_is_finite_without_signal():
    """min(SNR, gamma) on the data error, in Hang et al.'s three forms, on a chain whose last SNR is 0."""
    sde = zero_terminal()
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    ratio = sde.alpha(t) ** 2 / sde.sigma(t) ** 2
    assert float(ratio[-1]) == 0
    clamped = ratio.clamp(max=5)
    forms = {"data": clamped, "velocity": clamped / (ratio + 1), "noise": torch.where(ratio > 5, 5 / ratio, 1.0)}
    for kind, expected in forms.items():
        weight = losses.output_weight(sde, t, kind, "min_snr")
        assert bool(weight.isfinite().all())
        torch.testing.assert_close(weight, expected)


def test_the_scale_of_the_data_is_stated_once_for_the_network_and_its_edm_weighting():
    sde, t = SDES["edm"], torch.tensor([0.01, 0.5], dtype=torch.float64)
    torch.testing.assert_close(losses.output_weight(sde, t, ss.Preconditioned(3.0), "edm"), torch.ones(2, dtype=torch.float64))
    assert float(losses.output_weight(sde, t, ss.Preconditioned(3.0), losses.edm(0.5))[1]) != 1


def test_flow_matching_is_the_velocity_weighting_of_a_rectified_flow():
    """|v - (eps - x)|^2, and its gradient; and on any path and weighting a velocity network has the loss of the noise it implies."""
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["flow"], "velocity").double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x, noise = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator())
    t = torch.rand(20, dtype=torch.float64, generator=generator(1)).clamp(1e-3, 1)
    ours = losses.denoising(model, x, "velocity", t=t, noise=noise)
    at = t[:, None]
    theirs = (model.network((1 - at) * x + at * noise, t) - (noise - x)).square().mean(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), list(model.parameters()))]) for loss in (ours, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-12)
    t = t.clamp(max=0.99)
    z, _ = SDES["flow"].perturb(x, t, noise=noise)
    implied = (model.noise(z, t) - noise).square().mean(1)
    torch.testing.assert_close(losses.denoising(model, x, "noise", t=t, noise=noise), implied)


def test_a_callable_weights_the_squared_score_error():
    sde, x = SDES["ddpm"], torch.randn(5, 2, dtype=torch.float64)
    model, t, noise = mixture().model(sde), torch.rand(5).double() + 1e-3, torch.randn(5, 2, dtype=torch.float64)
    t = t.clamp(max=1)
    z, _ = sde.perturb(x, t, noise=noise)
    score_of_kernel = -noise / sde.sigma(t)[:, None]
    expected = t**3 * (model.score(z, t) - score_of_kernel).square().mean(1)
    torch.testing.assert_close(losses.denoising(model, x, lambda sde, t: t**3, t=t, noise=noise), expected)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_noise_and_sigma2_weightings_have_equal_gradients(kind):
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["ddpm"], kind).double()
    torch.nn.init.normal_(model.network.leave[-1].weight, generator=generator(2))
    x, grads = torch.randn(20, 3, dtype=torch.float64, generator=generator()), []
    for weighting in ("noise", "sigma2"):
        loss = losses.denoising(model, x, weighting, generator=generator(1)).mean()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-12)


def test_weights_do_not_cancel_where_the_signal_vanishes():
    """A velocity network under its own weighting at alpha = 0: the loss is the plain squared error there."""
    sde, x = zero_terminal(), torch.randn(4, 3, dtype=torch.float64)
    t, noise = torch.ones(4), torch.randn(4, 3, dtype=torch.float64)
    loss = losses.denoising(analytic.ZeroModel(sde, "velocity"), x, "velocity", t=t, noise=noise)
    torch.testing.assert_close(loss, x.square().mean(1))
    assert float(losses.denoising(analytic.ZeroModel(sde, "velocity"), x, "noise", t=t, noise=noise).max()) == 0
    with pytest.raises(ValueError, match="weighting 'velocity' is not finite at t=1 for a network that predicts 'noise'"):
        losses.denoising(analytic.ZeroModel(sde, "noise"), x, "velocity", t=t, noise=noise)


def test_a_time_next_to_zero_signal_does_not_stop_a_training():
    """One uniform time in a million is that close to t = 1."""
    model, x = analytic.ZeroModel(ss.RectifiedFlow(), "noise"), torch.zeros(1, 2)
    loss = losses.denoising(model, x, "debiased", t=torch.tensor([1 - 5e-7], dtype=torch.float64), noise=torch.ones(1, 2))
    assert float(loss) == pytest.approx(1 / 5e-7, rel=1e-3)


def test_a_weight_that_is_not_finite_names_the_time():
    model = analytic.ZeroModel(zero_terminal(), "velocity")
    with pytest.raises(ValueError, match="weighting 'likelihood' is not finite at t=1"):
        losses.denoising(model, torch.zeros(3, 2), "likelihood", t=torch.ones(3))
    noise_model = analytic.ZeroModel(zero_terminal(), "noise")
    noise = torch.ones(3, 2)
    assert float(losses.denoising(noise_model, torch.zeros(3, 2), "sigma2", t=torch.ones(3), noise=noise).mean()) == 1
