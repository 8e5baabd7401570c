"""Each network with the conventions that its author trained it with, and the errors by time that a correct reading must reproduce.

    MODELS["mnist-unet"].load()  ->  Loaded(model, event, cond)

`SCORESDE_EXTERNAL` names the folder with `weights/` and `data/`; `folder()` raises `NotHere` without it.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import scoresde as ss
from scoresde.interop import formats

from . import networks

T = 1000
LINEAR = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)


class NotHere(Exception):
    """The folder of external networks, or one of its files, is not on this machine."""


def folder() -> Path:
    """The folder with `weights/` and `data/`.

    Raises:
        NotHere: the environment variable SCORESDE_EXTERNAL is not set, or names no folder.
    """
    path = Path(os.environ.get("SCORESDE_EXTERNAL", ""))
    if not os.environ.get("SCORESDE_EXTERNAL") or not path.is_dir():
        raise NotHere("the environment variable SCORESDE_EXTERNAL names no folder")
    return path


def weights(name: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a file whose keys start with `prefix`, without it.

    Raises:
        NotHere: there is no such file.
    """
    path = folder() / "weights" / name
    if not path.exists():
        raise NotHere(f"{path} is not here")
    tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def loaded(network: nn.Module, file: str, prefix: str = "") -> nn.Module:
    """The network with the tensors of the file, for evaluation."""
    network.load_state_dict(weights(file, prefix))
    return network.eval().requires_grad_(False)


# --- data: what the authors trained on, or held out ----------------------------------------------------------------------


def mnist(offset: float, scale: float, padding: int = 0) -> Tensor:
    """The 10,000 test digits, `(10000, 1, 28, 28)` float32: (pixel in [0, 1] + offset) * scale."""
    with gzip.open(folder() / "data/t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return (torch.from_numpy(pixels.astype(np.float32) / 255) + offset) * scale


def mnist_labels() -> Tensor:
    """Their classes, `(10000,)`."""
    with gzip.open(folder() / "data/t10k-labels-idx1-ubyte.gz") as file:
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64))


def cifar() -> tuple[Tensor, Tensor]:
    """The test images, `(10000, 3, 32, 32)` in [-1, 1], and their labels."""
    images = torch.from_numpy(np.load(folder() / "data/cifar10-test-images.npy")).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1, torch.from_numpy(np.load(folder() / "data/cifar10-test-labels.npy")).long()


def moons() -> Tensor:
    """The 50,000 points of the training set."""
    return torch.load(folder() / "data/moons_iantoinev_50000.pt", weights_only=True).float()


# --- the networks' own times ---------------------------------------------------------------------------------------------


class Labelled(nn.Module):
    """A network of labelled images, whose i-th sample has the label i modulo the number of labels."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.network(z, t, torch.arange(len(z)) % self.classes if label is None else label)


def index_as_share(sde: ss.SDE, t: Tensor, *, steps: int) -> Tensor:
    """(0-based index)/steps."""
    assert isinstance(sde, ss.VPSDE)
    return (t * len(sde.betas) - 1) / steps


def nearest_index(sde: ss.SDE, t: Tensor) -> Tensor:
    """The nearest 0-based index, an integer, for a table of embeddings."""
    return (t * T - 1).round().long().clamp(0, T - 1)


# --- the catalogue -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A network of others.

    Attributes:
        make: its score model.
        event: the shape of a sample.
        data: samples of the data, for the errors below; None where the author's data are not here.
        scale: standard deviation of the data per coordinate.
        errors: mean squared error of the network's own prediction at times t, as it was measured elsewhere.
        labels: those of the data, for a network that takes labels.
    """

    make: Callable[[], ss.ScoreModel]
    event: tuple[int, ...]
    data: Callable[[], Tensor] | None
    scale: float
    errors: Mapping[float, float] = field(default_factory=dict)
    labels: Callable[[], Tensor] | None = None


def _chain(network: nn.Module, file: str, betas: Tensor, time: object = None, prefix: str = "") -> ss.ScoreModel:
    return ss.ScoreModel(loaded(network, file, prefix), ss.VPSDE.from_betas(betas), "noise", time=time)


def cifar_unet() -> ss.ScoreModel:
    network = loaded(networks.ShallowUNet(), "cifar10_hirokiuemura2_shallow24.pth")
    return ss.ScoreModel(Labelled(network, 10), ss.VPSDE.from_betas(LINEAR), "noise")


def flow_unet() -> ss.ScoreModel:
    network = loaded(networks.FlowUNet(), "emnist_blaise143_flow_uncond.pth", "vector_field.")
    return formats.velocity(network, direction="noise_to_data")


