r"""Approximations of V = Cov[x | z_t = z], of which the exact one is (sigma^2/alpha) dD/dz (Tweedie's formula of second order).

With r = sigma/alpha:

    Tweedie     (sigma^2/alpha) dD/dz                       exact for an exact network
    Prior       (S^{-1} + 1/r^2)^{-1}                       exact for data N(m, S)
    Isotropic   s r^2/(s + r^2), one number                 exact for data of covariance s I
    LowRank     Y (Omega^T Y)^{-1} Y^T with Y = V Omega     Tweedie's in the span of k random vectors (Nystroem)
    Flat        r^2/weight: no prior
    RowSums     A V A^T -> diag(A V A^T 1), with Tweedie's V
    Ratio       A V A^T -> gamma r^2
    Zero        0

The last three say what A V A^T is and leave V open: a posterior with them needs the derivative of the network for the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..numerics.arrays import expand, flatten_events, values_are_known
from ..numerics.inputs import as_count, as_function, as_number, as_numbers
from ..numerics.random import cpu_generator

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a posterior is made.

    Attributes:
        t: the time, float64, a scalar or `(B,)`.
        r2: (sigma/alpha)^2, likewise.
        data: D, `(B, *event)`, without a graph unless the caller wants gradients.
        tweedie: v -> (sigma^2/alpha) (dD/dz)^T v, each a vector-Jacobian product of the network.
    """

    t: Tensor
    r2: Tensor
    data: Tensor
    tweedie: Map

    def scaled(self, factor: Tensor, v: Tensor) -> Tensor:
        """A coefficient, a scalar or `(B,)`, times a state."""
        return expand(factor, v) * v


class Covariance(ABC):
    """V, or what stands for A V A^T.

    Attributes:
        derivative: whether it differentiates the network.
    """

    derivative: bool = False

    @abstractmethod
    def map(self, at: Place) -> Map | None:
        """v -> V v on `(B, *event)`; None where V itself is left open."""

    def diagonal(self, at: Place, forward: Map, adjoint: Map, like: Tensor) -> Tensor | None:
        """The diagonal that stands for A V A^T, of the shape of the observation `like`; None to apply V."""
        return None


@dataclass(frozen=True)
class Tweedie(Covariance):
    """(sigma^2/alpha) dD/dz. A product costs one backward pass through the network."""

    derivative = True

    def map(self, at: Place) -> Map:
        return at.tweedie


@dataclass(frozen=True, eq=False)
class Prior(Covariance):
    """(S^{-1} + 1/r^2)^{-1} for data of covariance S (Rozet et al. 2024, arXiv 2405.13712, section 3.1, with a Gaussian prior).

    Args:
        covariance: S: a number, variances of the shape of an event, or a matrix `(d, d)` over the flattened event.

    Raises:
        TypeError: no numbers.
        ValueError: in a call: a negative variance or eigenvalue.
    """

    covariance: float | Tensor

    def __post_init__(self) -> None:
        as_numbers("covariance", self.covariance)

    def map(self, at: Place) -> Map:
        s, r2 = as_numbers("covariance", self.covariance).to(at.data.device), at.r2.to(at.data.device)
        d = flatten_events(at.data).shape[1]
        if s.shape == (d, d) and s.shape != at.data.shape[1:]:
            variances, basis = (part.to(at.data.device) for part in self._eigen)
            r2 = r2.reshape(-1, 1)
            factor, q = (variances * r2 / (variances + r2)).to(at.data.dtype), basis.to(at.data.dtype)
            return lambda v: (((flatten_events(v) @ q) * factor) @ q.T).reshape(v.shape)
        _require_positive(s)
        r2 = r2.reshape(r2.shape + (1,) * (at.data.ndim - 1) if r2.ndim else ())
        factor = (s * r2 / (s + r2)).to(at.data.dtype)
        return lambda v: factor * v

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of a matrix."""
        values, basis = torch.linalg.eigh(as_numbers("covariance", self.covariance))
        _require_positive(values)
        return values.clamp(min=0), basis


def _require_positive(variances: Tensor) -> None:
    """Raise for a negative variance; rounding aside.

    Raises:
        ValueError: names it.
    """
    if values_are_known(variances) and not bool((variances >= -1e-9 * variances.abs().max()).all()):
        raise ValueError(f"covariance must not be negative, but a variance is {float(variances.min()):g}")


@dataclass(frozen=True)
class Isotropic(Covariance):
    """v(t) I, by default with v = s r^2/(s + r^2) (Song et al. 2023, PiGDM, section 3.2: s = 1 gives their r_t^2).

    Attributes:
        variance: s, the variance of the data per coordinate; or a function t -> v(t) in float64.
    """

    variance: float | Callable[[Tensor], Tensor] = 1.0

    def __post_init__(self) -> None:
        if not callable(self.variance):
            as_number("variance", self.variance, above=0.0)

    def map(self, at: Place) -> Map:
        v = self.variance(at.t) if callable(self.variance) else self.variance * at.r2 / (self.variance + at.r2)
        return lambda x: at.scaled(torch.as_tensor(v, dtype=torch.float64), x)


@dataclass(frozen=True)
class LowRank(Covariance):
    """Tweedie's V in the span of k random vectors, k backward passes in a call; products are free afterwards.

    Attributes:
        rank: k.
        seed: of the vectors, which are the same for all samples and calls.
    """

    rank: int = 8
    seed: int = 0
    derivative = True

    def __post_init__(self) -> None:
        as_count("rank", self.rank)

    def map(self, at: Place) -> Map:
        shape = (self.rank, *at.data.shape[1:])
        probes = torch.randn(shape, generator=cpu_generator(self.seed), dtype=torch.float64).to(at.data)
        omega, _ = torch.linalg.qr(probes.reshape(self.rank, -1).T)  # (d, k)
        y = torch.stack([flatten_events(at.tweedie(column.reshape(at.data.shape[1:]).expand_as(at.data))) for column in omega.T], 2)
        core = omega.T @ y  # (B, k, k)
        values, q = torch.linalg.eigh(torch.nan_to_num(0.5 * (core + core.mT)))
        # Directions in which the network claims no variance, or a negative one, are left out.
        kept = values > 1e-10 * values.amax(1, keepdim=True).clamp(min=0)
        inverse = (q * torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)[:, None]) @ q.mT

        def product(v: Tensor) -> Tensor:
            inner = torch.einsum("bdk,bd->bk", y, flatten_events(v))
            return torch.einsum("bdk,bkl,bl->bd", y, inverse, inner).reshape(v.shape)

        return product


@dataclass(frozen=True)
class Flat(Covariance):
    """r^2/weight: the prior says nothing (Zhu et al. 2023, DiffPIR, arXiv 2305.08995, eq. 12 and 13, whose lambda is `weight`)."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        as_number("weight", self.weight, above=0.0)

    def map(self, at: Place) -> Map:
        return lambda v: at.scaled(at.r2 / self.weight, v)


