"""Samples in a folder: equal to the bit for every number of processes, and after a process was killed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import scoresde as ss
from scoresde import guidance, sampling
from scoresde.sampling.chunk_files import from_bytes, to_bytes
from scoresde.sampling.chunks import _place

from ..conftest import SDES, mixture
from .draw import EVENT, by_seed, draw, make_model

ROOT = Path(__file__).parents[2]


def start(folder, *options, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.scale.draw", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in environment.items()}},
        stdout=subprocess.PIPE,
        text=True,
    )


def together(folder):
    """All samples and seeds of a folder."""
    return sampling.Samples(*(torch.cat(column) for column in zip(*ss.read_samples(folder), strict=True)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """64 samples of one process."""
    folder = tmp_path_factory.mktemp("alone")
    draw(folder)
    return folder


def test_the_samples_are_those_of_the_seeds(alone):
    x, seeds = together(alone)
    assert torch.equal(seeds, torch.arange(64))
    expected = ss.sample(make_model(), (64, *EVENT), "ancestral", steps=3, seeds=range(64), batch_size=8, **by_seed(seeds))
    assert torch.equal(x, expected)
    assert names(alone) == [*(f"{first:06d}.safetensors" for first in range(0, 64, 8)), "index.json"]


def arrays(path):
    return dict(np.load(path)) if path.suffix == ".npz" else load_file(path)


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_chunks_hold_the_labels(tmp_path, form):
    """Beside x and seeds. A folder of chunks without them, as version 0.1 wrote, is read and goes on."""
    draw(tmp_path, n=5, chunk=4, format=form)
    before = together(tmp_path)
    for first in (0, 4):
        found = arrays(tmp_path / f"{first:06d}.{form}")
        assert set(found) == {"x", "seeds", "label"}
        np.testing.assert_array_equal(found["label"], found["seeds"] % 3)
    old = tmp_path / f"000000.{form}"
    x, seeds = (found[name] for found in [arrays(old)] for name in ("x", "seeds"))
    np.savez(old, x=x, seeds=seeds) if form == "npz" else save_file({"x": x, "seeds": seeds}, old)
    assert torch.equal(together(tmp_path).x, before.x)
    assert draw(tmp_path, n=8, chunk=4, format=form).drawn == 4
    assert set(arrays(old)) == {"x", "seeds"}


def test_chunks_have_no_labels_of_samples_without_a_class(tmp_path):
    model = mixture().model(SDES["linear"])
    ss.sample_to(tmp_path, model, 2, (2,), "ddim", steps=2)
    assert set(load_file(tmp_path / "000000.safetensors")) == {"x", "seeds"}


def test_two_processes_are_one(alone, tmp_path):
    """Both at once, and a number of chunks that two do not divide."""
    pair = [start(tmp_path / "a", "n=60", RANK=rank, WORLD_SIZE=2) for rank in range(2)]
    said = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert ("drawn=32" in said[0], "drawn=28" in said[1]) == (True, True)
    assert torch.equal(together(tmp_path / "a").x, together(alone).x[:60])
    assert not list((tmp_path / "a").glob("*.partial"))


def test_a_killed_process_is_started_once_more(alone, tmp_path):
    killed = start(tmp_path, RANK=1, WORLD_SIZE=2, DIE=2)
    killed.communicate()
    assert killed.returncode == 9
    assert names(tmp_path) == ["000008.safetensors", "000024.safetensors", "000040.safetensors.partial", "index.json"]
    before = (tmp_path / "000024.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"misses 6 of 8 chunks, the first at seed 0"):
        ss.read_samples(tmp_path)
    # With another number of processes than before.
    results = [draw(tmp_path, rank=rank, world=3) for rank in (2, 0, 1)]
    assert [result.missing for result in results] == [4, 2, 0]
    assert (sum(result.drawn for result in results), sum(result.found for result in results)) == (48, 16)
    assert (tmp_path / "000024.safetensors").stat().st_mtime_ns == before
    assert torch.equal(together(tmp_path).x, together(alone).x)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("chunk", "batch_size"), [(5, 1), (16, 4)])
def test_other_chunks_hold_the_same_samples(chunk, batch_size, tmp_path):
    """With whole batches the network's kernels are the same; without them they may round in another way."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    draw(one, n=18, batch_size=batch_size)
    draw(two, n=18, batch_size=batch_size, chunk=chunk)
    assert torch.equal(together(one).x, together(two).x)
    draw(three, n=18, chunk=chunk)
    scale = float(together(one).x.abs().max())
    torch.testing.assert_close(together(three).x, together(one).x, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("solver", ["ancestral", "adaptive", "gotta-go-fast"])
def test_noise_is_equal_to_the_bit_in_other_chunks(solver, tmp_path):
    """An exact model has the same kernels for every batch; a solver may choose its steps for each sample."""
    model = mixture().model(SDES["linear"])
    steps = 5 if solver == "ancestral" else None
    drawn = []
    for chunk in (2, 6):
        ss.sample_to(tmp_path / str(chunk), model, 6, (2,), solver, steps=steps, chunk=chunk, dtype=torch.float64)
        drawn.append(together(tmp_path / str(chunk)).x)
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-12, atol=1e-12)
    assert drawn[0].std() > 0.1


