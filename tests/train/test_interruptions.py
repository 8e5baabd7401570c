"""A signal and the clock write a checkpoint, on one process or on several, and the run goes on from it to the same bits."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import scoresde as ss
from scoresde import networks
from scoresde.train import Recipe, Trainer
from scoresde.train import trainer as trainer_module
from scoresde.train.checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from pathlib import Path
import torch.distributed as dist
from tests.train.test_interruptions import trainer
made = trainer(Path(sys.argv[1]))
step = made._step
def slow():
    if made.iteration == 5:
        print("here", flush=True)
    time.sleep(0.02)
    return step()
made._step = slow
made.run()
"""


def trainer(folder=None, **options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(2, width=8), ss.VPSDE.cosine(50))
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(iterations=400, batch_size=8, validate_every=200, save_every=1000)
    return Trainer(model, x, recipe, held_out=x, folder=folder, **options)


def at(iteration, do):
    """A tracker is told nothing this early: a step that does something before an iteration."""

    def change(made):
        step = made._step

        def changed():
            if made.iteration == iteration:
                do()
            return step()

        made._step = changed
        return made

    return change


def tensors(folder):
    return read_checkpoint(folder / CHECKPOINT)[0]


def assert_same(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).run(progress=False)
    return folder


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_gets_a_signal_saves_and_goes_on_to_the_same_bits(tmp_path, whole, number):
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=ROOT,
    )
    said = ""
    while "here" not in said:
        said += process.stdout.readline()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else 1)
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    done = about_checkpoint(tmp_path / CHECKPOINT)["iteration"]
    assert 5 <= done < 400
    assert f"{number.name} at iteration {done} of 400: saved in {tmp_path}, where the same run goes on" in rest
    resumed = trainer(tmp_path)
    assert resumed.iteration == done
    resumed.run(progress=False)
    assert_same(tmp_path, whole)


def test_the_handlers_of_the_program_are_back_after_a_run_and_get_the_signal(tmp_path):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    ours = signal.getsignal(signal.SIGTERM)
    try:
        # A program that handles the signal itself goes on.
        made = trainer(tmp_path)
        for iteration in (3, 7):
            at(iteration, lambda: os.kill(os.getpid(), signal.SIGTERM))(made)
        made.run(progress=False)
        assert got == [signal.SIGTERM] * 2
        assert made.iteration == 400
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_folder_a_signal_does_what_it_does_elsewhere(ctrl_c):
    made = at(3, lambda: os.kill(os.getpid(), signal.SIGINT))(trainer())
    with pytest.raises(KeyboardInterrupt):
        made.run(progress=False)
    assert made.iteration == 3


def test_a_thread_trains_without_handlers(tmp_path):
    made, found = trainer(tmp_path), []
    worker = threading.Thread(target=lambda: found.append(made.run(progress=False)))
    worker.start()
    worker.join()
    assert found
    assert made.iteration == 400


def test_the_clock_writes_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", 0.2)
    made, seen = trainer(tmp_path), []
    at(3, lambda: time.sleep(0.3))(made)
    at(4, lambda: seen.append(about_checkpoint(tmp_path / CHECKPOINT)["iteration"]))(made)
    made.run(progress=False)
    assert seen == [4]


PROCESSES = """
import os, signal, sys
from pathlib import Path
import torch.distributed as dist
from tests.train.test_interruptions import at, trainer
made = trainer(Path(sys.argv[1]), parallel="ddp")
# The other process gets no signal, and must stop at the same iteration.
if os.environ["RANK"] == "1" and made.iteration == 0:
    at(7, lambda: os.kill(os.getpid(), signal.SIGTERM))(made)
try:
    made.run(progress=False)
except SystemExit as end:
    Path(sys.argv[1], f"ended{os.environ['RANK']}").write_text(f"{made.iteration} {end.code}")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_processes_stop_together(tmp_path, whole):
    (tmp_path / "program.py").write_text(PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "program.py")]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, env=variables, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"ended{rank}").read_text() for rank in (0, 1)] == ["8 143", "8 143"]
    assert about_checkpoint(tmp_path / CHECKPOINT)["iteration"] == 8
    trainer(tmp_path).run(progress=False)
    one, other = tensors(tmp_path), tensors(whole)
    assert max(float((one[name] - other[name]).abs().max()) for name in one if one[name].is_floating_point()) < 1e-4
