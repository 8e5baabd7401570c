"""`scoresde fit`: where the solver goes, what is said of its error, a fit that goes on, and a calibrated bound."""

import os
import re
import signal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde.cli import app
from scoresde.train import Experiment
from scoresde.tuning import fitting, load
from scoresde.tuning.reference import distance, starts

run = CliRunner()
TRAIN = ["--iterations", "20", "--batch-size", "32", "--width", "16", "--held-out", "20", "--device", "cpu"]
FIT = ["--nfe", "3", "--trajectories", "40", "--refine", "1", "--teacher-steps", "64"]

pytestmark = pytest.mark.filterwarnings("ignore:the error is .* the true error may be another")


def invoke(*arguments):
    return run.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    home = tmp_path_factory.mktemp("vectors")
    np.save(home / "x.npy", np.random.default_rng(0).normal(size=(200, 2)))
    assert invoke("train", home / "x.npy", "--out", home / "run", *TRAIN).exit_code == 0
    return home / "run"


def test_without_out_the_solver_goes_to_the_run_and_the_errors_are_said(vectors):
    result = invoke("fit", vectors, *FIT)
    file = vectors / "fitted-3.safetensors"
    assert result.output.startswith(f"{file}: ")
    assert "the reference is off by" in result.output
    found = re.search(r"the default with 3 calls, on the same starts: median (\S+), rms (\S+)\n", result.output)
    model = Experiment.read(vectors).load_model(vectors, torch.device("cpu"))
    z = starts(model, (2,), 40, 0, "fit")[20:]
    fine = ss.sample(model, z.shape, "dpm++3m", steps=500, z=z)
    error = distance(ss.sample(model, z.shape, nfe=3, z=z), fine)
    assert float(found[1]) == pytest.approx(float(error.median()), rel=0.05)
    assert float(found[2]) == pytest.approx(float(error.square().mean().sqrt()), rel=0.05)
    # Without a terminal every stage has a line.
    assert re.search(r"fit: reference solved with 64 steps; solvers without a fit, after \d+ s\n", result.output)
    assert re.search(r"fit: best of \d+ solvers without a fit: .*, after \d+ s\n", result.output)
    assert result.output.count("fit: times 1/3, ") == 1
    assert not (vectors / "fitted-3.partial.safetensors").exists()


@pytest.mark.filterwarnings("always:.* is of another fit")
def test_an_interrupted_fit_goes_on_with_the_same_command(vectors, tmp_path, monkeypatch):
    out = tmp_path / "f.safetensors"

    def stop(*given):
        raise KeyboardInterrupt

    def interrupted(*arguments):
        *first, last = real(*arguments)
        return [*first, last._replace(improve=stop)]

    real = fitting.stages
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "stages", interrupted)
        stopped = invoke("fit", vectors, "--out", out, *FIT)
    assert stopped.exit_code != 0
    assert "f.partial.safetensors is kept: the same command goes on" in stopped.output
    assert (tmp_path / "f.partial.safetensors").exists()
    assert not out.exists()
    kept = (tmp_path / "f.partial.safetensors").read_bytes()
    result = invoke("fit", vectors, "--out", out, *FIT)
    assert f"{tmp_path / 'f.partial.safetensors'}: going on\n" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]
    (tmp_path / "f.partial.safetensors").write_bytes(kept)
    result = invoke("fit", vectors, "--out", out, *FIT, "--seed", "5")
    assert "is of another fit (seed): starting anew" in result.output
    assert "going on" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


def test_sigterm_says_what_is_kept(vectors, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(fitting, "solve_reference", lambda *given, **options: os.kill(os.getpid(), signal.SIGTERM))
    # Without a handler the signal would end the tests: this one makes the test fail.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        stopped = invoke("fit", vectors, "--out", tmp_path / "f.safetensors", *FIT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.exit_code == 143
    assert "scoresde: stopped; nothing was found so far that could be kept" in stopped.output


def test_a_calibrated_bound(vectors, tmp_path):
    out = tmp_path / "f.safetensors"
    result = invoke("fit", vectors, "--out", out, *FIT, "--bound")
    file = tmp_path / "f.bound.safetensors"
    assert f"{file}: 95% of new samples stay below their bound" in result.output
    assert torch.equal(load(file).levels[0].solver.form.b, load(out).form.b)
    with pytest.raises(ValueError, match=r"--bound: .*f.safetensors is fitted, not calibrated.*fit RUN --bound"):
        invoke("sample", vectors, "--solver", out, "--bound", "--out", tmp_path / "x.npy")
    model = Experiment.read(vectors).load_model(vectors, torch.device("cpu"))
    known = ss.solvers.calibrate(model, (2,), levels=[load(out)], noises=40, reference_steps=64)
    assert torch.equal(load(file).levels[0].bounds, known.levels[0].bounds)
    result = invoke("sample", vectors, "--solver", file, "--bound", "-n", 5, "--out", tmp_path / "x.npy")
    assert "3 network calls; bound of the error" in result.output
