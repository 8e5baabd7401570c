"""`scoresde convert`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from ...data import NAMES
from ...data.images import MODES
from ...models.score_model import ScoreModel
from ...numerics.files import read_tensors, reading
from ...numerics.inputs import as_event
from ...sharing.description import bare, build
from ...sharing.pretrained import KEY, save_pretrained
from ...train.config import CONFIG
from ...train.experiment import Experiment
from ..foreign import (
    ABOUT,
    NETWORK,
    SCHEDULER,
    About,
    is_foreign,
    parts_of_diffusers,
    pretrained,
    stored_event,
)
from ..options import CropOption, ModeOption, NetworkOption, SizeOption, integers, output_folder, path
from ..own_network import own_network


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of diffusers with unet and scheduler, a folder of ss.save_pretrained, a RUN, or a .safetensors file of weights.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    like: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="RUN", help="A run with the network and the process of a file that holds weights alone."),
    ] = None,
    shape: Annotated[str | None, typer.Option(metavar="C,H,W", help="Shape of a sample, where SOURCE does not say it.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The data to compare with, as for train: compare, check and diagnose need them.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(min=1, help="How many of the data are held out; by default as many as of a RUN, or 200."),
    ] = None,
    size: SizeOption = None,
    crop: CropOption = None,
    mode: ModeOption = None,
    network: NetworkOption = None,
    clip: Annotated[
        bool | None,
        typer.Option(
            help="Hold the data prediction to the range of a scheduler of diffusers that clips, or leave it.", show_default=False
        ),
    ] = None,
) -> None:
    """Convert a model to a RUN that the other commands take.

    Writes a folder for sample, fit and compare. What is not known is refused by its name, and nothing is guessed. The data are read once, and
    refused where the model takes samples of another shape.
    """
    event = () if shape is None else as_event("--shape", integers("--shape", shape))
    if (source / NETWORK).is_dir():
        about, write = _of_diffusers(source, event, clip)
    else:
        about, write = _of_scoresde(source, event, like, None if network is None else own_network(network))
    about = replace(about, origin=str(source.resolve()), held_out=held_out or about.held_out)
    if data is not None:
        about = replace(about, data=_absolute(data), size=size, crop=crop, mode=mode)
        require_shape(about)
    elif size or crop or mode:
        raise ValueError("--size, --crop and --mode are of the images of --data")
    write(output_folder(out))
    about.write(out)
    print(f"{out}: converted from {source}, samples of shape {about.event}")


# Writes the model into a folder.
Writer = Callable[[Path], None]


def _of_diffusers(source: Path, event: tuple[int, ...], clip: bool | None) -> tuple[About, Writer]:
    """What is known of a folder of diffusers."""
    known = About.read(source) if (source / ABOUT).exists() else About(str(source), ())
    clip = known.clip if clip is None else clip
    unet, scheduler = parts_of_diffusers(source)
    # Only here is it known that diffusers is installed.
    from ...interop.diffusers import from_diffusers

    from_diffusers(unet, scheduler, clip=clip)  # says what it reads, and refuses what cannot be sampled
    side = unet.config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side or ())
    event = event or known.event or (unet.config.in_channels, *sides)
    if len(event) != 3:
        raise ValueError(f"--shape: {source / NETWORK} does not say the size of its images")

    def write(folder: Path) -> None:
        unet.save_pretrained(folder / NETWORK)
        scheduler.save_pretrained(folder / SCHEDULER)

    return replace(known, event=event, clip=clip), write


def _of_scoresde(source: Path, event: tuple[int, ...], like: Path | None, network: nn.Module | None) -> tuple[About, Writer]:
    """What is known of a model of this package."""
    model, known = _loaded(source, like, network)
    event = event or known.event or getattr(bare(model.network), "event_shape", ())
    if not event:
        raise ValueError(f"--shape: {source} does not say the shape of a sample")
    return replace(known, event=tuple(event)), lambda folder: save_pretrained(model, folder, event=event)


def _loaded(source: Path, like: Path | None, network: nn.Module | None) -> tuple[ScoreModel, About]:
    """The model of a file or a folder, and what is known of it: the shape of a sample may be missing, and so may the data."""
    unknown = About(str(source), ())
    if source.suffix == ".safetensors":
        tensors, description = read_tensors(source, KEY)
        if description is not None:
            with reading(source, said="describes no model that can be used"):
                return build(description, tensors), unknown
        if like is None:
            raise ValueError(f"--like: {source} holds weights alone; name a run with their network and process")
        experiment = Experiment.read(like)
        model = experiment.model().eval()
        try:
            model.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"--like {like}: its network has not the weights of {source}: {error}") from None
        return model, About.of(experiment)
    if (source / ABOUT).exists():
        return pretrained(source, network), About.read(source)
    if is_foreign(source):
        return pretrained(source, network), replace(unknown, event=stored_event(source) or ())
    if not (source / CONFIG).is_file():
        raise ValueError(
            f"{source} is no folder of diffusers (with {NETWORK} and {SCHEDULER}), no model, no run and no .safetensors file"
        )
    experiment = Experiment.read(source)
    return experiment.load_model(source), About.of(experiment)


def require_shape(about: About) -> None:
    """Read the data, and raise where the model takes others.

    Raises:
        ValueError: the samples have another shape; says what may help.
        DataError: the data set is missing or cannot be read.
    """
    training, _ = about.foreign().load_data()
    found = tuple(training.x.shape[1:])
    if found == about.event:
        return
    remedies = []
    if Path(about.data).is_dir() and len(about.event) == 3:
        channels, height, width = about.event
        remedies += [f"--size {height}"] if found[1:] != (height, width) and height == width else []
        remedies += [f"--mode {mode}" for mode, number in MODES.items() if number == channels != found[0]]
    hint = f": {' '.join(remedies)} may help" if remedies else ""
    raise ValueError(f"--data {about.data}: data have shape {found}, the model takes {about.event}{hint}")


def _absolute(data: str) -> str:
    """The data, by their name or an absolute path."""
    return data if data in NAMES else str(Path(data).resolve())
