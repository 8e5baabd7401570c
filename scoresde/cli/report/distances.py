"""Distances between sets of samples and real ones, where there are enough of them to mean something."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...report import KernelDistance, frechet_distance, kernel_distance
from ...report.feature_sets import Features

# Subsets of the kernel distance, and the least samples of one.
SUBSETS, LEAST = 10, 2


@dataclass(frozen=True)
class Yardstick:
    """Real samples, and the distances that sets of n samples have to them.

    Attributes:
        features: a module from a batch to `(B, d)`; None for the coordinates.
        name: of the features.
        reference: the features of the real samples, `(M, d)`.
        pair: the features of two sets of real samples without common members, for the floor.
        n: samples in each of the sets that will be measured.
    """

    features: nn.Module | None
    name: str
    reference: Tensor
    pair: tuple[Tensor, Tensor]
    n: int

    @classmethod
    def of(cls, reference: Tensor, pair: tuple[Tensor, Tensor], n: int, features: nn.Module | None = None) -> Yardstick:
        """Of real samples `(M, *event)`."""
        describe = Features(features).all_rows
        name = "pixels" if features is None else "classifier features"
        return cls(features, name, describe(reference), (describe(pair[0]), describe(pair[1])), n)

    @property
    def d(self) -> int:
        """The number of features."""
        return self.reference.shape[1]

    @property
    def no_frechet(self) -> str:
        """Why there is no Frechet distance: a covariance of fewer samples than features has no full rank. Empty where there is one."""
        return self._missing(min(self.n, len(self.reference), *map(len, self.pair)), self.d + 1)

    @property
    def no_kernel(self) -> str:
        """Why there is no kernel distance: too few samples for a standard error. Empty where there is one."""
        return self._missing(min(self.n, len(self.reference)), SUBSETS * LEAST)

    def _missing(self, n: int, least: int) -> str:
        return f"not shown: {n} samples in {self.d} dimensions" if n < least else ""

    @property
    def floor(self) -> float:
        """The Frechet distance of the pair."""
        return frechet_distance(*self.pair)

    @property
    def kernel_floor(self) -> KernelDistance:
        """The kernel distance of the pair."""
        return self._kernel(*self.pair)

    def frechet(self, x: Tensor) -> float:
        """The Frechet distance of samples `(n, *event)` to the real ones."""
        return frechet_distance(Features(self.features).all_rows(x), self.reference)

    def kernel(self, x: Tensor) -> KernelDistance:
        """The kernel distance of samples `(n, *event)` to the real ones."""
        return self._kernel(Features(self.features).all_rows(x), self.reference)

    def _kernel(self, x: Tensor, y: Tensor) -> KernelDistance:
        return kernel_distance(x, y, subset=max(LEAST, min(1000, min(len(x), len(y)) // SUBSETS)))
