"""The classes of samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Of a sample without a class. An index of an embedding would be taken for a class by those who count from 1.
NO_LABEL = -1


def as_labels(name: str, values: Any, classes: int | None = None, count: int | None = None, *, least: int = 0) -> Tensor:
    """The classes of samples, `(count,)` integers 0..classes-1: a tensor as it is, an array or a list as a tensor.

    The values of a tensor on a GPU are not checked: the host would have to wait for them.

    Args:
        name: of the argument, for messages.
        values: the classes.
        classes: how many there are; None if unknown.
        count: how many samples there are; None if unknown.
        least: the smallest class, -1 where samples may have none.

    Raises:
        TypeError: no numbers.
        ValueError: another dtype or shape, or a class outside least..classes-1.
    """
    try:
        labels = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a tensor of integers, got a {type(values).__name__}") from None
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} holds {labels.dtype}: give integers, such as {name}.long()")
    if labels.ndim != 1 or (count is not None and count != labels.shape[0]):
        wanted = "one axis" if count is None else f"{count} entries, one a sample"
        raise ValueError(f"{name} must have {wanted}, got shape {tuple(labels.shape)}")
    if not torch.compiler.is_compiling() and labels.device.type == "cpu" and len(labels):
        low, high = _range(labels)
        if low < least or (classes is not None and high >= classes):
            wanted = "count from 0" if classes is None else f"lie in 0..{classes - 1}"
            raise ValueError(f"{name} must {wanted}, got {low if low < least else high}")
    return labels


def null_label(module: nn.Module) -> int | None:
    """The label that means none to a network, or to the one inside a wrapper: the integer attribute `null` of a module; None without one."""
    nulls = (getattr(m, "null", None) for m in module.modules())
    return next((null for null in nulls if isinstance(null, int)), None)


def _range(labels: Tensor) -> tuple[int, int]:
    """The smallest and the largest class; (0, 0) inside `torch.func.vmap`, which hides them."""
    try:
        low, high = labels.aminmax()
        return int(low), int(high)
    except RuntimeError:
        return 0, 0
