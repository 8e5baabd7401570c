"""How far samples are from a reference, with the floor: what two halves of the reference have between them.

frechet             between Gaussians fitted to features           Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500
kernel_distance     squared MMD of a cubic polynomial kernel       KID: Binkowski et al. 2018, arXiv 1801.01401, section 4
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.training_mode import stacklevel_of_user
from ..numerics.inputs import as_count
from ..numerics.random import cpu_generator, derive_seed
from .feature_sets import Features, SampleSet, moments, size
from .sums import Moments, frechet_distance


@dataclass(frozen=True)
class Frechet:
    """A Frechet distance.

    Attributes:
        value: the distance, a square in units of the features.
        n, reference_n: samples of both sets. The distance of finite sets is too large by about c (1/n + 1/reference_n).
        d: the number of features.
        features: their name.
        floor: the distance between two disjoint parts of the reference; None where only its moments are known.
        floor_n: samples of each part, n where the reference has as many, else about a half of it.
    """

    value: float
    n: int
    reference_n: int
    d: int
    features: str
    floor: float | None
    floor_n: int

    def __str__(self) -> str:
        floor = "floor unknown" if self.floor is None else f"floor {self.floor:.4g} of two parts of {self.floor_n}"
        return (
            f"Frechet distance {self.value:.4g} ({self.n} samples, {self.reference_n} of the reference, "
            f"{self.d} features: {self.features}; {floor})"
        )


def frechet(
    samples: SampleSet | Moments,
    reference: SampleSet | Moments,
    features: nn.Module | None = None,
    *,
    images: str = "states",
    batch_size: int = 256,
) -> Frechet:
    """|m - m_r|^2 + tr(C + C_r - 2 (C C_r)^{1/2}) of the means and covariances of features of both sets.

    With the Inception network of Heusel et al. this is the FID; `feature_sets` shows how to give it. Distances compare only with equal
    features, equal n and equal reference.

    Args:
        samples: `(N, *event)`, a folder of `sample_to`, or the `moments` of a set.
        reference: real samples in the same three forms.
        features: a module from a batch to `(B, d)`, in evaluation mode; by default the coordinates themselves.
        images: "states", the samples as they are, or "uint8", images in [-1, 1] as bytes `(B, 3, H, W)`. Bytes in a reference are taken too.
        batch_size: samples in one call of `features`.

    Raises:
        TypeError: no real numbers.
        ValueError: features of another shape or kind, fewer than two samples, or chunks that are missing.

    Warns where a set has no more samples than features: its covariance has no inverse and the distance is mostly bias.
    """
    described = Features(features, images, batch_size)
    of_samples = _moments(samples, described)
    if isinstance(reference, Moments):
        whole, parts = reference, None
    else:
        whole, parts = _with_parts(reference, described, of_samples.n)
    of_samples.require_same(whole)
    for name, found in (("samples", of_samples), ("reference", whole)):
        _require_enough(name, found)
    floor = frechet_distance(*parts) if parts and min(part.n for part in parts) > 1 else None
    return Frechet(
        frechet_distance(of_samples, whole), of_samples.n, whole.n, whole.d, whole.features, floor,
        min(part.n for part in parts) if parts else 0,
    )  # fmt: skip


def _moments(samples: SampleSet | Moments, features: Features) -> Moments:
    if isinstance(samples, Moments):
        return samples
    return moments(samples, features.module, images=features.images, batch_size=features.batch_size)


def _with_parts(reference: SampleSet, features: Features, n: int) -> tuple[Moments, tuple[Moments, Moments]]:
    """The moments of a reference, and of two disjoint parts of about n samples, or halves where it has too few."""
    share, generator = min(0.5, n / max(size(reference), 1)), cpu_generator(derive_seed("halves"))
    found: tuple[Moments, Moments, Moments] | None = None
    for rows in features.rows(reference):
        if found is None:
            whole, one, two = (Moments(rows.shape[1], features.name) for _ in range(3))
            found = whole, one, two
        # By chance: data in the order of their classes would make halves of different classes.
        u = torch.rand(len(rows), generator=generator, device="cpu").to(rows.device)
        for part, chosen in zip(found, (u >= 0, u < share, (u >= share) & (u < 2 * share)), strict=True):
            part.add(rows[chosen])
    if found is None:
        raise ValueError("reference holds no samples")
    return found[0], found[1:]


def _require_enough(name: str, found: Moments) -> None:
    if found.n < 2:
        raise ValueError(f"{name} needs at least 2 samples for a covariance, got {found.n}")
    if found.n <= found.d:
        warnings.warn(
            f"{name} has {found.n} samples and {found.d} features: its covariance has no full rank, and the distance is mostly bias",
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy.

    Attributes:
        value: the estimate, without bias and so sometimes below 0.
        stderr: its standard error over the subsets.
        n, reference_n: samples of both sets.
        subsets, subset: disjoint subsets, and samples of both sets in each.
        d, features: the number of features, and their name.
        floor: the estimate between two halves of the reference, whose expectation is 0; None where a half has fewer than two subsets.
        floor_stderr: its standard error.
    """

    value: float
    stderr: float
    n: int
    reference_n: int
    subsets: int
    subset: int
    d: int
    features: str
    floor: float | None
    floor_stderr: float | None

    def __str__(self) -> str:
        floor = "floor unknown" if self.floor is None else f"floor {self.floor:.4g} +- {self.floor_stderr:.2g}"
        return (
            f"kernel distance {self.value:.4g} +- {self.stderr:.2g} ({self.n} samples, {self.reference_n} of the reference, "
            f"{self.subsets} subsets of {self.subset}, {self.d} features: {self.features}; {floor})"
        )


