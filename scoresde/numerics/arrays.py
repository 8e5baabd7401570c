"""Coefficients in float64, cast when they multiply a state; and sums over the coordinates of an event."""

from __future__ import annotations

import torch
from torch import Tensor

Time = float | Tensor


def as_float64(value: Time) -> Tensor:
    """A float64 tensor on the value's own device (on the CPU where the device has no float64)."""
    if isinstance(value, Tensor) and value.device.type == "mps":
        value = value.cpu()
    return torch.as_tensor(value, dtype=torch.float64)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without a wait where that is safe: a copy to the CPU must be complete before it is read."""
    return tensor.to(device, non_blocking=device.type != "cpu")


def expand(coefficient: Tensor, z: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A scalar or `(B,)` float64 coefficient, cast last and shaped to multiply `z` of shape `(B, *event)`.

    Raises:
        ValueError: `coefficient` is neither a scalar nor one number for each sample of `z`.
    """
    if coefficient.ndim and coefficient.shape != z.shape[:1]:
        raise ValueError(
            f"a time must be a scalar or have shape (B,): got {tuple(coefficient.shape)} for a batch of shape {tuple(z.shape)}"
        )
    coefficient = to_device(coefficient.to(dtype=dtype or z.dtype), z.device)
    return coefficient.reshape(coefficient.shape + (1,) * (z.ndim - 1)) if coefficient.ndim else coefficient


def event_sum(a: Tensor) -> Tensor:
    """The sum over the coordinates of each event of `(B, *event)`, `(B,)`. `event_sum(a * b)` is the inner product."""
    return a.reshape(len(a), -1).sum(1)


def event_mean(a: Tensor) -> Tensor:
    """The mean over the coordinates of each event of `(B, *event)`, `(B,)`."""
    return a.reshape(len(a), -1).mean(1)
