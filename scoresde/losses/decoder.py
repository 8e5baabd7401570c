"""Decoders of a bound: log p(x | z_1) of each coordinate under N(mean, std^2), for real numbers and for data in bins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.arrays import values_are_known
from ..numerics.inputs import as_count, as_function, as_number, as_numbers

# (x, mean, std) -> log p(x) of each coordinate in nats.
Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]


def gaussian_decoder(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2) of each coordinate: continuous data."""
    return -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class DiscretisedDecoder:
    """The log-probability of the bin of x under N(mean, std^2), for data on `bins` equally spaced values from `low` to `high`.

    Bins are centred at the values. The first extends to -inf and the last to inf, so that the probabilities sum to 1 (Ho et al., eq. 13). 8-bit
    data scaled to [-1, 1] are `DiscretisedDecoder(-1, 1, 256)`.
    """

    low: float
    high: float
    bins: int

    def __post_init__(self) -> None:
        as_count("bins", self.bins, 2)
        if not as_number("low", self.low) < as_number("high", self.high):
            raise ValueError(f"need low < high, got {self.low} and {self.high}")

    def __call__(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Log-probability of each coordinate, of the shape of `x`.

        Raises:
            ValueError: an entry of `x` is none of the values, where these are known (`values_are_known`).
        """
        width = (self.high - self.low) / (self.bins - 1)
        k = (x - self.low) / width
        nearest = k.round().clamp(0, self.bins - 1)
        # Half precision resolves 8-bit values to a few hundredths of a bin.
        if values_are_known(x) and bool(((k - nearest).abs() > 0.05).any()):
            odd = x[(k - nearest).abs() > 0.05].flatten()[0].item()
            raise ValueError(f"data must be on the {self.bins} values from {self.low:g} to {self.high:g}, got {odd:g}")
        centre = self.low + nearest * width
        below, above = (centre - 0.5 * width - mean) / std, (centre + 0.5 * width - mean) / std
        # log(Phi(above) - Phi(below)), or the same difference of the mirrored bin, where both terms are small and do not cancel.
        flip = below + above > 0
        left, right = torch.where(flip, -above, below), torch.where(flip, -below, above)
        log_right = torch.special.log_ndtr(right)
        inside = log_right + torch.log(-torch.expm1(torch.special.log_ndtr(left) - log_right))
        first, last = nearest == 0, nearest == self.bins - 1
        return torch.where(first, torch.special.log_ndtr(above), torch.where(last, torch.special.log_ndtr(-below), inside))


def log_density(decoder: Decoder, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log p(x) of each coordinate by a decoder, of the shape of `x`.

    Raises:
        TypeError: the decoder is no function, or returned no numbers.
        ValueError: the decoder returned another shape.
    """
    out = as_numbers("the result of decoder", as_function("decoder", decoder, 3)(x, mean, std))
    if out.shape != x.shape:
        raise ValueError(f"decoder must return one log density for each coordinate, shape {tuple(x.shape)}, got {tuple(out.shape)}")
    return out
