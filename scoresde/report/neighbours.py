"""Quality and coverage apart, by nearest neighbours (Kynkaanniemi et al. 2019, arXiv 1904.06991, section 2).

The manifold of a set is the union of balls around its features, each as large as the distance to its k-th nearest neighbour in the set.

    precision    the share of samples on the manifold of the reference: they look real
    recall       the share of the reference on the manifold of the samples: none of it is missed
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..numerics.inputs import as_count
from ..numerics.random import cpu_generator, derive_seed
from .feature_sets import Features, SampleSet

# Rows of a matrix of distances at a time.
ROWS = 1024


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall.

    Attributes:
        precision, recall: shares, 0 to 1. For equal distributions neither is 1, but that of the floor.
        n, reference_n: samples of both sets. The shares depend on both: compare at equal numbers, as the paper does.
        k: the neighbour that gives a ball its radius.
        d, features: the number of features, and their name.
        floor: precision and recall of one half of the reference against the other.
    """

    precision: float
    recall: float
    n: int
    reference_n: int
    k: int
    d: int
    features: str
    floor: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.3f}, recall {self.recall:.3f} ({self.n} samples, {self.reference_n} of the reference, k = {self.k}, "
            f"{self.d} features: {self.features}; two halves of the reference {self.floor[0]:.3f}, {self.floor[1]:.3f})"
        )


def precision_recall(
    samples: SampleSet,
    reference: SampleSet,
    features: nn.Module | None = None,
    *,
    k: int = 3,
    seed: int = 0,
    images: str = "states",
    batch_size: int = 256,
) -> PrecisionRecall:
    """The share of samples on the manifold of the reference, and the share of the reference on that of the samples.

    Args:
        samples, reference, features, images, batch_size: as in `frechet`, without moments.
        k: the neighbour that gives a ball its radius.
        seed: of the halves of the reference.

    Raises:
        TypeError: no real numbers.
        ValueError: k samples or fewer, or fewer than 2 (k + 1) of the reference; or features of different numbers.
    """
    described, k = Features(features, images, batch_size), as_count("k", k, 1)
    x, y = (described.all_rows(each) for each in (samples, reference))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples have {x.shape[1]} features and the reference has {y.shape[1]}")
    if len(x) <= k or len(y) < 2 * (k + 1):
        raise ValueError(f"k={k} needs at least {k + 1} samples and {2 * (k + 1)} of the reference, got {len(x)} and {len(y)}")
    order = torch.randperm(len(y), generator=cpu_generator(derive_seed("halves", seed)), device="cpu").to(y.device)
    one, two = y[order[: len(y) // 2]], y[order[len(y) // 2 :]]
    return PrecisionRecall(
        share_on_manifold(x, y, k), share_on_manifold(y, x, k), len(x), len(y), k, x.shape[1], described.name,
        (share_on_manifold(one, two, k), share_on_manifold(two, one, k)),
    )  # fmt: skip


def share_on_manifold(points: Tensor, of: Tensor, k: int) -> float:
    """The share of `points` `(N, d)` within a ball of a set `(M, d)` whose radius is the distance to the k-th nearest neighbour in the set."""
    # Of the distances within the set the smallest is that to itself.
    radii = torch.cat([torch.cdist(rows, of).kthvalue(k + 1, dim=1).values for rows in of.split(ROWS)])
    inside = torch.cat([(torch.cdist(rows, of) <= radii).any(1) for rows in points.split(ROWS)])
    return float(inside.double().mean())
