"""`scoresde convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from ...data import NAMES
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
    inmost,
    is_foreign,
    load_foreign,
    parts_of_diffusers,
    pretrained,
    stored_event,
)
from ..options import NetworkOption, integers, output_folder, path
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
    held_out: Annotated[int, typer.Option(min=1, help="How many of the data are held out.")] = 200,
    network: NetworkOption = None,
    clip: Annotated[
        bool | None,
        typer.Option(
            help="Hold the data prediction to the range of a scheduler of diffusers that clips, or leave it.", show_default=False
        ),
    ] = None,
) -> None:
    """Convert a model to a RUN that the other commands take.

    Writes a folder for sample, fit and compare. What is not known is refused by its name, and nothing is guessed.
    """
    event = None if shape is None else as_event("--shape", integers("--shape", shape))
    about = About(str(source.resolve()), event or (), _absolute(data), held_out, clip)
    if (source / NETWORK).is_dir():
        unet, scheduler = parts_of_diffusers(source)
        # Only here is it known that diffusers is installed.
        from ...interop.diffusers import from_diffusers

        from_diffusers(unet, scheduler, clip=clip)  # says what it reads, and refuses what cannot be sampled
        size = unet.config.sample_size
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        event = event or (unet.config.in_channels, *sides)
        if len(event) != 3:
            raise ValueError(f"--shape: {source / NETWORK} does not say the size of its images")
        output_folder(out)
        unet.save_pretrained(out / NETWORK)
        scheduler.save_pretrained(out / SCHEDULER)
    else:
        model, known, known_data = _of_scoresde(source, like, None if network is None else own_network(network))
        event = event or known or getattr(bare(model.network), "event_shape", None)
        if not event:
            raise ValueError(f"--shape: {source} does not say the shape of a sample")
        save_pretrained(model, output_folder(out), event=event)
        about = About(about.origin, event, about.data or known_data, held_out)
    About(about.origin, tuple(event), about.data, about.held_out, about.clip).write(out)
    print(f"{out}: converted from {source}, samples of shape {tuple(event)}")


def _of_scoresde(source: Path, like: Path | None, network: nn.Module | None) -> tuple[ScoreModel, tuple[int, ...] | None, str]:
    """The model of a file or a folder, the shape of a sample where it is known, and the data where they are."""
    cpu = torch.device("cpu")
    if source.suffix == ".safetensors":
        tensors, description = read_tensors(source, KEY)
        if description is not None:
            with reading(source, said="describes no model that can be used"):
                return build(description, tensors), None, ""
        if like is None:
            raise ValueError(f"--like: {source} holds weights alone; name a run with their network and process")
        experiment = Experiment.read(like)
        model = experiment.model().eval()
        try:
            model.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"--like {like}: its network has not the weights of {source}: {error}") from None
        return model, experiment.event, experiment.data
    if (source / ABOUT).exists():
        foreign, loaded = load_foreign(source, network)
        return inmost(loaded), foreign.event, foreign.data
    if is_foreign(source):
        return pretrained(source, network), stored_event(source), ""
    if not (source / CONFIG).is_file():
        raise ValueError(
            f"{source} is no folder of diffusers (with {NETWORK} and {SCHEDULER}), no model, no run and no .safetensors file"
        )
    experiment = Experiment.read(source)
    return experiment.load_model(source, cpu), experiment.event, experiment.data


def _absolute(data: str | None) -> str:
    """The data, by their name or an absolute path."""
    return "" if data is None else data if data in NAMES else str(Path(data).resolve())
