"""What a folder must not lose: the last bit, layers that were added, a time that was set, and the files of somebody else."""

import json
import re

import pytest
import torch
from torch import nn

import scoresde as ss
from scoresde import networks
from scoresde.numerics.files import read_tensors, write_tensors

from ..conftest import generator


def awake(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator(4))
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"classes": 3}, {"multipliers": (1, 2, 2)}], ids=str)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VPSDE.cosine(50)], ids=repr)
def test_the_last_bit(options, sde, tmp_path):
    """Weights at odd addresses, as safetensors returns them, would change it on a CPU."""
    model = ss.ScoreModel(awake(networks.UNet(1, width=8, **options)), sde).eval()
    ss.save_pretrained(model, tmp_path)
    again, z = ss.from_pretrained(tmp_path), torch.randn(2, 1, 8, 8, generator=generator(1))
    with torch.no_grad():
        assert float((again.data(z, 0.5) - model.data(z, 0.5)).abs().max()) == 0.0


@pytest.mark.parametrize(
    "network",
    [
        networks.UNet(1, width=8, dropout=0.2, outputs=2),
        networks.ADM(1, 8, (1, 2), 1, head_channels=8, classes=3, outputs=2),
        networks.EDM2(1, 8, (1, 2), 1, head_channels=8, classes=3, outputs=2),
        networks.DiT(1, 8, 2, 2, patch=2, classes=3, outputs=2),
    ],
    ids=lambda network: type(network).__name__,
)
def test_the_last_bit_of_networks_with_a_learned_variance(network, tmp_path):
    network.recompute = True
    model = ss.LearnedVariance(awake(network), ss.VPSDE.cosine(50)).eval()
    ss.save_pretrained(model, tmp_path)
    again, z = ss.from_pretrained(tmp_path), torch.randn(2, 1, 8, 8, generator=generator(1))
    for a, b in zip(model.data_and_fraction(z, 0.5), again.data_and_fraction(z, 0.5), strict=True):
        assert torch.equal(a, b)
    # How gradients are found is no part of a model.
    assert not again.network.recompute


def test_a_folder_from_before_dropout_is_read(tmp_path):
    """Folders of U-Nets that had neither `dropout` nor `outputs`."""
    model = ss.ScoreModel(awake(networks.UNet(1, width=8)), ss.VPSDE()).eval()
    ss.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors, about = read_tensors(tmp_path / "model.safetensors", "scoresde")
    for description in (config, about):
        for name in ("dropout", "outputs"):
            del description["network"]["arguments"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tensors(tmp_path / "model.safetensors", tensors, about, "scoresde")
    z = torch.randn(2, 1, 8, 8, generator=generator(1))
    assert torch.equal(ss.from_pretrained(tmp_path).data(z, 0.5), model.data(z, 0.5))


def test_a_network_that_was_changed_is_refused(tmp_path):
    dropping, normed = networks.MLP(3, width=16), networks.MLP(3, width=16)
    dropping.leave.append(nn.Dropout(0.5))
    nn.utils.parametrizations.weight_norm(normed.enter)
    for network in (dropping, normed):
        with pytest.raises(ValueError, match="this MLP was changed after it was made"):
            ss.save_pretrained(ss.ScoreModel(network, ss.VPSDE()), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_process_that_was_changed_is_refused(tmp_path):
    sde = ss.EDM()
    sde.t_min = 0.1
    with pytest.raises(ValueError, match=r"t_min=0\.1 of EDM.* was set after it was made"):
        ss.save_pretrained(ss.ScoreModel(networks.MLP(3, width=16), sde), tmp_path)


def test_the_folder_of_a_training_run_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "digits"}')
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json")) + ".*choose another folder"):
        ss.save_pretrained(ss.ScoreModel(networks.MLP(3, width=16), ss.VPSDE()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_one_flipped_bit_is_noticed(tmp_path):
    """Also in a tensor whose value stays finite and nearly the same."""
    ss.save_pretrained(ss.ScoreModel(networks.MLP(3, width=16), ss.VPSDE()), tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*its weights are not those that were saved"):
        ss.from_pretrained(tmp_path)


def test_a_folder_without_the_sum_is_read(tmp_path):
    """Folders of the first version have none."""
    ss.save_pretrained(ss.ScoreModel(networks.MLP(3, width=16), ss.VPSDE()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors, about = read_tensors(tmp_path / "model.safetensors", "scoresde")
    del about["sha256"]
    write_tensors(tmp_path / "model.safetensors", tensors, about, "scoresde")
    assert isinstance(ss.from_pretrained(tmp_path), ss.ScoreModel)
