"""Training: the same weights after any interruption, and failures that say where they happened."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch

import scoresde as ss
from scoresde import losses, networks
from scoresde.numerics import files
from scoresde.train import trainer as training
from scoresde.train.checkpoint import CHECKPOINT, load_averaged, read_checkpoint, write_checkpoint
from scoresde.train.recipe import Recipe
from scoresde.train.trainer import Trainer
from scoresde.train.world import local_device

from ..conftest import SDES, generator


class WithDropout(networks.MLP):
    """Draws from the global random state, as many networks do."""

    def forward(self, z, t, label=None):
        return super().forward(torch.nn.functional.dropout(z, 0.2, self.training), t, label)


def make(folder=None, iterations=12, **options):
    torch.manual_seed(0)
    model = ss.ScoreModel(WithDropout(3, width=16, classes=2), SDES["ddpm"])
    x, label = torch.randn(40, 3, generator=generator()), torch.arange(40) % 2
    recipe = Recipe(iterations=iterations, batch_size=8, warmup=3, validate_every=5, save_every=4, **options)
    return Trainer(model, x, recipe, cond={"label": label}, held_out=x[:10], held_out_cond={"label": label[:10]}, folder=folder)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("options", [{}, {"time_sampler": "adaptive"}], ids=["discrete", "adaptive"])
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, monkeypatch, options):
    # Two losses remembered in each of two bins: the times depend on them from the first iterations on.
    monkeypatch.setattr(training.losses, "Adaptive", lambda: losses.times.Adaptive(bins=2, history=2))
    whole = make(tmp_path / "whole", **options)
    whole.run(progress=False)
    broken = make(tmp_path / "broken", **options)
    steps = iter(range(6))

    def stop_after_six():
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return Trainer._step(broken)

    broken._step = stop_after_six
    with pytest.raises(KeyboardInterrupt):
        broken.run(progress=False)
    torch.manual_seed(99)
    resumed = make(tmp_path / "broken", **options)
    assert resumed.iteration == 4
    resumed.run(progress=False)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert torch.equal(weights(resumed.averaged), weights(whole.averaged))
    assert resumed.history[-1]["validation"] == whole.history[-1]["validation"]
    again = make(tmp_path / "whole", **options)
    assert again.iteration == 12
    assert torch.equal(weights(again.run(progress=False)), weights(whole.averaged))


def test_killing_the_process_and_starting_it_again(tmp_path):
    """SIGKILL in the middle of the command, the same command again: the weights of an uninterrupted run."""

    def command(folder):
        return [
            sys.executable, "-m", "scoresde", "train", "digits", "--out", str(folder), "--iterations", "60", "--save-every", "5",
            "--batch-size", "8", "--width", "8", "--device", "cpu",
        ]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    checkpoint = tmp_path / "killed" / CHECKPOINT
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert read_checkpoint(checkpoint)[1]["iteration"] < 60
    subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True, env=environment)
    whole, _ = read_checkpoint(tmp_path / "whole" / CHECKPOINT)
    resumed, about = read_checkpoint(checkpoint)
    assert about["iteration"] == 60
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_is_written_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / CHECKPOINT
    write_checkpoint(path, {"a": torch.ones(3)}, {"iteration": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {"a": torch.zeros(3)}, {"iteration": 2})
    state, about = read_checkpoint(path)
    assert about["iteration"] == 1
    assert torch.equal(state["a"], torch.ones(3))


def test_what_a_killed_write_left_is_removed_later(tmp_path):
    path = tmp_path / CHECKPOINT
    left, writing, other = (tmp_path / f"{name}.partial" for name in (f"{CHECKPOINT}.0a", f"{CHECKPOINT}.0b", "other.0c"))
    for file in (left, writing, other):
        file.write_text("")
    for file in (left, other):
        os.utime(file, (time.time() - 2 * files.STALE,) * 2)
    write_checkpoint(path, {"a": torch.ones(3)}, {"iteration": 1})
    assert sorted(tmp_path.iterdir()) == sorted([path, writing, other])


def test_only_the_process_that_writes_keeps_the_tensors_of_a_checkpoint():
    trainer = make()
    trainer._step()
    assert trainer._state.tensors(keep=False) == {}
    assert {"model", "average", "optimizer"} == {name.split("/")[0] for name in trainer._state.tensors(keep=True)}


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == local_device("cuda") == torch.device("cuda", 3)
    assert local_device("cuda:1") == torch.device("cuda", 1)
    assert local_device("cpu") == torch.device("cpu")


def test_importance_sampled_times_are_corrected_in_training(monkeypatch):
    """The loss of a step is the mean of weight times loss at the drawn times; the recipe still is plain JSON."""
    trainer = make(weighting="likelihood", time_sampler="likelihood")
    assert Recipe(**json.loads(json.dumps(asdict(trainer.recipe)))) == trainer.recipe
    seen = {}
    draw, denoising = training.losses.draw_times, training.losses.denoising

    def record_times(*arguments):
        seen["times"] = draw(*arguments)
        return seen["times"]

    def record_loss(*arguments, **options):
        seen["loss"] = denoising(*arguments, **options)
        return seen["loss"]

    monkeypatch.setattr(training.losses, "draw_times", record_times)
    monkeypatch.setattr(training.losses, "denoising", record_loss)
    loss = trainer._step()
    weight = seen["times"].weight
    assert float(weight.std()) > 0
    assert loss == pytest.approx(float((weight * seen["loss"].detach()).mean()), rel=1e-6)


def test_checkpoints_are_safetensors_with_json(tmp_path):
    make(tmp_path).run(progress=False)
    raw = (tmp_path / CHECKPOINT).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["json"])["iteration"] == 12
    model = ss.ScoreModel(WithDropout(3, width=16, classes=2), SDES["ddpm"])
    trainer = make(tmp_path)
    assert torch.equal(weights(load_averaged(tmp_path / CHECKPOINT, model)), weights(trainer.averaged))
    assert not model.training
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_averaged(tmp_path / "none", model)


def test_average_follows_its_formula():
    """decay min(ema, (1+i)/(10+i)), from the first weights on."""
    trainer = make(iterations=6, ema=0.3)
    expected = None
    for i in range(6):
        trainer._step()
        now = weights(trainer.model)
        if expected is None:
            expected = now
        else:
            decay = min(0.3, (1 + i) / (10 + i))
            expected = decay * expected + (1 - decay) * now
        torch.testing.assert_close(weights(trainer.averaged), expected)
        trainer.iteration += 1


def test_validation_stands_beside_the_zero_network():
    trainer = make()
    trainer.run(progress=False)
    assert [row["iteration"] for row in trainer.history] == [5, 10, 12]
    # 30 squared normals: mean 1, standard deviation sqrt(2/30).
    assert trainer.history[0]["zero"] == pytest.approx(1, abs=5 * math.sqrt(2 / 30))
    assert len({row["zero"] for row in trainer.history}) == 1
    assert all(math.isfinite(row["validation"]) for row in trainer.history)


def test_a_loss_that_is_not_finite_names_the_times():
    trainer = make()
    bad = []

    class Breaks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, z, index, label):
            late = index > 500
            bad.extend(((index[late] + 1) / 1000).tolist())
            return torch.where(late[:, None], torch.nan, self.gain) * z

    trainer.model.network = Breaks()
    with pytest.raises(FloatingPointError, match="the loss is nan at iteration 0") as error:
        trainer.run(progress=False)
    named = json.loads(str(error.value).split("t = ")[1])
    assert named == pytest.approx(bad, abs=1e-6)
    assert trainer.model.network.gain.item() == 1


def test_learning_rate():
    recipe = Recipe(iterations=1000, warmup=100, learning_rate=1.0, final_rate=0.02)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(99) == pytest.approx(0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * 0.099)))
    assert recipe.rate(1000) == pytest.approx(0.02)
    assert max(recipe.rate(i) for i in range(1000)) <= 1


def test_every_sample_is_seen_once_an_epoch():
    trainer = make()
    with trainer._loader() as loader:
        # The first coordinate tells the samples apart.
        seen = [x[:, 0] for x, _ in loader]
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:10])
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(trainer.source.x[:, 0].tolist())
    assert not torch.equal(first, second)


def test_training_leaves_the_global_random_state_alone():
    trainer = make()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trainer.run(progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_training_stays_finite(device):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(3, width=16), SDES["ddpm"]).to(device)
    trainer = Trainer(model, torch.randn(64, 3), Recipe(iterations=200, batch_size=16, bfloat16=True))
    trainer.run(progress=False)
    assert bool(weights(trainer.averaged).isfinite().all())
    assert weights(trainer.averaged).dtype == torch.float32


def test_conditions_must_follow_the_data():
    with pytest.raises(ValueError, match="label has 3 entries for 5 samples"):
        Trainer(ss.ScoreModel(networks.MLP(2), SDES["ddpm"]), torch.zeros(5, 2), Recipe(), cond={"label": torch.zeros(3)})


def test_a_gradient_that_is_not_finite_does_not_reach_the_checkpoint(tmp_path):
    trainer = make(tmp_path, iterations=8)

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.inf

    inner = trainer.model.network.forward
    trainer.model.network.forward = lambda z, t, **cond: (
        inner(z, t, **cond) if trainer.iteration < 5 else Spike.apply(inner(z, t, **cond))
    )
    with pytest.raises(FloatingPointError, match=r"the gradient is (nan|inf) at iteration 5, from samples at t = \["):
        trainer.run(progress=False)
    state, about = read_checkpoint(tmp_path / CHECKPOINT)
    assert about["iteration"] == 4
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_other_data_or_another_recipe_do_not_go_on_from_a_checkpoint(tmp_path):
    make(tmp_path).run(progress=False)
    with pytest.raises(ValueError, match="its recipe is"):
        make(tmp_path, learning_rate=0.5)
    trainer = make()
    with pytest.raises(ValueError, match="its data is"):
        Trainer(trainer.model, trainer.source.x + 1, trainer.recipe, cond=trainer.source.cond, folder=tmp_path)


def test_the_networks_own_randomness_is_not_that_of_the_times():
    drawn, times = [], []
    trainer = make()

    class Draws(torch.nn.Module):
        def forward(self, z, index, label):
            drawn.append(torch.rand(len(z), dtype=torch.float64))
            times.append((index.double() + 1) / 1000)
            return z

    trainer.model.network = Draws()
    trainer._step_of.optimizer.zero_grad = lambda **_: None
    for trainer.iteration in range(3):
        with pytest.raises(RuntimeError):  # nothing to learn in this network
            trainer._step()
    # Times are multiples of 1/1000: equal streams would be within that of each other in every sample.
    for a, b in zip(drawn, times, strict=True):
        assert float((a - b).abs().max()) > 0.01
