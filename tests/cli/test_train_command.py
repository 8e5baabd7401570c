"""`scoresde train` as a stranger uses it: defaults, going on, words, pictures and signals."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.cli.training import default_folder
from scoresde.train import Experiment
from scoresde.train.checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint

from .test_wrong_command_lines import call, refused

ROOT = Path(__file__).parents[2]
SMALL = ["--batch-size", 8, "--width", 8, "--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with vectors, and a folder of images of two classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("points.npy", rng.normal(size=(60, 2)))
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"photos/{name}/{i}.png")
    return tmp_path


def said(capsys, *arguments):
    """What a command prints, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        from scoresde.cli import main

        patch.setattr(sys, "argv", ["scoresde", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return capsys.readouterr().out


def tensors(folder):
    return read_checkpoint(Path(folder) / CHECKPOINT)[0]


def assert_same(one, other):
    one, other = tensors(one), tensors(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_has_a_folder_of_its_own_name_and_says_what_it_found(place, capsys):
    out = said(capsys, "train", "photos", "--iterations", 2, *SMALL)
    for line in (
        r"photos: 40 images of shape 1 x 8 x 8, 2 classes that are not used: --conditional",
        r"split  36 for training, 4 held out",
        r"network  unet with [\d,]+ parameters",
        r"device  cpu, 1 process",
        r"folder  runs/photos",
        r"iterations  0 -> 2",
        r"iteration 2 of 2: loss .*, held-out .* \(predicting zero: \d\.\d\d\)",
    ):
        assert re.search(line, out), line
    assert "transposed" not in out
    assert Experiment.read(Path("runs/photos")).held_out == 4
    out = said(capsys, "train", "photos", "--iterations", 2, "--conditional", "--mirrored", "--out", "labelled", *SMALL)
    assert "2 classes\n" in out
    assert "36 for training, each with its mirror image, 4 held out" in out
    assert "folder  labelled" in out


def test_an_array_with_fewer_rows_than_columns_may_be_transposed(place, capsys):
    np.save("columns.npy", np.random.default_rng(0).normal(size=(8, 40)))
    question = "samples are rows; is the array transposed?"
    assert [question in said(capsys, "train", data, "--iterations", 1, *SMALL) for data in ("columns.npy", "points.npy")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("data", "folder"), [("digits", "digits"), ("points.npy", "points"), ("photos/", "photos"), (".", None)])
def test_the_folder_is_named_after_the_data(place, data, folder):
    assert default_folder(data) == Path("runs") / (folder or place.name)


def test_the_same_command_goes_on_and_so_does_resume(place, capsys):
    constant = ["--final-rate", 1, "--warmup", 1]
    assert call("train", "points.npy", "--out", "whole", "--iterations", 9, *SMALL, *constant) == (0, "")
    said(capsys, "train", "points.npy", "--iterations", 3, *SMALL, *constant)
    out = said(capsys, "train", "points.npy", "--iterations", 5, "--save-every", 2, "--validate-every", 1, *SMALL, *constant)
    assert "iterations  3 -> 5" in out
    assert "rate" not in out
    out = said(capsys, "train", "--resume", "runs/points", "--iterations", 9, "--workers", 1, "--pictures", 0)
    assert "iterations  5 -> 9" in out
    assert_same("runs/points", "whole")
    assert "all are done" in said(capsys, "train", "--resume", "runs/points")
    assert Experiment.read(Path("runs/points")).recipe.save_every == 2
    refused(["train", "--resume", "runs/points", "--iterations", 8], "9 iterations already, more than --iterations 8")
    refused(["train", "--resume", "runs/points", "--learning-rate", 0.1], "--learning-rate: 0.002 there, 0.1 here")
    refused(["train", "--resume", "runs/points", "--out", "elsewhere"], "leave out --out elsewhere")
    refused(["train", "--resume", "nowhere"], "nowhere holds no training run")
    refused(["train"], "give DATA")


def test_a_rate_that_rises_is_said(place, capsys):
    said(capsys, "train", "points.npy", "--iterations", 3, *SMALL)
    out = said(capsys, "train", "points.npy", "--iterations", 6, *SMALL)
    rate = Experiment.read(Path("runs/points")).recipe.rate(3)
    assert f"goes on at {rate:.1e}, as in a run of 6 iterations from the beginning; so far it fell as in a run of 3" in out


def test_resume_keeps_what_is_no_option(place):
    assert call("train", "points.npy", "--iterations", 2, *SMALL) == (0, "")
    for file in (Path("runs/points/config.json"),):
        entries = json.loads(file.read_text())
        entries["recipe"]["betas"] = [0.9, 0.95]
        file.write_text(json.dumps(entries))
    Path("runs/points", CHECKPOINT).unlink()
    assert call("train", "--resume", "runs/points") == (0, "")
    assert Experiment.read(Path("runs/points")).recipe.betas == (0.9, 0.95)


@pytest.mark.parametrize("pictures", [0, 3])
def test_a_run_has_pictures(place, pictures):
    for data in ("photos", "points.npy"):
        arguments = ["train", data, "--iterations", 4, "--validate-every", 2, "--pictures", pictures, *SMALL]
        assert call(*arguments) == (0, "")
        folder = default_folder(data)
        drawn = ["000000002.png", "000000004.png"] if pictures else ["000000004.png"]
        assert sorted(file.name for file in (folder / "pictures").iterdir()) == drawn
        assert (folder / "samples.png").read_bytes() == (folder / "pictures" / drawn[-1]).read_bytes()
        assert (folder / "loss.png").stat().st_size > 5000
        (folder / "samples.png").unlink()
        # A run that is done has them too.
        assert call(*arguments) == (0, "")
        assert (folder / "samples.png").exists()


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_ends_with_its_exit_code_and_the_command_that_goes_on(place):
    arguments = ["train", "points.npy", "--iterations", "300", "--validate-every", "100", "--pictures", "0", *map(str, SMALL)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        folder = f"stopped {code}"
        process = subprocess.Popen(
            [sys.executable, "-m", "scoresde", *arguments, "--out", folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables,
        )  # fmt: skip
        out = ""
        while "iteration 10 of" not in out:
            out += process.stdout.readline()
        process.send_signal(number)
        rest, error = process.communicate(timeout=60)
        assert process.returncode == code
        done = about_checkpoint(Path(folder) / CHECKPOINT)["iteration"]
        assert 10 <= done < 300
        assert f"{number.name} at iteration {done} of 300: saved in {folder}" in rest
        assert error == f"scoresde: stopped; to go on: scoresde train --resume '{folder}'\n"
    assert call(*arguments, "--out", "whole") == (0, "")
    assert call("train", "--resume", "stopped 143", "--pictures", 0) == (0, "")
    assert_same("stopped 143", "whole")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["points.npy", "--held-out", 31], "--held-out 31 of 60 samples leaves 29 to train on"),
        (["points.npy", "--held-out", 60], "--held-out 60: cannot hold out 60 of 60 samples"),
        (["points.npy", "--label-dropout", 0.1], "--label-dropout drops class labels: set --conditional"),
        (["points.npy", "--learning-rate", -1], "--learning-rate must be"),
        (["points.npy", "--decay", "steep"], "--decay must be one of cosine, linear"),
        (["points.npy", "--log", "tensorbord"], "--log must be one of tensorboard, wandb"),
        (["points.npy", "--parallel", "ddp"], "--parallel ddp needs processes"),
        (["points.npy", "--resize", 8], "--size is for a folder of images"),
        (["mixed"], "--mode grey or --mode rgb converts them"),
        (["mixed", "--mode", "rgb"], "--size N or --crop N makes them squares of one size"),
        (["mixed", "--mode", "grey", "--crop", 7], "--crop 7 needs more: --size 7 would enlarge it"),
    ],
)
def test_errors_name_options(place, arguments, line):
    Path("mixed").mkdir()
    for i, shape in enumerate([(8, 8), (6, 8, 3), (9, 9)]):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(f"mixed/{i}.png")
    refused(["train", *arguments, *SMALL, "--iterations", 2], line)


def test_a_folder_of_mixed_images_is_trained_on(place, capsys):
    Path("mixed").mkdir()
    for i, shape in enumerate([(8, 8), (6, 8, 3), (9, 9)] * 4):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(f"mixed/{i}.png")
    out = said(capsys, "train", "mixed", "--mode", "rgb", "--resize", 6, "--crop", 4, "--iterations", 2, *SMALL)
    assert "12 images of shape 3 x 4 x 4, no classes" in out
    assert [Experiment.read(Path("runs/mixed")).load_data()[i].x.shape for i in (0, 1)] == [(11, 3, 4, 4), (1, 3, 4, 4)]


def test_data_that_were_moved_are_given_anew(place, capsys, monkeypatch):
    """The weights are those of a run whose data stayed; other data are refused, by their content."""
    constant = ["--final-rate", 1, "--warmup", 0]
    for name in ("stays", "moves"):
        said(capsys, "train", "photos", "--iterations", 2, "--out", name, "--pictures", 0, *SMALL, *constant)
    said(capsys, "train", "--resume", "stays", "--iterations", 4, "--pictures", 0)
    Path("photos").rename("elsewhere")
    refused(["train", "--resume", "moves", "--iterations", 4], "train --resume moves DATA")
    for name in ("cat", "dog"):
        Path("others", name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(f"others/{name}/{i}.png")
    refused(["train", "--resume", "moves", "others", "--iterations", 4], "is of another training run: its data is")
    said(capsys, "train", "--resume", "moves", "elsewhere", "--iterations", 4, "--pictures", 0)
    assert_same("stays", "moves")
    assert Experiment.read(Path("moves")).data == str(place / "elsewhere")
    # Data that are still there are not replaced by others.
    refused(["train", "--resume", "moves", "others", "--iterations", 6], "holds another experiment (data: ")


@pytest.mark.parametrize(("process", "prediction"), [(None, "velocity"), ("linear", "velocity"), ("ve", "edm"), ("cld", "noise")])
def test_the_prediction_is_what_is_usual_for_the_process(place, capsys, process, prediction):
    given = [] if process is None else ["--process", process]
    said(capsys, "train", "points.npy", "--iterations", 1, "--pictures", 0, *given, *SMALL)
    experiment = Experiment.read(Path("runs/points"))
    assert (experiment.process, experiment.prediction) == (process or "cosine", prediction)
    assert experiment.recipe.weighting == prediction
    assert experiment.recipe.time_sampler == ("log_normal" if prediction == "edm" else None)
