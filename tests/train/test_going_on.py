"""A run goes on from its own checkpoint and from no other; the checkpoint survives what happens to processes, disks and wrappers."""

import json
import math
import multiprocessing
import os
import resource
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

import scoresde as ss
from scoresde import losses, networks
from scoresde.numerics import files
from scoresde.train import Experiment, Recipe, Trainer, load_averaged
from scoresde.train.checkpoint import CHECKPOINT, read_checkpoint

CHAIN = ss.VPSDE.cosine(100)
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def network(**options):
    torch.manual_seed(0)
    return networks.MLP(2, 16, **options)


def trainer(folder, model=None, x=X, cond=None, **recipe):
    model = ss.ScoreModel(network(), CHAIN) if model is None else model
    return Trainer(model, x, Recipe(**{"iterations": 4, "batch_size": 8, "save_every": 2, **recipe}), cond=cond, folder=folder)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


OTHER_RUNS = {
    "prediction": lambda: {"model": ss.ScoreModel(network(), CHAIN, "velocity")},
    "sde": lambda: {"model": ss.ScoreModel(network(), ss.VPSDE(), time=lambda sde, t: 100 * t - 1)},
    "sde ": lambda: {"model": ss.ScoreModel(network(), ss.VPSDE.cosine(99))},
    "time convention": lambda: {"model": ss.ScoreModel(network(), CHAIN, time="t")},
    "network": lambda: {"model": ss.ScoreModel(network().bfloat16(), CHAIN)},
    "recipe": lambda: {"ema": 0.5},
    "data": lambda: {"x": X + 1},
    "conditions": lambda: {"model": ss.ScoreModel(network(classes=2), CHAIN), "cond": {"label": torch.ones(40).long()}},
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_another_run_does_not_go_on(tmp_path, what):
    first = (
        {"model": ss.ScoreModel(network(classes=2), CHAIN), "cond": {"label": torch.zeros(40).long()}}
        if what == "conditions"
        else {}
    )
    trainer(tmp_path, **first).run(progress=False)
    other = OTHER_RUNS[what]()
    before = weights(other["model"]) if "model" in other else None
    with pytest.raises(ValueError, match=rf"{CHECKPOINT} is of another training run: its {what.strip()} is "):
        trainer(tmp_path, **other)
    assert before is None or torch.equal(weights(other["model"]), before)
    with pytest.raises(ValueError, match=r"is of another network: network\.enter\.weight has shape"):
        trainer(tmp_path, ss.ScoreModel(networks.MLP(2, 16, layers=1).__class__(3, 16), CHAIN))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"weighting": losses.min_snr(3.0)}, {"weighting": losses.min_snr(4.0)}),
        ({"weighting": lambda sde, t: t}, {"weighting": lambda sde, t: 2 * t}),
        ({"time_sampler": losses.LogNormal(0.0, 1.0)}, {"time_sampler": losses.LogNormal(0.0, 2.0)}),
        ({"time_sampler": losses.times.uniform}, {"time_sampler": losses.times.stratified}),
    ],
)
def test_functions_in_a_recipe_are_known_by_their_numbers(tmp_path, one, other):
    trainer(tmp_path, **one).run(progress=False)
    assert trainer(tmp_path, **one).iteration == 4
    with pytest.raises(ValueError, match=r"its (recipe|time sampler or weighting) is"):
        trainer(tmp_path, **other)


def test_a_loss_with_a_memory_of_its_own_cannot_go_on(tmp_path):
    calls = []
    recipe = {"time_sampler": lambda sde, n, generator: calls.append(0) or torch.full((n,), 1 / len(calls), dtype=torch.float64)}
    trainer(None, **recipe).run(progress=False)
    with pytest.raises(ValueError, match="must depend on the seed"):
        trainer(tmp_path, **recipe)


