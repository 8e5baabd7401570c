"""What two runs must have in common for one to go on from the checkpoint of the other.

A process, a weighting and a time sampler may be functions, which have no name that identifies them. They are compared by numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import losses
from ..data import Memory, Source, Stream
from ..data.memory import Loaded
from ..losses.blocks import block_weights
from ..losses.times import TimeSampler
from ..models.score_model import ScoreModel
from ..numerics.random import cpu_generator, global_seed
from ..sde.fingerprint import PROBE_TIMES, schedule_fingerprint
from ..sde.linear import LinearSDE
from .objective import DENOISING, LossFunction, loss_name
from .recipe import Recipe

# `DataParallel`, `DistributedDataParallel` and `torch.compile` put a network one level deeper, under these names.
WRAPPERS = ("module", "_orig_mod")

# Entries of a recipe or an experiment that may change when a run goes on: how long it lasts, how often something is done beside the steps, and
# how the gradient is computed.
FREE = {"iterations", "validate_every", "save_every", "snapshot_every", "recompute"}

# The hash of the bytes of data that are known by the fingerprint of their source.
IN_MEMORY = "data in memory"

# What a checkpoint has of which it says nothing. None: it is no checkpoint of a run.
UNSAID = {"recipe": None, "data": None, "loss": DENOISING}

# Times at which the loss is tried.
TRIED = 32


def unwrapped(name: str) -> str:
    """The name of a tensor without the levels of wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def model_identity(model: ScoreModel) -> dict[str, object]:
    """What the outputs of a network mean: its process, its prediction and the time that it sees."""
    return {
        "sde": f"{type(model.sde).__name__} {_digits(schedule_fingerprint(model.sde))}",
        "prediction": str(model.prediction),
        "time convention": _digits(model.network_time(PROBE_TIMES)),
    }


def identity(
    model: ScoreModel, recipe: Recipe, source: Source | Stream, tried: Tensor, loss: LossFunction | None
) -> dict[str, object]:
    """The recipe, and hashes of the data, of their conditions, the model's parts and the loss.

    Args:
        model: the model before its training.
        recipe: how it is trained.
        source: the data.
        tried: of `try_loss`.
        loss: of the user's own, which is known by its name alone; None: that of the recipe.
    """
    parts = [f"{unwrapped(name)} {tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()]
    return {
        # Through JSON once, as a file returns it.
        "recipe": json.loads(json.dumps(recipe.entries(), default=_described)),
        **_data_identity(source),
        "network": _hash("\n".join(sorted(parts)).encode()),
        **model_identity(model),
        "time sampler or weighting": _digits(tried),
        "loss": loss_name(loss),
    }


def _data_identity(source: Source | Stream) -> dict[str, object]:
    """Of data in memory every byte counts; a source that is read on the way says what identifies it.

    Data that were read from such a source have both: where they are may change.
    """
    if not isinstance(source, Memory):
        return {"data": source.fingerprint()}
    in_memory = f"{tuple(source.x.shape)} {_bytes(source.x)}"
    conditions = {name: f"{tuple(value.shape)} {_bytes(value)}" for name, value in source.cond.items()}
    said = {"data": source.fingerprint(), IN_MEMORY: in_memory} if isinstance(source, Loaded) else {"data": in_memory}
    return {**said, "conditions": conditions}


def require_same(path: Path, about: Mapping[str, object], mine: Mapping[str, object]) -> None:
    """Raise unless a checkpoint has all that `mine` has, an `identity` or a `model_identity`.

    An entry that an older version did not write is not compared, and neither are those that are `FREE`.

    Raises:
        ValueError: names what differs.
    """
    for name, here in mine.items():
        there = about.get(name, UNSAID.get(name, here))
        # Older versions knew all data in memory by their bytes alone.
        if there == here or (name == "data" and there is not None and there == mine.get(IN_MEMORY)):
            continue
        difference = f"{there}, here {here}"
        if isinstance(there, dict) and isinstance(here, dict):
            found = difference_of(there, here)
            difference = found and f"another ({found})"
        if difference:
            raise ValueError(f"{path} is of another training run: its {name} is {difference}")


def difference_of(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """The entries that differ, in words; those that are `FREE` aside."""
    parts = []
    for key in (key for key in {**old, **new} if key not in FREE):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            parts.append(difference_of(before, after))
        elif before != after:
            parts.append(f"{key}: {before} there, {after} here")
    return ", ".join(part for part in parts if part)


def try_loss(model: ScoreModel, recipe: Recipe, sampler: TimeSampler | None) -> Tensor:
    """Some times of a time sampler with their weights, and the weights of the loss there, `(3, n)`.

    Raises:
        TypeError: the time sampler or the weighting returns no tensors.
        ValueError: it cannot be used with this model, returns something else than one number a time, or no finite one.
    """
    # Also for a time sampler that draws from the global state.
    with global_seed(0):
        t, importance = losses.draw_times(model.sde, TRIED, sampler, cpu_generator(0))
    weight = _loss_weight(model, t, recipe)
    for name, values in (("time_sampler", t), ("time_sampler", importance), ("weighting", weight)):
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must return tensors, got a {type(values).__name__}")
        if values.shape != (TRIED,) or not bool(values.isfinite().all()):
            raise ValueError(f"{name} must return one finite number for each of {TRIED} times, got {values}")
    return torch.stack([values.detach().double().cpu() for values in (t, importance, weight)])


def _loss_weight(model: ScoreModel, t: Tensor, recipe: Recipe) -> Tensor:
    """The weight of the squared error of the network's output at each time; on a `LinearSDE` the mean over its blocks."""
    if isinstance(model.sde, LinearSDE):
        on_error, factor = block_weights(model.sde, t, model.prediction, recipe.weighting)
        return on_error.square().mean(1) * factor
    return losses.output_weight(model.sde, t, model.prediction, recipe.weighting)


def _described(part: Any) -> Any:
    """What JSON can write of a recipe: the fields of a dataclass, and the name of a function."""
    if is_dataclass(part):
        return {field.name: getattr(part, field.name) for field in fields(part)}
    return getattr(part, "__qualname__", type(part).__name__)


def _digits(values: Tensor) -> str:
    """A hash of six digits of each number: other machines compute the same digits. What is below 1e-9 may be the rounding of a 0."""
    numbers: list[Any] = values.detach().double().cpu().flatten().tolist()
    return _hash(",".join("0" if abs(value) < 1e-9 else f"{value:.6g}" for value in numbers).encode())


def _bytes(values: Tensor) -> str:
    return _hash(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _hash(raw: Any) -> str:
    return hashlib.blake2b(raw, digest_size=8).hexdigest()
