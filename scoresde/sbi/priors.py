"""Priors whose diffused score is known. Gaussian ones and mixtures are `analytic.GaussianMixture`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import Time, expand
from ..numerics.inputs import as_numbers, as_state
from ..sde.base import SDE, as_time
from ..sde.prediction import Prediction


class BoxModel(Model):
    """The exact model of data that are uniform on a box; see `uniform_prior`."""

    prediction: Prediction = "data"

    def __init__(self, low: object, high: object, sde: SDE) -> None:
        self.low, self.high, self.sde = as_numbers("low", low), as_numbers("high", high), sde
        if self.low.shape != self.high.shape or not bool((self.low < self.high).all()):
            raise ValueError(
                f"low must be below high, both of the shape of an event, got {self.low.tolist()} and {self.high.tolist()}"
            )

    @property
    def precision(self) -> Tensor:
        """The inverse of the covariance of the data, `(d, d)`."""
        return torch.diag(12 / (self.high - self.low).reshape(-1) ** 2)

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[x | z_t = z] in float64.

        Raises:
            TypeError: a condition.
        """
        if cond:
            raise TypeError(f"the exact model of a box takes no conditions, got {', '.join(cond)}")
        z, t = as_state("z", z).double(), as_time(t)
        alpha, sigma = expand(self.sde.alpha(t), z), expand(self.sde.sigma(t), z)
        low, high = self.low.to(z.device), self.high.to(z.device)
        # In units of the width, where no signal is left as well: m = z/alpha and r = sigma/alpha may be infinite.
        a, b = ((alpha * edge - z) / sigma for edge in (low, high))
        return _truncated_mean(low, high, a, b)


def uniform_prior(low: object, high: object, sde: SDE) -> BoxModel:
    """The exact model of the uniform distribution on the box [low, high], numbers or tensors of the shape of an event, under `sde`.

    With m = z/alpha and r = sigma/alpha, x | z is N(m, r^2) truncated to the box in each coordinate.

    Raises:
        ValueError: shapes that differ, or `low` is not below `high`.
    """
    return BoxModel(low, high, sde)


def _truncated_mean(low: Tensor, high: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The mean of a normal truncated to [low, high], with the standardised edges a < b.

    It is low + (high - low) (ratio - a)/(b - a) with ratio = (phi(a) - phi(b))/(Phi(b) - Phi(a)).

    Far outside both densities underflow: with a > 0 all is divided by phi(a), which erfcx does exactly. Where the box is narrow in units of
    the standard deviation the difference cancels, and the first terms of its series take over. Every branch is computed where it is finite, so
    that its derivative is too.
    """
    flip = a + b < 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    narrow, far = (b - a) * (1 + 0.5 * (a + b)) < 1e-3, a > 0
    series = 0.5 * (1 - (b - a) * 0.5 * (a + b) / 6)
    outside = _share(torch.where(far & ~narrow, a, 1.0), torch.where(far & ~narrow, b, 2.0), far=True)
    inside = _share(torch.where(far | narrow, -1.0, a), torch.where(far | narrow, 1.0, b), far=False)
    share = torch.where(narrow, series, torch.where(far, outside, inside))
    share = torch.where(flip, 1 - share, share).clamp(0, 1)
    return low + share * (high - low)


def _share(a: Tensor, b: Tensor, far: bool) -> Tensor:
    """(ratio - a)/(b - a); with `far`, from densities divided by phi(a) > phi(b)."""
    root = math.sqrt(2)
    lost = -torch.expm1(-0.5 * (b - a) * (a + b))  # 1 - phi(b)/phi(a)
    if far:
        mass = torch.special.erfcx(a / root) - (1 - lost) * torch.special.erfcx(b / root)
    else:
        mass, lost = torch.erf(b / root) - torch.erf(a / root), lost * torch.exp(-0.5 * a**2)
    return (lost / (math.sqrt(math.pi / 2) * mass) - a) / (b - a)
