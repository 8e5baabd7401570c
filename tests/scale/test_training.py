"""Several processes train the model that one process trains. They are real processes, started by torchrun, and count themselves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scoresde.train.checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint
from scoresde.train.tracking import HISTORY

from .program import make, run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")

# Each with the run of one process that it must equal. Starting processes takes seconds: they do all of these in one go.
JOBS = {
    "ddp": ("alone", {"parallel": "ddp"}),
    "ddp accumulated": ("alone", {"accumulate": 2}),
    "fsdp2": ("alone", {"parallel": "fsdp2"}),
    "fsdp2 accumulated": ("alone", {"parallel": "fsdp2", "accumulate": 2}),
    "ddp resumed": ("alone", {"stop": 9}),
    "ddp resumed ": ("alone", {}),
    "fsdp2 resumed": ("alone", {"parallel": "fsdp2", "stop": 9}),
    "fsdp2 resumed ": ("alone", {"parallel": "fsdp2"}),
    "begun alone": ("alone", {"parallel": "fsdp2"}),
    "ended alone": ("alone", {"parallel": "fsdp2", "stop": 9}),
    "learned": ("learned alone", {"time_sampler": "adaptive", "label_dropout": 0.3, "snapshot_every": 10}),
    "learned fsdp2": (
        "learned alone",
        {"time_sampler": "adaptive", "label_dropout": 0.3, "snapshot_every": 10, "parallel": "fsdp2"},
    ),
    "images": ("images alone", {"kind": "unet", "iterations": 6}),
    "images fsdp2": ("images alone", {"kind": "unet", "iterations": 6, "parallel": "fsdp2"}),
    "magnitudes": ("magnitudes alone", {"kind": "edm2", "iterations": 4}),
    "magnitudes fsdp2": ("magnitudes alone", {"kind": "edm2", "iterations": 4, "parallel": "fsdp2"}),
    "half": ("half alone", {"bfloat16": True}),
    "half fsdp2": ("half alone", {"bfloat16": True, "parallel": "fsdp2"}),
    "scaled": ("scaled alone", {"float16": True}),
    "scaled fsdp2": ("scaled alone", {"float16": True, "parallel": "fsdp2"}),
    "stream": ("stream alone", {"kind": "stream", "stop": 9}),
    "stream ": ("stream alone", {"kind": "stream"}),
    "indivisible": (None, {"batch_size": 9}),
    "other data": (None, {"kind": "other data"}),
}
# Half precision rounds by 4e-3 (bfloat16) and 5e-4. Adam makes full steps, here 20 of 1e-2, of gradients that are little more than rounding.
TOLERANCE = {"half alone": 1e-1, "scaled alone": 1e-1, "images alone": 1e-10, "magnitudes alone": 1e-10, "stream alone": 1e-10}


def launch(processes, jobs):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
        "--module", "tests.scale.program", str(processes), json.dumps(jobs),
    ]  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, cwd=ROOT)


def kill(process):
    """SIGKILL of the launcher and of its workers, which have sessions of their own and would go on without it."""
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in [process.pid, *map(int, workers)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    return len(workers)


def distance(a, b):
    """The largest difference of a tensor of two checkpoints, which must have the same ones."""
    a, b = (read_checkpoint(folder / CHECKPOINT)[0] for folder in (a, b))
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


def iteration_of(folder):
    return about_checkpoint(folder / CHECKPOINT)["iteration"] if (folder / CHECKPOINT).exists() else 0


def history(folder):
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all jobs, done by two processes, and of the runs of one process."""
    root = tmp_path_factory.mktemp("runs")
    run(root / "alone")
    run(root / "begun alone", stop=9)
    for name in ("learned", "images", "magnitudes", "half", "scaled", "stream"):
        options = {key: value for key, value in JOBS[name][1].items() if key not in ("parallel", "stop")}
        run(root / f"{name} alone", **options)
    process = launch(2, [[str(root / name.strip()), options] for name, (_, options) in JOBS.items()])
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-4000:]
    run(root / "ended alone")
    return root


@pytest.mark.parametrize("name", [name for name, (alone, _) in JOBS.items() if alone and not name.endswith(" ")])
def test_two_processes_train_what_one_trains(runs, name):
    alone = JOBS[name][0]
    assert distance(runs / name, runs / alone) < TOLERANCE.get(alone, 1e-6)
    rows, expected = history(runs / name), history(runs / alone)
    assert [row["iteration"] for row in rows] == [row["iteration"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=0.05 if alone in ("half alone", "scaled alone") else 1e-5)


def test_weights_of_a_fixed_length_have_it_after_training(runs):
    tensors = read_checkpoint(runs / "magnitudes alone" / CHECKPOINT)[0]
    weights = [
        value for name, value in tensors.items() if name.startswith("model/") and name.endswith("weight") and value.ndim == 4
    ]
    assert weights
    for weight in weights:
        length = weight.flatten(1).square().mean(1)
        assert torch.allclose(length, torch.ones_like(length))


def test_the_same_number_of_processes_resumes_to_the_bit(runs):
    assert distance(runs / "ddp resumed", runs / "ddp") == 0
    assert distance(runs / "fsdp2 resumed", runs / "fsdp2") == 0


def test_snapshots_of_averages_do_not_depend_on_the_processes(runs):
    for name in ("learned", "learned fsdp2"):
        for file in ("000000010.safetensors", "000000020.safetensors"):
            ours, theirs = (read_checkpoint(runs / run / "averages" / file)[0] for run in (name, "learned alone"))
            assert ours.keys() == theirs.keys()
            assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in ours)


def test_what_cannot_be_divided_is_refused_by_every_process(runs):
    for rank in (0, 1):
        text = (runs / "indivisible" / f"refused{rank}").read_text()
        assert text == "a batch of 9 samples cannot be divided among 2 processes x 1 micro-batches"
        assert (runs / "other data" / f"refused{rank}").read_text().startswith("the processes differ in data: 0: ")


def test_a_loss_that_is_not_a_number_on_one_process_ends_all(tmp_path):
    process = launch(2, [[str(tmp_path), {"kind": "breaks"}]])
    began = time.monotonic()
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    # Both say it themselves: none was only killed. The messages name the iteration and the times of the rows of process 1.
    assert out.count("FloatingPointError: the loss is nan at iteration 3, from samples at t = [") == 2
    assert time.monotonic() - began < 300
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_killed_run_of_two_processes_goes_on(tmp_path):
    """SIGKILL of all processes at a random moment, and the same command again. In float64: rounding differs in 1 process and in 2."""
    options = {"kind": "precise", "iterations": 400, "save_every": 10, "validate_every": 100}
    run(tmp_path / "alone", **options)
    job = [[str(tmp_path / "killed"), options]]
    process = launch(2, job)
    while not iteration_of(tmp_path / "killed") and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2 * random.Random(0).random())
    assert kill(process) == 2
    assert iteration_of(tmp_path / "killed") < 400
    process = launch(2, job)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-4000:]
    assert distance(tmp_path / "killed", tmp_path / "alone") < 1e-10
    assert [row["iteration"] for row in history(tmp_path / "killed")] == [100, 200, 300, 400]


def test_parallel_needs_a_launcher(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="start with `torchrun --standalone --nproc_per_node 2"):
        make(tmp_path, parallel="ddp")
    with pytest.raises(ValueError, match="parallel must be one of ddp, fsdp2"):
        make(tmp_path, parallel="fsdp")
