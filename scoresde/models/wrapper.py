"""What every model around other models has: their path, their device, and a way to put other models into their places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ..numerics.brief import line, shown
from .base import Model, require_model


class Wrapper(nn.Module, Model):
    """A model around the model `model`, and perhaps around others.

    A subclass gives `prediction` and `output`. It is a module, so that `.to(device)` and `.parameters()` reach the networks inside. It has no
    layers of its own, and the mode of those inside stays.

    Raises:
        TypeError: `model` is no model.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        require_model(model, "output", "prediction", "prepare", "data")
        self.model, self.sde = model, model.sde
        self.training = getattr(model, "training", False)

    # Why the density of the probability flow is not what the model stands for; empty where it is.
    flow_note: str = ""

    def __repr__(self) -> str:
        return line(type(self).__name__, shown(self.model), self.extra_repr())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def inner(self) -> Iterator[tuple[str, Model]]:
        """The models inside by the attribute that holds them."""
        for name, value in (*self._modules.items(), *vars(self).items()):
            if isinstance(value, Model):
                yield name, value

    def around(self, change: Callable[[Model], Model]) -> Wrapper:
        """The same wrapper around `change(model)` in the place of each model inside. Weights are shared."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        for name, value in list(self.inner()):
            changed = change(value)
            # A module and another model live in different dictionaries.
            twin._modules.pop(name, None)
            vars(twin).pop(name, None)
            setattr(twin, name, changed)
        return twin
