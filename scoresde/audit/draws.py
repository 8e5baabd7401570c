"""Every normal draw of a run, seen or replaced, whatever library makes it.

A torch dispatch mode meets each random operation below Python: torch.randn, randn_like, normal_, with a generator or without, from Brownian
trees too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_NEW = {_aten.randn.default, _aten.randn.generator, _aten.randn_like.default}
_IN_PLACE = {_aten.normal_.default}
_SCALED = {_aten.normal.float_float, _aten.normal.Tensor_float, _aten.normal.float_Tensor, _aten.normal.Tensor_Tensor}
_OTHER = {_aten.rand.default, _aten.rand.generator, _aten.rand_like.default, _aten.uniform_.default, _aten.bernoulli.default}

Replacement = Callable[[int, Tensor], Tensor]


class Draws(TorchDispatchMode):
    """Counts the normal draws within, and gives `replace(k, draw)` in the place of draw number k.

    A draw that is equal to an earlier one bit for bit has its number: a Brownian tree computes a node again when it has forgotten it.

    Attributes:
        count: normal draws so far.
        other: draws of another law so far; these are never replaced.
    """

    def __init__(self, replace: Replacement | None = None) -> None:
        super().__init__()
        self.replace, self.count, self.other = replace, 0, 0
        self._numbers = dict[tuple[torch.Size, bytes], int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.other += func in _OTHER
        if func in _NEW:
            return self._unit(out)
        if func in _IN_PLACE:
            mean, std = _arguments(args[1:], kwargs)
            return args[0].copy_(mean + std * self._unit((out - mean) / std))
        if func in _SCALED:
            mean, std = _arguments(args, kwargs)
            return mean + std * self._unit((out - mean) / std)
        return out

    def _unit(self, draw: Tensor) -> Tensor:
        k = self._numbers.setdefault((draw.shape, draw.flatten()[:16].double().numpy().tobytes()), self.count)
        self.count = max(self.count, k + 1)
        if self.replace is None:
            return draw
        made = self.replace(k, draw)
        if made.shape != draw.shape and made.flatten(1).shape != draw.shape:
            raise ValueError(f"noise of shape {tuple(draw.shape)} for states of shape {tuple(made.shape)}")
        # Some hosts flatten events.
        return made.reshape(draw.shape).to(dtype=draw.dtype, device=draw.device)


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> tuple[Any, Any]:
    """Mean and standard deviation of a call to `normal`."""
    named = kwargs or {}
    mean = args[0] if args else named.get("mean", 0.0)
    std = args[1] if len(args) > 1 else named.get("std", 1.0)
    return mean, std
