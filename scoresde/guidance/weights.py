"""The weight of guidance over time.

w = 1 is the conditional model and w = 0 the unconditional one, as in diffusers, Imagen and EDM2. Ho and Salimans 2022, arXiv 2207.12598, write
w - 1 for it.

A limited interval (Kynkaanniemi et al. 2024, arXiv 2404.07724) guides at medium noise alone, with r = sigma/alpha and lambda = -log r:

    w(t) = 1 + (w - 1) m(t),        m = 1 for low < r <= high and 0 elsewhere.

w jumps at both edges, and a jump in time makes every solver first order there. With `ramp` = b, m rises and falls linearly in lambda over a
length b that is centred on each edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.arrays import Time
from ..numerics.inputs import as_function, as_number, as_sequence, as_values
from ..sde.base import SDE, as_time

Weight = float | Callable[[SDE, Tensor], Tensor | float]


def as_weight(weight: Weight) -> Weight:
    """A number, or a function of `(sde, t)`.

    Raises:
        TypeError: neither.
        ValueError: a number that is not finite, or one for each sample, which belongs to the call.
    """
    if callable(weight):
        function: Weight = as_function("weight", weight, 2)
        return function
    if isinstance(weight, Tensor) and weight.ndim:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but a model serves every batch: give one weight for each sample to the call, "
            "guidance_weight=weight"
        )
    return as_number("weight", weight)


def weight_at(sde: SDE, t: Time, weight: Weight) -> Tensor:
    """w at the times `t`, float64 of their shape."""
    times = as_time(t)
    if callable(weight):
        return as_values("weight", weight(sde, times.clone()), times)
    return torch.full_like(times, weight)


@dataclass(frozen=True)
class Interval:
    """Where guidance acts: at low < sigma/alpha <= high.

    Attributes:
        low, high: of sigma/alpha; `high` may be infinite.
        ramp: the length in lambda over which the weight rises and falls at each edge.

    Raises:
        TypeError: no numbers.
        ValueError: not 0 <= low < high, or a negative ramp.
    """

    low: float
    high: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", as_number("interval[0]", self.low, 0.0))
        if self.high != math.inf:
            object.__setattr__(self, "high", as_number("interval[1]", self.high, above=self.low))
        object.__setattr__(self, "ramp", as_number("ramp", self.ramp, 0.0))

    @classmethod
    def of(cls, interval: object, ramp: float) -> Interval | None:
        """The interval of a pair (low, high); None for None.

        Raises:
            TypeError, ValueError: as for the class, or a sequence of another length.
        """
        if interval is None:
            if ramp:
                raise ValueError("ramp= softens the edges of an interval: give interval= too")
            return None
        edges = as_sequence("interval", interval)
        if len(edges) != 2:
            raise ValueError(f"interval must be (low, high) in sigma/alpha, got {interval!r}")
        low, high = edges
        return cls(low, high, ramp)

    def share(self, sde: SDE, t: Time) -> Tensor:
        """m(t), float64 of the shape of `t`."""
        half_log_snr = sde.half_log_snr(t)
        r = (-half_log_snr).exp()
        if not self.ramp:
            return ((r > self.low) & (r <= self.high)).double()
        # The distance to each edge, positive inside. An edge at 0 or at infinity is never reached.
        into = [torch.full_like(r, torch.inf)]
        if self.low > 0:
            into.append(-math.log(self.low) - half_log_snr)
        if self.high < math.inf:
            into.append(half_log_snr + math.log(self.high))
        return (torch.stack(into).amin(0) / self.ramp + 0.5).clamp(0, 1)
