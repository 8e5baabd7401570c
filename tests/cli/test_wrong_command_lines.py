"""Command lines that cannot work end with exit code 2 and one line that names the file or the option, and random ones do nothing else."""

import json
import random
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import scoresde as ss
from scoresde import grids, networks, sampling
from scoresde.cli import main, report

TRAIN = ["--iterations", 3, "--batch-size", 8, "--width", 8, "--held-out", 20, "--device", "cpu"]
FIT = ["--nfe", 2, "--trajectories", 8, "--refine", 0, "--teacher-steps", 64]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of many kinds, a run of vectors, one of images with labels, damaged runs and a fitted solver."""
    home = tmp_path_factory.mktemp("command line")
    rng = np.random.default_rng(0)
    arrays = {
        "vectors": rng.normal(size=(80, 2)), "numbers": rng.normal(size=80), "pictures": rng.integers(0, 256, (80, 8, 8), dtype=np.uint8),
        "strings": np.array(["a", "b"]), "integers": np.zeros((80, 2), int), "holes": np.full((80, 2), np.nan), "few": np.zeros((3, 2)),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(home / f"{name}.npy", array)
    (home / "empty.npy").write_bytes(b"")
    (home / "file").write_text("text")
    (home / "nothing").mkdir()
    for name in ("a", "b"):
        (home / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(home / "images" / name / f"{i}.png")
    shutil.copytree(home / "images", home / "broken images")
    (home / "broken images" / "a" / "0.png").write_bytes(b"")
    (home / "folder.png").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        works("train", "vectors.npy", "--out", "run", *TRAIN)
        works("train", "images", "--out", "labelled", "--conditional", *TRAIN)
        works("fit", "run", "--out", "solver.safetensors", *FIT)
    good = (home / "run" / "config.json").read_text()
    configs = {"empty": "", "null": "null", "list": "[]", "deep": "[" * 100_000, "old": good.replace("warmup", "warm_up")}
    for name, text in {
        **configs,
        "cut": good,
        "swapped": good,
        "without": good,
        "odd": good.replace('"width": 8', '"width": -8'),
    }.items():
        shutil.copytree(home / "run", home / f"run {name}")
        (home / f"run {name}" / "config.json").write_text(text)
    checkpoint = home / "run cut" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:3000])
    shutil.copy(home / "labelled" / "checkpoint.safetensors", home / "run swapped")
    (home / "run without" / "checkpoint.safetensors").unlink()
    save_file({"times": torch.zeros(3)}, home / "crafted.safetensors", {"scoresde solver 1": '{"kind": "fitted"}'})
    return home


def call(*arguments):
    """The exit code and what went to stderr, in this process. An exception is a traceback for a user, and fails the test."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["scoresde", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return end.code or 0, err.getvalue()
    return 0, err.getvalue()


def works(*arguments):
    """Exit code 0, and nothing on stderr but the stages of a fit."""
    code, error = call(*arguments)
    assert code == 0, (arguments, error)
    assert all(line.startswith("fit: ") for line in error.splitlines()), (arguments, error)


def refused(arguments, *said):
    """Exit code 2 and one line, or click's own message, with the texts in it."""
    code, error = call(*arguments)
    line = error.strip().splitlines()[-1]
    assert code == 2, (arguments, error)
    assert line.startswith(("scoresde: ", "Error: ")), (arguments, error)
    assert not line.startswith("scoresde: ") or error.count("\n") == 1, (arguments, error)
    for text in said:
        assert text in line, (arguments, line)
    return line


