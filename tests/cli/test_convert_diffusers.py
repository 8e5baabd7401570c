"""Folders of diffusers on the command line, with and without the clipping of their scheduler."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde.cli import app
from scoresde.cli.commands import check
from scoresde.diagnostics.verdict import Check
from scoresde.train import Experiment

run = CliRunner()


def invoke(*arguments):
    return run.invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A folder of diffusers, with what is in it: an untrained network of images of 8 x 8 and a scheduler that clips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        folder = tmp_path_factory.mktemp("pipe")
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip
        unet.save_pretrained(folder / "unet")
        scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        scheduler.save_pretrained(folder / "scheduler")
        yield SimpleNamespace(folder=folder, unet=unet, scheduler=scheduler)


@pytest.fixture(scope="module", params=[False, True])
def converted(pipe, tmp_path_factory, request):
    """The folder of a conversion, and the model that it holds."""
    out = tmp_path_factory.mktemp("converted")
    said = invoke("convert", pipe.folder, out, "--clip" if request.param else "--no-clip", "--data", "digits")
    assert "(1, 8, 8)" in said.stdout
    assert "from_diffusers: DDPMScheduler: VPChain" in said.stderr
    return SimpleNamespace(folder=out, model=ss.interop.diffusers.from_diffusers(pipe.unet, pipe.scheduler, clip=request.param))


def test_a_scheduler_that_clips_needs_a_word(pipe, tmp_path):
    with pytest.raises(ValueError, match=r"clip_sample=True.*give --no-clip to"):
        invoke("convert", pipe.folder, tmp_path)


def test_samples_are_those_of_the_model(converted, tmp_path):
    result = invoke("sample", converted.folder, "--out", tmp_path / "x.npy", "-n", 3, "--nfe", 3)
    expected = ss.sample(converted.model, (3, 1, 8, 8), nfe=3, seeds=range(3))
    torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), expected, rtol=1e-4, atol=1e-4)
    # What was read is said once, by convert.
    assert result.stderr == ""


def test_compare(converted, tmp_path):
    few = ["--samples", 2, "--no-curves", "--solver", "ddim:2"]
    compared = invoke("compare", converted.folder, *few, "--out", tmp_path / "report")
    assert re.search(r"ddim +\| +2 \| +2 \|", compared.output)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "UNet2DModel, " in page


def test_check_gets_the_network_and_the_data(converted, monkeypatch):
    def watched(model, x, _generator):
        assert type(model) is ss.ScoreModel
        assert torch.equal(x, held_out.x[:64])
        return Check((), (), (), None)

    _, held_out = Experiment("digits", held_out=200).load_data()
    monkeypatch.setattr(check, "check_model", watched)
    assert invoke("check", converted.folder, "--samples", 64).exit_code == 0


def test_networks_of_diffusers_with_conditions_are_refused(tmp_path):
    for name, text in (("unet/config.json", "UNet2DConditionModel"), ("scheduler/scheduler_config.json", "DDPMScheduler")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f'{{"_class_name": "{text}"}}')
    with pytest.raises(ValueError, match="is a UNet2DConditionModel: only a UNet2DModel"):
        invoke("convert", tmp_path, tmp_path / "out")
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*scheduler_config.json"):
        invoke("convert", tmp_path, tmp_path / "out")
