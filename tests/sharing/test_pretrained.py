"""A model in a folder: the same outputs to the bit, a card, nothing executed, and every damaged file refused by name."""

import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import types
from itertools import product

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import scoresde as ss
from scoresde import networks
from scoresde.models import thresholded
from scoresde.sharing import hub
from scoresde.sharing.pretrained import CARD, CONFIG, KEY, WEIGHTS

from ..conftest import SDES, generator, linear_betas, rotated

NETWORKS = {
    "mlp": (lambda: networks.MLP(3, width=8, layers=2), (3,), None),
    "mlp of an event": (lambda: networks.MLP((2, 3), width=8, layers=1, classes=4), (2, 3), 4),
    "unet": (lambda: networks.UNet(1, width=8, multipliers=(1, 2)), (1, 6, 6), None),
    "unet with everything": (
        lambda: networks.UNet(2, width=8, multipliers=(1,), blocks=2, attention=[0], heads=2, patch=2, classes=3),
        (2, 5, 5),
        3,
    ),
    "adm": (lambda: networks.ADM(1, 8, (1, 2), 1, head_channels=8, classes=2, dropout=0.1), (1, 5, 5), 2),
    "edm2": (lambda: networks.EDM2(1, 8, (1, 2), 1, head_channels=8, classes=2), (1, 5, 5), 2),
    "dit of images": (lambda: networks.DiT(1, 8, 1, 2, patch=2, classes=2), (1, 4, 4), 2),
    "dit of sets": (lambda: networks.DiT(3, 8, 1, 2, kind="set"), (4, 3), None),
}
PROCESSES = {name: sde for name, sde in SDES.items() if name not in ("scales", "coefficients")}
PREDICTIONS = ("noise", "data", "velocity", "score", "edm", ss.Preconditioned(0.3))
TIMES = ("t", "index", "half_log_snr", "edm")


def randomised(network):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator(parameter.numel()))
    return network


def make(network="mlp", sde="linear", prediction="noise", time=None):
    return ss.ScoreModel(randomised(NETWORKS[network][0]()), PROCESSES[sde], prediction, time).eval()


def inputs(network, dtype=torch.float32):
    _, event, classes = NETWORKS[network]
    cond = {"label": torch.tensor([0, classes - 1, 1])} if classes else {}
    return torch.randn(3, *event, generator=generator(1), dtype=dtype), torch.tensor([0.2, 0.55, 0.9]), cond


def assert_same(model, loaded, network, dtype=torch.float32):
    z, t, cond = inputs(network, dtype)
    with torch.no_grad():
        for call in ("output", "data", "score", "velocity"):
            a, b = (getattr(part, call)(z, t, **cond) for part in (model, loaded))
            assert a.abs().max() > 0
            assert float((a - b).abs().max()) == 0.0
    assert type(loaded.sde) is type(model.sde)
    assert (loaded.sde.t_min, loaded.sde.t_max, loaded.sde.prior_std) == (model.sde.t_min, model.sde.t_max, model.sde.prior_std)
    assert (loaded.prediction, loaded.time_name) == (model.prediction, model.time_name)


@pytest.fixture
def kept(tmp_path):
    """A folder with a small model of a chain."""
    ss.save_pretrained(make("mlp", "chain20"), tmp_path / "model")
    return tmp_path / "model"


def conventions(sde):
    return [time for time in TIMES if time != "index" or isinstance(PROCESSES[sde], type(SDES["ddpm"]))]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sde", PROCESSES)
def test_every_network_process_prediction_and_time_comes_back_to_the_bit(network, sde, tmp_path):
    for k, (prediction, time) in enumerate(product(PREDICTIONS, conventions(sde))):
        # Every process meets every pair of prediction and time, each with one of the networks in turn.
        if k % len(NETWORKS) != (list(NETWORKS).index(network) + list(PROCESSES).index(sde)) % len(NETWORKS):
            continue
        model = make(network, sde, prediction, time)
        ss.save_pretrained(model, tmp_path / str(k))
        assert {path.name for path in (tmp_path / str(k)).iterdir()} == {CONFIG, WEIGHTS, CARD}
        assert_same(model, ss.from_pretrained(tmp_path / str(k)), network)


