"""Times that networks of other libraries are told, for `ScoreModel(..., time=)`: functions of the path and of t `(n,)` in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sde.base import SDE
from .score_model import index, noise_scale

__all__ = ["LevelFromHighest", "Multiple", "MultipleOfIndex", "noise_scale", "remaining"]


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
