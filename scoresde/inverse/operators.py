"""Operators that are ready: what an instrument does to an event.

Each is a function of a batch with `adjoint` and, where it is cheap, `pinv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..numerics.arrays import flatten_events
from ..numerics.inputs import as_count, as_number, as_numbers


@dataclass(frozen=True, eq=False)
class Operator:
    """A function `(B, *event) -> (B, *obs)` with its transpose.

    Attributes:
        name: for the reader.
        function: the operator.
        adjoint: its transpose, whose result may be flat; None to differentiate.
        pinv: its pseudo-inverse; None where there is no cheap one.
        linear: whether it is linear.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor] | None = None
    pinv: Callable[[Tensor], Tensor] | None = None
    linear: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __repr__(self) -> str:
        return self.name


def mask(kept: Tensor) -> Operator:
    """x where `kept`, 0 elsewhere: inpainting. `kept` broadcasts to an event; y has the shape of x, and its other entries do not matter."""
    kept = torch.as_tensor(kept)

    def keep(x: Tensor) -> Tensor:
        return x * kept.to(x.device, x.dtype)

    return Operator(f"mask of {tuple(kept.shape)}", keep, keep, keep)


def matrix(a: Tensor) -> Operator:
    """A x for a matrix `(m, d)` over the flattened event; y is `(B, m)`.

    Raises:
        TypeError: `a` holds no real numbers.
        ValueError: it has another shape.
    """
    a = as_numbers("a", a)
    if a.ndim != 2:
        raise ValueError(
            f"a must have shape (m, d), got {tuple(a.shape)}" + (": a[None] observes one number" if a.ndim == 1 else "")
        )

    def function(x: Tensor) -> Tensor:
        return flatten_events(x) @ a.to(x.device, x.dtype).T

    return Operator(f"matrix of {tuple(a.shape)}", function, lambda y: y @ a.to(y.device, y.dtype))


def blur(std: float, size: int | None = None) -> Operator:
    """Gaussian blur of images `(B, C, H, W)` with `std` in pixels; zero outside the image."""
    std = as_number("std", std, above=0.0)
    half = math.ceil(3 * std) if size is None else as_count("size", size) // 2
    offsets = torch.arange(-half, half + 1, dtype=torch.float64, device="cpu")
    weights = torch.exp(-0.5 * (offsets / std) ** 2)
    weights = weights / weights.sum()

    def function(x: Tensor) -> Tensor:
        w, channels = weights.to(x.device, x.dtype), x.shape[1]
        down, across = (w.reshape(1, 1, *shape).expand(channels, 1, *shape) for shape in ((-1, 1), (1, -1)))
        rows = F.conv2d(x, down, padding=(half, 0), groups=channels)
        return F.conv2d(rows, across, padding=(0, half), groups=channels)

    # A symmetric kernel with zeros outside is its own transpose.
    return Operator(f"blur of {std:g} pixels", function, function)


def downsample(factor: int) -> Operator:
    """The means of `factor` x `factor` blocks of images `(B, C, H, W)`: super-resolution."""
    factor = as_count("factor", factor)

    def pinv(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    return Operator(f"downsample by {factor}", lambda x: F.avg_pool2d(x, factor), lambda y: pinv(y) / factor**2, pinv)


def colour(weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)) -> Operator:
    """The weighted sum of the channels of images `(B, C, H, W)`, `(B, 1, H, W)`: colourisation."""
    w = as_numbers("weights", weights)

    def column(x: Tensor) -> Tensor:
        return w.to(x.device, x.dtype).reshape(1, -1, 1, 1)

    square = float((w**2).sum())
    return Operator(
        "grey values", lambda x: (x * column(x)).sum(1, keepdim=True), lambda y: y * column(y), lambda y: y * column(y) / square
    )


def phase(oversampling: float = 2.0) -> Operator:
    """|F x| of images `(B, C, H, W)`, padded with zeros by the factor `oversampling` and normalised: phase retrieval. It is not linear.

    Moduli cannot tell an image from its mirror image, its negative and its shifts.
    """
    oversampling = as_number("oversampling", oversampling, 1.0)

    def function(x: Tensor) -> Tensor:
        size = [math.ceil(oversampling * n) for n in x.shape[-2:]]
        return torch.fft.fft2(x, s=size, norm="ortho").abs()

    return Operator("moduli of the Fourier transform", function, linear=False)
