"""`check` on exact networks, as they are and with planted faults; the linear guess against its closed forms; the networks of others."""

import math
import re
import sys

import pytest
import torch
from torch import nn

import scoresde as ss
from scoresde import analytic, diagnostics
from scoresde.diagnostics.labels import best_shift, index_shift
from scoresde.diagnostics.linear_guess import LinearGuess
from scoresde.diagnostics.readings import LEVELS, Noised, Reading, error, linear_error, output

from ..conftest import generator

MIXTURE = analytic.GaussianMixture(
    torch.tensor([[-0.8, -0.3, 0.5], [0.6, 0.9, -0.2], [0.1, -0.7, -0.9]]), torch.tensor([0.15, 0.1, 0.2]) ** 2
)
DATA = MIXTURE.sample(400, generator(0), dtype=torch.float32)
CHAIN = ss.VPSDE.from_betas(torch.linspace(1e-3, 0.2, 100, dtype=torch.float64))


class Exact(nn.Module):
    """The exact prediction of a process, at the time that `t_of` reads from what the network is told."""

    def __init__(self, sde, prediction, t_of, sign=1):
        super().__init__()
        self.exact, self.prediction, self.t_of, self.sign = MIXTURE.model(sde), prediction, t_of, sign

    def forward(self, z, told):
        t = self.t_of(told.double()).clamp(self.exact.sde.t_min, 1)
        return self.sign * getattr(self.exact, self.prediction)(z.double(), t.expand(len(z))).to(z.dtype)


def chain(prediction="noise", sign=1):
    return Exact(CHAIN, prediction, lambda index: (index + 1) / 100, sign)


def shared_out():
    """A network that takes the index divided by the number of steps."""
    return Exact(CHAIN, "noise", lambda told: told + 1 / 100)


def flow(sign=1):
    return Exact(ss.RectifiedFlow(), "velocity", lambda t: t, sign)


class EDMNetwork(nn.Module):
    """F of D = c_skip z + c_out F(c_in z, t), for the exact denoiser D."""

    def __init__(self, sigma_data, sign=1):
        super().__init__()
        self.exact, self.edm, self.sign = MIXTURE.model(ss.EDM()), ss.sde.Preconditioned(sigma_data), sign

    def forward(self, seen, t):
        t = t.double().expand(len(seen))
        alpha, sigma = self.exact.sde.alpha(t), self.exact.sde.sigma(t)
        z = seen.double() / self.edm.input_scale(alpha, sigma)[:, None]
        s = self.edm.sigma_data
        skip, out = s**2 / (s**2 + sigma**2), sigma * s / (s**2 + sigma**2).sqrt()
        return self.sign * ((self.exact.data(z, t) - skip[:, None] * z) / out[:, None]).to(seen.dtype)


def index(offset):
    return lambda sde, t: (t * 100 - 1 + offset).clamp(0, 99)


def reversed_index(sde, t):
    return 100 - t * 100


