"""Distances between sets of samples and real ones, where there are enough of them to mean something."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...report import KernelDistance, frechet_distance, kernel_distance
from ...report.feature_sets import Features
from .pictures import is_image

# Subsets of the kernel distance, and the least samples of one.
SUBSETS, LEAST = 10, 2


@dataclass(frozen=True)
class Yardstick:
    """Real samples, and the distances that sets of n samples have to them.

    Attributes:
        features: a module from a batch to `(B, d)`; None for the coordinates.
        name: of the features.
        scaled: whether the kernel distance is of features less their mean in the reference, in units of their standard deviation there.
        reference: the features of the real samples, `(M, d)`.
        pair: the features of two sets of real samples without common members, for the floor.
        n: samples in each of the sets that will be measured.
    """

    features: nn.Module | None
    name: str
    scaled: bool
    reference: Tensor
    pair: tuple[Tensor, Tensor]
    n: int

    @classmethod
    def of(cls, reference: Tensor, pair: tuple[Tensor, Tensor], n: int, features: nn.Module | None = None) -> Yardstick:
        """Of real samples `(M, *event)`."""
        describe = Features(features).all_rows
        # The cubic kernel has no unit for features of the size 1, such as pixels. Other data have any size.
        scaled = features is None and not is_image(reference)
        name = "the coordinates" if scaled else "pixels" if features is None else "classifier features"
        return cls(features, name, scaled, describe(reference), (describe(pair[0]), describe(pair[1])), n)

    @property
    def d(self) -> int:
        """The number of features."""
        return self.reference.shape[1]

    @property
    def no_frechet(self) -> str:
        """Why there is no Frechet distance: a covariance of fewer samples than features has no full rank. Empty where there is one."""
        return _missing("Frechet", min(self.n, len(self.reference), *map(len, self.pair)), self.d + 1, f" in {self.d} dimensions")

    @property
    def no_kernel(self) -> str:
        """Why there is no kernel distance: too few samples for a standard error. Empty where there is one."""
        return _missing("kernel", min(self.n, len(self.reference), *map(len, self.pair)), SUBSETS * LEAST, "")

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
        if self.scaled:
            scale = self.reference.std(0)
            scale = scale.where(scale > 0, torch.ones_like(scale))
            x, y = ((f - self.reference.mean(0)) / scale for f in (x, y))
        return kernel_distance(x, y, subset=max(LEAST, min(1000, min(len(x), len(y)) // SUBSETS)))


def _missing(name: str, n: int, least: int, where: str) -> str:
    return f"No {name} distance: the smallest set has {n} samples{where}, and {least} or more are needed." if n < least else ""
