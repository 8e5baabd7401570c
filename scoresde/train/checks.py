"""What a trainer is given: a model, data and their conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data import Memory, Source, Stream
from ..models.score_model import ScoreModel
from ..networks.embedding import Embedding
from ..networks.labels import as_labels, null_label
from ..numerics.inputs import as_count, as_device, as_state, as_tensor
from ..sde.base import MOST_SIGNAL, SDE
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE
from .objective import LossFunction, loss_name
from .recipe import Recipe

# How many times larger than the prior data may be on a path that ends without signal, and the rows that are looked at.
LARGE, ROWS = 20.0, 64


def require_trainable(model: object, recipe: object, loss: LossFunction | None = None) -> None:
    """Raise unless the trainer can train the model by the recipe.

    Raises:
        TypeError: they are no `ScoreModel` and no `Recipe`, or the loss is no function.
        ValueError: a time sampler or a weighting for a loss that has its own; or the model has no weights to train, or weights without numbers.
    """
    if not isinstance(model, ScoreModel):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        hint = (
            "; compile or wrap the network in it: ScoreModel(torch.compile(network), sde)" if isinstance(inner, ScoreModel) else ""
        )
        raise TypeError(f"model must be a ScoreModel, got a {type(model).__name__}{hint}")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got a {type(recipe).__name__}")
    loss_name(loss)
    if loss is not None and recipe.time_sampler is not None:
        raise ValueError("a loss of your own draws its times itself: leave the recipe's time_sampler None")
    if loss is not None and recipe.weighting != Recipe().weighting:
        raise ValueError(f"a loss of your own has a weighting of its own: leave out the recipe's weighting={recipe.weighting!r}")
    weights = list(model.parameters())
    if any(torch.nn.parameter.is_lazy(weight) for weight in weights):
        raise ValueError("the network has lazy weights, which get their shapes in its first call: call it once before training")
    if not any(weight.requires_grad for weight in weights):
        raise ValueError("the network has no weights that could be trained")
    as_device("the network's device", model.device)


def as_data(name: str, x: Any, cond: Mapping[str, Any], model: ScoreModel) -> tuple[Tensor, dict[str, Any]]:
    """Data `(N, *event)` and their conditions `(N, ...)`, as tensors.

    Raises:
        TypeError: data of integers or complex numbers, or a condition that is no tensor and cannot become one.
        ValueError: data that are empty or not finite, conditions of another length, or classes that the network does not have.
    """
    x = as_state(name, x)
    if not x.numel():
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite")
    if not isinstance(cond, Mapping):
        raise TypeError(f"cond must be a dict of tensors, such as {{'label': labels}}, got a {type(cond).__name__}")
    rows = {}
    for key, value in cond.items():
        rows[key] = as_tensor(key, value)
        if rows[key].ndim == 0 or len(rows[key]) != len(x):
            raise ValueError(f"{key} has {len(rows[key]) if rows[key].ndim else 'no'} entries for {len(x)} samples")
    if "label" in rows:
        for module in model.modules():
            if isinstance(module, Embedding):
                as_labels("label", rows["label"].cpu(), module.classes)
    return x, rows


def as_source(
    model: ScoreModel,
    recipe: Recipe,
    x: Tensor | Source | Stream,
    cond: Mapping[str, Any] | None,
    held_out: Tensor | Source | None,
    held_out_cond: Mapping[str, Any] | None,
) -> tuple[Source | Stream, Source | None]:
    """The training and the held-out data as sources that fit the model and each other.

    Raises:
        TypeError: as `as_data`.
        ValueError: as `as_data`; or conditions beside a source, or two sets of other events or conditions.
    """
    source = _as_source("x", x, cond, model)
    assert source is not None
    names, event = _looks(source)
    if recipe.label_dropout and (null_label(model) is None or "label" not in names):
        raise ValueError("label_dropout needs the condition label, and a network with the attribute null, its label for none")
    if isinstance(held_out, Stream):
        raise TypeError("held_out must be a tensor or a Source, whose samples are the same in every validation, not a Stream")
    kept = _as_source("held_out", held_out, held_out_cond, model)
    if kept is not None:
        assert not isinstance(kept, Stream)
        kept_names, kept_event = _looks(kept)
        if kept_event != event:
            raise ValueError(f"held_out has events of shape {kept_event}, x of {event}")
        if set(kept_names) != set(names):
            raise ValueError(f"held_out_cond has {', '.join(kept_names) or 'no entry'}, cond {', '.join(names) or 'none'}")
    return source, kept


def _as_source(
    name: str, x: Tensor | Source | Stream | None, cond: Mapping[str, Any] | None, model: ScoreModel
) -> Source | Stream | None:
    if x is None:
        return None
    if isinstance(x, Stream) or (hasattr(x, "batch") and hasattr(x, "fingerprint")):
        if cond is not None:
            raise ValueError(f"{name} is a source, which has conditions of its own")
        if isinstance(x, Memory):
            as_data(name, x.x, x.cond, model)
        elif not isinstance(x, Stream) and not len(x):
            raise ValueError(f"{name} is empty")
        return x
    return Memory(*as_data(name, x, {} if cond is None else cond, model))


def _looks(source: Source | Stream) -> tuple[list[str], tuple[int, ...]]:
    """The names of a source's conditions, and the shape of its events."""
    if isinstance(source, Stream):
        return list(source.columns.cond), source.shape
    x, cond = source.batch(torch.zeros(1, dtype=torch.int64, device="cpu"))
    return list(cond), tuple(as_state("x", x).shape[1:])


def warn_of_scale(sde: SDE, source: Source | Stream) -> None:
    """Warn where data are so large that noise of the end of the path does not cover them, such as pixels from 0 to 255."""
    if isinstance(source, Stream) or isinstance(sde, LinearSDE | Bridge):
        return
    x, _ = source.batch(torch.linspace(0, len(source) - 1, min(ROWS, len(source)), device="cpu").long())
    size, left = float(x.double().square().mean().sqrt()), float(sde.alpha(1.0)) / sde.prior_std
    # A path that keeps the signal of unit data is named when it is sampled.
    if size > LARGE * sde.prior_std or size * left > MOST_SIGNAL >= left:
        warnings.warn(
            f"the data have a root mean square of {size:.3g}, which the noise of {sde!r} does not cover: scale them, pixels to [-1, 1] and "
            "vectors by their standard deviation, and scale samples back",
            UserWarning,
            stacklevel=3,
        )


def require_splittable(batch_size: int, processes: int, accumulate: int) -> None:
    """Raise unless a batch can be cut into equal parts.

    Raises:
        ValueError: it cannot.
    """
    parts = processes * as_count("accumulate", accumulate)
    if batch_size % parts:
        raise ValueError(
            f"a batch of {batch_size} samples cannot be divided among {processes} processes x {accumulate} micro-batches"
        )
