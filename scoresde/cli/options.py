"""The arguments that several commands share, and the objects that they name."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ..data import Data
from ..data.images import MODES
from ..guidance import Guided
from ..networks.labels import null_label
from ..numerics.inputs import as_device
from ..train.class_names import read_class_names
from ..train.experiment import Experiment
from ..train.posthoc import load_average
from ..train.world import local_device
from .foreign import Foreign, Loaded, is_foreign, load_foreign
from .own_network import own_network

# Of the profile of an average that is made of snapshots.
LARGEST_ERROR = 0.05

RunFolder = Annotated[Path, typer.Argument(help="Folder of a training run, or of scoresde convert.", metavar="RUN")]
DeviceOption = Annotated[
    str, typer.Option("--device", show_default=False, help="cpu, cuda, ...; by default a GPU if there is one.")
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="Samples drawn at once. The samples do not depend on it.")
]
FirstSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the first sample; the next has seed + 1.")]

SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        "--resize",
        min=1,
        help="Resize the shorter side of the images of a folder to this size and cut out the middle square.",
    ),
]
CropOption = Annotated[
    int | None,
    typer.Option(min=1, help="Cut a square of this many pixels out of the middle of each image of a folder, after --resize."),
]
ModeOption = Annotated[
    str | None, typer.Option(help=f"Make all images of a folder {' or '.join(MODES)}, where grey and coloured ones are mixed.")
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="FILE.py:NAME",
        help="Your own network, where RUN is a folder of ss.save_pretrained: a class or a function that makes it, or its ScoreModel, without "
        "arguments. With classes it takes label=, and has the attributes classes and, for guidance, null.",
    ),
]
GuidanceOption = Annotated[
    float,
    typer.Option(
        "--guidance",
        help="Weight of classifier-free guidance, for a model trained with --label-dropout: 1 for the class alone, 0 for none. "
        "Other weights double the network evaluations; --nfe counts a guided call once.",
    ),
]


def path(text: str) -> Path:
    """The path of an option. An empty one, as of a shell variable that is not set, would be the working directory."""
    if not text or "\0" in text:
        raise typer.BadParameter("must be a path, and not empty")
    return Path(text)


def integers(option: str, text: str) -> tuple[int, ...]:
    """The integers of a list such as 1,2,2.

    Raises:
        ValueError: the text is something else.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text}: need a list of integers such as 1,2,2") from None


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> torch.device:
    """The device of that name; "cuda" is the GPU number LOCAL_RANK, so that processes of `torchrun` have one each.

    Raises:
        ValueError: this machine has none, or torch cannot use it.
    """
    try:
        as_device("--device", name)
        return torch.empty(0, device=local_device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


def output_folder(folder: Path, out: Path | None = None) -> Path:
    """`folder`, which exists from now on and can be written: a wrong --out is found before the work and not after it.

    Args:
        folder: of what a command writes.
        out: the value of --out, where it is not the folder itself.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        raise ValueError(f"--out {out or folder}: {error}") from None


def output_file(out: Path, *suffixes: str) -> Path:
    """`out`, a file with one of the suffixes in a folder that can be written.

    Raises:
        ValueError: another suffix, a folder of that name, or a folder above it that cannot be made.
    """
    if out.suffix not in suffixes:
        raise ValueError(f"--out {out}: the file must end in {' or '.join(suffixes)}")
    output_folder(out.parent, out)
    if out.is_dir():
        raise ValueError(f"--out {out}: there is a folder of this name")
    return out


def load_run(run: Path, device: str, average_length: float | None = None, network: str | None = None) -> tuple[Experiment, Loaded]:
    """The experiment of a folder, and its trained model on `device`.

    Args:
        run: the folder.
        device: as in `usable_device`.
        average_length: of the average of the weights, as in `load_average`; None: that of the training.
        network: of the user's own, as in `own_network`.

    Raises:
        ValueError: the folder holds no training run, or the device cannot be used.
        FileNotFoundError: the run has no checkpoint yet.
    """
    if is_foreign(run):
        if average_length is not None:
            raise ValueError(f"--average-length: {run} is no training run, so that it has no snapshots")
        foreign, loaded = load_foreign(run, None if network is None else own_network(network))
        return foreign, loaded.to(usable_device(device))
    if network is not None:
        raise ValueError(f"--network: {run} is a training run, which has its own network")
    experiment = Experiment.read(run)
    if average_length is None:
        return experiment, experiment.load_model(run, usable_device(device))
    model, error = load_average(run, experiment.model(), average_length)
    if error > LARGEST_ERROR:
        warnings.warn(
            f"the average of length {average_length:g} has an error of {error:.0%}: {run} has too few snapshots", stacklevel=2
        )
    return experiment, model.to(usable_device(device))


def guided(run: Path, experiment: Experiment, model: Loaded, weight: float) -> Loaded | Guided:
    """The model with --guidance; at a weight of 1 the model itself.

    Raises:
        ValueError: the run was trained without --label-dropout.
    """
    if weight == 1:
        return model
    # Of a converted model it is not known how it was trained.
    if isinstance(experiment, Foreign) and null_label(model) is None:
        raise ValueError(f"--guidance {weight:g}: the network of {run} has no attribute null, the label that means none")
    if not (experiment.recipe.label_dropout or isinstance(experiment, Foreign)):
        raise ValueError(
            f"--guidance {weight:g}: {run} was trained without --label-dropout, so it has no prediction without a label"
        )
    return Guided(model, weight)


def label_number(run: Path, experiment: Experiment, label: str) -> int:
    """The number of the class that --label means: its name where the run keeps names, else its number.

    Raises:
        ValueError: the run has no such class, or was trained without classes.
    """
    if not experiment.conditional or experiment.classes is None:
        if isinstance(experiment, Foreign):
            raise ValueError(f"--label {label}: the network of {run} takes no label=, or has no attribute classes")
        raise ValueError(f"--label {label}: {run} was trained without --conditional")
    names = read_class_names(run)
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < experiment.classes:
        return int(label)
    numbers = f"0..{experiment.classes - 1}"
    raise ValueError(f"--label {label}: the classes of {run} are {numbers}" + (f", or {', '.join(names)}" if names else ""))


def labels(experiment: Experiment, seeds: range, label: int | None = None) -> dict[str, Tensor]:
    """The class of each sample of a conditional model, `(len(seeds),)`: `label`, or the seeds modulo the number of classes."""
    if not experiment.conditional or experiment.classes is None:
        return {}
    return {"label": torch.tensor([seed % experiment.classes if label is None else label for seed in seeds])}


def labels_of_data(experiment: Experiment, seeds: range, real: Data) -> tuple[dict[str, Tensor], str]:
    """The class of each sample of a conditional model that real data are compared with, and a sentence about them.

    Samples have to be of the classes in the shares of the data: otherwise the shares count in a distance between the two.

    Args:
        experiment: of the run.
        seeds: one for each sample. That of seed s has the class of the real sample s modulo their number.
        real: the data. Where they have no labels the classes are in turn.
    """
    if not experiment.conditional or experiment.classes is None:
        return {}, ""
    if real.labels is None:
        return labels(experiment, seeds), "Samples have the classes in turn, as the data have no labels."
    said = (
        "Samples have the labels of these real ones in their order, and so the classes in the shares of the data. The two sets of the floor "
        "have labels of their own, so that a good network can be below it."
    )
    return {"label": real.labels[torch.tensor([seed % len(real.labels) for seed in seeds])]}, said
