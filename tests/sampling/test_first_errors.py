"""What is said to people who type what they know from elsewhere."""

import math
import re

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import losses, solvers, train

from ..conftest import linear_betas


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, z, t, label=None):
        return self.layer(z)


class Stepping:
    def step(self, z, t, s):
        return z


NET = Net()
MODEL = ss.ScoreModel(NET, ss.VPSDE.from_betas(linear_betas(1000)), "epsilon")


@pytest.mark.parametrize(
    "call",
    [
        lambda: ss.sample(NET, (4, 2), nfe=8),
        lambda: ss.sample(lambda z, t: z, (4, 2), nfe=8),
        lambda: ss.plan(NET, nfe=8),
        lambda: ss.sample_to("nowhere", NET, 4, (2,), nfe=8),
        lambda: solvers.fit(NET, nfe=8, shape=(2,)),
        lambda: solvers.select(NET, 8, (2,)),
        lambda: solvers.calibrate(NET, (2,)),
        lambda: ss.log_likelihood(NET, torch.zeros(3, 2)),
        lambda: losses.denoising(NET, torch.zeros(3, 2)),
        lambda: ss.guidance.Guided(NET, 3.0),
    ],
)
def test_a_raw_network_is_to_be_wrapped(call):
    with pytest.raises(TypeError, match=r"wrap (the|a) network: ss.ScoreModel\(net, sde, prediction=\.\.\.\)") as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 0}, "Net takes no seed=: for one seed a sample give seeds=range(n)"),
        ({"guidance_scale": 3.0}, "Net takes no guidance_scale=: for guidance sample guidance.Guided(model, scale)"),
        ({"strength": 0.5}, "z=z, t_start=t"),
        ({"mask": None}, "for inpainting see scoresde.inverse"),
        ({"num_inference_steps": 8}, "the number of steps is steps="),
        ({"eta": 1.0}, "solver=solvers.DDIM(eta=1.0)"),
        ({"clip": True}, "models.thresholded(model)"),
        ({"return_trajectory": True}, "trajectory=True"),
        ({"labels": 1}, "label="),
        ({"progres": True}, "did you mean progress=?"),
        ({"prompt_embeds": 1}, "the conditions that it takes are label"),
    ],
)
def test_a_keyword_that_the_network_does_not_take_names_the_way_here(options, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        ss.sample(MODEL, (4, 2), nfe=2, **options)


def test_conditions_that_the_network_takes_reach_it():
    ss.sample(MODEL, (4, 2), nfe=2, label=None)

    class Open(Net):
        def forward(self, z, t, **anything):
            assert anything == {"strength": 2}
            return self.layer(z)

    ss.sample(ss.ScoreModel(Open(), ss.VPSDE()), (4, 2), nfe=2, strength=2)


def test_every_hint_names_what_there_is():
    assert callable(ss.guidance.Guided)
    assert callable(ss.models.thresholded)
    assert callable(MODEL.sde.perturb)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: ss.sample(MODEL, (4, 2), nfe=2, seeds=0), TypeError, "one a sample, got 0: seeds=range(0, 0 + n)"),
        (lambda: ss.sample(MODEL, 4, nfe=2), TypeError, "shape must be (B, *event), such as (4, 2) for 4 points of the plane; got 4"),
        (lambda: solvers.select(MODEL, 8, 2), TypeError, "such as (2,) for points of 2 coordinates; got 2"),
        (lambda: ss.sample(MODEL, (4, 2), Stepping(), nfe=2), TypeError, "a Stepping is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), Stepping, nfe=2), TypeError, "Stepping is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), lambda z, t: z, nfe=2), TypeError, "<lambda> is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), solvers.DDIM, nfe=2), TypeError, "DDIM is no solver: give an instance, DDIM()"),
        (lambda: losses.denoising(MODEL, torch.zeros(4, 2), weighting=lambda t: t), TypeError, "weighting must take 2 arguments (sde, t)"),
        (lambda: train.Recipe(weighting=lambda t: t), TypeError, "weighting must take 2 arguments (sde, t), but <lambda> takes (t)"),
        (lambda: ss.CoefficientsSDE(lambda z, t: -z, lambda t: 1.0), TypeError, "drift_rate must take 1 argument t, as"),
    ],
)  # fmt: skip
def test_first_mistakes_are_explained(call, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        call()


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"^device='cuda', but torch finds no CUDA device$"):
        ss.sample(MODEL, (4, 2), nfe=2, device="cuda")


def test_arrays_and_plain_numbers_are_taken():
    x = np.array([[0.1, 0.2], [0.3, -0.4]])
    likelihood = ss.log_likelihood(MODEL.double(), x)
    torch.testing.assert_close(likelihood.nats, ss.log_likelihood(MODEL.double(), torch.tensor(x)).nats)
    sde = ss.CoefficientsSDE(lambda t: -1.0, lambda t: 2.0**0.5)
    assert float(sde.alpha(0.5)) == pytest.approx(math.exp(-0.5), rel=1e-8)
