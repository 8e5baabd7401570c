"""Layers that behave in another way in training mode: dropout, batch norm, and whatever reads `self.training`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

from torch import nn

from .base import Model


def layers_in_training(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in training mode whose code reads `self.training`, those that drop nothing left out."""
    for layer in module.modules():
        forward = getattr(getattr(type(layer).forward, "__code__", None), "co_names", ())
        own = vars(layer)  # networks of diffusers warn where other attributes are asked for
        drops_nothing = own.get("p", own.get("dropout")) in (0, 0.0)
        if layer.training and "training" in forward and not drops_nothing:
            yield layer


def warn_if_training(model: Model) -> None:
    """Warn that samples of `model` would be random beyond their seeds, depend on their batch, or change its statistics.

    Python shows the warning once for each line of use.
    """
    if not isinstance(model, nn.Module) or not model.training:
        return
    layer = next(layers_in_training(model), None)
    if layer is not None:
        warnings.warn(
            f"the network is in training mode, in which {type(layer).__name__} depends on the global random state or on the batch: call "
            "model.eval() first",
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )


def stacklevel_of_user() -> int:
    """The `stacklevel` at which a warning of the caller names the first line outside this package and torch, whose decorators lie between."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("scoresde", "torch"):
        frame, level = frame.f_back, level + 1
    return level
