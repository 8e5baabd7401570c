"""Samples that are compared with real data have the classes in the shares of the data."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scoresde.cli import report
from scoresde.cli.options import labels_of_data
from scoresde.data import Data
from scoresde.train import Experiment

from .test_convert_data import invoke


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A run on 90 points of class 0 and 10 of class 1, which are far apart."""
    folder = tmp_path_factory.mktemp("uneven")
    label = np.repeat([0, 1], [90, 10])
    x = 0.1 * np.random.default_rng(0).normal(size=(100, 2)) + 10 * label[:, None]
    np.savez(folder / "x.npz", x=x.astype(np.float32), label=label)
    few = ["--iterations", 2, "--batch-size", 8, "--width", 8, "--held-out", 40, "--device", "cpu", "--pictures", 0]
    assert invoke("train", folder / "x.npz", "--conditional", "--out", folder / "run", *few).exit_code == 0
    return folder / "run"


def test_the_label_of_a_seed_is_that_of_a_real_sample():
    real = Data(torch.zeros(3, 2), torch.tensor([1, 0, 0]))
    conditional = SimpleNamespace(conditional=True, classes=2)
    found, said = labels_of_data(conditional, range(2, 7), real)
    assert found["label"].tolist() == [0, 1, 0, 0, 1]
    assert "the shares of the data" in said
    found, said = labels_of_data(conditional, range(3), Data(torch.zeros(3, 2)))
    assert found["label"].tolist() == [0, 1, 0]
    assert "in turn" in said
    assert labels_of_data(SimpleNamespace(conditional=False, classes=2), range(3), real) == ({}, "")


@pytest.mark.parametrize("against", ["held-out", "all"])
def test_compare_draws_the_labels_of_its_real_data(uneven, tmp_path, monkeypatch, against):
    drawn = {}
    compare = report.compare

    def watched(model, entries, reference, *arguments, conditions, **options):
        drawn["far"], drawn["label"] = (reference[:, 0] > 5).long(), conditions["label"]
        return compare(model, entries, reference, *arguments, conditions=conditions, **options)

    monkeypatch.setattr(report, "compare", watched)
    few = ["--samples", 40, "--seed", 5, "--no-curves", "--solver", "ddim:2", "--out", tmp_path]
    said = invoke("compare", uneven, "--against", against, *few).output
    # The class can be seen in the data themselves.
    assert torch.equal(drawn["label"], drawn["far"][torch.arange(5, 45) % len(drawn["far"])])
    for text in (said, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "the classes in the shares of the data" in text


def test_the_fits_of_report_have_these_labels_too(uneven, tmp_path, monkeypatch):
    def watched(*_arguments, cond, **_options):
        assert torch.equal(cond["label"], held_out.labels[torch.arange(60) % 40])
        raise ValueError("seen")

    _, held_out = Experiment.read(uneven).load_data()
    monkeypatch.setattr("scoresde.tuning.fit", watched)
    with pytest.raises(ValueError, match="seen"):
        invoke("report", uneven, "--trajectories", 60, "--out", tmp_path)
