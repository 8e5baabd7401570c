"""The solver "auto": one pilot for each model, event and budget, and its winner."""

import pytest
import torch

import scoresde as ss
from scoresde import solvers

from ..conftest import mixture


def test_it_is_what_select_finds_and_the_pilot_runs_once(capsys):
    model = mixture().model(ss.VPSDE())
    x = ss.sample(model, (4, 2), "auto", nfe=6, seeds=range(4))
    said = capsys.readouterr().err
    assert "auto: " in said
    assert "6 network calls" in said
    picked = solvers.select(model, 6, (2,), 32)
    assert picked.name in said
    torch.testing.assert_close(x, ss.sample(model, (4, 2), picked, seeds=range(4)))
    again = ss.sample(model, (4, 2), "auto", nfe=6, seeds=range(4))
    assert torch.equal(x, again)
    assert capsys.readouterr().err == ""
    ss.sample(model, (4, 2), "auto", nfe=5, seeds=range(4))
    assert "5 network calls" in capsys.readouterr().err


def test_a_network_whose_weights_change_is_tried_again(capsys):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, z, t):
            return self.scale * z

    model = ss.ScoreModel(Network(), ss.VPSDE(), "data").eval()
    for _ in range(2):
        ss.sample(model, (2, 2), "auto", nfe=3)
    assert capsys.readouterr().err.count("auto: ") == 1
    with torch.no_grad():
        model.network.scale.mul_(0.9)
    ss.sample(model, (2, 2), "auto", nfe=3)
    assert capsys.readouterr().err.count("auto: ") == 1


def test_it_needs_calls_and_a_model():
    with pytest.raises(ValueError, match="nfe="):
        ss.sample(mixture().model(ss.VPSDE()), (2, 2), "auto", steps=5)
    with pytest.raises(ValueError, match="needs the model"):
        ss.plan(ss.VPSDE(), "auto", nfe=5)
