"""Sources made of sources: some of the samples, or the samples and their mirror images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.inputs import as_count
from .order import Feistel, permutation
from .source import DataError, Source, hashed


class Part:
    """Some samples of a source, in a given order.

    Args:
        source: the whole.
        indices: `(M,)` int64; a range, or a permutation without a table, which take no memory.

    Raises:
        ValueError: no indices, or an index outside 0..n-1.
    """

    def __init__(self, source: Source, indices: Tensor | range | Feistel) -> None:
        self.source = source
        self.indices = indices.cpu() if isinstance(indices, Tensor) else indices
        if len(indices) == 0:
            raise ValueError("a part needs at least one index")
        low, high = _ends(self.indices)
        if low < 0 or high >= len(source):
            raise ValueError(f"indices must lie in 0..{len(source) - 1}, got {low if low < 0 else high}")
        self.classes: int | None = getattr(source, "classes", None)
        self.bins: int | None = getattr(source, "bins", None)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(self.indices, range):
            return self.source.batch(self.indices.start + self.indices.step * indices)
        return self.source.batch(self.indices[indices])

    def fingerprint(self) -> str:
        chosen = self.indices.long().numpy().tobytes() if isinstance(self.indices, Tensor) else repr(self.indices)
        return f"{len(self)} of {self.source.fingerprint()}, {hashed(chosen)}"


def _ends(indices: Tensor | range | Feistel) -> tuple[int, int]:
    """The smallest and the largest index."""
    if isinstance(indices, Feistel):
        return 0, len(indices) - 1
    if isinstance(indices, range):
        return min(indices[0], indices[-1]), max(indices[0], indices[-1])
    return int(indices.min()), int(indices.max())


class Mirrored:
    """2n samples: those of a source, and then each of them flipped left to right, which is along the last axis.

    Args:
        source: images, `(n, ..., height, width)`.

    Raises:
        ValueError: the samples have fewer than two axes.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        event = tuple(source.batch(torch.zeros(1, dtype=torch.int64, device="cpu"))[0].shape[1:])
        if len(event) < 2:
            raise ValueError(f"only images can be mirrored, (..., height, width), got samples of shape {event}")
        self.classes: int | None = getattr(source, "classes", None)
        self.bins: int | None = getattr(source, "bins", None)

    def __len__(self) -> int:
        return 2 * len(self.source)

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        n = len(self.source)
        x, cond = self.source.batch(indices % n)
        flipped = (indices >= n).to(x.device).view(-1, *[1] * (x.ndim - 1))
        return torch.where(flipped, x.flip(-1), x), cond

    def fingerprint(self) -> str:
        return f"mirrored {self.source.fingerprint()}"


class Unconditional:
    """The samples of a source without their conditions."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.classes: int | None = None
        self.bins: int | None = getattr(source, "bins", None)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.source.batch(indices)[0], {}

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} without conditions"


def split(source: Source, held_out: int, seed: int = 0) -> tuple[Part, Part]:
    """(training, held-out) parts after a seeded shuffle: up to `order.TABLE` samples those of `Data.split`, above in memory O(1).

    Raises:
        DataError: `held_out` is below 1, or leaves nothing to train on.
    """
    n = len(source)
    if not 0 < as_count("held_out", held_out, -math.inf) < n:
        raise DataError(f"held_out={held_out}: cannot hold out {held_out} of {n} samples")
    shuffled = Part(source, permutation(n, seed))
    return Part(shuffled, range(held_out, n)), Part(shuffled, range(held_out))