def test_a_set_grows(alone, tmp_path):
    """The last chunk was short and is filled up."""
    draw(tmp_path, n=11, batch_size=8)
    assert len(together(tmp_path).x) == 11
    assert draw(tmp_path, n=64, batch_size=8) == (tmp_path, 56, 8, 0)
    assert torch.equal(together(tmp_path).x, together(alone).x)
    # A smaller number finds all it asks for, and the set stays.
    assert draw(tmp_path, n=11, batch_size=8) == (tmp_path, 0, 11, 0)
    assert len(together(tmp_path).x) == 64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "ddim"}, "solver ancestral there and ddim here"),
        ({"steps": 4}, "times .* there and .* here; steps 3 there and 4 here"),
        ({"grid": torch.tensor([1.0, 0.8, 0.5, 0.0])}, "times"),
        ({"chunk": 16}, "chunk 8 there and 16 here"),
        ({"first_seed": 8}, "first_seed 0 there and 8 here"),
        ({"dtype": torch.float64}, r"dtype torch\.float32 there and torch\.float64 here"),
        ({"cond": lambda seeds: {"label": seeds % 2}}, "other conditions"),
        ({"cond": lambda seeds: {"label": 0 * seeds}}, "other conditions"),
        ({"format": "npz"}, "files safetensors there and npz here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused(alone, options, said):
    before = names(alone)
    with pytest.raises(ValueError, match=rf"holds samples of other settings: {said}.*Take another folder"):
        draw(alone, **options)
    assert names(alone) == before


def test_other_models_are_refused(alone):
    """Other weights, another process, and another weight of guidance around the same network."""
    options = {"steps": 3, "chunk": 8, "cond": by_seed}
    with pytest.raises(ValueError, match="other weights"):
        ss.sample_to(alone, make_model(seed=1), 64, EVENT, "ancestral", **options)
    cosine = ss.ScoreModel(make_model().network, ss.VPSDE.cosine(), "noise")
    with pytest.raises(ValueError, match="other process"):
        ss.sample_to(alone, cosine, 64, EVENT, "ancestral", **options)
    guided = [guidance.Guided(make_model(), weight, uncond={"label": torch.tensor(0)}) for weight in (2.0, 3.0)]
    folder = alone / "guided"
    ss.sample_to(folder, guided[0], 2, EVENT, "ddim", **options)
    for model in (guided[1], make_model()):
        with pytest.raises(ValueError, match=r"settings: another model or guidance. Take another folder"):
            ss.sample_to(folder, model, 2, EVENT, "ddim", **options)


def test_the_last_digits_of_coefficients_may_differ(tmp_path):
    """Machines of other kinds round their schedules in another way."""
    draw(tmp_path, n=8)
    index = json.loads((tmp_path / "index.json").read_text())
    for change, refused in ((1e-14, False), (1e-6, True)):
        index["process"]["coefficients"][0][5] *= 1 + change
        (tmp_path / "index.json").write_text(json.dumps(index))
        if refused:
            with pytest.raises(ValueError, match="other process"):
                draw(tmp_path, n=8)
        else:
            assert draw(tmp_path, n=8).found == 8


def test_the_network_sees_whole_batches(tmp_path):
    """Also in the last chunk, which is short, and where a dict has no rows for the seeds beyond."""
    model, sizes = make_model(), []
    model.network.register_forward_hook(lambda network, inputs, output: sizes.append(len(output)))
    rows = {"label": torch.arange(11) % 3}
    ss.sample_to(tmp_path / "whole", model, 11, EVENT, "ddim", steps=1, chunk=8, batch_size=4, cond=rows)
    assert sizes == [4, 4, 4]
    sizes.clear()
    ss.sample_to(tmp_path / "short", model, 11, EVENT, "ddim", steps=1, chunk=8, cond=rows)
    assert sizes == [8, 3]


def test_what_killed_processes_left_is_removed_with_the_last_chunk(tmp_path):
    """A part of the index, and a folder of images."""
    draw(tmp_path, n=16, rank=0, world=2)
    (tmp_path / "index.json.0a1b.partial").write_text("{")
    (tmp_path / "000008.partial").mkdir()
    (tmp_path / "000008.partial" / "000008.png").write_bytes(b"")
    draw(tmp_path, n=16, rank=0, world=2)
    assert len(list(tmp_path.glob("*.partial"))) == 2  # another process may be at work
    draw(tmp_path, n=16, rank=1, world=2)
    assert not list(tmp_path.glob("*.partial"))


def test_conditions_of_a_dict_are_rows_of_the_samples(tmp_path):
    rows = {"label": torch.arange(5, 16) % 3}
    draw(tmp_path / "a", n=11, first_seed=5, cond=rows, batch_size=8)
    draw(tmp_path / "b", n=11, first_seed=5, batch_size=8)
    assert torch.equal(together(tmp_path / "a").x, together(tmp_path / "b").x)
    assert torch.equal(together(tmp_path / "a").seeds, torch.arange(5, 16))
    draw(tmp_path / "c", n=11, first_seed=5, cond={"label": torch.zeros(11, dtype=torch.long)}, batch_size=8)
    assert not torch.equal(together(tmp_path / "a").x, together(tmp_path / "c").x)


@pytest.mark.parametrize("format", ["npz", "png"])
def test_other_formats_hold_the_samples(alone, format, tmp_path):
    draw(tmp_path, n=11, format=format)
    found, expected = together(tmp_path), together(alone).x[:11]
    torch.testing.assert_close(found.x[:8], expected[:8] if format == "npz" else from_bytes(to_bytes(expected[:8])), rtol=0, atol=0)
    assert torch.equal(found.seeds, torch.arange(11))
    draw(tmp_path, n=16, format=format)
    assert together(tmp_path).seeds.tolist() == list(range(16))
    assert names(tmp_path) == [f"{first:06d}{'.npz' if format == 'npz' else ''}" for first in (0, 8)] + ["index.json"]
    if format == "png":
        from PIL import Image

        assert np.array(Image.open(tmp_path / "000008" / "000009.png")).tolist() == to_bytes(together(tmp_path).x[9, 0]).tolist()
        with pytest.raises(ValueError, match='format="png" holds images'):
            ss.sample_to(tmp_path, make_model("mlp"), 4, (2,), "ddim", steps=2, format="png")


def test_bytes_of_images():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(bytes_)), bytes_)
    assert to_bytes(torch.tensor([-3.0, -1.0, 0.001, 1.0, 9.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": 3, "WORLD_SIZE": 8}, (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": 7, "SLURM_ARRAY_TASK_MIN": 5, "SLURM_ARRAY_TASK_COUNT": 4}, (2, 4)),
        ({"SLURM_ARRAY_TASK_ID": 9, "SLURM_ARRAY_TASK_MIN": 5, "SLURM_ARRAY_TASK_COUNT": 4, "SLURM_ARRAY_TASK_STEP": 2}, (2, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": 1, "SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_COUNT": 2, "RANK": 1, "WORLD_SIZE": 4},
            (5, 8),
        ),
    ],
)
def test_the_place_of_a_process_is_that_of_its_launcher(environment, place, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", *(f"SLURM_ARRAY_TASK_{key}" for key in ("ID", "MIN", "COUNT", "STEP"))):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    assert _place(None, None) == place


def test_wrong_arguments(tmp_path):
    for options, said in (
        ({"rank": 2, "world": 2}, "rank 2 is not among the 2 processes"),
        ({"rank": 0}, "rank= and world= together"),
        ({"chunk": 0}, "chunk"),
        ({"n": 0}, "n must"),
        ({"format": "jpg"}, "format must be one of safetensors, npz, png"),
        ({"solver": "auto"}, "the solver 'auto' needs nfe="),
    ):
        with pytest.raises(ValueError, match=said):
            draw(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
    with pytest.raises(FileNotFoundError, match="holds no samples"):
        ss.read_samples(tmp_path)


def test_a_damaged_chunk_is_named(tmp_path):
    draw(tmp_path, n=16)
    (tmp_path / "000008.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"000008\.safetensors"):
        ss.read_samples(tmp_path)


def test_the_command_fills_a_folder(tmp_path, monkeypatch):
    """Two processes of the command draw what one call of the library does, with labels in turn."""
    from typer.testing import CliRunner

    from scoresde.cli import app
    from scoresde.train import Experiment

    def scoresde(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    run, out = tmp_path / "run", tmp_path / "samples"
    scoresde(
        "train", "digits", "--out", run, "--conditional", "--iterations", 2, "--batch-size", 8, "--width", 8, "--device", "cpu"
    )
    command = [
        "sample",
        run,
        "--n",
        11,
        "--out",
        out,
        "--chunk",
        4,
        "--nfe",
        3,
        "--solver",
        "ddim",
        "--format",
        "safetensors",
        "--device",
        "cpu",
    ]
    for rank, said in (
        (1, r"4 samples of ddim \(grid \w+\), 3 network calls; 2 chunks of the set are missing"),
        (0, "7 samples of ddim"),
    ):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert re.search(said, scoresde(*command))
    model = Experiment.read(run).load_model(run, "cpu")
    expected = ss.sample(model, (11, 1, 8, 8), "ddim", nfe=3, seeds=range(11), batch_size=4, label=torch.arange(11) % 10)
    assert torch.equal(together(out).x, expected)
    assert "0 samples of ddim (grid" in (said := scoresde(*command))
    assert "7 were there" in said