def kernel_distance(
    samples: SampleSet,
    reference: SampleSet,
    features: nn.Module | None = None,
    *,
    subset: int = 1000,
    seed: int = 0,
    images: str = "states",
    batch_size: int = 256,
) -> KernelDistance:
    """The squared MMD with k(a, b) = (a.b / d + 1)^3, without bias; with Inception features the KID.

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)

    It is averaged over disjoint subsets of `subset` samples of each set, chosen by chance. As they are independent, the spread between them
    gives a standard error that holds. Others draw 100 subsets that overlap and print the spread of one.

    Args:
        samples, reference, features, images, batch_size: as in `frechet`, without moments.
        subset: samples in a subset.
        seed: of the choice of subsets.

    Raises:
        TypeError: no real numbers.
        ValueError: fewer samples than two subsets, or features of different numbers.
    """
    described, m = Features(features, images, batch_size), as_count("subset", subset, 2)
    x, y = (described.all_rows(each) for each in (samples, reference))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples have {x.shape[1]} features and the reference has {y.shape[1]}")
    generator = cpu_generator(derive_seed("subsets", seed))
    x, y = (f[torch.randperm(len(f), generator=generator, device="cpu").to(f.device)] for f in (x, y))
    if min(len(x), len(y)) < 2 * m:
        raise ValueError(f"{min(len(x), len(y))} samples make fewer than two subsets of {m}: give subset=")
    value, stderr = _mean_mmd(x, y, m)
    half = len(y) // 2
    floor, floor_stderr = _mean_mmd(y[:half], y[half:], m) if half >= 2 * m else (None, None)
    return KernelDistance(
        value, stderr, len(x), len(y), min(len(x), len(y)) // m, m, x.shape[1], described.name, floor, floor_stderr
    )


def _mean_mmd(x: Tensor, y: Tensor, m: int) -> tuple[float, float]:
    """The mean of `squared_mmd` over disjoint subsets of m, and its standard error."""
    count = min(len(x), len(y)) // m
    values = torch.stack([squared_mmd(x[k * m : (k + 1) * m], y[k * m : (k + 1) * m]) for k in range(count)])
    return float(values.mean()), float(values.std()) / math.sqrt(count)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j) of `(n, d)` and `(m, d)`, k(a, b) = (a.b/d + 1)^3."""

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_others(a: Tensor) -> Tensor:
        gram = k(a, a)
        return (gram.sum() - gram.diagonal().sum()) / (len(a) * (len(a) - 1))

    return mean_of_others(x) + mean_of_others(y) - 2 * k(x, y).mean()
