"""The command line as a person uses it, in a process of its own where the exit code matters."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde import sampling, solvers
from scoresde.cli import app, commands, main
from scoresde.cli.report import paired, pictures
from scoresde.train import Experiment

run = CliRunner()
# A network of few iterations is nearly straight, and its solvers are nearly exact.
pytestmark = pytest.mark.filterwarnings("ignore:the error is .* the true error may be another")
TRAIN = ["--iterations", "4", "--batch-size", "8", "--width", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    result = run.invoke(app, ["train", "digits", "--out", str(folder), "--conditional", *TRAIN], catch_exceptions=False)
    assert result.exit_code == 0
    assert "4 iterations, held-out loss" in result.output
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


def test_sample_takes_the_default_and_says_what_it_was(digits, tmp_path):
    model = Experiment.read(digits).load_model(digits, "cpu")
    drawn = [["--solver", "default", "--nfe", "4"], ["--nfe", "4"], ["--steps", "4"], ["--solver", "Default"], []]
    for options in drawn:
        result = run.invoke(
            app, ["sample", str(digits), "--out", str(tmp_path / "x.npy"), "-n", "2", *options], catch_exceptions=False
        )
        calls = 4 if "4" in options else 20
        planned = ss.plan(model, nfe=calls, event=(1, 8, 8))
        name = sampling.registry.name_of(planned.solver)
        assert f"efault ({name}, grid {planned.grid_name}), {calls} network calls" in result.output
        expected = ss.sample(model, (2, 1, 8, 8), nfe=calls, seeds=range(2), label=torch.tensor([0, 1]))
        np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.numpy(), atol=1e-5)
    for options, said in (
        (["--solver", "heun"], "heun (grid trailing), 19 network calls"),
        (["--solver", "DDIM", "--steps", "3", "--grid", "karras"], "DDIM (grid karras), 3 network calls"),
        (["--solver", "ddpm", "--steps", "3"], "ddpm (ancestral, grid uniform), 3 network calls"),
        (["--solver", "dpmsolver++", "--nfe", "3"], "dpmsolver++ (dpm++2m with compat='midpoint', grid trailing), 3 network calls"),
        (
            ["--solver", "DPM++ 2M Karras", "--nfe", "3"],
            "DPM++ 2M Karras (dpm++2m with compat='midpoint', grid karras), 3 network calls",
        ),
        (["--solver", "lms", "--nfe", "3"], "lms (DEIS(order=4, clock='r'), grid trailing), 3 network calls"),
        (["--solver", "adaptive"], "samples of adaptive\n"),
    ):
        result = run.invoke(
            app, ["sample", str(digits), "--out", str(tmp_path / "x.npy"), "-n", "2", *options], catch_exceptions=False
        )
        assert said in result.output


def test_guidance_of_a_run_with_label_dropout(digits, tmp_path):
    folder, out = str(tmp_path / "run"), str(tmp_path / "x.npy")
    command = ["train", "digits", "--out", folder, "--iterations", "6", "--conditional", "--label-dropout", "0.2", "--width", "8"]
    run.invoke(app, command, catch_exceptions=False)
    model = Experiment.read(tmp_path / "run").load_model(tmp_path / "run", "cpu")
    assert Experiment.read(tmp_path / "run").recipe.label_dropout == 0.2
    label = torch.full((3,), 4)
    for weight, calls in (
        ("3", "4 guided calls, 8 evaluations of the network"),
        ("1", "4 network calls"),
        ("0", "4 network calls"),
    ):
        command = [
            "sample",
            folder,
            "--out",
            out,
            "-n",
            "3",
            "--nfe",
            "4",
            "--solver",
            "ddim",
            "--label",
            "4",
            "--guidance",
            weight,
        ]
        result = run.invoke(app, command, catch_exceptions=False)
        assert result.output.endswith(f", {calls}\n")
        guided = ss.guidance.Guided(model, float(weight))
        expected = ss.sample(guided, (3, 1, 8, 8), "ddim", nfe=4, seeds=range(3), label=label)
        np.testing.assert_allclose(np.load(out), expected.numpy(), atol=1e-5)
    result = run.invoke(app, ["sample", str(digits), "--out", out, "--guidance", "2"])
    assert "trained without --label-dropout" in str(result.exception or result.output)


def figures_of(monkeypatch):
    """The curves of every error plot that is drawn from now on, and its figure."""
    made = []

    def kept(curves, error):
        made.append((curves, drawn(curves, error)))
        return made[-1][1]

    drawn = pictures.error_figure
    monkeypatch.setattr(pictures, "error_figure", kept)
    return made


def test_the_error_plot_has_the_solvers_that_were_asked_for(digits, tmp_path, monkeypatch):
    made, file = figures_of(monkeypatch), str(tmp_path / "selected.safetensors")
    model = Experiment.read(digits).load_model(digits, "cpu")
    solvers.select(model, 5, (1, 8, 8), noises=2, cond={"label": torch.zeros(2, dtype=torch.long)}).save(file)
    asked = ["default:4", "default:6", "DDIM:3", "ddim:5:quadratic", file, "ancestral:5", "dpm++3m:4"]
    options = [word for entry in asked for word in ("--solver", entry)]
    result = run.invoke(app, ["compare", str(digits), "--out", str(tmp_path), "--samples", "4", *options], catch_exceptions=False)
    assert result.exit_code == 0
    ((curves, figure),) = made
    labels = ["default", "ddim", "ddim (quadratic)", "..." + file[-29:], "dpm++3m"]
    assert figure.axes[0].get_legend_handles_labels()[1] == labels
    assert [nfe for nfe, _ in curves["default"]] == [3, 4, 5, 6, 8, 10, 15, 20]
    assert [nfe for nfe, _ in curves[file]] == [5]
    assert "No error is plotted for ancestral: it is for deterministic solvers." in result.output
    assert result.output.count("ancestral:") == 1
    for steps in (4, 6):
        planned = ss.plan(model, nfe=steps, event=(1, 8, 8))
        cell = f"| default ({sampling.registry.name_of(planned.solver)}, grid {planned.grid_name})"
        assert re.search(rf"{re.escape(cell)} +\| +{len(planned.times) - 1} \| +{steps} \|", result.output)
    # The numbers are those of the solvers, measured here once more.
    cond = {"label": torch.arange(4)}
    fine = ss.sample(model, (4, 1, 8, 8), "dpm++3m", steps=paired.FINE_STEPS, seeds=range(4), **cond)
    for label, solver, grid, nfe in (
        ("default", None, None, 8),
        ("ddim (quadratic)", "ddim", "quadratic", 4),
        (file, file, None, 5),
    ):
        x = ss.sample(model, (4, 1, 8, 8), solver, seeds=range(4), grid=grid, nfe=None if solver == file else nfe, **cond)
        assert dict(curves[label])[nfe] == pytest.approx(float((x - fine).square().mean().sqrt()), rel=1e-3)


def test_without_solvers_compare_takes_a_list_with_the_default_in_it(digits, tmp_path, monkeypatch):
    assert {"default:10", "default:20"} < set(commands.compare.DEFAULT_ENTRIES)
    monkeypatch.setattr(commands.compare, "DEFAULT_ENTRIES", ("ancestral:5", "default:3"))
    made = figures_of(monkeypatch)
    result = run.invoke(app, ["compare", str(digits), "--out", str(tmp_path), "--samples", "4"], catch_exceptions=False)
    ((_, figure),) = made
    shown = [label for label in figure.axes[0].get_legend_handles_labels()[1] if label != "larger error"]
    assert shown == ["default", "dpm++2m", "unipc2", "heun", "ddim"]
    assert re.search(r"\| ancestral +\| +5 \| +5 \|", result.output)
    assert re.search(r"\| default \(.*\) +\| +3 \| +3 \|", result.output)
    assert "No error is plotted" not in result.output


def test_stochastic_solvers_alone_have_no_error_plot(digits, tmp_path):
    arguments = ["compare", str(digits), "--out", str(tmp_path), "--samples", "4", "--solver", "ancestral:3"]
    result = run.invoke(app, arguments, catch_exceptions=False)
    assert "No error is plotted for ancestral" in result.output
    assert "error.png" not in result.output
    assert not (tmp_path / "error.png").exists()


def test_a_late_first_call_is_explained_below_the_table(tmp_path):
    train = ["train", "digits", "--out", str(tmp_path), "--process", "linear", *TRAIN]
    assert run.invoke(app, train, catch_exceptions=False).exit_code == 0
    arguments = ["compare", str(tmp_path), "--samples", "4", "--no-curves", "--solver"]
    said = [run.invoke(app, [*arguments, solver], catch_exceptions=False).output for solver in ("default:5", "ddim:5")]
    assert re.search(r"\| default \(late .*\) +\| +6 \| +5 \|", said[0])
    assert ["the first step is taken without a network call" in text for text in said] == [True, False]


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
        assert "No Frechet distance: the smallest set has 20 samples in 64 dimensions, and 65 or more are needed." in text
    for name in ("compare.png", "error.png"):
        assert (tmp_path / name).exists()
        assert name in page
    assert (tmp_path / "report.html").exists()


def test_compare_in_classifier_features(digits, tmp_path):
    arguments = ["compare", str(digits), "--out", str(tmp_path), "--samples", "130", "--features", "classifier", "--against", "all"]
    result = run.invoke(app, [*arguments, "--no-curves", "--solver", "ddim:2"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "share with p > 0.9" in result.output
    assert "1797 real ones (all data)" in result.output
    assert "Not an FID" in result.output
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
    assert found["given"] == ["label"]
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
        (
            ["train", "digits", "--out", "run", "--prediction", "energy"],
            "--prediction must be one of data, noise, score, velocity",
        ),
        (["train", "digits", "--out", "run", "--multipliers", "1,x"], "--multipliers 1,x: need a list of integers"),
        (["train", "digits", "--out", "run", "--process", "cubic"], "--process must be one of linear, cosine, vp"),
        (["train", "digits", "--out", "run", "--process", "linear", "--steps", "10"], "the linear chain needs more than 20 steps"),
        (["sample", "nowhere", "--out", "x.png"], "nowhere holds no training run"),
        (["sample", "DIGITS", "--out", "x.gif"], "--out x.gif: the file must end in .png or .jpg"),
        (["sample", "DIGITS", "--out", "x.png", "--solver", "dmp++2m"], "no solver is called 'dmp++2m'; did you mean"),
        (["sample", "DIGITS", "--out", "x.png", "--solver", "dpmpp_sde"], "no solver is called 'dpmpp_sde'; did you mean 'seeds2'"),
        (["compare", "DIGITS", "--solver", "dpm fast:5"], "no solver is called 'dpm fast'; did you mean 'dpm3' or 'dpm2'?"),
        (["sample", "DIGITS", "--out", "x.png", "--steps", "3", "--nfe", "3"], "give --steps or --nfe, one of the two\n"),
        (["sample", "DIGITS", "--out", "x.png", "--grid", "log"], "no grid is called 'log'"),
        (["sample", "DIGITS", "--out", "x.png", "--label", "10"], "the classes of"),
        (["compare", "DIGITS", "--solver", "ddim"], "'ddim' is not NAME:STEPS"),
        (["compare", "DIGITS", "--features", "inception"], "must be pixels or classifier"),
        (["diagnose", "nowhere"], "nowhere holds no training run"),
        (
            ["train", "digits", "--out", "DIGITS", "--conditional", *TRAIN, "--width", "16"],
            "another experiment (--width: 8 there, 16 here)",
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
    top = run.invoke(app, ["--help"])
    assert top.exit_code == 0
    for command in ("train", "sample", "compare", "diagnose"):
        assert command in top.output
    page = re.sub(r"\s", "", run.invoke(app, ["sample", "--help"]).output)
    assert all(name in page for name in solvers.names())
    # In a process of its own: its exit code is that of the command.
    command = [sys.executable, "-m", "scoresde", "train", "digits", "--out", "x", "--iterations", "none"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
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
        "64",
        "--refine",
        "1",
        "--device",
        "cpu",
    ]
    result = run.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert re.search(
        r"fitted.safetensors: .* 3 calls.* error on held-out starts .n = 6.: median [0-9.e-]+, rms [0-9.e-]+ .the reference is off by",
        result.output,
    )
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
