"""Predictions and times by the names of papers and other libraries."""

import pytest
import torch

import scoresde as ss
from scoresde.sde.prediction import PREDICTIONS_ELSEWHERE, direction
from scoresde.train import Experiment

from ..conftest import linear_betas

VP, CHAIN = ss.VPSDE(), ss.VPSDE.from_betas(linear_betas(1000))


class Tanh(torch.nn.Module):
    def forward(self, z, t):
        return torch.tanh(z)


def declared(prediction, sde=VP, **options):
    return ss.ScoreModel(Tanh(), sde, prediction, **options)


@pytest.mark.parametrize(
    ("names", "a", "b"),
    [
        (("epsilon", "eps", "noise", "EPSILON"), 0.0, 1.0),
        (("x0", "x_0", "x_start", "sample", "data", "denoised"), 1.0, 0.0),
        (("v", "v_prediction", "v-prediction", "velocity"), -float(VP.sigma(0.3)), float(VP.alpha(0.3))),
    ],
)
def test_a_prediction_is_the_combination_of_data_and_noise_that_its_name_says(names, a, b):
    for name in names:
        found = [float(part) for part in direction(VP, 0.3, declared(name).prediction)]
        assert found == pytest.approx([a, b], abs=1e-12)


def test_flow_is_the_velocity_where_that_is_noise_less_data():
    for name in ("flow", "flow_prediction"):
        model = declared(name, ss.RectifiedFlow())
        assert [float(part) for part in direction(model.sde, 0.3, model.prediction)] == [-1.0, 1.0]
        with pytest.raises(
            ValueError, match=f"prediction='{name}' is eps - x, the velocity on RectifiedFlow.., and the path is VPSDE"
        ):
            declared(name)


def test_unknown_predictions_are_refused():
    with pytest.raises(ValueError, match="prediction must be one of data, noise, score, velocity, edm; got 'energy'"):
        declared("energy")
    assert set(PREDICTIONS_ELSEWHERE.values()) <= {"data", "noise", "velocity"}


@pytest.mark.parametrize(
    ("name", "seen"), [("timestep", 499.0), ("Timesteps", 499.0), ("index", 499.0), ("t", 0.5), ("sigma", None), ("c_noise", None)]
)
def test_times_have_the_names_of_others(name, seen):
    r = float(CHAIN.sigma(0.5) / CHAIN.alpha(0.5))
    expected = {"sigma": r, "c_noise": float(torch.tensor(r).log() / 4)}.get(name, seen)
    assert float(declared("eps", CHAIN, time=name).network_time(0.5)) == pytest.approx(expected, rel=1e-6)


def test_unknown_times_are_refused():
    with pytest.raises(ValueError, match="time must be one of t, index, integer_index, half_log_snr, edm, sigma or a function of"):
        declared("eps", time="clock")


def test_guidance_and_training_take_the_same_names():
    assert ss.guidance.rescaled(0.7, space="x0").space == "data"
    assert Experiment("digits", prediction="v_prediction").prediction == "velocity"
