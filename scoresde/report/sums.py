"""The mean and the covariance of features, from sums that add up over chunks and processes.

    n        s = sum_i f_i        P = sum_i f_i f_i^T
    m = s / n                     C = (P - n m m^T) / (n - 1)

Sums of disjoint sets are added. The distance between the Gaussians of two sets (Dowson and Landau 1982) is

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2}).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..numerics.brief import line, shown
from ..numerics.files import read_tensors, stored_tensor, write_tensors

FORMAT = "scoresde moments 1"


class Moments:
    """n, s and P of features of one kind, in float64 on the CPU.

    Args:
        d: the number of features.
        features: what they are, for messages; only moments of the same features are merged.

    Attributes:
        n: rows so far.
        s: their sum, `(d,)`.
        p: the sum of their outer products, `(d, d)`.
    """

    def __repr__(self) -> str:
        return line("Moments", *(f"{name}={shown(value)}" for name, value in vars(self).items() if not name.startswith("_")))

    def __init__(self, d: int, features: str = "features") -> None:
        self.features, self.n = features, 0
        self.s = torch.zeros(d, dtype=torch.float64, device="cpu")
        self.p = torch.zeros(d, d, dtype=torch.float64, device="cpu")

    @classmethod
    def of(cls, rows: Tensor, features: str = "features") -> Moments:
        """Those of `(N, d)`."""
        moments = cls(rows.shape[1], features)
        moments.add(rows)
        return moments

    @property
    def d(self) -> int:
        """The number of features."""
        return len(self.s)

    @property
    def mean(self) -> Tensor:
        """m, `(d,)`."""
        return self.s / self.n

    @property
    def covariance(self) -> Tensor:
        """C, `(d, d)`."""
        return (self.p - self.n * self.mean.outer(self.mean)) / (self.n - 1)

    def add(self, rows: Tensor) -> None:
        """Count the rows of `(B, d)`.

        Raises:
            ValueError: another d, or a row that is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise ValueError(f"features must have shape (B, {self.d}), got {tuple(rows.shape)}")
        f = rows.detach().double()
        if not bool(f.isfinite().all()):
            raise ValueError(f"{self.features}: a feature is infinite or NaN")
        self.n += len(f)
        self.s += f.sum(0).cpu()
        self.p += (f.T @ f).cpu()

    def merge(self, other: Moments) -> None:
        """Count the rows of other moments too.

        Raises:
            ValueError: they are of other features.
        """
        self.require_same(other)
        self.n += other.n
        self.s += other.s
        self.p += other.p

    def require_same(self, other: Moments) -> None:
        """Raise unless both are of the same features.

        Raises:
            ValueError: names both.
        """
        if (self.d, self.features) != (other.d, other.features):
            raise ValueError(f"moments of {self.d} x {self.features} and of {other.d} x {other.features} have nothing in common")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, at once or not at all."""
        write_tensors(path, {"s": self.s, "p": self.p}, {"n": self.n, "features": self.features}, FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """The inverse of `save`, to the bit.

        Raises:
            FileNotFoundError: there is no file.
            ValueError: the file holds no moments.
        """
        tensors, about = read_tensors(path, FORMAT)
        if about is None or type(about.get("n")) is not int or "features" not in about:
            raise ValueError(f"{path} holds no moments of this version of scoresde")
        s = stored_tensor(tensors, "s", -1)
        moments = cls(len(s), str(about["features"]))
        moments.n, moments.s, moments.p = about["n"], s, stored_tensor(tensors, "p", len(s), len(s))
        return moments


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features `(N, d)` and `(M, d)`, or of their moments, in float64."""
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    cov_a, cov_b = a.covariance, b.covariance
    # The eigenvalues of C_a C_b are those of the symmetric R C_b R with R = C_a^(1/2).
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * cross)
