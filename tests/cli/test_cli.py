"""The command line as a person uses it, in a process of its own where the exit code matters."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from scoresde import solvers
from scoresde.cli import app, main

run = CliRunner()
TRAIN = ["--iterations", "4", "--batch-size", "8", "--width", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    result = run.invoke(app, ["train", "digits", "--out", str(folder), "--conditional", *TRAIN], catch_exceptions=False)
    assert result.exit_code == 0
    assert "4 iterations, validation loss" in result.output
    assert "a network that returns zero" in result.output
    return folder


def test_sample(digits, tmp_path):
    for out in ("x.npy", "x.png"):
        result = run.invoke(
            app, ["sample", str(digits), "--out", str(tmp_path / out), "-n", "5", "--steps", "3"], catch_exceptions=False
        )
        assert result.exit_code == 0
        assert (tmp_path / out).exists()
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (5, 1, 8, 8)
    # Seeds count up from --seed, whatever the batch.
    run.invoke(
        app,
        ["sample", str(digits), "--out", str(tmp_path / "y.npy"), "-n", "3", "--seed", "2", "--steps", "3", "--batch-size", "2"],
        catch_exceptions=False,
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), x[2:], atol=1e-5)
    labelled = run.invoke(
        app, ["sample", str(digits), "--out", str(tmp_path / "z.npy"), "--label", "3", "--nfe", "4"], catch_exceptions=False
    )
    assert labelled.exit_code == 0


def test_compare(digits, tmp_path):
    result = run.invoke(
        app,
        ["compare", str(digits), "--out", str(tmp_path), "--samples", "20", "--solver", "ddim:3", "--solver", "ancestral:5:ddpm"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    page = (tmp_path / "report.md").read_text()
    for text in (result.output, page):
        assert re.search(r"\| ddim +\| +3 \| +3 \|", text)
        assert re.search(r"\| ancestral \(ddpm\) +\| +5 \| +5 \|", text)
        assert "Not an FID" in text
    for name in ("compare.png", "error.png"):
        assert (tmp_path / name).exists()
        assert name in page


def test_compare_in_classifier_features(digits, tmp_path):
    arguments = ["compare", str(digits), "--out", str(tmp_path), "--samples", "20", "--features", "classifier", "--against", "all"]
    result = run.invoke(app, [*arguments, "--no-curves", "--solver", "ddim:2"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "share with p > 0.9" in result.output
    assert "1797 real ones (all data)" in result.output
    assert not (tmp_path / "error.png").exists()


def test_diagnose(digits, tmp_path):
    arguments = ["diagnose", str(digits), "--out", str(tmp_path), "--samples", "4"]
    result = run.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    page, found = (tmp_path / "diagnosis.md").read_text(), json.loads((tmp_path / "diagnosis.json").read_text())
    for text in (result.output, page):
        assert "bits per dimension" in text
        assert "17 levels from -1 to 1" in text
        assert "truncated normal noise" in text
        assert re.search(r"ELBO of the 1000 steps +\| +-?\d+\.\d\d", text)
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000
    assert found["samples"] == 4
    for row in found["densities"]:
        assert row["bits_per_dim"] == pytest.approx(-row["nats"] / (64 * np.log(2)))
    # The network has hardly been trained: its prediction is near 0, and the same loss holds on both halves of the data.
    for part in ("training", "held-out"):
        np.testing.assert_allclose(found["losses"][part]["loss"]["mean"], found["losses"][part]["zero"]["mean"], rtol=0.5)
    assert all(0 <= point["asymmetry"] <= 1 for point in found["field"])


def test_vectors_are_trained_with_an_mlp(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 2)))
    folder = str(tmp_path / "run")
    arguments = ["train", str(tmp_path / "x.npy"), "--out", folder, "--process", "cosine", "--steps", "50", *TRAIN]
    assert run.invoke(app, arguments, catch_exceptions=False).exit_code == 0
    result = run.invoke(app, ["compare", folder, "--samples", "20", "--solver", "dpm++2m:5"], catch_exceptions=False)
    assert result.exit_code == 0
    result = run.invoke(app, ["diagnose", folder, "--samples", "50"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Log densities in the units of the data" in result.output
    assert "bits" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing", "--out", "run"], "'nothing' is neither a known data set (digits, mnist, fashion) nor a folder"),
        (["train", "digits", "--out", "run", "--prediction", "epsilon"], "prediction must be one of data, noise, score, velocity"),
        (["train", "digits", "--out", "run", "--multipliers", "1,x"], "--multipliers 1,x: need a list of integers"),
        (["train", "digits", "--out", "run", "--process", "cubic"], "process must be 'linear' or 'cosine'"),
        (["train", "digits", "--out", "run", "--steps", "10"], "the linear chain needs more than 20 steps"),
        (["sample", "nowhere", "--out", "x.png"], "nowhere holds no training run"),
        (["sample", "DIGITS", "--out", "x.jpg"], "--out x.jpg: the file must end in .png or .npy"),
        (["sample", "DIGITS", "--out", "x.png", "--solver", "dmp++2m"], "no solver is called 'dmp++2m'; did you mean"),
        (["sample", "DIGITS", "--out", "x.png", "--steps", "3", "--nfe", "3"], "give steps= or nfe="),
        (["sample", "DIGITS", "--out", "x.png", "--grid", "log"], "no grid is called 'log'"),
        (["sample", "DIGITS", "--out", "x.png", "--label", "10"], "the classes of"),
        (["compare", "DIGITS", "--solver", "ddim"], "'ddim' is not NAME:STEPS"),
        (["compare", "DIGITS", "--features", "inception"], "must be pixels or classifier"),
        (["diagnose", "nowhere"], "nowhere holds no training run"),
        (
            ["train", "digits", "--out", "DIGITS", "--conditional", *TRAIN, "--width", "16"],
            "another experiment (width: 8 there, 16 here)",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(digits, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scoresde", *(str(digits) if a == "DIGITS" else a for a in arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("scoresde: ")
    assert error.count("\n") == 1
    assert message in error


def test_help_and_usage_errors():
    def scoresde(*arguments):
        return subprocess.run([sys.executable, "-m", "scoresde", *arguments], capture_output=True, text=True, check=False)

    top = scoresde("--help")
    assert top.returncode == 0
    for command in ("train", "sample", "compare", "diagnose"):
        assert command in top.stdout
    page = re.sub(r"\s", "", run.invoke(app, ["sample", "--help"]).output)
    assert all(name in page for name in solvers.names())
    wrong = scoresde("train", "digits", "--out", "x", "--iterations", "none")
    assert wrong.returncode == 2
    assert "--iterations" in wrong.stderr


def test_fit_writes_a_solver_that_sample_and_compare_take(digits, tmp_path):
    file = str(tmp_path / "fitted.safetensors")
    arguments = [
        "fit",
        str(digits),
        "--nfe",
        "3",
        "--out",
        file,
        "--trajectories",
        "12",
        "--teacher-steps",
        "12",
        "--refine",
        "1",
        "--device",
        "cpu",
    ]
    result = run.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert re.search(r"fitted.safetensors: .* 3 calls.*: rms [0-9.e-]+, median [0-9.e-]+ on held-out starts", result.output)
    result = run.invoke(
        app, ["sample", str(digits), "--out", str(tmp_path / "x.npy"), "-n", "4", "--solver", file], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert np.load(tmp_path / "x.npy").shape == (4, 1, 8, 8)
    result = run.invoke(
        app,
        ["compare", str(digits), "--out", str(tmp_path), "--samples", "10", "--no-curves", "--solver", "ddim:3", "--solver", file],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert re.search(r"fitted\.safetensors +\| +3 \| +3 \|", result.output)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        run.invoke(app, ["fit", str(digits), "--out", "x.npy"], catch_exceptions=False)
