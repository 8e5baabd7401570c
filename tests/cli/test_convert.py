"""`scoresde convert`: what it makes is taken in place of a RUN, and samples are those of the model that came in."""

import re
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import scoresde as ss
from scoresde import networks
from scoresde.cli import app
from scoresde.cli.own_network import own_network
from scoresde.cli.report import paired
from scoresde.sharing.pretrained import WEIGHTS
from scoresde.train import Experiment

run = CliRunner()
TRAIN = ["--iterations", "2", "--batch-size", "8", "--width", "8", "--held-out", "20", "--device", "cpu"]


def invoke(*arguments):
    return run.invoke(app, list(map(str, arguments)), catch_exceptions=False)


def samples(folder, tmp_path):
    invoke("sample", folder, "--out", tmp_path / "x.npy", "-n", 3, "--nfe", 3)
    return torch.tensor(np.load(tmp_path / "x.npy"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert invoke("train", "digits", "--out", folder, "--conditional", *TRAIN).exit_code == 0
    return folder


def test_a_run_and_its_data(trained, tmp_path):
    out = tmp_path / "shared"
    assert "(1, 8, 8)" in invoke("convert", trained, out).output
    torch.testing.assert_close(samples(out, tmp_path), samples(trained, tmp_path))
    result = invoke("compare", out, "--samples", 4, "--no-curves", "--solver", "ddim:2", "--out", tmp_path / "report")
    assert "ddim" in result.output
    assert f"Converted from `{trained}`: VPChain" in (tmp_path / "report" / "report.md").read_text()
    # The labels of the classes in turn reach the network.
    model = Experiment.read(trained).load_model(trained, torch.device("cpu"))
    expected = ss.sample(model, (3, 1, 8, 8), nfe=3, seeds=range(3), label=torch.arange(3))
    torch.testing.assert_close(samples(out, tmp_path), expected, rtol=0, atol=1e-5)


def test_a_file_that_describes_itself(trained, tmp_path):
    invoke("convert", trained, tmp_path / "shared")
    with pytest.raises(ValueError, match=r"--shape: .* does not say the shape"):
        invoke("convert", tmp_path / "shared" / WEIGHTS, tmp_path / "other")
    invoke("convert", tmp_path / "shared" / WEIGHTS, tmp_path / "other", "--shape", "1,8,8")
    torch.testing.assert_close(samples(tmp_path / "other", tmp_path), samples(trained, tmp_path))
    with pytest.raises(ValueError, match=r"comes without data: .* --data"):
        invoke("compare", tmp_path / "other", "--samples", 4, "--solver", "ddim:2")


def test_weights_alone_with_a_run_like_them(trained, tmp_path):
    model = Experiment.read(trained).load_model(trained, torch.device("cpu"))
    save_file(model.network.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"--like: .* holds weights alone"):
        invoke("convert", tmp_path / "weights.safetensors", tmp_path / "out")
    invoke("convert", tmp_path / "weights.safetensors", tmp_path / "out", "--like", trained)
    torch.testing.assert_close(samples(tmp_path / "out", tmp_path), samples(trained, tmp_path))
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"--like .* has not the weights of"):
        invoke("convert", tmp_path / "weights.safetensors", tmp_path / "other", "--like", trained)


def test_a_folder_of_save_pretrained_is_taken_as_it_is(tmp_path):
    model = ss.ScoreModel(networks.MLP(2, 8), ss.EDM(), "data").eval()
    ss.save_pretrained(model, tmp_path / "own")
    expected = ss.sample(model, (3, 2), nfe=3, seeds=range(3))
    torch.testing.assert_close(samples(tmp_path / "own", tmp_path), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"--average-length: .* is no training run"):
        invoke("sample", tmp_path / "own", "--average-length", 0.1)
    ss.save_pretrained(ss.ScoreModel(networks.UNet(1, 8), ss.EDM(), "data"), tmp_path / "shapeless")
    with pytest.raises(ValueError, match=r"has no shape of a sample: scoresde convert .* --shape"):
        invoke("sample", tmp_path / "shapeless")


def test_a_solver_of_such_a_model_is_audited_on_its_process(trained, tmp_path):
    invoke("convert", trained, tmp_path / "shared")
    fitted, few = tmp_path / "f.safetensors", ["--nfe", 3, "--trajectories", 8, "--refine", 0, "--teacher-steps", 64]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        invoke("fit", tmp_path / "shared", *few, "--out", fitted)
    audited = [invoke("audit", fitted, "--run", folder) for folder in (trained, tmp_path / "shared")]
    assert audited[0].output == audited[1].output != ""


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder of diffusers"):
        invoke("convert", tmp_path, tmp_path / "out")


NETS = """
import torch


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, z, t):
        return self.layer(torch.cat([z, t[:, None]], 1))


class Labelled(Small):
    classes, null = 2, 2

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Embedding(3, 2)

    def forward(self, z, t, label):
        return super().forward(z, t) + self.shift(label)


def make_flow():
    from scoresde.interop import formats

    return formats.velocity(Small(), direction="noise_to_data")


number = 3
"""


def test_a_network_of_ones_own(tmp_path):
    """A folder of `save_pretrained` with a network that is not of this package is used by every command that is told where its class is."""
    (tmp_path / "my_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        model = ss.ScoreModel(own_network(f"{tmp_path / 'my_nets.py'}:Small"), ss.VPSDE()).eval()
        ss.save_pretrained(model, tmp_path / "own", event=(2,))
        said = r"its network is a my_nets.Small, which scoresde does not have: give --network FILE.py:NAME"
        with pytest.raises(ValueError, match=said):
            invoke("sample", tmp_path / "own")
        option = ["--network", tmp_path / "my_nets.py:Small"]
        invoke("sample", tmp_path / "own", *option, "--out", tmp_path / "x.npy", "-n", 3, "--nfe", 3)
        expected = ss.sample(model, (3, 2), nfe=3, seeds=range(3))
        torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), expected)
        few = ["--nfe", 3, "--trajectories", 8, "--refine", 0, "--teacher-steps", 64]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the error is .*: the true error may be another")
            assert invoke("fit", tmp_path / "own", *option, *few, "--out", tmp_path / "f.safetensors").exit_code == 0
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 2)))
        invoke("convert", tmp_path / "own", tmp_path / "with data", *option, "--data", tmp_path / "x.npy", "--held-out", 20)
        compared = invoke("compare", tmp_path / "with data", *option, "--samples", 4, "--solver", "ddim:2", "--no-curves")
        assert "ddim" in compared.output


