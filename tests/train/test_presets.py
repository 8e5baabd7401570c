"""Published hyper-parameters train, and options come from files, presets and the command line in this order of weight."""

import json
import math
import sys
import warnings

import numpy as np
import pytest
import torch

from scoresde import networks
from scoresde.cli.main import main
from scoresde.train import Experiment, load_average
from scoresde.train.presets import PRESETS

# A small network on 8 x 8 digits; all else is published.
SMALL = ["--width", "8", "--batch-size", "8", "--iterations", "50", "--warmup", "10", "--device", "cpu"]


def command(monkeypatch, *arguments, code=0):
    monkeypatch.setattr(sys, "argv", ["scoresde", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_trains_fifty_iterations_on_digits(tmp_path, monkeypatch, name):
    command(monkeypatch, "train", "digits", "--out", tmp_path, "--preset", name, *SMALL)
    experiment = Experiment.read(tmp_path)
    recipe, published = experiment.recipe, PRESETS[name]
    assert (recipe.iterations, recipe.batch_size, experiment.width) == (50, 8, 8)
    for key in ("clip", "ema", "final_rate", "weight_decay", "learning_rate", "weighting"):
        assert getattr(recipe, key) == pytest.approx(published[key]) if key != "weighting" else recipe.weighting == published[key]
    for key in ("process", "prediction", "network", "multipliers", "blocks", "attention", "dropout"):
        assert getattr(experiment, key) == published[key]
    row = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()][-1]
    assert row["iteration"] == 50
    # The average at a decay of (1 + 50)/(10 + 50) has left the zero network, from which all begin, for the better.
    assert row["validation"] < row["zero"]


def test_presets_for_python_are_those_of_the_command():
    experiment = Experiment.preset("edm", "digits", iterations=7, width=16)
    assert (experiment.recipe.iterations, experiment.width, experiment.recipe.batch_size) == (7, 16, 512)
    assert math.isinf(experiment.recipe.clip)
    with pytest.raises(TypeError, match="widht"):
        Experiment.preset("edm", "digits", widht=16)
    with pytest.raises(ValueError, match="preset must be one of ddpm, edm, flow, ncsnpp"):
        Experiment.preset("ddim", "digits")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path, monkeypatch):
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "digits"\npreset = "flow"\niterations = 3\nbatch-size = 16\nwidth = 8\nmultipliers = [1, 2]\nattention = [1]\n'
        "warmup = 2\nconditional = true\nlog = []\n"
    )
    command(monkeypatch, "train", "--config", file, "--out", tmp_path / "run", "--batch-size", "4", "--device", "cpu")
    experiment = Experiment.read(tmp_path / "run")
    assert experiment.recipe.batch_size == 4
    assert (experiment.recipe.iterations, experiment.width, experiment.multipliers, experiment.conditional) == (3, 8, (1, 2), True)
    assert (experiment.process, experiment.recipe.learning_rate, experiment.recipe.decay) == ("flow", 5e-4, "linear")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("itertions = 3", "there is no option itertions"),
        ("iterations = ", "cannot be read as TOML"),
        ('iterations = "many"', "iterations"),
        ('preset = "ddim"', "--preset must be one of ddpm, edm, flow, ncsnpp"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path, monkeypatch, capsys, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    command(monkeypatch, "train", "digits", "--config", file, "--out", tmp_path / "run", code=2)
    assert message in capsys.readouterr().err


def test_what_changes_no_weights_beyond_rounding(tmp_path, monkeypatch):
    """Micro-batches, memory format, recomputed activations, workers: the same run."""
    options = ["digits", "--width", "8", "--batch-size", "8", "--iterations", "4", "--device", "cpu", "--process", "cosine"]
    command(monkeypatch, "train", *options, "--out", tmp_path / "plain")
    models = {}
    for name, more in {
        "plain": [],
        "accumulated": ["--accumulate", "2"],
        "channels last": ["--channels-last"],
        "recomputed": ["--recompute"],
    }.items():
        if more:
            command(monkeypatch, "train", *options, *more, "--out", tmp_path / name)
        models[name] = Experiment.read(tmp_path / name).load_model(tmp_path / name, torch.device("cpu"))
    for name, model in models.items():
        for a, b in zip(model.parameters(), models["plain"].parameters(), strict=True):
            # Four steps of at most 8e-5 with Adam, which makes full steps of rounding.
            assert float((a - b).detach().abs().max()) < 1e-5, name
    assert all(torch.equal(a, b) for a, b in zip(models["recomputed"].parameters(), models["plain"].parameters(), strict=True))


def test_networks_and_averages_by_name(tmp_path, monkeypatch, capsys):
    for name, kind in (("edm2", networks.EDM2), ("dit", networks.DiT)):
        options = [
            "--width",
            "16",
            "--patch",
            "2" if name == "dit" else "1",
            "--iterations",
            "12",
            "--batch-size",
            "8",
            "--device",
            "cpu",
        ]
        more = ["--snapshot-every", "1", "--pictures", "4", "--mirrored"]
        command(monkeypatch, "train", "digits", "--out", tmp_path / name, "--network", name, *options, *more)
        experiment = Experiment.read(tmp_path / name)
        assert isinstance(experiment.model().network, kind)
        assert (tmp_path / name / "pictures" / "000000012.png").stat().st_size > 100
        model, error = load_average(tmp_path / name, experiment.model(), 0.1)
        assert error < 0.2
        drawn = {}
        for length in ("0.08", "0.12"):
            out = tmp_path / f"{length}.npy"
            command(monkeypatch, "sample", tmp_path / name, "--out", out, "-n", "2", "--nfe", "2", "--average-length", length)
            drawn[length] = np.load(out)
        assert "warning" not in capsys.readouterr().err
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            command(monkeypatch, "sample", tmp_path / name, "--out", out, "-n", "2", "--nfe", "2", "--average-length", "0.01")
        assert "warning: the average of length 0.01 has an error of" in capsys.readouterr().err
        assert not np.array_equal(drawn["0.08"], drawn["0.12"])
        assert all(bool(weight.isfinite().all()) for weight in model.parameters())
