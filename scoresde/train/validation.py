"""The loss on held-out data."""

from __future__ import annotations

from typing import Any

import torch

from .. import losses
from ..data import Source
from ..models.analytic import ZeroModel
from ..models.score_model import ScoreModel
from ..numerics.batching import batches, cond_to_device, indices
from ..numerics.random import cpu_generator, derive_seed
from .objective import LossFunction, OwnLoss
from .recipe import Recipe
from .world import Strategy

# Held-out samples in one network call. A constant, as the index of a part's first sample is the key of its noise.
PART = 256


def validate(model: ScoreModel, source: Source, recipe: Recipe, loss: LossFunction | None, strategy: Strategy) -> dict[str, float]:
    """Mean losses of a model ("validation") and, of the denoising loss, of a zero network ("zero"). The noise is the same in every call."""
    # No times that have learned from the training losses.
    sampler = None if recipe.time_sampler == "adaptive" else recipe.time_sampler
    models: dict[str, Any] = {"validation": model}
    if loss is None:
        models["zero"] = ZeroModel(model.sde, model.prediction)
    sums = dict.fromkeys(models, 0.0)
    for part in strategy.share(batches(len(source), PART)):
        x, cond = source.batch(indices(part))
        x, cond = x.to(model.device), cond_to_device(cond, model.device)
        seed = derive_seed(recipe.seed, "validation", part.start)
        for name, one in models.items():
            if loss is None:
                with torch.no_grad():
                    found = losses.denoising(one, x, recipe.weighting, sampler, cpu_generator(seed), **cond)
            else:
                # With gradients, which a loss may take with respect to x.
                found = OwnLoss(one, loss)(x, cond, seed).detach()
            sums[name] += float(found.sum())
    return {name: total / len(source) for name, total in strategy.total(sums).items()}
