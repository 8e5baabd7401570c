"""A training run as a folder: `config.json` holds the experiment, `checkpoint.safetensors` the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..data import Data, Source
from ..data.images import MODES
from ..data.memory import Loaded
from ..models.score_model import ScoreModel
from ..numerics.brief import Brief
from ..numerics.files import reading
from ..numerics.inputs import as_count, as_event, as_flag, as_number, as_one_of
from ..numerics.random import derive_seed, global_seed
from ..sde.base import SDE
from ..sde.linear import LinearSDE
from ..sde.prediction import PREDICTIONS, PREDICTIONS_ELSEWHERE, Prediction
from .architectures import ARCHITECTURES, build
from .checkpoint import CHECKPOINT, load_averaged
from .class_names import write_class_names
from .config import CONFIG, read_config, require_same_experiment, write_config
from .presets import PRESETS
from .processes import PROCESSES, USUAL
from .recipe import Recipe
from .trainer import Trainer

# Entries that version 0.1 had not. Those that change nothing are not written, so that its runs go on.
LATER = {"network", "blocks", "attention", "heads", "dropout", "recompute", "size", "mirrored", "crop", "mode"}


# Held-out samples by default: more make validation slow and its error no smaller than it need be.
MOST_HELD_OUT = 1000


@dataclass(frozen=True, repr=False)
class Experiment(Brief):
    """Everything that determines a run.

    Attributes:
        data: name or path of the data set, as in `data.load`.
        held_out: number of samples excluded from training. None: that of the run that goes on, or 10 % of the data, at most 1,000.
        process: one of `processes.PROCESSES`: the chains "linear" (Ho et al. 2020) and "cosine" (Nichol and Dhariwal 2021), the paths "vp",
            "sub-vp", "ve", "edm" and "flow", or a linear SDE, "blur", "coloured", "cld" or "hold".
        steps: length T of a chain; other processes have none.
        prediction: what the network returns. None: what is usual for the process, `processes.USUAL`, a velocity on a chain.
        width, multipliers, patch: of the network. Data that are no images get an MLP of this `width`.
        conditional: train with class labels.
        recipe: how to train.
        event: shape of a sample; read from the data when training starts.
        classes: number of classes; read from the data too.
        network: of images, one of `architectures.ARCHITECTURES`.
        blocks: residual blocks of a level, or the depth of a transformer.
        attention: levels with attention, from 0 at the top; None for the network's own.
        heads: of attention, where the network does not derive them.
        dropout: in the residual blocks.
        recompute: compute activations again in the backward pass, for less memory.
        size: images of a folder are resized and cropped to squares of this size; None for images of one size.
        mirrored: train on every image and on its mirror image.
        crop: side of the square that is cut out of the middle of the images of a folder, after `size`; None for all pixels.
        mode: "grey" or "rgb", which the images of a folder become; None where all are one of the two.

    Raises:
        TypeError: an entry of another type; names it.
        ValueError: a number that makes no sense, or an unknown name; names the entry.
    """

    data: str
    held_out: int | None = None
    process: str = "cosine"
    steps: int = 1000
    prediction: Prediction | None = None
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    patch: int = 1
    conditional: bool = False
    recipe: Recipe = Recipe()
    event: tuple[int, ...] = ()
    classes: int | None = None
    network: str = "unet"
    blocks: int = 1
    attention: tuple[int, ...] | None = None
    heads: int = 4
    dropout: float = 0.0
    recompute: bool = False
    size: int | None = None
    mirrored: bool = False
    crop: int | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, str):
            raise TypeError(f"data must be a name or a path, got {self.data!r}")
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, got {self.recipe!r}")
        for name, part in (("weighting", self.recipe.weighting), ("time_sampler", self.recipe.time_sampler)):
            if part is not None and not isinstance(part, str):
                raise TypeError(f"recipe.{name} must be a name, as {CONFIG} cannot hold {part!r}: give it to a Trainer")
        if self.recipe.label_dropout and not self.conditional:
            raise ValueError("recipe.label_dropout drops class labels: set conditional=True")
        if not isinstance(self.multipliers, list | tuple) or not self.multipliers:
            raise TypeError(f"multipliers must be a sequence of integers, got {self.multipliers!r}")
        prediction = USUAL.get(str(self.process).lower(), "noise") if self.prediction is None else self.prediction
        checked = {
            "held_out": None if self.held_out is None else as_count("held_out", self.held_out),
            "steps": as_count("steps", self.steps),
            "prediction": as_one_of("prediction", prediction, (*PREDICTIONS, "edm"), elsewhere=PREDICTIONS_ELSEWHERE),
            "width": as_count("width", self.width, 2),
            "multipliers": tuple(as_count("multipliers", multiplier) for multiplier in self.multipliers),
            "patch": as_count("patch", self.patch),
            "conditional": as_flag("conditional", self.conditional),
            "event": as_event("event", self.event),
            "classes": None if self.classes is None else as_count("classes", self.classes),
            "network": as_one_of("network", self.network, ARCHITECTURES),
            "blocks": as_count("blocks", self.blocks),
            "attention": None if self.attention is None else tuple(as_count("attention", level, 0) for level in self.attention),
            "heads": as_count("heads", self.heads),
            "dropout": as_number("dropout", self.dropout, 0, 1),
            "recompute": as_flag("recompute", self.recompute),
            "size": None if self.size is None else as_count("size", self.size),
            "mirrored": as_flag("mirrored", self.mirrored),
            "crop": None if self.crop is None else as_count("crop", self.crop),
            "mode": None if self.mode is None else as_one_of("mode", self.mode, MODES),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str, data: str, **changes: Any) -> Experiment:
        """The published experiment of that name on other data.

        Args:
            name: one of `presets.PRESETS`.
            data: name or path of the data set.
            **changes: entries of the experiment or of its recipe that differ.

        Raises:
            TypeError: an entry of neither.
            ValueError: an unknown name, or an entry that makes no sense.
        """
        entries: dict[str, Any] = {**PRESETS[as_one_of("preset", name, PRESETS)], **changes}
        of_recipe = {field.name for field in fields(Recipe)}
        recipe = {key: value for key, value in entries.items() if key in of_recipe}
        return cls(data, **{key: value for key, value in entries.items() if key not in of_recipe}, recipe=Recipe(**recipe))

    def load_data(self) -> tuple[Data, Data]:
        """(training, held-out) data in memory."""
        whole = data.load(self.data, self.size, crop=self.crop, mode=self.mode)
        return whole.split(self._number_held_out(len(whole.x)))

    def open_data(self) -> tuple[Source, Source, int | None]:
        """(training, held-out) data that are read on the way, and the number of classes."""
        source = data.open(self.data, self.size, crop=self.crop, mode=self.mode)
        return *data.split(source, self._number_held_out(len(source))), source.classes

    def _number_held_out(self, n: int) -> int:
        """The number of held-out samples of n."""
        return min(MOST_HELD_OUT, max(1, n // 10)) if self.held_out is None else self.held_out

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the labels, which sub-folders of images have; none for other data."""
        return (
            getattr(data.open(self.data, self.size, crop=self.crop, mode=self.mode), "class_names", ()) if self.conditional else ()
        )

    def sde(self) -> SDE:
        """The process for events of this shape.

        Raises:
            ValueError: an unknown process, or a linear chain of 20 steps or fewer, whose last beta would reach 1.
        """
        return PROCESSES[as_one_of("process", self.process, PROCESSES)](self.event, self.steps)

    def on(self, example: Data) -> Experiment:
        """`resolved` for the event shape and the classes of `example`."""
        return self.resolved(example.x.shape[1:], example.classes)

    def resolved(self, event: Sequence[int], classes: int | None) -> Experiment:
        """This experiment with the event shape and the classes of the data, and with an absolute path to them."""
        source = str(Path(self.data).resolve()) if Path(self.data).exists() and self.data not in data.NAMES else self.data
        return replace(self, data=source, event=tuple(event), classes=classes)

    def model(self) -> ScoreModel:
        """An untrained model. Its weights depend on the recipe's seed alone.

        Raises:
            ValueError: the experiment is conditional, but its data have no labels.
        """
        classes = self.classes if self.conditional else None
        if self.conditional and classes is None:
            raise ValueError(
                f"{self.data} has no labels to condition on: sub-folders of images are classes, and a .npz file holds x and label"
            )
        sde = self.sde()
        m = sde.channels if isinstance(sde, LinearSDE) else 1
        with global_seed(derive_seed(self.recipe.seed, "weights")):
            network = build(self, m, classes)
        assert self.prediction is not None  # since __post_init__
        return ScoreModel(network, sde, self.prediction)

    def condition(self, part: Data) -> dict[str, torch.Tensor]:
        """The conditions of the samples, as keyword arguments for the network: `label` `(N,)`, or nothing."""
        return {"label": part.labels} if self.conditional and part.labels is not None else {}

    def train(self, folder: str | PathLike[str], device: torch.device | str, progress: bool = True, **options: Any) -> Trainer:
        """Train in `folder`. Training continues from the folder's checkpoint if it exists.

        Args:
            folder: of the run.
            device: where to train.
            progress: as in `Trainer.run`.
            **options: as of `trainer`.

        Raises:
            ValueError: the folder holds another experiment, or a damaged one.
            OSError: the folder cannot be written.
            DataError: the data set is missing or cannot be read.
        """
        trainer = self.trainer(folder, device, **options)
        trainer.run(progress)
        return trainer

    def trainer(
        self,
        folder: str | PathLike[str],
        device: torch.device | str,
        *,
        on_the_way: bool = False,
        channels_last: bool = False,
        **options: Any,
    ) -> Trainer:
        """A trainer at the iteration of the folder's checkpoint, or at the beginning. The folder holds the experiment from now on.

        The number of iterations, the intervals of what is done beside the steps, and `recompute` may differ from those of the folder.

        Args:
            folder: of the run.
            device: where to train.
            on_the_way: read the data while training, in place of all of them before.
            channels_last: keep the channels of a pixel together in memory: faster convolutions, equal up to rounding.
            **options: of the `Trainer`: parallel, accumulate, workers, log, callbacks.

        Raises:
            ValueError: the folder holds another experiment, or a damaged one; or more than half of the data are held out.
            OSError: the folder cannot be written.
            DataError: the data set is missing or cannot be read.
        """
        folder = Path(folder)
        wanted, stored = self, read_config(folder)
        if self.held_out is None and "held_out" in stored:
            with reading(folder / CONFIG):
                wanted = replace(self, held_out=stored["held_out"])
        training, held_out, classes = wanted.open_data()
        n, kept = len(training) + len(held_out), len(held_out)
        if 2 * kept > n:
            raise ValueError(f"held_out={kept} of {n} samples leaves {n - kept} to train on, less than half of them")
        event = training.batch(torch.zeros(1, dtype=torch.int64, device="cpu"))[0].shape[1:]
        resolved = replace(wanted.resolved(event, classes), held_out=kept)
        require_same_experiment(folder, resolved._json())
        model = resolved.model().to(device)
        if channels_last:
            model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.conditional:
            training, held_out = data.Unconditional(training), data.Unconditional(held_out)
        if not on_the_way:
            training, held_out = Loaded(training), Loaded(held_out)
        if self.mirrored:
            training = data.Mirrored(training)
        trainer = Trainer(model, training, self.recipe, held_out=held_out, folder=folder, **options)
        if trainer.main:
            write_config(folder, resolved._json())
            write_class_names(folder, resolved.class_names())
        return trainer

    def _json(self) -> dict[str, object]:
        # Through JSON once: a file returns tuples as lists, and the two must compare equal.
        entries = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name not in LATER
        }
        values: dict[str, object] = json.loads(json.dumps(entries | {"recipe": self.recipe.entries()}))
        return values

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Experiment:
        """The experiment of a folder.

        Raises:
            ValueError: the folder holds none, or a damaged one, or one of another version of scoresde.
        """
        folder = Path(folder)
        if not (folder / CONFIG).exists():
            raise ValueError(f"{folder} holds no training run (no {CONFIG}): make one with `scoresde train`")
        values = read_config(folder)
        known = {field.name for field in fields(cls)}
        # Entries that an older version had not keep their defaults.
        odd = (set(values) - known) | (known - set(values) - LATER)
        if odd:
            raise ValueError(f"{folder / CONFIG} is of another version of scoresde: it differs in {', '.join(sorted(odd))}")
        with reading(folder / CONFIG, said="holds no experiment of this version of scoresde"):
            return cls(**{**values, "recipe": Recipe(**values["recipe"])})

    def load_model(self, folder: str | PathLike[str], device: torch.device | str = "cpu") -> ScoreModel:
        """The trained model of a folder, with averaged weights, in evaluation mode."""
        return load_averaged(Path(folder) / CHECKPOINT, self.model()).to(device)
