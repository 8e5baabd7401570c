"""A path of numbers as a linear SDE of one block."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import SDE
from .diagonal import OnScalarPath
from .linear import LinearSDE


class ScalarAsLinear(OnScalarPath):
    """K = m = 1."""

    def __init__(self, sde: SDE) -> None:
        self.sde, self.t_min, self.t_max = sde, sde.t_min, sde.t_max

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]

    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        ratio = self.sde.sigma(t) / self.sde.sigma(s)
        if eta:
            # From lambda itself, which keeps its digits where alpha/sigma is large.
            ratio = ratio * torch.exp(-(eta**2) * (self.sde.half_log_snr(t) - self.sde.half_log_snr(s)))
        return ratio[:, None]

    def __repr__(self) -> str:
        return repr(self.sde)


def as_linear(sde: SDE) -> LinearSDE:
    """`sde` itself if it is linear already."""
    return sde if isinstance(sde, LinearSDE) else ScalarAsLinear(sde)
