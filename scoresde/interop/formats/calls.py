"""How foreign networks are called, the sign of what they return, and the times that they are told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models.score_model import as_output, index
from ...sde.base import SDE

# How a network is called with (z, time, **cond).
Call = Callable[..., Any]


def state_first(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(z, time, **cond)`."""
    return network(z, time, **cond)


def time_first(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(time, z, **cond)`, as torchcfm and torchdyn call networks."""
    return network(time, z, **cond)


def by_keyword(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(x=z, t=time, **cond)`, as flow_matching calls networks."""
    return network(x=z, t=time, **cond)


class Called(nn.Module):
    """A foreign network in the order of ours, `(z, time, **cond)`.

    Args:
        network: the network. It returns a tensor, or a tuple, dict or dataclass that holds one (`models.score_model.as_output`).
        call: how it is called.
        sign: -1 returns the negative of the network's output.
    """

    def __init__(self, network: nn.Module, call: Call = state_first, sign: int = 1) -> None:
        super().__init__()
        self.network, self.call, self.sign = network, call, sign

    def forward(self, z: Tensor, time: Tensor, **cond: Any) -> Tensor:
        """sign times the network's output, of the shape of `z`."""
        out = as_output(self.call(self.network, z, time, **cond))
        return out if self.sign == 1 else -out


def noise_scale(sde: SDE, t: Tensor) -> Tensor:
    """sigma/alpha."""
    return (-sde.half_log_snr(t)).exp()


def remaining(sde: SDE, t: Tensor) -> Tensor:
    """1 - t, the time of flows that run from noise at 0 to data at 1."""
    return 1 - t


@dataclass(frozen=True)
class Multiple:
    """The time `factor` t."""

    factor: float

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return self.factor * t


@dataclass(frozen=True)
class MultipleOfIndex:
    """The time `factor` i at the 0-based index i of a chain."""

    factor: float

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return self.factor * index(sde, t)


@dataclass(frozen=True)
class LevelFromHighest:
    """The nearest of N noise levels in geometric progression as an integer, with 0 for `sigma_max` and N - 1 for `sigma_min`."""

    sigma_min: float
    sigma_max: float
    levels: int

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        share = (math.log(self.sigma_max) + sde.half_log_snr(t)) / math.log(self.sigma_max / self.sigma_min)
        return (share * (self.levels - 1)).round().clamp(0, self.levels - 1).to(torch.int64)
