"""The checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models.score_model import ScoreModel
from ..numerics.files import read_about, read_tensors, subset, write_tensors
from .identity import model_identity, require_same, unwrapped

CHECKPOINT = "checkpoint.safetensors"
# The key of the JSON in a checkpoint's metadata.
KEY = "json"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors, and `about` as JSON, in one step: a killed process leaves the old file."""
    write_tensors(path, tensors, about, KEY)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, on the CPU, and its JSON.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: the file is no checkpoint.
    """
    tensors, about = read_tensors(path, KEY)
    if about is None:
        raise ValueError(f"{path} is no checkpoint of scoresde")
    return tensors, about


def about_checkpoint(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: the file is no checkpoint.
    """
    about = read_about(path, KEY)
    if about is None:
        raise ValueError(f"{path} is no checkpoint of scoresde")
    return about


def load_averaged(path: str | Path, model: ScoreModel) -> ScoreModel:
    """Load the averaged weights of a checkpoint into `model`, in evaluation mode.

    The network may stand in a wrapper such as `DataParallel` or `torch.compile` here and not in the checkpoint, or the other way round.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the file is no checkpoint, or one of another network, process or prediction; names what differs.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    tensors, about = read_checkpoint(path)
    require_same(path, about, model_identity(model))
    # `AveragedModel` is a wrapper, too.
    averaged = {name.removeprefix("module."): value for name, value in subset("average", tensors).items()}
    averaged.pop("n_averaged", None)
    model.load_state_dict(state_for(path, averaged, model))
    return model.eval()


def state_for(path: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the names that they have in `module`. Nothing is loaded yet.

    Raises:
        ValueError: the two differ by more than wrappers; names the first difference.
    """
    state = module.state_dict()
    found = dict(tensors)
    if found.keys() != state.keys():
        own = {unwrapped(name): name for name in state}
        found = {own.get(unwrapped(name), name): value for name, value in tensors.items()}
        if len(found) != len(tensors):
            raise ValueError(
                f"{path} has tensors that differ in the names of wrappers alone: load it into the network that was trained"
            )
    for name in [*state, *found]:
        here, there = (tuple(part[name].shape) if name in part else "none" for part in (state, found))
        if here != there:
            raise ValueError(f"{path} is of another network: {name} has shape {there} there and {here} here")
    return found