class Locked:
    """A time sampler that cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, sde, n, generator):
        with self.lock:
            return losses.times.uniform(sde, n, generator)


def test_a_time_sampler_need_not_be_copied(tmp_path):
    trainer(tmp_path, time_sampler=Locked()).run(progress=False)
    with pytest.raises(ValueError, match=r"its recipe is another \(seed: 0 there, 3 here\)"):
        trainer(tmp_path, time_sampler=Locked(), seed=3)


def test_names_that_only_wrappers_tell_apart_are_not_mixed_up(tmp_path):
    class Nested(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.enter = network(), torch.nn.Linear(2, 2)

        def forward(self, z, t):
            return self.module(self.enter(z), t)

    trained = trainer(tmp_path, ss.ScoreModel(Nested(), CHAIN)).run(progress=False)
    same = load_averaged(tmp_path / CHECKPOINT, ss.ScoreModel(Nested(), CHAIN))
    assert torch.equal(weights(same), weights(trained))
    with pytest.raises(ValueError, match="differ in the names of wrappers alone"):
        load_averaged(tmp_path / CHECKPOINT, ss.ScoreModel(torch.nn.DataParallel(Nested()), CHAIN))


def as_old(path):
    """A checkpoint as version 0.1 wrote it."""
    tensors, about = read_checkpoint(path)
    old = {key: about[key] for key in ("iteration", "history", "recipe", "data")}
    save_file(tensors, path, {"json": json.dumps(old)})


def test_checkpoints_of_older_versions_go_on(tmp_path):
    stopped = trainer(tmp_path, iterations=6)
    step = stopped._step
    stopped._step = lambda: step() if stopped.iteration < 4 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        stopped.run(progress=False)
    as_old(tmp_path / CHECKPOINT)
    whole, resumed = trainer(None, iterations=6), trainer(tmp_path, iterations=6)
    assert resumed.iteration == 4
    assert torch.equal(weights(resumed.run(progress=False)), weights(whole.run(progress=False)))
    load_averaged(tmp_path / CHECKPOINT, ss.ScoreModel(network(), CHAIN))


def test_the_history_does_not_show_where_a_run_was_interrupted(tmp_path):
    options = {"iterations": 10, "validate_every": 5, "save_every": 4}
    whole, stopped = trainer(None, **options), trainer(tmp_path, **options)
    whole.run(progress=False)
    step = stopped._step
    stopped._step = lambda: step() if stopped.iteration < 7 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        stopped.run(progress=False)
    resumed = trainer(tmp_path, **options)
    assert resumed.iteration == 4
    resumed.run(progress=False)
    assert resumed.history == whole.history


class Around(torch.nn.Module):
    """A wrapper as those of torch, with its own name for what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        return self.module(*inputs)


WRAPPERS = {
    "plain": lambda n: n,
    "compiled": lambda n: torch.compile(n, backend="eager"),
    "parallel": torch.nn.DataParallel,
    "both": lambda n: torch.nn.DataParallel(torch.compile(n, backend="eager")),
    "around": Around,
}


@pytest.mark.parametrize("there", WRAPPERS)
@pytest.mark.parametrize("here", WRAPPERS)
def test_wrappers_make_no_difference_to_a_checkpoint(tmp_path, here, there):
    trained = trainer(tmp_path, ss.ScoreModel(WRAPPERS[there](network()), CHAIN)).run(progress=False)
    other = ss.ScoreModel(WRAPPERS[here](networks.MLP(2, 16)), CHAIN)
    assert torch.equal(weights(load_averaged(tmp_path / CHECKPOINT, other)), weights(trained))
    assert trainer(tmp_path, ss.ScoreModel(WRAPPERS[here](network()), CHAIN)).iteration == 4


def test_weights_are_loaded_for_what_they_were_trained_for(tmp_path):
    trainer(tmp_path).run(progress=False)
    for other, said in (
        (ss.ScoreModel(network(), CHAIN, "velocity"), "its prediction is noise, here velocity"),
        (ss.ScoreModel(network(), ss.VESDE()), "its sde is"),
        (ss.ScoreModel(networks.MLP(2, 8), CHAIN), r"another network: network\.\S+ has shape \(16, 16\) there and \(8, 8\) here"),
        (ss.ScoreModel(networks.MLP(2, 16, layers=4), CHAIN), "has shape none there"),
        (ss.ScoreModel(networks.MLP(2, 16, layers=2), CHAIN), "and none here"),
    ):
        before = weights(other)
        with pytest.raises(ValueError, match=said):
            load_averaged(tmp_path / CHECKPOINT, other)
        assert torch.equal(weights(other), before)


def damaged(path, harm):
    raw, (tensors, about) = path.read_bytes(), read_checkpoint(path)
    if harm == "cut":
        path.write_bytes(raw[:3000])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "foreign":
        save_file({"a": torch.zeros(2)}, path, {"format": "pt"})
    elif harm == "deep":
        save_file(tensors, path, {"json": "[" * 100_000})
    elif harm == "list":
        save_file(tensors, path, {"json": "[]"})
    elif harm == "no iteration":
        save_file(tensors, path, {"json": json.dumps({k: v for k, v in about.items() if k != "iteration"})})
    elif harm == "moments":
        tensors["optimizer/0/exp_avg"] = torch.zeros(3)
        save_file(tensors, path, {"json": json.dumps(about)})
    elif harm == "another weight":
        tensors["optimizer/99/exp_avg"] = torch.zeros(3)
        save_file(tensors, path, {"json": json.dumps(about)})
    else:
        del tensors[next(key for key in tensors if key.startswith(harm))]
        save_file(tensors, path, {"json": json.dumps(about)})


