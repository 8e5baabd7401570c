"""`scoresde sample`: where the samples go, classes by name, and a bound on the error of each."""

import csv
import glob
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import scoresde as ss
from scoresde import solvers
from scoresde.cli import app
from scoresde.train import Experiment

run = CliRunner()
TRAIN = ["--iterations", "2", "--batch-size", "8", "--width", "8", "--held-out", "4", "--device", "cpu"]


def invoke(*arguments):
    return run.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A run on a folder with two classes, which is gone afterwards."""
    home = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for name in ("squares", "circles"):
        (home / "data" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(home / "data" / name / f"{i}.png")
    assert invoke("train", home / "data", "--out", home / "run", "--conditional", *TRAIN).exit_code == 0
    (home / "data").rename(home / "elsewhere")
    return home / "run"


def drawn(folder, tmp_path, *options):
    assert invoke("sample", folder, "--out", tmp_path / "x.npy", "-n", 2, "--nfe", 3, *options).exit_code == 0
    return np.load(tmp_path / "x.npy")


def test_without_out_the_picture_goes_to_the_run(shapes):
    result = invoke("sample", shapes, "-n", 4, "--nfe", 3)
    assert result.output.startswith(f"{shapes / 'samples.png'}: 4 samples")
    with Image.open(shapes / "samples.png") as image:
        assert image.size[0] > 100


def test_jpg_and_a_folder_of_single_images(shapes, tmp_path):
    invoke("sample", shapes, "--out", tmp_path / "x.jpg", "-n", 4, "--nfe", 3)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.format == "JPEG"
    result = invoke("sample", shapes, "--out", tmp_path / "folder", "--format", "png", "-n", 3, "--nfe", 3)
    (named,) = re.findall(r"; the images are (\S+)\n", result.output)
    assert len(glob.glob(named)) == 3
    result = invoke("sample", shapes, "--out", tmp_path / "chunks", "-n", 3, "--nfe", 3, "--chunk", 2)
    (named,) = re.findall(r"; the images are (\S+)\n", result.output)
    assert len(glob.glob(named)) == 3
    assert sorted(path.name for path in (tmp_path / "folder").rglob("*.png")) == [f"00000{i}.png" for i in range(3)]


def test_a_class_by_its_name_or_its_number(shapes, tmp_path):
    assert json.loads((shapes / "classes.json").read_text()) == ["circles", "squares"]
    by_name, by_number = (drawn(shapes, tmp_path, "--label", label) for label in ("squares", 1))
    np.testing.assert_array_equal(by_name, by_number)
    assert not np.array_equal(by_name, drawn(shapes, tmp_path, "--label", "circles"))
    for label in ("triangles", "2", "-1"):
        with pytest.raises(ValueError, match=r"--label .*: the classes of .* are 0..1, or circles, squares"):
            drawn(shapes, tmp_path, "--label", label)


def test_a_bound_for_each_sample(shapes, tmp_path):
    model = Experiment.read(shapes).load_model(shapes, torch.device("cpu"))
    noises, file = 40, str(tmp_path / "cascade.safetensors")
    cond = {"label": torch.arange(noises) % 2}
    cascade = solvers.calibrate(model, (1, 8, 8), nfes=(3, 5), noises=noises, cond=cond, reference_steps=16)
    cascade.save(file)
    last = invoke("sample", shapes, "--out", tmp_path / "last.npy", "-n", 2, "--solver", file, "--bound")
    assert "5 network calls; bound" in last.output
    tol = float(cascade.levels[0].bounds.median())
    out = ["--out", tmp_path / "x.npy", "-n", 7, "--batch-size", 3, "--solver", file, "--tol", tol]
    result = invoke("sample", shapes, *out, "--bound")
    run_ = ss.sample(model, (7, 1, 8, 8), cascade, tol=tol, seeds=range(7), trajectory=True, label=torch.arange(7) % 2)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), run_.x, atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "x.bounds.csv").read_text().splitlines()))
    assert [int(row["seed"]) for row in rows] == list(range(7))
    np.testing.assert_allclose([float(row["bound"]) for row in rows], run_.bound, rtol=1e-3)
    assert f"{float(run_.calls.double().mean()):.3g} network calls; bound of the error" in result.output
    # Without --bound the same samples.
    invoke("sample", shapes, *out)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), run_.x, atol=1e-5)


def test_of_one_level_the_bound_needs_no_tolerance(shapes, tmp_path):
    model = Experiment.read(shapes).load_model(shapes, torch.device("cpu"))
    cond, file = {"label": torch.arange(40) % 2}, str(tmp_path / "one.safetensors")
    solvers.calibrate(model, (1, 8, 8), nfes=(4,), noises=40, cond=cond, reference_steps=16).save(file)
    result = invoke("sample", shapes, "--out", tmp_path / "x.png", "-n", 3, "--solver", file, "--bound")
    assert "3 samples" in result.output
    assert "4 network calls; bound" in result.output


def test_no_bound_without_a_calibrated_solver_and_how_to_get_one(shapes, tmp_path):
    for options in (["--bound"], ["--tol", "0.1"]):
        with pytest.raises(ValueError, match=f"{options[0]}: default is not calibrated.*scoresde fit RUN --bound"):
            invoke("sample", shapes, "--out", tmp_path / "x.png", *options)
    with pytest.raises(ValueError, match="--bound needs a file"):
        invoke("sample", shapes, "--out", tmp_path / "folder", "--bound")
