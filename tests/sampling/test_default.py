"""The default: which networks start late, and what a grid or a start of one's own changes."""

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.sampling.default import default

from ..conftest import mixture


class Network(torch.nn.Module):
    """A plan never calls it."""


def model(prediction, sde=None):
    return ss.ScoreModel(Network(), sde or ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000)), prediction)


@pytest.mark.parametrize(
    ("prediction", "late"), [("velocity", True), ("data", True), ("edm", False), ("noise", False), ("score", False)]
)
def test_networks_whose_data_prediction_is_accurate_at_high_noise_start_late(prediction, late):
    planned = ss.plan(model(prediction), nfe=8, event=(2,))
    assert isinstance(planned.solver, solvers.LateFirstCall) == late
    assert planned.nfe == 8


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 5, 8, 10, 11, 15, 20, 50])
@pytest.mark.parametrize("event", [None, (2,), (3, 32, 32)])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "edm"])
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.RectifiedFlow(), ss.EDM()], ids=["vp", "flow", "edm"])
def test_every_budget_is_met_to_the_call(sde, prediction, event, nfe):
    planned = ss.plan(model(prediction, sde), nfe=nfe, event=event)
    assert planned.nfe == nfe


def test_a_grid_of_ones_own_or_a_start_below_the_ratio_has_its_first_call_at_its_first_time():
    own = ss.plan(model("velocity"), grid=grids.uniform(ss.VPSDE(), 5))
    assert own.nfe == 5
    assert own.solver == solvers.IPNDM(order=3)
    started, _ = default(ss.VPSDE(), 5, "velocity", (2,), t_start=0.5)
    assert started == solvers.IPNDM(order=3)
    assert ss.plan(model("velocity"), nfe=5, t_start=0.5).nfe == 5


def test_large_events_have_plain_times():
    _, small = default(ss.VPSDE(), 5, "velocity", (64,))
    _, large = default(ss.VPSDE(), 5, "velocity", (1, 28, 28))
    _, preconditioned = default(ss.VPSDE(), 5, ss.Preconditioned(), (1, 28, 28))
    assert (small.keywords["power"], large.keywords["power"], preconditioned.keywords["power"]) == (2.0, 1.0, 2.0)


def test_sample_takes_the_default_of_the_model_and_the_event():
    exact = mixture().model(ss.VPSDE())
    x = ss.sample(exact, (4, 2), nfe=6, seeds=range(4))
    solver, grid = default(exact.sde, 6, exact.prediction, (2,))
    assert torch.equal(x, ss.sample(exact, (4, 2), solver, nfe=6, grid=grid, seeds=range(4)))