@pytest.mark.parametrize(
    "harm", ["cut", "empty", "foreign", "deep", "list", "no iteration", "moments", "another weight", "model/", "average/network"]
)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path, harm):
    trainer(tmp_path).run(progress=False)
    if harm == "average/network":
        harm = "average/module.network"
    damaged(tmp_path / CHECKPOINT, harm)
    model = ss.ScoreModel(network(), CHAIN)
    before = weights(model)
    with pytest.raises(ValueError, match=CHECKPOINT):
        trainer(tmp_path, model)
    assert torch.equal(weights(model), before)
    if harm in ("cut", "empty", "foreign", "deep", "list", "average/module.network"):
        with pytest.raises(ValueError, match=CHECKPOINT):
            load_averaged(tmp_path / CHECKPOINT, model)


def train(folder, ema, results):
    torch.set_num_threads(1)
    try:
        trainer(folder, iterations=60, save_every=1, ema=ema).run(progress=False)
        results.put("finished")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("emas", [(0.9, 0.9, 0.9), (0.9, 0.5)], ids=["the same run", "two runs"])
def test_processes_in_one_folder(tmp_path, emas):
    """The same run ends in the same file, whoever writes last; of two runs one goes on."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    jobs = [context.Process(target=train, args=(tmp_path, ema, results)) for ema in emas]
    for job in jobs:
        job.start()
    got = sorted(results.get(timeout=100) for _ in jobs)
    for job in jobs:
        job.join()
    if len(set(emas)) == 1:
        assert got == ["finished"] * len(emas)
        assert sorted(os.listdir(tmp_path)) == [CHECKPOINT, "history.jsonl"]
        assert trainer(tmp_path, iterations=60, save_every=1, ema=0.9).iteration == 60
    else:
        assert got[0].startswith("ValueError")
        assert "is of another training run: its recipe is" in got[0]
        assert got[1] == "finished"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, {"a": torch.zeros(3)}, {"n": 1}, "json")
    good = path.read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match=r"x\.safetensors|too large"):
            files.write_tensors(path, {"a": torch.zeros(3000)}, {}, "json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == good
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)  # or the process is stopped just before
    with pytest.raises(ZeroDivisionError):
        files.write_tensors(path, {"a": torch.zeros(3)}, {}, "json")
    assert path.read_bytes() == good
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_checkpoint_can_be_read_by_whom_the_umask_allows(tmp_path, mask):
    before = os.umask(mask)
    try:
        trainer(tmp_path, iterations=2).run(progress=False)
    finally:
        os.umask(before)
    assert (tmp_path / CHECKPOINT).stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    made = trainer(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="file"):
        made.run(progress=False)
    assert made.iteration == 0


def test_a_damaged_file_is_written_over_by_the_run_that_goes_on(tmp_path):
    made = trainer(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"cut")
    made.run(progress=False)
    assert trainer(tmp_path).iteration == 4
    assert "optimizer/0/exp_avg" in load_file(tmp_path / CHECKPOINT)


def test_a_damaged_run_is_named(tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", X.numpy())
    run = Experiment(str(tmp_path / "x.npy"), held_out=8, width=8, recipe=Recipe(iterations=2, batch_size=8))
    run.train(tmp_path / "run", torch.device("cpu"), progress=False)
    config = tmp_path / "run" / "config.json"
    good = config.read_text()
    assert Experiment.read(tmp_path / "run").recipe == run.recipe
    for text in (
        "", "null", "[]", "{", "[" * 100_000, "\0", '{"a": 1}', good.replace('"warmup"', '"warm_up"'),
        good.replace('"width": 8', '"width": null'),
        good.replace('"recipe": {', '"recipe": [], "x": {'), good.replace('"steps": 1000', '"steps": "many"'),
    ):  # fmt: skip
        config.write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            Experiment.read(tmp_path / "run")
    config.write_bytes(b"\xff\xfe")
    for call in (
        lambda: Experiment.read(tmp_path / "run"),
        lambda: run.train(tmp_path / "run", torch.device("cpu"), progress=False),
    ):
        with pytest.raises(ValueError, match=r"config\.json"):
            call()
    config.write_text(good.replace('"width": 8', '"width": 16'))
    with pytest.raises(ValueError, match="width: 16 there, 8 here"):
        run.train(tmp_path / "run", torch.device("cpu"), progress=False)
    assert math.isfinite(read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["history"][0]["loss"])
