"""Parts of a batch, and the conditions that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Index = Tensor | slice | None


def batches(count: int, size: int | None) -> list[slice]:
    """0..count-1 in consecutive slices of at most `size`; one slice where `size` is None, and for an empty batch.

    Raises:
        ValueError: `size` is below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    step = min(size or count, count) or 1
    return [slice(first, min(first + step, count)) for first in range(0, count, step)] or [slice(0, 0)]


def index_cond(cond: dict[str, object], index: Index, count: int) -> dict[str, object]:
    """The conditions of some samples of a batch of `count`.

    A tensor or an array whose first dimension is the batch has one row a sample and is indexed, also inside dicts, lists and tuples. All else
    is passed as it is. None and the slice of all samples pass `cond` itself.

    Args:
        index: indices of the samples (on the CPU), or a slice.
    """
    if index is None or (isinstance(index, slice) and index.indices(count) == (0, count, 1)):
        return cond

    def rows(value: Any) -> Any:
        if getattr(value, "shape", ())[:1] != (count,):
            return value
        if isinstance(index, slice):
            return value[index]
        return value[index.to(value.device) if isinstance(value, Tensor) else index.numpy()]

    return {name: tree_map(rows, value) for name, value in cond.items()}


def cond_to_device(cond: Mapping[str, object], device: torch.device) -> dict[str, Any]:
    """The conditions with their tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in cond.items()}


def subset_or_none(active: Tensor, count: int) -> Tensor | None:
    """`active`, or None where these are all of the `count` samples: then nothing needs to be indexed."""
    return None if len(active) == count else active


def indices(part: slice) -> Tensor:
    """The indices of a slice."""
    return torch.arange(part.start, part.stop, device="cpu")
