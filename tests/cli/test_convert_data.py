"""`scoresde convert --data`: the data are read as `train` reads them, and refused where the model takes others."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import scoresde as ss
from scoresde import networks
from scoresde.cli import app
from scoresde.cli.foreign import load_foreign
from scoresde.train import Experiment

run = CliRunner()


def invoke(*arguments):
    return run.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of grey images of 8 x 8, a folder of coloured images of mixed sizes, and vectors."""
    folder = tmp_path_factory.mktemp("convert")
    ss.save_pretrained(ss.ScoreModel(networks.UNet(1, 8), ss.EDM(), "data"), folder / "model", event=(1, 8, 8))
    (folder / "mixed").mkdir()
    numbers = np.random.default_rng(0)
    for k in range(6):
        pixels = numbers.integers(0, 256, (9 + k, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "mixed" / f"{k}.png")
    np.save(folder / "x.npy", numbers.normal(size=(20, 5)).astype(np.float32))
    return folder


def test_images_are_made_as_train_makes_them(place, tmp_path):
    options = ["--size", 9, "--crop", 8, "--mode", "grey", "--held-out", 2]
    assert invoke("convert", place / "model", tmp_path, "--data", place / "mixed", *options).exit_code == 0
    expected = Experiment(str(place / "mixed"), held_out=2, size=9, crop=8, mode="grey").load_data()
    for part, wanted in zip(load_foreign(tmp_path)[0].load_data(), expected, strict=True):
        assert part.x.shape[1:] == (1, 8, 8)
        assert torch.equal(part.x, wanted.x)
    # A folder that is converted once more keeps them.
    invoke("convert", tmp_path, tmp_path / "again")
    assert torch.equal(load_foreign(tmp_path / "again")[0].load_data()[1].x, expected[1].x)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [("x.npy", [], "x.npy: data have shape (5,), the model takes (1, 8, 8)"),
     ("mixed", [], "images must agree; --size N or --crop N makes them squares of one size"),
     ("mixed", ["--size", 9], "data have shape (3, 9, 9), the model takes (1, 8, 8): --size 8 --mode grey may help"),
     ("mixed", ["--size", 8], "data have shape (3, 8, 8), the model takes (1, 8, 8): --mode grey may help"),
     ("x.npy", ["--size", 8], "--size is for a folder of images")],
)  # fmt: skip
def test_other_data_are_refused_before_anything_is_written(place, tmp_path, data, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        invoke("convert", place / "model", tmp_path / "out", "--data", place / data, "--held-out", 2, *options)
    assert not (tmp_path / "out").exists()


def test_sizes_are_of_data(place, tmp_path):
    with pytest.raises(ValueError, match="--size, --crop and --mode are of the images of --data"):
        invoke("convert", place / "model", tmp_path / "out", "--size", 8)


def test_what_a_run_held_out_stays_held_out(place, tmp_path):
    """Otherwise the samples that a converted run is compared with are some that it was trained on."""
    few = ["--iterations", 2, "--batch-size", 8, "--width", 8, "--device", "cpu", "--pictures", 0]
    sized = ["--size", 8, "--mode", "grey", "--held-out", 3]
    assert invoke("train", place / "mixed", *sized, "--out", tmp_path / "run", *few).exit_code == 0
    invoke("convert", tmp_path / "run", tmp_path / "out")
    wanted, found = Experiment.read(tmp_path / "run").load_data(), load_foreign(tmp_path / "out")[0].load_data()
    assert torch.equal(found[1].x, wanted[1].x)
