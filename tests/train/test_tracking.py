"""Where the numbers of a run go: a file, and trackers that cannot stop it."""

import json

import pytest
import torch

import scoresde as ss
from scoresde import networks
from scoresde.train import Recipe, Trainer
from scoresde.train.tracking import HISTORY


def trainer(folder=None, iterations=60, **options):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(2, width=8), ss.VPSDE.cosine(50))
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(iterations=iterations, batch_size=8, validate_every=20, save_every=20)
    return Trainer(model, x, recipe, held_out=x, folder=folder, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def test_the_history_is_a_file_of_one_line_a_validation(tmp_path):
    made = trainer(tmp_path)
    made.run(progress=False)
    assert lines(tmp_path) == made.history
    assert [row["iteration"] for row in made.history] == [20, 40, 60]


def test_lines_after_the_checkpoint_do_not_come_twice(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole).run(progress=False)

    def stop(made, row):
        # After the line is written, and before the checkpoint.
        if row["iteration"] == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(broken, callbacks=[stop]).run(progress=False)
    assert [row["iteration"] for row in lines(broken)] == [20, 40]
    trainer(broken).run(progress=False)
    assert lines(broken) == lines(whole)


def test_trackers_are_told_of_the_way_and_of_the_validations():
    told = []
    trainer(log=lambda values, iteration: told.append((iteration, dict(values)))).run(progress=False)
    assert [(iteration, sorted(values)) for iteration, values in told] == [
        (20, ["loss", "validation", "zero"]),
        (40, ["loss", "validation", "zero"]),
        (50, ["loss", "rate", "samples_per_second"]),
        (60, ["loss", "rate", "samples_per_second"]),
        (60, ["loss", "validation", "zero"]),
    ]


def test_a_tracker_that_raises_is_left_out_and_training_goes_on():
    calls, told = [], []

    def breaks(values, iteration):
        calls.append(iteration)
        raise ConnectionError("no network")

    made = trainer(log=[breaks, lambda values, iteration: told.append(iteration)])
    with pytest.warns(UserWarning, match="a tracker failed at iteration 20 and is left out: ConnectionError"):
        made.run(progress=False)
    assert made.iteration == 60
    assert calls == [20]
    assert told == [20, 40, 50, 60, 60]


def test_an_unknown_tracker_is_named():
    with pytest.raises(ValueError, match="log must be one of tensorboard, wandb or a function"):
        trainer(log="tensorbord")


def test_tensorboard_reads_what_was_tracked(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = trainer(tmp_path, log="tensorboard")
    made.run(progress=False)
    made.tracking.track({"samples": torch.zeros(4, 4, 3, dtype=torch.uint8)}, 60)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("validation")}
    assert found == pytest.approx({row["iteration"]: row["validation"] for row in made.history}, rel=1e-6)
    assert [image.step for image in events.Images("samples")] == [60]


def test_callbacks_see_the_trainer_and_the_row():
    seen = []
    made = trainer(callbacks=[lambda one, row: seen.append((one, row["iteration"]))])
    made.run(progress=False)
    assert seen == [(made, 20), (made, 40), (made, 60)]
