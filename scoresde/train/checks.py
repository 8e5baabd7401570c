"""What a trainer is given: a model, data and their conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.score_model import ScoreModel
from ..networks.embedding import Embedding
from ..networks.labels import as_labels
from ..numerics.inputs import as_device, as_state, as_tensor
from .recipe import Recipe


def require_trainable(model: object, recipe: object) -> None:
    """Raise unless the trainer can train the model by the recipe.

    Raises:
        TypeError: they are no `ScoreModel` and no `Recipe`.
        ValueError: it has no weights to train, or weights without numbers.
    """
    if not isinstance(model, ScoreModel):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        hint = (
            "; compile or wrap the network in it: ScoreModel(torch.compile(network), sde)" if isinstance(inner, ScoreModel) else ""
        )
        raise TypeError(f"model must be a ScoreModel, got a {type(model).__name__}{hint}")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got a {type(recipe).__name__}")
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
