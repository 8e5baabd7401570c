"""A training run as a folder: `config.json` holds the experiment, `checkpoint.safetensors` the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

from .. import networks
from ..models.score_model import ScoreModel
from ..numerics.random import derive_seed, global_seed
from ..sde.prediction import Prediction
from ..sde.vp import VPSDE, VPChain
from . import data
from .checkpoint import CHECKPOINT, load_averaged
from .data import Data
from .recipe import Recipe
from .trainer import Trainer

CONFIG = "config.json"


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run.

    Attributes:
        data: name or path of the data set, as in `data.load`.
        held_out: number of samples excluded from training.
        process: "linear" (Ho et al. 2020: betas from 1e-4 to 0.02 at 1000 steps) or "cosine" (Nichol and Dhariwal 2021).
        steps: length T of the chain.
        prediction: what the network returns.
        width, multipliers, patch: of the U-Net. Data that are no images get an MLP of this `width`.
        conditional: train with class labels.
        recipe: how to train.
        event: shape of a sample; read from the data when training starts.
        classes: number of classes; read from the data too.
    """

    data: str
    held_out: int = 200
    process: str = "linear"
    steps: int = 1000
    prediction: Prediction = "noise"
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    patch: int = 1
    conditional: bool = False
    recipe: Recipe = Recipe()
    event: tuple[int, ...] = ()
    classes: int | None = None

    def load_data(self) -> tuple[Data, Data]:
        """(training, held-out) data."""
        return data.load(self.data).split(self.held_out)

    def sde(self) -> VPChain:
        """The chain, as an SDE. Linear betas are scaled by 1000/T, so that the path hardly depends on T.

        Raises:
            ValueError: an unknown process, or a linear chain of 20 steps or fewer, whose last beta would reach 1.
        """
        if self.process == "cosine":
            return VPSDE.cosine(self.steps)
        if self.process == "linear":
            scale = 1000 / self.steps
            if scale * 0.02 >= 1:
                raise ValueError(f"the linear chain needs more than 20 steps, got {self.steps}")
            return VPSDE.from_betas(torch.linspace(scale * 1e-4, scale * 0.02, self.steps, dtype=torch.float64))
        raise ValueError(f"process must be 'linear' or 'cosine', got {self.process!r}")

    def on(self, example: Data) -> Experiment:
        """This experiment with the event shape and the classes of `example`, and with an absolute path to the data."""
        source = str(Path(self.data).resolve()) if Path(self.data).exists() and self.data not in data.NAMES else self.data
        return replace(self, data=source, event=tuple(example.x.shape[1:]), classes=example.classes)

    def model(self) -> ScoreModel:
        """An untrained model. Its weights depend on the recipe's seed alone.

        Raises:
            ValueError: the experiment is conditional, but its data have no labels.
        """
        classes = self.classes if self.conditional else None
        if self.conditional and classes is None:
            raise ValueError(f"{self.data} has no labels to condition on")
        network: nn.Module
        with global_seed(derive_seed(self.recipe.seed, "weights")):
            if len(self.event) == 3:
                network = networks.UNet(self.event[0], self.width, self.multipliers, patch=self.patch, classes=classes)
            else:
                network = networks.MLP(self.event, self.width, classes=classes)
        return ScoreModel(network, self.sde(), self.prediction)

    def condition(self, part: Data) -> dict[str, torch.Tensor]:
        """The conditions of the samples, as keyword arguments for the network: `label` `(N,)`, or nothing."""
        return {"label": part.labels} if self.conditional and part.labels is not None else {}

    def train(self, folder: Path, device: torch.device, progress: bool = True) -> Trainer:
        """Train in `folder`. Training continues from the folder's checkpoint if it exists.

        Raises:
            ValueError: the folder holds another experiment.
            DataError: the data set is missing or cannot be read.
        """
        training, held_out = self.load_data()
        config, written = self.on(training)._json(), folder / CONFIG
        if written.exists() and (difference := _difference(json.loads(written.read_text()), config)):
            raise ValueError(f"{folder} holds another experiment ({difference}): choose another folder or remove it")
        model = self.on(training).model().to(device)
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(config, indent=2) + "\n")
        trainer = Trainer(
            model,
            training.x,
            self.recipe,
            cond=self.condition(training),
            held_out=held_out.x,
            held_out_cond=self.condition(held_out),
            folder=folder,
        )
        trainer.run(progress)
        return trainer

    def _json(self) -> dict[str, object]:
        # Through JSON once: a file returns tuples as lists, and the two must compare equal.
        values: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def read(cls, folder: Path) -> Experiment:
        """The experiment of a folder.

        Raises:
            ValueError: the folder holds none, or one of another version of scoresde.
        """
        if not (folder / CONFIG).exists():
            raise ValueError(f"{folder} holds no training run (no {CONFIG}): make one with `scoresde train`")
        values = json.loads((folder / CONFIG).read_text())
        odd = set(values) ^ {field.name for field in fields(cls)}
        if odd:
            raise ValueError(f"{folder / CONFIG} is of another version of scoresde: it differs in {', '.join(sorted(odd))}")
        tuples = {name: tuple(values[name]) for name in ("multipliers", "event")}
        return cls(**{**values, **tuples, "recipe": Recipe(**values["recipe"])})

    def load_model(self, folder: Path, device: torch.device) -> ScoreModel:
        """The trained model of a folder, with averaged weights, in evaluation mode."""
        return load_averaged(folder / CHECKPOINT, self.model()).to(device)


def _difference(old: dict[str, object], new: dict[str, object]) -> str:
    """The entries that differ, in words."""
    parts = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            parts.append(_difference(before, after))
        elif before != after:
            parts.append(f"{key}: {before} there, {after} here")
    return ", ".join(part for part in parts if part)