@dataclass(frozen=True)
class RowSums(Covariance):
    """A V A^T -> diag(A V A^T 1) with Tweedie's V (Boys et al. 2023, TMPD, arXiv 2310.06721, eq. 11). Negative sums count as 0."""

    derivative = True

    def map(self, at: Place) -> Map:
        return at.tweedie

    def diagonal(self, at: Place, forward: Map, adjoint: Map, like: Tensor) -> Tensor:
        return forward(at.tweedie(adjoint(torch.ones_like(like)))).clamp(min=0)


@dataclass(frozen=True)
class Ratio(Covariance):
    """A V A^T -> gamma r^2 (Rozet and Louppe 2023, SDA, arXiv 2306.10574, eq. 13)."""

    gamma: float = 0.01

    def __post_init__(self) -> None:
        as_number("gamma", self.gamma, 0.0)

    def map(self, at: Place) -> None:
        return None

    def diagonal(self, at: Place, forward: Map, adjoint: Map, like: Tensor) -> Tensor:
        return at.scaled(self.gamma * at.r2, torch.ones_like(like))


@dataclass(frozen=True)
class Zero(Covariance):
    """0: x is taken to be D (Chung et al. 2023, DPS, arXiv 2209.14687, eq. 11). Not bounded where sigma_y is small: see `Posterior`."""

    def map(self, at: Place) -> None:
        return None

    def diagonal(self, at: Place, forward: Map, adjoint: Map, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


@dataclass(frozen=True)
class Given(Covariance):
    """A function of your own, (v, t) -> V v."""

    function: Callable[[Tensor, Tensor], Tensor]

    def map(self, at: Place) -> Map:
        return lambda v: self.function(v, at.t)


NAMES: dict[str, type[Covariance]] = {
    "tweedie": Tweedie,
    "isotropic": Isotropic,
    "lowrank": LowRank,
    "flat": Flat,
    "rowsums": RowSums,
    "ratio": Ratio,
    "zero": Zero,
}


def as_covariance(covariance: object) -> Covariance:
    """A covariance, the name of one with its defaults, or a function (v, t) -> V v.

    Raises:
        TypeError: something else.
        ValueError: an unknown name.
    """
    if isinstance(covariance, Covariance):
        return covariance
    if covariance == "prior":
        raise ValueError("covariance='prior' needs that of the data: give covariances.Prior(S)")
    if isinstance(covariance, str):
        if covariance not in NAMES:
            raise ValueError(
                f"covariance must be one of {', '.join(NAMES)}, a Covariance or a function of (v, t), got {covariance!r}"
            )
        return NAMES[covariance]()
    return Given(as_function("covariance", covariance, 2))
