"""The checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.score_model import ScoreModel
from ..numerics.files import read_tensors, subset, write_tensors

CHECKPOINT = "checkpoint.safetensors"
# Where a checkpoint's metadata hold what is not a tensor.
KEY = "json"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors and JSON, at once or not at all."""
    write_tensors(path, tensors, about, KEY)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_checkpoint` wrote, on the CPU.

    Raises:
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