def flat_conv() -> ss.ScoreModel:
    # 1,001 betas, of which the network was trained on 1..999 with the time i/1000.
    betas = 1e-4 + (0.02 - 1e-4) * torch.arange(T + 1, dtype=torch.float64) / T
    return _chain(networks.FlatConv(), "mnist_yichizz_starter.pth", betas, partial(index_as_share, steps=T), "gt.")


def fashion_edm() -> ss.ScoreModel:
    return ss.ScoreModel(
        loaded(networks.SmallResNet(), "fashion32_argasz_edm_20251130.pth"), ss.EDM(), ss.sde.Preconditioned(0.6627)
    )


def roll_2d() -> ss.ScoreModel:
    return formats.velocity(loaded(networks.FlowMLP(2), "toy_oscarw42_swissroll_2d_v.pt"), direction="data_to_noise")


def roll_32d() -> ss.ScoreModel:
    return ss.ScoreModel(loaded(networks.FlowMLP(32), "toy_oscarw42_swissroll_32d_x.pt"), ss.RectifiedFlow(), "data")


def moons_mlp() -> ss.ScoreModel:
    betas = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)
    return _chain(networks.PlaneMLP(), "toy_iantoinev_moons_ddpm.safetensors", betas, partial(index_as_share, steps=100))


def layer_norm_unet() -> ss.ScoreModel:
    return _chain(networks.LayerNormUNet(), "mnist_brianpulfer.pt", LINEAR, nearest_index, "network.")


def _at_indices(steps: int, errors: Mapping[int, float]) -> dict[float, float]:
    return {(i + 1) / steps: error for i, error in errors.items()}


MODELS: dict[str, Entry] = {
    "cifar-unet": Entry(
        cifar_unet, (3, 32, 32), lambda: cifar()[0], 0.5, labels=lambda: cifar()[1],
        errors=_at_indices(T, {0: 0.976, 10: 0.379, 50: 0.167, 100: 0.096, 200: 0.048, 400: 0.016, 600: 0.0043, 800: 0.0013, 999: 0.0011}),
    ),
    "digits-flow-unet": Entry(
        flow_unet, (1, 28, 28), lambda: mnist(-0.5, 2.0), 0.62,
        errors={round(1 - t, 2): e for t, e in {0.02: 0.305, 0.1: 0.340, 0.3: 0.266, 0.5: 0.147, 0.7: 0.126, 0.9: 0.175, 0.98: 0.315}.items()},
    ),
    "mnist-flat": Entry(
        flat_conv, (1, 28, 28), lambda: mnist(-0.5, 1.0), 0.31,
        errors=_at_indices(T + 1, {20: 0.0929, 100: 0.0429, 250: 0.0282, 500: 0.0051, 750: 0.0006, 990: 0.0005}),
    ),
    "fashion-edm": Entry(fashion_edm, (1, 32, 32), None, 0.66),
    "roll-2d-flow": Entry(roll_2d, (2,), None, 0.5),
    "roll-32d-flow": Entry(roll_32d, (32,), None, 0.2),
    "moons-chain": Entry(
        moons_mlp, (2,), moons, 0.7,
        errors=_at_indices(100, {0: 0.88, 1: 0.72, 5: 0.55, 10: 0.53, 20: 0.63, 50: 0.52, 80: 0.31, 99: 0.21}),
    ),
    "mnist-layernorm-unet": Entry(
        layer_norm_unet, (1, 28, 28), lambda: mnist(-0.5, 2.0), 0.62,
        errors=_at_indices(T, {0: 0.310, 10: 0.158, 50: 0.097, 100: 0.068, 200: 0.043, 400: 0.026, 600: 0.0082, 800: 0.0033, 999: 0.0027}),
    ),
}  # fmt: skip


def prediction_error(model: ss.ScoreModel, x: Tensor, t: float, cond: Mapping[str, Tensor], seed: int = 0) -> float:
    """Mean squared error of the network's own prediction on noised data."""
    a, b = ss.sde.direction(model.sde, t, model.prediction)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    z = float(model.sde.alpha(t)) * x + float(model.sde.sigma(t)) * eps
    parts = [
        (
            model.output(z[i : i + 500], t, **{k: v[i : i + 500] for k, v in cond.items()})
            - float(a) * x[i : i + 500]
            - float(b) * eps[i : i + 500]
        )
        for i in range(0, len(x), 500)
    ]
    return float(torch.cat(parts).square().mean())


__all__ = ["MODELS", "Entry", "NotHere", "folder", "prediction_error"]
