"""The loss of each sample as the output of a module, which is what DDP watches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .. import losses
from ..models.score_model import ScoreModel
from .recipe import Recipe

# `loss(model, x, generator, **conditions)`: one loss for each sample, `(B,)`, from samples `(B, *event)` and a generator on their device.
LossFunction = Callable[..., Tensor]

# The name of the loss of a recipe, in a checkpoint.
DENOISING = "denoising"


class Denoising(nn.Module):
    """The denoising loss of a recipe."""

    def __init__(self, model: ScoreModel, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.weighting = model, recipe.weighting

    def forward(self, x: Tensor, cond: dict[str, Any], t: Tensor, noise: Tensor) -> Tensor:
        """`x` `(n, *event)`, `t` `(n,)`, noise of the shape of a state -> `(n,)`."""
        return losses.denoising(self.model, x, self.weighting, t=t, noise=noise, **cond)


class OwnLoss(nn.Module):
    """A loss of the user's own."""

    def __init__(self, model: ScoreModel, loss: LossFunction) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, cond: dict[str, Any], seed: int) -> Tensor:
        """`x` `(n, *event)` -> `(n,)`.

        Raises:
            TypeError: the loss returns no tensor of real numbers.
            ValueError: it returns another shape, or a number that does not depend on the weights.
        """
        found: Any = self.loss(self.model, x, Generator(x.device).manual_seed(seed), **cond)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise TypeError(f"loss must return a tensor of real numbers, got {getattr(found, 'dtype', type(found).__name__)}")
        if found.shape != (len(x),):
            raise ValueError(
                f"loss must return one number for each of the {len(x)} samples, a tensor of shape ({len(x)},), got {tuple(found.shape)}"
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise ValueError("loss must depend on the weights of the model, and what it returns has no gradient")
        return found


def loss_name(loss: LossFunction | None) -> str:
    """The name by which a checkpoint knows a loss.

    Raises:
        TypeError: it is no function, or one whose third argument is not the generator.
    """
    if loss is None:
        return DENOISING
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(f"loss must be a function of (model, x, generator), got {loss!r}")
    parameters = inspect.signature(loss).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(names) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(f"loss must take (model, x, generator), and takes ({', '.join(names)})")
    if "generator" in [p.name for p in parameters][3:]:
        name = getattr(loss, "__name__", "loss")
        raise TypeError(
            f"loss is called as loss(model, x, generator), and the third argument of {name} is {names[2]}: wrap it, "
            f"lambda model, x, generator, **cond: {name}(model, x, ..., generator=generator, **cond)"
        )
    return f"{loss.__module__}.{getattr(loss, '__qualname__', type(loss).__qualname__)}"