LONGER = ss.VPSDE.from_betas(torch.linspace(3e-3, 0.35, 100, dtype=torch.float64))
FAULTS = {
    "prediction": (chain(), CHAIN, "data", "index", 1.0, "prediction='noise'"),
    "prediction of data": (chain("data"), CHAIN, "noise", "index", 1.0, "prediction='data'"),
    "prediction of velocity": (flow(), ss.RectifiedFlow(), "noise", "t", 1.0, "prediction='velocity'"),
    "sign": (chain(sign=-1), CHAIN, "noise", "index", 1.0, "negate"),
    "sign of velocity": (flow(-1), ss.RectifiedFlow(), "velocity", "t", 1.0, "negate"),
    "sign of edm": (EDMNetwork(0.7, -1), ss.EDM(), ss.sde.Preconditioned(0.7), "t", 1.0, "negate"),
    "direction": (flow(), ss.RectifiedFlow(), "velocity", lambda sde, t: 1 - t, 1.0, "the other way"),
    "direction of a chain": (chain(), CHAIN, "noise", reversed_index, 1.0, "the other way"),
    "time": (chain(), CHAIN, "noise", "t", 1.0, "index"),
    "schedule": (chain(), ss.VPSDE.cosine(100), "noise", "index", 1.0, "path"),
    "schedule of no name": (chain(), LONGER, "noise", "index", 1.0, "betas"),
    "schedule of larger betas": (chain(), ss.VPSDE.from_betas(1.5 * CHAIN.betas), "noise", "index", 1.0, "betas"),
    "schedule of smaller betas": (chain(), ss.VPSDE.from_betas(0.6 * CHAIN.betas), "noise", "index", 1.0, "betas"),
    "scale": (chain(), CHAIN, "noise", "index", 255.0, "the network's data are"),
    "scale of no name": (chain(), CHAIN, "noise", "index", 2.0, "the network's data are x * 0.5"),
    "scale of a flow": (flow(), ss.RectifiedFlow(), "velocity", "t", 1 / 3, "the network's data are x * "),
    "prediction of a denoiser": (chain(), CHAIN, "edm", "index", 1.0, "prediction='noise'"),
    "time in whole numbers": (shared_out(), CHAIN, "noise", "integer_index", 1.0, "time='t'"),
    "time at half its rate": (shared_out(), CHAIN, "noise", lambda sde, t: (100 * t - 1) / 200, 1.0, "time='t'"),
    "index": (chain(), CHAIN, "noise", index(1), 1.0, "-1"),
    "index below": (chain(), CHAIN, "noise", index(-1), 1.0, "+1"),
    "index of two": (chain(), CHAIN, "noise", index(2), 1.0, "-2"),
    "index of four": (chain(), CHAIN, "noise", index(4), 1.0, "-4"),
}
ALL_WELL = {
    "chain, noise": (chain(), CHAIN, "noise", "index"),
    "chain, velocity": (chain("velocity"), CHAIN, "velocity", "index"),
    "flow": (flow(), ss.RectifiedFlow(), "velocity", "t"),
    "edm": (Exact(ss.EDM(), "noise", lambda t: t), ss.EDM(), "noise", "t"),
    **{repr(sde): (Exact(sde, "noise", lambda t: t), sde, "noise", "t") for sde in (ss.VPSDE(), ss.VESDE(), ss.VPSDE.cosine())},
    "edm, preconditioned": (EDMNetwork(0.7), ss.EDM(), ss.sde.Preconditioned(0.7), "t"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_remedy(name):
    network, sde, prediction, time, factor, remedy = FAULTS[name]
    found = diagnostics.check(ss.ScoreModel(network, sde, prediction, time=time), DATA * factor, generator(1))
    assert not found.well
    assert name.split()[0] in found.faults, found
    assert remedy in found.verdict


@pytest.mark.parametrize("name", ALL_WELL)
def test_an_exact_network_is_well(name):
    network, sde, prediction, time = ALL_WELL[name]
    found = diagnostics.check(ss.ScoreModel(network, sde, prediction, time=time), DATA, generator(1))
    assert found.well, found
    assert "All is well" in str(found)
    assert found.samples is not None
    assert found.samples.spread == pytest.approx(1, abs=0.3)  # 64 samples, of three modes
    # The exact prediction is the best one, the linear guess the best linear one, and a guess of zero has 1.
    assert all(at.network < at.linear < 1 for at in found.levels[1:-1])


WEAK = ss.CoefficientsSDE(lambda t: -0.5 * (0.2 + t**2), lambda t: (0.2 + t**2).sqrt())
SINE = ss.ScalesSDE(lambda t: torch.cos(0.5 * math.pi * t), lambda t: torch.sin(0.5 * math.pi * t))


@pytest.mark.parametrize(
    ("sde", "prediction", "fault", "said"),
    [(WEAK, "noise", None, r"All is well.*does not end in noise: alpha\(1\)=0\.77"),
     (SINE, "noise", "prediction", r"alpha\(1\)=0: .* Train a velocity"), (SINE, "velocity", None, "All is well")],
)  # fmt: skip
def test_a_path_that_cannot_be_sampled_is_named_and_its_exact_network_is_not_blamed(sde, prediction, fault, said):
    model = ss.ScoreModel(Exact(sde, prediction, lambda t: t), sde, prediction)
    found = diagnostics.check(model, DATA, generator(1))
    assert found.faults == (() if fault is None else (fault,))
    assert re.search(said, found.verdict)
    # Levels beyond the end of the path would be its end, several times.
    assert len({at.t for at in found.levels}) == len(found.levels)


def test_a_network_that_is_worse_than_the_linear_guess_is_told_to_train_longer():
    class Rough(Exact):
        def forward(self, z, told):
            return super().forward(z, told) + 0.45 * torch.cos(7 * z + told[:, None])

    model = ss.ScoreModel(Rough(ss.VPSDE(), "noise", lambda t: t), ss.VPSDE(), "noise")
    found = diagnostics.check(model, DATA, generator(1))
    assert re.search(r"[Aa]t t = .* the network is worse than the best linear guess: a longer training", found.verdict), found
    assert "sound network" not in found.verdict


def test_a_flow_the_other_way_round_is_read_by_one_call():
    class Other(nn.Module):
        def forward(self, z, told):
            return -flow()(z, 1 - told)

    found = diagnostics.check(ss.ScoreModel(Other(), ss.RectifiedFlow(), "velocity"), DATA, generator(1))
    assert {"sign", "direction"} <= set(found.faults) or {"sign", "time"} <= set(found.faults)
    assert "interop.formats.velocity(network, direction='noise_to_data') does both" in found.verdict


def test_conditions_are_keywords():
    with pytest.raises(TypeError, match=r"conditions are keywords here: check\(model, x, \*\*cond\)"):
        diagnostics.check(ss.ScoreModel(chain(), CHAIN), DATA, cond={"label": 1})


def test_a_network_that_ignores_its_time_or_is_not_trained_is_not_well():
    blind = ss.ScoreModel(chain(), CHAIN, "noise", time=lambda sde, t: torch.full_like(t, 30.0))
    assert set(diagnostics.check(blind, DATA, generator(1)).faults) & {"time ignored", "time", "schedule"}
    wild = nn.Module()
    wild.forward = lambda z, t: (5 * z).sin() * t[:, None]
    untrained = ss.ScoreModel(wild, CHAIN, "noise", time="t")
    assert "training" in diagnostics.check(untrained, DATA, generator(1)).faults


def test_a_network_that_needs_whole_times_cannot_be_called_with_others():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.exact = nn.Embedding(100, 1), chain()

        def forward(self, z, told):
            return self.exact(z, told) + 0 * self.table(told)

    found = diagnostics.check(ss.ScoreModel(Embedded(), CHAIN, "noise", time="index"), DATA, generator(1))
    assert found.faults[0] == "call"
    assert "cannot be called as it is declared" in found.verdict
    assert found.samples is None


def test_what_check_cannot_read_is_refused():
    with pytest.raises(TypeError, match="ScoreModel"):
        diagnostics.check(MIXTURE.model(CHAIN), DATA)
    with pytest.raises(ValueError, match="32"):
        diagnostics.check(ss.ScoreModel(chain(), CHAIN), DATA[:31])


def test_the_same_generator_gives_the_same_check_and_the_mode_is_kept():
    model = ss.ScoreModel(chain(), CHAIN, "noise", time="index").train()
    first, second = (diagnostics.check(model, DATA, generator(3)) for _ in range(2))
    assert first.levels == second.levels
    assert model.training
    model.network.eval()
    diagnostics.check(model, DATA[:32], generator())
    assert (model.training, model.network.training) == (True, False)


# --- the linear guess ------------------------------------------------------------------------------------------------------


def test_the_linear_guess_is_least_squares():
    """Of 200,000 Gaussian samples; its error is the formula's within five standard errors, and no other linear map is better."""
    a = torch.randn(3, 3, generator=generator(4), dtype=torch.float64)
    x = torch.randn(200_000, 3, generator=generator(5), dtype=torch.float64) @ a.T + torch.tensor([1.0, -2.0, 0.5])
    guess = LinearGuess.of(x)
    alpha, sigma = 0.8, 0.6
    eps = torch.randn(x.shape, generator=generator(6), dtype=torch.float64)
    z = alpha * x + sigma * eps
    design = torch.cat([z, torch.ones(len(z), 1)], 1)
    best = design @ torch.linalg.lstsq(design, eps).solution
    # The covariance of 2e5 samples is off by 2e-3 of its size, and a few z are 5 standard deviations from the mean.
    torch.testing.assert_close(guess.noise(z, alpha, sigma), best, atol=5e-2, rtol=0)
    squared = (guess.noise(z, alpha, sigma) - eps).square().mean(1)
    assert float(squared.mean()) == pytest.approx(
        guess.error(math.log(alpha / sigma)), abs=5 * float(squared.std()) / len(z) ** 0.5
    )


def test_the_guess_of_few_data_is_shrunk_as_sklearn_does():
    covariance = pytest.importorskip("sklearn.covariance")
    x = torch.randn(20, 50, generator=generator(7), dtype=torch.float64) * torch.linspace(0.1, 3, 50, dtype=torch.float64)
    guess = LinearGuess.of(x)
    own = guess.basis.T * (guess.variances - guess.rest) @ guess.basis + guess.rest * torch.eye(50)
    torch.testing.assert_close(own, torch.as_tensor(covariance.ledoit_wolf(x.numpy())[0]))


def test_the_level_inverts_the_error_and_a_scale_moves_it():
    guess = LinearGuess.of(DATA)
    for wanted in LEVELS:
        assert guess.error(guess.level(wanted)) == pytest.approx(wanted, rel=1e-9)
    assert guess.of_affine(10.0, 3.0).level(0.5) == pytest.approx(guess.level(0.5) - math.log(10))


# --- readings and labels -----------------------------------------------------------------------------------------------------


def noised(n=400):
    x = MIXTURE.sample(n, generator(8))
    return Noised(
        x,
        torch.randn(x.shape, generator=generator(9), dtype=torch.float64),
        {},
        LinearGuess.of(MIXTURE.sample(1000, generator(10))),
    )


@pytest.mark.parametrize("sde", [CHAIN, ss.RectifiedFlow(), ss.EDM()], ids=repr)
@pytest.mark.parametrize("prediction", ["noise", "data", "velocity", "score"])
def test_every_prediction_of_an_exact_network_has_the_same_error(sde, prediction):
    """The noise that a prediction determines is that of the exact model."""
    data = noised(50)
    exact = MIXTURE.model(sde)
    model = ss.ScoreModel(Exact(sde, prediction, lambda t: t), sde, prediction, time=None).double()
    reading = Reading(sde, prediction, lambda sde, t: t)
    for level in (2.0, 0.0, -2.0):
        t = reading.t(level)
        out, z = output(model, data, reading, t)
        wanted = (exact.noise(z, t.expand(len(z))) - data.noise).square().mean(1)
        torch.testing.assert_close(error(out, z, data, reading, t), wanted, rtol=1e-6, atol=1e-9)
        assert float(wanted.mean()) < linear_error(data, reading, z, t)


def test_the_best_label_of_a_shifted_time_is_the_shift():
    data = noised()
    sde = ss.EDM()
    model = ss.ScoreModel(Exact(sde, "noise", lambda t: t), sde, "noise", time=None).double()
    own = Reading(sde, "noise", lambda sde, t: t)
    assert best_shift(model, data, own) == (0.0, 0.0)
    shifted = Reading(sde, "noise", lambda sde, t: sde.time(sde.half_log_snr(t) - 0.5))
    gain, shift = best_shift(model, data, shifted)
    assert shift == 0.5
    assert gain > 0.05


def test_a_factor_of_the_data_is_fitted():
    """The network's data are x; the check is given 3 x + 5, and the mean of x, which no one knows, is not 0."""
    model = ss.ScoreModel(chain(), CHAIN, "noise", time="index")
    found = diagnostics.check(model, DATA * 3 - DATA.mean() * 3 + 5, generator(1))
    assert found.faults == ("scale",)
    factor = float(re.search(r"\(x - [0-9.]+\) \* (\d\.\d+)", found.verdict)[1])
    assert factor == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("shift", "spread", "faults"), [(-3, 0.5, ("index",)), (-3, 0.7, ()), (-1, 0.5, ("index",)), (-1, 0.7, ("schedule", "index"))]
)
def test_where_betas_explain_the_labels_as_well_only_an_index_that_is_off_by_one_is_named_beside(
    monkeypatch, shift, spread, faults
):
    monkeypatch.setattr(sys.modules["scoresde.diagnostics.check"], "index_shift", lambda *_: (shift, spread))
    found = diagnostics.check(ss.ScoreModel(chain(), CHAIN, "noise", time="index"), DATA, generator(1))
    assert found.faults == faults
    assert (f"off by {abs(shift)}: tell the network the index {shift}" in found.verdict) == bool(faults)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 4])
def test_an_index_is_off_by_what_was_planted(offset):
    model = ss.ScoreModel(chain(), CHAIN, "noise", time="index").double()
    assert index_shift(model, noised(1000), Reading(CHAIN, "noise", index(offset)), generator(2))[0] == -offset


def test_a_network_with_errors_in_its_times_is_not_called_off_by_one():
    """Its best label is off by 0.3, 0.3 and 2.6 at the indices 5, 7 and 10: by 1.1 in the mean, and nowhere by about one."""

    class Rough(nn.Module):
        def forward(self, z, told):
            return chain()(z, told - torch.where(told < 8.5, 0.3, 2.6))

    model = ss.ScoreModel(Rough(), CHAIN, "noise", time="index").double()
    assert index_shift(model, noised(1000), Reading(CHAIN, "noise", index(0)), generator(2))[0] == 0