@pytest.mark.parametrize(
    ("text", "said"),
    [("nets.py", "must be FILE.py:NAME"), ("none.py:Small", "there is no none.py"), ("my_nets.py:Large", "no attribute 'Large'"),
     ("my_nets.py:number", "TypeError: 'int' object is not callable"), ("builtins:dict", "must be a torch.nn.Module")],
)  # fmt: skip
def test_a_network_that_cannot_be_made_is_named(tmp_path, monkeypatch, text, said):
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match=re.escape(f"--network {text}: ") + f".*{re.escape(said)}"):
        own_network(text)


def test_a_training_run_has_its_own_network(trained):
    with pytest.raises(ValueError, match=r"--network: .* is a training run, which has its own network"):
        invoke("sample", trained, "--network", "x.py:y")


def test_a_shape_is_added_to_a_folder_that_has_none(tmp_path):
    model = ss.ScoreModel(networks.UNet(1, 8), ss.EDM(), "data").eval()
    ss.save_pretrained(model, tmp_path / "shapeless")
    with pytest.raises(
        ValueError, match=rf"has no shape of a sample: scoresde convert {tmp_path / 'shapeless'} OUT --shape 1,28,28"
    ):
        invoke("sample", tmp_path / "shapeless")
    invoke("convert", tmp_path / "shapeless", tmp_path / "shaped", "--shape", "1,8,8")
    torch.testing.assert_close(
        samples(tmp_path / "shaped", tmp_path), ss.sample(model, (3, 1, 8, 8), nfe=3, seeds=range(3)), rtol=0, atol=1e-4
    )


