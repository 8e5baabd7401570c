"""A run goes on with more iterations, other intervals, and data in memory or not. What changes the mathematics is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.train import Experiment, Recipe
from scoresde.train.checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint, write_checkpoint
from scoresde.train.config import CONFIG

CPU = torch.device("cpu")
RECIPE = {"iterations": 4, "batch_size": 8, "warmup": 2, "validate_every": 2, "save_every": 2}


@pytest.fixture
def points(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 2)))
    return str(tmp_path / "x.npy")


def train(source, folder, recipe=None, workers=0, **entries):
    experiment = Experiment(source, width=8, **entries, recipe=Recipe(**RECIPE | (recipe or {})))
    return experiment.train(folder, CPU, progress=False, on_the_way=workers > 0, workers=workers)


def state(folder):
    return read_checkpoint(folder / CHECKPOINT)[0]


def assert_same_state(one, other):
    one, other = state(one), state(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_longer_run_of_constant_rate_is_the_run_that_was_longer_from_the_beginning(tmp_path, points):
    train(points, tmp_path / "whole", {"iterations": 9, "final_rate": 1.0})
    train(points, tmp_path / "run", {"final_rate": 1.0})
    other = {"iterations": 9, "final_rate": 1.0, "validate_every": 3, "save_every": 5}
    trainer = train(points, tmp_path / "run", other)
    assert trainer.iteration == 9
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    assert Experiment.read(tmp_path / "run").recipe.iterations == 9
    assert about_checkpoint(tmp_path / "run" / CHECKPOINT)["recipe"]["save_every"] == 5


def test_the_rate_of_a_longer_run_is_that_of_its_own_number_of_iterations(tmp_path, points):
    train(points, tmp_path / "run")
    rates = []
    experiment = Experiment(points, width=8, recipe=Recipe(**RECIPE | {"iterations": 8}))
    trainer = experiment.trainer(
        tmp_path / "run", CPU, callbacks=[lambda one, _: rates.append(one._step_of.optimizer.param_groups[0]["lr"])]
    )
    assert trainer.iteration == 4
    trainer.run(progress=False)
    assert rates == [pytest.approx(experiment.recipe.rate(i)) for i in (5, 7)]
    assert rates[0] > Recipe(**RECIPE).rate(3)


@pytest.mark.parametrize("first", [0, 1])
def test_where_the_data_are_may_change(tmp_path, first):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(15):
            Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    entries = {"conditional": True, "mirrored": True, "recipe": {"final_rate": 1.0}}
    source = str(tmp_path / "images")
    train(source, tmp_path / "run", workers=first, **entries)
    entries["recipe"]["iterations"] = 6
    train(source, tmp_path / "run", workers=1 - first, **entries)
    train(source, tmp_path / "whole", **entries)
    assert_same_state(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_that_knows_its_data_by_their_bytes_goes_on(tmp_path, points):
    train(points, tmp_path / "run")
    tensors, about = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    about["data"] = about.pop("data in memory")
    write_checkpoint(tmp_path / "run" / CHECKPOINT, tensors, about)
    assert train(points, tmp_path / "run", {"iterations": 6}).iteration == 6
    about["data"] = "others"
    write_checkpoint(tmp_path / "run" / CHECKPOINT, tensors, about)
    with pytest.raises(ValueError, match="its data is others"):
        train(points, tmp_path / "run", {"iterations": 6})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"recipe": {"learning_rate": 1e-3}}, r"learning_rate: 0\.002 there, 0\.001 here"),
        ({"recipe": {"batch_size": 4, "iterations": 9}}, "batch_size: 8 there, 4 here"),
        ({"process": "linear"}, "process: cosine there, linear here"),
        ({"held_out": 7}, "held_out: 6 there, 7 here"),
    ],
)
def test_what_changes_the_mathematics_is_refused_and_changes_nothing(tmp_path, points, entries, said):
    train(points, tmp_path / "run")
    before = (tmp_path / "run" / CONFIG).read_text()
    with pytest.raises(ValueError, match=rf"another experiment \({said}\)"):
        train(points, tmp_path / "run", **entries)
    assert (tmp_path / "run" / CONFIG).read_text() == before


def test_fewer_iterations_than_are_done_and_averages_that_begin_late_are_refused(tmp_path, points):
    train(points, tmp_path / "run")
    with pytest.raises(ValueError, match="has 4 iterations already, more than iterations=3"):
        train(points, tmp_path / "run", {"iterations": 3})
    with pytest.raises(ValueError, match="snapshot_every must stay 0"):
        train(points, tmp_path / "run", {"iterations": 6, "snapshot_every": 2})
    assert Experiment.read(tmp_path / "run").recipe.iterations == 4


def test_a_tenth_is_held_out_and_at_most_a_thousand(tmp_path, points):
    assert len(train(points, tmp_path / "run").held_out) == 6
    assert Experiment.read(tmp_path / "run").held_out == 6
    np.save(tmp_path / "many.npy", np.zeros((12_000, 1)))
    assert len(Experiment(str(tmp_path / "many.npy")).load_data()[1].x) == 1000
    np.save(tmp_path / "few.npy", np.zeros((3, 1)))
    assert [len(part) for part in Experiment(str(tmp_path / "few.npy")).open_data()[:2]] == [2, 1]
    with pytest.raises(ValueError, match=r"held_out=31 of 60 samples leaves 29 to train on, less than half"):
        train(points, tmp_path / "other", held_out=31)
    train(points, tmp_path / "half", held_out=30)


def test_a_run_keeps_the_number_that_it_holds_out(tmp_path, points):
    train(points, tmp_path / "run", held_out=20)
    assert len(train(points, tmp_path / "run", {"iterations": 6}).held_out) == 20
    path = tmp_path / "run" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out": "many"}))
    with pytest.raises(ValueError, match=r"config\.json"):
        train(points, tmp_path / "run")
