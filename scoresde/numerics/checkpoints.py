"""Weights in the checkpoints of others. A file is read as tensors alone, and every tensor must fit before any is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

# A file, or what was read from one.
Checkpoint = str | PathLike[str] | Mapping[str, Any]


def read_checkpoint(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The entries of a checkpoint, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else than tensors and numbers by name.
    """
    if isinstance(checkpoint, Mapping):
        return checkpoint
    try:
        entries = torch.load(checkpoint, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{checkpoint} cannot be read as tensors alone: {error}") from error
    if not isinstance(entries, Mapping):
        raise ValueError(f"{checkpoint} must hold entries by name, got {type(entries).__name__}")
    return entries


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names start with `prefix`, without it; all of them where none does."""
    chosen = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return chosen or dict(state)


# A tensor of a network, and its value in a checkpoint.
Pair = tuple[Tensor, Tensor]


def pairs_by_name(module: nn.Module, state: Mapping[str, Any]) -> list[Pair]:
    """Every tensor of a module with its value. The prefix `module.` of DataParallel may be there or not, on either side.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    ours, theirs = (without_prefix(entries, "module.") for entries in (module.state_dict(keep_vars=True), state))
    missing, left = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
    if missing or left:
        raise ValueError(f"the weights do not fit the network: missing {_shown(missing)}; left over {_shown(left)}")
    return [_fitting(name, target, theirs[name]) for name, target in ours.items()]


def pairs_of_average(module: nn.Module, averages: Sequence[Any]) -> list[Pair]:
    """The trained parameters with their averages: a list in the order of `module.parameters()`, without the frozen ones.

    Raises:
        ValueError: another number of tensors, or one of another shape.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if len(averages) != len(trained):
        frozen = sum(1 for _ in module.parameters()) - len(trained)
        raise ValueError(
            f"the checkpoint has {len(averages)} averages for {len(trained)} trained parameters ({frozen} are frozen): give the network as it "
            "was trained, with the same parameters frozen"
        )
    return [_fitting(name, target, value) for (name, target), value in zip(trained, averages, strict=True)]


@torch.no_grad()
def load(pairs: Sequence[Pair]) -> None:
    """Copy every value into its tensor."""
    for target, value in pairs:
        target.copy_(value)


def _fitting(name: str, target: Tensor, value: Any) -> Pair:
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(target.shape):
        raise ValueError(f"the weights do not fit the network: {name} has shape {tuple(target.shape)}, in the checkpoint {shape}")
    return target, value


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