def test_guidance_reaches_fits_and_comparisons(tmp_path):
    """A fit with --guidance is one of the guided model: it is used without a warning there, and with one elsewhere."""
    few = ["--conditional", "--label-dropout", 0.2, *TRAIN]
    assert invoke("train", "digits", "--out", tmp_path / "run", *few).exit_code == 0
    solver = tmp_path / "guided.safetensors"
    fit = ["--nfe", 3, "--trajectories", 10, "--refine", 0, "--teacher-steps", 64]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the error is .*: the true error may be another")
        invoke("fit", tmp_path / "run", "--guidance", 2, "--out", solver, *fit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        invoke("sample", tmp_path / "run", "--guidance", 2, "--solver", solver, "-n", 3, "--out", tmp_path / "x.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = invoke("sample", tmp_path / "run", "--solver", solver, "-n", 3, "--out", tmp_path / "y.npy")
    assert "warning: fitted to another network or guidance" in result.output
    model = Experiment.read(tmp_path / "run").load_model(tmp_path / "run", torch.device("cpu"))
    guided = ss.guidance.Guided(model, 2.0)
    expected = ss.sample(guided, (3, 1, 8, 8), solver, seeds=range(3), label=torch.arange(3))
    torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), expected, rtol=0, atol=1e-5)
    options = ["--samples", 4, "--no-curves", "--solver", "ddim:2", "--solver", solver, "--out", tmp_path / "page"]
    result = invoke("compare", tmp_path / "run", "--guidance", 2, *options)
    assert "Each call of the model with --guidance 2 evaluates the network twice." in result.output
    _, held_out = Experiment.read(tmp_path / "run").load_data()
    cond = {"label": held_out.labels[:4]}
    fine = ss.sample(guided, (4, 1, 8, 8), "dpm++3m", steps=paired.FINE_STEPS, seeds=range(4), **cond)
    error = (ss.sample(guided, (4, 1, 8, 8), solver, seeds=range(4), **cond) - fine).square().mean().sqrt()
    assert f"{float(error):.3g}" in result.output


def test_a_score_model_stands_for_its_network_and_its_time(tmp_path, monkeypatch):
    """A flow the other way round has a time that is a function, which no file holds: the user's function makes the whole model."""
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = own_network(f"{tmp_path / 'my_nets.py'}:make_flow").eval()
    ss.save_pretrained(model, tmp_path / "flow", event=(2,))
    again = ss.from_pretrained(tmp_path / "flow", network=own_network(f"{tmp_path / 'my_nets.py'}:make_flow"))
    z = torch.randn(3, 2)
    assert torch.equal(again.velocity(z, 0.3), model.velocity(z, 0.3))
    for other, said in (
        (ss.ScoreModel(model.network, ss.VPSDE(), "velocity", time=model._network_time), "was made for a process with"),
        (
            ss.ScoreModel(model.network, ss.RectifiedFlow(), "data", time=model._network_time),
            "predicts 'velocity', and .* says 'data'",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            ss.from_pretrained(tmp_path / "flow", network=other)
    invoke(
        "sample",
        tmp_path / "flow",
        "--network",
        tmp_path / "my_nets.py:make_flow",
        "--out",
        tmp_path / "x.npy",
        "-n",
        3,
        "--nfe",
        3,
    )
    torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), ss.sample(model, (3, 2), nfe=3, seeds=range(3)))
    with pytest.raises(
        ValueError, match=r"takes as time a function, .*: give --network FILE.py:NAME, which makes .* a ScoreModel with its own"
    ):
        invoke("sample", tmp_path / "flow", "--network", tmp_path / "my_nets.py:Small")


def test_classes_of_a_network_of_ones_own(tmp_path, monkeypatch):
    """It takes label=, and says how many classes it has and which label means none."""
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    option = ["--network", tmp_path / "my_nets.py:Labelled", "-n", 4, "--nfe", 3, "--out", tmp_path / "x.npy"]
    model = ss.ScoreModel(own_network(f"{tmp_path / 'my_nets.py'}:Labelled"), ss.VPSDE.cosine(), "velocity").eval()
    ss.save_pretrained(model, tmp_path / "own", event=(2,))
    invoke("sample", tmp_path / "own", *option)  # the classes in turn
    expected = ss.sample(model, (4, 2), nfe=3, seeds=range(4), label=torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), expected)
    invoke("sample", tmp_path / "own", *option, "--label", 1, "--guidance", 2)
    guided = ss.guidance.Guided(model, 2.0, uncond={"label": torch.full((4,), 2)})
    expected = ss.sample(guided, (4, 2), nfe=3, seeds=range(4), label=torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(torch.tensor(np.load(tmp_path / "x.npy")), expected)
    small = ss.ScoreModel(own_network(f"{tmp_path / 'my_nets.py'}:Small"), ss.VPSDE.cosine(), "velocity").eval()
    ss.save_pretrained(small, tmp_path / "small", event=(2,))
    for wrong, said in (("--label", "takes no --label, or has no attribute classes"), ("--guidance", "has no attribute null")):
        with pytest.raises(ValueError, match=f"{wrong} 3: the network of .*{said}"):
            invoke("sample", tmp_path / "small", "--network", tmp_path / "my_nets.py:Small", wrong, 3)
