"""The checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.score_model import ScoreModel
from ..numerics.files import read_tensors, subset, write_tensors

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


def load_averaged(path: str | Path, model: ScoreModel) -> ScoreModel:
    """Load the averaged weights of a checkpoint into `model`, in evaluation mode.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the file is no checkpoint.
        RuntimeError: its tensors do not fit the network.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    tensors, _ = read_checkpoint(path)
    averaged = {name.removeprefix("module."): value for name, value in subset("average", tensors).items()}
    averaged.pop("n_averaged")
    model.load_state_dict(averaged)
    return model.eval()