@pytest.mark.parametrize("name", ["empty", "null", "list", "deep", "old", "odd", "cut", "swapped", "without"])
def test_a_damaged_run_is_named(place, monkeypatch, name):
    monkeypatch.chdir(place)
    file = "checkpoint.safetensors" if name in ("cut", "swapped", "without") else "config.json"
    for command in (["sample", "--out", "x.png"], ["compare"], ["report"], ["diagnose"], ["fit", "--out", "x.safetensors"]):
        refused([command[0], f"run {name}", *command[1:]], f"run {name}/{file}")
    if file == "config.json" and name != "odd":
        refused(["train", "vectors.npy", "--out", f"run {name}", *TRAIN], f"run {name}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "", "--out", "new"], "''"),
        (["train", "strings.npy", "--out", "new"], "strings.npy"),
        (["train", "empty.npy", "--out", "new"], "empty.npy"),
        (["train", "holes.npy", "--out", "new"], "holes.npy"),
        (["train", "few.npy", "--out", "new", *TRAIN], "--held-out 20: cannot hold out 20 of 3"),
        (["train", "broken images", "--out", "new"], "broken images/a/0.png"),
        (["train", "vectors.npy", "--out", ""], "--out"),
        (["train", "vectors.npy", "--out", "a\0b"], "--out"),
        (["train", "vectors.npy", "--out", "file/x", *TRAIN], "file/x"),
        (["train", "vectors.npy", "--out", "new", "--learning-rate", "nan"], "--learning-rate"),
        (["train", "vectors.npy", "--out", "new", "--ema", "nan"], "ema"),
        (["train", "vectors.npy", "--out", "new", "--multipliers", "1,0"], "multipliers"),
        (["train", "vectors.npy", "--out", "new", "--weighting", "foo"], "weighting"),
        (["train", "vectors.npy", "--out", "new", "--time-sampler", "foo"], "--time-sampler"),
        (["train", "vectors.npy", "--out", "new", "--conditional", *TRAIN], "no labels"),
        (["train", "vectors.npy", "--out", "new", *TRAIN, "--device", "meta"], "--device"),
        (["train", "vectors.npy", "--out", "new", *TRAIN, "--device", ""], "--device"),
        (["train", "vectors.npy", "--out", "new", *TRAIN, "--width", 10**9], "--width"),
        (["sample", "run", "--out", "file/x.png"], "--out file/x.png"),
        (["sample", "run", "--out", "/proc/nothing/x.png"], "--out /proc/nothing/x.png"),
        (["sample", "run", "--out", "folder.png"], "--out folder.png"),
        (["sample", "run", "--out", "x.png", "--solver", "crafted.safetensors"], "crafted.safetensors"),
        (["sample", "run", "--out", "x.png", "--solver", "run/checkpoint.safetensors"], "run/checkpoint.safetensors"),
        (["sample", "run", "--out", "x.png", "--solver", "nothing.safetensors"], "nothing.safetensors"),
        (["sample", "run", "--out", "x.png", "--solver", "solver.safetensors", "--steps", 7], "--steps 7"),
        (["sample", "labelled", "--out", "x.png", "--label", 2], "--label 2"),
        (["sample", "run", "--out", "x.png", "--solver", "adaptive", "--steps", 2], "tried 2 steps"),
        (["sample", "run", "--out", "x.png", "--solver", "adaptive", "--nfe", 20], "--nfe"),
        (["sample", "run", "--out", "x.png", "-n", 10**12], "--count"),
        (["compare", "run", "--no-curves", "--samples", 4, "--solver", "adaptive:2"], "tried 2 steps"),
        (["compare", "run", "--no-curves", "--samples", 4, "--solver", "gotta-go-fast:2"], "tried 2 steps"),
        (["compare", "run", "--no-curves", "--samples", 4, "--solver", "ddim:99999999999"], "memory"),
        (["compare", "run", "--out", "file", "--samples", 4], "--out file"),
        (["diagnose", "run", "--out", "file/x", "--samples", 4], "--out file/x"),
        (["fit", "run", "--out", "file/x.safetensors", *FIT], "--out file/x.safetensors"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_the_line_names_the_file_or_the_option(place, monkeypatch, arguments, said):
    monkeypatch.chdir(place)
    refused(arguments, said)


def test_adaptive_solvers_have_no_default_number_of_steps(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    for solver in ("adaptive", "gotta-go-fast"):
        works("sample", "run", "--solver", solver, "--out", tmp_path / "x.npy", "-n", 2)
        assert np.isfinite(np.load(tmp_path / "x.npy")).all()
    code, _ = call("compare", "run", "--no-curves", "--samples", 4, "--solver", "adaptive:500", "--out", tmp_path)
    assert code == 0


@pytest.mark.filterwarnings("ignore:the error is .* the true error may be another")
def test_seeds_of_any_size(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    huge = ["--seed", 2**64 + 3]
    commands = (
        ["train", "vectors.npy", "--out", tmp_path / "run", *TRAIN],
        ["sample", "run", "--out", tmp_path / "x.npy", "-n", 2, "--steps", 2],
        ["compare", "run", "--no-curves", "--samples", 4, "--solver", "ddim:2", "--out", tmp_path],
        ["fit", "run", "--out", tmp_path / "x.safetensors", *FIT],
        ["diagnose", "run", "--samples", 4, "--out", tmp_path],
    )
    for command in commands:
        works(*command, *huge)
    here = np.load(tmp_path / "x.npy")
    call(*commands[1], "--seed", 3)
    assert np.array_equal(np.load(tmp_path / "x.npy"), here)


def test_two_runs_in_one_folder_and_other_data_of_the_same_name(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(80, 2)))
    works("train", "x.npy", "--out", "run", *TRAIN)
    refused(["train", "x.npy", "--out", "run", *TRAIN, "--seed", 5], "seed: 0 there, 5 here")
    np.save("x.npy", np.random.default_rng(1).normal(size=(80, 2)))
    refused(["train", "x.npy", "--out", "run", *TRAIN], "run/checkpoint.safetensors", "its data is")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for entry, said in (
        ({"prediction": "noise"}, "its prediction is velocity"),
        ({"process": "linear"}, "its sde is"),
        ({"width": 6}, "shape"),
    ):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | entry))
        refused(["sample", "run", "--out", "x.png", "--steps", 2], "run/checkpoint.safetensors", said)


def test_a_comparison_that_is_stopped_leaves_no_hook():
    model, x, calls = ss.ScoreModel(networks.MLP(2, 16), ss.VPSDE.cosine(100)).eval(), torch.randn(40, 2), []

    def stop(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with model.network.register_forward_hook(stop), pytest.raises(KeyboardInterrupt):
        report.compare(model, [report.Entry("ddim", 3)], x, (x[:20], x[20:]), seeds=range(4), curve_nfe=(), progress=False)
    assert not model._forward_hooks


DATA = ["vectors.npy", "numbers.npy", "pictures.npy", "images"], ["strings.npy", "holes.npy", "few.npy", "broken images", ""]
RUNS = ["run", "run", "labelled"], ["nothing", "file", "missing", "", "run empty", "run deep", "run cut", "run swapped", "run odd"]
ENTRIES = ["ddim:3", "dpm++2m:3:karras", "solver.safetensors"], ["ddim", "ddim:0", "foo:3", "ddim:3:foo", "adaptive:3", ":"]
# The right and the wrong values of the options of each command.
OPTIONS = {
    "train": {
        "--iterations": ([2], [0, -1, "x", 1.5]), "--batch-size": ([8], [0, "x"]), "--learning-rate": ([1e-3], [-1, "nan", "inf"]),
        "--ema": ([0.9], [2, "nan"]), "--process": (["linear", "cosine"], ["foo"]), "--steps": ([1000, 50], [2, 20, 1]),
        "--prediction": (["noise", "velocity", "data", "score"], ["edm", "foo"]), "--weighting": (["noise", "min_snr"], ["foo", ""]),
        "--time-sampler": (["uniform", "adaptive", "likelihood"], ["foo"]), "--width": ([8, 16], [3, 5, 0]),
        "--multipliers": (["1", "1,2"], ["0", "", "1,,2", "1.5", "1,1,1,1,1,1,1,1"]), "--patch": ([1, 2], [0, 3, 100]),
        "--held-out": ([10], [79, 80, 0]), "--seed": ([0, 2**70], [-1, "x"]), "--device": (["cpu"], ["cuda:99", "banana", "meta"]),
    },
    "sample": {
        "--solver": ([*sampling.names(), "solver.safetensors"], ["foo", "", "crafted.safetensors"]), "--steps": ([2, 5], [0, "x"]),
        "--nfe": ([3, 6], [0, 1]), "--grid": (grids.names(), ["foo", ""]), "-n": ([3], [0, "x"]), "--seed": ([0, 2**64], [-1]),
        "--label": ([0], [5, -1]), "--batch-size": ([1, 2], [0]),
    },
    "compare": {"--features": (["pixels"], ["classifier", "foo"]), "--against": (["held-out", "all"], ["foo"]), "--seed": ([2**64], [-1])},
    "fit": {"--seed": ([0, 2**64], ["x"])},
    "diagnose": {"--seed": ([0, 2**64], [-1])},
}  # fmt: skip


def random_line(source, out):
    """A command line; about a fifth of its words are wrong."""

    def pick(good, bad):
        return source.choice(bad if source.random() < 0.2 else good)

    command = source.choice(["train", "train", "sample", "sample", "sample", "compare", "fit", "diagnose"])
    words = {
        "train": lambda: [pick(*DATA), "--out", pick([out / str(source.random())], ["run", "file", "file/x", ""]), *TRAIN],
        "sample": lambda: [pick(*RUNS), "--out", pick([out / "x.png", out / "ü.npy"], ["file/x.png", "x.txt", "folder.png", ""])],
        "compare": lambda: [
            pick(*RUNS), "--samples", 4, "--no-curves", "--out", pick([out], ["file", ""]), "--solver", pick(*ENTRIES)
        ],
        "fit": lambda: [pick(*RUNS), "--out", pick([out / "f.safetensors"], ["f.txt", "file/f.safetensors"]), *FIT],
        "diagnose": lambda: [pick(*RUNS), "--samples", 3, "--out", pick([out], ["file"])],
    }[command]()  # fmt: skip
    for option, values in OPTIONS[command].items():
        if source.random() < 0.25:
            words += [option, pick(*values)]
    return [command, *words, *(["--conditional"] if command == "train" and source.random() < 0.15 else [])]


@pytest.mark.filterwarnings("ignore:fitted to another network", "ignore:the error is .* the true error may be another")
@pytest.mark.parametrize("seed", range(2))
def test_random_command_lines_work_or_are_refused_in_one_line(place, monkeypatch, tmp_path, seed):
    monkeypatch.chdir(place)
    source, counts = random.Random(seed), {0: 0, 2: 0}
    unclear = ("Expecting value", "list index", "NoneType", "object is not", "unpack", "divided by zero", "has no attribute")
    for _ in range(30):
        words = random_line(source, tmp_path)
        code, _ = call(*words)
        if code:
            line = refused(words)
            assert not any(text in line for text in unclear), (words, line)
        counts[code] += 1
    assert min(counts.values()) >= 5  # both happen
