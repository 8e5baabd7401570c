"""What a trainer reads: samples by their indices, with their conditions."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from ..numerics.files import digest
from ..numerics.random import global_seed

# How many rows a fingerprint reads.
SAMPLED = 16


class DataError(Exception):
    """A data set is missing or cannot be read. The message says what to do."""


class Source(Protocol):
    """Samples 0..n-1. The same index gives the same sample, in every process.

    A source may also have `classes`, the number of classes of the condition `label`, and `bins`, the number of levels of quantised values from
    -1 to 1, as `Data` has them.
    """

    def __len__(self) -> int:
        """The number n of samples."""
        ...

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Some samples `(B, *event)`, floating point, and their conditions, each `(B, ...)`.

        Args:
            indices: `(B,)` int64 on the CPU, in any order.

        Raises:
            DataError: a sample cannot be read; names the file or the row.
        """
        ...

    def fingerprint(self) -> str:
        """What identifies the data: a training run goes on with data of the same fingerprint only. Large data are not read as a whole."""
        ...


def spread(n: int) -> Tensor:
    """Up to `SAMPLED` indices, evenly spaced from the first to the last of n."""
    k = min(SAMPLED, n)
    return torch.arange(k, device="cpu") * (n - 1) // max(k - 1, 1)


def sampled_fingerprint(source: Source) -> str:
    """The number of samples, and a hash of some of them. A transform that draws from torch's global state draws from one seed here."""
    with global_seed(0):
        x, cond = source.batch(spread(len(source)))
    return f"{len(source)} samples {tuple(x.shape[1:])} {hashed(digest(named(x, cond)))}"


def named(x: Tensor, cond: dict[str, Tensor]) -> dict[str, Tensor]:
    """Samples and their conditions under names of their own."""
    return {"x": x, **{f"cond/{name}": value for name, value in cond.items()}}


def hashed(*parts: Any) -> str:
    """16 hexadecimal digits of the texts and bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part if isinstance(part, bytes) else f"{part}\n".encode())
    return found.hexdigest()
