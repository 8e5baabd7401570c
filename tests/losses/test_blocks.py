"""The denoising loss and the predictions on linear SDEs."""

import pytest
import torch

import scoresde as ss
from scoresde import losses
from scoresde.losses.blocks import block_weights
from scoresde.models import Model, ZeroModel
from scoresde.sde import Preconditioned
from scoresde.sde.linear_prediction import linear_conversion

from ..conftest import generator
from ..linear import COUPLED, DIAGONAL, EVENT, NAMES, processes, two_modes

TIMES = torch.tensor([0.03, 0.3, 0.7, 1.0], dtype=torch.float64)


class Says(Model):
    """An exact model that predicts something else."""

    def __init__(self, exact, prediction):
        self.exact, self.sde, self.prediction = exact, exact.sde, prediction

    def output(self, z, t, **cond):
        data = self.exact.output(z, t)
        c_z, c_x = linear_conversion(self.sde, torch.as_tensor(t).reshape(-1), "data", self.prediction)
        return self.sde.times(c_z, z) + self.sde.times(c_x, data)


def predictions(name):
    return ("data", "noise", Preconditioned(), *(("velocity", "score") if name in DIAGONAL else ()))


@pytest.mark.parametrize("name", NAMES)
def test_the_score_is_the_gradient_of_the_log_density(name):
    model = two_modes().model(processes()[name])
    z, _ = model.sde.perturb(two_modes().sample(4, generator()), TIMES, generator(1))
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(z, TIMES).sum(), z)
    torch.testing.assert_close(model.score(z, TIMES), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_convert_into_each_other(name):
    exact = two_modes().model(processes()[name])
    z, _ = exact.sde.perturb(two_modes().sample(4, generator()), TIMES, generator(1))
    for prediction in predictions(name):
        model = Says(exact, prediction)
        for ask in ("data", "noise", "score"):
            torch.testing.assert_close(getattr(model, ask)(z, TIMES), getattr(exact, ask)(z, TIMES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighting", ["noise", "data", "edm", "likelihood", "elbo", "min_snr"])
def test_a_loss_does_not_depend_on_the_prediction(name, weighting):
    exact = two_modes().model(processes()[name])
    x = two_modes().sample(4, generator())
    found = [
        losses.denoising(Says(exact, prediction), x, weighting, t=TIMES, generator=generator(2)) for prediction in predictions(name)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_likelihood_weighting_is_the_error_of_the_driven_score(name):
    """(s - s^)^T G G^T (s - s^) with s = -Sigma^{-1} (z - A x), by the score itself."""
    sde = processes()[name]
    exact, x = two_modes().model(sde), two_modes().sample(4, generator())
    z, noise = sde.perturb(x, TIMES, generator(3))
    error = exact.score(z, TIMES) - Fixed(sde, x).score(z, TIMES)
    rates = sde.noise_rates(TIMES)
    driven = (error * sde.times(rates, error)).reshape(4, -1).sum(1) / 6
    found = losses.denoising(exact, x, "likelihood", t=TIMES, noise=noise)
    torch.testing.assert_close(found, driven, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(losses.denoising(exact, x, "elbo", t=TIMES, noise=noise), driven / 2, rtol=1e-6, atol=1e-8)


class Fixed(Model):
    """The model of a point mass at x."""

    prediction = "data"

    def __init__(self, sde, x):
        self.sde, self.x = sde, x

    def output(self, z, t, **cond):
        return self.x


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_an_output(name):
    """Of noise it has the loss 1: the mean of 4000 x 6 squares of normals, five standard errors sqrt(2/24000). Of F a loss of 1 for data
    N(0, s^2)."""
    sde = processes()[name]
    zero = torch.zeros(4000, *EVENT)
    found = losses.denoising(ZeroModel(sde, "noise"), zero, generator=generator())
    assert float(found.mean()) == pytest.approx(1, abs=5 * (2 / 24000) ** 0.5)
    x = 0.5 * torch.randn(4000, *EVENT, generator=generator(1))
    found = losses.denoising(ZeroModel(sde, Preconditioned(0.5)), x, "edm", generator=generator())
    assert float(found.mean()) == pytest.approx(1, abs=5 * (2 / 24000) ** 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_antithetic_noise_has_the_shape_of_states(name):
    model, x = two_modes().model(processes()[name]), two_modes().sample(3, generator())
    t = TIMES[:3]
    noise = torch.randn(processes()[name].state_shape(x.shape), dtype=torch.float64, generator=generator(5))
    found = losses.denoising(model, x, t=t, generator=generator(5), noise="antithetic")
    both = [losses.denoising(model, x, t=t, noise=sign * noise) for sign in (1, -1)]
    torch.testing.assert_close(found, 0.5 * (both[0] + both[1]))


def test_score_matching_without_pairs():
    """Implicit and sliced score matching see all channels: their expectation differs from the explicit loss by a constant."""
    model = two_modes().model(ss.CLD())
    z, _ = model.sde.perturb(two_modes().sample(3, generator()), 0.4, generator(1))
    exact = losses.implicit(model, z, 0.4)
    s = model.score(z, 0.4)
    trace = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda v, i=i: model.score(v[None], 0.4)[0], z[i]).reshape(12, 12).trace()
            for i in range(3)
        ]
    )
    torch.testing.assert_close(exact, (0.5 * s.reshape(3, -1).square().sum(1) + trace) / 12)


@pytest.mark.parametrize("name", COUPLED)
def test_what_no_network_predicts(name):
    sde = processes()[name]
    network = ss.networks.MLP((sde.channels, 3), 8)
    model, x = ss.ScoreModel(ss.networks.SideBySide(network), sde, "velocity"), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"there is no velocity|predicts 'data', 'noise' or 'edm'"):
        losses.denoising(model, x)
    with pytest.raises(ValueError, match="there is no velocity"):
        two_modes().model(sde).velocity(torch.zeros(1, sde.channels, *EVENT, dtype=torch.float64), 0.5)
    with pytest.raises(TypeError, match="no single sigma"):
        losses.denoising(two_modes().model(sde), two_modes().sample(2), "sigma2")
    with pytest.raises(ValueError, match="and data of shape"):
        ss.ScoreModel(network, sde).output(torch.zeros(2, sde.channels, 3), 0.5)


def test_weights_are_those_of_numbers():
    """On one block, those of the same path as numbers."""
    vp, sde = ss.VPSDE(), ss.OUSDE(torch.ones(1))
    for prediction in ("data", "noise", "velocity", "score"):
        for weighting in ("noise", "data", "likelihood", "elbo", "p2", "debiased"):
            on_error, factor = block_weights(sde, TIMES[:3], prediction, weighting)
            expected = losses.output_weight(vp, TIMES[:3], prediction, weighting)
            torch.testing.assert_close(on_error[:, 0] ** 2 * factor, expected, rtol=1e-8, atol=1e-10)
