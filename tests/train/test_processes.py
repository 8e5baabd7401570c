"""Every process by its name, from training to samples."""

import pytest
import torch

import scoresde as ss
from scoresde.train import Recipe
from scoresde.train.experiment import Experiment
from scoresde.train.processes import CHAINS, PROCESSES


@pytest.mark.parametrize("event", [(1, 8, 8), (3,)])
@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_is_made_for_an_event(name, event):
    sde = Experiment("digits", process=name, event=event).sde()
    x = torch.zeros(2, *event)
    z, _ = sde.perturb(x, 0.5)
    assert z.shape[0] == 2
    # What is left of the data at the end is little: of a standard deviation below a third of the noise's.
    assert float(sde.half_log_snr(1.0)) < -1.1 or name in ("ve", "edm")
    assert (getattr(sde, "steps", None) is not None) == (name in CHAINS)


@pytest.mark.parametrize("name", ["blur", "coloured", "cld"])
def test_a_run_learns_continues_and_samples(name, tmp_path):
    """The loss falls well below that of a zero network, and an interrupted run ends with the same weights."""
    recipe = Recipe(iterations=60, batch_size=32, validate_every=60, save_every=30)
    experiment = Experiment("digits", process=name, width=8, multipliers=(1,), recipe=recipe)
    trainer = experiment.train(tmp_path / "run", torch.device("cpu"), progress=False)
    last = trainer.history[-1]
    assert last["validation"] < 0.9 * last["zero"]
    again = Experiment.read(tmp_path / "run")
    model = again.load_model(tmp_path / "run", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"training run: its model is train\.Experiment\.read\(folder\)\.load_model"):
        ss.from_pretrained(tmp_path / "run")
    x = ss.sample(model, (2, *again.event), nfe=3, seeds=range(2))
    assert x.shape == (2, 1, 8, 8)
    torch.testing.assert_close(x, ss.sample(trainer.averaged, (2, *again.event), nfe=3, seeds=range(2)))


def test_a_run_is_named_by_a_string(tmp_path, monkeypatch):
    """Folders and devices, on the way in and on the way back."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment("digits", process="flow", width=8, multipliers=(1,), recipe=Recipe(iterations=1, batch_size=8))
    trainer = experiment.train("runs/x", "cpu", progress=False)
    model = Experiment.read("runs/x").load_model("runs/x")
    for a, b in zip(model.parameters(), trainer.averaged.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_unknown_process_is_named(tmp_path):
    with pytest.raises(ValueError, match="process must be one of linear, cosine"):
        Experiment("digits", process="blurring", event=(1, 8, 8)).sde()
    with pytest.raises(ValueError, match="predicts 'data', 'noise' or 'edm'"):
        Experiment("digits", process="cld", prediction="velocity", width=8, recipe=Recipe(iterations=1)).train(
            tmp_path / "never made", torch.device("cpu"), progress=False
        )
