"""The times that networks of diffusers are told, and back: u(t) and t(u). Both are float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...sde.base import SDE


class Clock(Protocol):
    """A network's time u as a function of t on a path."""

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        """u(t)."""
        ...

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        """t(u)."""
        ...


@dataclass(frozen=True)
class Index:
    """u = t T - 1: the index 0..T-1 of a chain, fractional between its steps."""

    steps: int

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        return t * self.steps - 1

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        return (u + 1) / self.steps


@dataclass(frozen=True)
class Scaled:
    """u = T t on a flow. With `inverted`, u = T (1 - t)."""

    steps: int
    inverted: bool = False

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        return self.steps * (1 - t if self.inverted else t)

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        return 1 - u / self.steps if self.inverted else u / self.steps


@dataclass(frozen=True)
class QuarterLog:
    """u = log(sigma/alpha)/4 (Karras et al. 2022, arXiv 2206.00364)."""

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        return -0.25 * sde.half_log_snr(t)

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        return sde.time(-4 * u)


@dataclass(frozen=True)
class Arctangent:
    """u = (2/pi) arctan(sigma/alpha)."""

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.atan((-sde.half_log_snr(t)).exp()) * (2 / math.pi)

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        return sde.time(-torch.tan(u * (math.pi / 2)).log())


@dataclass(frozen=True)
class NoiseScale:
    """u = sigma/alpha."""

    def time(self, sde: SDE, t: Tensor) -> Tensor:
        return (-sde.half_log_snr(t)).exp()

    def inverse(self, sde: SDE, u: Tensor) -> Tensor:
        return sde.time(-u.log())