@pytest.mark.parametrize(("dtype", "network"), list(rotated((torch.float64, torch.bfloat16, torch.float16), ("mlp", "unet"))))
def test_weights_keep_their_dtype(dtype, network, tmp_path):
    model = make(network, "ddpm").to(dtype)
    ss.save_pretrained(model, tmp_path)
    loaded = ss.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert_same(model, loaded, network, torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_network_made_in_float64_keeps_its_frequencies(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        model = make("mlp", "ddpm")
    finally:
        torch.set_default_dtype(torch.float32)
    ss.save_pretrained(model, tmp_path)
    assert_same(model, ss.from_pretrained(tmp_path), "mlp", torch.float64)


def test_samples_are_the_same(tmp_path):
    model = make("mlp", "ddpm", "velocity")
    ss.save_pretrained(model, tmp_path)
    loaded = ss.from_pretrained(tmp_path)
    assert not loaded.training
    for solver in ("unipc3", "ancestral"):
        x, y = (ss.sample(m, (4, 3), solver, nfe=4, seeds=range(4)) for m in (model, loaded))
        assert float((x - y).abs().max()) == 0.0


def test_a_learned_variance_comes_back(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = randomised(networks.MLP((4, 3), width=8))

        def forward(self, z, t):
            return self.inner(torch.cat([z, z], 1), t)

    model = ss.LearnedVariance(Twice(), SDES["ddpm"]).eval()
    ss.save_pretrained(model, tmp_path)
    loaded = ss.from_pretrained(tmp_path, network=Twice())
    z = torch.randn(2, 2, 3, generator=generator())
    assert isinstance(loaded, ss.LearnedVariance)
    for a, b in zip(model.output_and_fraction(z, 0.4), loaded.output_and_fraction(z, 0.4), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_a_wrapped_network_is_kept_without_its_wrapper(tmp_path):
    plain = make("mlp", "ddpm")
    for k, wrapped in enumerate((nn.DataParallel(plain.network), torch.compile(plain.network))):
        ss.save_pretrained(ss.ScoreModel(wrapped, plain.sde), tmp_path / str(k))
        assert_same(plain, ss.from_pretrained(tmp_path / str(k)), "mlp")


class Own(nn.Module):
    """A network of a user."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, z, t):
        return self.layers(torch.cat([z, t[:, None].to(z)], 1))


def test_a_network_of_ones_own_is_asked_for_by_name(tmp_path):
    model = ss.ScoreModel(Own(), SDES["flow"], "velocity").eval()
    ss.save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match=r"config\.json.*test_pretrained\.Own.*network="):
        ss.from_pretrained(tmp_path)
    mine = Own()
    assert_same(model, ss.from_pretrained(tmp_path, network=mine), "mlp")
    assert torch.equal(mine.layers[0].weight, model.network.layers[0].weight)
    with pytest.raises(ValueError, match=r"layers\.0\.weight has shape \(8, 4\) in the file and \(9, 4\)"):
        ss.from_pretrained(tmp_path, network=Own(9))
    with pytest.raises(ValueError, match=r"float32 in the file and torch\.float64"):
        ss.from_pretrained(tmp_path, network=Own().double())


def test_a_process_of_ones_own_is_asked_for_and_compared(tmp_path):
    model = ss.ScoreModel(randomised(networks.MLP(3, width=8)), SDES["scales"], "data").eval()
    ss.save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match=r"ScalesSDE.*sde="):
        ss.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="made for a process with"):
        ss.from_pretrained(tmp_path, sde=ss.VPSDE())
    assert_same(model, ss.from_pretrained(tmp_path, sde=SDES["scales"]), "mlp")


def fifty(sde, t):
    return 50 * t


def test_a_time_of_ones_own_is_asked_for_and_compared(tmp_path):
    model = ss.ScoreModel(randomised(networks.MLP(3, width=8)), SDES["linear"], time=fifty).eval()
    ss.save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match="time="):
        ss.from_pretrained(tmp_path)
    for other in ("t", lambda sde, t: 51 * t):
        with pytest.raises(ValueError, match="another function"):
            ss.from_pretrained(tmp_path, time=other)
    assert_same(model, ss.from_pretrained(tmp_path, time=fifty), "mlp")


def test_parts_that_contradict_the_file_are_refused(kept):
    with pytest.raises(ValueError, match="made for a process"):
        ss.from_pretrained(kept, sde=ss.VPSDE())
    with pytest.raises(ValueError, match="time='index'"):
        ss.from_pretrained(kept, time="t")


def test_models_that_no_file_can_hold(tmp_path):
    model = make()
    with pytest.raises(TypeError, match=r"ThresholdedModel; save the model inside"):
        ss.save_pretrained(thresholded(model), tmp_path)
    with pytest.raises(TypeError, match="MLP"):
        ss.save_pretrained(model.network, tmp_path)
    model.network.leave[2].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"network\.leave\.2\.bias is not finite"):
        ss.save_pretrained(model, tmp_path)
    assert not list(tmp_path.iterdir())


def front_matter(text):
    """The lines between the first two `---`; each value is JSON, hence YAML."""
    _, head, body = text.split("---\n", 2)
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.splitlines())}, body


def test_the_card(tmp_path, monkeypatch):
    model = make("unet with everything", "ddpm", "velocity")
    ss.save_pretrained(model, tmp_path, event=(2, 5, 5), about={"license": 'mit" \n# x', "data range": "[-1, 1] | 8 bits"})
    head, body = front_matter((tmp_path / CARD).read_text())
    assert head["library_name"] == "scoresde"
    assert head["license"] == 'mit" \n# x'
    assert {"scoresde", "diffusion", "vpchain", "velocity-prediction"} <= set(head["tags"])
    assert "| prediction | velocity |" in body
    assert "| process | `VPChain(T=1000, betas 0.0001..0.02)` |" in body
    assert r"| data range | [-1, 1] \| 8 bits |" in body
    # What the card says about loading runs.
    monkeypatch.setattr(hub, "files", lambda repository, names, revision: [tmp_path / name for name in names])
    scope = {}
    exec(re.search(r"```python\n(.*?)```", body, re.DOTALL)[1], scope)
    assert scope["x"].shape == (16, 2, 5, 5)
    # A card that was edited stays.
    (tmp_path / CARD).write_text("mine")
    ss.save_pretrained(model, tmp_path)
    assert (tmp_path / CARD).read_text() == "mine"


def test_a_name_of_the_hub_goes_through_huggingface_hub(kept, monkeypatch):
    asked = []

    def hf_hub_download(repo_id, filename, *, revision=None):
        asked.append((repo_id, filename, revision))
        return str(kept / filename)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    assert_same(make("mlp", "chain20"), ss.from_pretrained("someone/model", revision="v1"), "mlp")
    assert asked == [("someone/model", CONFIG, "v1"), ("someone/model", WEIGHTS, "v1")]
    with pytest.raises(FileNotFoundError, match="owner/name"):
        ss.from_pretrained("a/b/c")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        ss.from_pretrained("someone/model")


def test_the_call_is_one_that_huggingface_hub_has():
    download = pytest.importorskip("huggingface_hub").hf_hub_download
    inspect.signature(download).bind("someone/model", CONFIG, revision=None)


def test_no_foreign_package_is_imported():
    foreign = [
        "diffusers",
        "transformers",
        "accelerate",
        "datasets",
        "huggingface_hub",
        "k_diffusion",
        "sbi",
        "onnx",
        "onnxruntime",
    ]
    code = f"import sys, scoresde, scoresde.interop.sbi; print([n for n in {foreign} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- damaged and crafted files -----------------------------------------------------------------------------


def parts(folder):
    with safe_open(str(folder / WEIGHTS), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, json.loads((folder / CONFIG).read_text())


def refused(folder, name=None):
    with pytest.raises(ValueError, match=re.escape(str(folder if name is None else folder / name))):
        ss.from_pretrained(folder)


def test_missing_files_and_folders(kept):
    (kept / WEIGHTS).rename(kept / "x")
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        ss.from_pretrained(kept)
    (kept / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(kept))):
        ss.from_pretrained(kept)


def test_a_pickle_is_not_executed(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    for raw in (pickle.dumps(Evil()), b"", b"\x80\x04", b"\xff" * 100, b"PK\x03\x04"):
        (kept / WEIGHTS).write_bytes(raw)
        refused(kept, WEIGHTS)
    torch.save({"a": Evil()}, kept / WEIGHTS)
    refused(kept, WEIGHTS)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text", ["", "{{{", "null", "[]", "5", "[" * 100_000, '{"a":' * 100_000, "{}", '{"format": "scoresde model 2"}', "\x00"],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_json_that_describes_no_model(kept, text):
    (kept / CONFIG).write_text(text)
    refused(kept, CONFIG)
    (kept / CONFIG).write_bytes(b"\xff\xfe" + text.encode())
    refused(kept, CONFIG)


@pytest.mark.parametrize("sde", ["chain20", "linear"])
def test_every_tensor_is_looked_at(sde, tmp_path):
    ss.save_pretrained(make("mlp", sde), tmp_path)
    tensors, _ = parts(tmp_path)
    for name, tensor in tensors.items():
        others = [
            None,
            tensor[..., None].clone(),
            tensor[:0],
            tensor.to(torch.int32),
            tensor.to(torch.bfloat16),
            tensor.to(torch.complex64),
        ]
        others += [torch.full_like(tensor, torch.nan), torch.full_like(tensor, torch.inf)]
        if name == "sde.betas":
            others += [tensor - 1, tensor + 1, tensor.flip(0)[:0]]
        for other in others:
            edited = {key: value.contiguous() for key, value in (tensors | {name: other}).items() if value is not None}
            save_file(edited, tmp_path / WEIGHTS)
            try:
                refused(tmp_path)
            except pytest.fail.Exception:
                pytest.fail(f"{name}={other} is accepted")
    save_file(tensors | {"network.more": torch.zeros(1)}, tmp_path / WEIGHTS)
    refused(tmp_path)


@pytest.mark.parametrize(
    ("network", "sde", "prediction"), [("mlp", "chain20", "noise"), ("unet", "edm", "edm"), ("mlp", "ve", "data")]
)
def test_every_entry_is_looked_at(network, sde, prediction, tmp_path):
    ss.save_pretrained(make(network, sde, prediction), tmp_path)
    tensors, config = parts(tmp_path)
    save_file(tensors, tmp_path / WEIGHTS)  # without the description beside the weights, which would notice everything

    def edits(value, path=()):
        if isinstance(value, dict):
            for name, part in value.items():
                yield f"{path}/{name} left out", {key: other for key, other in value.items() if key != name}
                for said, edited in edits(part, (*path, name)):
                    yield said, value | {name: edited}
        wrong = [{"a": 1}, [], "x", -1, 2.5, float("nan"), 10**12, True, [10**12, 1], None]
        wrong = [other for other in wrong if path[-1:] != ("sign",) or other != -1]
        for other in wrong:
            if other != value:
                yield f"{path}={other!r}", other

    described = {name: value for name, value in config.items() if name not in ("event", "scoresde")}
    optional = ("('network', 'time')", "('network',)/time", "attention", "classes", "outputs")
    for said, edited in edits(described):
        if edited is None or not isinstance(edited, dict) or said.startswith("()="):
            continue
        (tmp_path / CONFIG).write_text(json.dumps(edited))
        harmless = any(name in said for name in optional) and ("None" in said or "left out" in said or "[]" in said)
        # Numbers that a process takes make another process, as do those that no weight depends on.
        # Folders of the first version have no sum of the weights.
        harmless |= said == "()/sha256 left out"
        # Folders from before a U-Net had it; its weights do not depend on it.
        harmless |= "dropout left out" in said
        harmless |= bool(re.search(r"sigma_(min|max|data)'\)=(2\.5|1000000000000)$", said)) or "heads')=" in said
        if harmless:
            continue
        try:
            refused(tmp_path, None if "sha256" in said else CONFIG)
        except pytest.fail.Exception:
            pytest.fail(f"{said} is accepted")


def test_two_files_of_different_models_are_noticed(kept, tmp_path):
    ss.save_pretrained(
        ss.ScoreModel(make().network.__class__(3, width=8, layers=2), ss.VPSDE.from_betas(linear_betas(20)), "data"), tmp_path
    )
    (tmp_path / CONFIG).rename(kept / CONFIG)
    with pytest.raises(ValueError, match=r"different models: their prediction, sha256 differ"):
        ss.from_pretrained(kept)


def test_a_write_that_fails_leaves_the_old_model(kept, monkeypatch):
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ss.save_pretrained(make("unet"), kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_the_description_stands_beside_the_weights(kept):
    with safe_open(str(kept / WEIGHTS), framework="pt") as file:
        beside = json.loads(file.metadata()[KEY])
    assert beside.items() <= json.loads((kept / CONFIG).read_text()).items()
