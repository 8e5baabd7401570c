"""Models on linear SDEs in files."""

import pytest
import torch

import scoresde as ss
from scoresde import networks

from ..linear import EVENT, processes


def network(sde):
    torch.manual_seed(0)
    return networks.SideBySide(networks.MLP((sde.channels, 3), 8)) if sde.channels > 1 else networks.MLP(EVENT, 8)


@pytest.mark.parametrize("sde", [ss.CLD(beta=3.0), ss.HOLD(3, rate=1.5, t_min=0.02)])
def test_processes_with_momentum_are_in_the_file(sde, tmp_path):
    model = ss.ScoreModel(network(sde), sde, "edm")
    ss.save_pretrained(model, tmp_path)
    again = ss.from_pretrained(tmp_path, network=network(sde))
    assert repr(again.sde) == repr(sde)
    z = sde.prior((2, 3))
    assert torch.equal(again.data(z, 0.5), model.data(z, 0.5))


def test_other_processes_are_given_and_compared(tmp_path):
    sde = processes()["blurring"]
    model = ss.ScoreModel(network(sde), sde)
    ss.save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match="BlurringSDE, which a file cannot hold"):
        ss.from_pretrained(tmp_path)
    again = ss.from_pretrained(tmp_path, sde=sde)
    z = sde.prior((2, *EVENT))
    assert torch.equal(again.data(z, 0.5), model.data(z, 0.5))
    with pytest.raises(ValueError, match="made for a process"):
        ss.from_pretrained(tmp_path, sde=processes()["coloured"])
