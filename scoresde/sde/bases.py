"""Orthogonal bases in which a process acts on every coordinate, or on every block of channels, alone.

    to(x)    coordinates of x in the basis, of the shape of x
    back(y)  the inverse

A basis acts on the last axes of an event, so that colours, and the channels of a block, keep their axes. As it is orthogonal, white noise stays
white noise, distances stay, and densities need no correction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..numerics.arrays import flatten_events
from ..numerics.inputs import as_count, as_event, as_numbers, as_state


class Basis(ABC):
    """An orthogonal transform of events."""

    @abstractmethod
    def to(self, x: Tensor) -> Tensor:
        """The coordinates of `x`, `(..., *event)`, of the same shape."""

    @abstractmethod
    def back(self, y: Tensor) -> Tensor:
        """The inverse of `to`."""

    @property
    @abstractmethod
    def number(self) -> float:
        """A number that other bases do not have, by which processes are compared."""


@dataclass(frozen=True)
class Identity(Basis):
    """The coordinates of the event itself."""

    def to(self, x: Tensor) -> Tensor:
        return x

    def back(self, y: Tensor) -> Tensor:
        return y

    @property
    def number(self) -> float:
        return 0.0


@dataclass(frozen=True)
class LastAxes(Basis):
    """A transform of the last `axes` axes.

    Raises:
        ValueError: `axes` below 1.
    """

    axes: int = 2

    def __post_init__(self) -> None:
        as_count("axes", self.axes)


class DCT(LastAxes):
    """The discrete cosine transform (DCT-II, orthonormal) of the last `axes` axes. Heat flow with reflecting borders is diagonal in it."""

    def to(self, x: Tensor) -> Tensor:
        return _along(x, self.axes, _cosines)

    def back(self, y: Tensor) -> Tensor:
        return _along(y, self.axes, lambda n: _cosines(n).T)

    @property
    def number(self) -> float:
        return self.axes + 0.25

    def frequencies(self, shape: Sequence[int]) -> Tensor:
        """pi k/N along each of the last axes of an event of this shape, `(axes, K)` float64 in radians for each sample."""
        return _grid([math.pi * torch.arange(n, dtype=torch.float64, device="cpu") / n for n in _last(shape, self.axes)])


class Fourier(LastAxes):
    """The discrete Hartley transform of the last `axes` axes, the real form of the Fourier transform.

    Its coordinate at a frequency is Re - Im of the Fourier coefficient. Convolutions with symmetric kernels, on periodic axes, are diagonal in
    it, as are stationary covariances. It is its own inverse.
    """

    def to(self, x: Tensor) -> Tensor:
        c = torch.fft.fftn(x, dim=tuple(range(-self.axes, 0)), norm="ortho")
        return c.real - c.imag

    def back(self, y: Tensor) -> Tensor:
        return self.to(y)

    @property
    def number(self) -> float:
        return self.axes + 0.5

    def frequencies(self, shape: Sequence[int]) -> Tensor:
        """2 pi |k|/N along each of the last axes of an event of this shape, `(axes, K)` float64 in radians for each sample."""
        return _grid([2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device="cpu").abs() for n in _last(shape, self.axes)])


class Orthogonal(Basis):
    """Any orthogonal matrix U over the flattened event: to(x) = U x.

    Args:
        matrix: `(d, d)`, orthogonal to 1e-6; its rows are the basis vectors.
        event: the shape of an event of d coordinates; `(d,)` by default.

    Raises:
        TypeError: no real numbers.
        ValueError: the matrix is not square or not orthogonal, or does not fit the event.
    """

    def __init__(self, matrix: Tensor, event: Sequence[int] | None = None) -> None:
        self.matrix = as_numbers("matrix", matrix)
        d = len(self.matrix)
        self.event = (d,) if event is None else as_event("event", event)
        if self.matrix.shape != (d, d) or math.prod(self.event) != d:
            raise ValueError(f"matrix must be (d, d) with d = {math.prod(self.event)}, got {tuple(self.matrix.shape)}")
        error = float((self.matrix @ self.matrix.T - torch.eye(d, dtype=torch.float64, device=self.matrix.device)).abs().max())
        if not error < 1e-6:
            raise ValueError(f"matrix must be orthogonal, but U U^T differs from the unit matrix by {error:.2g}")

    @classmethod
    def principal(cls, x: Tensor) -> tuple[Orthogonal, Tensor]:
        """The principal axes of data `x` `(N, *event)` as a basis, and the variances along them, `(d,)`, largest first."""
        x = as_state("x", x)
        values, vectors = torch.linalg.eigh(torch.cov(flatten_events(x).double().T).reshape(x[0].numel(), -1))
        return cls(vectors.T.flip(0), x.shape[1:]), values.flip(0).clamp(min=0)

    def to(self, x: Tensor) -> Tensor:
        return self._times(self.matrix.T, x)

    def back(self, y: Tensor) -> Tensor:
        return self._times(self.matrix, y)

    @property
    def number(self) -> float:
        flat = self.matrix.cpu().flatten()
        # Squares: an axis may turn its sign from one machine to the next.
        return float((flat.square() * torch.cos(1.0 + torch.arange(len(flat), dtype=torch.float64, device="cpu"))).sum())

    def _times(self, matrix: Tensor, x: Tensor) -> Tensor:
        if x.shape[x.ndim - len(self.event) :] != self.event:
            raise ValueError(f"the basis is of events of shape {self.event}, got a tensor of shape {tuple(x.shape)}")
        lead = x.shape[: x.ndim - len(self.event)]
        return (x.reshape(*lead, -1) @ matrix.to(device=x.device, dtype=x.dtype)).reshape(x.shape)

    def __repr__(self) -> str:
        return f"Orthogonal(event={self.event})"


@cache
def _cosines(n: int) -> Tensor:
    """The orthonormal DCT-II matrix, rows by frequency."""
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    matrix = math.sqrt(2 / n) * torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * n))
    matrix[0] *= math.sqrt(0.5)
    return matrix


def _along(x: Tensor, axes: int, matrix: Callable[[int], Tensor]) -> Tensor:
    """`matrix(n)` along each of the last axes."""
    for axis in range(-axes, 0):
        m = matrix(x.shape[axis]).to(device=x.device, dtype=x.dtype)
        x = torch.movedim(torch.movedim(x, axis, -1) @ m.T, -1, axis)
    return x


def _last(shape: Sequence[int], axes: int) -> tuple[int, ...]:
    """The last axes of an event.

    Raises:
        ValueError: it has fewer.
    """
    shape = as_event("shape", shape)
    if len(shape) < axes:
        raise ValueError(f"the transform takes {axes} axes, and an event of shape {shape} has {len(shape)}")
    return shape[-axes:]


def _grid(axes: list[Tensor]) -> Tensor:
    return torch.stack([part.flatten() for part in torch.meshgrid(*axes, indexing="ij")])
