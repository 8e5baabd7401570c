"""`scoresde check`: the verdict, and the exit code."""

import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde import data
from scoresde.cli import app
from scoresde.cli.commands import check as command

from ..diagnostics.test_check import CHAIN, DATA, chain

run = CliRunner()


class Held:
    """An experiment whose held-out samples are those of the exact network."""

    def load_data(self):
        return data.Data(DATA[:300]), data.Data(DATA[300:])

    def condition(self, part):
        return {}


def with_time(monkeypatch, time):
    model = ss.ScoreModel(chain(), CHAIN, "noise", time=time)
    monkeypatch.setattr(command, "load_run", lambda folder, device, network: (Held(), model))
    return run.invoke(app, ["check", "runs/any", "--samples", "300"])


def test_a_sound_network_has_exit_code_0_and_another_1(monkeypatch):
    sound = with_time(monkeypatch, "index")
    assert sound.exit_code == 0
    assert "All is well" in sound.output
    wrong = with_time(monkeypatch, "t")
    assert wrong.exit_code == 1
    assert "time='index'" in wrong.output


def test_a_run_of_few_iterations_is_not_well(tmp_path):
    few = ["--iterations", "2", "--batch-size", "8", "--width", "8", "--device", "cpu"]
    assert run.invoke(app, ["train", "digits", "--out", str(tmp_path), *few]).exit_code == 0
    found = run.invoke(app, ["check", str(tmp_path), "--samples", "64", "--device", "cpu"])
    assert found.exit_code == 1
    assert "linear guess" in found.output
    assert torch.is_grad_enabled()
