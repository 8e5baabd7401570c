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
    """The mean of a normal with standardised edges a < b at `low` and `high`: low + r (ratio - a) with ratio = (phi(a) - phi(b))/(Phi(b) -
    Phi(a)).

    Far outside both densities underflow. With a > 0 both are divided by phi(a), which erfcx does exactly. Where the box is narrow in units of
    r the difference cancels, and the series (b - a)/2 (1 - (b^2 - a^2)/12 ...) about the middle takes over.
    """
    flip = a + b < 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    width = b - a
    # exp(-(b^2 - a^2)/2), without the squares of large numbers.
    decay = torch.exp(-0.5 * width * (a + b))
    far = math.sqrt(math.pi / 2) * (torch.special.erfcx(a / math.sqrt(2)) - decay * torch.special.erfcx(b / math.sqrt(2)))
    near = (
        math.sqrt(math.pi / 2) * (torch.erf(b / math.sqrt(2)) - torch.erf(a / math.sqrt(2))) * torch.exp(0.5 * a.clamp(max=0) ** 2)
    )
    mass = torch.where(a > 0, far, near)
    offset = (-torch.expm1(-0.5 * width * (a + b))) / mass - a
    middle = 0.5 * (a + b)
    series = 0.5 * width * (1 - width * middle / 6)
    share = torch.where(width * (1 + middle.abs()) < 1e-3, series, offset) / width
    share = torch.where(flip, 1 - share, share).clamp(0, 1)
    return low + share * (high - low)
