"""A model on another path at equal noise-to-signal ratio, against the exact mixture on both."""

import pickle

import pytest
import torch

import scoresde as ss
from scoresde import networks
from scoresde.models import TimeWarped

from ..conftest import generator, mixture

PATHS = {
    "VP": ss.VPSDE(),
    "sub-VP": ss.SubVPSDE(),
    "EDM": ss.EDM(0.01, 50.0),
    "chain": ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000)),
    "flow": ss.RectifiedFlow(),
    "zero terminal signal": ss.VPSDE.from_betas(ss.zero_terminal_snr(torch.linspace(1e-4, 0.02, 1000))),
}
PREDICTIONS = ("data", "noise", "score", "velocity", ss.Preconditioned(0.7))


class OwnPrediction(ss.Model):
    """The exact mixture with another prediction. F sees the state here, so that this is no test of its input."""

    def __init__(self, sde, prediction):
        self.exact, self.sde, self.prediction = mixture().model(sde), sde, prediction

    def output(self, z, t, **cond):
        a, b = (c.reshape(-1, 1).to(z.dtype) for c in ss.sde.direction(self.sde, t, self.prediction))
        return a * self.exact.data(z, t) + b * self.exact.noise(z, t)


@pytest.mark.parametrize("own", PATHS)
@pytest.mark.parametrize("path", PATHS)
def test_data_and_noise_are_those_of_the_mixture_on_the_other_path(own, path):
    sde = PATHS[path]
    exact = mixture().model(sde)
    t = sde.time(torch.linspace(2.5, -2.5, 9, dtype=torch.float64))
    z = exact.sde.perturb(mixture().sample(9, generator()), t, generator(1))[0]
    for prediction in PREDICTIONS:
        model = TimeWarped(OwnPrediction(PATHS[own], prediction), sde)
        torch.testing.assert_close(model.data(z, t), exact.data(z, t), rtol=0, atol=1e-8)
        torch.testing.assert_close(model.noise(z, t), exact.noise(z, t), rtol=0, atol=1e-8)
        one = model.data(z, float(t[3]))
        torch.testing.assert_close(one, exact.data(z, float(t[3])), rtol=0, atol=1e-8)
    assert ss.sde.direction(sde, t, TimeWarped(OwnPrediction(PATHS[own], "noise"), sde).prediction)[1].tolist() == [1.0] * 9


def test_prepared_times_and_samples_are_those_of_times():
    """The start is where both paths reach, and ends at the data."""
    model = TimeWarped(OwnPrediction(PATHS["VP"], "velocity"), PATHS["EDM"])
    z = 50.0 * torch.randn(16, 2, dtype=torch.float64, generator=generator())
    times = [0.9, 0.3, 0.002]
    for t, prepared in zip(times, model.prepare(times, z), strict=True):
        torch.testing.assert_close(model.output(z, prepared), model.output(z, t), rtol=1e-12, atol=1e-12)
    ours = ss.sample(model, z.shape, "heun", steps=12, z=z)
    exact = ss.sample(mixture().model(PATHS["EDM"]), z.shape, "heun", steps=12, z=z)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-7)


def test_a_ratio_that_the_own_path_does_not_reach_is_refused():
    model = TimeWarped(OwnPrediction(PATHS["chain"], "data"), ss.RectifiedFlow())
    with pytest.raises(ValueError, match=r"has no time at which sigma/alpha is inf: keep the path RectifiedFlow"):
        model.output(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    wide = TimeWarped(OwnPrediction(ss.sde.ScalesSDE(lambda t: 1.0 + 0 * t, lambda t: 5 * t), "noise"), ss.EDM())
    with pytest.raises(ValueError, match="sigma/alpha is 40"):  # by bisection, which ends at 1
        wide.data(torch.zeros(1, 2, dtype=torch.float64), 0.5)
    with pytest.raises(TypeError, match="sde must be a path"):
        TimeWarped(model, "EDM")
    with pytest.raises(TypeError, match="must be a ScoreModel"):
        TimeWarped(torch.nn.Identity(), ss.EDM())


def test_a_network_is_called_once_and_keeps_its_mode_and_its_dtype():
    network = networks.MLP(features=2, width=8).double()
    own = ss.ScoreModel(network, PATHS["chain"], "score").eval()
    model = TimeWarped(own, ss.EDM(0.05, 20.0))
    calls = []
    hook = own.register_forward_hook(lambda *args: calls.append(1))
    ss.sample(model, (4, 2), "ddim", steps=5, generator=generator())
    assert len(calls) == 5
    assert model.dtype == torch.float64
    assert not model.training
    assert not network.training
    hook.remove()
    again = pickle.loads(pickle.dumps(model))
    z = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    assert torch.equal(again.data(z, 0.2), model.data(z, 0.2))
